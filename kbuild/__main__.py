"""``python -m kbuild``. A Python that is too old can read this file and kbuild/__init__.py."""

import sys

if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036  # pip checks this only when it installs kbuild
        sys.exit("kbuild needs Python 3.11 or newer, this is %s" % sys.version.split()[0])  # noqa: UP031
    from kbuild.cli.main import main

    main()
