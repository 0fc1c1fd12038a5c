"""A cluster with one control plane and a worker, perhaps with an etcd that is not of kubeadm."""

import yaml

from tests.support.authority import CLIENT, SERVER, Issued, issue
from tests.support.cluster.cluster import Cluster, Node
from tests.support.cluster.files import ADDRESSES, INIT

SINGLE = ("n1", "w1")
CLIENT_OF_ETCD = "/etc/kubernetes/pki/apiserver-etcd-client.crt"
ETCD = "/etc/etcd"  # on the worker, which runs it
_UNIT = """\
[Service]
ExecStart=/usr/bin/etcd --data-dir /var/lib/etcd-external --listen-client-urls {url} \\
  --advertise-client-urls {url} --client-cert-auth --trusted-ca-file {folder}/ca.crt \\
  --cert-file {folder}/server.crt --key-file {folder}/server.key
Restart=always
[Install]
WantedBy=multi-user.target
"""


def single(_cluster: Cluster) -> str:
    """Return a configuration without a load balancer: the server is the control plane itself."""
    documents = list(yaml.safe_load_all(INIT))
    del documents[1]["controlPlaneEndpoint"]
    documents[1]["apiServer"]["certSANs"] = ["balancer"]  # for the client that polls
    return yaml.safe_dump_all(documents)


def with_external_etcd(cluster: Cluster) -> str:
    """Start an etcd on the worker, and return a configuration for a cluster that uses it."""
    worker, plane = cluster.nodes["w1"], cluster.nodes["n1"]
    url, pki = f"https://{ADDRESSES['w1']}:2379", "/etc/kubernetes/pki"
    ca = issue("etcd-ca", ca=True)
    server = issue("etcd", ca, usages=(SERVER, CLIENT), names=("w1", ADDRESSES["w1"]))
    client = issue("kube-apiserver-etcd-client", ca, usages=(CLIENT,))
    put(worker, f"{ETCD}/ca.crt", ca.pem)
    give(worker, f"{ETCD}/server", server)
    put(
        worker,
        "/etc/systemd/system/external-etcd.service",
        _UNIT.format(url=url, folder=ETCD).encode(),
    )
    worker.ssh("systemctl enable --now external-etcd")
    put(plane, f"{pki}/etcd/ca.crt", ca.pem)
    give(plane, CLIENT_OF_ETCD.removesuffix(".crt"), client)
    documents = list(yaml.safe_load_all(single(cluster)))
    documents[1]["etcd"] = {
        "external": {
            "endpoints": [url],
            "caFile": f"{pki}/etcd/ca.crt",
            "certFile": CLIENT_OF_ETCD,
            "keyFile": CLIENT_OF_ETCD.replace(".crt", ".key"),
        }
    }
    return yaml.safe_dump_all(documents)


def give(node: Node, path: str, issued: Issued) -> None:
    """Write a certificate and its key on a node."""
    put(node, f"{path}.crt", issued.pem)
    put(node, f"{path}.key", issued.key_pem)


def put(node: Node, path: str, content: bytes) -> None:
    """Write a file of root's on a node."""
    node.ssh(f"mkdir -p $(dirname {path}) && umask 077 && cat >{path}", stdin=content.decode())
