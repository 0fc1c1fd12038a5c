"""The command line: one module a command, one error boundary."""

from kbuild.cli.app import app


def main() -> None:
    """Run kbuild."""
    app()
