"""Is a file whole? Told by what is in it, since nobody says when a copy over a network or from a stick has ended."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydicom.filereader import data_element_generator
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from appliance import budget
from appliance.errors import ImageError, QuarantineError
from appliance.part10 import HEAD_BYTES, Identity, identify

ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")  # of an archive, and of an empty one (APPNOTE.TXT section 4.3)
_SERIES_INSTANCE_UID, _ROWS = 0x0020000E, 0x00280010
_PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_ITEM, _SEQUENCE_DELIMITER = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)
_UNDEFINED = 0xFFFFFFFF
_MOST_INFLATED = 1 << 30  # a data set that inflates to more is for others to refuse
_NO_TAG = [Tag(0xFFFFFFFF)]  # asks pydicom to pass over every value


@dataclass(frozen=True)
class Verdict:
    """What the content of a file is evidence of.

    ``kind``: ``whole``; ``plausible``: nothing is missing, but more could follow; ``foreign``: no DICOM, and nothing
    that comes could make it so; ``archive``: a zip archive; ``cut``: something is missing, and ``reason`` says what.
    """

    kind: Literal["whole", "plausible", "foreign", "archive", "cut"]
    reason: str = ""


def examine(path: Path) -> Verdict:
    """Look at a file as it is now. Raises nothing but `OSError`."""
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        head = file.read(HEAD_BYTES)
        if not head.strip(b"\0"):
            return Verdict("cut", "it is empty" if not head else "it begins with nothing but zeros")
        if head.startswith(ZIP_STARTS):
            return Verdict("archive")
        identity = identify(head)
        if not identity.is_dicom:
            return Verdict("foreign")
        try:
            budget.check(file)
        except QuarantineError:  # what no image needs is taken and set aside, with its reason
            return Verdict("whole")
        except ImageError:
            pass  # a deflated data set that is damaged, or still to come
        try:
            return _data_set(_Watched(file), path.stat().st_size, head, identity)
        except Exception as error:  # noqa: BLE001  pydicom raises whatever a broken or half-written file provokes
            return Verdict("cut", f"its header ends early or is damaged ({type(error).__name__})")


class _Watched(io.RawIOBase):
    """A file that remembers whether less could be read than was asked for."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self.cut = False

    def read(self, size: int = -1) -> bytes:
        found = self._file.read(size)
        self.cut |= 0 < len(found) < size
        return found

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _data_set(file: _Watched, size: int, head: bytes, identity: Identity) -> Verdict:
    start, syntax = identity.data_set_start, UID(identity.transfer_syntax_uid)
    if not syntax:  # a bare data set; by its first VR
        explicit = head[4:6].isalpha() and head[4:6].isupper()
        syntax = ExplicitVRLittleEndian if explicit else ImplicitVRLittleEndian
    file.seek(start)
    if syntax == DeflatedExplicitVRLittleEndian:
        return _inflate(file)
    known = syntax.is_transfer_syntax
    implicit, little = (syntax.is_implicit_VR, syntax.is_little_endian) if known else (False, True)
    ends_at = start
    seen: set[int] = set()

    def is_pixels(tag: BaseTag, _: str | None, length: int) -> bool:
        nonlocal ends_at
        seen.add(int(tag))
        ends_at = file.tell() + length if length != _UNDEFINED else 0
        return tag in _PIXELS

    # A value that is passed over is not read: past the end of the file the position is, where it was cut.
    for _ in data_element_generator(file, implicit, little, is_pixels, specific_tags=_NO_TAG):
        pass
    if file.cut or file.tell() > size or ends_at > size:
        missing = max(ends_at, file.tell()) - size
        return Verdict("cut", f"it ends {missing} bytes early" if missing > 0 else "it ends within an element")
    if file.tell() < size:
        return _pixels(file, size, implicit, "<" if little else ">")
    if _SERIES_INSTANCE_UID not in seen:  # which every composite instance has (PS3.3 annex A)
        return Verdict("cut", "it ends before its Series Instance UID")
    if _ROWS in seen:
        return Verdict("cut", "it is an image whose pixel data is missing")
    return Verdict("plausible")


def _inflate(file: _Watched) -> Verdict:
    """A deflated data set says itself where it ends (RFC 1951 section 3.2.3)."""
    inflater, inflated = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while (piece := file.read(1 << 16)) and inflated < _MOST_INFLATED:
        while piece:
            inflated += len(inflater.decompress(piece, 1 << 22))
            piece = inflater.unconsumed_tail
    if inflater.eof or inflated >= _MOST_INFLATED:
        return Verdict("whole")
    return Verdict("cut", "its deflated data set ends early")


def _pixels(file: _Watched, size: int, implicit: bool, order: str) -> Verdict:
    """From the head of the pixel data element on, pass over its fragments to its end (PS3.5 sections 7.1 and A.4)."""
    element = file.read(8)
    (length,) = struct.unpack(f"{order}L", element[4:] if implicit else file.read(4))
    if length != _UNDEFINED:
        return Verdict("whole")  # that it ends within the file was seen before
    while len(item := file.read(8)) == 8:
        group, number, length = struct.unpack(f"{order}HHL", item)
        if (group, number) == _SEQUENCE_DELIMITER:
            return Verdict("whole")
        if (group, number) != _ITEM or file.tell() + length > size:
            break
        file.seek(length, io.SEEK_CUR)
    return Verdict("cut", "its pixel data has no end")
