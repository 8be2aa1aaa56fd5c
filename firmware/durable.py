"""Files that a power cut leaves whole: written beside, flushed, renamed.

On FAT a rename is not one step of the medium: after a cut both names may be there, or the old one, or the new one with
nothing in it, since Linux enters a file's size and place after its name. Whoever reads such a folder must be right with
any of them, and what must not be lost is not renamed there but copied.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_PART = 1 << 20
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of renameat2(2)


class Files:
    """The only way by which boot state is changed; tests put one in its place that dies between two steps."""

    def write(self, path: Path, content: bytes, mode: int = 0o666) -> None:
        """``content`` under ``path``, or what was there before; ``mode``, less the umask, counts from the beginning."""
        with self._beside(path, mode) as (temporary, file):
            file.write(content)
        self.rename(temporary, path)

    def copy(self, source: Path, path: Path) -> None:
        """The bytes of ``source`` under ``path``, or what was there before."""
        with source.open("rb") as original, self._beside(path) as (temporary, file):
            shutil.copyfileobj(original, file, _PART)
        self.rename(temporary, path)

    def rename(self, old: Path, new: Path) -> None:
        old.replace(new)
        with new.open("rb") as file:
            os.fsync(file.fileno())
        flush_folder(new.parent)

    def exchange(self, one: Path, other: Path) -> None:
        """Each in the other's place, in one step; folders, too. Both lie in the same folder."""
        names = os.fsencode(one), os.fsencode(other)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.renameat2(_HERE, names[0], _HERE, names[1], _EXCHANGE):
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), str(one), None, str(other))
        flush_folder(one.parent)

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        flush_folder(path.parent)

    @contextmanager
    def _beside(self, path: Path, mode: int = 0o666) -> Iterator[tuple[Path, BinaryIO]]:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.part")
        temporary.unlink(missing_ok=True)  # a cut left it, with the mode that it had
        try:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file:
                yield temporary, file
                file.flush()
                os.fsync(file.fileno())
        except Exception:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


def flush_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
