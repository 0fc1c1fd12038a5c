"""A sigstore instance on loopback, as far as signing and verifying ask for one.

Fulcio gives a certificate with an embedded SCT to whoever shows a token; Rekor keeps a log of one
entry at a time; an OIDC provider gives the tokens of a CI job. Their keys stand in the
ClientTrustConfig, so sigstore's own client verifies all of it.
"""

import base64
import hashlib
import json
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import jwt
import rfc8785
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

ISSUER = "https://token.actions.githubusercontent.com"
IDENTITY = "https://github.com/somebody/releases/.github/workflows/build.yml@refs/heads/main"
_SCTS = ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
_ISSUER_EXTENSION = ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
_ORIGIN = "rekor.test"

Key = ec.EllipticCurvePrivateKey


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _der(key: Key) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _sign(key: Key, data: bytes) -> bytes:
    return key.sign(data, ec.ECDSA(hashes.SHA256()))


class Instance:
    """The keys of the services, and what they answer."""

    def __init__(self) -> None:
        self.ca_key, self.log_key, self.ct_key = (
            ec.generate_private_key(ec.SECP256R1()) for _ in range(3)
        )
        self.ca = self._make_ca()
        self.address = ""
        self.entries = 0

    def token(self) -> str:
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": "sigstore",
            "sub": "repo:somebody/releases:ref:refs/heads/main",
            "iat": now,
            "nbf": now,
            "exp": now + 300,
        }
        return jwt.encode(claims, "nobody checks this one" * 2, algorithm="HS256")

    def certify(
        self,
        csr: x509.CertificateSigningRequest,
        name: x509.GeneralName | None = None,
        issuer: str = ISSUER,
        purpose: x509.ObjectIdentifier = ExtendedKeyUsageOID.CODE_SIGNING,
    ) -> x509.Certificate:
        now = datetime.now(UTC).replace(microsecond=0)
        builder = (
            x509.CertificateBuilder(
                issuer_name=self.ca.subject,
                subject_name=x509.Name([]),
                public_key=csr.public_key(),
                serial_number=x509.random_serial_number(),
                not_valid_before=now - timedelta(seconds=5),
                not_valid_after=now + timedelta(minutes=10),
            )
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.ca_key.public_key()),
                critical=False,
            )
            .add_extension(
                x509.SubjectAlternativeName([name or x509.UniformResourceIdentifier(IDENTITY)]),
                critical=True,
            )
            .add_extension(
                x509.UnrecognizedExtension(_ISSUER_EXTENSION, issuer.encode()), critical=False
            )
        )
        tbs = builder.sign(self.ca_key, hashes.SHA256()).tbs_certificate_bytes
        sct = x509.UnrecognizedExtension(_SCTS, self._sct_list(tbs))
        return builder.add_extension(sct, critical=False).sign(self.ca_key, hashes.SHA256())

    def log(self, proposed: dict[str, Any]) -> dict[str, Any]:
        """Return the entry as Rekor does; the log holds nothing else."""
        self.entries += 1
        body = json.dumps(_canonical_body(proposed)).encode()
        entry: dict[str, str | int] = {
            "body": _base64(body),
            "integratedTime": int(time.time()),
            "logID": hashlib.sha256(_der(self.log_key)).hexdigest(),
            "logIndex": 0,
        }
        root = hashlib.sha256(b"\0" + body).digest()
        note = f"{_ORIGIN}\n1\n{_base64(root)}\n"
        hint = hashlib.sha256(_der(self.log_key)).digest()[:4]
        signature = _base64(hint + _sign(self.log_key, note.encode()))
        verification = {
            "signedEntryTimestamp": _base64(_sign(self.log_key, rfc8785.dumps(dict(entry)))),
            "inclusionProof": {
                "checkpoint": f"{note}\n\N{EM DASH} {_ORIGIN} {signature}\n",
                "hashes": [],
                "logIndex": 0,
                "rootHash": root.hex(),
                "treeSize": 1,
            },
        }
        return {root.hex(): {**entry, "verification": verification}}

    def trust_config(self) -> dict[str, Any]:
        """Return the ClientTrustConfig of this instance."""
        since = {"start": "2020-01-01T00:00:00Z"}

        def log(key: Key) -> dict[str, Any]:
            return {
                "baseUrl": self.address,
                "hashAlgorithm": "SHA2_256",
                "publicKey": {
                    "rawBytes": _base64(_der(key)),
                    "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                    "validFor": since,
                },
                "logId": {"keyId": _base64(hashlib.sha256(_der(key)).digest())},
            }

        ca = self.ca.public_bytes(serialization.Encoding.DER)
        service = {
            "url": self.address,
            "majorApiVersion": 1,
            "validFor": since,
            "operator": "test",
        }
        return {
            "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
            "trustedRoot": {
                "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
                "tlogs": [log(self.log_key)],
                "ctlogs": [log(self.ct_key)],
                "certificateAuthorities": [
                    {
                        "subject": {"organization": "test", "commonName": "test"},
                        "uri": self.address,
                        "certChain": {"certificates": [{"rawBytes": _base64(ca)}]},
                        "validFor": since,
                    }
                ],
                "timestampAuthorities": [],
            },
            "signingConfig": {
                "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
                "caUrls": [service],
                "oidcUrls": [service],
                "rekorTlogUrls": [service],
                "rekorTlogConfig": {"selector": "ANY"},
                "tsaUrls": [],
            },
        }

    def _make_ca(self) -> x509.Certificate:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder(
                issuer_name=name,
                subject_name=name,
                public_key=self.ca_key.public_key(),
                serial_number=x509.random_serial_number(),
                not_valid_before=now - timedelta(days=1),
                not_valid_after=now + timedelta(days=1),
            )
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(digital_signature=False), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(self.ca_key.public_key()),
                critical=False,
            )
            .sign(self.ca_key, hashes.SHA256())
        )

    def _sct_list(self, tbs: bytes) -> bytes:
        """Return the extension's value: one SCT (RFC 6962, 3.2 and 3.3) in two OCTET STRINGs."""
        moment = int(time.time() * 1000)
        issuer = hashlib.sha256(_der(self.ca_key)).digest()
        entry = issuer + len(tbs).to_bytes(3, "big") + tbs
        signed = struct.pack("!BBQH", 0, 0, moment, 1) + entry + b"\0\0"
        signature = _sign(self.ct_key, signed)
        log_id = hashlib.sha256(_der(self.ct_key)).digest()
        sct = struct.pack("!B32sQH", 0, log_id, moment, 0)
        sct += struct.pack("!BBH", 4, 3, len(signature)) + signature  # SHA-256, ECDSA
        listed = struct.pack("!HH", len(sct) + 2, len(sct)) + sct
        return struct.pack("!BB", 4, len(listed)) + listed


def _canonical_body(proposed: dict[str, Any]) -> dict[str, Any]:
    """Return an entry as Rekor stores it: of an envelope its hashes, not the envelope."""
    if proposed["kind"] != "dsse":
        return proposed
    content = proposed["spec"]["proposedContent"]
    envelope = json.loads(content["envelope"])
    payload = base64.b64decode(envelope["payload"])
    return {
        "apiVersion": proposed["apiVersion"],
        "kind": "dsse",
        "spec": {
            "envelopeHash": {
                "algorithm": "sha256",
                "value": hashlib.sha256(content["envelope"].encode()).hexdigest(),
            },
            "payloadHash": {"algorithm": "sha256", "value": hashlib.sha256(payload).hexdigest()},
            "signatures": [
                {"signature": envelope["signatures"][0]["sig"], "verifier": content["verifiers"][0]}
            ],
        },
    }


def _usage(*, digital_signature: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=not digital_signature,
        crl_sign=not digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


@contextmanager
def running_sigstore() -> Iterator[Instance]:
    """Run the instance while the block runs."""
    instance = Instance()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer({"value": instance.token()})

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path.endswith("/signingCert"):
                pem = base64.b64decode(asked["certificateSigningRequest"])
                certificate = instance.certify(x509.load_pem_x509_csr(pem))
                chain = [certificate, instance.ca]
                pems = [c.public_bytes(serialization.Encoding.PEM).decode() for c in chain]
                self._answer({"signedCertificateEmbeddedSct": {"chain": {"certificates": pems}}})
            else:
                self._answer(instance.log(asked), 201)

        def _answer(self, document: dict[str, Any], code: int = 200) -> None:
            body = json.dumps(document).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    instance.address = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield instance
    finally:
        server.shutdown()
        server.server_close()
