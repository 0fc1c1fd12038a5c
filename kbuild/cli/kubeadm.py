"""``kbuild kubeadm``: build and prove kubeadm from a tag and two lifetimes."""

import contextlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence

import typer
from rich.table import Table

from kbuild.base.values import day
from kbuild.base.workspace import open_workspace
from kbuild.cli.boundary import begin
from kbuild.cli.cache import cache_within_limit
from kbuild.cli.console import Screen, plain_table
from kbuild.cli.options import command_app, takes
from kbuild.kubeadm.api import from_bundle
from kbuild.kubeadm.model import BuildRequest, IssuedCertificate, Proof, Published
from kbuild.pipeline import Plan, plan, run
from kbuild.release.api import (
    SUM_SUFFIX,
    Release,
    commit_notes,
    go_document,
    proof_document,
    source_document,
)
from kbuild.settings import Settings

_STORED = {
    "override": "each with the lifetimes asked for",
    "keep": "each with stock's lifetimes",
}

app = command_app()


@app.command()
@takes(Settings)
def kubeadm(ctx: typer.Context) -> None:
    """Build kubeadm with other certificate lifetimes, and prove it."""
    settings, screen = begin(ctx, Settings)
    requests = settings.requests(os.environ)
    if settings.dry_run:
        with _inputs(settings, requests, screen) as found:
            plans = plan(found, settings.cache_dir, screen)
        documents = [_plan_document(planned) for planned in plans]
        lines = [line for planned in plans for line in _plan_lines(planned)]
        screen.result(_one_or_all(documents, requests), lines)
        return
    with cache_within_limit(settings, screen):
        with _inputs(settings, requests, screen) as found:
            releases = run(found, settings.cache_dir, screen)
        documents = [_document(release) for release in releases]
        # Before the cache is measured, which may take long.
        screen.result(
            _one_or_all(documents, requests),
            [line for release in releases for line in _lines(release)],
        )


@contextlib.contextmanager
def _inputs(
    settings: Settings, requests: tuple[BuildRequest, ...], screen: Screen
) -> Iterator[tuple[BuildRequest, ...]]:
    """Give the requests for what is in the bundle, if there is one; it is here for the block."""
    if settings.bundle is None:
        yield requests
        return
    with open_workspace(settings.cache_dir) as workspace:
        yield from_bundle(settings.bundle, settings.bundle_sha256, requests, workspace, screen)


def _one_or_all(
    documents: list[dict[str, object]], requests: Sequence[BuildRequest]
) -> dict[str, object]:
    return documents[0] if len(requests) == 1 else {"releases": documents}


def certificate_table(proof: Proof) -> Table:
    """Return a table with a row for each certificate: its days when issued and when renewed.

    80 columns are enough for it; the times are in the JSON output.
    """
    table = plain_table("certificate", "kind", "years", "NotAfter", "renewed")
    fresh = {(c.path, c.moment): c for c in proof.certificates if c.case == "fresh-ca"}
    for (path, moment), issued in fresh.items():
        if moment == "issued":
            renewed = fresh.get((path, "renewed"))
            table.add_row(
                path, issued.kind, str(issued.years), _date(issued), _date(renewed) or "not renewed"
            )
    return table


def proof_lines(proof: Proof) -> Iterator[str | Table]:
    """Yield the lines of a proof for the terminal."""
    if proof.ran is None:
        yield f"{proof.arch}: static checks only; no certificate was checked (qemu-user is missing)"
        return
    count = Counter(certificate.case for certificate in proof.certificates)
    yield certificate_table(proof)
    yield f"With a CA three years old: {count['old-ca']} more, issued and renewed, each date right."
    if proof.stored_defaults is not None:
        defaults, values = count["stored-defaults"], count["stored-values"]
        what = _STORED[proof.stored_defaults]
        yield f"With stock's defaults stored in the configuration: {defaults} more, {what}."
        yield f"With other values stored there: {values} more, each with these values."


def _date(certificate: IssuedCertificate | None) -> str:
    return day(certificate.not_after) if certificate else ""


def _lines(release: Release) -> Iterator[str | Table]:
    for proof in release.proofs:
        yield f"{release.tree.source.tag} {proof.arch} sha256:{proof.sha256}"
        yield from proof_lines(proof)
        yield from stock_lines(proof)
    if release.unchanged:
        date = release.proofs[0].version.get("buildDate", "the last time")
        if release.written:
            yield f"The binary was compiled at {date} by an earlier run and proven again."
        else:
            yield f"Nothing changed since {date}: this is the same binary, proven again."
            yield f"{release.folder} is unchanged and contains the proof of the earlier run."
    yield from (f"Note: {note}" for note in commit_notes(release.tree.source))
    if note := release.tree.note:
        yield f"Note: {note}"
    names = [name for name in release.files if not name.endswith(SUM_SUFFIX)]
    yield f"{release.folder}: {' '.join(names)} and the {SUM_SUFFIX} files"


def stock_lines(proof: Proof) -> Iterator[str]:
    """Yield the lines that compare a binary with the official or the stock one."""
    if proof.published is not None:
        yield f"{proof.arch}: identical to {proof.published.url}"
        yield f"{proof.arch}: {_worth(proof.published)}"
    if (difference := proof.against_stock) is not None and not difference.functions:
        yield f"{proof.arch}: nothing differs from the stock kubeadm, which has the same lifetimes"
    elif difference is not None:
        yield f"{proof.arch}: only these differ from the stock kubeadm, and each holds a lifetime:"
        yield from (f"  {function}" for function in difference.functions)


def _worth(published: Published) -> str:
    if published.signer is None:
        return "no signature was verified: the checksum comes from the same site as the binary"
    return f"signed by {published.signer}; no transparency log was checked"


def _document(release: Release) -> dict[str, object]:
    return {
        "folder": str(release.folder),
        "files": list(release.files),
        "source": source_document(release.tree),
        "go": go_document(release.tree),
        "binaries": [proof_document(proof) for proof in release.proofs],
        "stored_defaults": release.tree.stored_defaults,
        "note": release.tree.note,
        "unchanged": release.unchanged,
    }


def _plan_document(planned: Plan) -> dict[str, object]:
    request = planned.request
    return {
        "dry_run": True,
        "tag": planned.tag.name,
        "commit": planned.tag.commit,
        "series": [series.name for series in planned.series],
        "ca_years": request.lifetimes.ca_years,
        "leaf_years": request.lifetimes.leaf_years,
        "stored_defaults": request.stored_defaults
        if any(series.stored_defaults for series in planned.series)
        else None,
        "arches": list(request.arches),
        "builder": planned.builder,
        "go": planned.examined.go,
        "go_root": planned.examined.go_root,
        "patches": planned.examined.patches,
        "output": str(planned.output),
        "notes": _plan_notes(planned),
        "not_examined": list(planned.examined.left_out),
    }


def _plan_notes(planned: Plan) -> list[str]:
    tree = planned.examined.tree
    return [] if tree is None else list(commit_notes(tree))


def _plan_lines(planned: Plan) -> Iterator[str]:
    document, examined = _plan_document(planned), planned.examined
    go = examined.go or "the version that the tag pins, known after the fetch"
    if examined.pin is not None:
        is_pinned = examined.go == examined.pin.version
        go += f", pinned in {', '.join(examined.pin.files)}" if is_pinned else " as requested"
    yield "Dry run: nothing is built."
    for name in ("dry_run", "notes", "not_examined"):
        del document[name]
    for name in ("go_root", "patches"):
        if not document[name]:
            del document[name]
    if document["stored_defaults"] is None:  # it means nothing for this version
        del document["stored_defaults"]
    for name, value in {**document, "go": go}.items():
        text = ", ".join(value) if isinstance(value, list | tuple) else value
        if name == "series" and planned.request.stock:
            text = "none: a stock build is not patched"
        elif name == "series":
            text = ", ".join(f"{each.name} ({each.about})" for each in planned.series)
        label = "patch series" if name == "series" else name.replace("_", " ")
        yield f"{label:15} {text}"
    if planned.examined.patches:
        yield "The patches fit."
    yield from (f"Note: {note}" for note in _plan_notes(planned))
    if examined.left_out:
        yield f"Not examined: {', '.join(examined.left_out)}."
