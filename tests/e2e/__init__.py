"""The command as users type it, on a real Kubernetes, engine, registry and git server."""
