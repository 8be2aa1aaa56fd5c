"""The heads of received files: preamble and file meta information (PS3.10 section 7.1), with what the ledger needs.

The data set stays as it comes over the wire. Before it, in Private Information (0002,0102), stands all that the row of
an instance is made of: the SHA-256 of its data set, when it came, from whom, in which association. So a file tells by
itself whether it is whole, and brings its row back where a power cut has taken that.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec
from pydicom.dataset import FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_file_meta_info

from appliance import budget, spool
from appliance.config import Priority
from appliance.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from appliance.store import Arrival

_INSTANCE_UID = b"\x02\x00\x03\x00UI"  # Media Storage SOP Instance UID
_GROUP_LENGTH = b"\x02\x00\x00\x00UL\x04\x00"
_LARGEST = 64 * 1024  # of a head
_MOST = 256
_CHUNK = 1 << 20
_FIXED = struct.Struct("<32sd")  # SHA-256 of the data set, seconds since 1970; the rest is JSON


class _Facts(msgspec.Struct):
    """What the instances of an association have in common, as `appliance.store.Arrival` has it."""

    source: str
    sender: str
    ae_title: str
    transfer_id: str
    priority: Priority


@dataclass(frozen=True)
class Head:
    """``digest_at``: where the data set's SHA-256 belongs once it is known, an offset in bytes."""

    content: bytes
    digest_at: int


class Heads:
    """Makes the heads of the files of one association.

    They differ by SOP Instance UID and time only, so that one of each length is kept: pydicom takes longer for one
    than all else takes for a slice.
    """

    def __init__(self, source: str, sender: str, ae_title: str, transfer_id: str) -> None:
        self._source, self._sender, self._ae_title, self._transfer_id = source, sender, ae_title, transfer_id
        self._kept: dict[tuple[str, str, str, int], tuple[bytes, bytes, bytes]] = {}

    def make(self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, priority: Priority) -> Head:
        key = (sop_class_uid, transfer_syntax_uid, priority, len(sop_instance_uid))
        if key not in self._kept:
            if len(self._kept) >= _MOST:
                self._kept.clear()
            self._kept[key] = self._parts(sop_class_uid, sop_instance_uid, transfer_syntax_uid, priority)
        before, between, after = self._kept[key]
        front = before + sop_instance_uid.encode() + between
        return Head(front + _FIXED.pack(b"", time.time()) + after, len(front))

    def _parts(
        self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, priority: Priority
    ) -> tuple[bytes, bytes, bytes]:
        """What stands before, between and after the instance's UID and the fixed part of the private information."""
        facts = msgspec.json.encode(_Facts(self._source, self._sender, self._ae_title, self._transfer_id, priority))
        facts += b" " * (len(facts) % 2)
        meta = FileMetaDataset()
        meta.FileMetaInformationVersion = b"\x00\x01"
        meta.MediaStorageSOPClassUID = sop_class_uid
        meta.MediaStorageSOPInstanceUID = sop_instance_uid
        meta.TransferSyntaxUID = transfer_syntax_uid
        meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
        meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
        meta.SourceApplicationEntityTitle = self._ae_title
        meta.PrivateInformationCreatorUID = IMPLEMENTATION_CLASS_UID
        meta.PrivateInformation = bytes(_FIXED.size) + facts  # the last element that there is
        buffer = io.BytesIO()
        write_file_meta_info(buffer, meta)
        head = b"\0" * 128 + b"DICM" + buffer.getvalue()
        at = head.index(_INSTANCE_UID) + len(_INSTANCE_UID) + 2  # its length
        end = len(head) - len(facts)
        return head[:at], head[at + len(sop_instance_uid) : end - _FIXED.size], head[end:]


def read(path: Path) -> Arrival | None:
    """What a file says of itself, if it has such a head and is whole; None otherwise.

    Raises
    ------
    OSError
        It can't be read.
    """
    with path.open("rb") as file:
        try:
            start = _stated_start(file)
            file.seek(budget.PREFIX_END)
            meta = read_dataset(io.BytesIO(file.read(min(start, _LARGEST) - budget.PREFIX_END)), False, True)
            private = bytes(meta.PrivateInformation)
            expected, received_at = _FIXED.unpack_from(private)
            facts = msgspec.json.decode(private[_FIXED.size :], type=_Facts)
            arrival = Arrival(
                sop_instance_uid=str(meta.MediaStorageSOPInstanceUID),
                sop_class_uid=str(meta.MediaStorageSOPClassUID),
                digest=expected.hex(),
                file=spool.file_name(expected.hex()),
                size=os.fstat(file.fileno()).st_size,
                received_at=received_at,
                **msgspec.structs.asdict(facts),
            )
        except OSError:
            raise
        except Exception:  # noqa: BLE001  pydicom raises whatever a broken head provokes
            return None
        file.seek(start)
        return arrival if hashlib.file_digest(file, "sha256").digest() == expected else None


def has_digest(path: Path, digest: str) -> bool:
    """Whether the data set of a file, or all of it where it has no file meta information, has a SHA-256.

    Raises
    ------
    OSError
        It can't be read.
    """
    with path.open("rb") as file:
        start, _ = budget.data_set_start(file, most=os.fstat(file.fileno()).st_size)
        return any(digest_of(file, each) == digest for each in dict.fromkeys((start, _stated_start(file), 0)))


def _stated_start(file: BinaryIO) -> int:
    """Where the data set begins by the File Meta Information Group Length, 0 where none is stated.

    In the heads that are made here it is right, whereas a data set that came by C-STORE may begin with elements of
    group 2, too, against PS3.7 section 6.3: the heads don't end where these end.
    """
    file.seek(budget.PREFIX_END)
    element = file.read(len(_GROUP_LENGTH) + 4)
    if len(element) < len(_GROUP_LENGTH) + 4 or not element.startswith(_GROUP_LENGTH):
        return 0
    return file.tell() + int.from_bytes(element[len(_GROUP_LENGTH) :], "little")


def digest_of(file: BinaryIO, start: int = 0) -> str:
    """SHA-256 of a file from an offset on."""
    found = hashlib.sha256()
    file.seek(start)
    while chunk := file.read(_CHUNK):
        found.update(chunk)
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # what is read for work stays in memory instead
    return found.hexdigest()
