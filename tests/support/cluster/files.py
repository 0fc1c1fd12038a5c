"""Files of a node's root file system, beside those of Debian's packages."""

import json

RUNC = "usr/local/sbin/runc-without-priority"
CONTROL_PLANES = ("n1", "n2", "n3")
NODES = (*CONTROL_PLANES, "w1")
# The balancer is the controlPlaneEndpoint.
ADDRESSES = {
    "balancer": "10.77.0.1",
    "n1": "10.77.0.11",
    "n2": "10.77.0.12",
    "n3": "10.77.0.13",
    "w1": "10.77.0.21",
}

# Nothing of the machine itself is a node's to change or to wait for.
MASKED = (
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "console-getty.service",
    "dev-hugepages.mount",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "etcd.service",
    "fstrim.timer",
    "getty.target",
    "haproxy.service",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-logind.service",
    "systemd-modules-load.service",
    "systemd-networkd.service",
    "systemd-resolved.service",
    "systemd-sysctl.service",
    "systemd-timesyncd.service",
    "systemd-udev-trigger.service",
    "systemd-udevd-control.socket",
    "systemd-udevd-kernel.socket",
    "systemd-udevd.service",
)
WANTED = ("docker.service", "kubelet.service", "ssh.service")

DOCKER = {
    "bridge": "none",
    "iptables": False,
    "exec-opts": ["native.cgroupdriver=cgroupfs"],
    "storage-driver": "overlay2",
    "default-runtime": "without-priority",
    "runtimes": {"without-priority": {"path": f"/{RUNC}"}},
}

# Not even root may lower oom_score_adj on some machines, and runc then starts nothing.
RUNC_SCRIPT = """\
#!/bin/sh
bundle=
previous=
for word; do
  [ "$previous" != --bundle ] || bundle=$word
  previous=$word
done
if [ -n "$bundle" ] && [ -f "$bundle/config.json" ]; then
  sed -i 's/"oomScoreAdj":-[0-9]*/"oomScoreAdj":0/' "$bundle/config.json"
fi
exec /usr/sbin/runc "$@"
"""

# The two are of the release packages of Kubernetes v1.20.
KUBELET = """\
[Unit]
Description=kubelet: The Kubernetes Node Agent
Documentation=https://kubernetes.io/docs/home/
Wants=network-online.target docker.service
After=network-online.target docker.service

[Service]
ExecStart=/usr/bin/kubelet
Restart=always
StartLimitInterval=0
RestartSec=10

[Install]
WantedBy=multi-user.target
"""
KUBELET_KUBEADM = """\
[Service]
Environment="KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf"
Environment="KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml"
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
EnvironmentFile=-/etc/default/kubelet
ExecStart=
ExecStart=/usr/bin/kubelet $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS
"""  # noqa: E501

FILES = {
    "etc/docker/daemon.json": json.dumps(DOCKER, indent=2) + "\n",
    # No plugin: kubeadm's flags say cni, and a cluster of static pods needs none.
    "etc/default/kubelet": 'KUBELET_EXTRA_ARGS="--network-plugin= --fail-swap-on=false"\n',
    "etc/hosts": "127.0.0.1 localhost\n"
    + "".join(f"{address} {name}\n" for name, address in ADDRESSES.items()),
    "etc/ssh/sshd_config.d/cluster.conf": "UseDNS no\nUsePAM no\n",
    "etc/systemd/journald.conf.d/cluster.conf": "[Journal]\nStorage=volatile\n",
    "etc/systemd/system/kubelet.service.d/10-kubeadm.conf": KUBELET_KUBEADM,
    "lib/systemd/system/kubelet.service": KUBELET,
    RUNC: RUNC_SCRIPT,
}

PAUSE = """\
#include <signal.h>
#include <unistd.h>
static void stop(int number) { (void)number; _exit(0); }
int main(void) {
  signal(SIGINT, stop);
  signal(SIGTERM, stop);
  for (;;) pause();
}
"""

BALANCER = """\
defaults
  mode tcp
  timeout connect 2s
  timeout client 1h
  timeout server 1h
  timeout check 5s
  retries 5
  option redispatch 1

frontend kubernetes
  bind {address}:6443
  default_backend control-planes

backend control-planes
  balance roundrobin
  option httpchk GET /readyz
  default-server check check-ssl verify none inter 1s fastinter 500ms fall 2 rise 2
"""

TOKEN = "abcdef.0123456789abcdef"
CERTIFICATE_KEY = "00112233445566778899aabbccddeeff" * 2
# kubelet v1.20 may admit its first static pods before it knows the size of its file system, and
# then refuses etcd for good. And the machine's full disk is no reason to evict an API server.
INIT = f"""\
apiVersion: kubeadm.k8s.io/v1beta2
kind: InitConfiguration
bootstrapTokens: [{{token: {TOKEN}}}]
certificateKey: {CERTIFICATE_KEY}
localAPIEndpoint: {{advertiseAddress: {ADDRESSES["n1"]}}}
---
apiVersion: kubeadm.k8s.io/v1beta2
kind: ClusterConfiguration
kubernetesVersion: v1.20.2
controlPlaneEndpoint: balancer:6443
apiServer: {{timeoutForControlPlane: 9m0s}}
---
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: cgroupfs
featureGates: {{LocalStorageCapacityIsolation: false}}
evictionHard: {{memory.available: 50Mi, nodefs.available: 1%, imagefs.available: 1%}}
"""
