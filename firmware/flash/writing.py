"""Flash.

The first piece of an image, with its partition table, is written last, after all others were read back and compared,
and what the disk claims beyond the image was tried. So a disk that was left half-way, or that lies about its size, has
no partition table and does not start at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from firmware.durable import Files
from firmware.errors import BrokenError, FirmwareError, RefusedError, StoppedError
from firmware.flash import disks
from firmware.flash.capacity import Marks
from firmware.flash.disks import Disk
from firmware.flash.manifest import Manifest, Piece
from firmware.flash.medium import Medium

Open = Callable[[Path, int | None], Medium]
Say = Callable[[int, str], None]  # bytes that are done, and the phase

_WIPE = 16 << 20  # bytes after the image: headers of what was there before (LUKS, LVM, file systems)
_TAIL = 1 << 20  # bytes at the disk's end: an old backup partition table


def flash(
    manifest: Manifest,
    disk: Disk,
    say: Say,
    notes: Path,
    open_medium: Open = Medium,
    stop: Event | None = None,
    warn: Callable[[str], None] = lambda _: None,
    find: Callable[[Path], Disk] = disks.find,
) -> int:
    """Write an image to a disk, read all of it back, compare. A file that stands for one is made where it is missing.

    Marks all over what the disk claims to have beyond the image are written before it, and read back after it.

    Parameters
    ----------
    say
        Told ``2 * bytes_to_write`` bytes in all: each is written and read back.
    notes
        Folder for how far an interrupted run came.
    stop
        Once it is set, this ends before the next piece.
    warn
        Told that the note can't be kept, which is no reason not to flash.
    find
        Which disk is at a path; asked once it is open, when no other one can come there any more.

    Returns
    -------
    Bytes that an earlier run had written and that were not written again.

    Raises
    ------
    FirmwareError
        It can't be opened, or made.
    RefusedError
        Another disk is at its path than was found before.
    BrokenError
        The disk did not keep what was written, or lies about its size; it does not start.
    StoppedError
        ``stop`` was set: in which state the disk is.
    """
    if disk.is_file:
        _make(disk.path)
    medium = open_medium(disk.path, max(manifest.least_disk, disk.size) if disk.is_file else manifest.least_disk)
    try:
        if not disk.is_file:
            _same(disk, find(disk.path))
        size = medium.size()
        if size < manifest.least_disk:
            raise BrokenError(
                f"{disk.path} has {size} bytes now, and the image needs {manifest.least_disk}", hint="take another disk"
            )
        note = _Note(notes, manifest, disk, size, warn)
        first, *rest = manifest.pieces
        if first.offset:
            raise FirmwareError(f"the image {manifest.payload} has no partition table")
        table = manifest.read(first)
        stopped = (stop or Event()).is_set
        if stopped():
            raise StoppedError(f"{disk.path} was not touched", hint="run the same command again")

        def at(count: int, phase: str) -> None:
            if stopped():
                where = "where it stopped" if note.kept else "from the start"
                raise StoppedError(
                    f"{disk.path} was stopped; it does not start as it is",
                    hint=f"run the same command again: it goes on {where}",
                )
            say(count, phase)

        medium.write(0, bytes(first.length))
        if not note.done:  # what was there before is gone for good, before anything new is there
            medium.write(size - _TAIL, bytes(_TAIL))
            medium.write(manifest.size, bytes(min(_WIPE, size - manifest.size)))
        medium.flush()
        marks = Marks(medium, manifest.size, size, rest[0].offset if rest else 0)
        marks.write(lambda: at(0, "probe"))
        with _believed_no_more(note, medium, first):
            marks.check(lambda: at(0, "probe"))  # most that lie are found here, in seconds
        hint = "it is worn out, or lies about its size; do not put it into a box, take another disk"
        if note.done:  # something else may have written to it since
            hint = f"run the same command again, which begins from the start; where it fails again, {hint}"
        kept, count = 0, 0
        for number, piece in enumerate(rest, 1):
            count += piece.length
            if number in note.done:
                kept += piece.length
            else:
                medium.write(piece.offset, manifest.read(piece))
                if number % 16 == 0 or stopped():
                    medium.flush()
                    note.keep(range(number + 1))
            at(count, "write")
        medium.flush()
        note.keep(range(len(manifest.pieces)))
        with _believed_no_more(note, medium, first):
            _compare(medium, rest, lambda done: at(count + done, "verify"), hint)
            marks.check(lambda: at(2 * count, "probe"))
            marks.clear(lambda: at(2 * count, "probe"))
            medium.write(0, table)
            medium.flush()
            _compare(medium, [first], lambda _: None, hint)
        say(2 * manifest.bytes_to_write, "verify")
        note.forget()
        return kept
    finally:
        medium.close()


@contextmanager
def _believed_no_more(note: _Note, medium: Medium, first: Piece) -> Iterator[None]:
    """Where the disk turns out not to keep what it is given, nothing on it counts, and nothing makes it start."""
    try:
        yield
    except BrokenError:
        note.forget()
        with contextlib.suppress(BrokenError):  # whatever has landed there, as far as the disk still takes anything
            medium.write(0, bytes(first.length))
            medium.flush()
        raise


def _same(disk: Disk, now: Disk) -> None:
    """The one that was judged: sticks are changed, and a name goes to the next one."""
    if (now.serial, now.model, now.size) != (disk.serial, disk.model, disk.size):
        raise RefusedError(
            f"{disk.path} is another disk now ({now.model or 'without a model'}, serial number "
            f"{now.serial or 'none'}, {now.size} bytes) and was not touched",
            hint="look at `scanside-firmware list`, and run the command again with the disk that is meant",
        )


def _make(path: Path) -> None:
    try:
        path.touch()
    except OSError as error:
        raise FirmwareError(f"{path} can't be made: {error.strerror}", hint="name one in a folder of yours") from error


def _compare(medium: Medium, pieces: list[Piece], say: Callable[[int], None], hint: str) -> None:
    done = 0
    for piece in pieces:
        content = medium.read(piece.offset, piece.length)
        if hashlib.sha256(content).hexdigest() != piece.sha256:
            raise BrokenError(
                f"{medium.path} does not hold what was written: bytes {piece.offset} to {piece.offset + piece.length}",
                hint,
            )
        done += piece.length
        say(done)


class _Note:
    """Which pieces an interrupted run has written and flushed, for this image on this very disk.

    Nothing is noted of a disk without a serial number: the next one at its path would be taken for it.
    """

    def __init__(self, folder: Path, manifest: Manifest, disk: Disk, size: int, warn: Callable[[str], None]) -> None:
        name = hashlib.sha256(f"{disk.path}\n{disk.serial}\n{size}\n{manifest.digest}".encode()).hexdigest()[:24]
        self._path = folder / f"{name}.json"
        self._known, self._warn = bool(disk.serial) or disk.is_file, warn
        self.done: set[int] = set()
        try:
            self.done = set(json.loads(self._path.read_text())) if self._known else set()
        except (OSError, ValueError, TypeError):  # none, or torn: all is written again
            self.done = set()
        self.kept = bool(self.done)

    def keep(self, done: range) -> None:
        if not self._known:
            return
        self.done |= set(done)
        try:
            Files().write(self._path, json.dumps(sorted(self.done)).encode())
            self.kept = True
        except OSError as error:
            self._warn(f"how far it came can't be noted, {self._path}: {error.strerror}")
            self._known = False

    def forget(self) -> None:
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            self._warn(f"remove {self._path} by hand, the note of an interrupted run ({error.strerror})")


def notes_folder() -> Path:
    """Where the notes of interrupted runs lie."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "scanside-firmware"
