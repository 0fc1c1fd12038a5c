import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from kbuild.config.api import BadStoredConfiguration, Configuration, Request, make_configuration
from kbuild.kubeadm.model import MAX_YEARS, Lifetimes

GO_LIMIT = 2562047  # hours; from one more on time.ParseDuration says "invalid duration"
OLD_FLAG, FLAG = "experimental-cluster-signing-duration", "cluster-signing-duration"
STORED = """\
apiServer:
  extraArgs:
    authorization-mode: "Node,RBAC"  # as we like it
apiVersion: kubeadm.k8s.io/v1beta2
controllerManager: {}
kind: ClusterConfiguration
kubernetesVersion: v1.20.2
networking: {serviceSubnet: 10.96.0.0/12}
"""
KUBELET = """\
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
rotateCertificates: true
"""


def request(tag: str, ca_years: int = 100, leaf_years: int = 50, **more: Any) -> Request:
    lifetimes = Lifetimes(ca_years=ca_years, leaf_years=leaf_years)
    return Request(tag=tag, lifetimes=lifetimes, **{"purpose": "new", **more})


def contents(made: Configuration) -> dict[str, str]:
    return {file.name: file.content for file in made.files}


def unwrapped(made: Configuration) -> str:
    return " ".join(contents(made)["README.md"].split())


def kubeadm_yaml(tag: str, **years: int) -> tuple[dict[str, Any], dict[str, Any]]:
    text = contents(make_configuration(request(tag, **years)))["kubeadm.yaml"]
    cluster, kubelet = yaml.safe_load_all(text)
    return cluster, kubelet


def living(tmp_path: Path, tag: str, stored: str, kubelet: str = KUBELET) -> dict[str, str]:
    paths: dict[str, Any] = {
        "kubeadm_config": tmp_path / "kubeadm",
        "kubelet_config": tmp_path / "kubelet",
    }
    for path, text in zip(paths.values(), (stored, kubelet), strict=True):
        path.write_bytes(text.encode())
    return contents(make_configuration(request(tag, purpose="living", **paths)))


@pytest.mark.parametrize(
    ("tag", "api", "arguments"),
    [
        ("v1.13.0", "v1beta1", {OLD_FLAG: "438000h"}),
        ("v1.18.20", "v1beta2", {OLD_FLAG: "438000h"}),
        ("v1.19.0", "v1beta2", {FLAG: "438000h"}),
        ("v1.23.0", "v1beta3", {FLAG: "438000h"}),
        ("v1.31.0", "v1beta4", [{"name": FLAG, "value": "438000h"}]),
        ("v1.40.0", "v1beta4", [{"name": FLAG, "value": "438000h"}]),
    ],
)
def test_kubeadm_yaml_is_what_the_version_reads(tag: str, api: str, arguments: Any) -> None:
    cluster, kubelet = kubeadm_yaml(tag)
    assert cluster["apiVersion"] == f"kubeadm.k8s.io/{api}"
    assert cluster["kubernetesVersion"] == tag
    assert cluster["controllerManager"]["extraArgs"] == arguments
    validity = {name: cluster.get(f"{name}alidityPeriod") for name in ("caCertificateV",)}
    assert validity == {"caCertificateV": "876000h" if api == "v1beta4" else None}
    assert cluster.get("certificateValidityPeriod") == ("438000h" if api == "v1beta4" else None)
    assert kubelet == {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "rotateCertificates": True,
        "serverTLSBootstrap": True,
    }


def test_the_longest_lifetime_fits_into_a_duration_of_go() -> None:
    cluster, _ = kubeadm_yaml("v1.33.3", ca_years=MAX_YEARS, leaf_years=MAX_YEARS)
    hours = int(cluster["caCertificateValidityPeriod"].removesuffix("h"))
    assert MAX_YEARS * 8760 == hours <= GO_LIMIT


@pytest.mark.parametrize("tag", ["v1.31.0-alpha.2", "v1.31.0-beta.1", "v1.31.0-rc.0", "v1.31.0"])
def test_a_version_is_written_as_kubernetes_does(tag: str) -> None:
    assert kubeadm_yaml(tag)[0]["kubernetesVersion"] == tag


@pytest.mark.parametrize(("tag", "built"), [("v1.30.14", True), ("v1.31.0", False)])
@pytest.mark.parametrize("purpose", ["new", "living"])
def test_it_says_first_whether_kubeadm_must_be_built(tag: str, built: bool, purpose: str) -> None:
    made = make_configuration(request(tag, purpose=purpose))
    build = f"kbuild kubeadm --version {tag} --ca-years 100 --leaf-years 50"
    assert made.needs_build is built
    assert (build in made.notes[0]) is built
    assert ("no build" in made.notes[0].lower()) is not built
    readme = unwrapped(made)
    assert readme.index(made.notes[0]) < readme.index("##")


def test_a_version_that_nobody_has_read_is_noted() -> None:
    assert len(make_configuration(request("v1.33.9")).notes) == 1
    assert "up to v1.33.3" in make_configuration(request("v1.50.0")).notes[1]


@pytest.mark.parametrize("tag", ["v1.13.0", "v1.17.17", "v1.18.0", "v1.33.3"])
@pytest.mark.parametrize("purpose", ["new", "living"])
def test_every_file_can_be_read(tag: str, purpose: str) -> None:
    made = contents(make_configuration(request(tag, purpose=purpose)))
    for name, content in made.items():
        assert "@@" not in content, name
        assert content.endswith("\n"), name
        if name.endswith(".yaml"):
            assert all(yaml.safe_load_all(content)), name


def test_an_approver_may_approve_serving_certificates_only() -> None:
    made = contents(make_configuration(request("v1.20.2")))
    role = yaml.safe_load(made["kubelet-serving-approver.yaml"])
    assert role["kind"] == "ClusterRole"
    assert [(rule["resources"], rule["verbs"]) for rule in role["rules"]] == [
        (["certificatesigningrequests"], ["get", "list", "watch"]),
        (["certificatesigningrequests/approval"], ["update"]),
        (["signers"], ["approve"]),
    ]
    assert role["rules"][2]["resourceNames"] == ["kubernetes.io/kubelet-serving"]
    old = contents(make_configuration(request("v1.17.17")))["kubelet-serving-approver.yaml"]
    assert len(yaml.safe_load(old)["rules"]) == 2


def test_nobody_but_bootstrapping_kubelets_and_nodes_is_bound() -> None:
    made = contents(make_configuration(request("v1.20.2")))
    text = made["without-kubeadm/kubelet-client-csr.yaml"]
    bound = {
        binding["roleRef"]["name"].rpartition(":")[2]: [s["name"] for s in binding["subjects"]]
        for binding in yaml.safe_load_all(text)
    }
    assert bound == {
        "node-bootstrapper": ["system:bootstrappers"],
        "nodeclient": ["system:bootstrappers"],
        "selfnodeclient": ["system:nodes"],
    }
    assert "system:anonymous" in text  # as a warning


@pytest.mark.parametrize(("tag", "flag"), [("v1.18.20", OLD_FLAG), ("v1.19.0", FLAG)])
def test_units_get_the_same_as_options(tag: str, flag: str) -> None:
    made = contents(make_configuration(request(tag)))
    manager = made["without-kubeadm/kube-controller-manager.service.d/20-certificates.conf"]
    kubelet = made["without-kubeadm/kubelet.service.d/20-certificates.conf"]
    assert f'Environment="KUBE_CERTIFICATE_ARGS=--{flag}=438000h --cluster-signing-cert' in manager
    assert "--rotate-certificates=true --rotate-server-certificates=true" in kubelet


@pytest.mark.parametrize("tag", ["v1.13.0", "v1.33.3"])
@pytest.mark.parametrize("purpose", ["new", "living"])
def test_the_commands_are_of_a_shell(tag: str, purpose: str) -> None:
    made = contents(make_configuration(request(tag, purpose=purpose)))
    blocks = made["README.md"].split("```sh\n")[1:]
    scripts = [block.partition("```")[0] for block in blocks]
    sh = shutil.which("sh")
    assert sh is not None
    for script in [*scripts, made["approve-kubelet-serving.sh"]]:
        subprocess.run((sh, "-n"), input=script, text=True, check=True)


@pytest.mark.parametrize("tag", ["v1.20.2", "v1.33.3"])
@pytest.mark.parametrize("purpose", ["new", "living", "stored"])
def test_the_text_fits_a_terminal(tmp_path: Path, tag: str, purpose: str) -> None:
    if purpose == "stored":
        api = "v1beta2" if tag == "v1.20.2" else "v1beta4"
        stored = STORED.replace("v1beta2", api).replace("v1.20.2", tag)
        readme = living(tmp_path, tag, stored.replace("controllerManager: {}\n", ""))["README.md"]
    else:
        readme = contents(make_configuration(request(tag, purpose=purpose)))["README.md"]
    assert [line for line in readme.splitlines() if len(line) > 80] == []


@pytest.mark.parametrize("tag", ["v1.30.0", "v1.31.0"])
def test_the_steps_for_a_living_cluster_say_how(tag: str) -> None:
    readme = unwrapped(make_configuration(request(tag, purpose="living")))
    advise = f"`kbuild advise --version {tag} --ca-years 100 --leaf-years 50 --living`"
    assert f"lengthen it first: {advise} prints the steps" in readme
    assert readme.index("etcdctl snapshot save") < readme.index("systemctl restart kubelet")
    assert "kube-scheduler.yaml ../off/" in readme
    assert "`featureGates` turn `RotateKubeletServerCertificate` off" in readme
    assert "If `tlsCertFile` or `tlsPrivateKeyFile` is set" in readme
    falls_back = "kubeadm certs renew all --config kubeadm-config.yaml" in readme
    assert falls_back is (tag == "v1.31.0")


def test_the_change_to_a_living_cluster_keeps_all_else(tmp_path: Path) -> None:
    made = living(tmp_path, "v1.20.2", STORED)
    wanted = STORED.replace(
        "controllerManager: {}", f"controllerManager:\n  extraArgs:\n    {FLAG}: 438000h"
    )
    assert made["kubeadm-config.yaml"] == wanted
    assert made["kubeadm-config.before.yaml"] == STORED
    assert made["kubelet-config.yaml"] == f"{KUBELET}serverTLSBootstrap: true\n"
    added = [x for x in made["kubeadm-config.diff"].splitlines() if x.startswith("+ ")]
    assert added == ["+  extraArgs:", f"+    {FLAG}: 438000h"]


def test_the_way_back_stores_what_there_was(tmp_path: Path) -> None:
    made = living(tmp_path, "v1.20.2", STORED)
    for name, key, before in (
        ("kubeadm-config", "ClusterConfiguration", STORED),
        ("kubelet-config", "kubelet", KUBELET),
    ):
        patches = [json.loads(made[f"{name}.{what}.json"]) for what in ("patch", "undo")]
        assert patches == [{"data": {key: made[f"{name}.yaml"]}}, {"data": {key: before}}]
        assert f"cat {name}.undo.json" in made["README.md"]


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (f"\ufeff{STORED}", "has a byte order mark, which kubeadm never stores"),
        (STORED.replace("\n", "\r\n"), "has lines that end in CRLF, which kubeadm never stores"),
        (f"\ufeff{STORED}".replace("\n", "\r\n"), "mark and lines that end in CRLF, which"),
    ],
    ids=["bom", "crlf", "both"],
)
def test_what_an_editor_added_is_neither_stored_nor_in_the_way_back(
    tmp_path: Path, given: str, what: str
) -> None:
    plain = living(tmp_path, "v1.20.2", STORED)
    made = living(tmp_path, "v1.20.2", given)
    assert what in " ".join(made["README.md"].split())
    assert what not in " ".join(plain["README.md"].split())
    assert {**made, "README.md": ""} == {**plain, "README.md": ""}
    undo = json.loads(made["kubeadm-config.undo.json"])
    assert undo == {"data": {"ClusterConfiguration": STORED}}


@pytest.mark.parametrize(("tag", "name"), [("v1.23.0", "-1.23"), ("v1.24.0", "")])
def test_the_config_map_of_the_kubelet_is_the_one_of_the_version(tag: str, name: str) -> None:
    readme = contents(make_configuration(request(tag, purpose="living")))["README.md"]
    assert f"get configmap kubelet-config{name} -o" in readme


def test_from_1_31_on_the_stored_lifetimes_change_too(tmp_path: Path) -> None:
    stored = """\
apiVersion: kubeadm.k8s.io/v1beta4
caCertificateValidityPeriod: 87600h0m0s
certificateValidityPeriod: 8760h0m0s
controllerManager:
  extraArgs:
  - name: profiling
    value: "false"
kind: ClusterConfiguration
kubernetesVersion: v1.33.3
"""
    made = yaml.safe_load(living(tmp_path, "v1.33.3", stored)["kubeadm-config.yaml"])
    assert made["caCertificateValidityPeriod"] == "876000h"
    assert made["certificateValidityPeriod"] == "438000h"
    assert made["controllerManager"]["extraArgs"] == [
        {"name": FLAG, "value": "438000h"},
        {"name": "profiling", "value": "false"},
    ]


@pytest.mark.parametrize("arguments", [f"{OLD_FLAG}: 1h", f"{FLAG}: 1h"])
def test_an_option_that_is_there_gets_the_value_and_the_name_of_the_version(
    tmp_path: Path, arguments: str
) -> None:
    stored = STORED.replace("{}", f"{{extraArgs: {{{arguments}}}}}")
    made = yaml.safe_load(living(tmp_path, "v1.20.2", stored)["kubeadm-config.yaml"])
    assert made["controllerManager"] == {"extraArgs": {FLAG: "438000h"}}


def test_what_is_right_already_stays_the_same(tmp_path: Path) -> None:
    once = living(tmp_path, "v1.20.2", STORED)
    again = living(tmp_path, "v1.20.2", once["kubeadm-config.yaml"], once["kubelet-config.yaml"])
    assert again["kubeadm-config.yaml"] == once["kubeadm-config.yaml"]
    assert again["kubeadm-config.diff"] == again["kubelet-config.diff"] == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        ("kind: [\n", "not YAML"),
        ("", "not a mapping"),
        ("a: &x [1]\nb: [*x, *x]\n", "aliases"),
        ("[" * 1000, "levels"),
        ("\x00", "not YAML"),
        ("x: " + "y" * (64 << 10), "larger"),
        (STORED + "kind: ClusterConfiguration\n", "the key kind twice"),
        (f"{STORED}---\n{STORED}", "2 of its 2 documents have the kind ClusterConfiguration"),
        ("kind: InitConfiguration\n---\n" + KUBELET, "0 of its 2 documents"),
        (STORED.replace("{}", "{extraArgs: {a: b, a: c}}"), "the key a twice"),
        (STORED.replace("{}", f"{{extraArgs: {{{FLAG}: 1h, {OLD_FLAG}: 2h}}}}"), "extraArgs hold"),
        (STORED.replace("{}", "{extraArgs: [a]}"), "no map of arguments"),
        (STORED.replace("{}", "text"), "no map of arguments"),
        (STORED.replace("v1beta2", "v1beta1"), "writes kubeadm.k8s.io/v1beta2"),
        (STORED.replace("v1.20.2", "v1.21.0"), "of Kubernetes v1.21.0"),
        (STORED.replace("v1.20.2", "stable"), "its kubernetesVersion is 'stable'"),
        (STORED.replace("kubernetesVersion: v1.20.2\n", ""), "its kubernetesVersion is None"),
        (STORED.replace("kind: ClusterConfiguration", "kind: ConfigMap"), "whole ConfigMap"),
        (KUBELET, "its kind is 'KubeletConfiguration'"),
        ("kind: {a: b}\n", "its kind is"),
    ],
    ids=range(20),
)
def test_a_stored_configuration_that_cannot_be_changed_is_refused(
    tmp_path: Path, stored: str, reason: str
) -> None:
    with pytest.raises(BadStoredConfiguration, match=reason) as caught:
        living(tmp_path, "v1.20.2", stored)
    assert caught.value.hint


NODE = "apiVersion: kubeadm.k8s.io/v1beta2\nkind: InitConfiguration\n"


@pytest.mark.parametrize(
    "text",
    [
        f"{STORED}---\n{NODE}",
        f"{NODE}---\n{STORED}",
        f"---\n{NODE}--- # the next one\n{STORED}...\n",
        f"{NODE}---\n---\n{STORED}---\n",
        f"{NODE}---\n{STORED}".replace("\n", "\r\n"),
    ],
    ids=range(5),
)
def test_of_several_documents_the_right_one_is_changed(tmp_path: Path, text: str) -> None:
    alone = living(tmp_path, "v1.20.2", STORED)
    made = living(tmp_path, "v1.20.2", text)
    readme = " ".join(made["README.md"].split())
    assert "has other documents too (InitConfiguration)" in readme
    assert "has other documents too" not in alone["README.md"]
    assert made["kubeadm-config.before.yaml"].replace("\r", "").strip() == STORED.strip()
    for name in ("kubeadm-config.yaml", "kubeadm-config.patch.json"):
        assert made[name].replace("\r", "").split() == alone[name].split() or "\r" in text


def test_a_file_of_an_old_api_can_be_converted_as_the_hint_says(tmp_path: Path) -> None:
    with pytest.raises(BadStoredConfiguration) as caught:
        living(tmp_path, "v1.20.2", STORED.replace("v1beta2", "v1beta1"))
    assert "kubeadm config migrate --old-config FILE --new-config NEW" in caught.value.hint
    with pytest.raises(BadStoredConfiguration) as caught:
        living(tmp_path, "v1.20.2", STORED.replace("v1beta2", "v1beta3"))
    assert caught.value.hint == "give the --version of the cluster"


@pytest.mark.parametrize(
    ("line", "reason", "hint"),
    [
        (
            "featureGates: {RotateKubeletServerCertificate: false}",
            "RotateKubeletServerCertificate to false",
            "set RotateKubeletServerCertificate to true",
        ),
        (
            "featureGates: {AllBeta: false}",
            "AllBeta to false",
            "set RotateKubeletServerCertificate to true",
        ),
        ("tlsCertFile: /etc/a.crt", "it sets tlsCertFile, so", "remove tlsCertFile,"),
        (
            "tlsCertFile: /a.crt\ntlsPrivateKeyFile: /a.key",
            "tlsCertFile and tlsPrivateKeyFile",
            "remove tlsCertFile and tlsPrivateKeyFile",
        ),
    ],
)
def test_a_kubelet_that_would_not_get_a_serving_certificate_is_refused(
    tmp_path: Path, line: str, reason: str, hint: str
) -> None:
    with pytest.raises(BadStoredConfiguration, match=reason) as caught:
        living(tmp_path, "v1.20.2", STORED, f"{KUBELET}{line}\n")
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    "line",
    [
        "featureGates: {RotateKubeletServerCertificate: true, AllBeta: false}",
        "featureGates: {GracefulNodeShutdown: false}",
        "featureGates:",
        'tlsCertFile: ""',
    ],
)
def test_a_kubelet_that_gets_a_serving_certificate_keeps_the_rest(
    tmp_path: Path, line: str
) -> None:
    made = living(tmp_path, "v1.20.2", STORED, f"{KUBELET}{line}\n")
    assert f"\n{line}\n" in made["kubelet-config.yaml"]


def test_rotation_that_is_off_is_turned_on_and_shown(tmp_path: Path) -> None:
    off = KUBELET.replace("true", "false")
    diff = living(tmp_path, "v1.20.2", STORED, off)["kubelet-config.diff"]
    assert "\n-rotateCertificates: false\n+rotateCertificates: true\n" in diff


def test_a_list_with_the_option_twice_is_refused(tmp_path: Path) -> None:
    stored = f"""\
apiVersion: kubeadm.k8s.io/v1beta4
controllerManager:
  extraArgs: [{{name: {FLAG}, value: 1h}}, {{name: {FLAG}, value: 2h}}]
kind: ClusterConfiguration
kubernetesVersion: v1.33.3
"""
    with pytest.raises(BadStoredConfiguration, match="extraArgs hold"):
        living(tmp_path, "v1.33.3", stored)
    with pytest.raises(BadStoredConfiguration, match="no list of arguments"):
        living(tmp_path, "v1.33.3", stored.replace("name:", "nam:"))


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(BadStoredConfiguration):
            make_configuration(request("v1.20.2", purpose="living", kubeadm_config=path))
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(BadStoredConfiguration, match="UTF-8"):
        make_configuration(request("v1.20.2", purpose="living", kubelet_config=tmp_path / "bytes"))


@pytest.mark.parametrize("control_plane", [True, False])
def test_a_backup_can_be_made_on_every_node(tmp_path: Path, control_plane: bool) -> None:
    for path in ("kubernetes", "kubelet/pki", "backups"):
        (tmp_path / path).mkdir(parents=True)
    if control_plane:  # a worker may lack the folder
        (tmp_path / "kubernetes/manifests").mkdir()
    (tmp_path / "kubernetes/kubelet.conf").touch()
    (tmp_path / "kubelet/config.yaml").touch()
    readme = contents(make_configuration(request("v1.20.2", purpose="living")))["README.md"]
    [typed] = [part for part in readme.split("```")[1::2] if "mkdir -m 0700" in part]
    script = typed.removeprefix("sh\n")
    for real, here in (("/etc/", ""), ("/var/lib/", ""), ("/var/", "")):
        script = script.replace(real, f"{tmp_path}/{here}")
    subprocess.run(["sh", "-c", script], check=True)
    saved = {path.name for path in (tmp_path / "backups/kbuild-config").iterdir()}
    assert saved == {"kubelet.conf", "config.yaml", "pki"} | (
        {"manifests"} if control_plane else set()
    )


@pytest.mark.parametrize(
    ("tag", "renew", "expiration"),
    [
        ("v1.14.10", "alpha certs renew all", "kbuild certs /etc/kubernetes  "),
        ("v1.16.15", "alpha certs renew all", "kubeadm alpha certs check-expiration\n"),
        ("v1.20.2", "certs renew all", "kubeadm certs check-expiration\n"),
    ],
)
def test_the_commands_that_renew_are_those_of_the_version(
    tag: str, renew: str, expiration: str
) -> None:
    steps = contents(make_configuration(request(tag, purpose="living")))["README.md"]
    assert f"\nkubeadm {renew}    # with" in steps
    assert f"\n{expiration}" in steps
    new = unwrapped(make_configuration(request(tag, purpose="new")))
    assert f"`kubeadm {renew} --config kubeadm.yaml`" in new
