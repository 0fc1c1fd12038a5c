"""A kubeadm in Python for tests: it issues and renews like the real one, or wrongly on demand.

It is a prove.runner.Runner. The names, the order and the dates are kubeadm's; the keys are
elliptic, because they are made quickly.
"""

import base64
import json
from datetime import UTC, datetime, timedelta

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kbuild.base.sandbox import Files
from kbuild.kubeadm.prove.issued import CAS, KUBECONFIGS, LEAVES
from tests.support.authority import DUMPER

DAY = timedelta(days=1)
RENEWED_KUBECONFIGS = ("admin.conf", "controller-manager.conf", "scheduler.conf")
SUPER_ADMIN = "super-admin.conf"  # of v1.29 and later
STOCK = {"ca": "87600h0m0s", "leaf": "8760h0m0s"}
FIELDS = {"ca": "caCertificateValidityPeriod", "leaf": "certificateValidityPeriod"}


class FakeKubeadm:
    """Issues CAs of ``ca`` and leaves of ``leaf``, unless its configuration stores other lifetimes.

    Stock's defaults that are stored win only for the ``kept`` of "ca" and "leaf". ``wrong`` changes
    the lifetime of one path, ``instead`` its content. ``fields`` is what it says of itself,
    ``files`` what the last run has left.
    """

    how = "native"
    where = "test"

    def __init__(self, ca: timedelta, leaf: timedelta, version: str = "v1.20.2") -> None:
        self.ca, self.leaf = ca, leaf
        self.kept: set[str] = set()
        self.deaf = False  # to all that is stored
        self.fields = {"gitVersion": version}
        self.wrong: dict[tuple[str, str], timedelta] = {}
        self.missing: set[str] = set()
        self.unrenewed: set[str] = set()
        self.counts_from_ca_birth = False
        self.calls: list[tuple[str, ...]] = []
        self.instead: dict[str, bytes] = {}
        self.files: Files = {}

    def run(self, arguments: tuple[str, ...], files: Files) -> tuple[str, Files]:
        self.calls.append(arguments)
        made = dict(files)
        if arguments[0] == "version":
            return json.dumps({"clientVersion": self.fields}), files
        has_super_admin = self.fields["gitVersion"][:5] >= "v1.29"
        extra = (SUPER_ADMIN,) if has_super_admin else ()
        ca, leaf = self._lifetimes(arguments, files)
        if arguments[:4] == ("init", "phase", "certs", "all"):
            for path in CAS:
                self._write(made, path, "issued", ca)
            for path in LEAVES:
                self._write(made, path, "issued", leaf)
        elif arguments[:4] == ("init", "phase", "kubeconfig", "all"):
            for path in (*KUBECONFIGS, *extra):
                self._write(made, path, "issued", leaf)
        elif "renew" in arguments:
            for path in (*LEAVES, *RENEWED_KUBECONFIGS, *extra):
                if path not in self.unrenewed:
                    self._write(made, path, "renewed", leaf)
        self.files = made
        return "", made

    def stop(self) -> None:
        """Nothing of it runs on by itself."""

    def _lifetimes(self, arguments: tuple[str, ...], files: Files) -> tuple[timedelta, timedelta]:
        compiled = {"ca": self.ca, "leaf": self.leaf}
        [config] = [a.rpartition("/")[2] for a in arguments if a.startswith("--config=")]
        [cluster] = [
            document
            for document in yaml.safe_load_all(files[config])
            if document["kind"] == "ClusterConfiguration"
        ]
        for kind, field in FIELDS.items():
            stored = cluster.get(field)
            if stored and not self.deaf and (stored != STOCK[kind] or kind in self.kept):
                compiled[kind] = timedelta(hours=int(stored.removesuffix("h0m0s")))
        return compiled["ca"], compiled["leaf"]

    def _write(self, files: dict[str, bytes], name: str, moment: str, lifetime: timedelta) -> None:
        if name in self.missing or (name in CAS and name in files):
            return
        ca = x509.load_pem_x509_certificate(files["pki/ca.crt"]) if name not in CAS else None
        now = datetime.now(UTC)
        born = ca.not_valid_before_utc if ca and self.counts_from_ca_birth else now
        ends = born + lifetime + self.wrong.get((name, moment), timedelta())
        pem = certificate(name, now - timedelta(minutes=5), ends, ca=name in CAS)
        if name.endswith(".conf"):
            data = base64.b64encode(pem).decode()
            user = {"name": "x", "user": {"client-certificate-data": data}}
            pem = yaml.dump({"users": [user]}, Dumper=DUMPER).encode()
        files[name] = self.instead.get(name, pem)


def certificate(name: str, born: datetime, ends: datetime, *, ca: bool) -> bytes:
    """Return a self-signed certificate as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[-60:])])
    builder = x509.CertificateBuilder(
        issuer_name=subject,
        subject_name=subject,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=born,
        not_valid_after=ends,
    )
    if ca:
        builder = builder.add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
