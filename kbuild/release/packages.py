"""Make a deb and an rpm of the binary, for hosts whose package manager would restore the stock one.

The package has its own name, ``kubeadm-kbuild``, so that no repository has a newer version. It
conflicts with ``kubeadm`` and provides it. It replaces that package, so it also contains the
kubelet's drop-in: without it the kubelet does not know the cluster (kubernetes/release,
cmd/krel/templates/latest/kubeadm/10-kubeadm.conf).

Source of the versions: kubernetes/release, pkg/obs/specs/pkgdef.go.
"""

import os
import shutil
import subprocess
from datetime import datetime
from pathlib import Path
from string import Template

from kbuild.base.arches import ARCHES
from kbuild.base.words import years
from kbuild.kubeadm.model import Binary, PackageKind
from kbuild.release.errors import PackagerFailed, PackagerMissing

NAME = "kubeadm-kbuild"
_TOOLS = {"deb": ("dpkg-deb", "dpkg"), "rpm": ("rpmbuild", "rpm")}
_DROP_IN = "usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf"
_DEFAULTS = {"deb": "/etc/default/kubelet", "rpm": "/etc/sysconfig/kubelet"}
_DROP_IN_TEXT = Template("""\
# What kubeadm writes for the kubelet of its cluster.
[Service]
Environment="KUBEADM_KUBECONFIGS=--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf \
--kubeconfig=/etc/kubernetes/kubelet.conf"
Environment="KUBEADM_CONFIG=--config=/var/lib/kubelet/config.yaml"
# Sets KUBELET_KUBEADM_ARGS
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
# Sets KUBELET_EXTRA_ARGS
EnvironmentFile=-$defaults
ExecStart=
ExecStart=/usr/bin/kubelet $$KUBEADM_KUBECONFIGS $$KUBEADM_CONFIG $$KUBELET_KUBEADM_ARGS \
$$KUBELET_EXTRA_ARGS
""")
_CONTROL = Template("""\
Package: $name
Version: $version
Architecture: $arch
Maintainer: kbuild <kbuild@localhost>
Installed-Size: $kib
Recommends: kubelet
Provides: kubeadm (= $version)
Conflicts: kubeadm
Replaces: kubeadm
Section: admin
Priority: optional
Description: $about
""")
_SPEC = Template("""\
Name: $name
Version: $version
Release: 1
Summary: $about
License: Apache-2.0
Group: System
Provides: kubeadm = $version
Conflicts: kubeadm
AutoReqProv: no
%description
$about
%files
%attr(0755, root, root) /usr/bin/kubeadm
%attr(0644, root, root) /$drop_in
""")
# The package must not depend on the host: its name, its clock, its number of processors.
_MACROS = {
    "_buildhost": NAME,
    "use_source_date_epoch_as_buildtime": "1",
    "clamp_mtime_to_source_date_epoch": "1",
    "source_date_epoch_from_changelog": "0",
    "_binary_payload": "w9.gzdio",
    "_build_id_links": "none",
    "debug_package": "%{nil}",
    "__os_install_post": "%{nil}",
    "__strip": "/bin/true",
    "_build_name_fmt": "package.rpm",
}


def demand_tools(kinds: tuple[PackageKind, ...]) -> None:
    """Raise PackagerMissing unless the programs for packages of these kinds are installed."""
    for kind in kinds:
        tool, debian = _TOOLS[kind]
        if shutil.which(tool) is None:
            raise PackagerMissing(tool=tool, format=kind, package=debian)


def package_name(kind: PackageKind, tag: str, arch: str) -> str:
    """Return the file name of a package."""
    if kind == "deb":
        return f"{NAME}_{_version(tag)}_{ARCHES[arch].deb}.deb"
    return f"{NAME}-{_version(tag)}-1.{ARCHES[arch].rpm}.rpm"


def make_package(kind: PackageKind, binary: Binary, work: Path, out: Path) -> None:
    """Make a package of a binary in the directory ``out``; the same binary gives the same bytes.

    Raises PackagerFailed.
    """
    date, tree = binary.stamp.build_date, binary.tree
    root, names = work / f"{kind}-{binary.arch}", ARCHES[binary.arch]
    _lay_out(root / "root", binary.path, kind, date)
    ca, leaf = years(tree.lifetimes.ca_years), years(tree.lifetimes.leaf_years)
    facts = {
        "name": NAME,
        "version": _version(tree.source.tag),
        "arch": names.deb if kind == "deb" else names.rpm,
        "about": f"kubeadm {tree.source.tag} with longer certificates (CA {ca}, leaf {leaf})",
        "drop_in": _DROP_IN,
        "kib": -(-binary.path.stat().st_size // 1024),
    }
    made = _deb(root, facts, date) if kind == "deb" else _rpm(root, facts, date)
    shutil.copyfile(made, out / package_name(kind, tree.source.tag, binary.arch))


def _version(tag: str) -> str:
    # A ~ sorts before everything, so a pre-release is older than its release.
    return tag.removeprefix("v").replace("-", "~", 1)


def _lay_out(root: Path, binary: Path, kind: str, date: datetime) -> None:
    kubeadm, drop_in = root / "usr/bin/kubeadm", root / _DROP_IN
    for path in (kubeadm, drop_in):
        path.parent.mkdir(parents=True)
    shutil.copyfile(binary, kubeadm)
    kubeadm.chmod(0o755)
    drop_in.write_text(_DROP_IN_TEXT.substitute(defaults=_DEFAULTS[kind]))
    drop_in.chmod(0o644)
    _set_times(root, date)


def _deb(root: Path, facts: dict[str, object], date: datetime) -> Path:
    tree = root / "root"
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN/control").write_text(_CONTROL.substitute(facts))
    _set_times(tree, date)
    made = root / "package.deb"
    # The output of xz depends on the number of processors.
    _run(("dpkg-deb", "--root-owner-group", "-Zgzip", "-z9", "--build", tree, made), date)
    return made


def _rpm(root: Path, facts: dict[str, object], date: datetime) -> Path:
    (root / "spec").write_text(_SPEC.substitute(facts))
    macros = {**_MACROS, "_topdir": root / "top", "_rpmdir": root}
    defines = [word for n, v in macros.items() for word in ("--define", f"{n} {v}")]
    target = ("--target", f"{facts['arch']}-linux", "--buildroot", root / "root")
    # Without %install, rpmbuild neither fills nor empties the build root.
    _run(("rpmbuild", "-bb", "--noprep", "--noclean", *target, *defines, root / "spec"), date)
    return root / "package.rpm"


def _set_times(root: Path, date: datetime) -> None:
    for path in (root, *root.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)
        os.utime(path, (date.timestamp(), date.timestamp()))


def _run(command: tuple[str | Path, ...], date: datetime) -> None:
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "SOURCE_DATE_EPOCH": str(int(date.timestamp())),
        "LC_ALL": "C",
        "HOME": os.devnull,
    }
    done = subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        raise PackagerFailed(
            tool=str(command[0]), code=done.returncode, details=done.stderr[-2000:]
        )
