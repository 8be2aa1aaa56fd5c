"""The acceptor as a whole: a port, those who wait behind it, and the associations that were let in."""

from __future__ import annotations

import contextlib
import logging
import resource
import socket
import threading
import time
from collections.abc import Callable

from pynetdicom import AE

from appliance.acceptor.access import Access
from appliance.acceptor.association import AcceptedAssociation, Patience, Service
from appliance.acceptor.complaints import Complaints
from appliance.acceptor.pdu import ProtocolError, Refusal, titles
from appliance.acceptor.reception import Reception, listen
from appliance.acceptor.tls import ServerFiles

log = logging.getLogger("scanside.acceptor")

_MALFORMED = Refusal(0x01, 0x02, 0x01, "its association request can't be read")
_NO_THREAD = Refusal(0x02, 0x03, 0x01, "no thread can be started")
_DESCRIPTORS = 4096  # 1000 who wait, the associations, their files, and room
_STOP_SECONDS = 5.0


class Acceptor:
    """Accepts associations for an application entity.

    Parameters
    ----------
    request_seconds
        From the connection to the end of the association request, with the TLS handshake.
    files
        To speak TLS; None for plain DICOM.
    prepare
        Called with each association before it starts, to bind pynetdicom's events.
    """

    def __init__(
        self,
        entity: AE,
        service: Service,
        access: Access,
        patience: Patience,
        request_seconds: float,
        files: ServerFiles | None = None,
        prepare: Callable[[AcceptedAssociation], None] = lambda _: None,
    ) -> None:
        self._entity, self._service, self._access, self._patience = entity, service, access, patience
        self._request_seconds, self._files, self._prepare = request_seconds, files, prepare
        self._reception: Reception | None = None
        self._lock = threading.Lock()
        self._open: set[AcceptedAssociation] = set()
        self._complaints = Complaints(log)

    def start(self, host: str, port: int) -> int:
        """Listen; the port. Raises `OSError`."""
        _raise_descriptor_limit()
        listener = listen(host, port)
        self._reception = Reception(
            listener, self._files, self._request_seconds, self._on_request, self._complaints.say
        )
        self._reception.start()
        return int(listener.getsockname()[1])

    def stop(self) -> None:
        """Take no more associations, and abort those that are open: what was not answered is sent again."""
        if self._reception is None:
            return
        self._reception.stop()
        self._reception = None
        with self._lock:
            still_open = list(self._open)
        for association in still_open:
            association.end()
        deadline = time.monotonic() + _STOP_SECONDS
        for association in still_open:
            association.join(max(deadline - time.monotonic(), 0.0))

    def _on_request(self, connection: socket.socket, address: str, port: int, request: bytearray) -> Refusal | None:
        try:
            called, calling = titles(request)
        except ProtocolError:
            return self._refuse(_MALFORMED, address)
        guest = self._access.enter(address, connection.getsockname()[0], calling, called)
        if isinstance(guest, Refusal):
            return self._refuse(guest, address, calling)

        def on_closed(association: AcceptedAssociation) -> None:
            self._access.leave(guest)
            with self._lock:
                self._open.discard(association)
            if association.misconduct:
                self._complaints.say(address, f"its association is aborted: it sends {association.misconduct}")

        try:
            association = AcceptedAssociation(
                self._entity,
                connection,
                (address, port),
                request,
                self._service,
                self._patience,
                on_closed,
                guest.only_verifies,
            )
            self._prepare(association)
            with self._lock:  # or it could have ended before it is among the open ones
                association.start()
                self._open.add(association)
        except BaseException as error:
            self._access.leave(guest)
            if isinstance(error, RuntimeError):  # can't start new thread
                return self._refuse(_NO_THREAD, address, calling)
            raise
        return None

    def _refuse(self, refusal: Refusal, address: str, calling: str = "") -> Refusal:
        self._complaints.say(address, f"its association (as {calling!r}) is rejected: {refusal.words}")
        return refusal


def _raise_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
