"""Reading a file that somebody may still be writing to: all of it as it was, or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_PIECE_BYTES = 1024 * 1024


class ChangedError(Exception):
    """A file was written to while it was read, or another one has come in its place."""


@dataclass(frozen=True)
class Signature:
    """What changes when somebody writes to a file or puts another in its place."""

    size: int
    modified: int
    inode: int

    @classmethod
    def of(cls, found: os.stat_result) -> Signature:
        return cls(found.st_size, found.st_mtime_ns, found.st_ino)


def signatures(paths: Iterable[Path]) -> list[Signature]:
    """Of those files that are there, in this order."""
    found = []
    for path in paths:
        with suppress(OSError):
            found.append(Signature.of(path.stat()))
    return found


@contextmanager
def opened(path: Path, signature: Signature) -> Iterator[BinaryIO]:
    """The file, and neither a link nor a pipe that was put in its place a moment ago; raises `ChangedError`."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:  # noqa: PTH123
        _check(file, signature)
        yield file


def pieces(file: BinaryIO, signature: Signature) -> Iterator[bytes]:
    """All of an open file; raises `ChangedError` at the end where it is not what it was."""
    while piece := file.read(_PIECE_BYTES):
        yield piece
    _check(file, signature)


def _check(file: BinaryIO, signature: Signature) -> None:
    if Signature.of(os.fstat(file.fileno())) != signature:
        raise ChangedError
