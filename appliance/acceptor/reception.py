"""Connections that have not yet asked for an association: one thread holds them all, each at the cost of a descriptor.

Accepting, the TLS handshake and the association request never block: whoever is silent, slow or sends nonsense waits
here until its time (ARTIM, PS3.8 section 9.1.5) has run out, and nobody waits for it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import selectors
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from appliance.acceptor import tls
from appliance.acceptor.pdu import A_ABORT_BY_PROVIDER, A_ASSOCIATE_RQ, HEADER, LARGEST_REQUEST, Refusal

log = logging.getLogger("scanside.reception")

_MOST_WAITING = 1000
_MOST_WAITING_WITH_TLS = 250  # whose handshake has buffers of 45 KB
_MOST_BYTES = 8 * 1024 * 1024  # of unfinished requests, together
_BACKLOG = 1024
_ACCEPTS_A_TURN = 64
_FAREWELL_SECONDS = 1.0  # for a peer that was turned away to read why, and to close
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_PAUSE_SECONDS = 0.2


@dataclass(eq=False)
class _Waiting:
    """A connection; in ``received`` is what has come of its request."""

    connection: socket.socket
    address: str
    port: int
    deadline: float
    received: bytearray = field(default_factory=bytearray)
    handshaken: bool = False
    turned_away: bool = False


class Reception:
    """A listening socket and those who wait behind it.

    Where too many wait, the oldest of the address with the most is closed, so that a flood harms only its own address.

    Parameters
    ----------
    listener
        Bound; it is closed by `stop`.
    request_seconds
        From the connection to the last byte of the request.
    on_request
        Takes the connection (non-blocking), the peer's address and port, and its whole A-ASSOCIATE-RQ; gives why it is
        turned away, or None where it has taken the connection over. Called on the one thread: it must not block.
    complain
        Takes an address, and what is wrong with who is there.
    """

    def __init__(
        self,
        listener: socket.socket,
        files: tls.ServerFiles | None,
        request_seconds: float,
        on_request: Callable[[socket.socket, str, int, bytearray], Refusal | None],
        complain: Callable[[str, str], None],
    ) -> None:
        self._listener, self._files = listener, files
        self._request_seconds, self._on_request, self._complain = request_seconds, on_request, complain
        self._most = _MOST_WAITING if files is None else _MOST_WAITING_WITH_TLS
        self._selector = selectors.DefaultSelector()
        self._waiting: dict[_Waiting, None] = {}  # in the order in which they came
        self._leaving: dict[_Waiting, None] = {}
        self._by_address: Counter[str] = Counter()
        self._bytes = 0
        self._accept_at = 0.0
        self._wake, self._woken = socket.socketpair()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="reception", daemon=True)

    def start(self) -> None:
        self._listener.listen(_BACKLOG)
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread.start()

    def stop(self) -> None:
        """Close the port and everyone who waits."""
        self._stopping = True
        with contextlib.suppress(OSError):  # it may have woken by itself, and be gone
            self._wake.send(b".")
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._turn()
            except Exception:  # whatever one peer provokes must not close the door to the others
                log.exception("a connection could not be received")
        for waiting in (*self._waiting, *self._leaving):
            self._close(waiting)
        self._selector.close()
        for each in (self._listener, self._wake, self._woken):
            each.close()

    def _turn(self) -> None:
        for key, _ in self._selector.select(self._patience()):
            if key.data is not None:
                self._go_on(key.data)
            elif key.fileobj is self._listener:
                self._accept()
        now = time.monotonic()
        if self._accept_at and now >= self._accept_at:
            self._accept_at = 0.0
            self._selector.register(self._listener, selectors.EVENT_READ)
        for queue in (self._waiting, self._leaving):
            for waiting in list(queue):
                if waiting.deadline > now:
                    break  # each queue has one patience, so that the first is due first
                self._close(waiting)

    def _patience(self) -> float | None:
        """Seconds until something runs out; None where nothing does."""
        due = [next(iter(queue)).deadline for queue in (self._waiting, self._leaving) if queue]
        if self._accept_at:
            due.append(self._accept_at)
        return max(min(due) - time.monotonic(), 0.0) if due else None

    # --- in ---------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_A_TURN):
            try:
                connection, peer = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _NO_DESCRIPTOR:
                    log.error("no connection can be accepted: %s", error.strerror)
                    self._make_room()
                    self._selector.unregister(self._listener)
                    self._accept_at = time.monotonic() + _PAUSE_SECONDS
                    return
                continue  # it has gone already
            connection.setblocking(False)
            # Answer at once: with Nagle's algorithm each instance waits 40 ms for the peer's acknowledgment.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            waiting = _Waiting(connection, peer[0], peer[1], time.monotonic() + self._request_seconds)
            self._waiting[waiting] = None
            self._by_address[waiting.address] += 1
            self._selector.register(connection, selectors.EVENT_READ, waiting)
            if len(self._waiting) > self._most:
                self._make_room()

    def _make_room(self) -> None:
        """Close the oldest connection of the address that has the most."""
        if not self._waiting:
            return
        address = max(self._by_address, key=self._by_address.__getitem__)
        self._close(next(each for each in self._waiting if each.address == address))

    def _go_on(self, waiting: _Waiting) -> None:
        if waiting.turned_away:
            self._see_off(waiting)
            return
        try:
            if self._files is not None and not waiting.handshaken:
                self._shake_hands(waiting, self._files)
            while self._read(waiting):
                pass
        except ssl.SSLWantReadError:
            self._selector.modify(waiting.connection, selectors.EVENT_READ, waiting)
        except ssl.SSLWantWriteError:
            self._selector.modify(waiting.connection, selectors.EVENT_WRITE, waiting)
        except BlockingIOError:
            return
        except ssl.SSLError as error:
            self._complain(
                waiting.address, f"turned away in the TLS handshake: {tls.in_words(error, 'storage_scp.tls.ca')}"
            )
            self._close(waiting)
        except OSError:
            self._close(waiting)

    def _shake_hands(self, waiting: _Waiting, files: tls.ServerFiles) -> None:
        if not isinstance(waiting.connection, ssl.SSLSocket):  # only now, since TLS has buffers
            self._selector.unregister(waiting.connection)
            waiting.connection = files.context().wrap_socket(
                waiting.connection, server_side=True, do_handshake_on_connect=False
            )
            self._selector.register(waiting.connection, selectors.EVENT_READ, waiting)
        waiting.connection.do_handshake()
        waiting.handshaken = True

    def _read(self, waiting: _Waiting) -> bool:
        """Read more of the request; whether there may be still more to read."""
        received = waiting.received
        wanted = HEADER.size - len(received)
        if wanted <= 0:
            kind, length = HEADER.unpack_from(received)
            if kind != A_ASSOCIATE_RQ or length > LARGEST_REQUEST:
                what = f"one of {length} bytes" if kind == A_ASSOCIATE_RQ else f"a PDU of type {kind}"
                self._complain(waiting.address, f"it sends no association request, but {what}")
                self._turn_away(waiting, A_ABORT_BY_PROVIDER)
                return False
            wanted += length
        if wanted > 0:
            fragment = waiting.connection.recv(wanted)
            if not fragment:
                self._close(waiting)
                return False
            received += fragment
            self._bytes += len(fragment)
            if self._bytes > _MOST_BYTES:
                self._make_room()
            return waiting in self._waiting
        self._hand_over(waiting)
        return False

    def _hand_over(self, waiting: _Waiting) -> None:
        self._forget(waiting)
        try:
            refusal = self._on_request(waiting.connection, waiting.address, waiting.port, waiting.received)
        except Exception:
            waiting.connection.close()
            raise
        if refusal is not None:
            self._leave(waiting, refusal.encode())

    # --- out --------------------------------------------------------------------------------------------------

    def _turn_away(self, waiting: _Waiting, answer: bytes) -> None:
        self._forget(waiting)
        self._leave(waiting, answer)

    def _leave(self, waiting: _Waiting, answer: bytes) -> None:
        """Say why, and give the peer time to read it: closing at once could take the words back."""
        with contextlib.suppress(OSError):  # they fit into the socket's buffer, or nobody reads them
            waiting.connection.send(answer)
        waiting.received.clear()
        waiting.turned_away = True
        waiting.deadline = time.monotonic() + _FAREWELL_SECONDS
        self._leaving[waiting] = None
        self._selector.register(waiting.connection, selectors.EVENT_READ, waiting)
        if len(self._leaving) > _MOST_WAITING:
            self._close(next(iter(self._leaving)))

    def _see_off(self, waiting: _Waiting) -> None:
        try:
            # Past TLS: what it still sends is not looked at.
            if not socket.socket.recv(waiting.connection, 65536):
                self._close(waiting)
        except BlockingIOError:
            return
        except OSError:
            self._close(waiting)

    def _forget(self, waiting: _Waiting) -> None:
        if waiting in self._waiting:
            del self._waiting[waiting]
            self._by_address[waiting.address] -= 1
            if not self._by_address[waiting.address]:
                del self._by_address[waiting.address]
            self._bytes -= len(waiting.received)
        self._leaving.pop(waiting, None)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(waiting.connection)

    def _close(self, waiting: _Waiting) -> None:
        self._forget(waiting)
        waiting.connection.close()


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; raises `OSError`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener
