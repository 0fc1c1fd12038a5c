"""A real cluster on this machine, in namespaces of its own. See ``__main__`` for the commands."""
