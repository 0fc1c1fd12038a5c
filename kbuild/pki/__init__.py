"""Issue and renew the certificates of clusters without kubeadm."""
