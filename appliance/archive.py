"""Zip archives that come from outside: what is in them, within limits, before anything of it is taken.

Names of members are shown, never used as paths. An archive is refused as a whole where it can't be what a PACS or a
viewer exports: such a thing is looked at by a person, not guessed at.
"""

from __future__ import annotations

import re
import stat
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO

from appliance.errors import ArchiveError

MOST_MEMBERS = 50_000
_LARGEST_BYTES = 32 * 1024**3  # unpacked, all together
_MOST_TIMES = 200  # as large as the archive; images shrink to a third, text to a tenth
_ALWAYS_BYTES = 256 * 1024**2  # so much may come of any archive: a black image of 100 MB packs into nothing
_PIECE_BYTES = 256 * 1024
_ENCRYPTED = 0x1  # of the general purpose flags (APPNOTE.TXT section 4.4.4)
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_DRIVE = re.compile("[A-Za-z]:")
_UNPACK = "unpack it elsewhere and bring the files themselves"


@dataclass(frozen=True)
class Member:
    """A file in an archive; ``size`` in bytes, unpacked, as the archive says."""

    name: str
    size: int


class Archive:
    """An open zip archive whose directory was found to be in order.

    Raises
    ------
    ArchiveError
        With the reason why nothing of it may be taken.
    """

    def __init__(self, file: IO[bytes]) -> None:
        size = file.seek(0, 2)
        try:
            self._zip = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise ArchiveError(f"The zip archive is damaged or not whole: {error}.") from error
        self._files = [entry for entry in self._zip.infolist() if not entry.is_dir()]
        _check(self._files, size)

    @property
    def members(self) -> list[Member]:
        return [Member(entry.filename, entry.file_size) for entry in self._files]

    def read(self, number: int) -> Iterator[bytes]:
        """The content of the member at this place, in pieces; raises `ArchiveError` where it is damaged."""
        entry = self._files[number]
        try:
            with self._zip.open(entry) as member:
                while piece := member.read(_PIECE_BYTES):  # no more than the directory says, checked by its CRC
                    yield piece
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError) as error:
            raise ArchiveError(f"It is damaged within the zip archive: {error}.") from error


def _check(files: list[zipfile.ZipInfo], size: int) -> None:
    if len(files) > MOST_MEMBERS:
        raise ArchiveError(f"The zip archive holds {len(files)} files, more than {MOST_MEMBERS}.", hint=_UNPACK)
    checks = (
        ("is encrypted", lambda entry: bool(entry.flag_bits & _ENCRYPTED)),
        ("leads out of the archive", lambda entry: _leads_out(entry.orig_filename)),
        ("is no plain file", _is_special),
        ("is a zip archive itself", lambda entry: entry.filename.lower().endswith(".zip")),
        ("is packed by a method that is not known here", lambda entry: entry.compress_type not in _METHODS),
    )
    for reason, applies in checks:
        count = sum(1 for entry in files if applies(entry))
        if count:
            raise ArchiveError(f"A file in the zip archive {reason} ({count} of {len(files)}).", hint=_UNPACK)
    unpacked = sum(entry.file_size for entry in files)
    if unpacked > _LARGEST_BYTES or unpacked > max(size * _MOST_TIMES, _ALWAYS_BYTES):
        raise ArchiveError(
            f"The zip archive of {size / 1e6:.1f} MB would unpack to {unpacked / 1e6:.0f} MB.", hint=_UNPACK
        )


def _leads_out(name: str) -> bool:
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or bool(_DRIVE.match(name))


def _is_special(entry: zipfile.ZipInfo) -> bool:
    """A link or a device; archives that were not made on Unix say nothing here."""
    kind = stat.S_IFMT(entry.external_attr >> 16)
    return kind not in (0, stat.S_IFREG)
