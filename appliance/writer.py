"""What every writer of result objects shares: the protocol, the headers, the UIDs, the file.

Writers are pure: no network, no database, no clock, no chance. The same image, prediction and provenance give the same
bytes, so that repeating the work after a crash can't make a second result.
"""

from __future__ import annotations

import io
import uuid
from collections.abc import Sequence
from copy import deepcopy
from datetime import datetime
from typing import Protocol

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID, ExplicitVRLittleEndian

from appliance import __version__
from appliance.image import Image
from appliance.result import Prediction, Provenance

MANUFACTURER = "Scanside"
MODEL_NAME = "Scanside inference appliance"
RESEARCH_USE = "AI RESULT - RESEARCH USE ONLY - NOT FOR DIAGNOSIS"
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "scanside")
# Identifies this software in file meta information (PS3.7 D.3.3.2).
IMPLEMENTATION_CLASS_UID = UID(f"2.25.{uuid.uuid5(_NAMESPACE, 'implementation').int}")
IMPLEMENTATION_VERSION_NAME = f"SCANSIDE_{__version__}"[:16]

# What a result takes over from its source, as it was read (Patient, General Study and Patient Study modules).
_INHERITED = (
    "SpecificCharacterSet", "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientBirthTime",
    "PatientSex", "OtherPatientIDsSequence", "EthnicGroup", "PatientComments", "PatientSpeciesDescription",
    "StudyInstanceUID", "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber",
    "IssuerOfAccessionNumberSequence", "StudyDescription", "ProcedureCodeSequence", "PatientAge", "PatientSize",
    "PatientWeight",
)  # fmt: skip
# Type 2: must be there, may be empty.
_REQUIRED_EMPTY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "ReferringPhysicianName",
    "StudyID", "AccessionNumber",
)  # fmt: skip


class Writer(Protocol):
    """One kind of result object."""

    kind: str

    def accepts(self, prediction: Prediction) -> bool:
        """Whether this kind can say anything about a prediction."""
        ...

    def write(self, images: Sequence[Image], prediction: Prediction, provenance: Provenance) -> list[Dataset]:
        """The objects, in the study of the images; `missing` must be empty for each image's header."""
        ...


def missing(header: Dataset) -> list[str]:
    """Attributes without which no result can be filed with its study (type 1 in every module involved)."""
    needed = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    return [keyword for keyword in needed if not UID(str(header.get(keyword) or "")).is_valid]


def derived_uid(*parts: str) -> UID:
    """A UID that is the same for the same parts: ``2.25.`` and a name-based UUID as a decimal number (PS3.5 B.2)."""
    return UID(f"2.25.{uuid.uuid5(_NAMESPACE, '/'.join(parts)).int}")


def evidence(image: Image) -> Dataset:
    """The references to the source that a result needs; its patient and study texts follow with `inherit`."""
    source = Dataset()
    for keyword in _REQUIRED_EMPTY:
        setattr(source, keyword, "")
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality"):
        setattr(source, keyword, image.header.get(keyword, ""))
    return source


def inherit(result: Dataset, image: Image) -> None:
    """Put the source's patient and study attributes into a result, in the source's own encoding.

    The result keeps the source's Specific Character Set, so that names are the same bytes; therefore every text that
    the appliance adds is ASCII (see `ascii_text`).
    """
    for keyword in _INHERITED:
        if keyword in image.header:
            result[keyword] = deepcopy(image.header[keyword])
        elif keyword in _REQUIRED_EMPTY:
            setattr(result, keyword, "")
        elif keyword in result:
            delattr(result, keyword)


def stamp(result: Dataset, provenance: Provenance, series_description: str) -> None:
    """Equipment, and the time at which the result was made."""
    made_at = datetime.fromisoformat(provenance.made_at)
    result.InstanceCreationDate = result.ContentDate = result.SeriesDate = made_at.strftime("%Y%m%d")
    result.InstanceCreationTime = result.ContentTime = result.SeriesTime = made_at.strftime("%H%M%S")
    result.pop("ContributingEquipmentSequence", None)  # highdicom's own entry, which carries the time of the call
    result.TimezoneOffsetFromUTC = made_at.strftime("%z")
    result.SeriesDescription = series_description
    result.Manufacturer = MANUFACTURER
    result.ManufacturerModelName = MODEL_NAME
    result.DeviceSerialNumber = serial_number(provenance)
    result.SoftwareVersions = [provenance.software_version, ascii_text(f"{provenance.package} {provenance.version}")]


def serial_number(provenance: Provenance) -> str:
    """The last digits of the device's UID: short enough for a label, the same on every result of this device."""
    return provenance.device_uid[-12:]


def ascii_text(text: str) -> str:
    return text.encode("ascii", "replace").decode()


def to_bytes(result: Dataset) -> bytes:
    """A DICOM file (PS3.10), Explicit VR Little Endian."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = result.SOPClassUID
    meta.MediaStorageSOPInstanceUID = result.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    result.file_meta = meta
    buffer = io.BytesIO()
    dcmwrite(buffer, result, enforce_file_format=True)
    return buffer.getvalue()
