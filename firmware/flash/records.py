"""What was put on which disk: an asset record, and a label to print. Neither holds a secret."""

from __future__ import annotations

import hashlib
import html
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import segno

from firmware.durable import Files
from firmware.errors import FirmwareError
from firmware.flash.disks import Disk
from firmware.flash.manifest import Manifest


def record(manifest: Manifest, disk: Disk, asset: str, by: str, flashed: bool) -> dict[str, Any]:
    """What was done to a disk just now, as it goes into an inventory.

    Parameters
    ----------
    by
        Who did it.
    flashed
        Whether it was written, too; otherwise only read and compared, and when and by whom it was flashed is not known.

    Returns
    -------
    ``asset``; of the image ``board``, ``version``, ``epoch`` and ``image_sha256`` (its manifest's); ``disk``
    (``serial``, ``model``, ``size`` in bytes, ``path``); ``verified`` (how), ``verified_at`` (UTC) and ``verified_by``;
    where it was flashed also ``flashed_at`` and ``flashed_by``.
    """
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {
        "asset": asset,
        "board": manifest.board,
        "version": manifest.version,
        "epoch": manifest.epoch,
        "image_sha256": manifest.digest,
        "disk": {"serial": disk.serial, "model": disk.model, "size": disk.size, "path": str(disk.path)},
        "verified": "every byte of the image read back and compared",
        "verified_at": now,
        "verified_by": by,
        **({"flashed_at": now, "flashed_by": by} if flashed else {}),
    }


def check(folder: Path, assets: Sequence[tuple[str, Disk]]) -> None:
    """Before a disk is touched: each asset number makes a record of its own, in nobody else's place.

    A record of the same asset and disk may be there: it was flashed before.

    Raises
    ------
    FirmwareError
        One is empty, two would be one file, or the record of another disk, or asset, is there already.
    """
    names: dict[str, str] = {}
    for asset, disk in assets:
        name = _name(asset)
        if name.casefold() in names:
            raise FirmwareError(
                f"the asset numbers {names[name.casefold()]} and {asset} would be one record, {name}.json",
                hint="give each disk a number of its own",
            )
        names[name.casefold()] = asset
        path = folder / f"{name}.json"
        if path.exists() and not _is_of(path, asset, disk):
            raise FirmwareError(
                f"{path} is there already, and is of another disk than {disk.path}, or of another asset",
                hint="give the disk's own number, or another folder by --records; where the box has a new disk, move "
                "the earlier record elsewhere",
            )


def _is_of(path: Path, asset: str, disk: Disk) -> bool:
    """By the disk's serial number; where it has none, by its path."""
    try:
        kept = json.loads(path.read_text())
        same = kept["disk"]["serial"] == disk.serial and (disk.serial or kept["disk"]["path"] == str(disk.path))
        return bool(same and kept["asset"] == asset)
    except (OSError, ValueError, TypeError, LookupError):
        return False


def _name(asset: str) -> str:
    name = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in asset).strip(".")
    if not name:
        raise FirmwareError(f"{asset!r} is no asset number", hint="give one with --asset, such as RAD-0042")
    return name


def write(folder: Path, kept: dict[str, Any]) -> tuple[Path, Path]:
    """``<asset>.json`` and ``<asset>.svg`` in a folder."""
    name = _name(kept["asset"])
    text = json.dumps(kept, indent=1, sort_keys=True)
    path, picture = folder / f"{name}.json", folder / f"{name}.svg"
    Files().write(path, text.encode())
    Files().write(picture, label(kept, hashlib.sha256(text.encode()).hexdigest()).encode())
    return path, picture


def label(kept: dict[str, Any], record_sha256: str) -> str:
    """An SVG of 60 x 30 mm: a QR code of asset, version and the record's digest, and the same in words."""
    content = (
        f"scanside:{kept['asset']};{kept['version']};{kept['board']};{kept['disk']['serial']};{record_sha256[:16]}"
    )
    code = segno.make(content, error="m", micro=False)
    side = code.symbol_size(border=2)[0]
    picture = code.svg_inline(border=2, scale=1, omitsize=True, svgclass=None, lineclass=None)
    lines = (
        kept["asset"],
        f"Scanside {kept['version']}",
        kept["board"],
        kept["disk"]["serial"],
        kept["verified_at"][:10],
    )
    words = "".join(
        f'<text x="31" y="{7 + 5 * number}" font-size="{4 if number == 0 else 3}"'
        f' font-weight="{"bold" if number == 0 else "normal"}">{html.escape(str(line))[:60]}</text>'
        for number, line in enumerate(lines)
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" width="60mm" height="30mm" viewBox="0 0 60 30"'
        ' font-family="sans-serif"><rect width="60" height="30" fill="#fff"/>'
        f'<svg x="1" y="1" width="28" height="28" viewBox="0 0 {side} {side}">{picture}</svg>{words}</svg>\n'
    )
