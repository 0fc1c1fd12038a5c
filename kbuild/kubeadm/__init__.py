"""From a tag to a proven kubeadm."""
