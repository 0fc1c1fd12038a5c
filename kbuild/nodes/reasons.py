"""Say why a host does not answer, without the words of pyinfra, paramiko and Python."""

from kbuild.base.network import why

_BANNER = "protocol banner"  # in paramiko's error, whatever else the port answers, or nothing


def why_lost(error: BaseException, otherwise: str = "the connection was cut") -> str:
    """Return why a connection could not be made or was lost; ``otherwise`` if nothing is known."""
    if isinstance(error, UnicodeError):  # from Python's codec idna
        return "its name cannot be that of a host"
    tried = getattr(error, "errors", None)  # of paramiko's NoValidConnectionsError, by address
    if isinstance(tried, dict) and tried:
        (address, port, *_), first = next(iter(tried.items()))
        return f"{address} port {port}: {why(first)}"
    if _BANNER in str(error):
        return "no ssh server answers there"
    if isinstance(error, OSError):
        reason = why(error, str(error) or otherwise)
        return f"{reason}: {error.filename}" if error.filename else reason
    return str(error) or otherwise
