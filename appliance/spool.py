"""Durable files: temporary name -> fsync -> rename -> fsync of the folder.

After a function here returns, the file is whole and survives a power cut; before that, nothing of it is to be
seen under its final name. What comes by C-STORE goes a shorter way to the same, see `appliance.landing`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import io
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

from appliance import budget
from appliance.errors import DiskFullError, SpoolError

TEMPORARY = ".writing"
LANDING = "landing"  # the folder of `appliance.landing`, below the spool
_LARGEST_RESERVE = 200 * 1024 * 1024
_WRITERS = 64  # who may write at once, each without looking for room anew
_LARGEST_ROOM = 4 * 1024 * 1024
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class SpooledFile:
    """A received file: its path below the spool, the SHA-256 of its data set, its size in bytes.

    ``slot``: where it stays until its row is durable; see `appliance.landing`.
    """

    name: str
    digest: str
    size: int
    slot: Path | None = None


def write_durably(path: Path, *parts: bytes, mode: int = 0o600) -> None:
    """Write the parts as one file, by default readable by its owner only, that appears whole or not at all.

    As `stream_durably`.
    """
    stream_durably(path, parts, mode)


def stream_durably(path: Path, parts: Iterable[bytes], mode: int = 0o600) -> None:
    """Write a file of which the parts need not all be in memory.

    Raises
    ------
    DiskFullError, SpoolError
        The temporary file is gone then.
    """
    temporary: str | None = None
    try:
        make_folder(path.parent)
        descriptor, temporary = tempfile.mkstemp(suffix=TEMPORARY, dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(temporary).replace(path)
        temporary = None
        fsync_folder(path.parent)
    except OSError as error:
        raise _in_words(error, path) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file_system(folder: Path) -> None:
    """Bring to the disk whatever waits on the file system of a folder: hundreds of folders by one call.

    Raises
    ------
    SpoolError
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _LIBC.syncfs(descriptor):
            number = ctypes.get_errno()
            raise _in_words(OSError(number, os.strerror(number)), folder)
    finally:
        os.close(descriptor)


def file_name(digest: str) -> str:
    """Of the file whose data set has this SHA-256, below the spool."""
    return f"{digest[:2]}/{digest}.dcm"


def new_name() -> str:
    """A name of its own for a file that is being written."""
    return f"{uuid.uuid4().hex}{TEMPORARY}"


def remove_if_possible(path: Path) -> None:
    """Remove a temporary file. Why it can't be is why something else has failed, which others say."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; each new one's name is on disk before anything is put into it."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    fsync_folder(folder.parent)


def clean_temporary_files(root: Path) -> int:
    """Remove what a killed process left half written below ``root``; the number of files.

    What lies in the landing folder may be whole; `appliance.landing.recover` tells.
    """
    leftovers = [path for path in root.rglob(f"*{TEMPORARY}") if path.parent.name != LANDING]
    for path in leftovers:
        path.unlink(missing_ok=True)
    return len(leftovers)


class Incoming:
    """A file that is written as it comes, under a name of its own, and appears in the spool once it is whole.

    Parameters
    ----------
    head
        Preamble and file meta information; the data set follows by `write`.
    slot
        An empty file to be used.
    is_unread
        Whether nothing was made of the file that has a data set, by its SHA-256: where that states another transfer
        syntax, this one takes its place.

    Raises
    ------
    DiskFullError, SpoolError
        From every method; nothing of the file is left then.
    """

    def __init__(
        self,
        spool: Spool,
        head: bytes,
        slot: Path | None = None,
        is_unread: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._spool, self._head, self._is_unread = spool, head, is_unread
        self._hash = hashlib.sha256()
        self._path: Path | None = slot or spool.root / new_name()
        self._size = 0
        self._descriptor = -1
        with self._errors_in_words():
            self._room = self._spool.check_room(len(head))  # bytes until it is to be looked at again
            self._descriptor = os.open(self._path, os.O_WRONLY | (0 if slot else os.O_CREAT | os.O_EXCL), 0o600)
            self._write(head)

    def write(self, fragment: bytes | memoryview) -> None:
        """Append a part of the data set."""
        with self._errors_in_words():
            if len(fragment) > self._room:
                self._room = self._spool.check_room(len(fragment))
            self._room -= len(fragment)
            self._hash.update(fragment)
            self._write(fragment)

    def keep(self) -> SpooledFile:
        """Make the file durable under its final name; the same data set is stored once."""
        digest = self._hash.hexdigest()
        name = file_name(digest)
        path = self._spool.root / name
        with self._errors_in_words():
            size = self._size_of_kept(path)
            # One that is there may have been renamed by another thread, or a run that was killed, before the fsync.
            if size is None:
                assert self._path is not None
                os.fsync(self._descriptor)
                make_folder(path.parent)
                self._path.replace(path)
                self._path = None
            self.discard()
            fsync_folder(path.parent)
        return SpooledFile(name, digest, size or self._size)

    def _size_of_kept(self, path: Path) -> int | None:
        """Size of a file that ends with the same data set and stays; None where it does not, is not there or damaged.

        A name alone proves nothing: what it named may have rotted since, and is made good by what has come again.
        """
        try:
            with path.open("rb") as file:
                file.seek(len(self._head) - self._size, io.SEEK_END)
                if hashlib.file_digest(file, "sha256").digest() != self._hash.digest():
                    return None
                outdated = self._is_unread(self._hash.hexdigest()) and has_other_syntax(file, io.BytesIO(self._head))
                return None if outdated else os.fstat(file.fileno()).st_size
        except OSError:
            return None

    def discard(self) -> None:
        """Close the file, and remove it where it was not kept; what can't be removed goes at the next start."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._path:
            remove_if_possible(self._path)
            self._path = None

    def _write(self, data: bytes | memoryview) -> None:
        self._size += len(data)
        while len(data):
            data = data[os.write(self._descriptor, data) :]

    @contextlib.contextmanager
    def _errors_in_words(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self.discard()
            if isinstance(error, OSError):
                raise _in_words(error, self._spool.root) from error
            raise


def has_other_syntax(file: BinaryIO, other: BinaryIO) -> bool:
    """Whether the heads of two files state different transfer syntaxes."""
    return budget.transfer_syntax(file) != budget.transfer_syntax(other)


def _in_words(error: OSError, path: Path) -> SpoolError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError(f"no room left on the disk for {path}", hint="free some space")
    return SpoolError(f"{path} can't be written: {error.strerror}")


class Spool:
    """The folder of received files, named by the SHA-256 of their data set, never by the sender.

    Parameters
    ----------
    reserve
        Bytes that must stay free, so that the ledger and the results of what was already acknowledged still
        have room; by default 5 % of the disk, 200 MiB at most.
    """

    def __init__(self, root: Path, reserve: int | None = None) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        total = shutil.disk_usage(root).total
        self.reserve = min(total // 20, _LARGEST_RESERVE) if reserve is None else reserve

    @classmethod
    def without_room(cls, root: Path) -> Spool:
        """One that takes nothing, as if the disk were full."""
        return cls(root, reserve=1 << 63)

    def make_folders(self) -> None:
        """Make every folder that a name may need ahead of time, so that no sender waits for that.

        Raises `DiskFullError` or `SpoolError`.
        """
        with self.errors_in_words():
            for number in range(256):
                (self.root / f"{number:02x}").mkdir(exist_ok=True)
            fsync_folder(self.root)

    def begin(self, head: bytes, is_unread: Callable[[str], bool] = lambda _: False) -> Incoming:
        """A file whose data set comes in parts; parameters and errors as of `Incoming`."""
        return Incoming(self, head, is_unread=is_unread)

    @contextlib.contextmanager
    def set_aside(self, pieces: Iterable[bytes]) -> Iterator[IO[bytes]]:
        """A file that is looked at before anything of it is taken, on this disk and for so long only.

        Raises `DiskFullError` or `SpoolError`, and what ``pieces`` raises.
        """
        with contextlib.ExitStack() as stack:
            with self.errors_in_words():
                file = stack.enter_context(tempfile.NamedTemporaryFile(suffix=TEMPORARY, dir=self.root))
            for piece in pieces:
                with self.errors_in_words():
                    self.check_room(len(piece))
                    file.write(piece)
            with self.errors_in_words():
                file.seek(0)
            yield file

    @contextlib.contextmanager
    def errors_in_words(self) -> Iterator[None]:
        """An `OSError` within it becomes a `DiskFullError` or a `SpoolError`."""
        try:
            yield
        except OSError as error:
            raise _in_words(error, self.root) from error

    def check_room(self, size: int) -> int:
        """How much more than ``size`` bytes may be written before room is looked for again.

        Raises
        ------
        DiskFullError
            The reserve would be touched.
        """
        disk = os.statvfs(self.root)
        free = disk.f_bavail * disk.f_frsize
        room = free - size - self.reserve
        if room < 0:
            raise DiskFullError(
                f"too little would stay free of the {free // 2**20} MiB on the disk of {self.root}",
                hint="free some space or attach a larger disk",
            )
        return min(room // _WRITERS, _LARGEST_ROOM)

    def path(self, name: str) -> Path:
        return self.root / name

    def has(self, name: str, size: int) -> bool:
        """Whether a file is there, as long as it was received."""
        try:
            return self.path(name).stat().st_size == size
        except OSError:
            return False
