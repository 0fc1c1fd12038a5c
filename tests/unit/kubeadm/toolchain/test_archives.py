import http.server
import os
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import pytest

from kbuild.base import network
from kbuild.base.files import sha256
from kbuild.base.sandbox import host_arch
from kbuild.base.workspace import Workspace
from kbuild.kubeadm.toolchain import archives
from kbuild.kubeadm.toolchain.archives import find_go, version_of
from kbuild.kubeadm.toolchain.errors import (
    GoChecksumMismatch,
    GoDownloadFailed,
    GoNotFound,
    WrongGo,
)
from kbuild.kubeadm.toolchain.pin import go_name, is_go_version
from tests.support.recorder import Recorder
from tests.unit.kubeadm.toolchain.conftest import MakeGo, RequestFor

pytestmark = pytest.mark.slow

NAME = "go1.15.5.linux-amd64.tar.gz"


@dataclass
class Site:
    """A download site: bodies by name, status codes to give first, and what was asked."""

    address: str
    bodies: dict[str, bytes] = field(default_factory=dict)
    failures: list[int] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def site() -> Iterator[Site]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.asked.append(self.path)
            body = made.bodies.get(self.path.removeprefix("/dl/"))
            code = made.failures.pop(0) if made.failures else 404 if body is None else 200
            self.send_response(code)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            if code == 200 and body is not None:
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made = Site(address=f"http://127.0.0.1:{server.server_address[1]}/dl/")
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield made
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the only folder of PATH, so that no Go of this machine is found."""
    folder = tmp_path / "path"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.fixture
def shipped(site: Site, make_go: MakeGo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have an archive of Go 1.15.5 on the site, and its sum among the shipped ones."""
    root = make_go("1.15.5", "official")
    (root / "src").mkdir()
    (root / "src/print.go").write_text("package fmt")
    (root / "src/link.go").symlink_to("print.go")
    archive = tmp_path / NAME
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(root, "go")
    shutil.rmtree(root)
    site.bodies[NAME] = archive.read_bytes()
    sums = {"1.15.5": (NAME, sha256(archive))}
    monkeypatch.setattr(archives, "shipped_sum", sums.__getitem__)
    return archive


def left_in(workspace: Workspace) -> list[str]:
    return [entry.name for entry in (workspace.cache / "go").glob("*")]


# --- what a GOROOT is --------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.15.15", "1.19", "1.21.0", "1.22rc1"])
def test_the_version_of_a_goroot(make_go: MakeGo, tmp_path: Path, version: str) -> None:
    assert version_of(make_go(version), tmp_path) == version


def test_a_user_setting_does_not_answer_for_it(
    make_go: MakeGo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOTOOLCHAIN", "go1.99")
    monkeypatch.setenv("GOENV", "/somewhere")
    assert version_of(make_go("1.15.5"), tmp_path) == "1.15.5"


@pytest.mark.parametrize("words", ["go{} gccgo (Debian 12.2.0-14) 12.2.0 linux/amd64", "", "go{}"])
def test_another_compiler_is_no_go(make_go: MakeGo, tmp_path: Path, words: str) -> None:
    assert version_of(make_go("1.18", words=words), tmp_path) is None


def test_what_does_not_run_is_no_go(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    assert version_of(tmp_path, tmp_path) is None
    (tmp_path / "bin/go").write_bytes(b"\x7fELF")
    assert version_of(tmp_path, tmp_path) is None
    (tmp_path / "bin/go").chmod(0o755)
    assert version_of(tmp_path, tmp_path) is None


# --- --go-root ---------------------------------------------------------------------------------


def test_the_goroot_given(
    make_go: MakeGo, request_for: RequestFor, workspace: Workspace, recorder: Recorder
) -> None:
    root = make_go("1.15.5")
    assert find_go("1.15.5", request_for(go_root=root), workspace, recorder) == root


def test_a_relative_goroot_is_made_absolute(
    make_go: MakeGo,
    request_for: RequestFor,
    workspace: Workspace,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = make_go("1.15.5")
    monkeypatch.chdir(root.parent)
    found = find_go("1.15.5", request_for(go_root=Path(root.name)), workspace, recorder)
    assert found == root


@pytest.mark.parametrize("actual", ["1.15.15", "1.15", "1.15.5rc1"])
def test_a_goroot_of_another_version(
    make_go: MakeGo,
    request_for: RequestFor,
    workspace: Workspace,
    recorder: Recorder,
    actual: str,
) -> None:
    with pytest.raises(WrongGo, match=f"is Go {actual}, but 1.15.5"):
        find_go("1.15.5", request_for(go_root=make_go(actual)), workspace, recorder)


def test_a_goroot_without_a_go(
    request_for: RequestFor, workspace: Workspace, recorder: Recorder, tmp_path: Path
) -> None:
    with pytest.raises(GoNotFound, match="bin/go"):
        find_go("1.15.5", request_for(go_root=tmp_path), workspace, recorder)


# --- PATH --------------------------------------------------------------------------------------


def test_a_link_on_the_path(
    make_go: MakeGo, request_for: RequestFor, workspace: Workspace, recorder: Recorder, path: Path
) -> None:
    root = make_go("1.15.5")
    (path / "go").symlink_to(root / "bin/go")
    assert find_go("1.15.5", request_for(), workspace, recorder) == root


@pytest.mark.usefixtures("shipped")
def test_a_script_on_the_path_is_not_run(
    make_go: MakeGo,
    request_for: RequestFor,
    workspace: Workspace,
    recorder: Recorder,
    path: Path,
    site: Site,
) -> None:
    root = make_go("1.15.5")
    mark = path / "it-ran"
    (path / "go").write_text(f'#!/bin/sh\n: >{mark}\nexec "{root}/bin/go" "$@"\n')
    (path / "go").chmod(0o755)
    found = find_go("1.15.5", request_for(go_site=site.address), workspace, recorder)
    assert found == workspace.cache / "go/go1.15.5/root"
    assert not mark.exists()


def test_a_hostile_go_of_a_go_root_gets_no_further(
    make_go: MakeGo, request_for: RequestFor, workspace: Workspace, recorder: Recorder
) -> None:
    root = make_go("1.15.5")
    mark = root.parent / "it-got-out"
    good = (root / "bin/go").read_text()
    attack = f"(echo >{mark}; cat {root}/bin/go) 2>/dev/null"
    (root / "bin/go").write_text(f"#!/bin/sh\n{attack}\n{good}")
    assert find_go("1.15.5", request_for(go_root=root), workspace, recorder) == root
    assert not mark.exists()


@pytest.mark.usefixtures("shipped")
def test_another_go_on_the_path_is_passed_over(
    make_go: MakeGo,
    request_for: RequestFor,
    workspace: Workspace,
    recorder: Recorder,
    path: Path,
    site: Site,
    tmp_path: Path,
) -> None:
    (path / "go").symlink_to(make_go("1.15.15") / "bin/go")
    found = find_go("1.15.5", request_for(go_site=site.address), workspace, recorder)
    assert version_of(found, tmp_path) == "1.15.5"
    assert recorder.details == [f"{path}/go is Go 1.15.15, not 1.15.5"]
    assert recorder.said == []


# --- downloads ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("shipped")
def test_a_download_is_kept_and_used_again(
    request_for: RequestFor, workspace: Workspace, recorder: Recorder, site: Site, tmp_path: Path
) -> None:
    request = request_for(go_site=site.address)
    found = find_go("1.15.5", request, workspace, recorder)
    assert version_of(found, tmp_path) == "1.15.5"
    assert find_go("1.15.5", request, workspace, recorder) == found
    assert site.asked == [f"/dl/{NAME}"]
    assert left_in(workspace) == ["go1.15.5"]
    assert recorder.said == []
    size = len(site.bodies[NAME])
    assert (f"download {NAME}", size, size) in recorder.advances


def edit(go_root: Path) -> None:
    with (go_root / "src/print.go").open("a") as file:
        file.write("edited")


def flip(go_root: Path) -> None:
    content = bytearray((go_root / "src/print.go").read_bytes())
    content[0] ^= 1
    (go_root / "src/print.go").write_bytes(content)


def replace_by_link(go_root: Path) -> None:
    (go_root / "src/print.go").rename(go_root.parent / "print.go")
    (go_root / "src/print.go").symlink_to(go_root.parent / "print.go")


def replace_by_fifo(go_root: Path) -> None:
    (go_root / "src/print.go").unlink()
    os.mkfifo(go_root / "src/print.go")


def link_elsewhere(go_root: Path) -> None:
    (go_root / "src/link.go").unlink()
    (go_root / "src/link.go").symlink_to("/etc/passwd")


def replace_all(go_root: Path) -> None:
    shutil.rmtree(go_root)
    go_root.write_text("")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "edited": (edit, "src/print.go"),
    "flipped": (flip, "src/print.go"),
    "lost": (lambda go_root: (go_root / "bin/go").unlink(), "bin/go"),
    "mode": (lambda go_root: (go_root / "bin/go").chmod(0o644), "bin/go"),
    "another": (lambda go_root: (go_root / "src/init.go").write_text("package x"), "src/init.go"),
    "link": (replace_by_link, "src/print.go"),
    "fifo": (replace_by_fifo, "src/print.go"),
    "other link": (link_elsewhere, "src/link.go"),
    "folder link": (lambda go_root: (go_root / "src/etc").symlink_to("/etc"), "src/etc"),
    "all": (replace_all, "root"),
    "gone": (shutil.rmtree, "root"),
}


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize(("damage", "named"), DAMAGES.values(), ids=DAMAGES)
def test_an_unpacked_go_that_is_not_as_its_archive_is_unpacked_again(
    damage: Callable[[Path], object],
    named: str,
    request_for: RequestFor,
    workspace: Workspace,
    recorder: Recorder,
    site: Site,
) -> None:
    request = request_for(go_site=site.address)
    go_root = find_go("1.15.5", request, workspace, recorder)
    before = archives.digest_of(go_root)
    damage(go_root)
    assert find_go("1.15.5", request, workspace, recorder) == go_root
    archives.digest_of.cache_clear()
    assert archives.digest_of(go_root) == before
    assert recorder.said == [
        f"Go 1.15.5 in the cache is damaged ({named}), unpacking it again",
    ]
    assert site.asked == [f"/dl/{NAME}"]


def lose_archive(folder: Path) -> None:
    (folder / NAME).unlink()


def flip_archive(folder: Path) -> None:
    content = bytearray((folder / NAME).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / NAME).write_bytes(content)


def archive_of_nothing(folder: Path) -> None:
    lose_archive(folder)
    os.mkfifo(folder / NAME)


def replace_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to("absent")


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize("damage", [lose_archive, flip_archive, archive_of_nothing, replace_folder])
def test_a_kept_archive_that_is_damaged_is_downloaded_again(
    damage: Callable[[Path], None],
    request_for: RequestFor,
    workspace: Workspace,
    recorder: Recorder,
    site: Site,
    tmp_path: Path,
) -> None:
    request = request_for(go_site=site.address)
    damage(find_go("1.15.5", request, workspace, recorder).parent)
    found = find_go("1.15.5", request, workspace, recorder)
    assert version_of(found, tmp_path) == "1.15.5"
    assert recorder.said == ["the archive of Go 1.15.5 in the cache is damaged, downloading it"]
    assert site.asked == [f"/dl/{NAME}"] * 2


@pytest.mark.usefixtures("shipped")
def test_a_server_at_fault_is_asked_again(
    request_for: RequestFor, workspace: Workspace, recorder: Recorder, site: Site
) -> None:
    site.failures = [503, 500]
    find_go("1.15.5", request_for(go_site=site.address), workspace, recorder)
    assert len(site.asked) == 3


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize(
    ("failures", "reason", "asked"),
    [([404], "HTTP 404", 1), ([403], "HTTP 403", 1), ([502] * 9, "HTTP 502", network.ATTEMPTS)],
)
def test_a_site_that_does_not_give_it(
    request_for: RequestFor,
    workspace: Workspace,
    recorder: Recorder,
    site: Site,
    failures: list[int],
    reason: str,
    asked: int,
) -> None:
    site.failures = failures
    with pytest.raises(GoDownloadFailed, match=reason):
        find_go("1.15.5", request_for(go_site=site.address), workspace, recorder)
    assert len(site.asked) == asked
    assert left_in(workspace) == []


@pytest.mark.usefixtures("shipped")
def test_a_site_that_is_down(
    request_for: RequestFor, workspace: Workspace, recorder: Recorder
) -> None:
    with pytest.raises(GoDownloadFailed, match=f"http://127.0.0.1:1/{NAME}"):
        find_go("1.15.5", request_for(go_site="http://127.0.0.1:1"), workspace, recorder)


def test_an_archive_with_another_sum(
    request_for: RequestFor, workspace: Workspace, recorder: Recorder, site: Site, shipped: Path
) -> None:
    site.bodies[NAME] = shipped.read_bytes() + b"\0"
    with pytest.raises(GoChecksumMismatch, match=sha256(shipped)):
        find_go("1.15.5", request_for(go_site=site.address), workspace, recorder)
    assert left_in(workspace) == []


def test_an_archive_of_another_go_is_not_kept(
    request_for: RequestFor,
    workspace: Workspace,
    recorder: Recorder,
    site: Site,
    shipped: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(archives, "shipped_sum", lambda _: (NAME, sha256(shipped)))
    with pytest.raises(WrongGo):
        find_go("1.15.6", request_for(go_site=site.address), workspace, recorder)
    assert left_in(workspace) == []


@pytest.mark.usefixtures("shipped")
def test_several_runs_at_once_download_once(
    request_for: RequestFor, workspace: Workspace, site: Site
) -> None:
    request, found = request_for(go_site=site.address), []

    def run() -> None:
        found.append(find_go("1.15.5", request, workspace, Recorder()))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert len(set(found)) == 1
    assert site.asked == [f"/dl/{NAME}"]


# --- the shipped sums --------------------------------------------------------------------------


def test_a_version_without_ashipped_sum_is_not_downloaded(
    request_for: RequestFor, workspace: Workspace, recorder: Recorder, site: Site
) -> None:
    with pytest.raises(GoNotFound, match="sha256"):
        find_go("1.2.3", request_for(go_site=site.address), workspace, recorder)
    assert site.asked == []


def testshipped_sums_are_whole() -> None:
    text = resources.files("kbuild.kubeadm.toolchain").joinpath("go-archives.tsv").read_text()
    head, *rows = [line.split("\t") for line in text.splitlines() if not line.startswith("#")]
    assert head[:4] == ["go_version", "arch", "filename", "sha256"]
    assert len({tuple(row[:2]) for row in rows}) == len(rows) > 400
    for version, arch, name, digest, *_ in rows:
        assert is_go_version(version)
        assert go_name(version) == version
        assert name == f"go{version}.linux-{arch}.tar.gz"
        assert len(digest) == 64
        assert int(digest, 16)


@pytest.mark.skipif(host_arch() not in {"amd64", "arm64"}, reason="no sums for this machine")
def test_ashipped_sum_is_found_by_version() -> None:
    name, digest = archives.shipped_sum("1.15.5")
    assert name == f"go1.15.5.linux-{host_arch()}.tar.gz"
    assert len(digest) == 64


@pytest.fixture
def library(make_go: MakeGo) -> Path:
    """Give a GOROOT with a library, part of it behind links, as Debian's has it."""
    go_root = make_go("1.15.5")
    for name in ("share/crypto/rand/rand.go", "pkg/linux_amd64/crypto/rand.a", "VERSION", "go.env"):
        (go_root / name).parent.mkdir(parents=True, exist_ok=True)
        (go_root / name).write_text(name)
    (go_root / "src").symlink_to("share")
    (go_root / "src/again").symlink_to("../share")
    (go_root / "pkg/include").symlink_to("linux_amd64/crypto/rand.a")
    return go_root


@pytest.mark.parametrize(
    "edited",
    [
        *("bin/go", "src/crypto/rand/rand.go", "pkg/linux_amd64/crypto/rand.a"),
        *("VERSION", "go.env"),
    ],
)
def test_an_edited_file_of_a_goroot_changes_its_digest(library: Path, edited: str) -> None:
    before = archives.digest_of(library)
    with (library / edited).open("a") as file:
        file.write("edited")
    archives.digest_of.cache_clear()
    assert archives.digest_of(library) != before


def test_a_renamed_or_new_file_of_a_goroot_changes_its_digest(library: Path) -> None:
    digests = {archives.digest_of(library)}
    (library / "src/crypto/rand/rand.go").rename(library / "src/crypto/rand/other.go")
    archives.digest_of.cache_clear()
    digests.add(archives.digest_of(library))
    (library / "src/crypto/rand/init.go").write_text("package rand")
    archives.digest_of.cache_clear()
    digests.add(archives.digest_of(library))
    assert len(digests) == 3


def test_a_link_in_a_goroot_cannot_hide_or_forge_a_file(make_go: MakeGo) -> None:
    genuine = make_go("1.15.5")
    line = f"{sha256(genuine / 'bin/go')}  bin/go"
    hidden = make_go("1.15.5", "hidden")
    (hidden / "bin/go").rename(hidden / "go")
    (hidden / "bin").rmdir()
    (hidden / "bin").symlink_to(".")
    (hidden / f"x\n{line}").parent.mkdir()
    (hidden / f"x\n{line}").write_text("")
    assert archives.digest_of(hidden) != archives.digest_of(genuine)


@pytest.mark.parametrize("name", ["leak", "src/leak"])
def test_a_link_to_another_place_of_this_machine_is_refused(
    make_go: MakeGo,
    request_for: RequestFor,
    workspace: Workspace,
    recorder: Recorder,
    name: str,
) -> None:
    root = make_go("1.15.5")
    (root / "src").mkdir()
    secret = root.with_name("secret")
    secret.write_text("of the host")
    (root / name).symlink_to(secret)
    with pytest.raises(GoNotFound, match="is a link to"):
        find_go("1.15.5", request_for(go_root=root), workspace, recorder)


def test_the_same_goroot_elsewhere_has_the_same_digest(library: Path) -> None:
    copy = shutil.copytree(library, library.with_name("copy"), symlinks=True)
    assert archives.digest_of(copy) == archives.digest_of(library)
