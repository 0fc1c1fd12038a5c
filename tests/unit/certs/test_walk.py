"""Which name of a file is shown, what counts as superseded, and that nothing is left out."""

import errno
import os
from pathlib import Path

import pytest

from kbuild.base.files import read_file
from kbuild.base.values import Age
from kbuild.certs import walk
from kbuild.certs.api import demand_longer
from kbuild.certs.errors import CertificatesExpire, CertificatesUnread
from tests.support.authority import CLIENT, DAY, NOW, Issued, issue, write_kubeconfig
from tests.unit.certs.conftest import Read

DATED = "kubelet-client-2026-01-31-12-00-00.pem"
CURRENT = "kubelet-client-current.pem"
LATER = "kubelet-client-2026-05-31-12-00-00.pem"
GOOD = issue("good")
EXPIRED = issue("system:node:n1", born=NOW - 400 * DAY, organization="system:nodes")


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    """Give a directory with an expired dated certificate, and one that has not expired."""
    put(tmp_path / DATED, EXPIRED)
    put(tmp_path / "good.crt", GOOD)
    return tmp_path


def put(path: Path, issued: Issued) -> None:
    path.write_bytes(issued.pem + issued.key_pem)
    path.chmod(0o600)


def fails(read: Read, *paths: Path) -> bool:
    try:
        demand_longer(read(*paths), Age(0, "0d"))
    except CertificatesExpire:
        return True
    return False


def test_a_link_to_a_dated_file_is_shown_whatever_is_named_first(pki: Path, read: Read) -> None:
    (pki / CURRENT).symlink_to(DATED)
    for paths in (sorted(pki.iterdir()), [pki / DATED, pki], [pki, pki / DATED], [pki]):
        inventory = read(*paths)
        assert inventory.certificates[0].path == str(pki / CURRENT)
        assert inventory.certificates[0].role == "kubelet, client"
        assert fails(read, *paths)


def test_a_hard_link_is_shown_rather_than_a_dated_name(pki: Path, read: Read) -> None:
    (pki / "z").mkdir()
    (pki / "z/server.pem").hardlink_to(pki / DATED)
    assert read(pki).certificates[0].path == str(pki / "z/server.pem")
    assert fails(read, pki)


def test_a_dated_file_counts_unless_the_later_one_was_read(pki: Path, read: Read) -> None:
    assert fails(read, pki / DATED)
    assert fails(read, pki)
    put(pki / LATER, GOOD)
    (pki / CURRENT).symlink_to(LATER)
    assert fails(read, pki / DATED)
    assert not fails(read, pki)
    assert not fails(read, *sorted(pki.iterdir()))


def test_a_dated_file_that_a_kubeconfig_refers_to_is_in_use(pki: Path, read: Read) -> None:
    put(pki / LATER, issue("x"))
    (pki / CURRENT).symlink_to(LATER)
    write_kubeconfig(
        pki / "kubelet.conf",
        b"users: [{name: x, user: {client-certificate: %b, client-key: %b}}]"
        % (DATED.encode(), DATED.encode()),
    )
    assert fails(read, pki)


@pytest.mark.parametrize("name", ["config", "jenkins.kubeconfig"])
def test_a_file_that_others_may_read_only_is_reported(
    name: str, pki: Path, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pki / DATED).unlink()
    (pki / name).write_text("current-context: x\n")
    opened = os.open

    def refused(path: str, flags: int) -> int:
        if str(path).endswith(name):
            raise PermissionError(13, "Permission denied", path)
        return opened(path, flags)

    monkeypatch.setattr(os, "open", refused)
    [found] = [each for each in read(pki).findings if each.kind == "unreadable"]
    assert found.path == str(pki / name)
    with pytest.raises(CertificatesUnread):
        demand_longer(read(pki), Age(0, "0d"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_link_into_a_directory_that_may_not_be_read(pki: Path, read: Read) -> None:
    (pki / "closed").mkdir()
    (pki / "link").symlink_to("closed/x")
    (pki / "closed").chmod(0)
    told = {each.path for each in read(pki).findings if each.kind == "unreadable"}
    (pki / "closed").chmod(0o700)
    assert told == {str(pki / "closed"), str(pki / "link")}


def test_a_directory_with_too_many_entries(
    pki: Path, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk, "MAX_FILES", 2)
    assert not [each for each in read(pki).findings if each.kind == "too-many-files"]
    (pki / "more").mkdir()
    found = [each.path for each in read(pki).findings if each.kind == "too-many-files"]
    assert found == [str(pki)]


def test_a_linked_directory_that_is_removed_meanwhile(
    pki: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    (pki / "link").symlink_to(other)
    found = []
    for each in walk.Walk().below([pki]):
        found.append(each)
        if other.exists():
            other.rmdir()
    assert {Path(each.path).name for each in found} >= {DATED, "good.crt"}


def test_a_file_that_has_nothing_to_read_yet(
    tmp_path: Path, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "x.crt", issue("x", usages=(CLIENT,)))
    read_some = os.read

    def wait(number: int, most: int) -> bytes:
        if Path(f"/proc/self/fd/{number}").readlink().name == "x.crt":
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return read_some(number, most)

    monkeypatch.setattr(os, "read", wait)
    with pytest.raises(BlockingIOError):
        read_file(tmp_path / "x.crt", 10)
    [found] = read(tmp_path).findings
    assert (found.kind, found.reason) == ("unreadable", "it has no content to read now")


def test_what_the_kernel_makes_is_read_only_if_it_is_named(
    pki: Path, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_kernel = pki / "proc"
    of_kernel.mkdir()
    put(of_kernel / "x.crt", GOOD)
    monkeypatch.setattr(walk, "OF_KERNEL", (str(of_kernel),))
    shown = {each.path for each in read(pki).certificates}
    assert shown == {str(pki / DATED), str(pki / "good.crt")}
    assert read(of_kernel).certificates[0].path == str(of_kernel / "x.crt")
