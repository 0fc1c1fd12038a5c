"""Compile kubeadm, in a container or in the sandbox of this machine."""
