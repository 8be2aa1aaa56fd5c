"""The head of a DICOM file (PS3.10 section 7.1): where its data set starts, and which instance it says it is.

Only the first bytes are looked at, so that a file can be told while it is still coming, and a hostile one costs little.
"""

from __future__ import annotations

import io
import warnings
import zlib
from dataclasses import dataclass

import pydicom
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.filereader import read_dataset
from pydicom.tag import Tag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from appliance import budget

HEAD_BYTES = 64 * 1024  # so far the UIDs must have come; more would let a hostile file cost seconds
_LONGEST_UID = 64  # characters (PS3.5 section 9.1), an even number, so that no padding comes to it
_STUDY_INSTANCE_UID = 0x0020000D
_KEYWORDS = ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID"]
_TAGS = [Tag(keyword) for keyword in _KEYWORDS]


@dataclass(frozen=True)
class Identity:
    """What a file says it is; '' where it doesn't say or says what is no UID.

    Attributes
    ----------
    has_prefix
        Whether it starts as PS3.10 has it, with a preamble and "DICM".
    data_set_start
        Offset in bytes, as of `appliance.budget.data_set_start`; 0 where there is no prefix.
    """

    has_prefix: bool
    data_set_start: int
    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    study_instance_uid: str = ""
    transfer_syntax_uid: str = ""

    @property
    def is_dicom(self) -> bool:
        """Whether it is a DICOM file: by its prefix, or a bare data set of a SOP instance, as old devices write."""
        return self.has_prefix or bool(self.sop_class_uid and self.sop_instance_uid)


def identify(head: bytes) -> Identity:
    """By the first `HEAD_BYTES` of a file, or all of a shorter one. Raises nothing, whatever they are."""
    head = head[:HEAD_BYTES]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # hostile values make pydicom warn by the thousand
        if head[128 : budget.PREFIX_END] != b"DICM":
            return _bare(head)
        start = 0
        try:
            # As the proof of the ledger tells it, or the two would take other bytes for the data set.
            start, _ = budget.data_set_start(io.BytesIO(head))
            meta = read_dataset(io.BytesIO(head[budget.PREFIX_END : start]), False, True)
            syntax = UID(_uid(meta, "TransferSyntaxUID") or ImplicitVRLittleEndian)  # the default (PS3.5 section 10.1)
        except Exception:  # noqa: BLE001  pydicom raises whatever a broken head provokes
            return Identity(True, start)
        found = _data_set(head[start:], syntax)
        return Identity(
            True,
            start,
            _uid(found, "SOPClassUID") or _uid(meta, "MediaStorageSOPClassUID"),
            _uid(found, "SOPInstanceUID") or _uid(meta, "MediaStorageSOPInstanceUID"),
            _uid(found, "StudyInstanceUID"),
            str(syntax),
        )


def _data_set(data: bytes, syntax: UID) -> Dataset:
    try:
        if syntax == DeflatedExplicitVRLittleEndian:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, HEAD_BYTES)
        known = syntax.is_transfer_syntax
        implicit, little = (syntax.is_implicit_VR, syntax.is_little_endian) if known else (False, True)
        return read_dataset(
            io.BytesIO(data),
            implicit,
            little,
            stop_when=lambda tag, vr, length: tag > _STUDY_INSTANCE_UID,  # noqa: ARG005
            specific_tags=_TAGS,
        )
    except Exception:  # noqa: BLE001  as above; the file meta information has to do then
        return Dataset()


def _bare(head: bytes) -> Identity:
    try:
        found = pydicom.dcmread(io.BytesIO(head), force=True, stop_before_pixels=True, specific_tags=_KEYWORDS)
    except Exception:  # noqa: BLE001  as above
        return Identity(False, 0)
    return Identity(False, 0, *(_uid(found, keyword) for keyword in _KEYWORDS))


def _uid(dataset: Dataset, keyword: str) -> str:
    """From the undecoded bytes: pydicom would take seconds over a hostile value of many parts."""
    element = dataset.get_item(keyword) if keyword in dataset else None
    value = element.value if isinstance(element, RawDataElement) else None
    if not isinstance(value, bytes) or len(value) > _LONGEST_UID:
        return ""
    found = value.decode("latin-1").strip("\0 ")
    return found if UID(found).is_valid else ""
