"""What can go wrong with advice."""

from kbuild.base.errors import UsageError


class NoCertificates(UsageError):
    """There is no certificate below the paths that were given."""

    paths: str

    what = "no certificate was found in {paths}"
    todo = "give the directory of a control plane, often /etc/kubernetes, as a user who may read it"
