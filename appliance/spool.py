"""Durable files: temporary name -> fsync -> rename -> fsync of the folder.

After a function here returns, the file is whole and survives a power cut; before that, nothing of it is to be
seen under its final name.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import DiskFullError, SpoolError

_TEMPORARY = ".writing"
_LARGEST_RESERVE = 200 * 1024 * 1024


@dataclass(frozen=True)
class SpooledFile:
    """A received file: its path below the spool, the SHA-256 of its data set, its size in bytes."""

    name: str
    digest: str
    size: int


def write_durably(path: Path, *parts: bytes) -> None:
    """Write the parts as one file, readable by its owner only, that appears whole or not at all.

    Raises
    ------
    DiskFullError, SpoolError
        The temporary file is gone then.
    """
    temporary: str | None = None
    try:
        _make_folder(path.parent)
        descriptor, temporary = tempfile.mkstemp(suffix=_TEMPORARY, dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
        temporary = None
        fsync_folder(path.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(f"no room left on the disk for {path}", hint="free some space") from error
        raise SpoolError(f"{path} can't be written: {error.strerror}") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it; each new one's name is on disk before anything is put into it."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    fsync_folder(folder.parent)


def clean_temporary_files(root: Path) -> int:
    """Remove what a killed process left half written below ``root``; the number of files."""
    leftovers = list(root.rglob(f"*{_TEMPORARY}"))
    for path in leftovers:
        path.unlink(missing_ok=True)
    return len(leftovers)


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

    def put(self, head: bytes, body: bytes) -> SpooledFile:
        """Store one file made of ``head`` (preamble and file meta information) and ``body`` (the data set).

        The same data set is stored once. Raises `DiskFullError` or `SpoolError`.
        """
        digest = hashlib.sha256(body).hexdigest()
        name = f"{digest[:2]}/{digest}.dcm"
        path = self.root / name
        size = len(head) + len(body)
        if path.exists():
            # Another thread, or a run that was killed, may have renamed it without coming to the fsync.
            fsync_folder(path.parent)
        else:
            if shutil.disk_usage(self.root).free < size + self.reserve:
                raise DiskFullError(
                    f"less than {self.reserve // 2**20} MiB would stay free on the disk of {self.root}",
                    hint="free some space or attach a larger disk",
                )
            write_durably(path, head, body)
        return SpooledFile(name, digest, size)

    def path(self, name: str) -> Path:
        return self.root / name
