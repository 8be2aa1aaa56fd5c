"""Ways in. Each ends in `Intake.admit`, the one place where a file becomes an acknowledged instance."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Literal

from appliance.config import Priority
from appliance.errors import InputError, SpoolError
from appliance.file_head import Head
from appliance.group_commit import GroupCommit
from appliance.landing import Landing
from appliance.part10 import HEAD_BYTES, Identity, identify
from appliance.spool import Incoming, Spool, SpooledFile
from appliance.store import Admission, Arrival, Store

log = logging.getLogger("scanside.ingest")

Ending = Literal["released", "aborted"]


class Intake:
    """Spool, then ledger, then the worker is told.

    Parameters
    ----------
    on_arrival
        Called after each commit of an instance that is to be read, and when a transfer has ended; must not block.
    """

    def __init__(self, spool: Spool, store: Store, on_arrival: Callable[[], None]) -> None:
        self._spool = spool
        self._store = store
        self._receipts = GroupCommit(store)
        self._unflushed = store.unflushed()
        self._receipts_of_landed = GroupCommit(self._unflushed)
        self._landing = Landing(spool, store.flush, store.turned_away)
        self._on_arrival = on_arrival

    def take_stream(
        self,
        pieces: Iterable[bytes],
        *,
        source: str,
        sender: str,
        transfer_id: str,
        accept: Callable[[Identity], None] = lambda _: None,
    ) -> tuple[Identity, Admission]:
        """Take a file that comes in pieces and is never in memory as a whole.

        Parameters
        ----------
        pieces
            All of the file. An error that it raises is passed on, and nothing stays of the file.
        accept
            Called once its first bytes are here; raises where the file is not to be taken.

        Raises
        ------
        InputError
            It is empty.
        DiskFullError, SpoolError
            As by `admit`.
        """
        left = iter(pieces)
        head = _first(left, HEAD_BYTES)
        if not head:
            raise InputError("The file is empty (0 bytes).")
        identity = identify(head)
        accept(identity)
        start = identity.data_set_start
        incoming = self.begin(head[:start])
        try:
            incoming.write(head[start:])
            for piece in left:
                incoming.write(piece)
            file = incoming.keep()
        finally:
            incoming.discard()
        return identity, self.admit(
            file,
            sop_instance_uid=identity.sop_instance_uid,
            sop_class_uid=identity.sop_class_uid,
            source=source,
            sender=sender,
            transfer_id=transfer_id,
        )

    @property
    def ledger(self) -> Path:
        """The ledger's file."""
        return self._store.path

    def look_again(self) -> None:
        """Tell the worker that something else than an image has come, which may complete a series."""
        self._on_arrival()

    def begin(self, head: bytes) -> Incoming:
        """A file whose data set comes in parts; once it is kept, it must be admitted.

        Raises
        ------
        DiskFullError, SpoolError
        """
        return self._spool.begin(head, self._store.turned_away)

    def land(self, head: Head) -> Incoming:
        """As `begin`, of a file whose head brings its row back, so that it needs one flush of the disk only.

        `settle` must follow at the end.
        """
        return self._landing.begin(head)

    def settle(self) -> None:
        """Flush whatever has landed."""
        self._landing.stop()
        self._unflushed.close()

    def admit(
        self,
        file: SpooledFile,
        *,
        sop_instance_uid: str,
        sop_class_uid: str,
        source: str,
        sender: str,
        ae_title: str = "",
        priority: Priority = "routine",
        transfer_id: str = "",
    ) -> Admission:
        """Give a durable file its row; when this returns, it may be acknowledged.

        Parameters
        ----------
        ae_title, priority
            Of the C-STORE request that brought it.
        transfer_id
            Of the association or batch of files that it is part of; `end_transfer` must follow.

        Raises
        ------
        DiskFullError, SpoolError
            It must not be acknowledged: the ledger did not take it, or retention has just removed what was here
            before, and it is to be put there anew. The whole file stays without a row, for the sender's next try to
            find (removing it could hit a twin that arrives just now); one that has landed gets a row at the next start.
        """
        receipts = self._receipts if file.slot is None else self._receipts_of_landed
        admission = receipts.receive(
            Arrival(
                sop_instance_uid=sop_instance_uid,
                sop_class_uid=sop_class_uid,
                digest=file.digest,
                file=file.name,
                size=file.size,
                source=source,
                sender=sender,
                ae_title=ae_title,
                priority=priority,
                transfer_id=transfer_id,
            ),
        )
        if not self._spool.has(file.name, file.size):
            raise SpoolError(f"{file.name} was removed while it came again", hint="send it once more")
        if file.slot is not None:
            self._landing.committed(file.slot)
        if admission.outcome == "new":
            self._on_arrival()
        return admission

    def set_aside(self, pieces: Iterable[bytes]) -> AbstractContextManager[IO[bytes]]:
        """As `appliance.spool.Spool.set_aside`."""
        return self._spool.set_aside(pieces)

    def kept(self, sop_instance_uids: list[str]) -> dict[str, set[str]]:
        """Of those instances that ledger and disk both have, whole: SOP Instance UID -> SOP Class UIDs.

        Raises
        ------
        SpoolError
            The ledger can't be read.
        """
        return {
            sop_instance_uid: {sop_class_uid for sop_class_uid, name, size in files if self._spool.has(name, size)}
            for sop_instance_uid, files in self._store.kept(sop_instance_uids).items()
        }

    def end_transfer(self, transfer_id: str, ending: Ending) -> None:
        """Say that nothing more comes of an association or a batch of files: a series may be complete by that.

        Where the ledger can't be told, the series that wait for it are read once it has been quiet for a while.
        """
        try:
            self._store.end_transfer(transfer_id, ending)
        except SpoolError as error:
            log.error("the end of an association is not recorded: %s", error)
        self._on_arrival()

    def leave(self) -> None:
        """Say that this thread is about to end: its connection to the ledger would wait for the garbage collector."""
        self._store.close()
        self._unflushed.close()


def _first(pieces: Iterator[bytes], count: int) -> bytes:
    """So many bytes or some more, fewer where there are no more."""
    begun = bytearray()
    for piece in pieces:
        begun += piece
        if len(begun) >= count:
            break
    return bytes(begun)
