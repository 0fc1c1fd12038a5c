"""Build, start and stop a cluster on this machine; needs root on a Debian, and no engine that runs.

    python -m tests.support.cluster build CACHE
    python -m tests.support.cluster up CACHE STATE [--single | --with-external-etcd]
    python -m tests.support.cluster down STATE

Both options start n1, the only control plane, and w1, which may also run an etcd for it.
``up`` prints the words to put before a command that shall reach the nodes n1, n2, n3 and w1. STATE
has ssh_config, known_hosts, inventory.ini and admin.conf, and a folder a node.
"""

import argparse
import sys
import time
from pathlib import Path

from tests.support.cluster.build import BuildError, build
from tests.support.cluster.cluster import CommandFailed, down, up
from tests.support.cluster.lab import LabError
from tests.support.cluster.single import SINGLE, single, with_external_etcd
from tests.support.debian import DebianError


def main() -> None:
    """Run as a script."""
    parser = argparse.ArgumentParser(prog="tests.support.cluster")
    commands = parser.add_subparsers(dest="what", required=True)
    for name, folders in (("build", ["cache"]), ("up", ["cache", "state"]), ("down", ["state"])):
        command = commands.add_parser(name)
        for folder in folders:
            command.add_argument(folder, type=lambda text: Path(text).resolve())
        if name == "up":
            for init in (single, with_external_etcd):
                option = f"--{init.__name__.replace('_', '-')}"
                command.add_argument(option, dest="init", action="store_const", const=init)
    asked = parser.parse_args()
    began = time.monotonic()
    try:
        if asked.what == "build":
            build(asked.cache)
        elif asked.what == "up":
            shape = (SINGLE, asked.init) if asked.init else ()
            cluster = up(asked.cache, asked.state, *shape)
            sys.stdout.write(f"{' '.join(cluster.lab.inside)}\n")
        else:
            down(asked.state)
    except (BuildError, CommandFailed, DebianError, LabError, TimeoutError) as error:
        sys.exit(str(error))
    sys.stderr.write(f"{asked.what}: {time.monotonic() - began:.0f} s\n")


if __name__ == "__main__":
    main()
