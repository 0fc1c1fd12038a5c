"""Carry a kubeadm to nodes, and take it back."""
