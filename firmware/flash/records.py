"""What was put on which disk: an asset record, and a label to print. Neither holds a secret."""

from __future__ import annotations

import hashlib
import html
import json
import time
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


def write(folder: Path, kept: dict[str, Any]) -> tuple[Path, Path]:
    """``<asset>.json`` and ``<asset>.svg`` in a folder."""
    name = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in kept["asset"]).strip(".")
    if not name:
        raise FirmwareError("an asset number is needed", hint="give one with --asset, such as RAD-0042")
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
