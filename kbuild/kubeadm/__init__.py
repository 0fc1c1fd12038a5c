"""From a tag to a proven kubeadm; other packages use ``api``, and the values of ``model``."""
