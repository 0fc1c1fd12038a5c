"""What can go wrong with nodes."""

from kbuild.base.errors import ClusterError, Interrupted, UsageError


class NodesExtraMissing(UsageError):
    """The libraries that connect to nodes are not installed."""

    library: str

    what = "commands for nodes need {library}, which is not installed"
    todo = (
        "run `pip install '.[nodes]'` in a clone of kbuild (docs/nodes.md); without a network,"
        " install from a bundle with the wheels of '.[nodes]' (docs/mirrors.md)"
    )


class NoHosts(UsageError):
    """No host is named, or --limit leaves none."""

    reason: str

    what = "no hosts: {reason}"
    todo = "name them with --hosts a,b or --inventory FILE, and choose among them with --limit"


class NoPassword(UsageError):
    """The password of sudo was asked for, and nobody can answer, or nobody did."""

    variable: str

    what = "--ask-sudo-password needs a terminal, and somebody who enters the password"
    todo = "give the password in the environment variable {variable}, with --sudo"


class BadInventory(UsageError):
    """An inventory cannot be read, or says what kbuild cannot do; ``path`` ends with the line."""

    path: str
    reason: str
    hint: str

    what = "the inventory {path} cannot be used: {reason}"
    todo = "{hint}"


class NotConfirmed(UsageError):
    """A change of nodes was not confirmed."""

    count: str

    what = "nothing was changed on {count}"
    todo = "answer y, or give --yes; --dry-run shows what would be done"


class HostsUnreachable(ClusterError):
    """Hosts cannot be reached; ``details`` names each, ``or_else`` how to go on without them."""

    count: str
    or_else: str

    what = "{count} cannot be used"
    todo = "repair what is named below{or_else}; nothing was changed"


class HostsUnchecked(ClusterError):
    """A check could not ask all hosts; ``details`` names each. The others are checked."""

    count: str

    what = "{count} could not be checked"
    todo = "repair what is named below, or leave hosts out with --limit"


class HostsRefused(ClusterError):
    """Hosts do not meet what a change needs; ``details`` and ``or_else`` are as above."""

    count: str
    or_else: str

    what = "{count} cannot be changed safely"
    todo = "do what is said for each{or_else}; nothing was changed"


class HostsLocked(ClusterError):
    """Another run has the lock of a host."""

    host: str
    owner: str

    what = "{host}: another run has the lock: {owner}"
    todo = "wait until it has ended; if it never will, run the same command with --take-over"


class RunFailed(ClusterError):
    """Some hosts could not be changed; ``details`` names each with its step and state."""

    count: str
    rest: str

    what = "{count} failed; {rest}"
    todo = "see each host below; the same command goes on where this run stopped"


class RunInterrupted(Interrupted):
    """Ctrl-C or a signal stopped a run; ``details`` names what became of each host."""

    what = "the run was interrupted"
    todo = "the same command goes on where this run stopped"


class NoControlPlane(ClusterError):
    """No host is a control plane."""

    count: str

    what = "none of {count} is a control plane: no /etc/kubernetes/manifests/kube-apiserver.yaml"
    todo = "name the control planes with --hosts or --limit; workers have nothing to renew"
