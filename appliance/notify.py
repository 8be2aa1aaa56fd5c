"""Words to the service manager, where there is one: sd_notify(3) over NOTIFY_SOCKET."""

from __future__ import annotations

import os
import socket

# Taken out of the environment, since children inherit that, and gunicorn would say that all is ready before it is.
_ADDRESS = os.environ.pop("NOTIFY_SOCKET", "")


def tell(state: str) -> None:
    """Such as ``READY=1``, ``STOPPING=1`` or ``WATCHDOG=1``; without a service manager, nothing.

    What can't be told must not stop the appliance: the manager draws its own conclusion from silence.
    """
    if not _ADDRESS:
        return
    name = f"\0{_ADDRESS[1:]}" if _ADDRESS.startswith("@") else _ADDRESS  # an abstract socket
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            sender.connect(name)
            sender.send(state.encode())
        except OSError:
            return
