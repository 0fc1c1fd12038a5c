"""The functions of renew.sh, in a shell, with a folder in place of the node's files."""

import base64
import hashlib
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import cast

import pytest

from kbuild.nodes.connection import Connection
from kbuild.nodes.renew.backups import list_backups
from kbuild.nodes.renew.manifest import edited, restart_edit
from kbuild.x509.api import read_certificate
from tests.support import authority
from tests.support.host_facts import HEALTHY
from tests.unit.nodes.test_renew_manifest import APISERVER, SCHEDULER

pytestmark = pytest.mark.slow  # it runs shells

LIBRARY = "".join(
    resources.files("kbuild.nodes").joinpath(name).read_text() for name in ("node.sh", "renew.sh")
)


# This machine may have a real API server, and each process of the tests has one of its own.
NAME = f"kube-{os.getpid()}"


class Shell:
    """Calls functions with the files of a node below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.kubernetes = root / "etc/kubernetes"
        self.manifests = self.kubernetes / "manifests"
        self.state = root / "state"
        self.programs = root / "bin"
        self.functions = ""  # in place of those of the library
        for folder in (self.manifests, self.state, self.programs, root / "kubelet"):
            folder.mkdir(parents=True)

    def __call__(self, *words: object, good: bool = True) -> str:
        """Call a function; return what it printed, or the last line of why it failed."""
        names = {
            "kubernetes": self.kubernetes,
            "manifests": self.manifests,
            "kubelet_files": self.root / "kubelet",
            "state": self.state,
            "backups": self.state / "backups",
            "base": self.state / "renewal",
            "run": self.root / "run",
        }
        settings = "\n".join(f"{name}={shlex.quote(str(value))}" for name, value in names.items())
        path = f"PATH={shlex.quote(str(self.programs))}:$PATH"
        script = f"{LIBRARY}\n{settings}\n{path}\n{self.functions}\n{shlex.join(map(str, words))}\n"
        done = subprocess.run(
            ["sh", "-s"], input=script, capture_output=True, text=True, check=False, timeout=60
        )
        assert (done.returncode == 0) is good, done
        return done.stdout if good else done.stderr.strip().splitlines()[-1]

    def program(self, name: str, script: str) -> None:
        file = self.programs / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)

    def rewrite(self, name: str, value: str, *, good: bool = True) -> str:
        file = self.manifests / f"{name}.yaml"
        content = file.read_bytes()
        edit = restart_edit(content, value)
        words = (edit.line, edit.removed, edit.text, sha(edited(content, edit)))
        return self("rewrite", name, file, sha(content), sha(content), *words, good=good)


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    node = Shell(tmp_path / "node")
    authority.control_plane(node.kubernetes)
    for name in ("kube-apiserver", NAME):
        (node.manifests / f"{name}.yaml").write_bytes(APISERVER)
    (node.root / "kubelet/config.yaml").write_text("staticPodPath: /etc/kubernetes/manifests\n")
    (node.root / "kubelet/pki").mkdir()
    (node.root / "kubelet/pki/kubelet.crt").write_text("a certificate\n")
    return node


def test_backups_are_listed_with_what_is_in_them(shell: Shell) -> None:
    shell.program("kubectl", 'echo "kind: ConfigMap # $*"')
    (shell.root / "run/lock").mkdir(parents=True)
    (shell.root / "run/lock/run").write_text("20261126T120000Z-0a0b0c0d\n")
    shell("keep", "20261126T120000Z-renew", "kubelet-config-1.20", "kubectl", "")
    shell("keep", "20261127T120000Z-renew", "kubelet-config-1.20", "", "")
    damaged = shell.state / "backups/20261127T120000Z-renew/kubernetes/pki/ca.crt"
    damaged.write_text("another")

    node = type("Node", (), {"call": lambda _, function, **__: shell(function.function)})()
    found, refused = list_backups([HEALTHY], {"n1": cast("Connection", node)}, 1)
    assert refused == []
    first, second = found["n1"]
    assert (first.name, first.run) == ("20261126T120000Z-renew", "20261126T120000Z-0a0b0c0d")
    assert first.parts == (
        "kubernetes",
        "kubelet",
        "kubeadm-config.yaml",
        "kubelet-config-1.20.yaml",
    )
    assert first.missing == ("a snapshot of etcd",)
    assert (
        first.until
        == read_certificate((shell.kubernetes / "pki/apiserver.crt").read_bytes()).not_after
    )
    assert (first.is_whole, second.is_whole) == (True, False)
    assert "the ConfigMap kubeadm-config" in second.missing


def test_a_node_without_backups_has_none_to_list(shell: Shell) -> None:
    assert shell("list_backups") == ""


@pytest.mark.parametrize("content", [APISERVER, SCHEDULER, b"metadata:\n  name: last"])
def test_a_manifest_is_rewritten_as_planned_and_keeps_its_mode(
    shell: Shell, content: bytes
) -> None:
    file = shell.manifests / "kube-apiserver.yaml"
    file.write_bytes(content)
    file.chmod(0o640)
    for value in ("first", "second"):
        expected = edited(file.read_bytes(), restart_edit(file.read_bytes(), value))
        shell.rewrite("kube-apiserver", value)
        assert file.read_bytes() == expected
        assert file.stat().st_mode & 0o777 == 0o640
    assert len(list(shell.manifests.iterdir())) == 2
    assert not list(shell.kubernetes.glob(".*"))


def test_a_manifest_that_was_changed_after_the_plan_is_left_alone(shell: Shell) -> None:
    file = shell.manifests / "kube-apiserver.yaml"
    old = sha(APISERVER)
    file.write_bytes(APISERVER + b"# changed\n")
    said = shell("rewrite", "kube-apiserver", file, old, old, 1, 0, "x\n", "0" * 64, good=False)
    assert "sha256" in said or "changed" in said
    assert file.read_bytes() == APISERVER + b"# changed\n"


def test_a_manifest_that_is_not_as_planned_never_takes_its_place(shell: Shell) -> None:
    file = shell.manifests / "kube-apiserver.yaml"
    words = (file, sha(APISERVER), sha(APISERVER), 1, 0, "x\n", "0" * 64)
    assert "sha256" in shell("rewrite", "kube-apiserver", *words, good=False)
    assert file.read_bytes() == APISERVER
    assert not list(shell.kubernetes.glob(".*"))


def test_a_backup_is_whole_and_only_root_may_read_it(shell: Shell) -> None:
    shell.program("kubectl", 'echo "kind: ConfigMap # $*"')
    shell("keep", "g1", "kubelet-config-1.20", "kubectl", "")
    kept = shell.state / "backups/g1"
    for file in shell.kubernetes.rglob("*"):
        if file.is_file():
            copy = kept / "kubernetes" / file.relative_to(shell.kubernetes)
            assert copy.read_bytes() == file.read_bytes()
            assert copy.stat().st_mode == file.stat().st_mode
    assert kept.stat().st_mode & 0o777 == 0o700
    assert (kept / "kubelet/pki/kubelet.crt").read_text() == "a certificate\n"
    assert "kubelet-config-1.20" in (kept / "kubelet-config-1.20.yaml").read_text()
    assert (kept / "missing").read_text() == "a snapshot of etcd\n"
    shell("has_base", "g1")
    assert shell("find_base") == "g1"
    (kept / "kubernetes/pki/ca.key").write_text("another")
    assert "damaged" in shell("has_base", "g1", good=False)
    assert shell("find_base") == ""


def test_a_backup_without_kubectl_says_what_it_does_not_have(shell: Shell) -> None:
    shell("keep", "g1", "kubelet-config", "", "")
    missing = (shell.state / "backups/g1/missing").read_text()
    assert missing.count("ConfigMap") == 2


def test_a_snapshot_that_cannot_be_made_or_read_is_no_backup(shell: Shell) -> None:
    (shell.manifests / "etcd.yaml").write_bytes(SCHEDULER)
    shell.program("etcdctl", 'case "$*" in *save*) echo "no space" >&2; exit 1;; esac')
    assert "no space" in shell("keep", "g1", "kubelet-config", "", "etcdctl", good=False)
    shell.program("etcdctl", 'case "$*" in *status*) echo "bad file" >&2; exit 1;; esac')
    assert "bad file" in shell("keep", "g1", "kubelet-config", "", "etcdctl", good=False)
    assert not list((shell.state / "backups").iterdir())


def test_a_full_disk_leaves_no_backup(shell: Shell) -> None:
    shell.program("cp", "exit 1")
    assert "no space" in shell("keep", "g1", "kubelet-config", "", "", good=False)
    assert not list((shell.state / "backups").iterdir())


def test_files_of_a_backup_come_back_with_a_new_time(shell: Shell) -> None:
    shell("keep", "g1", "kubelet-config", "", "")
    certificate = shell.kubernetes / "pki/apiserver.crt"
    untouched = shell.kubernetes / "pki/ca.crt"
    old, mode, before = certificate.read_bytes(), certificate.stat().st_mode, time.time()
    os.utime(shell.state / "backups/g1/kubernetes/pki/apiserver.crt", (1, 1))
    untouched_at = untouched.stat().st_mtime_ns
    certificate.write_bytes(b"renewed")
    kubelet = shell.kubernetes / "kubelet.conf"
    kubelet.write_text("rotated")
    assert "not those" in shell("has_files", "g1", good=False)
    shell("restore_files", "g1")
    shell("has_files", "g1")
    assert certificate.read_bytes() == old
    assert certificate.stat().st_mode == mode
    assert certificate.stat().st_mtime >= before - 1
    assert untouched.stat().st_mtime_ns == untouched_at
    assert kubelet.read_text() == "rotated"


def test_what_is_left_of_a_backup_is_none_and_does_not_stay(shell: Shell) -> None:
    shell("keep", "g1", "kubelet-config", "", "")
    backups = shell.state / "backups"
    shutil.copytree(backups / "g1", backups / "20261101T000000Z-renew.part")
    assert "renew.part" not in shell("list_backups") + shell("control_plane")
    shell("keep", "g2", "kubelet-config", "", "")
    assert sorted(each.name for each in backups.iterdir()) == ["g1", "g2"]


LINKED = ("etc/kubernetes", "etc/kubernetes/pki", "etc/kubernetes/pki/apiserver.crt")


@pytest.mark.parametrize("linked", LINKED)
def test_what_links_lead_to_is_kept_and_comes_back(shell: Shell, linked: str) -> None:
    place, elsewhere = shell.root / linked, shell.root / "elsewhere"
    place.rename(elsewhere)
    place.symlink_to(elsewhere)
    (shell.kubernetes / "nowhere").symlink_to(shell.root / "nothing")
    shell("keep", "g1", "kubelet-config", "", "")
    certificate = shell.kubernetes / "pki/apiserver.crt"
    old = certificate.read_bytes()
    assert (shell.state / "backups/g1/kubernetes/pki/apiserver.crt").read_bytes() == old
    size = int(shell("size_of", shell.kubernetes))
    assert size > int(shell("size_of", shell.kubernetes / "pki/etcd")) > 0
    certificate.write_bytes(b"renewed")
    os.utime(certificate, (1000, 1000))
    assert "certificate=pki/apiserver.crt 1000 " in shell("certificates")
    shell("is_whole", "g1")  # it does not change with the files
    assert "not those" in shell("has_files", "g1", good=False)
    shell("restore_files", "g1")
    shell("has_files", "g1")
    assert certificate.read_bytes() == old
    assert place.is_symlink()


def test_links_of_kubelet_stay_links_in_a_backup(shell: Shell) -> None:
    pki = shell.root / "kubelet/pki"
    pki.mkdir(exist_ok=True)
    dated = pki / "kubelet-client-2026-01-31-12-00-00.pem"
    dated.write_bytes(b"its certificate and key")
    current = pki / "kubelet-client-current.pem"
    current.unlink(missing_ok=True)
    current.symlink_to(dated)
    server = pki / "kubelet-server-current.pem"
    server.symlink_to("/etc/hostname")
    shell("keep", "g1", "kubelet-config", "", "")
    kept = shell.state / "backups/g1/kubelet/pki"
    assert (kept / current.name).readlink() == Path(dated.name)
    assert not (kept / server.name).is_symlink()
    dated.unlink()
    shell("is_whole", "g1")
    assert (kept / current.name).read_bytes() == b"its certificate and key"


def test_going_back_puts_the_old_manifest_back(shell: Shell) -> None:
    shell("keep", "g1", "kubelet-config", "", "")
    shell.rewrite(NAME, "now")
    with component(shell, NAME):
        shell("go_back", "g1", NAME, 8)
    assert (shell.manifests / f"{NAME}.yaml").read_bytes() == APISERVER
    shell.rewrite(NAME, "now")
    assert "does not run" in shell("go_back", "g1", NAME, 2, good=False)
    assert (shell.manifests / f"{NAME}.yaml").read_bytes() == APISERVER


class component:  # reads like a function
    """A process with the name of a component."""

    def __init__(self, shell: Shell, name: str) -> None:
        program = shell.programs / name
        if not program.exists():
            program.symlink_to("/bin/sleep")
        self._program = program

    def __enter__(self) -> int:
        self._process = subprocess.Popen([self._program, "60"])
        time.sleep(0.1)
        return self._process.pid

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def old_process(shell: Shell) -> Iterator[int]:
    with component(shell, NAME) as pid:
        yield pid


def test_a_process_is_found_with_its_start(shell: Shell, old_process: int) -> None:
    (line,) = shell("process", NAME).splitlines()
    name, pid, _, started = line.removeprefix("process=").split(" ")
    assert (name, int(pid)) == (NAME, old_process)
    assert abs(int(started) - time.time()) < 30
    assert shell("process", f"{NAME}-2") == ""


@pytest.mark.usefixtures("old_process")
def test_a_process_that_goes_on_is_no_restart(shell: Shell) -> None:
    shell.rewrite(NAME, "now")
    said = shell("restarted", NAME, 1, good=False)
    assert "did not restart" in said
    assert "old process still runs" in said


def test_another_process_is_a_restart(shell: Shell) -> None:
    with component(shell, NAME):
        shell.rewrite(NAME, "now")
    assert "did not start it again" in shell("restarted", NAME, 1, good=False)
    with component(shell, NAME) as pid:
        assert f"process={NAME} {pid} " in shell("restarted", NAME, 5)


def test_a_copy_of_a_manifest_that_kubelet_reads_too_is_found(shell: Shell) -> None:
    (shell.manifests / f"{NAME}.yaml").unlink()
    assert "twin=" not in shell("control_plane")
    (shell.manifests / "kube-apiserver.yaml.bak").write_bytes(APISERVER)
    (shell.manifests / ".kube-apiserver.yaml.old").write_bytes(APISERVER)
    (shell.manifests / "kube-vip.yaml").write_bytes(
        b"kind: Pod\nmetadata:\n  name: kube-vip\nspec:\n  containers:\n  - name: kube-apiserver\n"
    )
    said = shell("control_plane").splitlines()
    assert [line for line in said if line.startswith("twin=")] == [
        "twin=kube-apiserver kube-apiserver.yaml.bak"
    ]


def test_control_plane_shows_public_parts_only(shell: Shell) -> None:
    said = shell("control_plane")
    assert (
        f"manifest=kube-apiserver {int((shell.manifests / 'kube-apiserver.yaml').stat().st_mtime)} "
        in said
    )
    keys = list(shell.kubernetes.rglob("*.key"))
    assert keys
    shown = [
        base64.b64decode(line.split(" ")[2])
        for line in said.splitlines()
        if line.startswith(("certificate=", "manifest="))
    ]
    assert any(b"CERTIFICATE" in content for content in shown)
    assert not any(b"PRIVATE" in content for content in shown)
    for key in keys:
        assert base64.b64encode(key.read_bytes()).decode()[:64] not in said
    (shell.kubernetes / "pki/ca.key").unlink()
    assert "missing=pki/ca.key" in shell("control_plane")


def test_a_renewal_is_marked_until_it_ends(shell: Shell) -> None:
    shell("keep", "g1-renew", "kubelet-config", "", "")
    shell.program("kubeadm", 'echo "$*" >>"$0.log"')
    shell("renew_certificates", "g1-renew", "kubeadm", "certs", "renew", "all")
    shell("has_renewed", "g1-renew")
    assert "base=g1-renew" in shell("control_plane")
    assert "no end" in shell("unfinished_base", good=False)
    noted = shell.root / "run/etcd.before"
    noted.parent.mkdir(exist_ok=True)
    noted.touch()
    shell("finish")
    assert not noted.exists()
    shell("unfinished_base")
    assert "not renewed" in shell("has_renewed", "g1-renew", good=False)
    shell.program("kubeadm", "echo it says why >&2; exit 1")
    said = shell("renew_certificates", "g1-renew", "kubeadm", "certs", "renew", "all", good=False)
    assert said == "kubeadm failed: it says why"


def test_a_drain_ends_by_itself(shell: Shell) -> None:
    rules = shell.root / "rules"
    rules.touch()
    shell.program(
        "iptables",
        f"""r={rules}
case "$*" in
  *-L*) ;;
  *-I*) echo "$*" >>$r ;;
  *-S*) cat $r ;;
  *-C*) test -s $r ;;
  *-D*) test -s $r && : >$r ;;
esac""",
    )
    shell.program("ip6tables", "exit 1")
    shell.program("nft", "exit 1")
    shell("drain", 6443, 2, 0)
    shell("drained", 6443)
    time.sleep(3)
    shell("undrained", 6443)
    shell("drain", 6443, 60, 0)
    assert "drained=6443\n" in shell("control_plane")
    assert "still rejected" in shell("undrained", 6443, good=False)
    pid = int((shell.root / "run/drain.pid").read_text())
    shell("undrain", 6443)
    shell("undrained", 6443)
    assert "drained=" not in shell("control_plane")
    for _ in range(20):
        if not Path(f"/proc/{pid}").exists():
            break
        time.sleep(0.1)
    assert not Path(f"/proc/{pid}").exists()


def test_without_iptables_nft_gets_the_rule(shell: Shell) -> None:
    rules = shell.root / "rules"
    shell.program("iptables", "exit 1")
    shell.program(
        "nft", f'case "$*" in "-f -") cat >{rules} ;; "list tables") ;; *) exit 1 ;; esac'
    )
    shell("drain", 6443, 60, 0)
    shell("undrain", 6443)
    assert rules.read_text().splitlines() == [
        "table inet kbuild_drain {",
        "  chain input {",
        "    type filter hook input priority -10;",
        '    iifname != "lo" tcp dport 6443 tcp flags & (syn|ack) == syn reject with tcp reset',
        "  }",
        "}",
    ]


def test_scripts_for_nodes_have_no_here_documents() -> None:
    """Before 5.1, bash writes here-documents to files in /tmp, which may be full or read-only."""
    assert "<<" not in LIBRARY
    assert "<<" not in resources.files("kbuild.nodes").joinpath("check.sh").read_text()
