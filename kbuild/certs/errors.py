"""What can go wrong with a cluster's certificates."""

from kbuild.base.errors import ClusterError, UsageError


class NothingToRead(UsageError):
    """None of the paths given exists, or without one, none of the usual places."""

    which: str
    places: str

    what = "no certificates to read: {which} ({places})"
    todo = "name files or directories: kbuild certs PATH…"


class CertificatesExpire(ClusterError):
    """A certificate has expired, or expires within --fail-before."""

    count: str
    first: str
    when: str

    what = "{count}; the first, {first}, {when}"
    todo = "renew it: a finding has the command, for what ends within 90 days; then run this again"


class CertificatesUnread(ClusterError):
    """With --fail-before: nothing expires, but not everything, or nothing, could be read."""

    problem: str

    what = "{problem}"
    todo = "run it as a user who may read them, or name what you want to watch"
