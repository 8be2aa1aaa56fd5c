"""PDUs from a socket into one buffer, each within its time and its length."""

from __future__ import annotations

import select
import socket
import ssl
import time

from appliance.acceptor.pdu import HEADER, ProtocolError


class ConnectionEndedError(Exception):
    """The peer closed the connection, it broke, or the peer took too long."""


class Reader:
    """Reads one PDU after another; nothing is allocated for what a header merely claims.

    Parameters
    ----------
    connection
        Non-blocking; plain or TLS.
    longest
        Length of a PDU's variable field that is accepted.
    pdu_seconds
        From a PDU's first byte to its last.
    """

    def __init__(self, connection: socket.socket, longest: int, pdu_seconds: float) -> None:
        self._connection, self._longest, self._pdu_seconds = connection, longest, pdu_seconds
        # One PDU, and the header of the next, which comes along without another call.
        self._buffer = bytearray(HEADER.size + longest + HEADER.size)
        self._view = memoryview(self._buffer)
        self._filled = self._end = 0

    def next(self, idle_seconds: float) -> tuple[int, memoryview]:
        """The next PDU's type, and all its bytes, which stay valid until the next call.

        Raises
        ------
        ConnectionEndedError
            Nothing came for ``idle_seconds``, or the rest of a PDU took too long.
        ProtocolError
            The PDU claims to be longer than was agreed.
        """
        surplus = self._filled - self._end
        self._buffer[:surplus] = self._buffer[self._end : self._filled]
        self._filled = surplus
        if not surplus:
            self._receive(HEADER.size, time.monotonic() + idle_seconds)
        deadline = time.monotonic() + self._pdu_seconds
        while self._filled < HEADER.size:
            self._receive(HEADER.size, deadline)
        kind, length = HEADER.unpack_from(self._buffer)
        if length > self._longest:
            raise ProtocolError(f"a PDU of type {kind} and {length} bytes; {self._longest} are agreed")
        self._end = HEADER.size + length
        while self._filled < self._end:
            self._receive(self._end + HEADER.size, deadline)
        return kind, self._view[: self._end]

    def _receive(self, end: int, deadline: float) -> None:
        """Fill the buffer up to ``end`` with what is there, at least one byte."""
        while True:
            try:
                count = self._connection.recv_into(self._view[self._filled : end])
            except (BlockingIOError, ssl.SSLWantReadError):
                wait(self._connection, select.POLLIN, deadline)
            except ssl.SSLWantWriteError:
                wait(self._connection, select.POLLOUT, deadline)
            except OSError as error:
                raise ConnectionEndedError(str(error)) from error
            else:
                if not count:
                    raise ConnectionEndedError("the peer closed the connection")
                self._filled += count
                return


def send(connection: socket.socket, data: bytes, seconds: float) -> None:
    """Send all of ``data``; raises `ConnectionEndedError` where the peer does not take it in time."""
    deadline = time.monotonic() + seconds
    left = memoryview(data)
    while left:
        try:
            left = left[connection.send(left) :]
        except (BlockingIOError, ssl.SSLWantWriteError):
            wait(connection, select.POLLOUT, deadline)
        except ssl.SSLWantReadError:
            wait(connection, select.POLLIN, deadline)
        except OSError as error:
            raise ConnectionEndedError(str(error)) from error


def wait(connection: socket.socket, event: int, deadline: float) -> None:
    """Until something can be read or written; by poll(), since select() fails with descriptors above 1023."""
    left = deadline - time.monotonic()
    poll = select.poll()
    poll.register(connection, event)
    if left <= 0 or not poll.poll(left * 1000):
        raise ConnectionEndedError("the peer took too long")
