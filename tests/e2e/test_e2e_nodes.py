"""kbuild nodes on a real sshd: what goes wrong in the middle of a run, and the next run."""

import contextlib
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kbuild.cli.main import main
from kbuild.nodes.connection import CHUNK, prepare
from tests.support.command import Done, run_here
from tests.support.node import Node, new_key, running_node
from tests.support.runnable import make_runnable_release

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(60),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for namespaces"),
]
BINARY = "kubeadm-linux-amd64"
KEPT = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Releases:
    """Two releases of the same version: what a node has, and what it gets in three chunks."""

    old: Path
    new: Path


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    prepare()  # once, and not in each child
    folder = tmp_path_factory.mktemp("releases")
    old = make_runnable_release(folder / "work-old", folder / "old", seed=1)
    new = make_runnable_release(
        folder / "work-new", folder / "new", seed=2, padding=2 * CHUNK + 1000
    )
    return Releases(old=old, new=new)


@pytest.fixture
def node(tmp_path: Path, releases: Releases) -> Iterator[Node]:
    with running_node(tmp_path / "node", (releases.old / BINARY).read_bytes()) as made:
        yield made


@pytest.fixture
def kbuild(tmp_path: Path) -> Callable[..., Done]:
    def run(*words: object) -> Done:
        return run_here("nodes", *words, cwd=tmp_path, HOME=str(tmp_path))

    return run


def install(kbuild: Callable[..., Done], releases: Releases, node: Node, *more: object) -> Done:
    return kbuild("install", releases.new, *node.options, "--yes", *more)


def states(done: Done) -> list[str]:
    return [host["state"] for host in json.loads(done.stdout)["hosts"]]


def has(node: Node, release: Path) -> bool:
    return node.kubeadm.read_bytes() == (release / BINARY).read_bytes()


def nothing_is_left(node: Node) -> bool:
    """Tell whether there is nothing of kbuild but its state, and no lock."""
    names = sorted(path.name for path in node.bin.iterdir())
    return names == ["kubeadm"] and "kbuild" not in node.run("ls /run").split()


@contextlib.contextmanager
def in_the_background(node: Node, releases: Releases, home: Path) -> Iterator[int]:
    """Run an installation in a process of its own, which the test may kill."""

    said, code = home / "background.txt", home / "code"
    said.write_text("")
    words = ("kbuild", "nodes", "install", releases.new, *node.options, "--yes")

    def work() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(os.open(said, os.O_WRONLY | os.O_APPEND), 2)
        os.environ["HOME"] = str(home)
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        sys.argv = [str(word) for word in words]
        try:
            main()
        except SystemExit as end:
            code.write_text(str(end.code or 0))
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    assert process.pid is not None
    try:
        yield process.pid
        process.join(30)
    finally:
        if process.is_alive():
            process.kill()
            process.join()


def test_a_kubeadm_is_installed_and_comes_back(
    node: Node, releases: Releases, kbuild: Callable[..., Done]
) -> None:
    done = install(kbuild, releases, node, "--json")
    assert (done.returncode, states(done)) == (0, ["changed"]), done.stderr
    assert has(node, releases.new)
    assert nothing_is_left(node)
    assert states(install(kbuild, releases, node, "--json")) == ["unchanged"]

    done = kbuild("rollback", *node.options, "--yes", "--json")
    assert (done.returncode, states(done)) == (0, ["changed"]), done.stderr
    assert has(node, releases.old)
    assert nothing_is_left(node)


KILLED = {
    "before the upload": ("wc", 1),
    "in the upload": ("dd", 2),
    "between the upload and its use": ("gzip", 1),
    "in the back-up": ("cp", 1),
    "between the back-up and the replacement": ("mv", 1),
    "before the record": ("mv", 2),
    "before the rename": ("mv", 3),
    "before the confirmation": ("sync", 6),
}


@pytest.mark.parametrize(("program", "call"), KILLED.values(), ids=KILLED)
def test_the_run_after_a_killed_one_goes_on(
    program: str,
    call: int,
    node: Node,
    releases: Releases,
    kbuild: Callable[..., Done],
    tmp_path: Path,
) -> None:
    node.hold(program, call)
    with in_the_background(node, releases, tmp_path) as pid:
        node.is_held(program)
        assert has(node, releases.new) is (program == "sync")
        os.kill(pid, signal.SIGKILL)
    node.hold("dd", 99)
    node.let_go(program)
    done = install(kbuild, releases, node, "--json")
    assert (done.returncode, states(done)) == (0, ["changed"]), done.stderr
    assert "it has ended" in done.stderr
    assert has(node, releases.new)
    assert nothing_is_left(node)
    if program == "dd":  # the first chunk was not sent again
        assert node.calls("dd") == 2


def test_a_step_that_outlives_its_run_is_awaited(
    node: Node, releases: Releases, tmp_path: Path
) -> None:
    node.hold("mv", 3)
    with in_the_background(node, releases, tmp_path) as pid:
        node.is_held("mv")
        os.kill(pid, signal.SIGKILL)
    with in_the_background(node, releases, tmp_path):
        wait_for(lambda: "waiting for a step" in (tmp_path / "background.txt").read_text())
        assert has(node, releases.old)
        node.let_go("mv")
    assert has(node, releases.new)
    assert nothing_is_left(node)
    assert node.run("grep -ch 'replace begin' /var/lib/kbuild/runs/*").split() == ["1", "0"]


def test_the_lock_of_a_run_that_goes_on_is_respected(
    node: Node, releases: Releases, kbuild: Callable[..., Done], tmp_path: Path
) -> None:
    node.hold("cp")
    with in_the_background(node, releases, tmp_path):
        node.is_held("cp")
        done = install(kbuild, releases, node)
        assert done.returncode == 100
        assert "error[hosts-locked]: n1: another run has the lock" in done.stderr
        assert has(node, releases.old)
        node.let_go("cp")
    assert has(node, releases.new)
    assert nothing_is_left(node)


OTHERS = "admin@elsewhere 1 2 another-boot/1"


@pytest.mark.parametrize(
    ("since", "more", "code"),
    [(0, (), 100), (1000, (), 0), (0, ("--take-over",), 0)],
    ids=["alive", "stale", "by force"],
)
def test_the_lock_of_another_machine(
    since: int,
    more: tuple[str, ...],
    code: int,
    node: Node,
    releases: Releases,
    kbuild: Callable[..., Done],
) -> None:
    node.run(
        f"mkdir -p /run/kbuild/lock; cd /run/kbuild/lock; echo 20260101T000000Z-1 >run;"
        f" echo '{OTHERS}' >owner; touch -d '-{since} seconds' ."
    )
    done = install(kbuild, releases, node, *more)
    assert done.returncode == code, done.stderr
    assert has(node, releases.new) == (code == 0)
    if code:
        assert OTHERS in done.stderr
        assert "--take-over" in done.stderr
        assert node.run("cat /run/kbuild/lock/run").strip() == "20260101T000000Z-1"
    else:
        assert nothing_is_left(node)


@pytest.mark.parametrize(("program", "call"), [("dd", 2), ("mv", 2)], ids=["upload", "rename"])
def test_a_connection_that_is_cut_costs_little(
    program: str, call: int, node: Node, releases: Releases, tmp_path: Path
) -> None:
    node.hold(program, call)
    with in_the_background(node, releases, tmp_path):
        node.is_held(program)
        node.cut()
        time.sleep(0.1)
        node.let_go(program)
    assert has(node, releases.new), (tmp_path / "background.txt").read_text()
    assert nothing_is_left(node)
    assert node.calls(program) <= 4  # three chunks, one of them twice; or two renames
    journal = node.run("cat /var/lib/kbuild/runs/*")
    assert journal.count("replace begin") == 1


def test_a_run_goes_on_after_a_restart_of_the_node(
    node: Node, releases: Releases, tmp_path: Path
) -> None:
    node.hold("mv", 2)
    with in_the_background(node, releases, tmp_path):
        node.is_held("mv")
        node.stop()
        node.let_go("mv")
        node.start()
    said = (tmp_path / "background.txt").read_text()
    assert "the lock was gone, and is taken again" in said
    assert has(node, releases.new), said
    assert nothing_is_left(node)


FULL = {
    "upload": ("wc", 1, "/usr/local/bin", "copy"),
    "unpacked": ("gzip", 1, "/usr/local/bin", "copy"),
    "backup": ("cp", 1, "/var/lib", "back-up"),
    "journal": ("ls", 1, "/var/lib", "lock"),
}


@pytest.mark.parametrize(("program", "call", "where", "step"), FULL.values(), ids=FULL)
def test_a_full_disk(
    program: str,
    call: int,
    where: str,
    step: str,
    releases: Releases,
    kbuild: Callable[..., Done],
    tmp_path: Path,
) -> None:
    old = (releases.old / BINARY).read_bytes()
    mounts = f"mount -t tmpfs -o size=50m small {where}; cp -a {{}}/. {where}".format(
        tmp_path / "node" / ("bin" if where.endswith("bin") else "lib")
    )
    with running_node(tmp_path / "node", old, mounts=mounts) as node:
        node.hold(program, call)
        with in_the_background(node, releases, tmp_path):
            node.is_held(program)
            node.run(f"dd if=/dev/zero of={where}/fill bs=64k 2>/dev/null; true")
            node.let_go(program)
        said = (tmp_path / "background.txt").read_text()
        assert f"n1: undone in the step {step}" in said
        assert re.search(r"[Nn]o space", said), said
        assert "the host is as it was before" in said
        checksum = f"sha256sum /usr/local/bin/kubeadm; rm {where}/fill"
        assert node.run(checksum).split()[0] == sha256_of(releases.old / BINARY)
        done = install(kbuild, releases, node, "--json")
        assert states(done) == ["changed"], done.stderr


def test_a_full_run_folder(releases: Releases, kbuild: Callable[..., Done], tmp_path: Path) -> None:
    old = (releases.old / BINARY).read_bytes()
    with running_node(tmp_path / "node", old, run_options="nr_inodes=4") as node:
        node.run("mkdir /run/kbuild; touch /run/kbuild/fill; true")
        done = install(kbuild, releases, node)
        assert done.returncode == 100
        assert "the lock /run/kbuild/lock cannot be" in done.stderr
        assert "o space" in done.stderr
        assert "undone in the step lock" in done.stderr
        assert has(node, releases.old)


def test_a_kubeadm_that_somebody_else_puts_there_is_not_overwritten(
    node: Node, releases: Releases, kbuild: Callable[..., Done], tmp_path: Path
) -> None:
    node.hold("cp", 2)  # which gives the new one the attributes of the old one
    with in_the_background(node, releases, tmp_path):
        node.is_held("cp")
        node.kubeadm.write_text("of somebody else")
        node.let_go("cp")
    said = (tmp_path / "background.txt").read_text()
    assert "somebody has changed /usr/local/bin/kubeadm meanwhile, so it is left as it is" in said
    assert node.kubeadm.read_text() == "of somebody else"
    assert nothing_is_left(node)
    done = kbuild("rollback", *node.options, "--yes")
    assert done.returncode == 0, done.stderr
    assert has(node, releases.old)


def test_a_release_that_changes_after_its_check_is_not_sent(
    node: Node, releases: Releases, tmp_path: Path
) -> None:
    copy = Releases(old=releases.old, new=tmp_path / "copy")
    shutil.copytree(releases.new, copy.new)
    node.hold("uname")
    with in_the_background(node, copy, tmp_path):
        node.is_held("uname")
        with (copy.new / BINARY).open("ab") as file:
            file.write(b"more")
        node.let_go("uname")
    said = (tmp_path / "background.txt").read_text()
    assert "has changed since the release was checked; nothing was sent" in said
    assert has(node, releases.old)
    assert nothing_is_left(node)


def test_owner_mode_and_attributes_are_kept(
    node: Node, releases: Releases, kbuild: Callable[..., Done]
) -> None:
    os.chown(node.kubeadm, 12, 34)
    node.kubeadm.chmod(0o4751)
    os.setxattr(node.kubeadm, "user.kept", b"yes")

    def attributes() -> tuple[object, ...]:
        status = node.kubeadm.stat()
        kept = os.getxattr(node.kubeadm, "user.kept")
        return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode), kept

    before = attributes()
    assert install(kbuild, releases, node).returncode == 0
    assert has(node, releases.new)
    assert attributes() == before
    os.chown(node.kubeadm, 0, 0)
    node.kubeadm.chmod(0o755)
    os.removexattr(node.kubeadm, "user.kept")
    assert kbuild("rollback", *node.options, "--yes").returncode == 0
    assert has(node, releases.old)
    assert attributes() == before


def test_rollback_to_any_backup(
    node: Node, releases: Releases, kbuild: Callable[..., Done]
) -> None:
    assert install(kbuild, releases, node).returncode == 0
    assert kbuild("rollback", *node.options, "--yes").returncode == 0
    again = json.loads(kbuild("rollback", *node.options, "--dry-run", "--json").stdout)
    assert again["hosts"][0]["steps"] == []
    backups = json.loads(kbuild("rollback", *node.options, "--list", "--json").stdout)
    old, new = backups["hosts"][0]["backups"]
    assert (old["sha256"], new["sha256"]) == (
        sha256_of(releases.old / BINARY),
        sha256_of(releases.new / BINARY),
    )
    back = ("rollback", *node.options, "--yes", "--json", "--to")
    assert states(kbuild(*back, new["name"])) == ["changed"]
    assert has(node, releases.new)
    assert states(kbuild(*back, new["sha256"][:12])) == ["unchanged"]
    damaged = node.state / "kubeadm" / old["name"] / "kubeadm"
    damaged.write_bytes(b"damaged")
    done = kbuild(*back, old["sha256"])
    assert (done.returncode, states(done)) == (100, ["undone"])
    assert f"the backup {old['name']} is damaged" in done.stderr
    assert has(node, releases.new)
    done = kbuild(*back, "nonsense")
    assert done.returncode == 100
    assert "it has no backup nonsense; its backups: " + old["name"] in done.stderr


def test_what_other_runs_left_is_removed(
    node: Node, releases: Releases, kbuild: Callable[..., Done]
) -> None:
    for name in ("0123456789ab", "0123456789ab.part", "restore"):
        (node.bin / f".kubeadm.kbuild-{name}").write_text("left")
    assert install(kbuild, releases, node).returncode == 0
    assert nothing_is_left(node)
    assert has(node, releases.new)


def test_a_dry_run_changes_nothing(
    node: Node, releases: Releases, kbuild: Callable[..., Done]
) -> None:
    def everything() -> str:
        return node.run("ls -laR --full-time /usr/local/bin /var/lib /run")

    before = everything()
    for more in ((), ("--json",), ("--hold",)):
        done = kbuild("install", releases.new, *node.options, "--dry-run", *more)
        assert done.returncode == 0
        assert "back-up" in done.stdout
    done = kbuild("install", releases.new, *node.options)
    assert done.returncode == 2
    assert "error[not-confirmed]: nothing was changed on 1 host" in done.stderr
    assert everything() == before


@pytest.mark.parametrize(("program", "call"), [("dd", 2), ("mv", 2)], ids=["upload", "rename"])
def test_an_interrupted_run_gives_the_lock_back(
    program: str,
    call: int,
    node: Node,
    releases: Releases,
    kbuild: Callable[..., Done],
    tmp_path: Path,
) -> None:
    node.hold(program, call)
    with in_the_background(node, releases, tmp_path) as pid:
        node.is_held(program)
        os.kill(pid, signal.SIGINT)
        time.sleep(0.2)
        node.let_go(program)
    said = (tmp_path / "background.txt").read_text()
    assert "error[run-interrupted]" in said
    assert "kbuild" not in node.run("ls /run").split(), said
    assert (tmp_path / "code").read_text() == "130"
    if program == "dd":
        assert "n1: failed in the step copy: it was interrupted" in said
        assert "  | failed: n1" in said
    assert install(kbuild, releases, node).returncode == 0
    assert has(node, releases.new)
    assert nothing_is_left(node)


def test_a_log_is_for_its_user_alone_and_has_no_secrets(
    node: Node, releases: Releases, kbuild: Callable[..., Done], tmp_path: Path
) -> None:
    assert install(kbuild, releases, node).returncode == 0
    (log,) = (tmp_path / ".local/state/kbuild/runs").iterdir()
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    text = log.read_text()
    assert "n1 replace: swap" in text
    assert "n1: changed" in text
    assert "PRIVATE KEY" not in text


# --- connections ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, releases: Releases) -> Iterator[Node]:
    """Give a node for what is refused before anything is changed."""
    folder = tmp_path_factory.mktemp("shared") / "node"
    with running_node(folder, (releases.old / BINARY).read_bytes()) as made:
        yield made


def ask(kbuild: Callable[..., Done], node: Node, *more: object) -> Done:
    return kbuild("rollback", "--list", *node.options, *more)


def test_a_wrong_and_an_unknown_host_key(
    shared: Node, kbuild: Callable[..., Done], tmp_path: Path
) -> None:
    new_key(tmp_path / "other")
    key = (tmp_path / "other.pub").read_text().split()[1]
    (tmp_path / "wrong").write_text(f"[127.0.0.1]:{shared.port} ssh-ed25519 {key}\n")
    (tmp_path / "empty").write_text("")
    done = ask(kbuild, shared, "--known-hosts", tmp_path / "wrong")
    assert done.returncode == 100
    assert "does not match" in done.stderr
    assert "somebody else may be answering" in done.stderr
    done = ask(kbuild, shared, "--known-hosts", tmp_path / "empty")
    assert done.returncode == 100
    assert "No host key for" in done.stderr
    assert "compare the fingerprint that it shows" in done.stderr
    assert (tmp_path / "empty").read_text() == ""
    assert "Traceback" not in done.stderr


def test_a_wrong_key_of_the_user(shared: Node, kbuild: Callable[..., Done], tmp_path: Path) -> None:
    new_key(tmp_path / "other")
    text = (shared.folder / "config").read_text()
    text = text.replace(f"{shared.folder}/user_key", str(tmp_path / "other"))
    (tmp_path / "config").write_text(text)
    done = ask(kbuild, shared, "--ssh-config", tmp_path / "config")
    assert done.returncode == 100
    assert "n1: Authentication error" in done.stderr
    files = f"-F {tmp_path}/config -o UserKnownHostsFile={shared.folder}/known"
    assert f"see that `ssh {files} n1` works without a question" in done.stderr


def test_jumps_ports_users_and_ipv6_of_the_ssh_configuration(
    shared: Node, kbuild: Callable[..., Done], tmp_path: Path
) -> None:
    text = (shared.folder / "config").read_text()
    six = text.replace("n1", "six").replace("127.0.0.1", "::1")
    jump = text.replace("n1", "inner") + "  ProxyJump n1\n"
    hop = f"  UserKnownHostsFile {shared.folder}/known\n"
    (tmp_path / "config").write_text(text + hop + six + jump)
    names = ("--hosts", "inner,six", "--ssh-config", tmp_path / "config")
    done = ask(kbuild, shared, *names, "--limit", "inner,six")
    assert done.returncode == 0, done.stderr
    assert "all 2 hosts answered" in done.stderr


def test_a_machine_with_two_names_is_read_but_not_changed(
    shared: Node, releases: Releases, kbuild: Callable[..., Done], tmp_path: Path
) -> None:
    text = (shared.folder / "config").read_text()
    six = text.replace("n1", "six").replace("127.0.0.1", "::1")
    (tmp_path / "config").write_text(text + six)
    names = ("--hosts", "n1,six", "--ssh-config", tmp_path / "config")
    assert ask(kbuild, shared, *names).returncode == 0
    done = kbuild("install", releases.new, *shared.options, *names, "--yes")
    assert done.returncode == 100
    assert "six: it is the same machine as n1; leave one of them out" in done.stderr
    assert has(shared, releases.old)


def test_a_jump_host_that_is_unknown_is_not_asked_about(
    shared: Node, kbuild: Callable[..., Done], tmp_path: Path
) -> None:
    text = (shared.folder / "config").read_text()
    jump = text.replace("n1", "inner") + "  ProxyJump n1\n"
    (tmp_path / "config").write_text(text.replace("127.0.0.1", "localhost") + jump)
    names = ("--hosts", "inner", "--ssh-config", tmp_path / "config", "--limit", "inner")
    done = ask(kbuild, shared, *names)
    assert done.returncode == 100
    assert re.search(r"inner: No \S+ host key is known for \[localhost\]", done.stderr), done.stderr
    assert "compare the fingerprint that it shows" in done.stderr


SUDO = {
    "a password": ("echo 'sudo: a password is required' >&2; exit 1", "a password is required"),
    "not allowed": ("echo 'somebody may not run sudo on n1.' >&2; exit 1", "may not run sudo"),
    "useless": ('shift 2; exec "$@"', "the user is not root there"),
}


@pytest.mark.parametrize(("script", "says"), SUDO.values(), ids=SUDO)
def test_sudo_that_does_not_make_root(
    script: str,
    says: str,
    shared: Node,
    releases: Releases,
    kbuild: Callable[..., Done],
) -> None:
    sudo = shared.folder / "stubs/sudo"
    sudo.write_text(f"#!/bin/sh\n{script}\n")
    sudo.chmod(0o755)
    done = kbuild("install", releases.new, *shared.options, "--sudo", "--user", "somebody", "--yes")
    sudo.unlink()
    assert done.returncode == 100
    assert f"n1: {says}" in done.stderr or f" {says}" in done.stderr, done.stderr
    assert has(shared, releases.old)


# A character device 0:0 hides the file of its name (Documentation/filesystems/overlayfs.rst).
WITHOUT_SUDO = """\
mkdir -p /run/up /run/work
mknod /run/up/sudo c 0 0
mount -t overlay -o lowerdir=/usr/bin,upperdir=/run/up,workdir=/run/work over /usr/bin
"""


def test_sudo_that_is_missing(
    releases: Releases, kbuild: Callable[..., Done], tmp_path: Path
) -> None:
    old = (releases.old / BINARY).read_bytes()
    with running_node(tmp_path / "node", old, mounts=WITHOUT_SUDO) as node:
        words = (*node.options, "--sudo", "--user", "somebody", "--yes")
        done = kbuild("install", releases.new, *words)
        assert has(node, releases.old)
    assert done.returncode == 100
    assert "sudo" in done.stderr
    assert "not found" in done.stderr
    assert "let the user run sudo without a password" in done.stderr


CHATTY = """\
#!/bin/sh
echo "uid=77 welcome to this host"
printf '\\377\\376 not text\\n'
echo "kubeadm=none"
exec /bin/sh "$@"
"""


def test_a_login_shell_that_prints_a_banner(
    releases: Releases, kbuild: Callable[..., Done], tmp_path: Path
) -> None:
    shell = tmp_path / "chatty"
    shell.write_text(CHATTY)
    shell.chmod(0o755)
    old = (releases.old / BINARY).read_bytes()
    with running_node(tmp_path / "node", old, shell=str(shell)) as node:
        done = install(kbuild, releases, node, "--json")
        assert states(done) == ["changed"], done.stderr
        assert has(node, releases.new)


@pytest.mark.parametrize("name", ["bash", "tcsh", "csh", "fish", "busybox"])
def test_login_shells(
    name: str, releases: Releases, kbuild: Callable[..., Done], tmp_path: Path
) -> None:
    shell = shutil.which(name)
    if shell is None:
        pytest.skip(f"this machine has no {name}")
    if name == "busybox":  # it is a shell by the name sh
        (tmp_path / "sh").symlink_to(shell)
        shell = str(tmp_path / "sh")
    old = (releases.old / BINARY).read_bytes()
    # Nothing is written at home: it is full, and of nothing there a program can be made.
    home = "mount -t tmpfs -o nr_inodes=1,noexec home /root"
    with running_node(tmp_path / "node", old, shell=shell, mounts=home) as node:
        done = install(kbuild, releases, node, "--json")
        assert states(done) == ["changed"], done.stderr
        assert has(node, releases.new)
        assert kbuild("rollback", *node.options, "--yes").returncode == 0
        assert has(node, releases.old)
        assert nothing_is_left(node)


def test_a_host_that_is_down(kbuild: Callable[..., Done], shared: Node, tmp_path: Path) -> None:
    text = re.sub(r"Port \d+", "Port 1", (shared.folder / "config").read_text())
    (tmp_path / "config").write_text(text)
    begun = time.monotonic()
    done = ask(kbuild, shared, "--ssh-config", tmp_path / "config")
    assert done.returncode == 100
    assert "error[hosts-unreachable]" in done.stderr
    assert time.monotonic() - begun < 5


def test_a_read_only_file_system(
    releases: Releases, kbuild: Callable[..., Done], tmp_path: Path
) -> None:
    old = (releases.old / BINARY).read_bytes()
    mounts = "mount -o remount,ro,bind /usr/local/bin"
    with running_node(tmp_path / "node", old, mounts=mounts) as node:
        done = install(kbuild, releases, node)
        assert done.returncode == 100
        assert "n1: /usr/local/bin is read-only; mount it for writing" in done.stderr


def wait_for(is_so: Callable[[], bool], seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.02)


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
