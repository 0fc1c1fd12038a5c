"""Calls of the functions of renew.sh."""

from kbuild.nodes import model


def call(function: str, *arguments: str) -> model.Call:
    """Return the call of a function of renew.sh, or of node.sh."""
    return model.call(function, *arguments, library="renew.sh")
