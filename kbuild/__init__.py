"""Build kubeadm with chosen certificate lifetimes and prove what it issues."""

__version__ = "0.1.0"
