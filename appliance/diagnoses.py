"""Files of diagnoses: CSV, HL7 v2 (ORU^R01), FHIR R4 (a Bundle or a DiagnosticReport). What can't be read is said.

Only what is final counts: what is preliminary may change, and what an algorithm said is no truth about it.
"""

from __future__ import annotations

import csv
import fnmatch
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec

from appliance import hl7_message, installed
from appliance.config import Config
from appliance.errors import DiagnosisError
from appliance.hl7_message import Message, Segment, text_of
from appliance.truth_store import Diagnosis, Form

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_LONGEST_UID, _LONGEST_ACCESSION = 64, 64
_PRESENT = {"1", "y", "yes", "true", "t", "present", "positive", "pos", "52101004", "10828004"}
_ABSENT = {"0", "n", "no", "false", "f", "absent", "negative", "neg", "2667000", "260385009"}
_STUDY_CODES = {"113014", "110180"}
_COLUMNS = {
    "study": ("studyinstanceuid", "studyuid"),
    "accession": ("accessionnumber", "accession"),
    "finding": ("finding", "label", "code", "diagnosis"),
    "present": ("present", "truth", "result", "outcome"),
    "date": ("date", "diagnosisdate", "diagnosedat"),
    "status": ("status",),
}
_CORRECTED = {"corrected", "correction", "amended", "c"}
_FINAL = {"", "final", "f"}
_AI_MADE = "AIAST"
_TRIALS = ("T", "D")  # MSH-11: training, debugging


@dataclass(frozen=True)
class Findings:
    """The findings that models look for, by what they may be called: labels, codes, and further patterns.

    ``codes``: label -> code values of the packages; ``patterns``: label -> patterns of the configuration.
    """

    codes: Mapping[str, frozenset[str]]
    patterns: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, config: Config) -> Findings:
        """What the packages in force look for, and how the configuration says that diagnoses call it.

        Raises
        ------
        PackageError
            One of them can't be opened.
        DiagnosisError
            `performance.codes` names what none of them looks for.
        """
        codes: dict[str, frozenset[str]] = {}
        for package in installed.packages(config):
            for finding in package.manifest.findings:
                codes[finding.label] = codes.get(finding.label, frozenset()) | {finding.code.value}
        unknown = [label for label in config.performance.codes if label not in codes]
        if unknown:
            raise DiagnosisError(
                f"performance.codes names {', '.join(unknown)}, which no installed package looks for",
                hint=f"they look for {', '.join(codes) or 'nothing'}",
            )
        return cls(codes, config.performance.codes)

    def label(self, *names: str) -> str | None:
        """The finding that one of these codes or words is; None where it is none of them."""
        for label in {**self.codes, **self.patterns}:
            known = {label.casefold(), *(code.casefold() for code in self.codes.get(label, ()))}
            wanted = [pattern.casefold() for pattern in self.patterns.get(label, ())]
            for name in (each.strip().casefold() for each in names if each.strip()):
                if name in known or any(fnmatch.fnmatchcase(name, pattern) for pattern in wanted):
                    return label
        return None


@dataclass
class Parsed:
    """What a file says. ``faults``: what can't be read, and where; ``others``: statements about other findings;
    ``not_final``: those that may still change, or that an algorithm made."""

    form: Form
    diagnoses: list[Diagnosis] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    others: int = 0
    not_final: int = 0

    def add(self, where: str, study: str, accession: str, label: str, answer: str, corrected: bool, at: str) -> None:
        """A statement in words, if it is one."""
        said = answer.strip().casefold()
        study, accession = study.strip(), accession.strip()
        if study and (len(study) > _LONGEST_UID or not _UID.fullmatch(study)):
            self.faults.append(f"{where}: the Study Instance UID is none")
        elif len(accession) > _LONGEST_ACCESSION:
            self.faults.append(f"{where}: the accession number is longer than {_LONGEST_ACCESSION} letters")
        elif not study and not accession:
            self.faults.append(f"{where}: no Study Instance UID or accession number says of which study it is")
        elif said not in _PRESENT | _ABSENT:
            self.faults.append(f"{where}: {answer[:40]!r} does not say whether it is present: write yes or no")
        else:
            try:
                moment = _moment(at)
            except ValueError:
                self.faults.append(f"{where}: {at[:40]!r} is no date: write 2026-11-28")
                return
            self.diagnoses.append(Diagnosis(study, accession, label, said in _PRESENT, corrected, moment, where))


def parse(content: bytes, findings: Findings, form: Form | None = None) -> Parsed:
    """Read a file; the form is guessed from how it begins where it is not given.

    Raises
    ------
    DiagnosisError
        It is none of the three.
    """
    form = form or _form(content)
    if form == "hl7":
        return _hl7(content, findings)
    return _fhir(content, findings) if form == "fhir" else _csv(content, findings)


def _form(content: bytes) -> Form:
    begin = content.lstrip(b"\xef\xbb\xbf\x0b\r\n\t ")[:3]
    if begin == b"MSH":
        return "hl7"
    return "fhir" if begin[:1] in (b"{", b"[") else "csv"


# --- CSV ------------------------------------------------------------------------------------------------------------


def _csv(content: bytes, findings: Findings) -> Parsed:
    text, parsed = text_of(content), Parsed("csv")
    header = text.partition("\n")[0]
    separator = max(",;\t", key=header.count)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True))
    except csv.Error as error:
        raise DiagnosisError(f"it is no CSV file: {error}", hint="see docs/performance.md for an example") from error
    names = [re.sub(r"[^a-z]", "", name.casefold()) for name in (rows[0] if rows else [])]
    places = {
        column: next((names.index(name) for name in known if name in names), None) for column, known in _COLUMNS.items()
    }
    missing = [column for column in ("finding", "present") if places[column] is None]
    if places["study"] is None and places["accession"] is None:
        missing.insert(0, "study_instance_uid or accession_number")
    if missing:
        raise DiagnosisError(
            f"the first line names no column {', '.join(missing)}",
            hint="its first line must be: study_instance_uid,accession_number,finding,present,date,status "
            "(one of the first two will do; the last two may be left out)",
        )
    for number, row in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) > len(names):
            parsed.faults.append(f"line {number}: it has {len(row)} cells, and the first line {len(names)}")
            continue
        cells = {
            column: row[place].strip() if place is not None and place < len(row) else ""
            for column, place in places.items()
        }
        status = cells["status"].casefold()
        label = findings.label(cells["finding"])
        if label is None:
            parsed.others += 1
        elif status not in _CORRECTED | _FINAL:
            parsed.not_final += 1
        else:
            parsed.add(f"line {number}", cells["study"], cells["accession"], label, cells["present"],
                       status in _CORRECTED, cells["date"])  # fmt: skip
    return parsed


# --- HL7 v2 ---------------------------------------------------------------------------------------------------------


def _hl7(content: bytes, findings: Findings) -> Parsed:
    parsed, number = Parsed("hl7"), 0
    for number, lines in enumerate(hl7_message.split(content), start=1):
        where = f"message {number}"
        try:
            message = Message.of(lines)
        except DiagnosisError as error:
            parsed.faults.append(f"{where}: {error.message}")
            continue
        if refused := unread(message):
            parsed.faults.append(f"{where}: {refused[1]}")
        else:
            of_message(where, message, findings, parsed)
    if not number:
        raise DiagnosisError("it holds no HL7 message: none begins with MSH")
    return parsed


def unread(message: Message) -> tuple[str, str] | None:
    """Why a message is not read at all: the condition of `hl7_message.CONDITIONS`, and words."""
    if not message.kind.startswith("ORU"):
        return "200", f"it is of the type {message.kind[:20] or '(none)'}, and ORU^R01 is read"
    if message.processing_id in _TRIALS:
        return "202", f"it is a trial (MSH-11 {message.processing_id}), which says nothing of a patient"
    return None


def of_message(where: str, message: Message, findings: Findings, parsed: Parsed) -> None:
    """Take the statements of an ORU^R01. A finding is an OBX whose code or text is one, or a final DG1.

    Each OBR begins an order, and what follows is about its study; before the first one, about that one's, where there
    is no other.
    """
    orders = [_Order()]
    for segment in message.segments:
        if segment.name == "OBR":
            if orders[-1].begun:
                orders.append(_Order())
            orders[-1].begun = True
            orders[-1].accession = segment.field(18) or segment.field(3)
        elif segment.name == "ZDS":
            orders[-1].study = segment.field(1) or orders[-1].study
        elif segment.name == "OBX" and segment.field(3) in _STUDY_CODES:
            orders[-1].study = next(filter(_UID.fullmatch, segment.parts(5)), "")
        elif segment.name == "OBX":
            orders[-1].take(segment, findings, parsed, segment.field(11) in ("F", "C"), segment.field(5),
                            segment.field(11) == "C", segment.field(14))  # fmt: skip
        elif segment.name == "DG1":
            orders[-1].take(segment, findings, parsed, segment.field(6) == "F", "present", False, segment.field(5))
    if orders[0].early and len(orders) > 1:
        parsed.faults.append(f"{where}: a diagnosis stands before several orders (OBR): of which study is it?")
        return
    for order in orders:
        known_by_uid = _UID.fullmatch(order.accession) and order.accession == order.study
        for label, answer, corrected, at in order.said:
            accession = "" if known_by_uid else order.accession
            parsed.add(where, order.study, accession, label, answer, corrected, at)


@dataclass
class _Order:
    """An OBR with what follows. ``early``: a statement stands before it; ``said``: label, answer, corrected, date."""

    begun: bool = False
    early: bool = False
    study: str = ""
    accession: str = ""
    said: list[tuple[str, str, bool, str]] = field(default_factory=list)

    def take(
        self, segment: Segment, findings: Findings, parsed: Parsed, final: bool, answer: str, corrected: bool, at: str
    ) -> None:
        label = findings.label(*segment.parts(3)[:2])
        if label is None:
            parsed.others += 1
        elif not final:
            parsed.not_final += 1
        else:
            self.early = self.early or not self.begun
            self.said.append((label, answer, corrected, at))


# --- FHIR -----------------------------------------------------------------------------------------------------------


def _fhir(content: bytes, findings: Findings) -> Parsed:
    parsed = Parsed("fhir")
    try:
        whole = msgspec.json.decode(content)
    except msgspec.DecodeError as error:
        raise DiagnosisError(f"it is no JSON: {error}") from error
    if not isinstance(whole, dict) or whole.get("resourceType") not in ("Bundle", "DiagnosticReport"):
        raise DiagnosisError("it is neither a FHIR Bundle nor a DiagnosticReport")
    known: dict[str, dict[str, Any]] = {}
    for entry in _dicts(whole.get("entry")):
        resource = entry.get("resource")
        if isinstance(resource, dict):
            known[str(entry.get("fullUrl"))] = resource
            known[f"{resource.get('resourceType')}/{resource.get('id')}"] = resource
    unique = {id(each): each for each in known.values()}
    reports = [each for each in (whole, *unique.values()) if each.get("resourceType") == "DiagnosticReport"]
    if not reports:
        parsed.faults.append("it holds no DiagnosticReport")
    for number, report in enumerate(reports, start=1):
        contained = {f"#{each.get('id')}": each for each in _dicts(report.get("contained"))}
        _of_report(f"report {number}", report, {**known, **contained}, findings, parsed)
    return parsed


def _of_report(
    where: str, report: dict[str, Any], known: Mapping[str, dict[str, Any]], findings: Findings, parsed: Parsed
) -> None:
    status = str(report.get("status"))
    corrected = status in ("amended", "corrected", "appended")
    security = report.get("meta", {}).get("security") if isinstance(report.get("meta"), dict) else None
    by_machine = any(each.get("code") == _AI_MADE for each in _dicts(security))
    study, accession = _study_of(report, known), _accession_of(report)
    at = str(report.get("effectiveDateTime") or report.get("issued") or "")
    said: list[tuple[str, str]] = []
    for reference in _dicts(report.get("result")):
        observation = known.get(str(reference.get("reference")))
        if observation is None:
            continue
        label = findings.label(*_codes(observation.get("code")))
        if label is None:
            parsed.others += 1
            continue
        said.append((label, _answer(observation)))
    for concept in _dicts(report.get("conclusionCode")):
        label = findings.label(*_codes(concept))
        if label is None:
            parsed.others += 1
        elif label not in [each for each, _ in said]:
            said.append((label, "present"))
    for label, answer in said:
        if by_machine or not (corrected or status == "final"):
            parsed.not_final += 1
        else:
            parsed.add(where, study, accession, label, answer, corrected, at)


def _answer(observation: dict[str, Any]) -> str:
    if isinstance(observation.get("valueBoolean"), bool):
        return "yes" if observation["valueBoolean"] else "no"
    codes = _codes(observation.get("valueCodeableConcept"))
    for concept in _dicts(observation.get("interpretation")):
        codes += _codes(concept)
    return next((each for each in codes if each.strip().casefold() in _PRESENT | _ABSENT), ", ".join(codes))


def _study_of(report: dict[str, Any], known: Mapping[str, dict[str, Any]]) -> str:
    for reference in _dicts(report.get("imagingStudy")):
        study = known.get(str(reference.get("reference")), {})
        for identifier in (*_dicts([reference.get("identifier")]), *_dicts(study.get("identifier"))):
            value = str(identifier.get("value", "")).removeprefix("urn:oid:")
            if _UID.fullmatch(value):
                return value
    return ""


def _accession_of(report: dict[str, Any]) -> str:
    for reference in _dicts(report.get("basedOn")):
        for identifier in _dicts([reference.get("identifier")]):
            if identifier.get("value"):
                return str(identifier["value"])
    for identifier in _dicts(report.get("identifier")):
        if "ACSN" in _codes(identifier.get("type")):
            return str(identifier.get("value", ""))
    return ""


def _codes(concept: Any) -> list[str]:
    """Codes, displays and the text of a CodeableConcept."""
    if not isinstance(concept, dict):
        return []
    found = [
        str(coding[key]) for coding in _dicts(concept.get("coding")) for key in ("code", "display") if coding.get(key)
    ]
    return [*found, str(concept["text"])] if concept.get("text") else found


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
    yield from (each for each in (value if isinstance(value, list) else ()) if isinstance(each, dict))


def _moment(text: str) -> float | None:
    """A date, or a moment, of ISO 8601 or of HL7 v2, in seconds since 1970; raises `ValueError`."""
    text = text.strip()
    if not text:
        return None
    if re.fullmatch(r"\d{8}(\d{4}(\d{2}(\.\d+)?)?)?([+-]\d{4})?", text):
        digits, zone = re.match(r"(\d+)(?:\.\d+)?([+-]\d{4})?", text).groups()  # type: ignore[union-attr]
        form = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}[len(digits)]
        moment = datetime.strptime(digits + (zone or ""), form + ("%z" if zone else ""))
    else:
        moment = datetime.fromisoformat(text)
    try:
        return moment.timestamp()
    except (OverflowError, OSError) as error:
        raise ValueError(text) from error
