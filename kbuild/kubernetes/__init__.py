"""What is known about Kubernetes, as data with one loader."""
