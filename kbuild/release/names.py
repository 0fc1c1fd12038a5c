"""What the files of a release are called, by its layout."""

SUMS = {"sha256": "SHA256SUMS", "sha512": "SHA512SUMS"}
SUM_SUFFIX = ".sha256"
BUILD = "build.json"
PROOF = "proof.json"
PATCH = "kubeadm.patch"
PROVENANCE = "provenance.json"
SUMS_BUNDLE = "SHA256SUMS.sigstore.json"
PROVENANCE_BUNDLE = "provenance.sigstore.json"
PUBLIC_KEY = "cosign.pub"
SIGNATURES = (SUMS_BUNDLE, PROVENANCE_BUNDLE, PUBLIC_KEY)


def binary_name(arch: str, layout: str) -> str:
    """Return the name of a binary, relative to the release: upstream's own in the layout tree."""
    return f"bin/linux/{arch}/kubeadm" if layout == "tree" else f"kubeadm-linux-{arch}"


def sbom_name(arch: str) -> str:
    """Return the name of a binary's SBOM."""
    return f"kubeadm-{arch}.spdx.json"
