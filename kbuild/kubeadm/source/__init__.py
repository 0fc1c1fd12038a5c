"""Where the Kubernetes source comes from: git, archives, and what is compiled of them."""
