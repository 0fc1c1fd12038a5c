"""``kbuild pki`` on the command line."""

import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import Done, run_here
from tests.unit.pki.conftest import Recipe, facts, snapshot

NODES = """\
key = "ecdsa-p256"
components = ["etcd", "apiserver", "kubelet", "admin"]
# Ours
vips = ["192.0.2.100"]  # the load balancer

[nodes.m1]
addresses = [
  "192.0.2.11",  # eth0
]
roles = ["control-plane", "etcd"]
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return Recipe(tmp_path)


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    (tmp_path / "pki.toml").write_text(NODES)
    assert pki("issue", tmp_path).returncode == 0
    return tmp_path


def pki(command: str, folder: Path, *words: str) -> Done:
    return run_here("pki", command, *words, "--dir", folder, "-q")


def document(command: str, folder: Path, *words: str) -> Any:
    done = pki(command, folder, *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def written(found: Any) -> set[str]:
    return {each["name"] for each in found["written"]}


def test_from_a_first_file_to_a_checked_pki(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    assert document("init", folder) == {"file": str(folder / "pki.toml")}
    text = (folder / "pki.toml").read_text().replace("rsa-2048", "ecdsa-p256", 2)
    (folder / "pki.toml").write_text(text.replace('key = "rsa-2048"', 'key = "ecdsa-p256"'))
    planned = document("plan", folder)
    assert {each["state"] for each in planned["certificates"]} == {"missing"}
    assert not (folder / "pki").exists()
    assert written(document("issue", folder)) == {each["name"] for each in planned["certificates"]}
    found = document("check", folder, "--fail-before", "90d")
    assert {each["chain"] for each in found["certificates"]} == {"verified", "self-signed"}
    assert [each for each in found["findings"] if each["severity"] == "critical"] == []


def test_a_second_plan_is_refused(recipe: Recipe) -> None:
    done = pki("init", recipe.folder)
    assert (done.returncode, "error[plan-exists]" in done.stderr) == (2, True)
    assert not (recipe.folder / "pki.toml").exists()


def test_a_plan_says_what_it_is_made_from_and_why(recipe: Recipe) -> None:
    pki("issue", recipe.folder)
    recipe.change("server", hosts=["n1"])
    done = pki("plan", recipe.folder)
    [line] = [line for line in done.stdout.splitlines() if line.startswith("server")]
    assert line.split()[:5] == ["server", "changed", "ca", "5", "years"]
    assert "server-csr.json, profile server  it has 127.0.0.1, not planned" in line
    assert "1 certificate to issue, 2 as planned." in done.stdout


def test_a_plan_fails_where_its_run_would(tmp_path: Path) -> None:
    (tmp_path / "pki.toml").write_text(f"ca-years = 5\nleaf-years = 10\n{NODES}")
    for command in ("plan", "issue"):
        done = pki(command, tmp_path)
        assert (done.returncode, "error[leaf-outlasts-its-ca]" in done.stderr) == (2, True)
    assert pki("plan", tmp_path, "--cap").returncode == 0


def node(name: str, **addresses: str) -> dict[str, Any]:
    status = [{"type": kind, "address": address} for kind, address in addresses.items()]
    return {"metadata": {"name": name}, "status": {"addresses": status}}


def test_a_plan_tells_what_certificates_lack_of_the_nodes(recipe: Recipe) -> None:
    nodes = recipe.folder / "nodes.json"
    items = [
        node("n1", InternalIP="192.0.2.1", ExternalIP="198.51.100.1", Hostname="n1"),
        node("n2", InternalIP="192.0.2.2"),
    ]
    nodes.write_text(json.dumps({"items": items}))
    assert document("plan", recipe.folder, "--node-list", str(nodes))["notes"] == [
        "server holds the node n1, and lacks 192.0.2.1.",
        "No certificate holds the node n2: n2, 192.0.2.2.",
    ]
    nodes.write_text('{"items": [{}]}')
    done = pki("plan", recipe.folder, "--node-list", str(nodes))
    assert (done.returncode, "kubectl get nodes -o json" in done.stderr) == (2, True)


def test_a_check_fails_if_something_is_not_as_planned(recipe: Recipe) -> None:
    pki("issue", recipe.folder)
    assert pki("check", recipe.folder).returncode == 0
    assert "certificates-expire" in pki("check", recipe.folder, "--fail-before", "2y").stderr
    (recipe.folder / "server.pem").unlink()
    done = pki("check", recipe.folder)
    assert done.returncode == 100
    assert (
        "error[not-as-planned]: 1 certificate is not as planned; the first: server" in done.stderr
    )


def test_a_profile_can_be_named(recipe: Recipe) -> None:
    recipe.request("web", {"CN": "web", "hosts": ["web"]})
    assert "--profile web=PROFILE" in pki("issue", recipe.folder).stderr
    assert "web" in written(document("issue", recipe.folder, "--profile", "web=server"))
    assert "NAME=PROFILE" in pki("plan", recipe.folder, "--profile", "web").stderr


def test_a_renewal_is_of_those_that_are_named(recipe: Recipe) -> None:
    pki("issue", recipe.folder)
    key = (recipe.folder / "server-key.pem").read_bytes()
    assert written(document("renew", recipe.folder, "server", "--cap")) == {"server"}
    assert written(document("renew", recipe.folder, "--cap")) == {"server", "client"}
    assert written(document("renew", recipe.folder, "--before", "30d")) == set()
    assert (recipe.folder / "server-key.pem").read_bytes() == key
    document("renew", recipe.folder, "server", "--cap", "--new-keys")
    assert (recipe.folder / "server-key.pem").read_bytes() != key
    done = pki("renew", recipe.folder, "serve")
    assert (done.returncode, "choose among client, server" in done.stderr) == (2, True)


def test_what_is_not_renewed_is_told_from_what_is_not_planned(tmp_path: Path) -> None:
    text = NODES.replace('"admin"]', '"admin", "service-account"]')
    (tmp_path / "pki.toml").write_text(text)
    pki("issue", tmp_path)
    for name, said in (
        ("ca", "`kbuild pki extend-ca ca`"),
        ("service-account", "it is a key pair without certificate"),
        ("admin.kubeconfig", "it is a file of admin"),
    ):
        done = pki("renew", tmp_path, name)
        assert (done.returncode, "error[not-renewable]" in done.stderr) == (2, True)
        assert said in done.stderr
    assert "error[unknown-certificate]" in pki("renew", tmp_path, "adm").stderr


def test_what_was_replaced_is_not_listed(recipe: Recipe) -> None:
    pki("issue", recipe.folder)
    document("renew", recipe.folder, "--cap", "--new-keys")
    assert list((recipe.folder / ".kbuild-pki/generations").glob("*/server.pem"))
    listed = json.loads(run_here("certs", recipe.folder, "--json").stdout)
    paths = {str(recipe.folder / f"{name}.pem") for name in ("ca", "client", "server")}
    assert {each["path"] for each in listed["certificates"]} == paths


def test_a_renewal_passes_over_what_is_missing(recipe: Recipe) -> None:
    pki("issue", recipe.folder)
    (recipe.folder / "client.pem").unlink()
    assert written(document("renew", recipe.folder, "--cap")) == {"server"}


def test_a_ca_is_extended_for_as_long_as_the_plan_says(recipe: Recipe) -> None:
    pki("issue", recipe.folder)
    before = snapshot(recipe.folder)
    done = pki("extend-ca", recipe.folder)
    assert (done.returncode, "error[ca-not-extended]" in done.stderr) == (2, True)
    assert "already ends on" in done.stderr
    assert snapshot(recipe.folder) == before
    recipe.change("ca", ca={"expiry": "876000h"})
    assert written(document("extend-ca", recipe.folder)) == {"ca"}
    assert facts(recipe.folder / "ca.pem").not_after.year > 2100
    assert pki("check", recipe.folder).returncode == 0
    assert "choose among ca" in pki("extend-ca", recipe.folder, "server").stderr


def test_who_may_not_read_the_journal_still_sees_the_plan(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    pki("issue", recipe.folder)
    assert document("plan", recipe.folder)["unfinished"] is False
    told, original = "It cannot be told whether an earlier run is unfinished", Path.lstat

    def lstat(path: Path) -> os.stat_result:
        if path.name == "journal.json":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(Path, "lstat", lstat)
    for command in ("plan", "check"):
        done = pki(command, recipe.folder)
        assert (done.returncode, done.stdout.count(told)) == (0, 1), done.stderr
    assert document("plan", recipe.folder)["unfinished"] is None
    (recipe.folder / "ca-config.json").write_text("{")
    assert "error[bad-pki-file]" in pki("plan", recipe.folder).stderr


# --- rotation -------------------------------------------------------------------------------------


def test_a_ca_is_replaced_step_by_step(cluster: Path) -> None:
    assert "`--step begin` begins" in pki("rotate-ca", cluster).stdout
    found = document("rotate-ca", cluster, "--step", "begin", "--cap")
    assert (found["step"], found["removed"]) == ("begin", [])
    assert [(each["name"], each["state"]) for each in found["cas"]] == [
        ("ca", "begin"),
        ("etcd-ca", "begin"),
        ("front-proxy-ca", "begin"),
    ]
    assert written(found) == {"ca", "etcd-ca", "front-proxy-ca", "kubelet-m1", "admin"}
    order = [each["component"] for each in found["distribute"]]
    assert order[:3] == ["etcd", "kube-apiserver", "kube-controller-manager"]
    manager, output = found["distribute"][2], cluster / "pki"
    assert manager["trusted"] == {
        str(output / "ca.pem"): ["--root-ca-file"],
        str(output / "ca-signing.pem"): ["--cluster-signing-cert-file"],
        str(output / "ca-key.pem"): ["--cluster-signing-key-file"],
        str(output / "front-proxy-ca.pem"): ["--requestheader-client-ca-file"],
    }
    assert any("name ca-signing.pem there" in note for note in found["notes"])
    planned = document("plan", cluster)
    assert {each["stage"] for each in planned["rotations"]} == {"begin"}
    [note] = planned["notes"]
    assert note.startswith("The CAs ca, etcd-ca and front-proxy-ca are being replaced")
    checked = pki("check", cluster)
    assert (checked.returncode, note in checked.stdout) == (0, True)
    found = document("rotate-ca", cluster, "--step", "leaves", "--cap")
    etcd = [Path(each).name for each in found["distribute"][0]["files"]]
    assert etcd == ["etcd.pem", "etcd-key.pem", "etcd-client.pem", "etcd-client-key.pem"]
    assert pki("check", cluster).returncode == 0
    status = document("rotate-ca", cluster, "etcd-ca")
    assert [(each["name"], each["state"]) for each in status["cas"]] == [("etcd-ca", "leaves")]
    found = document("rotate-ca", cluster, "--step", "end")
    assert {Path(each).name for each in found["removed"]} >= {"ca-signing.pem", "ca-old-key.pem"}
    assert any("Destroy it" in note for note in found["notes"])
    assert document("plan", cluster)["rotations"] == []
    assert pki("check", cluster).returncode == 0


def test_a_step_says_in_text_what_to_distribute(recipe: Recipe) -> None:
    pki("issue", recipe.folder)
    shown = pki("rotate-ca", recipe.folder, "--step", "begin", "--cap").stdout
    assert "the next step is --step leaves" in shown
    assert "1. etcd: one member after the other" in shown
    assert "     ca.pem (--trusted-ca-file, --peer-trusted-ca-file)\n" in shown
    shown = pki("rotate-ca", recipe.folder, "--step", "leaves", "--cap").stdout
    # Who uses certificates of cfssl is not known.
    assert "1. whoever uses them: with the components below\n" in shown
    assert "     client.pem, client-key.pem\n     server.pem, server-key.pem\n" in shown
    assert "The last step is begin" not in shown
    assert "last step is leaves" in pki("plan", recipe.folder).stdout
    shown = pki("rotate-ca", recipe.folder, "--step", "back", "--cap").stdout
    assert "client.pem, client-key.pem" in shown
    shown = pki("rotate-ca", recipe.folder, "--step", "back").stdout
    assert "the rotation was taken back" in shown
    assert "ca-signing.pem: removed" in shown


@pytest.mark.parametrize(
    ("words", "code", "kind"),
    [
        (("--step", "leaves"), 100, "wrong-step"),
        (("--step", "middle"), 2, "bad-setting"),
        (("server", "--step", "begin"), 2, "unknown-certificate"),
        (("server",), 2, "unknown-certificate"),
    ],
)
def test_a_step_that_cannot_be_made_changes_nothing(
    recipe: Recipe, words: tuple[str, ...], code: int, kind: str
) -> None:
    pki("issue", recipe.folder)
    before = snapshot(recipe.folder)
    done = pki("rotate-ca", recipe.folder, *words)
    assert (done.returncode, f"error[{kind}]" in done.stderr) == (code, True), done.stderr
    assert snapshot(recipe.folder) == before


def test_a_ca_that_is_being_replaced_is_not_extended(recipe: Recipe) -> None:
    pki("issue", recipe.folder)
    pki("rotate-ca", recipe.folder, "--step", "begin")
    done = pki("extend-ca", recipe.folder)
    assert (done.returncode, "error[rotation-under-way]" in done.stderr) == (100, True)


def test_a_run_says_who_reads_what_it_has_written(cluster: Path) -> None:
    found = document("renew", cluster, "admin", "etcd", "--cap")
    output = cluster / "pki"
    assert [(each["component"], each["trusted"]) for each in found["distribute"]] == [
        ("etcd", {}),
        ("administrators", {}),
    ]
    assert found["distribute"][0]["files"] == [f"{output}/etcd.pem"]  # the key stays
    shown = pki("renew", cluster, "admin", "--cap").stdout
    assert "pki: 1 written, " in shown
    assert "restart in this order:\n1. administrators: nothing to restart" in shown
    assert "     admin.pem, admin.kubeconfig\n" in shown
    assert "Distribute" not in pki("issue", cluster).stdout


def test_a_first_run_says_who_reads_the_cas(tmp_path: Path) -> None:
    (tmp_path / "pki.toml").write_text(f"{NODES}\n".replace("apiserver", "controller-manager"))
    todo = {each["component"]: each for each in document("issue", tmp_path)["distribute"]}
    assert todo["kube-controller-manager"]["trusted"] == {
        f"{tmp_path}/pki/ca.pem": ["--root-ca-file", "--cluster-signing-cert-file"],
        f"{tmp_path}/pki/ca-key.pem": ["--cluster-signing-key-file"],
        f"{tmp_path}/pki/front-proxy-ca.pem": ["--requestheader-client-ca-file"],
    }
    assert "kube-proxy" not in todo
    text = (tmp_path / "pki.toml").read_text()
    (tmp_path / "pki.toml").write_text(f"ca-years = 200\n{text}")
    # It trusts the CA in a kubeconfig that is not planned here.
    todo = {e["component"]: e for e in document("extend-ca", tmp_path, "ca")["distribute"]}
    assert todo["kube-proxy"]["files"] == []
    assert f"{tmp_path}/pki/ca-key.pem" not in todo["kube-controller-manager"]["trusted"]


def test_a_ca_with_another_kind_of_key_is_kept_and_told(cluster: Path) -> None:
    (cluster / "pki.toml").write_text(NODES.replace("ecdsa-p256", "ecdsa-p384"))
    planned = {each["name"]: each for each in document("plan", cluster)["certificates"]}
    assert planned["ca"]["state"] == "kept"
    assert planned["ca"]["reasons"] == [
        "its key is ECDSA P-256, planned is ECDSA P-384; `kbuild pki rotate-ca` changes that"
    ]


def test_who_reads_the_certificates_of_cfssl_is_not_guessed(recipe: Recipe) -> None:
    pki("issue", recipe.folder)
    shown = pki("renew", recipe.folder, "--cap").stdout
    assert "1. whoever uses them: restart what reads them\n" in shown


# --- hosts ---------------------------------------------------------------------------------------


def test_a_node_enters_just_what_must_hold_it(cluster: Path) -> None:
    found = document("add-host", cluster, "m2", "192.0.2.12", "--cap")
    assert written(found) == {"kubernetes", "kubelet-m2"}
    assert any("m2 is a new control-plane node, because no --role" in n for n in found["notes"])
    names = facts(cluster / "pki/kubernetes.pem").names
    assert {"DNS:m2", "IP:192.0.2.12"} < set(names)
    text = (cluster / "pki.toml").read_text()
    assert text.startswith(NODES)
    assert '[nodes.m2]\naddresses = ["192.0.2.12"]\nroles = ["control-plane"]\n' in text
    found = document("add-host", cluster, "e2", "192.0.2.13", "--role", "etcd", "--cap")
    assert not any("--role" in note for note in found["notes"])
    assert written(found) == {"etcd", "kubelet-e2"}
    found = document("add-host", cluster, "w.example", "192.0.2.14", "--role", "worker", "--cap")
    assert written(found) == {"kubelet-w.example"}
    assert document("issue", cluster)["written"] == []


def test_a_byte_order_mark_is_no_mistake_and_edits_drop_it(cluster: Path) -> None:
    path = cluster / "pki.toml"
    for words in (("add-host", "m2", "192.0.2.12"), ("remove-host", "m2")):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        document("plan", cluster, "--cap")
        command, *rest = words
        document(command, cluster, *rest, "--cap")
        assert path.read_bytes().startswith(NODES[:9].encode())


def test_an_address_enters_a_node_that_is_there(cluster: Path) -> None:
    found = document("add-host", cluster, "m1", "2001:db8::1", "--cap")
    assert written(found) == {"kubernetes", "etcd", "kubelet-m1"}
    text = (cluster / "pki.toml").read_text()
    assert "# eth0" in text
    assert "# the load balancer" in text


def test_a_virtual_address_enters_the_api_server(cluster: Path) -> None:
    found = document("add-host", cluster, "api.example.org", "192.0.2.9", "--role", "vip", "--cap")
    assert written(found) == {"kubernetes"}
    text = (cluster / "pki.toml").read_text()
    assert 'vips = ["192.0.2.100", "api.example.org", "192.0.2.9"]  # the load' in text


def test_a_host_enters_the_requests_of_cfssl(recipe: Recipe) -> None:
    pki("issue", recipe.folder)
    before = snapshot(recipe.folder)
    found = document("add-host", recipe.folder, "n2", "192.0.2.2", "--cap")
    assert written(found) == {"server"}
    request = json.loads((recipe.folder / "server-csr.json").read_text())
    assert request["hosts"] == ["127.0.0.1", "n1", "n2", "192.0.2.2"]
    assert snapshot(recipe.folder)["client-csr.json"] == before["client-csr.json"]
    named = ("--certificate", "client")
    assert written(document("add-host", recipe.folder, "n3", "192.0.2.3", *named)) == {"client"}
    [*_, last] = sorted((recipe.folder / ".kbuild-pki/generations").iterdir())
    assert (last / "client-csr.json").read_bytes() == before["client-csr.json"]


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (("n2", "192.0.2.256"), "bad-host"),
        (("n2", "192.0.2.2", "--certificate", "serve"), "unknown-certificate"),
        (("n2", "192.0.2.2", "--role", "etcd"), "host-not-added"),
        (("n2",), "usage"),
    ],
)
def test_a_host_that_cannot_be_added_changes_nothing(
    recipe: Recipe, words: tuple[str, ...], kind: str
) -> None:
    pki("issue", recipe.folder)
    before = snapshot(recipe.folder)
    done = pki("add-host", recipe.folder, *words, "--cap")
    assert (done.returncode, f"error[{kind}]" in done.stderr) == (2, True), done.stderr
    assert snapshot(recipe.folder) == before


@pytest.mark.parametrize(
    "words",
    [
        ("m1", "192.0.2.2", "--role", "etcd"),
        ("x", "192.0.2.2", "--role", "vip", "--role", "etcd"),
        ("192.0.2.2", "x"),  # the other way round
        ("x", "192.0.2.2", "--certificate", "etcd"),
    ],
)
def test_a_host_that_does_not_fit_the_cluster_changes_nothing(
    cluster: Path, words: tuple[str, ...]
) -> None:
    before = snapshot(cluster)
    done = pki("add-host", cluster, *words, "--cap")
    assert (done.returncode, "error[host-not-added]" in done.stderr) == (2, True), done.stderr
    assert snapshot(cluster) == before


def test_a_host_is_added_to_what_a_killed_run_has_written(cluster: Path) -> None:
    """The plan is read again under the lock: what another run added meanwhile stays."""
    state = cluster / "pki/.kbuild-pki"
    staged = cluster / ".pki.toml.kbuild-new-0123456789ab"
    content = f'{NODES}\n[nodes.m2]\naddresses = ["192.0.2.12"]\n'.encode()
    staged.write_bytes(content)
    changes = [[0, "../pki.toml", staged.name, hashlib.sha256(content).hexdigest()]]
    (state / "journal.json").write_text(json.dumps(changes))
    found = document("add-host", cluster, "m3", "192.0.2.13", "--cap")
    assert written(found) == {"kubernetes", "kubelet-m3"}
    assert "[nodes.m2]" in (cluster / "pki.toml").read_text()


def test_what_a_host_does_not_need_stays_as_it_is(cluster: Path) -> None:
    path = cluster / "pki.toml"
    text = path.read_text()
    path.write_text(text.replace('"192.0.2.11",', '"192.0.2.77",'))
    before = snapshot(cluster)
    done = pki("add-host", cluster, "m2", "192.0.2.12", "--cap")
    assert (done.returncode, "error[names-differ]" in done.stderr) == (100, True), done.stderr
    assert "kubernetes is not issued again" in done.stderr
    assert "it has 192.0.2.11, not planned" in done.stderr
    assert snapshot(cluster) == before
    words = ("w1", "192.0.2.21", "--role", "worker", "--cap")
    assert pki("add-host", cluster, *words).stdout.count("not as planned; see") == 1
    after = snapshot(cluster)
    new = {name for name in after if after[name] != before.get(name)}
    ends = (".csr", ".kubeconfig", ".pem", "-key.pem")
    assert new == {"pki.toml", "pki/kbuild-pki.json", *(f"pki/kubelet-w1{end}" for end in ends)}
    found = document("remove-host", cluster, "w1")
    assert found["notes"][-1] == (
        f"3 others are not as planned; see `kbuild pki plan --dir {cluster}`."
    )
    assert written(found) == set()
    path.write_text(text)
    shown = pki("add-host", cluster, "m2", "192.0.2.12", "--cap").stdout
    assert "kubernetes: it lacks m2, 192.0.2.12\n" in shown
    assert "not as planned; see" not in shown


def test_a_host_issues_the_cas_that_must_sign_and_what_lacked_it(cluster: Path) -> None:
    text = (cluster / "pki.toml").read_text()
    (cluster / "pki.toml").write_text(f'{text}\n[nodes.m2]\naddresses = ["192.0.2.12"]\n')
    for path in (cluster / "pki").glob("front-proxy*"):
        path.unlink()
    # It is in the plan already, and not issued.
    assert written(document("add-host", cluster, "m2", "192.0.2.12", "--cap")) == {"kubelet-m2"}
    for path in (cluster / "pki").glob("[!.]*"):
        path.unlink()
    assert written(document("add-host", cluster, "e2", "192.0.2.13", "--role", "etcd")) == {
        "ca",
        "etcd-ca",
        "etcd",
        "kubelet-e2",
    }


def test_where_a_host_belongs_is_not_guessed(cluster: Path) -> None:
    path = cluster / "pki.toml"
    inline = 'nodes = {m1 = {addresses = ["192.0.2.11"], roles = ["control-plane", "etcd"]}}\n'
    path.write_text(NODES[: NODES.index("[nodes")] + inline)
    done = pki("add-host", cluster, "m1", "192.0.2.99", "--cap")
    assert "error[host-not-added]" in done.stderr
    assert path.read_text().endswith(inline)


def test_a_kubelet_of_another_node_does_not_get_a_host(recipe: Recipe) -> None:
    kubelet = {"names": [{"O": "system:nodes"}], "key": {"algo": "ecdsa", "size": 256}}
    for node in ("n1", "n2"):
        recipe.request(f"kubelet-{node}", {"CN": f"system:node:{node}", "hosts": [node], **kubelet})
    profiles = [f"--profile=kubelet-{node}=server" for node in ("n1", "n2")]
    pki("issue", recipe.folder, *profiles)
    found = document("add-host", recipe.folder, "n2", "192.0.2.2", "--cap", *profiles)
    assert written(found) == {"server", "kubelet-n2"}
    before = snapshot(recipe.folder)
    words = ("n3", "192.0.2.3", "--certificate", "kubelet-n2", *profiles)
    done = pki("add-host", recipe.folder, *words)
    assert (done.returncode, "error[host-not-added]" in done.stderr) == (2, True)
    assert "the certificate of the node n2" in done.stderr
    assert snapshot(recipe.folder) == before
    found = document("remove-host", recipe.folder, "n2", "192.0.2.2", "--cap", *profiles)
    assert written(found) == {"server"}
    assert found["notes"] == [
        "kubelet-n2 is the certificate of n2, and stays. Move its files away."
    ]


def test_who_does_not_get_a_host_is_told(cluster: Path) -> None:
    text = (cluster / "pki.toml").read_text()
    own = '[certificates.kubernetes]\nwithout-hosts = ["192.0.2.12", "localhost"]\n'
    (cluster / "pki.toml").write_text(f"{text}\n{own}")
    pki("issue", cluster, "--cap")
    found = document("add-host", cluster, "m2", "192.0.2.12", "--role", "control-plane", "--cap")
    assert "IP:192.0.2.12" not in facts(cluster / "pki/kubernetes.pem").names
    assert found["notes"] == [
        "kubernetes does not get 192.0.2.12: its without-hosts leaves that out."
    ]
    text = (cluster / "pki.toml").read_text().replace('"apiserver", "kubelet", ', "")
    (cluster / "pki.toml").write_text(text.replace(own, ""))
    found = document("add-host", cluster, "m3", "192.0.2.13", "--role", "worker", "--cap")
    assert found["written"] == []
    assert found["notes"] == ["No certificate of the plan gets m3, 192.0.2.13."]


def test_a_node_leaves_what_held_it(cluster: Path) -> None:
    before = (cluster / "pki.toml").read_text()
    document("add-host", cluster, "m2", "192.0.2.12", "--role", "control-plane", "--cap")
    text = (cluster / "pki.toml").read_text()
    (cluster / "pki.toml").write_text(f"{text}\n# A worker\n[nodes.w1]\naddresses=['192.0.2.21']\n")
    document("issue", cluster, "--cap")
    found = document("remove-host", cluster, "m2", "--cap")
    assert written(found) == {"kubernetes"}
    names = set(facts(cluster / "pki/kubernetes.pem").names)
    assert names.isdisjoint({"DNS:m2", "IP:192.0.2.12"})
    assert "DNS:m1" in names
    removed = {Path(each).name for each in found["removed"]}
    assert removed == {f"kubelet-m2{end}" for end in (".pem", "-key.pem", ".csr", ".kubeconfig")}
    assert not list((cluster / "pki").glob("kubelet-m2*"))
    assert list((cluster / "pki/.kbuild-pki/generations").glob("*/kubelet-m2-key.pem"))
    assert "Kubernetes knows no revocation" in found["notes"][0]
    text = (cluster / "pki.toml").read_text()
    assert text == f"{before}\n# A worker\n[nodes.w1]\naddresses=['192.0.2.21']\n"
    assert {each["component"] for each in found["distribute"]} == {"kube-apiserver"}
    assert document("issue", cluster, "--cap")["written"] == []


@pytest.mark.parametrize(
    ("own", "rest"),
    [
        ("{node}", ""),
        ("# Of w9\n# too\n{node}# roles = []\n", ""),
        ("# Of w9\n{node}", "\n# To do: more workers\n\n# The end\n"),
        ("{node}# Of w9\n", "\n# Of x1\n[nodes.x1]\naddresses = ['192.0.2.31']\n"),
        ("# Of w9\n{node}", "# Of x1\n[nodes.x1]\naddresses = ['192.0.2.31']\n"),
    ],
)
def test_a_node_leaves_with_its_own_comments_only(cluster: Path, own: str, rest: str) -> None:
    path = cluster / "pki.toml"
    before = f"{path.read_text().rstrip()}\n\n# All nodes are here\n"
    node = "[nodes.w9]\naddresses = [\n  '192.0.2.29',  # eth0\n]\n"
    path.write_text(f"{before}\n{own.format(node=node)}{rest}")
    document("remove-host", cluster, "w9", "--cap")
    between = "\n" if rest and not rest.startswith("\n") else ""
    assert path.read_text() == f"{before}{between}{rest}"


def test_who_keeps_a_host_is_told(cluster: Path) -> None:
    path = cluster / "pki.toml"
    nodes = "[nodes.w9]\naddresses = ['192.0.2.29', '192.0.2.30']\n"
    own = "[certificates.kubernetes]\nextra-hosts = ['W9', '192.0.2.30', 'other']\n"
    path.write_text(f"{path.read_text()}\n{nodes}\n{own}")
    said = "its extra-hosts, vips or another node have it. Remove it there as well"
    notes = document("remove-host", cluster, "w9", "192.0.2.30", "--cap")["notes"]
    assert [each for each in notes if said in each] == [
        f"kubernetes still names 192.0.2.30: {said} if nobody else uses it."
    ]
    notes = document("remove-host", cluster, "w9", "--cap")["notes"]
    assert [each.partition(":")[0] for each in notes if said in each] == [
        "kubernetes still names W9"
    ]


def test_addresses_leave_a_node_and_the_api_server(cluster: Path) -> None:
    before = (cluster / "pki.toml").read_text()
    document("add-host", cluster, "m1", "2001:db8::1", "--cap")
    document("add-host", cluster, "api.example.org", "192.0.2.9", "--role", "vip", "--cap")
    found = document("remove-host", cluster, "m1", "2001:DB8::1", "--cap")
    assert written(found) == {"kubernetes", "etcd", "kubelet-m1"}
    found = document("remove-host", cluster, "api.example.org", "192.0.2.9", "--cap")
    assert (written(found), found["notes"]) == ({"kubernetes"}, [])
    assert (cluster / "pki.toml").read_text() == before
    found = document("remove-host", cluster, "192.0.2.100", "--cap")
    assert written(found) == {"kubernetes", "kubelet-m1", "admin"}
    assert found["notes"] == ["kubeconfigs now use https://192.0.2.11:6443."]


@pytest.mark.parametrize(
    ("words", "kind", "said"),
    [
        (("m1",), "host-not-removed", "m1 is the last node with the role control-plane"),
        (("mm1",), "unknown-host", "did you mean m1?"),
        (("m1", "192.0.2.99"), "unknown-host", "did you mean 192.0.2.11?"),
        (("m1", "192.0.2.11"), "host-not-removed", "m1 would have no address"),
        (("m1", "--certificate", "etcd"), "host-not-removed", "for the files of cfssl"),
    ],
)
def test_a_host_that_cannot_be_removed_changes_nothing(
    cluster: Path, words: tuple[str, ...], kind: str, said: str
) -> None:
    before = snapshot(cluster)
    done = pki("remove-host", cluster, *words, "--cap")
    assert (done.returncode, f"error[{kind}]" in done.stderr, said in done.stderr) == (
        2,
        True,
        True,
    )
    assert snapshot(cluster) == before


def test_a_node_with_a_certificate_of_its_own_is_not_removed(cluster: Path) -> None:
    text = (cluster / "pki.toml").read_text()
    own = '[nodes.w1]\naddresses = ["192.0.2.21"]\n[certificates.kubelet-w1]\nkey = "rsa-2048"\n'
    (cluster / "pki.toml").write_text(f"{text}\n{own}")
    done = pki("remove-host", cluster, "w1")
    assert (done.returncode, "remove that table first" in done.stderr) == (2, True)


def test_a_host_leaves_the_requests_of_cfssl(recipe: Recipe) -> None:
    pki("issue", recipe.folder)
    document("add-host", recipe.folder, "n2", "192.0.2.2", "--cap")
    assert written(document("remove-host", recipe.folder, "n2", "192.0.2.2", "--cap")) == {"server"}
    request = json.loads((recipe.folder / "server-csr.json").read_text())
    assert request["hosts"] == ["127.0.0.1", "n1"]
    before = snapshot(recipe.folder)
    for words, kind in (
        (("n9",), "unknown-host"),
        (("n1", "127.0.0.1"), "host-not-removed"),
        (("n1", "--certificate", "serve"), "unknown-certificate"),
    ):
        done = pki("remove-host", recipe.folder, *words)
        assert (done.returncode, f"error[{kind}]" in done.stderr) == (2, True), done.stderr
    assert snapshot(recipe.folder) == before


def test_a_first_hint_names_the_directory(tmp_path: Path) -> None:
    folder = tmp_path / "a b"
    assert f"run `kbuild pki plan --dir '{folder}'`." in pki("init", folder).stdout


def test_a_check_ends_with_its_sum(recipe: Recipe) -> None:
    pki("issue", recipe.folder)
    *_, plan, findings = pki("check", recipe.folder).stdout.splitlines()
    assert plan == f"{recipe.folder}: 0 certificates to issue, 3 as planned."
    assert findings == f"{recipe.folder}: no findings."
    (recipe.folder / "server-key.pem").chmod(0o644)
    *_, findings = pki("check", recipe.folder).stdout.splitlines()
    assert findings == f"{recipe.folder}: 1 finding (1 critical)."


def test_a_plan_is_imported_from_certificates(recipe: Recipe) -> None:
    pki("issue", recipe.folder)
    for path in recipe.folder.glob("*.json"):
        path.unlink()
    before = snapshot(recipe.folder)
    shown = pki("import", recipe.folder, "--dry-run")
    assert (shown.returncode, '"server auth"' in shown.stdout) == (0, True)
    assert snapshot(recipe.folder) == before
    found = document("import", recipe.folder)
    assert set(found["kept"]) == {"ca", "client", "server"}
    assert {Path(each["path"]).read_text() for each in found["files"]} == {
        each["content"] for each in found["files"]
    }
    states = {each["state"] for each in document("plan", recipe.folder)["certificates"]}
    assert states == {"kept"}
    done = pki("import", recipe.folder)
    assert (done.returncode, "error[plan-exists]" in done.stderr) == (2, True)
    (recipe.folder / "ca.pem").unlink()
    for path in recipe.folder.glob("*.json"):
        path.unlink()
    done = pki("import", recipe.folder, "--without", "server")
    assert (done.returncode, "error[signer-missing]" in done.stderr) == (100, True)


@pytest.mark.parametrize(
    ("layout", "roles"),
    [
        (
            "cfssl",
            {
                "kubelet-m1.kubeconfig": "kubelet, client",
                "kubelet-m1.pem": "kubelet, server and client",
            },
        ),
        (
            "kubeadm",
            {"nodes/m1/kubelet.conf": "kubelet, client", "nodes/m1/kubelet.crt": "kubelet, server"},
        ),
    ],
)
def test_a_kubelet_is_a_client_in_its_kubeconfig(
    tmp_path: Path, layout: str, roles: dict[str, str]
) -> None:
    (tmp_path / "pki.toml").write_text(f'layout = "{layout}"\n{NODES}')
    pki("issue", tmp_path)
    found = document("check", tmp_path)["certificates"]
    shown = {str(Path(each["path"]).relative_to(tmp_path / "pki")): each["role"] for each in found}
    assert {path: shown[path] for path in roles} == roles
