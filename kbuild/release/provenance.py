"""provenance.json: an in-toto Statement v1 whose predicate is SLSA provenance v1.

    subject                every file of the release but this one and the sums, by sha256 and sha512
    externalParameters     everything that was asked for
    internalParameters     the builder that was chosen, and the Go command of each architecture
    resolvedDependencies   source, toolchain and each patch as rendered, by digest

docs/build-type-v2.md describes each of them for users: BUILD_TYPE is its address. Change both
together, and give the build type a new number when a reader of the old one would be misled.

Sources: https://in-toto.io/Statement/v1, https://slsa.dev/spec/v1.0/provenance.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from kbuild import HOME
from kbuild.base.addresses import is_local, recorded
from kbuild.base.files import BROKEN, read_file, reason_of
from kbuild.base.strictjson import load_json
from kbuild.base.values import rfc3339
from kbuild.kubeadm.api import digest_of
from kbuild.kubeadm.model import Binary, BuildRequest, SourceTree
from kbuild.release.builder import builder_id, invocation_id, versions
from kbuild.release.documents import request_document
from kbuild.release.errors import BadProvenance
from kbuild.release.files import MAX_DOCUMENT
from kbuild.release.recorded import demand_dependencies, demand_request, demand_subjects

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = f"{HOME}/blob/main/docs/build-type-v2.md"
_SCP = re.compile(r"(?P<host>([^@]*@)?(\[[^\]]*\]|[^:\[]*)):(?P<path>.*)")  # git's host:path
_OLD_BUILD_TYPE = "urn:kbuild:kubeadm:v1"

Document = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A provenance as read: its subjects' sha256 by name, and what it says of the build."""

    subjects: Mapping[str, Mapping[str, str]]
    asked: Document
    dependencies: Mapping[str, Document]
    commands: Mapping[str, list[str]]
    kbuild: str

    @property
    def commit_proof(self) -> str:
        """Return how the commit is known: git-object, compared or archive-claim."""
        return str(self.dependencies["source"]["annotations"]["commitProof"])

    @property
    def bundle(self) -> str | None:
        """Return the sha256 of the bundle that the source was read from, None if there is none."""
        found = self.dependencies["source"]["annotations"].get("bundle")
        return None if found is None else str(found)

    @property
    def commit(self) -> str:
        """Return the commit of the source, whether it was verified or only claimed.

        Raises KeyError.
        """
        source = self.dependencies["source"]
        if "gitCommit" in source["digest"]:
            return str(source["digest"]["gitCommit"])
        return str(source["annotations"]["claimedCommit"])


def provenance(
    binaries: Sequence[Binary],
    request: BuildRequest,
    digests: Mapping[str, Mapping[str, str]],
    seconds: float,
) -> Document:
    """Return the statement about the files of those digests; the build took so many seconds."""
    began, ended = _compiled(binaries, seconds)
    tree = binaries[0].tree
    asked = {**request_document(request, binaries[0].stamp.build_date), "version": tree.source.tag}
    return {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {**digests[name]}} for name in sorted(digests)],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {**asked, "requested_version": request.version},
                "internalParameters": {
                    "builder": tree.toolchain.builder,
                    "commands": {binary.arch: list(binary.command) for binary in binaries},
                },
                "resolvedDependencies": list(dependencies(binaries[0])),
            },
            "runDetails": {
                "builder": {
                    "id": builder_id(os.environ),
                    "version": versions(tree.toolchain.builder),
                },
                "metadata": {
                    "invocationId": invocation_id(os.environ),
                    "startedOn": rfc3339(began),
                    "finishedOn": rfc3339(ended),
                },
            },
        },
    }


def _compiled(binaries: Sequence[Binary], seconds: float) -> tuple[datetime, datetime]:
    """Return when the build began and ended: of kept binaries, the build that made them."""
    kept = [binary.compiled for binary in binaries if binary.compiled is not None]
    if kept:
        return min(began for began, _ in kept), max(ended for _, ended in kept)
    ended = datetime.now(UTC)
    return ended - timedelta(seconds=seconds), ended


def dependencies(binary: Binary) -> Iterator[Document]:
    """Yield a resource descriptor of each thing that the binary was made from."""
    tree = binary.tree
    source, toolchain = tree.source, tree.toolchain
    yield _source(source)
    go = {"version": toolchain.go_version, "pin": toolchain.pin.version}
    if toolchain.image is not None:
        name, _, image_digest = toolchain.image.partition("@sha256:")
        yield {
            "name": "go",
            "uri": f"pkg:docker/{name}@sha256%3A{image_digest}",
            "digest": {"sha256": image_digest},
            "annotations": {**go, "image": toolchain.image},
        }
    elif toolchain.go_root is not None:
        yield {
            "name": "go",
            "uri": f"pkg:generic/go@{toolchain.go_version}",
            "digest": {"sha256": digest_of(toolchain.go_root)},
            "annotations": go,
        }
    for patch in tree.patches:
        yield {"name": f"patches/{patch.name}", "digest": {"sha256": patch.sha256}}


def _source(source: SourceTree) -> Document:
    # A digest is what was verified; what only the archive says of itself is an annotation.
    digest = {"gitCommit": source.commit} if source.commit_verified else {}
    annotations: Document = {"commitProof": source.commit_proof}
    if not source.commit_verified:
        annotations["claimedCommit"] = source.commit
    if source.sha256 is not None:
        digest["sha256"] = source.sha256
        annotations["sha256Demanded"] = source.sha256_demanded
    if source.bundle is not None:
        annotations["bundle"] = source.bundle
    origin = recorded(source.origin)
    if is_local(origin):  # nobody else can resolve it
        annotations["origin"] = origin
        return {"name": "source", "digest": digest, "annotations": annotations}
    uri = origin if source.sha256 is not None else git_location(origin, source.tag)
    return {"name": "source", "uri": uri, "digest": digest, "annotations": annotations}


def git_location(address: str, tag: str) -> str:
    """Return where a tag is to be had, as SPDX writes it: ``git+URL@REF``.

    Source: https://spdx.github.io/spdx-spec/v2.3/package-information/#77-package-download-location-field
    """
    if "://" not in address and (scp := _SCP.fullmatch(address)):
        address = f"ssh://{scp['host']}/{scp['path'].lstrip('/')}"
    return f"git+{address}@refs/tags/{tag}"


def read_provenance(path: Path) -> Statement:
    """Read a provenance.json of ours; raises BadProvenance."""
    try:
        return parse_provenance(read_file(path, MAX_DOCUMENT))
    except (OSError, *BROKEN) as error:
        raise BadProvenance(path=path, reason=reason_of(error)) from error


def parse_provenance(text: bytes) -> Statement:
    """Parse a provenance.json; raises one of BROKEN."""
    document = load_json(text)
    definition = document["predicate"]["buildDefinition"]
    if definition["buildType"] == _OLD_BUILD_TYPE:
        message = (
            f"its build type is {_OLD_BUILD_TYPE}: read it with the older kbuild that wrote it"
        )
        raise ValueError(message)
    kinds = document["_type"], document["predicateType"], definition["buildType"]
    if kinds != (STATEMENT, PREDICATE, BUILD_TYPE):
        message = f"it is a document of another kind: {', '.join(map(str, kinds))}"
        raise ValueError(message)
    subjects = [(each["name"], dict(each["digest"])) for each in document["subject"]]
    if len(dict(subjects)) != len(subjects):
        message = "it names a subject twice"
        raise ValueError(message)
    asked, dependencies = definition["externalParameters"], definition["resolvedDependencies"]
    demand_request(asked)
    demand_dependencies(dependencies, asked)
    demand_subjects(dict(subjects))
    return Statement(
        subjects=dict(subjects),
        asked=dict(asked),
        dependencies={each["name"]: each for each in dependencies},
        commands=dict(definition["internalParameters"]["commands"]),
        kbuild=str(document["predicate"]["runDetails"]["builder"]["version"]["kbuild"]),
    )
