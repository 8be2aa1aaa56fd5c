"""HL7 v2 over MLLP (Minimal Lower Layer Protocol, release 1): one message, and the acknowledgment that it must get.

Only an answer that accepts this very message counts as delivered: AA, or CA in the enhanced mode, with its control id
in MSA-2 (HL7 v2.5.1 section 2.9).
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from appliance import tls_client
from appliance.config import Config, Destination
from appliance.delivery.way import Answer, Item, tls_files
from appliance.errors import ApplianceError, DeliveryError
from appliance.hl7_message import BLOCK_BEGIN, BLOCK_END

_END = BLOCK_END + b"\r"
_LARGEST_ANSWER = 1 << 20
_ACCEPTED = ("AA", "CA")
_REFUSALS = {
    "AE": "answers that it could not process the message",
    "AR": "rejects the message",
    "CE": "answers that it could not take the message",
    "CR": "rejects the message",
}


class RefusedError(DeliveryError):
    """The receiver has said that it does not take this message."""


class MllpWay:
    """See the module; `appliance.delivery.way.Way`."""

    def __init__(self, destination: Destination, config: Config) -> None:
        self._destination, self._config = destination, config

    def check(self) -> None:
        with self._connected():
            pass

    def send(self, items: Sequence[Item]) -> Iterator[Answer]:
        messages, gone = {}, {}
        for item in items:
            try:
                messages[item] = item.path.read_bytes()
            except OSError as error:
                gone[item] = f"{item.path} can't be read: {error.strerror}"
        yield from (Answer(item, error, "item") for item, error in gone.items())
        if not messages:
            return
        try:
            with self._connected() as connection:
                for item, message in messages.items():
                    answer = _answered(connection, item, message)
                    yield answer
                    if answer.blame == "both":
                        return
        except ApplianceError as error:  # there is no connection
            yield Answer(next(iter(messages)), str(error), "destination")

    def close(self) -> None:
        pass

    def _connected(self) -> AbstractContextManager[Connection]:
        to, tls = self._destination, None
        if to.tls is not None:
            files = tls_files(to.tls, self._config)
            tls = tls_client.client_context(files), files.name or to.host
        return connected(to.host, to.port, self._config.delivery.timeout_seconds, tls)


def _answered(connection: Connection, item: Item, message: bytes) -> Answer:
    try:
        connection.send(message)
    except RefusedError as error:
        return Answer(item, str(error), "item")
    except DeliveryError as error:
        return Answer(item, str(error), "both")
    return Answer(item)


class Connection:
    """An open connection to a receiver; see `connected`."""

    def __init__(self, peer: str, connection: socket.socket, timeout: float) -> None:
        self._peer, self._socket, self._timeout = peer, connection, timeout

    def send(self, message: bytes) -> None:
        """Send a message and wait for its acknowledgment.

        Raises
        ------
        DeliveryError
            The receiver did not accept it, or said nothing in time. After silence or nonsense the connection is of no
            more use: a late answer must not count for the next message.
        """
        try:
            self._socket.settimeout(self._timeout)
            self._socket.sendall(BLOCK_BEGIN + message + _END)
            answer = self._answer(time.monotonic() + self._timeout)
        except TimeoutError as error:
            raise DeliveryError(f"{self._peer} does not acknowledge the message within {self._timeout:g} s") from error
        except OSError as error:
            raise DeliveryError(f"{self._peer} broke off the connection: {error.strerror or error}") from error
        check_acknowledgment(answer, control_id(message), self._peer)

    def _answer(self, until: float) -> bytes:
        """What lies between the next start block and its end; whatever precedes it is skipped."""
        received = b""
        while True:
            begin = received.find(BLOCK_BEGIN)
            end = received.find(_END, begin + 1) if begin >= 0 else -1
            if end >= 0:
                return received[begin + 1 : end]
            if len(received) > _LARGEST_ANSWER:
                raise DeliveryError(f"{self._peer} answers with more than any acknowledgment needs")
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            more = self._socket.recv(65536)
            if not more:
                raise DeliveryError(
                    f"{self._peer} closed the connection without an acknowledgment",
                    hint="it may not know this sender, or speak no MLLP on this port",
                )
            received += more


@contextmanager
def connected(
    host: str, port: int, timeout: float, tls: tuple[ssl.SSLContext, str] | None = None
) -> Iterator[Connection]:
    """A connection that is closed at the end; raises `DeliveryError` in words where there is none.

    Parameters
    ----------
    timeout
        Seconds for the connection, and for each acknowledgment.
    tls
        None for plain MLLP; else a context, and the name that must be in the receiver's certificate.
    """
    peer = f"the HL7 receiver {host}:{port}"
    try:
        plain = socket.create_connection((host, port), timeout)
    except OSError as error:
        raise DeliveryError(
            f"{peer} can't be reached: {error.strerror or error}",
            hint="check that it runs, its address, its port and the firewall",
        ) from error
    with plain:
        if tls is None:
            yield Connection(peer, plain, timeout)
            return
        context, name = tls
        try:
            encrypted = context.wrap_socket(plain, server_hostname=name)
        except ssl.SSLCertVerificationError as error:
            raise DeliveryError(f"{peer}: its certificate is not accepted: {error.verify_message}") from error
        except OSError as error:
            reason, hint = tls_client.explain_handshake(error)
            raise DeliveryError(f"{peer}: {reason}", hint=hint) from error
        with encrypted:
            yield Connection(peer, encrypted, timeout)


def control_id(message: bytes) -> str:
    """MSH-10, which the acknowledgment must name."""
    header = message.split(b"\r", 1)[0]
    return header.split(header[3:4])[9].decode("ascii", "replace")


def check_acknowledgment(answer: bytes, expected: str, peer: str) -> None:
    """Raises `DeliveryError` unless the answer accepts the message with that control id.

    What the receiver says in free text is not repeated, since it may quote the patient.
    """
    segments = [line for line in answer.replace(b"\n", b"\r").split(b"\r") if line.strip()]
    if not segments or not segments[0].startswith(b"MSH") or len(segments[0]) < 8:
        raise DeliveryError(f"{peer} answers with something that is no HL7 message")
    separator = segments[0][3:4]
    fields = {
        parts[0]: [part.decode("ascii", "replace").strip() for part in parts]
        for parts in (line.split(separator) for line in segments)
    }
    msa = fields.get(b"MSA", [])
    code, named, *_ = [*msa[1:3], "", ""]
    if not code:
        raise DeliveryError(f"{peer} answers with a message that acknowledges nothing (no MSA-1)")
    # Some that refuse a message have not read as far as its control id.
    if named != expected and (named or code in _ACCEPTED):
        raise DeliveryError(f"{peer} acknowledges another message than {expected} (MSA-2)")
    if code not in _ACCEPTED:
        what = _REFUSALS.get(code, "answers with an acknowledgment code that HL7 does not have")
        condition = [*fields.get(b"ERR", []), "", "", "", ""][3].split("^")[0]
        detail = f"MSA-1 {code[:8]}" + (f", ERR-3 {condition[:8]}" if condition else "")
        raise RefusedError(
            f"{peer} {what} {expected} ({detail})", hint="look for this control id (MSH-10) in the receiver's log"
        )
