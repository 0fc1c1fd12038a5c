"""Read certificates, private keys and kubeconfigs that nobody vouches for, and issue new ones."""
