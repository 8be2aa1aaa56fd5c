"""Compare a disk with the image that it was flashed with; one that a box has started from is told from a broken one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from firmware.errors import BrokenError, FirmwareError
from firmware.flash.disks import Disk
from firmware.flash.manifest import Manifest, Piece
from firmware.flash.medium import Medium
from firmware.flash.table import LENGTH, Partition, partitions
from firmware.labels import DATA_TYPE

_REST = "the partition table"
_NOT_ERASED = (
    "flashing alone does not erase the data that lies behind the image: where there was any, factory-reset it in its "
    "box first"
)


def verify(
    manifest: Manifest,
    disk: Disk,
    say: Callable[[int, str], None],
    open_medium: Callable[[Path, int | None], Medium] = Medium,
) -> None:
    """Read a flashed disk and compare each byte of the image.

    Raises
    ------
    FirmwareError
        It differs, and has the data partition that a box makes at its first start: what differs, and what does not.
    BrokenError
        It differs, and no box has started from it.
    """
    medium = open_medium(disk.path, None)
    try:
        differing, done = [], 0
        for piece in manifest.pieces:
            if hashlib.sha256(medium.read(piece.offset, piece.length)).hexdigest() != piece.sha256:
                differing.append(piece)
            done += piece.length
            say(done, "verify")
        if not differing:
            return
        if any(partition.type == DATA_TYPE for partition in partitions(medium.read(0, LENGTH))):
            raise _started(manifest, disk, differing)
    finally:
        medium.close()
    first = differing[0]
    raise BrokenError(
        f"{disk.path} does not hold {manifest.board} {manifest.version}: {len(differing)} of {len(manifest.pieces)} "
        f"pieces differ, first bytes {first.offset} to {first.offset + first.length}",
        hint="it was flashed with another image, or not to the end, or changed since: flash it again, which tells "
        "whether the disk keeps what it is given",
    )


def _started(manifest: Manifest, disk: Disk, differing: list[Piece]) -> FirmwareError:
    """What it says goes by the image's own table; the disk's is not signed."""
    own = list(partitions(manifest.read(manifest.pieces[0])))
    places = {piece: _place(piece, own) for piece in manifest.pieces}
    differ = list(dict.fromkeys(places[piece] for piece in differing))
    same = [place for place in dict.fromkeys(places.values()) if place not in differ]
    message = f"a box has started from {disk.path}, which has a data partition. {', '.join(differ)}: not as flashed"
    if same:
        message += f"; {', '.join(same)}: byte for byte as in {manifest.board} {manifest.version}"
    if any(place.startswith("root") for place in differ):
        return FirmwareError(
            message,
            hint="a start changes the table and the ESP; a root was changed by an update, or is damaged, which its box "
            f"finds when it reads there. To know: flash it again, which tries the whole disk; {_NOT_ERASED}",
        )
    return FirmwareError(
        message,
        hint="each start changes these, that is no sign of damage: it may go on in its box. To give it out as new, "
        f"flash it again; {_NOT_ERASED}",
    )


def _place(piece: Piece, own: list[Partition]) -> str:
    return next((each.name for each in own if each.begin <= piece.offset < each.end), _REST)
