"""How much a file may ask of what reads it, told from its structure before anything is built from it.

pydicom makes an object of each element, reads nested sequences by recursion, and inflates without a limit: a small file
can cost it a minute or gigabytes. Here the tags and lengths alone are walked through (PS3.5 chapter 7). What is no
sound structure is left to pydicom, which will say so, in a process that has limits of its own.
"""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache
from typing import BinaryIO

from pydicom.datadict import dictionary_has_tag, dictionary_VR

from appliance.errors import ImageError, QuarantineError

PREFIX_END = 132  # 128 bytes of preamble and "DICM" (PS3.10 section 7.1)
MAX_ELEMENTS = 50_000  # a radiograph has about 100; pydicom takes 50 microseconds for an item
MAX_META_ELEMENTS = 1000  # of file meta information, which has about 10
MAX_DEPTH = 32  # of sequences in sequences; real objects have 10
MAX_INFLATED_BYTES = 1 << 28  # of a deflated data set; `decode.MAX_PIXELS` of 16 bits are 100 MB

_TRANSFER_SYNTAX_UID = (0x0002, 0x0010)
_DEFLATED, _BIG_ENDIAN = b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.2"
_ITEM, _ITEM_END, _SEQUENCE_END = (0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)
_LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_UNDEFINED = 0xFFFFFFFF
_CHUNK = 1 << 16


def check(file: BinaryIO) -> None:
    """Refuse a file whose structure would cost too much; the file's position is anywhere afterwards.

    Raises
    ------
    QuarantineError
        It has too many elements or too deep sequences, or inflates beyond all reason.
    ImageError
        Its deflated data set is damaged.
    """
    start, syntax = data_set_start(file)
    file.seek(start)
    if syntax == _DEFLATED:
        check_data_set(io.BytesIO(_inflated(file)), little_endian=True)
    else:
        check_data_set(file, syntax != _BIG_ENDIAN)


def data_set_start(file: BinaryIO, most: int = MAX_META_ELEMENTS) -> tuple[int, bytes]:
    """Where the data set begins, after preamble and file meta information; and the transfer syntax, b"" if none.

    The elements of group 2 tell, not their stated group length, which may be wrong. Raises `QuarantineError` where
    there are more than ``most``.
    """
    file.seek(0)
    start = PREFIX_END if file.read(PREFIX_END)[128:] == b"DICM" else 0
    syntax = b""
    for _ in range(most):
        file.seek(start)
        element = file.read(8)
        if len(element) < 8 or element[:2] != b"\x02\x00":
            return start, syntax
        tag, vr, length = struct.unpack("<HH", element[:4]), element[4:6], int.from_bytes(element[6:], "little")
        start += 8
        if vr in _LONG_VRS:
            length = int.from_bytes(file.read(4), "little")
            start += 4
        if tag == _TRANSFER_SYNTAX_UID:
            syntax = file.read(min(length, 64)).rstrip(b"\0 ")
        start += length
    raise QuarantineError(f"Its file meta information has more than {most:,} elements.")


def transfer_syntax(file: BinaryIO) -> bytes:
    """The Transfer Syntax UID of a file's head, b"" where it has none."""
    size = file.seek(0, io.SEEK_END)
    return data_set_start(file, most=size)[1]


def _inflated(file: BinaryIO) -> bytes:
    inflater, parts, size = zlib.decompressobj(-zlib.MAX_WBITS), [], 0
    try:
        while chunk := file.read(_CHUNK):
            while chunk:
                parts.append(inflater.decompress(chunk, 1 << 22))
                size += len(parts[-1])
                chunk = inflater.unconsumed_tail
                if size > MAX_INFLATED_BYTES:
                    raise QuarantineError(f"The deflated data set grows beyond {MAX_INFLATED_BYTES >> 20} MiB.")
    except zlib.error as error:
        raise ImageError("The deflated data set is damaged.", hint="send it again") from error
    if not inflater.eof:
        raise ImageError("The deflated data set ends early.", hint="send it again")
    return b"".join(parts)


def check_data_set(file: BinaryIO, little_endian: bool) -> None:
    """The same of a data set that begins at the file's position; raises `QuarantineError`."""
    order = "<" if little_endian else ">"
    tag_and_length, long_length = struct.Struct(f"{order}HHL"), struct.Struct(f"{order}L")
    position, elements = file.tell(), 0
    implicit = _looks_implicit(file, position)
    # What is open, from the outside in: whether it is a sequence (else the data set of an item), whether its items
    # hold elements (else fragments of pixel data), where it ends (None: at its delimiter), and the VRs around it.
    opened: list[tuple[bool, bool, int | None, bool]] = []
    while True:
        while opened and opened[-1][2] is not None and position >= opened[-1][2]:
            implicit = opened.pop()[3]
        file.seek(position)
        element = file.read(8)
        if len(element) < 8:
            return
        elements += 1
        if elements > MAX_ELEMENTS:
            raise QuarantineError(f"It has more than {MAX_ELEMENTS:,} elements and items, which no image needs.")
        group, number, length = tag_and_length.unpack(element)
        position += 8
        tag = group, number
        if opened and opened[-1][0]:  # in a sequence: items, until its end
            _, holds_elements, _, around = opened[-1]
            if tag == _SEQUENCE_END:
                opened.pop()
                implicit = around
            elif tag != _ITEM:
                return
            elif not holds_elements:
                position += length
            elif length:
                opened.append((False, True, None if length == _UNDEFINED else position + length, implicit))
                implicit = _looks_implicit(file, position)
            continue
        if tag == _ITEM_END:
            if not opened:
                return
            implicit = opened.pop()[3]
            continue
        vr = b""
        if not implicit:
            vr = element[4:6]
            if vr in _LONG_VRS:
                length = long_length.unpack(file.read(4).ljust(4, b"\0"))[0]
                position += 4
            else:
                length = int.from_bytes(element[6:], "little" if little_endian else "big")
        if length == _UNDEFINED:
            fragments = group == 0x7FE0 and vr != b"SQ"
            opened.append((True, not fragments, None, implicit))
            implicit = implicit or vr == b"UN"  # PS3.5 section 6.2.2
        elif vr == b"SQ" or (vr in (b"", b"UN") and _is_sequence(group, number)):
            opened.append((True, True, position + length, implicit))
            implicit = implicit or vr == b"UN"
        else:
            position += length
        if len(opened) > 2 * MAX_DEPTH:  # each with its item
            raise QuarantineError(f"Its sequences are nested more than {MAX_DEPTH} deep.")


def _looks_implicit(file: BinaryIO, position: int) -> bool:
    """Whether the element at a position has no VR, as pydicom tells it: by whether two capital letters are there."""
    file.seek(position + 4)
    letters = file.read(2)
    return not (len(letters) == 2 and all(0x41 <= letter <= 0x5A for letter in letters))


@cache
def _is_sequence(group: int, number: int) -> bool:
    tag = group << 16 | number
    return dictionary_has_tag(tag) and dictionary_VR(tag) == "SQ"
