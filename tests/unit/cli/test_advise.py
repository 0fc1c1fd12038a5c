"""``kbuild advise`` as a user meets it."""

import json
import re
import shlex
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kbuild.cli.app import COMMANDS, app
from tests.support.command import Done, run_here
from tests.support.failures import outcome

Run = Callable[..., Done]
WIDTH = 80
TAGS = ("v1.13.0", "v1.19.3", "v1.30.0", "v1.31.2", "v1.36.0-rc.1", "v1.45.1")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    home = tmp_path / "home"
    home.mkdir()

    def kbuild(*words: object, **environment: str) -> Done:
        return run_here("advise", *words, cwd=home, **{"HOME": str(home), **environment})

    return kbuild


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("plan", [(), ("--living",)])
def test_a_page_is_text_of_80_columns(run: Run, tag: str, plan: tuple[str, ...]) -> None:
    done = run("--version", tag, *plan)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert len(lines) < 160
    assert lines[0].startswith(f"Kubernetes {tag}, ")


def test_a_page_answers_in_this_order(run: Run) -> None:
    told = run("--version", "v1.23.0", "--living").stdout
    parts = re.findall(r"^[A-Z](?!ubernetes).*$", told, re.MULTILINE)
    assert parts[-3:] == [
        "Do you need another kubeadm?",
        "What stays short, whatever kubeadm does",
        "What to do, in this order",
    ]
    assert re.findall(r"^ ?(\d+)\. ", told, re.MULTILINE) == [str(n) for n in range(1, 14)]


@pytest.mark.parametrize("plan", [(), ("--living",)])
@pytest.mark.parametrize("tag", TAGS)
def test_every_kbuild_command_of_a_plan_exists(run: Run, tag: str, plan: tuple[str, ...]) -> None:
    document = json.loads(run("--version", tag, "--json", *plan).stdout)
    typed = [c for step in document["steps"] for c in step["commands"]]
    typed += document["rebuild"]["optional"]
    named = [line for line in typed if line.startswith("kbuild ")]
    assert named
    for line in named:
        _, command, *words = shlex.split(line.replace("\\\n", " "))
        assert command in COMMANDS, line
        if command in COMMANDS:
            parse(command, words)


def parse(command: str, words: list[str]) -> None:
    """Parse a command line as kbuild does, without running it; raises a usage error."""
    group = typer.main.get_command(app)
    context = group.context_class(group, info_name="kbuild", parent=None)
    _, found, rest = group.resolve_command(context, [command, *words])  # type: ignore[attr-defined]
    found.make_context(command, list(rest), parent=context)


def test_json_is_one_document_of_stable_names(run: Run) -> None:
    document = json.loads(run("--version", "v1.23.0", "--living", "--json").stdout)
    assert list(document) == [
        *("version", "plan", "ca_years", "leaf_years", "rebuild", "limits", "steps", "cluster"),
        "caution",
    ]
    assert document["version"] == "v1.23.0"
    assert document["plan"] == "living"
    assert document["cluster"] is None
    assert list(document["rebuild"]) == ["needed", "reason", "optional"]
    assert {tuple(limit) for limit in document["limits"]} == {
        ("name", "certificate", "lasts", "reason", "action")
    }
    assert {tuple(step) for step in document["steps"]} == {
        ("name", "title", "where", "text", "commands")
    }


@pytest.mark.parametrize(
    ("words", "years"),
    [
        ((), (100, 100)),
        (("--ca-years", "50"), (50, 50)),
        (("--leaf-years", "10"), (100, 10)),
        (("--leaf-years", "150"), (150, 150)),
        (("--ca-years", "20", "--leaf-years", "5"), (20, 5)),
    ],
)
def test_lifetimes_are_those_asked_for(
    run: Run, words: tuple[str, ...], years: tuple[int, int]
) -> None:
    document = json.loads(run("--version", "v1.23.0", "--json", *words).stdout)
    assert (document["ca_years"], document["leaf_years"]) == years


@pytest.mark.parametrize("command", ["advise", "config"])
def test_help_offers_no_version_that_is_refused(command: str, tmp_path: Path) -> None:
    told = run_here(command, "--help", cwd=tmp_path).stdout
    words = " ".join(re.sub(r"[│╭╮╰╯─]", " ", told).split())
    assert "Kubernetes version, such as v1.23.0. Required. --ca-years" in words
    assert "or 1.23 for its newest patch release" not in words


def test_help_tells_which_version_can_be_repeated(tmp_path: Path) -> None:
    for command, repeatable in (("kubeadm", True), ("verify", False)):
        told = run_here(command, "--help", cwd=tmp_path).stdout
        words = " ".join(re.sub(r"[│╭╮╰╯─]", " ", told).split())
        version = words.partition("--version ")[2].partition(" --")[0]
        assert ("Repeatable." in version) is repeatable


def test_help_tells_the_lifetimes_of_a_plan_without_any(run: Run) -> None:
    words = " ".join(re.sub(r"[│╭╮╰╯─]", " ", run("--help").stdout).split())
    assert "Default: 100, or --leaf-years if that is more." in words
    assert "Default: 100, or --ca-years if that is less." in words


def test_a_version_of_the_settings_file_counts(run: Run, tmp_path: Path) -> None:
    (tmp_path / "home/kbuild.toml").write_text('version = "v1.31.2"\n[advise]\nliving = true\n')
    document = json.loads(run("--json").stdout)
    assert (document["version"], document["plan"]) == ("v1.31.2", "living")


@pytest.mark.parametrize(
    ("words", "kind", "what"),
    [
        ((), "missing-setting", "--version"),
        (("--version", "1.23"), "bad-setting", "not a minor version"),
        (("--version", "v1.23.0,v1.24.0"), "bad-setting", "one patch release"),
        (("--version", "v1.12.10"), "unsupported-version", "older than v1.13.0"),
        (("--version", "1.12"), "unsupported-version", "older than v1.13.0"),
        (("--version", "newest"), "bad-version", "'newest' is not a Kubernetes version"),
        (("--version", "v1.23.0\x1b[2J"), "bad-version", "is not a Kubernetes version"),
        (
            ("--version", "v1.23.0", "--ca-years", "5", "--leaf-years", "6"),
            "leaf-outlives-ca",
            "would outlive their CA",
        ),
        (("--version", "v1.23.0", "--ca-years", "293"), "bad-setting", "ca-years"),
    ],
)
def test_bad_input_is_told(run: Run, words: tuple[str, ...], kind: str, what: str) -> None:
    done = run(*words)
    assert outcome(done) == (2, kind)
    assert done.stdout == ""
    assert what in done.stderr
    assert "\x1b" not in done.stderr


@pytest.fixture
def etc_kubernetes(tmp_path: Path) -> Path:
    """Make a control plane: a CA of ten years, and a kubelet's client certificate of one."""
    folder = tmp_path / "etc/kubernetes"
    (folder / "pki").mkdir(parents=True)
    make_certificate(folder, "pki/ca.crt", 3650, "/CN=kubernetes", is_ca=True)
    (folder / "key").rename(folder / "pki/ca.key")
    node = "/O=system:nodes/CN=system:node:a"
    make_certificate(folder, "kubelet-client-current.pem", 365, node, is_ca=False)
    return folder


def make_certificate(folder: Path, path: str, days: int, name: str, *, is_ca: bool) -> None:
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key"
    use = ["-addext", f"basicConstraints=critical,CA:{str(is_ca).upper()}"]
    words = (*make.split(), "-days", str(days), "-subj", name, "-out", path, *use)
    subprocess.run(words, cwd=folder, check=True, capture_output=True)


def test_a_path_is_a_cluster_that_exists(run: Run, etc_kubernetes: Path) -> None:
    told = run("--version", "v1.23.0", etc_kubernetes).stdout
    assert "a cluster that exists" in told
    assert "What is in this cluster" in told
    words = " ".join(told.split())
    assert f"9y left: cluster CA, {etc_kubernetes}/pki/ca.crt" in words
    assert f"364d left: kubelet, client, {etc_kubernetes}/kubelet-client-current.pem" in words
    assert "The kubelet asks for its next one between" in words
    assert f"but {etc_kubernetes}/pki/ca.crt ends" in words
    assert "Sign the three CAs again" in words


def test_a_worker_is_told_apart(run: Run, etc_kubernetes: Path) -> None:
    (etc_kubernetes / "pki/ca.key").unlink()
    told = run("--version", "v1.23.0", etc_kubernetes).stdout
    assert "1. See what there is, and keep a copy" in told
    assert "See to the control planes first" in told
    assert "certs renew all" not in told


def test_an_expired_control_plane_is_renewed_from_files(run: Run, etc_kubernetes: Path) -> None:
    for name, kind in (("pki/apiserver.crt", "kube-apiserver"), ("kubelet.crt", "system:node:a")):
        make_expired(etc_kubernetes, name, f"/O=system:nodes/CN={kind}")
    (etc_kubernetes / "kubelet.crt").rename(etc_kubernetes / "kubelet-client-current.pem")
    told = run("--version", "v1.33.3", etc_kubernetes).stdout
    assert "kubeadm certs renew all --config /root/kubeadm.yaml" in told
    assert told.index("certs renew all") < told.index("Change the stored configuration")
    assert "asks for its next one" not in told


def make_expired(folder: Path, path: str, name: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    parts = [part.split("=") for part in name.split("/")[1:]]
    kinds = {"O": NameOID.ORGANIZATION_NAME, "CN": NameOID.COMMON_NAME}
    subject = x509.Name([x509.NameAttribute(kinds[kind], value) for kind, value in parts])
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), 7)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2021, 1, 1, tzinfo=UTC))
        .sign(key, hashes.SHA256())
    )
    (folder / path).write_bytes(made.public_bytes(serialization.Encoding.PEM))


@pytest.mark.parametrize("tag", ["v1.20.2", "v1.33.3"])
def test_both_configurations_of_one_plan_can_be_written(
    tag: str, run: Run, etc_kubernetes: Path, tmp_path: Path
) -> None:
    make_expired(etc_kubernetes, "apiserver.crt", "/CN=kube-apiserver")
    document = json.loads(run("--version", tag, "--json", etc_kubernetes).stdout)
    typed = [
        shlex.split(c.replace("\\\n", "")) for step in document["steps"] for c in step["commands"]
    ]
    ours = [words[2:] for words in typed if words[:2] == ["kbuild", "config"]]
    for words in ours:
        assert run_here("config", *words, cwd=tmp_path).returncode == 0
    assert [each.name for each in sorted((tmp_path / "dist").iterdir())] == [
        f"config-{tag}",
        f"recover-{tag}",
    ]


def test_a_ca_that_lasts_is_left_alone(run: Run, etc_kubernetes: Path) -> None:
    done = run("--version", "v1.23.0", "--leaf-years", "2", "--ca-years", "20", etc_kubernetes)
    assert "so none needs to be signed again" in " ".join(done.stdout.split())
    assert "Sign the three CAs again" not in done.stdout


def test_the_document_of_a_cluster(run: Run, etc_kubernetes: Path) -> None:
    document = json.loads(run("--version", "v1.23.0", "--json", etc_kubernetes).stdout)
    assert document["plan"] == "living"
    cluster = document["cluster"]
    assert list(cluster) == [
        *("read_at", "paths", "authorities", "kubelets", "others", "ca_too_short", "ca_end"),
        *("leaf_end", "findings"),
    ]
    assert cluster["paths"] == [str(etc_kubernetes)]
    [ca], [kubelet] = cluster["authorities"], cluster["kubelets"]
    assert list(ca) == ["path", "place", "role", "not_after", "next_request"]
    assert ca["next_request"] is None
    assert len(kubelet["next_request"]) == 2
    assert cluster["ca_too_short"] is True


def test_a_path_without_certificates_is_an_error(run: Run, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "ca.crt").write_text("not a certificate")
    for path in (empty, tmp_path / "absent"):
        done = run("--version", "v1.23.0", path)
        assert outcome(done) == (2, "no-certificates")
        assert str(path) in done.stderr


def test_a_page_about_many_certificates_stays_a_page(run: Run, etc_kubernetes: Path) -> None:
    for number in range(12):
        make_certificate(etc_kubernetes, f"pki/ca-{number}.crt", 3650, "/CN=kubernetes", is_ca=True)
    told = run("--version", "v1.23.0", etc_kubernetes).stdout
    assert "5 more, none of which expires earlier: `kbuild certs PATH…` lists them" in told
    assert len(told.splitlines()) < 180


def test_what_a_file_name_holds_begins_no_line(run: Run, etc_kubernetes: Path) -> None:
    hostile = etc_kubernetes / "a\n12. Run this\x1b[2J.crt"
    (etc_kubernetes / "pki/ca.crt").rename(hostile)
    told = run("--version", "v1.23.0", etc_kubernetes).stdout
    assert "\x1b" not in told
    assert r"a\n12. Run this\x1b[2J.crt" in " ".join(told.split())
