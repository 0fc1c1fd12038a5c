"""Sign a release as sigstore bundles, with a key or keyless, and verify the signatures.

    SHA256SUMS.sigstore.json    a bundle with the signature of SHA256SUMS
    provenance.sigstore.json    a bundle with provenance.json in a signed DSSE envelope
    cosign.pub                  the public key, if a key was used

Formats: sigstore/protobuf-specs, protos/sigstore_bundle.proto (v0.3), and
secure-systems-lab/dsse, protocol.md.
"""

import base64
import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kbuild.base import network
from kbuild.base.disk import disk_errors
from kbuild.base.files import BROKEN, read_file, reason_of
from kbuild.base.strictjson import load_json
from kbuild.release.errors import AlreadySigned, BadKey, KeylessFailed
from kbuild.release.files import MAX_DOCUMENT, Problem, ReleaseFiles
from kbuild.release.keys import fingerprint, pem, private_key, public_key
from kbuild.release.names import (
    PROVENANCE,
    PROVENANCE_BUNDLE,
    PUBLIC_KEY,
    SIGNATURES,
    SUMS,
    SUMS_BUNDLE,
)

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD = "application/vnd.in-toto+json"
_SIGNED = {SUMS_BUNDLE: SUMS["sha256"], PROVENANCE_BUNDLE: PROVENANCE}
_LONGEST_WORDS = 500  # characters
_KINDS = {"key": "signed with a key", "keyless": "signed keyless", "": "no bundle"}
_STALLS = 4  # stall timeouts for all requests to sigstore's services
_NO_EXTRA = "an extra is missing: pip install '.[keyless]'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """Who signed: a key's fingerprint, or an identity with its issuer.

    ``trusted`` is False if the key was only found in the release: then the signature shows that
    nothing was damaged, but not who made it.
    """

    kind: str
    name: str
    trusted: bool


def sign_with_key(
    folder: Path, documents: Mapping[str, bytes], key_file: Path, *, force: bool = False
) -> Signer:
    """Sign a release with a private key: PEM of the curve P-256, or cosign's own file.

    ``documents`` has the checked bytes of SHA256SUMS and the provenance, of which exactly these are
    signed, and the signatures that are there.
    The password of an encrypted key is taken from COSIGN_PASSWORD. Without ``force``, no signature
    of another signer is replaced. Raises BadKey or AlreadySigned.
    """
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    key = private_key(key_file)
    public = key.public_key()
    if not (force or documents.get(PUBLIC_KEY) == pem(public)):
        _demand_unsigned(folder, documents)

    def sign(message: bytes) -> str:
        return _base64(key.sign(message, ec.ECDSA(hashes.SHA256())))

    sums, statement = documents[SUMS["sha256"]], documents[PROVENANCE]
    bundles = {
        SUMS_BUNDLE: _sums_bundle(public, sums, sign(sums)),
        PROVENANCE_BUNDLE: _provenance_bundle(public, statement, sign(_pae(statement))),
    }
    files = {name: json.dumps(bundle).encode() for name, bundle in bundles.items()}
    _write(folder, {**files, PUBLIC_KEY: pem(public)})
    return Signer(kind="key", name=f"sha256:{fingerprint(public).hex()}", trusted=True)


def sign_keyless(
    folder: Path, documents: Mapping[str, bytes], trust_config: Path | None, *, force: bool = False
) -> Signer:
    """Sign a release with the OIDC identity of this CI job, through Fulcio and Rekor.

    ``documents`` has the checked bytes of SHA256SUMS and the provenance. ``trust_config`` is a
    ClientTrustConfig of another sigstore instance than the public one. Without ``force``, no
    signature is replaced, because an identity is only known after it has signed. Raises
    KeylessFailed or AlreadySigned.
    """
    if not force:
        _demand_unsigned(folder, documents)
    identity, files = _signed_keyless(documents, trust_config)
    _write(folder, files)
    (folder / PUBLIC_KEY).unlink(missing_ok=True)
    return Signer(kind="keyless", name=identity, trusted=True)


def _signed_keyless(
    documents: Mapping[str, bytes], trust_config: Path | None
) -> tuple[str, dict[str, bytes]]:
    """Return the identity that signed, and the bundles."""
    try:
        from sigstore.dsse import Statement
        from sigstore.models import Bundle
        from sigstore.oidc import IdentityToken, detect_credential
        from sigstore.sign import SigningContext
    except ImportError as error:
        raise KeylessFailed(reason=_NO_EXTRA) from error

    def sign() -> tuple[IdentityToken, Bundle, Bundle]:
        found = detect_credential()
        if found is None:
            raise KeylessFailed(reason="no OIDC identity was found")
        token = IdentityToken(found)
        context = SigningContext.from_trust_config(_trust(trust_config))
        with context.signer(token) as signer:
            sums = signer.sign_artifact(documents[SUMS["sha256"]])
            return token, sums, signer.sign_dsse(Statement(documents[PROVENANCE]))

    try:
        token, sums, statement = network.within(_STALLS * network.stall_timeout, sign)
    except KeylessFailed:
        raise
    except network.NetworkError as error:
        raise KeylessFailed(reason=str(error)) from error
    except Exception as error:  # sigstore's own have no common base
        reason = "sigstore refused it, or did not answer"
        raise KeylessFailed(reason=reason, details=_words(error)) from error
    bundles = {SUMS_BUNDLE: sums.to_json(), PROVENANCE_BUNDLE: statement.to_json()}
    return token.identity, {name: text.encode() for name, text in bundles.items()}


def _demand_unsigned(folder: Path, documents: Mapping[str, bytes]) -> None:
    if not documents.keys().isdisjoint(SIGNATURES):
        raise AlreadySigned(path=folder)


def verify_signatures(
    files: ReleaseFiles,
    key: Any | None,  # noqa: ANN401  # a public key, slow to import
    identity: str | None,
    issuer: str | None,
    trust_config: Path | None = None,
) -> tuple[Signer | None, list[Problem]]:
    """Return the signer of a release, and the problems of its signatures.

    A key or an identity is a requirement, which an unsigned release does not meet. Without one, an
    unsigned release has no signer and no problem. Raises KeylessFailed if the trust configuration
    cannot be used.
    """
    there = [name for name in SIGNATURES if name in files.files]
    if not there and key is None and identity is None:
        return None, []
    if missing := [name for name in _SIGNED if name not in there]:
        return None, [_missing(name, "the release is not completely signed") for name in missing]
    if missing := [name for name in _SIGNED.values() if name not in files.files]:
        return None, [_missing(name, "it is signed, but missing") for name in missing]
    kinds = {name: _kind(files.files[name].content) for name in _SIGNED}
    if {*kinds.values()} == {"key"} and identity is None:
        return _verify_with_key(files, key)
    if {*kinds.values()} == {"keyless"} and key is None:
        return _verify_keyless(files, identity, issuer, trust_config)
    wanted = "a key" if key is not None else "an identity" if identity is not None else "either"
    return None, [
        _different(name, f"it is {_KINDS[kind]}, you require {wanted}")
        for name, kind in kinds.items()
    ]


def _missing(name: str, what: str) -> Problem:
    return Problem(file=name, kind="missing", what=what)


def _different(name: str, what: str) -> Problem:
    return Problem(file=name, kind="different", what=what)


def _verify_with_key(
    files: ReleaseFiles,
    key: Any | None,  # noqa: ANN401  # slow to import
) -> tuple[Signer | None, list[Problem]]:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    beside = files.content(PUBLIC_KEY)
    if key is None and beside is None:
        return None, [_missing(PUBLIC_KEY, "the release is signed with a key that is missing")]
    try:
        public = key or public_key(beside or b"", Path(PUBLIC_KEY))
    except BadKey as error:
        return None, [_different(PUBLIC_KEY, error.happened)]
    faults = []
    if beside is not None and beside != pem(public):
        faults.append(_different(PUBLIC_KEY, "it is not the required key"))
    for name in _SIGNED:
        try:
            message, signature = _signed(files, name, public)
            public.verify(_unbase64(signature), message, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            faults.append(_different(name, "the signature is of another key or another file"))
        except BROKEN as error:
            faults.append(_different(name, f"it cannot be used: {reason_of(error)}"))
    signer = Signer(kind="key", name=f"sha256:{fingerprint(public).hex()}", trusted=key is not None)
    return (None if faults else signer), faults


def _signed(files: ReleaseFiles, name: str, public: Any) -> tuple[bytes, str]:  # noqa: ANN401
    """Return message and signature of a bundle; everything else must be as kbuild writes it."""
    text, content = files.files[name].content, files.files[_SIGNED[name]].content
    bundle = load_json(text)
    if name == SUMS_BUNDLE:
        signature = bundle["messageSignature"]["signature"]
        message, expected = content, _sums_bundle(public, content, signature)
    else:
        [signed] = bundle["dsseEnvelope"]["signatures"]
        signature = signed["sig"]
        message, expected = _pae(content), _provenance_bundle(public, content, signature)
    if text != json.dumps(expected).encode():
        reason = f"it belongs to another key, or to another {_SIGNED[name]}"
        raise ValueError(reason)
    return message, signature


def _sums_bundle(public: Any, sums: bytes, signature: str) -> dict[str, Any]:  # noqa: ANN401
    digest = {"algorithm": "SHA2_256", "digest": _base64(hashlib.sha256(sums).digest())}
    message = {"messageDigest": digest, "signature": signature}
    return {**_bundle_head(public), "messageSignature": message}


def _provenance_bundle(public: Any, statement: bytes, signature: str) -> dict[str, Any]:  # noqa: ANN401
    envelope = {
        "payload": _base64(statement),
        "payloadType": PAYLOAD,
        "signatures": [{"sig": signature}],
    }
    return {**_bundle_head(public), "dsseEnvelope": envelope}


def _bundle_head(public: Any) -> dict[str, Any]:  # noqa: ANN401
    material = {"publicKey": {"hint": _base64(fingerprint(public))}, "tlogEntries": []}
    return {"mediaType": BUNDLE, "verificationMaterial": material}


def _verify_keyless(
    files: ReleaseFiles, identity: str | None, issuer: str | None, trust_config: Path | None
) -> tuple[Signer | None, list[Problem]]:
    if identity is None or issuer is None:
        what = "it is signed keyless; give --identity and --issuer"
        return None, [_different(SUMS_BUNDLE, what)]
    try:
        from sigstore.models import Bundle
        from sigstore.verify import Verifier
        from sigstore.verify.policy import Identity
    except ImportError as error:
        raise KeylessFailed(reason=_NO_EXTRA) from error
    faults = []
    if PUBLIC_KEY in files.files:
        what = "a keyless signature has no public key"
        faults.append(Problem(file=PUBLIC_KEY, kind="extra", what=what))
    try:
        trust = network.within(network.stall_timeout, lambda: _trust(trust_config))
        verifier = Verifier(trusted_root=trust.trusted_root)
    except KeylessFailed:
        raise
    except network.NetworkError as error:
        raise KeylessFailed(reason=str(error)) from error
    except Exception as error:  # sigstore's own have no common base
        reason = "sigstore's trusted root cannot be used"
        raise KeylessFailed(reason=reason, details=_words(error)) from error
    policy = Identity(identity=identity, issuer=issuer)
    for name, signed in _SIGNED.items():
        try:
            content = files.files[signed].content
            bundle = Bundle.from_json(files.files[name].content)
            if name == SUMS_BUNDLE:
                verifier.verify_artifact(content, bundle, policy)
            elif verifier.verify_dsse(bundle, policy) != (PAYLOAD, content):
                faults.append(_different(name, f"it belongs to another {signed}"))
        except Exception as error:  # sigstore's own have no common base
            faults.append(_different(name, f"it does not verify: {_words(error)}"))
    signer = Signer(kind="keyless", name=f"{identity} ({issuer})", trusted=True)
    return (None if faults else signer), faults


def _trust(config: Path | None) -> Any:  # noqa: ANN401  # of a package that may be missing
    """Return the trust configuration; raises KeylessFailed."""
    from sigstore.models import ClientTrustConfig

    reason = "sigstore's own trust configuration cannot be fetched"
    try:
        if config is None:
            return ClientTrustConfig.production()
        reason = f"the trust configuration {config} cannot be read"
        return ClientTrustConfig.from_json(read_file(config, MAX_DOCUMENT).decode())
    except Exception as error:  # sigstore's own have no common base
        cause = network.why(error, "")  # sigstore only says what it could not do
        details = ": ".join(filter(None, (_words(error), cause)))
        raise KeylessFailed(reason=reason, details=details) from error


def _words(error: Exception) -> str:
    """Return an error of sigstore in one line."""
    text = reason_of(error) if isinstance(error, OSError | UnicodeError) else str(error)
    if "ConnectionPool(" in text:  # the words of urllib3
        text = network.why(error)
    return " ".join(text.split())[:_LONGEST_WORDS] or type(error).__name__


def _kind(bundle: bytes) -> str:
    try:
        material = load_json(bundle)["verificationMaterial"]
        return "key" if "publicKey" in material else "keyless"
    except BROKEN:
        return ""


def _pae(statement: bytes) -> bytes:
    kind = PAYLOAD.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(statement), statement)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _unbase64(text: str) -> bytes:
    data = base64.b64decode(text, validate=True)
    if _base64(data) != text:
        message = "its last digit has unused bits that are not zero"
        raise ValueError(message)
    return data


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write all files or none of them; raises DiskFull or NotWritable."""
    with disk_errors(folder), tempfile.TemporaryDirectory(dir=folder, prefix=".") as made:
        places = {name: Path(made, str(number)) for number, name in enumerate(files)}
        for name, place in places.items():
            place.write_bytes(files[name])
            place.chmod(0o644)
        for name, place in places.items():
            place.replace(folder / name)
