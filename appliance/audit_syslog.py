"""Sends the audit trail to a syslog collector over TLS (RFC 5424, RFC 5425), however long that one is down.

The trail itself is the queue: what the collector has is one number beside it. Syslog is never acknowledged, so a record
counts as there once the collector's machine has acknowledged its bytes and the connection still stands a while later;
what is less certain is sent again over the next connection. A record may come twice, and has its number in
``sequenceId``.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import socket
import ssl
import struct
import termios
import threading
import time
from collections import deque
from datetime import UTC, datetime

import msgspec

from appliance import tls_client
from appliance.audit import Record, decode
from appliance.audit_message import Source, messages
from appliance.audit_store import AuditStore
from appliance.audit_subjects import AuditSubjects
from appliance.config import Config, Syslog
from appliance.errors import ApplianceError, SpoolError
from appliance.process import is_readable

log = logging.getLogger("scanside.audit")

_PRIORITY = 10 * 8 + 5  # security, notice: as IHE ATNA has it
_MESSAGE_ID = "DICOM+RFC3881"  # PS3.15 annex A.6
_LOOK_SECONDS = 1.0
_SETTLE_SECONDS = 10.0  # until the ledger knows whose the images of a transfer are
_SURE_SECONDS = 2.0
_TIMEOUT_SECONDS = 20.0
_SHORTEST_PAUSE, _LONGEST_PAUSE = 2.0, 60.0
_BATCH = 200


class AuditSyslog:
    """One thread; `say` tells how it is, for the page."""

    def __init__(self, config: Config, settings: Syslog) -> None:
        self._settings, self._folder = settings, config.data
        self._store = AuditStore(config.audit_path)
        self._subjects = AuditSubjects(config.ledger_path, read_only=True)
        self._source = source_of(config)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="audit-syslog", daemon=True)
        self._connection: ssl.SSLSocket | None = None
        self._unsure: deque[tuple[int, float]] = deque()  # number, and when its bytes were acknowledged; 0: not yet
        self._said = {"state": "connecting", "problem": ""}

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(_TIMEOUT_SECONDS)

    def say(self) -> dict[str, str | int]:
        """``state`` (connecting, ready, failing), ``problem``, and how many records ``wait``."""
        head, anchor = self._store.head(), self._store.anchor()
        had = max(self._store.elsewhere("collector"), anchor["number"] if anchor else 0)
        return {**self._said, "wait": (head["number"] if head else 0) - had}

    def _run(self) -> None:
        pause = _SHORTEST_PAUSE
        while not self._stop.is_set():
            try:
                self._connect()
                self._said = {"state": "ready", "problem": ""}
                pause = _SHORTEST_PAUSE
                while not self._stop.wait(_LOOK_SECONDS if not self._send() else 0.0):
                    pass
                self._finish()
            except (ApplianceError, OSError) as error:
                words = _words(error, self._settings)
                if self._said["problem"] != words:
                    log.error("audit trail: %s", words)
                self._said = {"state": "failing", "problem": words}
            self._disconnect()
            if self._stop.wait(pause):
                break
            pause = min(pause * 2, _LONGEST_PAUSE)
        self._store.close()
        self._subjects.close()

    # --- the connection ---------------------------------------------------------------------------------------

    def _connect(self) -> None:
        settings = self._settings
        ca, certificate, key = (
            self._folder / name if name else None for name in (settings.ca, settings.certificate, settings.key)
        )
        context = tls_client.client_context(tls_client.TlsFiles(ca, certificate, key, settings.name))
        plain = socket.create_connection((settings.host, settings.port), _TIMEOUT_SECONDS)
        try:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(_TIMEOUT_SECONDS * 1000))
            self._connection = context.wrap_socket(plain, server_hostname=settings.name or settings.host)
        except OSError:
            plain.close()
            raise

    def _disconnect(self) -> None:
        self._unsure.clear()
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.close()
            self._connection = None

    # --- sending ----------------------------------------------------------------------------------------------

    def _send(self) -> bool:
        """Send what is due; whether there may be more at once."""
        assert self._connection is not None
        self._settle()
        last = self._unsure[-1][0] if self._unsure else self._store.elsewhere("collector")
        count = 0
        for row in self._store.records(last, _BATCH):
            record = _readable(row["number"], row["content"])
            if record.event.startswith("transfer") and time.time() - record.at < _SETTLE_SECONDS:
                break
            for message in messages(record, self._subjects.of(record), self._source):
                self._connection.sendall(framed(message, row["number"], record.at, self._source.name))
            self._unsure.append((row["number"], 0.0))
            count += 1
        return count == _BATCH

    def _settle(self) -> None:
        """Note what the collector has for certain; raises `OSError` where it has gone."""
        connection = self._connection
        assert connection is not None
        readable = is_readable(connection, 0.0)
        if readable or connection.pending():
            connection.settimeout(0.0)
            try:
                if not connection.recv(4096):  # a collector has nothing to say, but TLS may
                    raise ConnectionResetError("it closed the connection")
            except ssl.SSLWantReadError:
                pass
            finally:
                connection.settimeout(_TIMEOUT_SECONDS)
        if not self._unsure:
            return
        now = time.monotonic()
        if _unacknowledged(connection) == 0:
            self._unsure = deque((number, at or now) for number, at in self._unsure)
        sure = 0
        while self._unsure and self._unsure[0][1] and now - self._unsure[0][1] > _SURE_SECONDS:
            sure, _ = self._unsure.popleft()
        if sure:
            self._store.set_elsewhere("collector", sure)

    def _finish(self) -> None:
        """At the end: what was sent is waited for, for a moment."""
        deadline = time.monotonic() + 2 * _SURE_SECONDS
        while self._unsure and time.monotonic() < deadline:
            time.sleep(0.1)
            self._settle()


def _readable(number: int, content: str) -> Record:
    try:
        return decode(content)
    except msgspec.DecodeError:  # somebody has changed it, which is to be told, and must not keep the others back
        return Record(time.time(), "gap", "audit", failed=True, detail=f"record {number} can't be read")


def source_of(config: Config) -> Source:
    """Who reports, by the configuration."""
    key = b""
    if not config.audit.patient_ids:
        key = config.key_path.read_bytes()  # of this device, and nobody else's
    name = config.audit.source or socket.gethostname()
    return Source(name, config.audit.site, config.storage_scp.ae_title, key)


def framed(message: str, number: int, at: float, host: str) -> bytes:
    """A syslog message by RFC 5424, octet-counted by RFC 5425 section 4.3."""
    moment = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    name = "".join(letter if "!" <= letter <= "~" else "-" for letter in host)[:255] or "-"
    header = f'<{_PRIORITY}>1 {moment} {name} scanside {os.getpid()} {_MESSAGE_ID} [meta sequenceId="{number}"] '
    body = header.encode() + b"\xef\xbb\xbf" + message.encode()
    return str(len(body)).encode() + b" " + body


def _unacknowledged(connection: ssl.SSLSocket) -> int:
    """Bytes that the peer's machine has not acknowledged (SIOCOUTQ of tcp(7))."""
    (count,) = struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, struct.pack("i", 0)))
    return int(count)


def _words(error: Exception, settings: Syslog) -> str:
    where = f"the syslog collector {settings.host}:{settings.port}"
    if isinstance(error, ssl.SSLCertVerificationError):
        why, hint = tls_client.explain_certificate(error, None, settings.name or settings.host)
        return f"{where}: {why} ({hint})"
    if isinstance(error, ssl.SSLError):
        why, hint = tls_client.explain_handshake(error)
        return f"{where}: {why} ({hint})"
    if isinstance(error, SpoolError):
        return str(error)
    if isinstance(error, ApplianceError):
        return f"{where}: {error}"
    return f"{where} can't be reached: {error.strerror if isinstance(error, OSError) and error.strerror else error}"
