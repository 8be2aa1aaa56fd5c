"""What to do where a port can't be listened on."""

from __future__ import annotations

import errno

_LEAST = 1024  # net.ipv4.ip_unprivileged_port_start, where nobody has set it
RESERVED = (
    "ports below 1024 are for root alone: set another one, or have root lower the sysctl "
    "net.ipv4.ip_unprivileged_port_start to this one"
)


def hint(error: OSError, port: int, otherwise: str) -> str:
    """What to do next; ``otherwise`` where the port is none of those that are kept for root."""
    return RESERVED if error.errno == errno.EACCES and port < _LEAST else otherwise
