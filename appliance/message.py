"""What every writer of a message shares: the protocol, the patient and the order in words, the sentences.

Messages are for systems that don't read DICOM: HL7 v2 and FHIR. Like the writers of DICOM objects theirs are pure; the
same image, prediction and provenance give the same bytes.
"""

from __future__ import annotations

import contextlib
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import Protocol

from highdicom.sr import CodedConcept
from pydicom import DataElement, Dataset
from pydicom.multival import MultiValue
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as PydicomCode
from pydicom.uid import UID
from pydicom.valuerep import PersonName

from appliance import concepts, writer
from appliance.image import Image, peek
from appliance.result import Code, Prediction, Provenance, Segment


def _code(concept: CodedConcept | PydicomCode) -> Code:
    return Code(str(concept.value), str(concept.scheme_designator), str(concept.meaning))


# The concepts of the structured report.
REPORTED_AS = {answer: _code(concept) for answer, concept in concepts.REPORTED_AS.items()}
CERTAINTY = _code(concepts.CERTAINTY)
FINDING_SITE = _code(codes.SCT.FindingSite)
SITE_MODIFIER = _code(codes.SCT.TopographicalModifier)
COMMENT = _code(codes.DCM.Comment)
LATERALITY = _code(codes.SCT.Laterality)
VOLUME = _code(codes.SCT.Volume)
AREA = _code(codes.SCT.Area)
AREA_SHARE = _code(concepts.AREA_SHARE)
IMAGING_STUDY = Code("18748-4", "LN", "Diagnostic imaging study")
_IDENTIFIERS = {
    "PatientID": "Patient ID (0010,0020)",
    "IssuerOfPatientID": "Issuer of Patient ID (0010,0021)",
    "AccessionNumber": "Accession Number (0008,0050)",
}
_LONGEST = 250  # characters of a text of the source; what is longer is none that a person wrote
_NAME_PARTS = 5


def flags(warnings: Iterable[str]) -> list[tuple[Code, Code]]:
    """What the warnings of a result are as codes: concept and value."""
    return [(_code(name), _code(value)) for name, value in concepts.flags(warnings)]


class MessageWriter(Protocol):
    """One kind of message; ``suffix`` is that of its files."""

    kind: str
    suffix: str

    def accepts(self, prediction: Prediction) -> bool:
        """Whether this kind can say anything about a prediction."""
        ...

    def obstacle(self, images: Sequence[Image]) -> str:
        """Why no message of this kind can say whom these images are of, with the tag; empty where one can."""
        ...

    def write(self, images: Sequence[Image], prediction: Prediction, provenance: Provenance) -> bytes:
        """The message; there must be no `obstacle`, and `appliance.writer.missing` be empty for each image's header."""
        ...


@dataclass(frozen=True)
class Name:
    """One component group of a DICOM name (PS3.5 section 6.2.1): alphabetic, ideographic or phonetic."""

    family: str
    given: str
    middle: str
    prefix: str
    suffix: str

    @property
    def text(self) -> str:
        """In the order in which it is said."""
        parts = self.prefix, self.given, self.middle, self.family, self.suffix
        return " ".join(part for part in parts if part)


@dataclass(frozen=True)
class Order:
    """Whom and which study a result is about, as far as its source says; what can't be read counts as not stated.

    ``names`` has an entry for each component group, None where there is none; ``issuer`` is the assigning authority of
    the patient's ID by name, ``issuer_oid`` as an OID; ``utc_offset`` is the source's, as in ``+0100``. ``series`` is
    its Series Description; ``laterality`` the side of a paired body part.
    """

    patient_id: str
    issuer: str
    issuer_oid: str
    names: tuple[Name | None, Name | None, Name | None]
    birth_date: date | None
    sex: str
    accession_number: str
    study_instance_uid: str
    series_instance_uid: str
    series: str
    laterality: Code | None
    study_date: date | None
    study_time: time | None
    utc_offset: str

    @classmethod
    def of(cls, image: Image) -> Order:
        header = image.header
        issuer_oid = ""
        for item in _items(header, "IssuerOfPatientIDQualifiersSequence"):
            oid = UID(_text(item, "UniversalEntityID"))
            if _text(item, "UniversalEntityIDType") == "ISO" and oid.is_valid:
                issuer_oid = str(oid)
        offset = _text(header, "TimezoneOffsetFromUTC")
        return cls(
            patient_id=_text(header, "PatientID"),
            issuer=_text(header, "IssuerOfPatientID"),
            issuer_oid=issuer_oid,
            names=_names(header),
            birth_date=_date(_text(header, "PatientBirthDate")),
            sex=_text(header, "PatientSex"),
            accession_number=_text(header, "AccessionNumber"),
            study_instance_uid=_text(header, "StudyInstanceUID"),
            series_instance_uid=_text(header, "SeriesInstanceUID"),
            series=_text(header, "SeriesDescription"),
            laterality=writer.laterality(image),
            study_date=_date(_text(header, "StudyDate")),
            study_time=_time(_text(header, "StudyTime")),
            utc_offset=offset if writer.is_utc_offset(offset) else "",
        )

    @property
    def studied_at(self) -> datetime | None:
        """With the time zone where the source states it; at midnight where it states no time."""
        if self.study_date is None:
            return None
        zone = datetime.strptime(self.utc_offset, "%z").tzinfo if self.utc_offset else None
        return datetime.combine(self.study_date, self.study_time or time(), zone)


def made_by(provenance: Provenance) -> str:
    """The algorithm, in a sentence."""
    return (
        f"Made by {provenance.package} {provenance.version} (package {provenance.package_sha256[:12]}) on "
        f"{provenance.backend}, receipt {provenance.receipt}, Scanside {provenance.software_version}."
    )


def measures(segment: Segment) -> Iterator[tuple[Code, float, str, str]]:
    """What is measured of a segment: the concept, the value, the UCUM code of its unit and that unit's name."""
    if segment.volume_ml is not None:
        yield VOLUME, round(segment.volume_ml, 3), "mL", "milliliter"
    if segment.area_share is not None:
        yield AREA_SHARE, round(segment.area_share * 100.0, 2), "%", "percent"
    if segment.area_mm2 is not None:
        yield AREA, round(segment.area_mm2, 1), "mm2", "square millimeter"


def one_line(text: str) -> str:
    """Without control characters, line separators and what no encoding has (lone surrogates)."""
    kept = ("" if unicodedata.category(each) == "Cs" else each for each in text)
    return "".join(" " if unicodedata.category(each) in ("Cc", "Zl", "Zp") else each for each in kept).strip()


def illegible(image: Image) -> str:
    """Which identifier is stated and can't be read for certain, with its tag; empty where none is.

    What a guess or a character in the place of others would make of it may be another patient's, or another order's.
    """
    for keyword, name in _IDENTIFIERS.items():
        legible = False
        with contextlib.suppress(Exception), writer.quiet():  # of any broken value, one of a hundred kinds
            element = peek(image.header, keyword)
            legible = element is None or _is_legible(image.header, element)
        if not legible:
            return f"{name} is not one value in the character set that the image states"
    return ""


def _is_legible(header: Dataset, element: DataElement) -> bool:
    said = one_line(str(element.value or ""))
    return not said or (element.VM == 1 and writer.is_legible(header, said))


# --- reading the source ---------------------------------------------------------------------------------------------


def _element(header: Dataset, keyword: str) -> DataElement | None:
    with contextlib.suppress(Exception), writer.quiet():  # of any broken value, one of a hundred kinds
        return peek(header, keyword)
    return None


def _text(header: Dataset, keyword: str) -> str:
    element = _element(header, keyword)
    if element is None or element.value is None or element.VM != 1:
        return ""
    return one_line(str(element.value))[:_LONGEST]


def _items(header: Dataset, keyword: str) -> list[Dataset]:
    element = _element(header, keyword)
    if element is None or element.VR != "SQ" or not element.value:
        return []
    return list(element.value)


def _names(header: Dataset) -> tuple[Name | None, Name | None, Name | None]:
    element = _element(header, "PatientName")
    value = element.value if element is not None else None
    if isinstance(value, MultiValue):
        value = value[0] if value else None
    with contextlib.suppress(Exception), writer.quiet():
        groups = str(value or "").split("=") if not isinstance(value, PersonName) else list(value.components)
        first, second, third = (_name(group) for group in [*map(str, groups), "", "", ""][:3])
        return first, second, third
    return None, None, None


def _name(group: str) -> Name | None:
    parts = [one_line(part)[:_LONGEST] for part in group.split("^")]
    family, given, middle, prefix, suffix = [*parts, *[""] * _NAME_PARTS][:_NAME_PARTS]
    return Name(family, given, middle, prefix, suffix) if any(parts) else None


def _date(text: str) -> date | None:
    try:
        return datetime.strptime(text, "%Y%m%d").date() if len(text) == 8 else None
    except ValueError:
        return None


def _time(text: str) -> time | None:
    digits = text.partition(".")[0]
    try:
        return datetime.strptime(digits, {2: "%H", 4: "%H%M", 6: "%H%M%S"}[len(digits)]).time()
    except (KeyError, ValueError):
        return None
