"""Build kubeadm with chosen certificate lifetimes and prove what it issues."""

__version__ = "0.1.0"
# The project's home. Addresses below it are identifiers in published documents.
HOME = "https://github.com/kbuild-project/kbuild"
