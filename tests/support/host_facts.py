"""A control plane that may be changed; tests replace what they are about."""

from kbuild.nodes.model import Host, HostFacts

HEALTHY = HostFacts(
    host=Host(name="n1"),
    uid=0,
    clock=0,
    asked_at=0.0,
    machine="x86_64",
    has_gzip=True,
    kubeadm="/usr/bin/kubeadm",
    target="/usr/bin/kubeadm",
    sha256="0" * 64,
    version="v1.20.2",
    kubelet="v1.20.2",
    free=1 << 20,
    state_free=1 << 20,
    package="",
    is_held=False,
    is_read_only=False,
    is_control_plane=True,
    busy=(),
    generations=(),
    unfinished="",
)
