"""The configuration that makes certificate lifetimes hold for a whole cluster."""
