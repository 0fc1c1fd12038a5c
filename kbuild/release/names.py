"""The file names of a release, by layout."""

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
    """Return the name of a binary in the release; the layout ``tree`` has upstream's names."""
    return f"bin/linux/{arch}/kubeadm" if layout == "tree" else f"kubeadm-linux-{arch}"


def sbom_name(arch: str) -> str:
    """Return the name of a binary's SBOM."""
    return f"kubeadm-{arch}.spdx.json"
