"""The functions of renew.sh that repair an expired node, in a shell."""

import base64
import os
import re
import time
from pathlib import Path

import pytest
import yaml

from kbuild.x509.api import read_content
from tests.support import authority
from tests.unit.nodes.test_renew_shell import NAME, Shell, component, shell

__all__ = ["shell"]
pytestmark = pytest.mark.slow  # it runs shells

OLD = authority.issue("system:node:n1")
NEW = authority.issue("system:node:n1", years=100)
CONFIGURATION = "kind: InitConfiguration\n"
KINDS = re.compile("(certificate|kubelet_client)=")


@pytest.fixture
def expired(shell: Shell) -> Shell:
    """Give a node whose kubelet rotates its certificate, and a kubeadm that makes another."""
    current = pki(shell) / "kubelet-client-current.pem"
    first = current.with_name("kubelet-client-2025-01-01-00-00-00.pem")
    first.write_bytes(OLD.pem + OLD.key_pem)
    current.symlink_to(first)
    files = {"client_certificate": str(current), "client_key": str(current)}
    conf = authority.kubeconfig("default-auth", OLD, OLD, **files)
    authority.write_kubeconfig(shell.kubernetes / "kubelet.conf", conf)
    made = shell.root / "made"
    authority.write_kubeconfig(made, authority.kubeconfig("system:node:n1", NEW, OLD))
    work = shell.root / "run/repair"
    shell.program("kubeadm", f'cp "{made}" "{work}/kubelet.conf"; cat "{work}/kubeadm.yaml" >&2')
    shell("keep", "g1-repair-renew", "kubelet-config", "", "")
    return shell


def pki(shell: Shell) -> Path:
    return shell.root / "kubelet/pki"


def make(shell: Shell, *, good: bool = True) -> str:
    words = ("g1-repair-renew", "kubelet.conf", shell.root / "run/repair", CONFIGURATION)
    return shell("make_kubeconfig", *words, "kubeadm", "init", good=good)


def test_kubelet_gets_its_certificate_as_if_it_had_rotated_it(expired: Shell) -> None:
    conf = (expired.kubernetes / "kubelet.conf").read_bytes()
    make(expired)
    expired("has_made", "g1-repair-renew", "kubelet.conf")
    current = pki(expired) / "kubelet-client-current.pem"
    assert current.is_symlink()
    assert current.read_bytes() == NEW.pem + NEW.key_pem
    assert current.resolve().stat().st_mode & 0o777 == 0o600
    assert (expired.kubernetes / "kubelet.conf").read_bytes() == conf
    assert not (expired.root / "run/repair").exists()
    assert not list(pki(expired).glob("*.part"))


@pytest.mark.parametrize("has_conf", [True, False])
def test_a_kubelet_conf_with_its_certificate_in_it_is_replaced(
    expired: Shell, has_conf: bool
) -> None:
    file = expired.kubernetes / "kubelet.conf"
    file.unlink()
    if has_conf:
        authority.write_kubeconfig(file, authority.kubeconfig("system:node:n1", OLD, OLD))
    make(expired)
    assert file.read_bytes() == (expired.root / "made").read_bytes()
    assert file.stat().st_mode & 0o777 == 0o600
    # kubelet would prefer the old one there.
    assert not (pki(expired) / "kubelet-client-current.pem").is_symlink()


@pytest.mark.parametrize(
    ("kubeadm", "reason"),
    [
        ("echo it says why >&2; exit 1", "kubeadm failed: it says why"),
        ("exit 0", "without client-certificate-data"),
    ],
)
def test_a_kubeadm_that_makes_nothing_changes_nothing(
    expired: Shell, kubeadm: str, reason: str
) -> None:
    before = (pki(expired) / "kubelet-client-current.pem").read_bytes()
    expired.program("kubeadm", kubeadm)
    assert reason in make(expired, good=False)
    assert (pki(expired) / "kubelet-client-current.pem").read_bytes() == before
    assert "has not made" in expired("has_made", "g1-repair-renew", "kubelet.conf", good=False)
    assert not (expired.root / "run/repair").exists()


def test_renewal_gets_the_configuration_which_does_not_stay(expired: Shell) -> None:
    log = expired.root / "log"
    work = expired.root / "run/repair"
    expired.program("kubeadm", f'cat "{work}/kubeadm.yaml" >"{log}"; echo "$*" >>"{log}"')
    words = ("renew_without_cluster", "g1-repair-renew", work, CONFIGURATION, "kubeadm", "renew")
    expired(*words)
    assert log.read_text() == f"{CONFIGURATION}renew\n"
    expired("has_renewed", "g1-repair-renew")
    assert not work.exists()
    expired("finish")
    assert not list(expired.state.glob("renewal*"))


def test_clients_of_kubelet_are_shown_without_their_keys(expired: Shell) -> None:
    said = expired("kubelet_clients")
    assert "kubelet_conf=rotated" in said
    (line,) = [line for line in said.splitlines() if line.startswith("kubelet_client=")]
    assert shown(line) == [OLD.der]
    file = expired.kubernetes / "kubelet.conf"
    authority.write_kubeconfig(file, authority.kubeconfig("system:node:n1", NEW, OLD))
    said = expired("kubelet_clients")
    assert "rotated" not in said
    lines = [line for line in said.splitlines() if line.startswith("kubelet_client=")]
    assert [shown(line) for line in lines] == [[OLD.der], [NEW.der]]


def shown(line: str) -> list[bytes]:
    """Return the certificates in a line, and see that it has nothing of a key."""
    content = base64.b64decode(line.rpartition(" ")[2])
    assert secret_lines(content) == []
    return [each.der for each in read_content(content).certificates]


def secret_lines(content: bytes) -> list[bytes]:
    keys = [line for each in (OLD, NEW) for line in each.key_pem.splitlines()[1:-1]]
    return [line for line in keys if line in content]


@pytest.mark.parametrize("lost", ["the end", "the begin of the key"])
def test_of_a_certificate_that_is_damaged_no_key_leaves_the_node(expired: Shell, lost: str) -> None:
    lines = [*OLD.pem.splitlines()[:-1], *OLD.key_pem.splitlines()]
    if lost == "the end":
        lines.append(b"-----END CERTIFICATE-----")
    else:
        lines.remove(b"-----BEGIN PRIVATE KEY-----")
        lines[-1] = b"-----END CERTIFICATE-----"
    damaged = b"\n".join([*lines, b""])
    (pki(expired) / "kubelet-client-current.pem").write_bytes(damaged)
    (expired.kubernetes / "pki/apiserver.crt").write_bytes(damaged)
    conf = authority.kubeconfig("system:node:n1", NEW, OLD).decode()
    text = base64.b64encode(NEW.pem).decode(), base64.b64encode(damaged).decode()
    for name in ("admin.conf", "kubelet.conf"):
        (expired.kubernetes / name).write_text(conf.replace(*text))
    for function, count in (("kubelet_clients", 2), ("certificates", 3)):
        said = [line for line in expired(function).splitlines() if KINDS.match(line)]
        assert sum(not shown(line) for line in said) == count, said


def test_the_server_is_known_without_a_kubelet_conf(expired: Shell) -> None:
    (expired.kubernetes / "kubelet.conf").unlink()
    assert "server=https://192.0.2.1:6443" in expired("control_plane")


def test_the_server_is_that_of_clients_and_not_that_of_kubelet(expired: Shell) -> None:
    """Since v1.31, kubelet of a control plane asks its own API server."""
    balancer = b"    server: https://balancer:6443\n"
    (expired.kubernetes / "super-admin.conf").write_bytes(balancer)
    (expired.kubernetes / "admin.conf").unlink()
    assert "server=https://balancer:6443\n" in expired("control_plane")
    (expired.kubernetes / "admin.conf").write_bytes(balancer.replace(b"balancer", b"other"))
    assert "server=https://other:6443\n" in expired("control_plane")


def test_the_stored_lifetime_is_that_of_the_newest_backup(expired: Shell) -> None:
    assert expired("stored_leaf") == ""
    for name, hours in (("1", "24h"), ("2", "876000h")):
        folder = expired.state / f"backups/{name}"
        folder.mkdir()
        text = f"data:\n  ClusterConfiguration: |\n    certificateValidityPeriod: {hours}0m0s\n"
        (folder / "kubeadm-config.yaml").write_text(text)
    assert expired("stored_leaf") == "stored_leaf=876000h0m0s\n"


@pytest.mark.parametrize("is_running", [True, False])
def test_the_data_of_etcd_is_kept_only_while_etcd_does_not_run(
    shell: Shell, is_running: bool
) -> None:
    data = shell.root / "etcd"
    (data / "member/snap").mkdir(parents=True)
    (data / "member/snap/db").write_text("data\n")
    shell("keep_data", make_part(shell, is_running=is_running), data)
    part = shell.root / "part"
    assert (part / "etcd/member/snap/db").exists() is not is_running
    assert (part / "missing").exists() is is_running


def make_part(shell: Shell, *, is_running: bool) -> Path:
    part = shell.root / "part"
    part.mkdir()
    # In place of the processes of this machine, which may have an etcd.
    shell.functions = f"processes_of() {{ {'echo 1 2' if is_running else ':'}; }}"
    return part


def test_a_component_has_read_what_was_written_before_it_started(shell: Shell) -> None:
    file = shell.kubernetes / "pki/apiserver.crt"
    with component(shell, NAME):
        started = time.time()
        os.utime(file, (started - 60, started - 60))
        shell("has_read", NAME, 0, "pki/apiserver.crt", "pki/none.crt")
        assert "may end again" in shell("has_read", NAME, 60, "pki/apiserver.crt", good=False)
        os.utime(file, (started + 60, started + 60))
        assert "has not read" in shell("has_read", NAME, 0, "pki/apiserver.crt", good=False)
    assert "does not run" in shell("has_read", NAME, 0, "pki/apiserver.crt", good=False)


def test_kubelet_is_restarted_and_must_stay(shell: Shell) -> None:
    log = shell.root / "log"
    shell.program("systemctl", f'echo "$*" >>"{log}"')
    shell("restart_kubelet")
    assert log.read_text().splitlines() == ["reset-failed kubelet", "restart kubelet"]
    shell.program("systemctl", "echo it says why >&2; exit 1")
    assert shell("restart_kubelet", good=False) == "kubelet cannot be started: it says why"
    counter = shell.root / "counter"
    shell.functions = f'processes_of() {{ echo x >>"{counter}"; wc -l <"{counter}"; }}'
    assert "does not stay" in shell("kubelet_stays", 3, good=False)
    shell.functions = "processes_of() { echo 1 2; }"
    shell("kubelet_stays", 8)


TOKEN = "abcdef.0123456789abcdef"
UNIT = """\
[Service]
Environment="KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig={file} --kubeconfig=kubelet.conf"
"""


def kubelet_gets(shell: Shell, certificate: bytes) -> None:
    """Make a restart of kubelet keep the kubeconfig with the token, and write a certificate."""
    (shell.root / "new").write_bytes(certificate)
    bootstrap = shell.kubernetes / "bootstrap-kubelet.conf"
    current = pki(shell) / "kubelet-client-current.pem"
    unit = shell.root / "unit"
    unit.write_text(UNIT.format(file=bootstrap))
    shell.program(
        "systemctl",
        f'''case $1 in
  cat) cat "{unit}" ;;
  restart) cp -p "{bootstrap}" "{shell.root}/seen"; cat "{shell.root}/new" >"{current}" ;;
esac''',
    )
    shell.functions = f"secret={TOKEN}"


def test_kubelet_of_a_worker_gets_a_certificate_with_a_token_that_does_not_stay(
    expired: Shell,
) -> None:
    kubelet_gets(expired, NEW.pem + NEW.key_pem)
    expired("join_again", "g1-repair-renew", 5)
    expired("has_made", "g1-repair-renew", "kubelet.conf")
    seen = expired.root / "seen"
    assert seen.stat().st_mode & 0o777 == 0o600
    made = yaml.safe_load(seen.read_text())
    assert made["users"][0]["user"] == {"token": TOKEN}
    old = yaml.safe_load((expired.kubernetes / "kubelet.conf").read_text())
    assert made["clusters"][0]["cluster"] == old["clusters"][0]["cluster"]
    assert "certificate-authority-data" in made["clusters"][0]["cluster"]
    assert not list(expired.kubernetes.glob("bootstrap*"))
    assert "base=g1-repair-renew" in expired("worker_facts")
    bootstrap = expired.kubernetes / "bootstrap-kubelet.conf"
    bootstrap.write_bytes(seen.read_bytes())  # as after a loss of power
    assert "bootstrap=other" not in expired("worker_facts")
    expired("end_joining")
    assert not bootstrap.exists()
    bootstrap.write_text("kind: Config\n")
    said = expired("worker_facts").splitlines()
    assert {"bootstrap=other", "base="} <= set(said)
    expired("end_joining")
    assert bootstrap.exists()


def test_a_kubelet_that_cannot_be_restarted_keeps_no_token(expired: Shell) -> None:
    kubelet_gets(expired, b"")
    expired.program("systemctl", "echo it says why >&2; exit 1")
    said = expired("join_again", "g1-repair-renew", 1, good=False)
    assert said == "kubelet cannot be started: it says why"
    assert not list(expired.kubernetes.glob("bootstrap*"))


@pytest.mark.parametrize(
    ("unit", "is_there"),
    [
        ("ExecStart=/usr/bin/kubelet --bootstrap-kubeconfig={file}", True),
        ("ExecStart=/usr/bin/kubelet --bootstrap-kubeconfig {file} --v=2", True),
        ("Environment='ARGS=--bootstrap-kubeconfig={file}'", True),
        ("#Environment=ARGS=--bootstrap-kubeconfig={file}", False),
        ("ExecStart=/usr/bin/kubelet --bootstrap-kubeconfig={file}.old", False),
    ],
)
def test_the_flag_of_kubelet_is_recognised(expired: Shell, unit: str, is_there: bool) -> None:
    kubelet_gets(expired, b"")
    text = unit.format(file=expired.kubernetes / "bootstrap-kubelet.conf")
    (expired.root / "unit").write_text(text)
    assert ("bootstraps=yes" in expired("worker_facts").splitlines()) is is_there


def test_a_kubelet_that_gets_no_certificate_keeps_no_token(expired: Shell) -> None:
    kubelet_gets(expired, OLD.pem + OLD.key_pem)
    said = expired("join_again", "g1-repair-renew", 1, good=False)
    assert said.startswith("kubelet got no certificate within 1 seconds")
    assert "has not made" in expired("has_made", "g1-repair-renew", "kubelet.conf", good=False)
    assert not list(expired.kubernetes.glob("bootstrap*"))


def test_a_worker_tells_with_what_its_kubelet_could_log_in(expired: Shell) -> None:
    kubelet_gets(expired, b"")
    said = expired("worker_facts").splitlines()
    assert "server=https://192.0.2.1:6443" in said
    assert {"authority=yes", "bootstraps=yes", "servers=1"} <= set(said)
    (expired.root / "unit").write_text(UNIT.format(file="/elsewhere/bootstrap-kubelet.conf"))
    (expired.kubernetes / "kubelet.conf").unlink()
    said = expired("worker_facts").splitlines()
    assert "server=" in said
    assert not {"authority=yes", "bootstraps=yes"} & set(said)


def test_a_token_is_made_from_a_file_that_does_not_stay_and_is_removed(shell: Shell) -> None:
    log, work, there = (shell.root / name for name in ("log", "work", "there"))
    shell.program(
        "kubeadm",
        f'''case $2 in
  create) echo "$*" >"{log}"; cat "{work}/kubeadm.yaml" >>"{log}"; echo {TOKEN} | tee "{there}" ;;
  list) cat "{there}" 2>/dev/null ;;
  delete) rm "{there}" ;;
esac''',
    )
    shell.functions = f"secret={TOKEN}"
    assert "there is no token" in shell("has_token", "kubeadm", "abcdef", good=False)
    assert shell("make_token", "kubeadm", work, "bootstrapTokens:\n- token: ") == ""
    words, *text = log.read_text().splitlines()
    assert TOKEN not in words
    assert text == ["bootstrapTokens:", f"- token: {TOKEN}"]
    assert not work.exists()
    assert shell("has_token", "kubeadm", "abcdef") == ""
    for _ in range(2):
        shell("remove_token", "kubeadm", "abcdef")
        assert not there.exists()
    shell.program("kubeadm", "echo it says why >&2; exit 1")
    said = shell("make_token", "kubeadm", work, "", good=False)
    assert said == "kubeadm cannot make a token: it says why"
    assert not work.exists()
