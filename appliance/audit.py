"""The audit trail: who saw and did what, and how it ended. Append-only, hash-chained, its head signed.

A record holds the SHA-256 of the one before, so that none can be changed, removed, put in or moved without all later
ones telling. The number and the digest of the last one are signed with the device's key at each append, so that the end
can't be cut off either. Where retention removes its beginning, those of the last record that went are signed, too, and
stand in a record. The trail holds row numbers of the ledger and names of accounts, nothing of a patient.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec

from appliance import signature
from appliance.audit_store import AuditStore
from appliance.errors import ApplianceError, SpoolError

log = logging.getLogger("scanside.audit")

# view, act: a request to the page; refused: one that was not allowed; download, upload: files to and from a browser;
# transfer_begin, transfer_end: DICOM instances, over a network; command: the command line; used: the trail itself;
# gap: records that came late, or were lost.
Event = Literal[
    "view", "act", "refused", "download", "upload", "login", "logout", "lock_out", "account", "start", "stop",
    "transfer_begin", "transfer_end", "command", "used", "gap",
]  # fmt: skip
FIRST = "0" * 64
REMOVAL = "audit retention"  # the action of a record that says what was removed
_MOST_PENDING = 5_000
_DROP = 5_000
_SAY_SECONDS = 60.0


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that was seen or done.

    Attributes
    ----------
    at
        Seconds since 1970.
    how
        By what the person was known: session, token, password, shell, dicom, hl7; '' where nobody was asked.
    action
        A route or a command, without what varies in it.
    target
        What it was about: ``image 17``, ``account jane``, ``transfer 3f2a...``.
    images
        Row numbers of the images that it was about, where they are several.
    since
        Seconds since 1970, of a transfer that has ended: when it began.
    """

    at: float
    event: Event
    action: str
    failed: bool = False
    person: str = ""
    role: str = ""
    how: str = ""
    address: str = ""
    target: str = ""
    detail: str = ""
    images: tuple[int, ...] = ()
    since: float = 0.0


def digest(number: int, previous: str, content: str) -> str:
    """Of a record, which the next one holds."""
    return hashlib.sha256(f"{number}\n{previous}\n{content}".encode()).hexdigest()


def signed(number: int, digest: str) -> bytes:
    """What the head's signature is over."""
    return f"scanside audit trail {number} {digest}".encode()


def anchored(number: int, digest: str) -> bytes:
    """What the anchor's signature is over."""
    return f"scanside audit trail, removed up to {number} {digest}".encode()


class Trail:
    """The trail of a data folder, for any thread and process. A record that can't be written is kept and written later.

    Parameters
    ----------
    key
        Of the device; made where there is none.
    """

    def __init__(self, path: Path, key: Path) -> None:
        self._flushed = AuditStore(path)
        self._unflushed = self._flushed.unflushed()
        self._key, _ = signature.load_or_create_private_key(key)
        self._lock = threading.Lock()
        self._pending: list[Record] = []
        self._lost = 0
        self._said_at = 0.0
        self.problem = ""

    def append(self, record: Record, flushed: bool = True) -> bool:
        """Keep a record; whether it is written. Where it is not, `problem` says why, and the log.

        Parameters
        ----------
        flushed
            If not, a power cut may take it; a process that is killed loses it in neither case.
        """
        with self._lock:
            waiting = [*self._pending, record]
            if self._pending:
                detail = f"{len(self._pending)} records were written late and {self._lost} are lost, for want of room"
                waiting.append(Record(time.time(), "gap", "audit", failed=self._lost > 0, detail=detail))
            try:
                store = self._flushed if flushed else self._unflushed
                store.append([encode(each) for each in waiting], FIRST, digest, self._sign)
            except SpoolError as error:
                self._keep(record, error)
                return False
            if self._pending:
                log.error("audit trail: %s", waiting[-1].detail)
            self._pending, self._lost, self.problem = [], 0, ""
            return True

    def give_up(self, number: int, last: str) -> None:
        """Remove the beginning of the trail, which leaves its anchor and a record of that.

        Parameters
        ----------
        number, last
            Of the last record that goes: its number, and its digest.

        Raises
        ------
        SpoolError
        """
        record = Record(time.time(), "used", REMOVAL, target=f"records up to {number}", detail=last)
        with self._flushed.together():
            anchor = self._flushed.anchor()
            if anchor is not None and anchor["number"] >= number:
                return  # somebody else was faster
            self._flushed.set_anchor(number, last, signature.sign(self._key, anchored(number, last)))
            self._flushed.append([encode(record)], FIRST, digest, self._sign)
        while self._flushed.drop(_DROP):
            pass

    def check(self) -> bool:
        """Whether records can be written; where the last one could not, it is tried again."""
        with self._lock:
            if not self._pending:
                return True
            last = self._pending.pop()
        return self.append(last)

    def _keep(self, record: Record, error: SpoolError) -> None:
        now = time.time()
        if len(self._pending) < _MOST_PENDING:
            self._pending.append(record)
        else:
            self._lost += 1
        self.problem = error.message
        if now - self._said_at > _SAY_SECONDS:
            self._said_at = now
            log.error("%d records of the audit trail wait to be written: %s", len(self._pending), error)

    def _sign(self, number: int, last: str) -> str:
        return signature.sign(self._key, signed(number, last))

    def head(self) -> dict[str, Any] | None:
        return self._flushed.head()

    def flush(self) -> None:
        """Bring to the disk whatever was written; raises `SpoolError`."""
        self._flushed.flush()

    def close(self) -> None:
        """This thread's connections."""
        self._flushed.close()
        self._unflushed.close()


def encode(record: Record) -> str:
    return msgspec.json.encode(record).decode()


def decode(content: str) -> Record:
    return msgspec.json.decode(content, type=Record)


@contextmanager
def recorded(trail: Trail, **record: Any) -> Iterator[None]:
    """Record what is done within it, with its outcome; an error goes on.

    Raises
    ------
    SpoolError
        It was done, but can't be recorded.
    """
    try:
        yield
    except BaseException as error:
        detail = error.message if isinstance(error, ApplianceError) else type(error).__name__
        trail.append(Record(time.time(), failed=True, detail=detail, **record))
        raise
    if not trail.append(Record(time.time(), **record)):
        raise SpoolError(
            f"it was done, but the audit trail does not have it: {trail.problem}",
            hint="write down what you did; see `scanside doctor`",
        )
