"""Certificates that kubelet renews by itself, by design shortly before they expire."""

from datetime import datetime

from kbuild.certs.model import Certificate
from kbuild.certs.roles import known_file

# kubelet renews when 70 to 90 % of the lifetime is over (nextRotationDeadline of
# k8s.io/client-go/util/certificate/certificate_manager.go, v1.20.2), so less is a failure.
_LEAST_LEFT = 0.1


def is_rotated(certificate: Certificate) -> bool:
    """Tell whether kubelet renews a certificate."""
    file = known_file(certificate.path)
    return file is not None and file.state == "rotated"


def will_rotate(certificate: Certificate, now: datetime) -> bool:
    """Tell whether kubelet renews a certificate, and the time for it has not passed."""
    least = certificate.lifetime * _LEAST_LEFT
    return is_rotated(certificate) and certificate.time_left(now) >= least
