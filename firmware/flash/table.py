"""Which partitions a disk or an image has: a GPT with sectors of 512 bytes (UEFI 2.10, 5.3.3)."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

_SECTOR = 512
LENGTH = 34 * _SECTOR  # protective MBR, header and 128 entries


@dataclass(frozen=True)
class Partition:
    type: str
    name: str
    begin: int
    end: int  # bytes, behind its last


def partitions(content: bytes) -> Iterator[Partition]:
    """By the first `LENGTH` bytes; none where there is no such table."""
    if content[_SECTOR : _SECTOR + 8] != b"EFI PART":
        return
    for at in range(2 * _SECTOR, min(LENGTH, len(content)), 128):
        kind, _, begin, last, _, name = struct.unpack_from("<16s16sQQQ72s", content, at)
        if any(kind):
            text = name.decode("utf-16-le", errors="replace").rstrip("\0")
            yield Partition(str(uuid.UUID(bytes_le=kind)), text, begin * _SECTOR, (last + 1) * _SECTOR)
