"""Snippets for tools that install kubeadm on nodes: its URL and its checksum.

Sources, each at the commit that was read: kubernetes-sigs/kubespray 46dbdd3:
roles/kubespray_defaults/defaults/main/download.yml,
roles/kubernetes/control-plane/defaults/main/main.yml. Its kubeadm_checksums belong to a role, and
an inventory cannot override them; kubeadm_binary_checksum can be set, since v2.11. Up to v2.27
(45140b5), roles/download/tasks/download_file.yml puts sha256: before it, and kube_version begins
with v; since v2.28 (63cdf87) neither. kubesphere/kubekey 1c3204b:
builtin/core/roles/download/tasks/binary.yaml,
builtin/core/roles/defaults/defaults/main/01-main.yaml and 02-certs.yaml. It downloads only missing
files, does not verify checksums, and makes the CAs itself. That is v4; v3 compares files with its
own list of checksums, and downloads the official one instead. sealos: its documentation of the
Kubefile; a cluster image has its programs in bin/.
"""

from collections.abc import Callable, Iterator, Mapping
from string import Template

from packaging.version import Version

from kbuild.base.arches import ARCHES
from kbuild.base.words import years
from kbuild.release.names import binary_name
from kbuild.release.provenance import Statement

_HOURS_A_YEAR = 8760
# Since this version, the lifetimes are in kubeadm's configuration, which kubespray writes.
_CONFIGURED = Version("1.31.dev0")

_KUBESPRAY = Template("""\
# $about
# For group_vars/all of kubespray v2.11 and newer.
# Another kube_version fails here instead of getting this kubeadm.
kubeadm_download_url: "$address"
# Up to v2.27, kube_version begins with v, and kubespray itself puts sha256: before the checksum.
kubeadm_binary_checksum: >-
  {{ ('' if kube_version is match('v') else 'sha256:')
  ~ {'$version': {$sums}}[kube_version | regex_replace('^v', '')][image_arch] }}
""")
_KUBESPRAY_LIFETIMES = Template("""\
# $why
kube_cert_validity_period: $leaf
kube_ca_cert_validity_period: $ca
""")
_WHY_LIFETIMES = {
    "override": "Kubespray writes these into kubeadm's configuration. Without them it writes\n"
    "# stock's defaults, which this kubeadm overrides; any other value wins.",
    "keep": "Kubespray writes these into kubeadm's configuration, which beats what is compiled in.",
}
_KUBEKEY = Template("""\
# $about
# For KubeKey v4, which does not verify the files in its binary_dir: run this in its work_dir first.
# Not for v3: it has checksums of its own, and would download the official kubeadm instead of this.
set -eu
case $$({ ./kk version || kk version; } 2>/dev/null) in
  *v3.*)
    echo "this is KubeKey v3, which would replace this kubeadm by the official one" >&2
    exit 1
    ;;
esac
$fetches
# KubeKey makes the CAs itself. Add this to its configuration, below spec:
#   certs:
#     kubernetes_ca: { date: $ca }
#     front_proxy_ca: { date: $ca }
#     etcd: { date: $leaf }
""")
_SEALOS = Template("""\
# $about
# This makes a cluster image for each architecture, for sealos run.
set -eu
$fetches
""")
_SEALOS_BUILD = Template("""\
printf 'FROM labring/kubernetes:$tag\\nCOPY bin/$arch/kubeadm bin/kubeadm\\n' >Kubefile-$arch
sealos build --platform linux/$arch -f Kubefile-$arch -t kubernetes-kbuild:$tag-$arch .
""")
_CLOUD_INIT = Template("""\
#cloud-config
# $about
write_files:
  - path: /run/kbuild/install-kubeadm
    permissions: "0755"
    content: |
      #!/bin/sh
      set -eu
      case "$$(uname -m)" in
$cases
        *) echo "no kubeadm for $$(uname -m)" >&2; exit 1 ;;
      esac
      made=$$(mktemp)
      curl --fail --silent --show-error --location --retry 5 --output "$$made" "$$address"
      echo "$$sum  $$made" | sha256sum --check --quiet
      install -m 0755 "$$made" /usr/bin/kubeadm
      rm -f "$$made"
runcmd:
  - [/run/kbuild/install-kubeadm]
""")
_FETCH = Template("""\
mkdir -p $folder
curl --fail --silent --show-error --location --retry 5 --output $folder/kubeadm.part $address
echo '$sum  $folder/kubeadm.part' | sha256sum --check --quiet
chmod 0755 $folder/kubeadm.part
mv $folder/kubeadm.part $folder/kubeadm
""")

Facts = Mapping[str, str]


def snippet(tool: str, statement: Statement, base: str) -> str:
    """Return the snippet for a tool; ``base`` is the URL of the release directory.

    For the layout ``tree`` it is the URL above the version directory, as on upstream's site.
    """
    asked = statement.asked
    tag, layout = asked["version"], asked["layout"]
    ca, leaf = (asked["lifetimes"][name] for name in ("ca_years", "leaf_years"))
    above = base.rstrip("/")
    if layout == "tree":
        above = f"{above.removesuffix(f'/{tag}')}/{tag}"
    names = {arch: binary_name(arch, layout) for arch in asked["arches"]}
    facts = {
        "about": f"kubeadm {tag} by kbuild: CA {years(ca)}, others {years(leaf)}",
        "tag": tag,
        "version": tag.removeprefix("v"),
        "ca": f"{ca * _HOURS_A_YEAR}h",
        "leaf": f"{leaf * _HOURS_A_YEAR}h",
        "why": _WHY_LIFETIMES[asked.get("stored_defaults", "keep")],
        "address": f"{above}/{binary_name('{{ image_arch }}', layout)}",
    }
    each = [
        {
            "arch": arch,
            "tag": tag,
            "machine": ARCHES[arch].machine,
            "address": f"{above}/{name}",
            "sum": statement.subjects[name]["sha256"],
        }
        for arch, name in names.items()
    ]
    return TOOLS[tool](facts, each)


def _kubespray(facts: Facts, each: list[dict[str, str]]) -> str:
    sums = ", ".join(f"'{one['arch']}': '{one['sum']}'" for one in each)
    text = _KUBESPRAY.substitute(facts, sums=sums)
    if Version(facts["tag"]) >= _CONFIGURED:
        text += _KUBESPRAY_LIFETIMES.substitute(facts)
    return text


def _kubekey(facts: Facts, each: list[dict[str, str]]) -> str:
    fetches = (
        _FETCH.substitute(one, folder=f"kubekey/kube/{facts['tag']}/{one['arch']}") for one in each
    )
    return _KUBEKEY.substitute(facts, fetches="".join(fetches).rstrip())


def _sealos(facts: Facts, each: list[dict[str, str]]) -> str:
    return _SEALOS.substitute(facts, fetches="".join(_sealos_images(each)).rstrip())


def _sealos_images(each: list[dict[str, str]]) -> Iterator[str]:
    for one in each:
        yield _FETCH.substitute(one, folder=f"bin/{one['arch']}") + _SEALOS_BUILD.substitute(one)


def _cloud_init(facts: Facts, each: list[dict[str, str]]) -> str:
    cases = (
        f"        {one['machine']}) address={one['address']} sum={one['sum']} ;;" for one in each
    )
    return _CLOUD_INIT.substitute(facts, cases="\n".join(cases))


TOOLS: dict[str, Callable[[Facts, list[dict[str, str]]], str]] = {
    "kubespray": _kubespray,
    "kubekey": _kubekey,
    "sealos": _sealos,
    "cloud-init": _cloud_init,
}
