"""What every writer of result objects shares: the protocol, the headers, the UIDs, the file.

Writers are pure: no network, no database, no clock, no chance. The same image, prediction, provenance and settings give
the same bytes, so that repeating the work after a crash can't make a second result.
"""

from __future__ import annotations

import contextlib
import io
import re
import uuid
import warnings
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from highdicom.sr import CodedConcept
from pydicom import DataElement, Dataset, config
from pydicom.charset import convert_encodings, default_encoding
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import correct_ambiguous_vr, dcmwrite
from pydicom.sr.codedict import codes
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian
from pydicom.valuerep import validate_value

from appliance.image import Image, text
from appliance.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, NAMESPACE
from appliance.result import Code, Prediction, Provenance

MANUFACTURER = "Scanside"
MODEL_NAME = "Scanside inference appliance"
RESEARCH_USE = "AI RESULT - RESEARCH USE ONLY - NOT FOR DIAGNOSIS"

# What a result takes over from its source: the Patient, Patient Study and General Study modules. A PACS files by these:
# they stay as they are, right or wrong. `missing` sees to it that the UID is a good one.
_IDENTITY = (
    "SpecificCharacterSet", "PatientName", "PatientID", "IssuerOfPatientID", "StudyInstanceUID", "AccessionNumber",
)  # fmt: skip
# These are taken over only where they are valid, since a PACS may refuse an object for a date that is none.
_DESCRIPTION = (
    "PatientBirthDate", "PatientBirthTime", "PatientSex", "EthnicGroup", "PatientComments", "PatientAge", "PatientSize",
    "PatientWeight", "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "StudyDescription",
)  # fmt: skip
# Type 2: must be there, may be empty.
_REQUIRED_EMPTY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "ReferringPhysicianName",
    "StudyID", "AccessionNumber",
)  # fmt: skip
_SEXES = ("M", "F", "O")
_SIDES = {"L": Code("7771000", "SCT", "Left"), "R": Code("24028007", "SCT", "Right")}
_LONGEST_LO = 64
_LONGEST_ST = 1024
_UNREADABLE = "\N{REPLACEMENT CHARACTER}"
_OFFSET = re.compile(r"[+-](0\d|1[0-4])[0-5]\d")


@dataclass(frozen=True)
class Settings:
    """What the configuration says of the objects of one reading.

    Attributes
    ----------
    kinds
        Those that are made: an object refers to another one only where that is among them.
    label
        The words on every picture and below every statement; ASCII.
    """

    kinds: tuple[str, ...] = ()
    label: str = RESEARCH_USE


class Writer(Protocol):
    """One kind of result object."""

    kind: str

    def accepts(self, prediction: Prediction) -> bool:
        """Whether this kind can say anything about a prediction."""
        ...

    def write(
        self, images: Sequence[Image], prediction: Prediction, provenance: Provenance, settings: Settings
    ) -> list[Dataset]:
        """The objects, in the study of the images; `missing` must be empty for each image's header."""
        ...


def missing(header: Dataset) -> list[str]:
    """Attributes without which no result can be filed with its study (type 1 in every module involved).

    Returns
    -------
    Keywords of those that are missing or are no UID.
    """
    needed = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    with quiet():
        return [keyword for keyword in needed if not UID(str(header.get(keyword) or "")).is_valid]


def derived_uid(*parts: str) -> str:
    """A UID that is the same for the same parts: ``2.25.`` and a name-based UUID as a decimal number (PS3.5 B.2)."""
    return f"2.25.{uuid.uuid5(NAMESPACE, '/'.join(parts)).int}"


def instance_uid(images: Sequence[Image], provenance: Provenance, kind: str) -> str:
    """The SOP Instance UID of a result of one kind.

    Every image is part of it: a series to which slices were added has another result. So is the device: where two
    appliances read the same image, their results are two objects.
    """
    sources = [image.sop_instance_uid for image in images]
    return derived_uid(*sources, provenance.package_sha256, provenance.device_uid, kind)


def series_uid(image: Image, provenance: Provenance, kind: str, frame_of_reference_uid: str = "") -> str:
    """The Series Instance UID of the results of one kind in a study.

    Those that lie in space are in a series for each Frame of Reference: a series has no more than one (PS3.3 A.1.2.3).
    """
    study, place = str(image.header.StudyInstanceUID), [frame_of_reference_uid] if frame_of_reference_uid else []
    return derived_uid(study, provenance.package_sha256, provenance.device_uid, kind, *place)


def tracking_id(provenance: Provenance, label: str) -> str:
    """What a finding or a segment of a package is tracked as, over images: for people."""
    return ascii_text(f"{provenance.package} {label}")[:_LONGEST_LO]


def tracking_uid(images: Sequence[Image], provenance: Provenance, label: str) -> str:
    """The Tracking Unique Identifier of a finding or a segment: the same in each object that has it."""
    return instance_uid(images, provenance, f"tracking of {label}")


def coded(code: Code) -> CodedConcept:
    return CodedConcept(code.value, code.scheme, ascii_text(code.meaning)[:_LONGEST_LO])


def laterality(image: Image) -> Code | None:
    """Which side of a paired body part the source says that it shows (Image Laterality, else Laterality)."""
    with quiet():
        return _SIDES.get(text(image.header, "ImageLaterality") or text(image.header, "Laterality"))


def instance_number(image: Image) -> int:
    """The source's Instance Number, so that results sort as their sources do; 1 where it has none."""
    with quiet():
        element = valid(image.header, "InstanceNumber")
    number = int(element.value) if element is not None else 1
    return number if 1 <= number < 2**31 else 1


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
    with quiet():
        for keyword in (*_IDENTITY, *_DESCRIPTION):
            element = (_exact if keyword in _IDENTITY else valid)(image.header, keyword)
            if element is not None:
                result[keyword] = element
            elif keyword in _REQUIRED_EMPTY:
                setattr(result, keyword, "")
            else:
                result.pop(keyword, None)


def _exact(header: Dataset, keyword: str) -> DataElement | RawDataElement | None:
    """The element, None where it is missing or empty.

    pydicom decodes a name when it is looked at and encodes it anew when it is written, which loses what was not encoded
    by the book. What nobody has looked at yet is therefore passed on as bytes.
    """
    tag = Tag(keyword)
    element = header.get_item(tag)
    if element is None or not element.value:
        return None
    if not isinstance(element, RawDataElement) or dictionary_VR(tag) in ("CS", "UI"):
        return deepcopy(header[tag])
    value = element.value + b" " * (len(element.value) % 2)
    return element._replace(VR=dictionary_VR(tag), value=value, length=len(value), is_implicit_VR=False)


def valid(header: Dataset, keyword: str) -> DataElement | None:
    """The element, or None where it is missing, empty or breaks the rules of its value representation (PS3.5 6.2).

    Of its representation by the data dictionary, too: a file may claim any other. And of its Specific Character Set.
    """
    try:
        element = header[keyword]
        if element.VM != 1 or dictionary_VR(element.tag) != element.VR:
            return None
        text = str(element.value)
        validate_value(element.VR, text, config.RAISE)
        if not is_legible(header, text):
            return None
    except (KeyError, ValueError, TypeError, OverflowError, NotImplementedError):
        return None  # these are what pydicom raises for values that it can't read
    known = keyword != "PatientSex" or element.value in _SEXES
    return deepcopy(element) if known else None


def is_legible(header: Dataset, text: str) -> bool:
    """Whether a text was read as its Specific Character Set means it.

    pydicom reads what is no text of that with U+FFFD in its place, and takes any byte for Latin-1 where there is none.
    """
    return _UNREADABLE not in text and (text.isascii() or bool(header.get("SpecificCharacterSet")))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the libraries' warnings on values that come from the source: they are handled here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def is_utc_offset(text: str) -> bool:
    """Whether this is a Timezone Offset From UTC (PS3.3 section C.12.1.1.8)."""
    return _OFFSET.fullmatch(text) is not None


def stamp(result: Dataset, image: Image, provenance: Provenance, series_description: str) -> None:
    """Equipment, and the time at which the result was made.

    Times count in the source's time zone where the source states it. Where it doesn't, the result states none either:
    Timezone Offset From UTC would be a claim about the study's times too (PS3.3 C.12.1).
    """
    made_at = datetime.fromisoformat(provenance.made_at)
    with quiet():
        offset = valid(image.header, "TimezoneOffsetFromUTC")
    if offset is not None and is_utc_offset(offset.value):
        made_at = made_at.astimezone(datetime.strptime(offset.value, "%z").tzinfo)
        result.TimezoneOffsetFromUTC = offset.value
    result.InstanceCreationDate = result.ContentDate = made_at.strftime("%Y%m%d")
    result.InstanceCreationTime = result.ContentTime = made_at.strftime("%H%M%S")
    # Instead of highdicom's own entry, which carries the time of the call.
    result.ContributingEquipmentSequence = [_contribution(provenance, made_at)]
    result.SeriesDescription = long_string(series_description)
    result.Manufacturer = MANUFACTURER
    result.ManufacturerModelName = MODEL_NAME
    result.DeviceSerialNumber = serial_number(provenance)
    result.SoftwareVersions = [
        long_string(provenance.software_version),
        long_string(f"{provenance.package} {provenance.version}"),
    ]


def _contribution(provenance: Provenance, made_at: datetime) -> Dataset:
    """That an algorithm on this appliance made it, which one, on what: the same in each kind (PS3.3 section C.12.1)."""
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [CodedConcept.from_code(codes.DCM.ProcessingEquipment)]
    item.Manufacturer = MANUFACTURER
    item.ManufacturerModelName = MODEL_NAME
    item.DeviceSerialNumber = serial_number(provenance)
    item.SoftwareVersions = long_string(provenance.software_version)
    item.ContributionDateTime = made_at.strftime("%Y%m%d%H%M%S")
    told = "; ".join(f"{name}: {value}" for name, value in algorithm_parameters(provenance).items())
    item.ContributionDescription = ascii_text(
        f"Made by the algorithm {provenance.package} {provenance.version}; {told}"
    )[:_LONGEST_ST]
    return item


def algorithm_parameters(provenance: Provenance) -> dict[str, str]:
    """Exactly which numbers, on which runtime, gave a result: ASCII."""
    parameters = {
        "package sha256": provenance.package_sha256,
        "artifact sha256": provenance.artifact_sha256,
        "target": provenance.target,
        "backend": provenance.backend,
        "device": provenance.device,
        "receipt": provenance.receipt,
    }
    if provenance.safe_mode != "none":
        parameters["safe mode"] = provenance.safe_mode
    return {name: ascii_text(value) for name, value in parameters.items()}


def source_reference(image: Image) -> Dataset:
    """Why the source is referenced: it was the input of a process (PS3.16 CID 7202)."""
    item = Dataset()
    item.ReferencedSOPClassUID = image.sop_class_uid
    item.ReferencedSOPInstanceUID = image.sop_instance_uid
    item.PurposeOfReferenceCodeSequence = [CodedConcept.from_code(codes.DCM.SourceImageForImageProcessingOperation)]
    return item


def long_string(text: str) -> str:
    """Text as a value of VR LO can hold it."""
    return ascii_text(text).replace("\\", "/")[:_LONGEST_LO]


def serial_number(provenance: Provenance) -> str:
    """The last digits of the device's UID: short enough for a label, the same on every result of this device."""
    return provenance.device_uid[-12:]


def ascii_text(text: str) -> str:
    """Text that every Specific Character Set can carry; other characters become question marks."""
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
    with quiet():
        # Only where the encoding stays the original does pydicom write undecoded elements as they are; it then takes
        # the VRs as settled.
        correct_ambiguous_vr(result, is_little_endian=True)
        character_set = result.get("SpecificCharacterSet")
        encodings = convert_encodings(character_set) if character_set else default_encoding
        result.set_original_encoding(False, True, encodings)
        dcmwrite(buffer, result, enforce_file_format=True)
    return buffer.getvalue()
