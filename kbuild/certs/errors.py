"""What can go wrong with a cluster's certificates."""

from kbuild.base.errors import ClusterError, UsageError


class NothingToRead(UsageError):
    """No path was given, and none of the usual places exists on this machine."""

    places: str

    what = "no certificates to read: none of the usual places exists here ({places})"
    todo = "name files or directories: kbuild certs PATH…"


class CertificatesExpire(ClusterError):
    """A certificate has expired, or expires within --fail-before."""

    count: str
    within: str
    first: str
    when: str

    what = "{count} within {within}; the first is {first}, on {when}"
    todo = "see the commands above, then run the same command again"


class CertificatesUnread(ClusterError):
    """With --fail-before: nothing expires, but not everything could be read."""

    count: str
    first: str

    what = "no certificate that was read expires, but {count} could not be read: {first}"
    todo = "run it as a user who may read them, or name what you want to watch"
