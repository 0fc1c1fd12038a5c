"""`kbuild bundle`, and `kbuild kubeadm --bundle` where nothing else is."""

import errno
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from kbuild.base import sandbox
from kbuild.base.files import sha256
from kbuild.base.sandbox import host_arch
from kbuild.kubeadm.bundle import container, read
from kbuild.kubeadm.bundle.errors import BrokenBundle
from kbuild.kubeadm.toolchain import archives
from tests.support.command import Done, run_here
from tests.support.fake_go import DATE, prove_with_fake, write_go_root
from tests.support.fake_kubeadm import FakeKubeadm
from tests.support.recorder import Recorder
from tests.support.repositories import git, make_repository
from tests.support.trees import content_of

pytestmark = pytest.mark.skipif(
    not sandbox.is_available(), reason="the local builder needs the sandbox"
)

EPOCH = "1767355200"
YEARS = ("--ca-years", "100", "--leaf-years", "10", "--build-date", DATE)


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("upstream") / "kubernetes"
    return folder, make_repository(folder, ("v1.20.1", "v1.20.2"))


@pytest.fixture(scope="module")
def go_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golang") / "go"
    (write_go_root(folder) / "bin/link").symlink_to("go")
    return folder


@pytest.fixture(scope="module")
def made(
    upstream: tuple[Path, dict[str, str]], go_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Give a bundle of two versions, on a machine that has nothing that it was made from."""
    home = tmp_path_factory.mktemp("connected")
    done = bundle(home, upstream[0], go_root, "--version", "v1.20.1")
    assert done.returncode == 0, done.stderr
    return home / "b.tar"


@pytest.fixture
def kubeadm(upstream: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> FakeKubeadm:
    return prove_with_fake(upstream[1]["v1.20.2"], monkeypatch)


def bundle(home: Path, source: Path, go_root: Path, *more: str, output: str = "b.tar") -> Done:
    return run_here(
        *("bundle", "--version", "v1.20.2", "--source", source, "--go-root", go_root),
        *("--output", output, *more),
        cwd=home,
        HOME=str(home),
        SOURCE_DATE_EPOCH=EPOCH,
    )


def build(home: Path, *more: str | Path, version: str = "v1.20.2") -> Done:
    words = ("kubeadm", "--version", version, *YEARS, "--output", "out", *more)
    return run_here(*words, cwd=home, HOME=str(home))


def error_of(done: Done) -> str:
    assert done.returncode != 0
    return done.stderr.rpartition("error[")[2].partition("]")[0]


@pytest.mark.slow
def test_a_build_from_a_bundle_is_the_build_without_it(
    upstream: tuple[Path, dict[str, str]],
    go_root: Path,
    kubeadm: FakeKubeadm,  # noqa: ARG001  # it is run
    tmp_path: Path,
) -> None:
    source, go = (
        shutil.copytree(each, tmp_path / each.name, symlinks=True)
        for each in (upstream[0], go_root)
    )
    (tmp_path / "plain").mkdir()
    (tmp_path / "apart").mkdir()
    plain = build(tmp_path / "plain", "--source", source, "--builder", "local", "--go-root", go)
    assert plain.returncode == 0, plain.stderr
    done = bundle(tmp_path, source, go, "--json")
    assert done.returncode == 0, done.stderr
    for each in (source, go):
        shutil.rmtree(each)
    apart = build(
        tmp_path / "apart",
        "--bundle",
        tmp_path / "b.tar",
        "--builder",
        "local",
        "--bundle-sha256",
        json.loads(done.stdout)["sha256"],
    )
    assert apart.returncode == 0, apart.stderr
    left, right = (content_of(tmp_path / name / "out") for name in ("plain", "apart"))
    told = ("build.json", "proof.json", "provenance.json", "SHA256SUMS", "SHA512SUMS")
    assert left.keys() == right.keys()
    for name in left:
        assert left[name] == right[name] or name.startswith(told), name
    then, now = (json.loads(files["provenance.json"]) for files in (left, right))
    before, after = (each["predicate"]["buildDefinition"] for each in (then, now))
    [source_of, *others] = after["resolvedDependencies"]
    assert source_of["annotations"].pop("bundle") == json.loads(done.stdout)["sha256"]
    assert [source_of, *others] == before["resolvedDependencies"]
    assert after["externalParameters"] == before["externalParameters"]
    assert list((tmp_path / "apart/.cache/kbuild/v1/work").iterdir()) == []
    assert list((tmp_path / "apart/.cache/kbuild/v1/git").iterdir()) == []


@pytest.mark.slow
def test_the_same_inputs_make_the_same_bundle(
    upstream: tuple[Path, dict[str, str]], go_root: Path, made: Path, tmp_path: Path
) -> None:
    done = bundle(tmp_path, upstream[0], go_root, "--version", "v1.20.1")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "b.tar").read_bytes() == made.read_bytes()
    with tarfile.open(made) as tar:
        assert tar.getnames() == ["bundle.json", f"go1.15.5.linux-{host_arch()}.tar", "source"]
        about = json.load(tar.extractfile("bundle.json"))  # type: ignore[arg-type]
    assert about["created"] == "2026-01-02T12:00:00Z"
    assert about["source"] == {
        "address": "local:kubernetes",
        "kind": "git",
        "tags": [{"name": n, "commit": c} for n, c in sorted(upstream[1].items())],
    }


@pytest.mark.slow
def test_a_bundle_of_a_source_archive(
    upstream: tuple[Path, dict[str, str]],
    go_root: Path,
    kubeadm: FakeKubeadm,  # noqa: ARG001  # it is run
    tmp_path: Path,
) -> None:
    archive = tmp_path / "kubernetes.tar.gz"
    version = upstream[0] / "hack/lib/version.sh"
    if not version.exists():
        pytest.skip("the small trees have no hack/lib/version.sh")
    git(upstream[0], "archive", "--output", str(archive), "v1.20.2")
    claim = f"archive claims to be commit {upstream[1]['v1.20.2']}; this is not verified."
    shown = build(tmp_path, "--source", archive, "--builder", "local", "--dry-run").stdout
    assert f"Note: the {claim} To compare" in shown
    as_json = ("--source", archive, "--builder", "local", "--dry-run", "--json")
    [note] = json.loads(build(tmp_path, *as_json).stdout)["notes"]
    assert note.startswith(f"the {claim} To compare")
    told = bundle(tmp_path, archive, go_root, "--json", output="other.tar")
    assert json.loads(told.stdout)["notes"] == [f"the {claim}"]
    made = bundle(tmp_path, archive, go_root)
    assert (made.returncode, f"Note: the {claim}\n" in made.stdout) == (0, True)
    archive.unlink()
    _notes_of_an_archive(tmp_path, f"the {claim}", upstream[1]["v1.20.2"])
    done = build(tmp_path, "--bundle", "b.tar", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["source"]["origin"] == "local:kubernetes.tar.gz"


def _notes_of_an_archive(home: Path, claim: str, commit: str) -> None:
    words, digest = ("--bundle", "b.tar", "--dry-run", "--json"), sha256(home / "b.tar")
    done = build(home, *words, "--commit", commit)
    [claimed, origin] = json.loads(done.stdout)["notes"]
    assert (claimed, "--commit" in origin, "--bundle-sha256" in origin) == (claim, False, True)
    assert "verifies nothing; give --bundle-sha256, or make the bundle from git" in done.stderr
    done = build(home, *words, "--bundle-sha256", digest)
    [_, origin, required] = json.loads(done.stdout)["notes"]
    assert origin.endswith("nobody was asked.")
    assert required == f"the bundle has the required sha256, {digest}"
    done = build(home, "--bundle", "b.tar", version="v1.28.3")
    assert error_of(done) == "not-in-bundle"


@pytest.mark.slow
def test_a_note_names_no_option_that_was_given(made: Path, tmp_path: Path) -> None:
    words = ("--bundle", made, "--dry-run", "--json")
    commit = json.loads(build(tmp_path, *words).stdout)["commit"]
    given = {(): 1, ("--commit", commit): 0, ("--bundle-sha256", sha256(made)): 0}
    for more, count in given.items():
        notes = json.loads(build(tmp_path, *words, *more).stdout)["notes"]
        assert sum("give --commit" in note for note in notes) == count


@pytest.mark.parametrize(
    ("version", "tag"), [("1.20", "v1.20.2"), ("stable", "v1.20.2"), ("1.20.1", "v1.20.1")]
)
def test_versions_are_found_in_the_bundle(
    version: str, tag: str, made: Path, tmp_path: Path
) -> None:
    done = build(tmp_path, "--bundle", made, "--dry-run", "--json", version=version)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tag"] == tag


@pytest.mark.parametrize("version", ["v1.20.3", "1.21"])
def test_a_version_that_is_not_in_the_bundle_is_told(
    version: str, made: Path, tmp_path: Path
) -> None:
    done = build(tmp_path, "--bundle", made, version=version)
    assert error_of(done) == "not-in-bundle"
    assert "v1.20.1, v1.20.2" in done.stderr


Damage = Callable[[bytes], bytes]
SECOND = 1 << 15  # a place behind the head of the first member


def _renamed(data: bytes) -> bytes:
    return _with_member(data, "stranger")


def _with_member(data: bytes, name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return data.rstrip(b"\0").ljust(len(data) - 1024, b"\0") + member.tobuf() + bytes(1024)


def _edited(data: bytes, old: str, new: str) -> bytes:
    assert len(old) == len(new)
    assert old.encode() in data
    return data.replace(old.encode(), new.encode(), 1)


DAMAGES: dict[str, tuple[Damage, str]] = {
    "empty": (lambda _: b"", "broken-bundle"),
    "no tar": (lambda data: b"x" * len(data), "broken-bundle"),
    "truncated": (lambda data: data[: len(data) // 2], "broken-bundle"),
    "without its end": (lambda data: data[:-1024], "broken-bundle"),
    "another kind": (lambda data: _edited(data, "bundle-v1", "bundle-v9"), "broken-bundle"),
    "no JSON": (lambda data: _edited(data, '"kbuild":', '"kbuild";'), "broken-bundle"),
    "a commit of another length": (
        lambda data: _edited(data, '"commit": "', '"commit":""'),
        "broken-bundle",
    ),
    "a source with a password": (
        lambda data: _edited(data, '"local:kubernetes"', '"https://u:p@h/kk"'),
        "broken-bundle",
    ),
    "a source that is an option": (
        lambda data: _edited(data, "local:kubernetes", "--upload-pack=:x"),
        "broken-bundle",
    ),
    "a source with a blank": (
        lambda data: _edited(data, "local:kubernetes", "https://host/a b"),
        "broken-bundle",
    ),
    "a source out of its folder": (
        lambda data: _edited(data, "local:kubernetes", "local:../kuberne"),
        "broken-bundle",
    ),
    "a source with half a bracket": (
        lambda data: _edited(data, "local:kubernetes", "http://[::1/kube"),
        "broken-bundle",
    ),
    "a source at no port": (
        lambda data: _edited(data, "local:kubernetes", "https://a:99999/"),
        "broken-bundle",
    ),
    "a site at no port": (
        lambda data: _edited(data, '"https://go.dev/dl"', '"https://a:99999/d"'),
        "broken-bundle",
    ),
    "a site that is none": (
        lambda data: _edited(data, '"https://go.dev/dl"', '"httpx://go.dev/dl"'),
        "broken-bundle",
    ),
    "a Go from nowhere": (
        lambda data: _edited(data, '"origin": "local"', '"origin": "locla"'),
        "broken-bundle",
    ),
    "changed": (lambda data: data[:-4096] + b"!" + data[-4095:], "bundle-damaged"),
    "another sum": (lambda data: _edited(data, '"sha256": "', '"sha256":"0'), "broken-bundle"),
    "a stranger": (_renamed, "unsafe-bundle"),
    "a name twice": (lambda data: _with_member(data, "source"), "unsafe-bundle"),
    "a way out": (lambda data: _with_member(data, "../source"), "unsafe-bundle"),
    "an absolute name": (lambda data: _with_member(data, "/etc/passwd"), "unsafe-bundle"),
    "a link": (
        lambda data: _with_member(data, "source", tarfile.SYMTYPE, "/etc/passwd"),
        "unsafe-bundle",
    ),
    "a hard link": (
        lambda data: _with_member(data, "s", tarfile.LNKTYPE, "bundle.json"),
        "unsafe-bundle",
    ),
    "a device": (lambda data: _with_member(data, "source", tarfile.CHRTYPE), "unsafe-bundle"),
    "a member less": (
        lambda data: data[: data.rindex(b"source\0")] + bytes(1024),
        "member-missing",
    ),
    "something after its end": (lambda data: data + bytes(5000) + b"x", "broken-bundle"),
    "another machine": (
        lambda data: _edited(data, f'"arch": "{host_arch()}"', '"arch": "s390x"'),
        "no-go-in-bundle",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_bundle_that_is_not_as_kbuild_makes_it_is_refused(
    name: str, made: Path, tmp_path: Path
) -> None:
    damage, kind = DAMAGES[name]
    (tmp_path / "b.tar").write_bytes(damage(made.read_bytes()))
    done = build(tmp_path, "--bundle", "b.tar")
    assert error_of(done) == kind, done.stderr
    assert list((tmp_path / ".cache/kbuild/v1/work").iterdir()) == []


def test_a_member_that_is_too_large_is_not_unpacked(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kbuild.kubeadm.bundle.container.MAX_MEMBER", 100)
    done = build(tmp_path, "--bundle", made)
    assert error_of(done) == "bundle-too-large"


def test_a_bundle_that_lacks_objects_is_refused(
    upstream: tuple[Path, dict[str, str]],
    go_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blob = git(upstream[0], "rev-parse", "v1.20.2:cmd/kubeadm/kubeadm.go")
    real = sorted
    monkeypatch.setattr(
        "kbuild.kubeadm.source.store.sorted", lambda ids: real({*ids} - {blob}), raising=False
    )
    assert bundle(tmp_path, upstream[0], go_root).returncode == 0
    monkeypatch.undo()
    done = build(tmp_path, "--bundle", "b.tar")
    assert error_of(done) == "incomplete-bundle"


@pytest.mark.parametrize(
    ("more", "kind"),
    [
        (("--bundle", "absent.tar"), "bundle-unreadable"),
        (("--bundle", "."), "bundle-unreadable"),
        (("--bundle", "b.tar", "--bundle-sha256", "0" * 64), "bundle-checksum-mismatch"),
        (("--bundle-sha256", "0" * 64), "bad-setting"),
        (("--bundle", "b.tar", "--source", "x"), "bad-setting"),
        (("--bundle", "b.tar", "--go-root", "x"), "bad-setting"),
        (("--bundle", "b.tar", "--builder", "docker"), "no-image-in-bundle"),
        (("--bundle", "b.tar", "--commit", "0000000"), "commit-mismatch"),
    ],
)
def test_what_cannot_go_together_is_told(
    more: tuple[str, ...], kind: str, made: Path, tmp_path: Path
) -> None:
    shutil.copyfile(made, tmp_path / "b.tar")
    assert error_of(build(tmp_path, *more)) == kind


@pytest.mark.slow
def test_a_bundle_for_a_go_version_builds_with_it(
    upstream: tuple[Path, dict[str, str]], go_root: Path, tmp_path: Path
) -> None:
    done = bundle(tmp_path, upstream[0], go_root, "--go-version", "1.15.5")
    assert done.returncode == 0, done.stderr
    words = ("--bundle", "b.tar", "--dry-run", "--json")
    planned = build(tmp_path, *words)
    assert planned.returncode == 0, planned.stderr
    found = json.loads(planned.stdout)
    assert (found["go"], found["go_root"], found["not_examined"]) == ("1.15.5", "1.15.5", [])
    assert build(tmp_path, *words, "--go-version", "1.15.5").stdout == planned.stdout
    other = build(tmp_path, *words, "--go-version", "1.15.6")
    assert error_of(other) == "wrong-go"
    assert "the bundle b.tar is Go 1.15.5, but 1.15.6 is asked for" in other.stderr


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
@pytest.mark.parametrize(
    ("version", "kind", "words"),
    [
        ("1.16.1", "go-not-found", "the bundle has none"),
        ("1.15.5", "go-checksum-mismatch", "go.tar.gz"),
    ],
)
def test_a_dry_run_refuses_the_go_of_a_bundle_as_a_build_does(
    version: str,
    kind: str,
    words: str,
    more: tuple[str, ...],
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "go.tar.gz").write_text("no Go")
    monkeypatch.setattr(read, "go_of", lambda *_: ({"1.15.5": tmp_path / "go.tar.gz"}, None))
    done = build(tmp_path, "--bundle", made, "--go-version", version, *more)
    assert error_of(done) == kind
    assert words in done.stderr


def test_a_dry_run_examines_the_go_of_a_bundle(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "go.tar.gz").write_text("a Go")
    expected = hashlib.sha256(b"a Go").hexdigest()
    monkeypatch.setattr(read, "go_of", lambda *_: ({"1.15.5": tmp_path / "go.tar.gz"}, None))
    monkeypatch.setattr(archives, "shipped_sum", lambda _: ("go.tar.gz", expected))
    done = build(tmp_path, "--bundle", made, "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["not_examined"] == []


@pytest.mark.parametrize(
    ("words", "environment", "hint"),
    [
        (("--go-site", "https://h/go"), {}, "leave out --bundle or --go-site"),
        ((), {"KBUILD_GO_SITE": "https://h/go"}, "leave out --bundle, or unset KBUILD_GO_SITE"),
        (
            (),
            {},
            "leave out --bundle, remove go-site from kbuild.toml, or give another file with",
        ),
    ],
)
def test_what_a_bundle_excludes_is_told_with_where_it_is_set(
    words: tuple[str, ...], environment: dict[str, str], hint: str, made: Path, tmp_path: Path
) -> None:
    if not words and not environment:
        (tmp_path / "kbuild.toml").write_text('go-site = "https://h/go"\n')
    done = run_here(
        *("kubeadm", "--version", "v1.20.2", *YEARS, "--bundle", made, *words),
        cwd=tmp_path,
        HOME=str(tmp_path),
        **environment,
    )
    assert error_of(done) == "bad-setting"
    assert hint in done.stderr


def test_only_a_bundle_is_replaced(
    upstream: tuple[Path, dict[str, str]], go_root: Path, made: Path, tmp_path: Path
) -> None:
    shutil.copyfile(made, tmp_path / "b.tar")
    assert error_of(bundle(tmp_path, upstream[0], go_root)) == "output-exists"
    left = tmp_path / ".b.tar.kbuild-new-0123456789ab"
    left.write_text("of a run that was killed")
    assert bundle(tmp_path, upstream[0], go_root, "--force").returncode == 0
    assert (tmp_path / "b.tar").read_bytes() != made.read_bytes()
    assert not left.exists()
    (tmp_path / "b.tar").write_text("mine")
    done = bundle(tmp_path, upstream[0], go_root, "--force")
    assert error_of(done) == "output-not-replaceable"
    assert (tmp_path / "b.tar").read_text() == "mine"
    assert sorted(each.name for each in tmp_path.iterdir()) == [".cache", "b.tar"]


@pytest.mark.parametrize("output", [".", "/dev/null", "mine"])
def test_force_is_not_proposed_for_what_it_does_not_replace(
    output: str, upstream: tuple[Path, dict[str, str]], go_root: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine").write_text("mine")
    done = bundle(tmp_path, upstream[0], go_root, output=output)
    assert error_of(done) == "output-not-a-bundle"
    assert "replace what is there" not in done.stderr


def test_a_go_root_is_for_this_machine(
    upstream: tuple[Path, dict[str, str]], go_root: Path, tmp_path: Path
) -> None:
    done = bundle(tmp_path, upstream[0], go_root, "--arch", "s390x")
    assert error_of(done) == "bad-setting"
    assert f"for machines like this one, {host_arch()}, and not for s390x" in done.stderr
    done = bundle(tmp_path, upstream[0], go_root, "--builder", "docker")
    assert error_of(done) == "bad-setting"
    assert "leave out --builder docker or --go-root, or give --builder local too" in done.stderr
    assert "==>" not in done.stderr


def test_the_bytes_that_are_used_are_those_with_the_demanded_sum(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, good = tmp_path / "b.tar", made.read_bytes()
    shutil.copyfile(made, path)

    class ChangedOnceRead(io.BufferedReader):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(size) or self._change()

        def readinto(self, buffer: bytearray, /) -> int:  # type: ignore[override]
            return super().readinto(buffer) or len(self._change())

        def _change(self) -> bytes:
            path.write_bytes(_edited(good, "local:kubernetes", "local:kubernoten"))
            return b""

    def changing(name: Path) -> io.BufferedReader:
        return ChangedOnceRead(io.FileIO(name))

    monkeypatch.setattr("kbuild.kubeadm.bundle.container.open_file", changing)
    with container.opened(path, hashlib.sha256(good).hexdigest(), Recorder()) as found:
        document = found.document()
    assert path.read_bytes() != good
    assert b"local:kubernetes" in document


def test_a_broken_file_is_first_of_all_not_the_demanded_one(made: Path, tmp_path: Path) -> None:
    (tmp_path / "b.tar").write_bytes(made.read_bytes()[:5000])
    done = build(tmp_path, "--bundle", "b.tar", "--bundle-sha256", "0" * 64)
    assert error_of(done) == "bundle-checksum-mismatch"


@pytest.mark.parametrize("size", [b"\xff" * 12, b"\xff" * 11 + b"\x00"])  # -1 and -256
def test_a_negative_size_is_no_bundle(size: bytes) -> None:
    head = bytearray(tarfile.TarInfo("bundle.json").tobuf(tarfile.USTAR_FORMAT))
    head[124:136] = size
    head[148:156] = b" " * 8
    head[148:156] = f"{sum(head):06o}\0 ".encode()
    hostile = container.Container(Path("b.tar"), io.BytesIO(bytes(head) + b"x" * 4096), print)
    with pytest.raises(BrokenBundle, match="negative"):
        hostile.document()


def test_a_goroot_with_links_in_a_circle_is_no_goroot(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def circle(*_: object) -> str:
        message = "Symlink loop from 'bin'"
        raise RuntimeError(message)

    monkeypatch.setattr("kbuild.kubeadm.bundle.read.unpack_root", circle)
    assert error_of(build(tmp_path, "--bundle", made)) == "broken-bundle"


def test_a_full_disk_is_not_told_as_a_damaged_bundle(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("kbuild.kubeadm.bundle.read.unpack_root", full)
    assert error_of(build(tmp_path, "--bundle", made)) == "disk-full"


def test_the_printed_sum_is_one_that_sha256sum_and_the_build_take(
    upstream: tuple[Path, dict[str, str]], go_root: Path, tmp_path: Path
) -> None:
    done = bundle(tmp_path, upstream[0], go_root)
    line = done.stdout.splitlines()[-1]
    words = ("sha256sum", "--check", "--strict")
    checked = subprocess.run(
        words, input=line, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert checked.stdout == "b.tar: OK\n", checked.stderr
    digest = sha256(tmp_path / "b.tar")
    for given, code in ((f"sha256:{digest}", 0), (f"sha512:{digest}", 2)):
        built = build(tmp_path, "--bundle", "b.tar", "--bundle-sha256", given, "--dry-run")
        assert built.returncode == code, built.stderr


def test_the_sum_of_a_source_may_begin_with_its_algorithm(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"").hexdigest()
    (tmp_path / "kubernetes.tar.gz").touch()
    words = ("--source", "kubernetes.tar.gz", "--source-sha256", f"sha256:{digest}")
    assert error_of(build(tmp_path, *words)) != "bad-setting"
