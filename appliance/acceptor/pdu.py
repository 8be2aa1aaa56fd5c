"""The few bytes of the upper layer protocol that are handled before pynetdicom sees them (PS3.8 section 9.3)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

HEADER = struct.Struct(">BxI")  # type, reserved, length of what follows
A_ASSOCIATE_RQ, P_DATA_TF = 0x01, 0x04
A_ABORT_BY_PROVIDER = b"\x07\x00\x00\x00\x00\x04\x00\x00\x02\x00"
# 128 presentation contexts with every transfer syntax that there is come to 150 KB.
LARGEST_REQUEST = 256 * 1024
_FIXED_BYTES = 68  # protocol version, AE titles, and what is reserved beside them
_ITEM = struct.Struct(">BxH")
_PRESENTATION_CONTEXT, _USER_INFORMATION, _TRANSFER_SYNTAX = 0x20, 0x50, 0x40
_MOST_CONTEXTS = 128  # their IDs are odd and below 256
_MOST_SYNTAXES, _MOST_ITEMS = 100, 1000
_VALUE = struct.Struct(">IBB")  # length of what follows, presentation context ID, message control header
_TITLES = struct.Struct(">6xHxx16s16s")  # protocol version, called and calling AE title


class ProtocolError(Exception):
    """A peer sent what no DICOM peer sends; its association is aborted."""


@dataclass(frozen=True)
class Refusal:
    """Why an association is rejected: the codes of an A-ASSOCIATE-RJ (PS3.8 table 9-21), and the same in words."""

    result: int
    source: int
    diagnostic: int
    words: str

    def encode(self) -> bytes:
        return struct.pack(">BxIxBBB", 0x03, 4, self.result, self.source, self.diagnostic)


def titles(request: bytes | bytearray) -> tuple[str, str]:
    """Called and calling AE title of a whole A-ASSOCIATE-RQ; raises `ProtocolError` where it is too short for them."""
    try:
        _, called, calling = _TITLES.unpack_from(request)
    except struct.error:
        raise ProtocolError("an association request without AE titles") from None
    return called.decode("ascii", "replace").strip(), calling.decode("ascii", "replace").strip()


def check_request(request: bytes | bytearray) -> None:
    """Raise `ProtocolError` where an A-ASSOCIATE-RQ has more items than there may be, or a context that can't be.

    pynetdicom takes minutes for some tens of thousands of items, and stumbles over such a context.
    """
    contexts = 0
    for kind, start, end in _items(request, HEADER.size + _FIXED_BYTES, len(request), _MOST_ITEMS):
        if kind == _PRESENTATION_CONTEXT:
            contexts += 1
            _check_context(request, start, end)
        elif kind == _USER_INFORMATION:
            for _ in _items(request, start, end, _MOST_ITEMS):
                pass
    if contexts > _MOST_CONTEXTS:
        raise ProtocolError(f"{contexts} presentation contexts")


def _check_context(request: bytes | bytearray, start: int, end: int) -> None:
    """By PS3.8 section 9.3.2.2: an odd ID and three reserved bytes, an abstract and at least one transfer syntax."""
    syntaxes = sum(kind == _TRANSFER_SYNTAX for kind, *_ in _items(request, start + 4, end, _MOST_SYNTAXES))
    if start == end or request[start] % 2 == 0:
        raise ProtocolError("a presentation context without an odd number as its ID")
    if not syntaxes:
        raise ProtocolError("a presentation context without a transfer syntax")


def _items(data: bytes | bytearray, at: int, end: int, most: int) -> Iterator[tuple[int, int, int]]:
    """Type, start and end of the content of each item (PS3.8 section 9.3.2)."""
    for _ in range(most):
        if at >= end:
            return
        if end - at < _ITEM.size:
            raise ProtocolError("an association request that ends within an item")
        kind, length = _ITEM.unpack_from(data, at)
        at += _ITEM.size
        if length > end - at:
            raise ProtocolError("an association request with an item longer than itself")
        yield kind, at, at + length
        at += length
    if at < end:
        raise ProtocolError(f"an association request with more than {most} items in one place")


def data_values(pdu: memoryview) -> list[tuple[int, int, memoryview]]:
    """Presentation context ID, message control header and fragment of each value of a P-DATA-TF."""
    values = []
    at, end = HEADER.size, len(pdu)
    while at < end:
        if end - at < _VALUE.size:
            raise ProtocolError("a P-DATA-TF that ends within the head of a value")
        length, context_id, control = _VALUE.unpack_from(pdu, at)
        if length < 2 or length > end - at - 4:
            raise ProtocolError(f"a presentation data value of {length} bytes where {end - at - 4} are left")
        values.append((context_id, control, pdu[at + 6 : at + 4 + length]))
        at += 4 + length
    if not values:
        raise ProtocolError("a P-DATA-TF without a value")
    return values
