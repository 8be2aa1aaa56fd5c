"""What is flashed: a signed manifest, and beside it the image's used parts, one after another.

The manifest holds the block map: which part of the disk each piece is for, and its SHA-256. So nothing of the payload
has to be trusted before it is read, what a partition leaves empty costs no time, and a piece can be checked wherever it
lies.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from firmware import signing
from firmware.durable import Files
from firmware.errors import BrokenError, FirmwareError
from firmware.flash.table import LENGTH, Partition, partitions

PURPOSE = "image manifest 1"
PIECE = 4 << 20  # bytes; the unit of checking and of resuming
_BLOCK = 4096


@dataclass(frozen=True)
class Piece:
    """``length`` bytes for the disk at ``offset``, which lie in the payload at ``at``."""

    offset: int
    length: int
    at: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """A signed image for one kind of board."""

    version: str
    epoch: int
    board: str
    size: int  # bytes of the disk that the image covers
    least_disk: int  # bytes that a disk must have
    payload: str
    pieces: tuple[Piece, ...]
    digest: str  # SHA-256 of the manifest's own text
    folder: Path

    @property
    def bytes_to_write(self) -> int:
        return sum(piece.length for piece in self.pieces)

    def read(self, piece: Piece) -> bytes:
        """The bytes of a piece, checked.

        Raises
        ------
        BrokenError
            The payload is short or damaged.
        """
        path = self.folder / self.payload
        try:
            with path.open("rb") as file:
                file.seek(piece.at)
                content = file.read(piece.length)
        except OSError as error:
            raise BrokenError(f"{path} can't be read: {error.strerror}", hint="is the stick still there?") from error
        if hashlib.sha256(content).hexdigest() != piece.sha256:
            what = "is half an image" if len(content) < piece.length else "is damaged"
            raise BrokenError(f"{path} {what} at byte {piece.at}", hint="copy it again from its publisher")
        return content


def load(path: Path, trusted: Iterable[Path]) -> Manifest:
    """A manifest whose signature is right; its payload is checked piece by piece as it is read."""
    content = signing.verify_file(path, trusted, PURPOSE)
    try:
        values: dict[str, Any] = json.loads(content)
        pieces = tuple(Piece(**each) for each in values.pop("pieces"))
        manifest = Manifest(
            **values, pieces=pieces, digest=hashlib.sha256(content).hexdigest(), folder=path.resolve().parent
        )
    except (ValueError, TypeError, KeyError) as error:
        raise FirmwareError(f"{path} is no manifest of an image: {error}") from error
    payload = manifest.folder / manifest.payload
    if not payload.is_file():
        raise BrokenError(f"{payload} is missing", hint="copy the whole folder of the image")
    if payload.stat().st_size != manifest.bytes_to_write:
        raise BrokenError(
            f"{payload} has {payload.stat().st_size} bytes instead of {manifest.bytes_to_write}: it is half an image",
            hint="copy it again from its publisher",
        )
    return manifest


def make(image: Path, folder: Path, key: Path, version: str, epoch: int, board: str, least_disk: int) -> Path:
    """Sign a raw image; what of its partitions is empty is left out.

    Returns the path of the manifest in ``folder``; payload and signature lie beside it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    payload = folder / f"scanside-{board}-{version}.blocks"
    pieces, at = [], 0
    with image.open("rb") as source, payload.open("wb") as target:
        for offset, length in used(image):
            source.seek(offset)
            content = source.read(length)
            pieces.append(Piece(offset, length, at, hashlib.sha256(content).hexdigest()))
            target.write(content)
            at += length
    values = {
        "version": version, "epoch": epoch, "board": board, "size": image.stat().st_size, "least_disk": least_disk,
        "payload": payload.name, "pieces": [asdict(piece) for piece in pieces],
    }  # fmt: skip
    path = folder / "manifest.json"
    Files().write(path, json.dumps(values).encode())
    signing.sign_file(path, key, PURPOSE)
    return path


def used(image: Path) -> Iterator[tuple[int, int]]:
    """Offset and length of what is written, in pieces.

    Of each partition all between its first and its last block that is not zero: zeros in between count, too, such as
    those of a table of free clusters, and a disk may have held something else. What no partition has is written whole:
    both tables, and where a box's data partition begins, so that it finds none of an earlier one.
    """
    with image.open("rb") as file:
        end = 0
        for partition in sorted(partitions(file.read(LENGTH)), key=lambda each: each.begin):
            yield from _pieces(end, partition.begin)
            yield from _pieces(*_filled(file.fileno(), partition))
            end = partition.end
        yield from _pieces(end, image.stat().st_size)


def _pieces(begin: int, end: int) -> Iterator[tuple[int, int]]:
    for offset in range(begin, end, PIECE):
        yield offset, min(PIECE, end - offset)


def _filled(descriptor: int, partition: Partition) -> tuple[int, int]:
    """From the first block that is not zero to behind the last; of an empty partition nothing."""
    found = []
    for offset, length in _pieces(partition.begin, partition.end):
        content = os.pread(descriptor, length, offset)
        if content != bytes(length):
            found += [offset + length - len(content.lstrip(b"\0")), offset + len(content.rstrip(b"\0"))]
    return (found[0] // _BLOCK * _BLOCK, -(-found[-1] // _BLOCK) * _BLOCK) if found else (0, 0)
