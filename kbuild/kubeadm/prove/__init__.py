"""Prove what a kubeadm is and what it issues, by running it and by reading it."""
