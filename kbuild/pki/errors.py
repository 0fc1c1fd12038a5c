"""What can go wrong with a PKI."""

from pathlib import Path

from kbuild.base.errors import ClusterError, HostError, UsageError


class BadPkiFile(UsageError):
    """A file of the plan cannot be read, or has a value that it cannot have."""

    path: Path | str
    reason: str
    hint: str

    what = "{path} cannot be used: {reason}"
    todo = "{hint}"


class UnknownPkiKey(UsageError):
    """A file of the plan has a key or a word that nobody knows."""

    path: Path | str
    where: str
    name: str
    suggestion: str

    what = "{path} has an unknown {where} {name!r}"
    todo = "{suggestion}"


class NothingPlanned(UsageError):
    """A directory has neither pki.toml nor the files of cfssl."""

    path: Path | str

    what = "{path} has no pki.toml, and no *-csr.json of cfssl"
    todo = (
        "write one with `kbuild pki init`, derive one from certificates that are there with"
        " `kbuild pki import`, or name the directory with --dir"
    )


class PlanExists(UsageError):
    """`kbuild pki init`: the directory has a plan already."""

    path: Path | str

    what = "there is a plan already: {path}"
    todo = "edit it, then run `kbuild pki plan`; or choose another directory with --dir"


class BadHost(UsageError):
    """A host is neither an address nor a name that a certificate may have."""

    path: Path | str
    where: str
    host: str
    reason: str

    what = "{path}: {where} has {host!r}, which is neither an address nor a DNS name: {reason}"
    todo = "correct it; certificates hold single addresses and names, without ports and ranges"


class DuplicateName(UsageError):
    """A name or an address is there twice."""

    path: Path | str
    name: str
    where: str

    what = "{path} has {name} twice: {where}"
    todo = "remove one of them, or give one another name"


class UnknownProfile(UsageError):
    """It is not known with which profile of ca-config.json a certificate is issued."""

    path: Path | str
    name: str
    reason: str
    known: str

    what = "{path}: the profile for {name} is not known: {reason}"
    todo = "name one with --profile {name}=PROFILE; the profiles are {known}"


class UnknownSigner(UsageError):
    """It is not known which CA signs a certificate."""

    path: Path | str
    name: str
    reason: str
    known: str

    what = "{path}: the CA of {name} is not known: {reason}"
    todo = "name one with --signer {name}=CA; the CAs are {known}"


class ProfileWithoutUsages(UsageError):
    """A profile has no usages, so what it issues could be used for nothing."""

    path: Path | str
    name: str

    what = "{path}: the profile {name} has no usages"
    todo = 'give it some, such as "usages": ["signing", "key encipherment", "server auth"]'


class NoKeyPassword(UsageError):
    """Keys of CAs shall be encrypted, and there is no password."""

    names: str

    what = "the key of {names} shall be encrypted, and there is no password"
    todo = "put one into the environment variable CFSSL_CA_PK_PASSWORD, and keep it safe"


class NotSupportedHere(UsageError):
    """A file asks for something that cfssl can do and kbuild does not."""

    path: Path | str
    name: str
    reason: str

    what = "{path} asks for {name}: {reason}"
    todo = "remove it, or issue these certificates with cfssl"


class CANotYetValid(ClusterError):
    """A CA that must sign something is not valid yet."""

    path: Path | str
    when: str

    what = "the CA {path} is valid from {when} only, so what it signs would not be accepted"
    todo = "set the clock of this machine, or wait"


class CANotAlone(ClusterError):
    """`kbuild pki extend-ca`: the file of the CA holds other certificates, which would be lost."""

    path: Path | str
    count: int

    what = "{path} holds {count} certificates, and it must be that of the CA only"
    todo = "leave only the certificate that fits the key in it, or end the rotation that was begun"


class CAShortened(UsageError):
    """`kbuild pki extend-ca`: the CA would end earlier than it does now."""

    path: Path | str
    planned: str
    ends: str

    what = "{path} is valid until {ends}, and would be only until {planned}"
    todo = "plan a longer lifetime for the CA"


class CANotExtended(UsageError):
    """`kbuild pki extend-ca`: the CA ends when it would end after it."""

    path: Path | str
    ends: str

    what = "{path} already ends on {ends}, so nothing was written"
    todo = "raise ca-years in pki.toml, or ca.expiry in the request of the CA"


class LeafOutlastsItsCA(UsageError):
    """A certificate would be valid for longer than the CA that signs it."""

    name: str
    leaf_end: str
    ca: str
    ca_end: str

    what = "{name} would be valid until {leaf_end}, but its CA {ca} only until {ca_end}"
    todo = "give it a shorter lifetime, let it end with its CA with --cap, or extend the CA first"


class TooManyHosts(UsageError):
    """A certificate would be larger than programs written in Go accept."""

    name: str
    size: int
    most: int

    what = "the certificate {name} would have {size} bytes, and Go's TLS accepts {most}"
    todo = "name fewer hosts in it: only those that serve with this certificate belong in it"


class UnknownCertificate(UsageError):
    """A name that was given is not that of a planned certificate."""

    name: str
    known: str

    what = "no certificate {name!r} is planned"
    todo = "choose among {known}"


class NotRenewable(UsageError):
    """`kbuild pki renew`: a name is that of something in the plan that is not renewed."""

    name: str
    reason: str
    hint: str

    what = "{name} is not renewed: {reason}"
    todo = "{hint}"


class HostNotAdded(UsageError):
    """A host cannot be written into the plan."""

    path: Path | str
    reason: str
    hint: str

    what = "{path} was not changed: {reason}"
    todo = "{hint}"


class HostNotRemoved(UsageError):
    """A host cannot be taken out of the plan."""

    path: Path | str
    reason: str
    hint: str

    what = "{path} was not changed: {reason}"
    todo = "{hint}"


class UnknownHost(UsageError):
    """A host that shall be removed is not in the plan."""

    path: Path | str
    name: str
    suggestion: str

    what = "{path} has no host {name!r}"
    todo = "{suggestion}"


class PkiBusy(HostError):
    """Another kbuild works in the same directory."""

    path: Path | str

    what = "another kbuild issues certificates in {path}"
    todo = "wait until it has ended, then run the same command again"


class NotReplaceable(HostError):
    """A file that must be replaced is a mount point, or immutable."""

    path: Path | str
    reason: str
    changed: str

    what = "{path} cannot be replaced: {reason}"
    todo = "unmount it, or remove the attribute; {changed}"


class CAExpired(ClusterError):
    """A CA has expired, so nothing that it signs would be valid."""

    path: Path | str
    when: str

    what = "the CA {path} expired on {when}"
    todo = "extend it with `kbuild pki extend-ca`, which keeps its key, and distribute it"


class CAWithoutKey(ClusterError):
    """The certificate of a CA is there, and its key is not."""

    path: Path | str
    key: Path | str
    needed: str

    what = "the key of the CA {path} is not at {key}, and it must sign {needed}"
    todo = (
        "put the key there, or name its directory as `ca-keys` in pki.toml, or its token with"
        " --ca-key"
    )


class CAMissing(ClusterError):
    """The CA that signed what is there is not there itself."""

    path: Path | str
    leaf: Path | str

    what = "there is no CA {path}, and {leaf} was signed by a CA of this name"
    todo = "put the CA back; to begin a new PKI instead, move all of its files away first"


class NothingToExtend(ClusterError):
    """A certificate of the plan is not there, so the CA cannot be extended for it."""

    path: Path | str

    what = "{path} is not there"
    todo = "issue it first with `kbuild pki issue`"


class KeyOfAnother(ClusterError):
    """A private key belongs to another certificate."""

    path: Path | str
    key: Path | str

    what = "the key {key} is not that of the certificate {path}"
    todo = "put the right key there, or move both files away so that they are issued anew"


class BadKeyFile(ClusterError):
    """A private key that is needed cannot be read."""

    path: Path | str
    reason: str

    what = "the key {path} cannot be used: {reason}"
    todo = "put the right key there, or restore it from a backup"


class WrongKeyPassword(ClusterError):
    """The key of a CA is or shall be encrypted, and the password is wrong, or there is none."""

    path: Path | str
    reason: str

    what = "the key {path} needs the right password: {reason}"
    todo = (
        "put the right password into the environment variable CFSSL_CA_PK_PASSWORD, and keep the"
        " key; nothing was changed"
    )


class BadCertificateFile(ClusterError):
    """A file that should be a certificate of the plan is none."""

    path: Path | str
    reason: str

    what = "{path} cannot be read: {reason}"
    todo = "move it away, so that it is issued anew; kbuild does not replace what it cannot read"


class CADiffers(ClusterError):
    """A CA that is there is not the planned one."""

    path: Path | str
    reason: str

    what = "the CA {path} is not the planned one: {reason}"
    todo = (
        "correct the plan; a CA is never replaced by `issue`, as all that it signed would fail."
        " `kbuild pki rotate-ca` replaces it step by step"
    )


class NothingToRotate(ClusterError):
    """`kbuild pki rotate-ca`: the CA is not there."""

    path: Path | str

    what = "{path} is not there, so there is no CA to replace"
    todo = "issue it first with `kbuild pki issue`"


class RotationRefused(ClusterError):
    """`kbuild pki rotate-ca`: the rotation of a CA cannot begin."""

    path: Path | str
    reason: str
    hint: str

    what = "the rotation does not begin: {path} {reason}"
    todo = "{hint}"


class RotationDiffers(ClusterError):
    """The file of a CA that is being replaced is not as the last step has left it."""

    path: Path | str
    reason: str

    what = "{path} is not as the rotation of this CA has left it: {reason}"
    todo = "put the file back; what each run replaced is in .kbuild-pki/generations"


class RotationUnderWay(ClusterError):
    """`kbuild pki extend-ca`: the CA is being replaced."""

    ca: str

    what = "the CA {ca} is being replaced, so it is not extended"
    todo = "end the rotation first, or take it back; see `kbuild pki rotate-ca`"


class WrongStep(ClusterError):
    """`kbuild pki rotate-ca`: this is not the next step of the rotation."""

    ca: str
    step: str
    stage: str
    following: str

    what = "the step {step} cannot be made for the CA {ca}: {stage}"
    todo = "{following}"


class StillSigned(ClusterError):
    """`kbuild pki rotate-ca`: the CA that would be removed has signed what is in use."""

    path: Path | str
    ca: str
    which: str
    count: str

    what = "the {which} CA {ca} is not removed, because it signed {count}; the first: {path}"
    todo = "issue them again with `kbuild pki issue`, or move away what nobody uses"


class NamesDiffer(ClusterError):
    """A renewal, or another host, would change names in a certificate."""

    name: str
    reason: str

    what = "{name} is not issued again, because its names would change: {reason}"
    todo = "correct the plan, or accept its names with `kbuild pki issue`"


class NotAsPlanned(ClusterError):
    """What is there is not what is planned, or something is wrong with it."""

    count: str
    first: str

    what = "{count}; the first: {first}"
    todo = "see the lines above; `kbuild pki issue` issues what is missing or changed"


class NothingToImport(UsageError):
    """`kbuild pki import`: there is no certificate where one is looked for."""

    path: Path | str

    what = "there is no certificate to import in {path}"
    todo = (
        "name with --dir the directory with the NAME.pem of cfssl, or the one above kubeadm's pki"
    )


class NotExpressible(ClusterError):
    """`kbuild pki import`: a certificate says something that kbuild does not write."""

    path: Path | str
    name: str
    reason: str

    what = "{path} cannot be planned, as kbuild would not issue it so: {reason}"
    todo = "leave it out with --without {name}"


class SignerMissing(ClusterError):
    """`kbuild pki import`: none of the CAs that are there has signed a certificate."""

    path: Path | str
    name: str
    issuer: str
    known: str

    what = "{path} was signed by {issuer}, and by none of the CAs in its directory ({known})"
    todo = "put that CA beside it if it has signed itself, or leave it out with --without {name}"


class NotReproduced(ClusterError):
    """`kbuild pki import`: the derived plan would issue again what is there."""

    name: str
    reason: str

    what = "{name} cannot be planned as it is: {reason}"
    todo = "leave the certificate out with --without; nothing was written"


class UnknownUse(UsageError):
    """`kbuild pki components`: a certificate was given for something that no component needs."""

    use: str
    suggestion: str

    what = "no component needs a certificate as {use!r}"
    todo = "{suggestion}"


class CertificateNotCertain(UsageError):
    """Several certificates could serve for the same."""

    use: str
    names: str
    first: str

    what = "it is not certain which certificate is that of {use}: {names} could be"
    todo = "name it with --use, for example --use {use}={first}"


class WrongCertificate(UsageError):
    """A certificate was given for something that its usages do not allow."""

    name: str
    use: str
    usage: str

    what = "the certificate {name} cannot serve as {use}: its usages have no {usage!r}"
    todo = "give another one, or add the usage to its profile and issue it again"


class NotForUnits(UsageError):
    """A path or a name cannot be written into a unit of systemd."""

    flag: str
    value: str

    what = "the value of {flag} cannot be written into a unit of systemd: {value!r}"
    todo = "use letters, digits and . _ - / : @ + = only"


class BadKeyUri(UsageError):
    """A PKCS#11 URI cannot be used. It is not shown, because a PIN may be in it."""

    where: str
    reason: str
    hint: str

    what = "the PKCS#11 URI of {where} cannot be used: {reason}"
    todo = "{hint}"


class Pkcs11ExtraMissing(UsageError):
    """The library that talks to tokens is not installed."""

    library: str

    what = "a key on a PKCS#11 token needs {library}, which is not installed"
    todo = (
        "run `pip install '.[pkcs11]'` in a clone of kbuild (docs/pki.md); without a network,"
        " install from a bundle with the wheels of '.[pkcs11]' (docs/mirrors.md)"
    )


class ModuleNotNamed(UsageError):
    """No PKCS#11 module is named for a key on a token."""

    uri: object

    what = "no PKCS#11 module is named for {uri}"
    todo = (
        "name the one that came with the token with --pkcs11-module, or as module-path in the URI"
    )


class ModuleNotLoaded(HostError):
    """A PKCS#11 module cannot be loaded, or a URI names one that others than root can change."""

    path: Path | str
    reason: str

    what = "the PKCS#11 module {path} is not loaded: {reason}"
    todo = "name the one that came with the token with --pkcs11-module, and see its manual"


class TokenNotThere(HostError):
    """The token of a key is not there."""

    uri: object
    others: str

    what = "no token is that of {uri}; tokens that are there: {others}"
    todo = "insert it, or correct the URI; `pkcs11-tool --list-token-slots` shows all tokens"


class TokenNotCertain(UsageError):
    """Several tokens fit a URI."""

    uri: object
    serials: str

    what = "several tokens fit {uri}, with the serial numbers {serials}"
    todo = "write serial=NUMBER into the URI too"


class KeyNotOnToken(ClusterError):
    """A token has no private key of a URI."""

    uri: object

    what = "the token has no private key that fits {uri}"
    todo = (
        "correct object or id in the URI; `pkcs11-tool --login --list-objects` shows what is there"
    )


class KeyNotCertain(UsageError):
    """Several private keys on a token fit a URI."""

    uri: object
    count: str

    what = "{count} on the token fit {uri}"
    todo = "name one with object=NAME and id=%01 in the URI"


class PublicKeyNotFound(ClusterError):
    """A token does not show the public half of a key."""

    uri: object
    count: str

    what = "the token shows {count} for {uri}, and one is needed"
    todo = "write it to the token with the label and id of the private key, or give the URI an id"


class TokenKeyNotUsable(ClusterError):
    """A key on a token is of a kind that signs no certificates here."""

    uri: object
    reason: str

    what = "the key {uri} signs no certificates: {reason}"
    todo = "use RSA from 2048 bits on, or ECDSA with P-256, P-384 or P-521, that may sign"


class TokenKeyDiffers(ClusterError):
    """The key on a token is not that of the CA."""

    path: Path | str
    uri: object

    what = "the key {uri} is not that of the certificate {path}"
    todo = "correct the URI; to replace the CA by one with this key, see `kbuild pki rotate-ca`"


class NoPin(UsageError):
    """The PIN of a token is not known, and nobody can be asked, or nobody answered."""

    token: str
    variable: str

    what = "the PIN of the token {token} is not known, and nobody entered it at a terminal"
    todo = (
        "put it into a file for pin-source in the URI, or into the environment variable {variable}"
    )


class BadPinFile(UsageError):
    """The file with the PIN of a token cannot be used."""

    path: Path | str
    reason: str

    what = "the PIN is not taken from {path}: {reason}"
    todo = "write the PIN into it, in one line, and run `chmod 600` on it"


class WrongPin(ClusterError):
    """A token refuses the PIN. It is not tried again."""

    token: str
    source: str

    what = "the token {token} refuses the PIN from {source}"
    todo = "correct it before you run this again: after some wrong PINs, the token locks itself"


class PinLocked(ClusterError):
    """The PIN of a token is locked, or would be after another wrong one."""

    token: str
    reason: str

    what = "the PIN of the token {token} {reason}, so kbuild does not try it"
    todo = (
        "unlock it as its manual says; `pkcs11-tool --login --list-objects` with the right PIN"
        " gives all tries back"
    )


class MechanismMissing(ClusterError):
    """A token does not offer how kbuild signs."""

    token: str
    mechanism: str

    what = "the token {token} does not offer {mechanism}"
    todo = "use a key of another kind; kbuild signs with CKM_RSA_PKCS and CKM_ECDSA"


class TokenRemoved(HostError):
    """A token went away while it was used."""

    uri: object

    what = "the token of {uri} went away while it was used"
    todo = "nothing was written: insert it, then run the same command again"


class TokenFailed(HostError):
    """A token fails at something that it should be able to do."""

    uri: object
    reason: str

    what = "the token of {uri} fails: {reason}"
    todo = "nothing was written; see the manual of the token, and its logs"
