"""Final diagnoses as they are made: HL7 v2 ORU^R01 over MLLP, in a process of its own.

AA is answered only once what a message says is committed and on the disk. AE: the message itself is wrong, and nothing
of it was kept. AR: it is not for this port, or can't be kept now (HL7 v2.5.1 section 2.9.2). This process may be killed
at any point: what was not answered is sent again, and what is there already changes nothing.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import socket
import ssl
import threading
import time
from dataclasses import dataclass

from appliance import diagnoses, hl7_message, installed, process
from appliance.acceptor import tls
from appliance.acceptor.access import plain
from appliance.acceptor.complaints import Complaints
from appliance.audit import Record, Trail
from appliance.config import Config
from appliance.diagnoses import Findings, Parsed
from appliance.errors import ApplianceError, DiagnosisError
from appliance.hl7_message import BLOCK_BEGIN, BLOCK_END, CONDITIONS, Message, Reply
from appliance.truth_store import TruthStore

log = logging.getLogger("scanside.diagnoses")

_BETWEEN = b"\r\n"
_LARGEST_BYTES = 4 * 1024 * 1024
_MOST_LINES = 10_000  # beyond these it costs seconds to read one
_MOST_DIAGNOSES = 100  # of one message, which is about one patient
_LONGEST_HEAD = 4096  # in which an MSH ends
_MOST, _MOST_OF_AN_ADDRESS = 20, 5  # connections
_HANDSHAKE_SECONDS, _MESSAGE_SECONDS, _ANSWER_SECONDS = 10.0, 30.0, 10.0
_IDLE_SECONDS = 3600.0  # senders keep their connection, and may have nothing to say at night
_FAREWELL_SECONDS = 1.0  # for a peer that was turned away to read why
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_PAUSE_SECONDS = 0.2
_NOBODY = ["MSH|^~\\&"]  # whom a message without a readable header is answered to


@dataclass(eq=False)
class _Guest:
    """A connection; ``idle_since`` (monotonic) is None within a message."""

    channel: socket.socket
    address: str
    idle_since: float | None = None


class _TooLargeError(Exception):
    """A block is larger than a message may be; it holds the block's beginning."""


class _NoBlockError(Exception):
    """What comes is no MLLP."""


def main(config: Config, _parent: int, port: int) -> None:
    """Listen on an inherited socket until this process is ended."""
    process.be_the_first_to_go()
    with socket.socket(fileno=port) as listener:
        Listener(config, Trail(config.audit_path, config.key_path)).serve(listener)


class Listener:
    """Answers senders, each on a thread; one message at a time is read and kept.

    Raises
    ------
    ConfigError
        The files of `diagnoses.tls` don't serve.
    """

    def __init__(self, config: Config, trail: Trail) -> None:
        self._config, self._trail = config, trail
        self._store = TruthStore(config.ledger_path)
        self._counts = self._store.unflushed()
        self._files = tls_files(config)
        self._networks = [ipaddress.ip_network(each) for each in config.diagnoses.addresses]
        self._open: list[_Guest] = []
        self._lock, self._reading = threading.Lock(), threading.Lock()
        self._known: tuple[object, Findings] | None = None
        self._complaints = Complaints(log)

    def serve(self, listener: socket.socket) -> None:
        """For ever."""
        while True:
            try:
                connection, peer = listener.accept()
            except OSError as error:
                if error.errno in _NO_DESCRIPTOR:
                    log.error("no connection can be accepted: %s", error.strerror)
                    time.sleep(_PAUSE_SECONDS)
                continue  # or it has gone already
            guest = _Guest(connection, str(plain(peer[0])))
            try:
                if why := self._refused(guest):
                    self._turn_away(guest, why)
                else:
                    threading.Thread(target=self._talk, args=(guest,), daemon=True).start()
            except RuntimeError as error:  # can't start new thread
                self._leave(guest)
                self._turn_away(guest, str(error))

    def _turn_away(self, guest: _Guest, why: str) -> None:
        self._complaints.say(guest.address, f"its connection is closed: {why}")
        guest.channel.close()

    def _refused(self, guest: _Guest) -> str:
        """Why nobody listens to a peer; '' where it has got a place, to be given back with `_leave`.

        Where there is none left, the connection that has been idle for longest goes: it may be one whose other end is
        gone, and a sender opens another when it has something to say.
        """
        if self._networks and not any(ipaddress.ip_address(guest.address) in network for network in self._networks):
            return "it is none of diagnoses.addresses"
        with self._lock:
            its = [each for each in self._open if each.address == guest.address]
            crowd = its if len(its) >= _MOST_OF_AN_ADDRESS else self._open if len(self._open) >= _MOST else []
            if crowd:
                idle = [each for each in crowd if each.idle_since is not None]
                if not idle:
                    return f"{len(crowd)} connections are open and busy"
                oldest = min(idle, key=lambda each: each.idle_since or 0.0)
                self._open.remove(oldest)
                with contextlib.suppress(OSError):  # it has gone already
                    oldest.channel.shutdown(socket.SHUT_RDWR)
            self._open.append(guest)
        return ""

    def _leave(self, guest: _Guest) -> None:
        with self._lock, contextlib.suppress(ValueError):  # it had to make room
            self._open.remove(guest)

    # --- a connection -------------------------------------------------------------------------------------------------

    def _talk(self, guest: _Guest) -> None:
        address = guest.address
        try:
            guest.channel = self._encrypted(guest.channel)
            self._answer_all(guest)
        except TimeoutError:
            self._complaints.say(address, "its connection is closed: it was silent for too long")
        except _NoBlockError as error:
            self._complaints.say(address, f"its connection is closed: {error}")
        except ssl.SSLError as error:
            self._complaints.say(address, f"turned away in TLS: {tls.in_words(error, 'diagnoses.tls.ca')}")
        except OSError as error:
            self._complaints.say(address, f"it broke off the connection: {error.strerror or error}")
        except Exception:
            log.exception("a connection ended")
        finally:
            self._leave(guest)  # before it is closed: its sender may open another one at once
            guest.channel.close()
            for each in (self._store, self._counts, self._trail):  # what this thread has opened
                each.close()

    def _encrypted(self, connection: socket.socket) -> socket.socket:
        if self._files is None:
            return connection
        connection.settimeout(_HANDSHAKE_SECONDS)
        return self._files.context().wrap_socket(connection, server_side=True)

    def _answer_all(self, guest: _Guest) -> None:
        blocks, channel, address = _Blocks(guest), guest.channel, guest.address
        while True:
            try:
                content = blocks.next()
            except _TooLargeError as error:
                words = f"it has more than {_LARGEST_BYTES >> 20} MiB: leave documents (OBX of type ED) out"
                _send(channel, self._refuse(address, _head(error.args[0]), "AE", "102", words))
                _see_off(channel)
                return
            if content is None:
                return
            with self._reading:
                answer = self._take(content, address)
            _send(channel, answer)

    # --- a message ----------------------------------------------------------------------------------------------------

    def _take(self, content: bytes, address: str) -> bytes:
        """Keep what a message says; its acknowledgment."""
        message = _head(content)
        if message is None:
            return self._refuse(address, None, "AR", "100", "it is no HL7 message: it does not begin with MSH|^~\\&|")
        if content.count(b"\r") + content.count(b"\n") > _MOST_LINES:
            return self._refuse(address, message, "AE", "102", f"it has more than {_MOST_LINES} segments")
        found = list(hl7_message.split(content))
        if len(found) > 1:
            return self._refuse(address, message, "AE", "100", "a block holds several messages, or one has no end")
        if not message.control_id:
            return self._refuse(address, message, "AE", "101", "its control id (MSH-10) is missing")
        if unread := diagnoses.unread(message):
            return self._refuse(address, message, "AR", *unread)
        parsed = Parsed("hl7")
        try:
            diagnoses.of_message("the message", Message.of(found[0]), self._findings(), parsed)
            if len(parsed.diagnoses) > _MOST_DIAGNOSES:
                parsed.faults.append(f"it makes more than {_MOST_DIAGNOSES} statements")
            if parsed.faults:
                return self._refuse(address, message, "AE", "102", "; ".join(parsed.faults))
            return self._keep(address, message, parsed)
        except ApplianceError as error:
            log.error("a message of %s can't be kept: %s", address, error)
        except Exception:
            log.exception("a message of %s can't be kept", address)
        return message.acknowledge("AR", "207", "it can't be kept now: send it again later")

    def _findings(self) -> Findings:
        """What the packages in force look for; raises `ApplianceError` where that is not known."""
        chosen = installed.in_force(self._config)
        if self._known is None or self._known[0] != chosen:
            self._known = chosen, Findings.of(self._config)
        return self._known[1]

    def _keep(self, address: str, message: Message, parsed: Parsed) -> bytes:
        store = self._store if parsed.diagnoses else self._counts
        taken = store.add_message(address, parsed.diagnoses, 0, parsed.others, parsed.not_final)
        if taken:
            log.info("%d diagnoses from %s", taken, address)
            record = Record(time.time(), "upload", "ORU^R01", person=message.header(3)[:64], how="hl7",
                            address=address, target="diagnoses", detail=f"{taken} diagnoses")  # fmt: skip
            self._trail.append(record, flushed=False)
        return message.acknowledge("AA")

    def _refuse(self, address: str, message: Message | None, reply: Reply, condition: str, words: str) -> bytes:
        """The answer; neither log nor ledger repeat the words, which may quote a patient's."""
        self._complaints.say(address, f"a message is refused: {reply} {condition} ({CONDITIONS[condition]})")
        try:
            self._counts.add_message(address, (), 1)
        except ApplianceError as error:
            log.error("that a message was refused is not counted: %s", error)
        return (message or Message.of(_NOBODY)).acknowledge(reply, condition, words)


class _Blocks:
    """What a sender frames: <VT> content <FS> <CR>. A missing <CR> is forgiven."""

    def __init__(self, guest: _Guest) -> None:
        self._guest, self._received = guest, bytearray()

    def next(self) -> bytes | None:
        """The next one; None where the sender has closed the connection between two.

        Raises
        ------
        _TooLargeError, _NoBlockError, TimeoutError, OSError
        """
        begun, looked_at = False, 0
        self._guest.idle_since = time.monotonic()
        deadline = self._guest.idle_since + _IDLE_SECONDS
        while True:
            if not begun:
                while self._received and self._received[0] in _BETWEEN:
                    del self._received[0]
            if self._received:
                self._guest.idle_since = None
                if self._received[:1] != BLOCK_BEGIN:
                    raise _NoBlockError("what it sends is no MLLP: a block begins with <VT>")
                end = self._received.find(BLOCK_END, looked_at)
                if 0 <= end <= _LARGEST_BYTES:
                    content = bytes(self._received[1:end])
                    del self._received[: end + 1]
                    return content
                looked_at = len(self._received)
                if looked_at > _LARGEST_BYTES:
                    raise _TooLargeError(bytes(self._received[1:_LONGEST_HEAD]))
                if not begun:
                    deadline, begun = time.monotonic() + _MESSAGE_SECONDS, True
            self._guest.channel.settimeout(max(deadline - time.monotonic(), 0.001))
            more = self._guest.channel.recv(65536)
            if not more:
                if begun:
                    raise _NoBlockError("it ended within a message, which was not kept")
                return None
            self._received += more


def _head(content: bytes) -> Message | None:
    """A block's message as far as its MSH says it; None where it has none."""
    with contextlib.suppress(DiagnosisError, StopIteration):
        return Message.of(next(hl7_message.split(content[:_LONGEST_HEAD]))[:1])
    return None


def _send(channel: socket.socket, answer: bytes) -> None:
    channel.settimeout(_ANSWER_SECONDS)
    channel.sendall(BLOCK_BEGIN + answer + BLOCK_END + b"\r")


def _see_off(channel: socket.socket) -> None:
    """Give the peer time to read why: closing at once would take the words back."""
    deadline = time.monotonic() + _FAREWELL_SECONDS
    with contextlib.suppress(OSError):
        channel.settimeout(_FAREWELL_SECONDS)
        while time.monotonic() < deadline and channel.recv(65536):
            pass


def tls_files(config: Config) -> tls.ServerFiles | None:
    """Of `diagnoses.tls`; None for plain MLLP, or where nobody listens. Raises `ConfigError`."""
    given = config.diagnoses.tls
    if given is None or not config.diagnoses.enabled:
        return None
    key, certificate, ca = (config.data / name for name in (given.key, given.certificate, given.ca))
    return tls.ServerFiles(key, certificate, ca, "diagnoses.tls")
