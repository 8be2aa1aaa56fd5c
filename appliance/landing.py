"""The way of C-STORE's files into the spool: one flush of the disk for each, where one after another takes three.

A flush takes some milliseconds, however little it writes, and a sender waits for each answer before it goes on. So only
one stands before Success; what it leaves undone is done later for hundreds of files at once::

    ahead   empty files, *slots*, are made in ``landing/``, and their names brought to the disk, many at once
    each    head and data set -> slot; SHA-256 -> head; fsync of the slot
            hard link under the final name; row committed, not flushed; Success
    later   flush of the ledger and of the links; the slots' names are removed

Why nothing that was acknowledged is lost: the slot's name was on the disk before, its content is by the fsync, and the
head tells by itself whether the data set is whole and what its row says (`appliance.file_head`). A kill after that
takes away nothing, since commit and link are the kernel's. A power cut may take the row (with all later ones, since the
ledger's log is read up to where it breaks off) and the link, but not the slot, whose name goes only once both are on
the disk; `recover` makes link and row from it at the next start.

Why nothing partial gets a final name: it is linked only after its fsync has returned.

Why nothing gets two results: an instance is worked on only after a durable commit has claimed it, and that brings every
earlier commit to the disk, the instance's row among them; `recover` leaves a row that is there as it is.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from appliance import file_head
from appliance.errors import DiskFullError, SpoolError
from appliance.file_head import Head
from appliance.spool import (
    LANDING,
    Incoming,
    Spool,
    SpooledFile,
    file_name,
    fsync_folder,
    has_other_syntax,
    make_folder,
    new_name,
    remove_if_possible,
    sync_file_system,
)
from appliance.store import Arrival, Store

log = logging.getLogger("scanside.landing")

_SLOTS = 64  # made at once
_SETTLE_SECONDS = 2.0


class Landing:
    """The slots that are ready, and those whose rows are not known to be on the disk.

    Parameters
    ----------
    flush
        Brings all commits to the disk; may raise `SpoolError`.
    is_unread
        As of `appliance.spool.Incoming`.
    """

    def __init__(self, spool: Spool, flush: Callable[[], None], is_unread: Callable[[str], bool]) -> None:
        self._spool, self._flush, self._is_unread = spool, flush, is_unread
        self._lock = threading.Lock()
        self._ready: list[Path] = []
        self._waiting: list[Path] = []
        self._thread: threading.Thread | None = None
        self._some_wait, self._stopping = threading.Event(), threading.Event()

    def begin(self, head: Head) -> Incoming:
        """A file whose data set comes in parts; once its row is committed, `committed` must be told.

        Raises
        ------
        DiskFullError, SpoolError
        """
        with self._lock:
            if not self._ready:
                self._ready = self._make_slots()
            slot = self._ready.pop()
        try:
            return _Landed(self._spool, head, slot, self._is_unread)
        except SpoolError:
            self._forget_lost_slots()
            raise

    def committed(self, slot: Path) -> None:
        """Tell that the row of what landed in a slot is committed."""
        with self._lock:
            self._waiting.append(slot)
            if self._thread is None:
                self._stopping.clear()
                self._thread = threading.Thread(target=self._run, name="landing", daemon=True)
                self._thread.start()
        self._some_wait.set()

    def stop(self) -> None:
        """Settle what waits, and remove the slots that nobody used; `begin` makes new ones."""
        with self._lock:
            thread, self._thread = self._thread, None
            unused, self._ready = self._ready, []
        if thread is not None:
            self._stopping.set()
            self._some_wait.set()
            thread.join()
        if self._waiting:
            self._settle()
        for slot in unused:
            remove_if_possible(slot)

    def _forget_lost_slots(self) -> None:
        """Somebody may have removed their folder, and each would cost another sender its image."""
        with self._lock:
            self._ready = [slot for slot in self._ready if slot.exists()]

    def _make_slots(self) -> list[Path]:
        self._spool.check_room(0)
        folder = self._spool.root / LANDING
        slots = [folder / new_name() for _ in range(_SLOTS)]
        with self._spool.errors_in_words():
            try:
                make_folder(folder)
                for slot in slots:
                    os.close(os.open(slot, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
                fsync_folder(folder)
            except OSError:
                for slot in slots:
                    remove_if_possible(slot)
                raise
        return slots

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._some_wait.wait()
            self._some_wait.clear()
            self._stopping.wait(_SETTLE_SECONDS)
            self._settle()

    def _settle(self) -> None:
        with self._lock:
            slots, self._waiting = self._waiting, []
        try:
            _make_durable(self._spool, self._flush)
        except SpoolError as error:  # nothing is lost by waiting
            log.error("what was received is not settled yet: %s", error)
            with self._lock:
                self._waiting += slots
            self._some_wait.set()
            return
        for slot in slots:
            remove_if_possible(slot)


class _Landed(Incoming):
    """A file in its slot."""

    def __init__(self, spool: Spool, head: Head, slot: Path, is_unread: Callable[[str], bool]) -> None:
        super().__init__(spool, head.content, slot, is_unread)
        self._digest_at = head.digest_at

    def keep(self) -> SpooledFile:
        """Make the file durable in its slot, and link it under its final name; the same data set is stored once."""
        assert self._path is not None
        slot, digest = self._path, self._hash.hexdigest()
        path, size = self._spool.path(file_name(digest)), self._size
        with self._errors_in_words():
            os.pwrite(self._descriptor, self._hash.digest(), self._digest_at)
            os.fsync(self._descriptor)
            if not _link(slot, path):
                kept = self._size_of_kept(path)
                if kept is None:
                    _link_instead(slot, path)
                size = kept or size
        self._path = None
        self.discard()
        return SpooledFile(file_name(digest), digest, size, slot)


def _link(slot: Path, path: Path) -> bool:
    """Whether there was nothing yet under the final name."""
    try:
        try:
            os.link(slot, path)
        except FileNotFoundError:
            make_folder(path.parent)
            os.link(slot, path)
    except FileExistsError:
        return False
    return True


def _link_instead(slot: Path, path: Path) -> None:
    """In the place of a file that is damaged, or was named wrongly, at one stroke."""
    temporary = path.with_name(new_name())
    os.link(slot, temporary)
    temporary.replace(path)


def _make_durable(spool: Spool, flush: Callable[[], None]) -> None:
    flush()
    with spool.errors_in_words():
        sync_file_system(spool.root)


def recover(spool: Spool, store: Store) -> int:
    """Give each whole file that lies in a slot its place and its row, before anything else is done on its folder.

    They come in the order in which they were received. What is not whole was never acknowledged, and goes. What can't
    be read or put in its place stays for the next start, without a row, and holds up none of the others;
    `appliance.recount` names it.

    Returns
    -------
    How many whole files were looked at.

    Raises
    ------
    DiskFullError
        There is no room for some; all stay, to be looked at again once there is.
    """
    found: list[tuple[Arrival, Path]] = []
    slots = list((spool.root / LANDING).glob("*"))
    for slot in slots:
        try:
            arrival = file_head.read(slot)
        except OSError as error:
            log.error("%s can't be read: %s", slot, error.strerror)
            continue
        if arrival is not None:
            found.append((arrival, slot))
        else:
            slot.unlink()
    settled: list[Path] = []
    for arrival, slot in sorted(found, key=lambda each: each[0].received_at or 0.0):
        with _left_for_the_next_start(slot):
            _take_up(spool, store, arrival, slot)
            settled.append(slot)
    with _left_for_the_next_start(spool.root / LANDING):
        _make_durable(spool, store.flush)
        for slot in settled:
            slot.unlink()
    return len(found)


@contextmanager
def _left_for_the_next_start(path: Path) -> Iterator[None]:
    try:
        yield
    except DiskFullError:
        raise
    except SpoolError as error:
        log.error("%s is looked at again at the next start: %s", path, error)


def _take_up(spool: Spool, store: Store, arrival: Arrival, slot: Path) -> None:
    with store.together():  # no row without its file, or the image would be read to have none
        is_unread = store.turned_away(arrival.digest)
        if store.readmit(arrival):
            with spool.errors_in_words():
                _put_in_place(spool, slot, arrival, store, is_unread)


def _put_in_place(spool: Spool, slot: Path, arrival: Arrival, store: Store, is_unread: bool) -> None:
    """Link a file under its final name, unless a whole one is there; ``is_unread`` as of `appliance.spool.Incoming`."""
    path = spool.path(arrival.file)
    if _link(slot, path) or path.samefile(slot):
        return
    if file_head.has_digest(path, arrival.digest):
        with path.open("rb") as file, slot.open("rb") as other:
            if not (is_unread and has_other_syntax(file, other)):
                return
    _link_instead(slot, path)
    store.note_size(arrival.digest, arrival.size)
