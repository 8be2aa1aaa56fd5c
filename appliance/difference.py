"""In what two versions of a result differ: DICOM objects attribute by attribute, messages by the first place."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from io import BytesIO

import pydicom
from pydicom import DataElement, Dataset

from appliance import writer

_MOST = 50  # that are named
_SHOWN = 60  # characters of a value
_BEFORE = 20  # of them, of a message, before the place


def between(old: bytes, new: bytes, suffix: str) -> Iterator[str]:
    """Sentences on what is another now, 50 at most.

    Parameters
    ----------
    suffix
        ``dcm`` of DICOM files, anything else of messages.
    """
    if suffix != "dcm":
        pairs = enumerate(zip(old, new, strict=False))
        place = next((place for place, (one, other) in pairs if one != other), min(len(old), len(new)))
        at = max(place - _BEFORE, 0)
        yield f"{_short(old[at : at + _SHOWN])} is {_short(new[at : at + _SHOWN])} now"
        return
    with writer.quiet():
        then, made = pydicom.dcmread(BytesIO(old)), pydicom.dcmread(BytesIO(new))
        found = itertools.chain(_of(then.file_meta, made.file_meta), _of(then, made))
        yield from itertools.islice(found, _MOST)


def _of(old: Dataset, new: Dataset, where: str = "") -> Iterator[str]:
    """The elements that differ, by their path of keywords."""
    for tag in sorted({*old.keys(), *new.keys()}):
        one, other = old.get(tag), new.get(tag)
        if one is None or other is None:
            yield f"{where}{_name(one or other)} is {'new' if one is None else 'gone'}"
        elif one != other and one.VR == other.VR == "SQ" and len(one.value) == len(other.value):
            for number, (item, counterpart) in enumerate(zip(one.value, other.value, strict=True), 1):
                yield from _of(item, counterpart, f"{where}{_name(one)}[{number}].")
        elif one != other:
            yield f"{where}{_name(one)}: {_value(one)} is {_value(other)} now"


def _name(element: DataElement) -> str:
    return element.keyword or str(element.tag)


def _value(element: DataElement) -> str:
    if element.VR == "SQ":
        return f"{len(element.value)} items"
    return _short(element.value) if isinstance(element.value, bytes) else str(element.value)[:_SHOWN]


def _short(data: bytes) -> str:
    if len(data) > _SHOWN:
        return f"{len(data)} bytes of SHA-256 {hashlib.sha256(data).hexdigest()[:12]}"
    return data.decode(errors="replace")
