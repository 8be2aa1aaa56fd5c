"""HL7 v2.5.1 ORU^R01: findings and volumes for systems that read no DICOM.

One message for one result: MSH, PID, ORC, OBR, and an OBX for each statement; those with the same Observation Sub-ID
belong together. It is preliminary (OBR-25 and OBX-11 are P): no reader has seen it.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from datetime import date, datetime

from appliance import message, writer
from appliance.config import Hl7
from appliance.errors import ApplianceError
from appliance.image import Image
from appliance.message import Order
from appliance.result import Code, Finding, Prediction, Provenance, Segment

# MSH-18 (HL7 table 0211) -> Python's name of the encoding
_ENCODINGS = {
    "UNICODE UTF-8": "utf-8", "8859/1": "iso8859-1", "8859/2": "iso8859-2", "8859/5": "iso8859-5",
    "8859/15": "iso8859-15", "ASCII": "ascii",
}  # fmt: skip
_ESCAPES = str.maketrans({"|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\", "\\": "\\E\\"})  # section 2.7
_STUDY = Code("113014", "DCM", "DICOM Study")
_SERIES = Code("112002", "DCM", "Series Instance UID")
_REPRESENTATIONS = "A", "I", "P"  # alphabetic, ideographic, phonetic: table 0465, in DICOM's order
_SEXES = "M", "F", "O"
_UNKNOWN_NAME = "^^^^^^U"  # table 0200: unspecified
_CONTROL_ID = 20  # characters of MSH-10
_OF_SOURCE = 8  # characters of OBX-4, which has 20
_Observation = tuple[str, str, str, str, str, str]  # OBX-2 to OBX-6 and OBX-8


class Hl7OruWriter:
    """See the module; `appliance.message.MessageWriter`."""

    kind = "hl7_oru"
    suffix = "hl7"

    def __init__(self, settings: Hl7, label: str = writer.RESEARCH_USE) -> None:
        self._settings, self._label = settings, label

    def accepts(self, prediction: Prediction) -> bool:
        return bool(prediction.findings or prediction.segments)

    def obstacle(self, images: Sequence[Image]) -> str:
        """A question mark in a name is seen; in what identifies it would make one patient or order of two."""
        if reason := message.illegible(images[0]):
            return reason
        order = Order.of(images[0])
        identifiers = {
            "Patient ID (0010,0020)": order.patient_id,
            "Issuer of Patient ID (0010,0021)" if order.issuer else "hl7.assigning_authority": self._issuer(order),
            "Accession Number (0008,0050)": order.accession_number,
        }
        for name, value in identifiers.items():
            try:
                value.encode(_ENCODINGS[self._settings.character_set])
            except UnicodeEncodeError:
                return f"{name} has characters that the character set {self._settings.character_set} has not"
        return ""

    def write(self, images: Sequence[Image], prediction: Prediction, provenance: Provenance) -> bytes:
        if reason := self.obstacle(images):
            raise ApplianceError(reason)
        order = Order.of(images[0])
        made_at = datetime.fromisoformat(provenance.made_at)
        segments = [
            self._msh(control_id(writer.instance_uid(images, provenance, self.kind)), made_at),
            self._pid(order),
            _segment("ORC", {1: "RE", 3: _filler(order)}),
            _obr(order, made_at),
        ]
        source = _of_source(images, order, provenance)
        observed = list(_observations(prediction, provenance, order, source, self._label))
        for number, (value_type, concept, sub_id, value, unit, flag) in enumerate(observed, 1):
            fields = {
                1: str(number), 2: value_type, 3: concept, 4: sub_id, 5: value, 6: unit, 8: flag, 11: "P",
                14: _moment(order.studied_at, order), 18: f"^^{provenance.device_uid}^ISO",
            }  # fmt: skip
            segments.append(_segment("OBX", fields))
        encoding = _ENCODINGS[self._settings.character_set]
        return "".join(f"{segment}\r" for segment in segments).encode(encoding, "replace")

    def _msh(self, identifier: str, made_at: datetime) -> str:
        settings = self._settings
        # MSH-1 is the field separator itself, so its fields stand one place to the left.
        return _segment(
            "MSH",
            {
                1: "^~\\&", 2: escape(settings.sending_application), 3: escape(settings.sending_facility),
                4: escape(settings.receiving_application), 5: escape(settings.receiving_facility),
                6: f"{made_at:%Y%m%d%H%M%S%z}", 8: "ORU^R01^ORU_R01", 9: identifier, 10: "P", 11: "2.5.1",
                17: settings.character_set,
            },
        )  # fmt: skip

    def _pid(self, order: Order) -> str:
        return _segment(
            "PID",
            {
                1: "1", 3: self._patient_id(order), 5: _name(order),
                7: _day(order.birth_date) if order.birth_date else "",
                8: order.sex if order.sex in _SEXES else "U",
            },
        )  # fmt: skip

    def _patient_id(self, order: Order) -> str:
        """PID-3; it must have a value, and one that nobody takes for another patient's."""
        if not order.patient_id:
            return f"{control_id(writer.derived_uid(order.study_instance_uid))}^^^SCANSIDE^ANON"
        issuer = escape(self._issuer(order))
        authority = f"{issuer}&{escape(order.issuer_oid)}&ISO" if order.issuer_oid else issuer
        return f"{escape(order.patient_id)}^^^{authority}".rstrip("^")

    def _issuer(self, order: Order) -> str:
        return order.issuer or self._settings.assigning_authority


def control_id(uid: str) -> str:
    """MSH-10, of 20 characters at most, from a UID of the form ``2.25.``: the beginning of its UUID."""
    return uuid.UUID(int=int(uid.rpartition(".")[2])).hex[:_CONTROL_ID]


def escape(text: str) -> str:
    """Text as a field can hold it (section 2.7): delimiters escaped, no control characters."""
    return message.one_line(text).translate(_ESCAPES)


def _segment(name: str, fields: dict[int, str]) -> str:
    return "|".join([name, *(fields.get(place, "") for place in range(1, max(fields) + 1))]).rstrip("|")


def _coded(code: Code) -> str:
    return f"{escape(code.value)}^{escape(code.meaning)}^{escape(code.scheme)}"


def _name(order: Order) -> str:
    """PID-5: a repetition for each component group; HL7 has the suffix before the prefix."""
    found: list[str] = []
    for name, representation in zip(order.names, _REPRESENTATIONS, strict=True):
        if name is not None:
            parts = (name.family, name.given, name.middle, name.suffix, name.prefix)
            found.append(f"{'^'.join(map(escape, parts))}^^L^{representation}")
    return "~".join(found) or _UNKNOWN_NAME


def _filler(order: Order) -> str:
    """The filler's order number: the accession number, or what identifies the study where there is none."""
    return escape(order.accession_number) or order.study_instance_uid


def _moment(moment: datetime | None, order: Order) -> str:
    """A TS, no more precise than what is known."""
    if moment is None:
        return ""
    return _day(moment) + (f"{moment:%H%M%S%z}" if order.study_time is not None else "")


def _day(day: date) -> str:
    """With a year of four digits, which ``%Y`` does not give of an early one."""
    return day.isoformat()[:10].replace("-", "")


def _obr(order: Order, made_at: datetime) -> str:
    return _segment(
        "OBR",
        {
            1: "1", 3: _filler(order), 4: _coded(message.IMAGING_STUDY), 7: _moment(order.studied_at, order),
            18: escape(order.accession_number), 22: f"{made_at:%Y%m%d%H%M%S%z}", 24: "RAD", 25: "P",
        },
    )  # fmt: skip


def _of_source(images: Sequence[Image], order: Order, provenance: Provenance) -> str:
    """What the groups of one image or volume begin with, the same when it is read again: a receiver that keeps one
    statement for each OBX-3 and OBX-4 of a study keeps those of its other images, too."""
    whole = images[0].sop_instance_uid if len(images) == 1 else order.series_instance_uid
    return control_id(writer.derived_uid(whole, provenance.package))[:_OF_SOURCE]


def _observations(
    prediction: Prediction, provenance: Provenance, order: Order, source: str, label: str
) -> Iterator[_Observation]:
    yield "HD", _coded(_STUDY), source, f"^{order.study_instance_uid}^ISO", "", ""
    yield "HD", _coded(_SERIES), source, f"^{order.series_instance_uid}^ISO", "", ""
    if order.laterality is not None:
        yield "CE", _coded(message.LATERALITY), source, _coded(order.laterality), "", ""
    group = 0
    for finding in prediction.findings:
        group += 1
        yield from _of_finding(f"{source}.{group}", finding, provenance)
    for segment in prediction.segments:
        group += 1
        yield from _of_segment(f"{source}.{group}", segment)
    for concept, value in message.flags(prediction.warnings):
        yield "CE", _coded(concept), source, _coded(value), "", "A"
    drawn_by = prediction.segmented_by
    sentences = [
        *prediction.warnings,
        message.made_by(provenance),
        *([f"Series: {order.series}"] if order.series else []),
        *([message.made_by(drawn_by)] if drawn_by is not None and drawn_by != provenance else []),
        f"{label}.",
    ]
    for number, sentence in enumerate(sentences, group + 1):  # OBX-3 with OBX-4 is one statement (section 7.4.2.4)
        yield _comment(f"{source}.{number}", sentence)


def _of_finding(sub_id: str, finding: Finding, provenance: Provenance) -> Iterator[_Observation]:
    reported = message.REPORTED_AS[finding.reported_as]
    yield "CE", _coded(finding.code), sub_id, _coded(reported), "", "A" if finding.positive else ""
    yield "NM", _coded(message.CERTAINTY), sub_id, f"{finding.probability * 100.0:.2f}", "%^percent^UCUM", ""
    if provenance.finding_site is not None:
        yield "CE", _coded(message.FINDING_SITE), sub_id, _coded(provenance.finding_site), "", ""
    yield _comment(sub_id, f"{finding.words} {finding.certainty}")


def _of_segment(sub_id: str, segment: Segment) -> Iterator[_Observation]:
    yield "CE", _coded(message.FINDING_SITE), sub_id, _coded(segment.type), "", ""
    if segment.modifier is not None:
        yield "CE", _coded(message.SITE_MODIFIER), sub_id, _coded(segment.modifier), "", ""
    for concept, value, unit, unit_name in message.measures(segment):
        yield "NM", _coded(concept), sub_id, f"{value:.3f}".rstrip("0").rstrip("."), f"{unit}^{unit_name}^UCUM", ""
    yield _comment(sub_id, segment.certainty)


def _comment(sub_id: str, sentence: str) -> _Observation:
    return "TX", _coded(message.COMMENT), sub_id, escape(sentence), "", ""
