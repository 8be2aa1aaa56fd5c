"""Readers' assessments as files: CSV, JSON, and a Comprehensive 3D SR for each reader of a result.

The document follows TID 1500, as the result does: a measurement group for each finding or segment, observed by a
person, with a qualitative evaluation that says whether the reader agrees, and a reference to the AI result that is
assessed. IHE's AI Result Assessment (AIRA) asks for the same statements; its own codes belong to a supplement for trial
implementation, so the terms here are private ones, which say so. DICOM's Content Assessment Results IOD (SOP Class
1.2.840.10008.5.1.4.1.1.90.1) is for checks of radiotherapy content by rules; no PACS and no validator here knows it.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TextIO

import highdicom as hd
import msgspec
import numpy as np
from highdicom.sr import (
    CodedConcept,
    CompositeContentItem,
    ContentSequence,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    PersonObserverIdentifyingAttributes,
    QualitativeEvaluation,
    RelationshipTypeValues,
    TextContentItem,
    TrackingIdentifier,
)
from pydicom import Dataset
from pydicom.sr.codedict import codes

from appliance import concepts, image, writer
from appliance.assessment_store import REASONS, Assessments, Filed
from appliance.config import Config
from appliance.errors import ApplianceError
from appliance.image import Image
from appliance.result import Code, Provenance

_CONTAINS = RelationshipTypeValues.CONTAINS
_ASSESSMENT = CodedConcept("assessment", concepts.SCHEME, "Reader's assessment of the AI result")
_VERDICTS = {
    "agree": CodedConcept("agree", concepts.SCHEME, "The reader agrees"),
    "disagree": CodedConcept("disagree", concepts.SCHEME, "The reader disagrees"),
    "amend": CodedConcept("amend", concepts.SCHEME, "The reader amends it"),
}
_REASON = CodedConcept("reason", concepts.SCHEME, "Reason of the assessment")
_ASSESSED = CodedConcept("assessed-result", concepts.SCHEME, "AI result that is assessed")
NO_HEADER = "its result objects are not there any more"
_NO_NAME = str.maketrans("^=", "  ")  # what parts a person's name in DICOM
COLUMNS = (
    "number", "image", "subject", "label", "code", "said", "verdict", "reason", "comment", "person", "made_at",
    "package", "result_object", "supersedes", "superseded_by", "modality", "body_part", "probability",
)  # fmt: skip
# UIDs and the comment, which may hold anything, lead back to a patient (PS3.15 annex E).
PATIENT = ("study_instance_uid", "sop_instance_uid", "accession_number")


def rows(assessments: Assessments, patient: bool = False) -> Iterator[dict[str, Any]]:
    """Every assessment, the superseded ones too; without ``patient``, nothing in them says whom it is of."""
    for row in assessments.export():
        probability = next(
            (each["probability"] for each in row["findings"] or ()
             if row["subject"] == "finding" and each["label"] == row["label"]), None
        )  # fmt: skip
        told = {
            **row,
            "number": row["id"],
            "image": row["instance_id"],
            "code": "{value} {scheme}".format(**row["code"]),
            "made_at": datetime.fromtimestamp(row["made_at"]).astimezone().isoformat(timespec="seconds"),
            "result_object": row["object_uid"] if patient else "",
            "comment": row["comment"] if patient else "",
            "probability": probability,
        }
        yield {column: told[column] for column in (*COLUMNS, *(PATIENT if patient else ()))}


def export(assessments: Assessments, to: TextIO, form: Literal["csv", "json"], patient: bool = False) -> int:
    """Write `rows` as CSV with a header, or as one JSON list; how many."""
    told = list(rows(assessments, patient))
    if form == "json":
        to.write(json.dumps(told, indent=1) + "\n")
        return len(told)
    table = csv.DictWriter(to, (*COLUMNS, *(PATIENT if patient else ())))
    table.writeheader()
    table.writerows({name: _plain(value) for name, value in row.items()} for row in told)
    return len(told)


def _plain(value: Any) -> Any:
    """A spreadsheet would take what begins so for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value


def export_dicom(config: Config, assessments: Assessments, folder: Path) -> tuple[list[Path], list[str]]:
    """Write a document for each reader of each assessed result into a folder; the files, and what was left out."""
    folder.mkdir(parents=True, exist_ok=True)
    written, left_out = [], []
    for instance_id, said in _by_instance(assessments.export()):
        made = documents(config, assessments, instance_id, said)
        if made is None:
            left_out.append(f"image {instance_id}: {NO_HEADER}")
            continue
        for filed, document in made:
            path = folder / f"{instance_id:08d}-assessment-{filed.said[-1]}.dcm"
            path.write_bytes(writer.to_bytes(document))
            written.append(path)
    return written, left_out


def documents(
    config: Config, assessments: Assessments, instance_id: int, said: Sequence[dict[str, Any]]
) -> list[tuple[Filed, Dataset]] | None:
    """One for each reader; None where no result object is there any more that says whose result it is.

    Parameters
    ----------
    said
        Those assessments of an image that count, as of `Assessments.counting`.
    """
    row = assessments.instance(instance_id)
    header = _header_of_result(config, assessments, instance_id)
    if row is None or header is None:
        return None
    made_by, earlier = msgspec.convert(row["provenance"], Provenance), assessments.documents(instance_id)
    made = []
    for person in dict.fromkeys(each["person"] for each in said):
        of_person = [each for each in said if each["person"] == person]
        numbers = tuple(each["id"] for each in of_person)
        superseded = {each["supersedes"] for each in of_person}
        before = [
            each.sop_instance_uid
            for each in earlier
            if each.said != numbers and (each.person == person or superseded & set(each.said))
        ]
        document = report(header, made_by, person, of_person, config.results.label, before)
        made.append((Filed(str(document.SOPInstanceUID), person, numbers), document))
    return made


def _by_instance(exported: Iterable[dict[str, Any]]) -> list[tuple[int, list[dict[str, Any]]]]:
    """The assessments that count, by their image."""
    found: dict[int, list[dict[str, Any]]] = {}
    for row in exported:
        if row["superseded_by"] is None:
            found.setdefault(row["instance_id"], []).append(row)
    return sorted(found.items())


def _header_of_result(config: Config, assessments: Assessments, instance_id: int) -> Dataset | None:
    """Of the report, or else of any result object: it has the patient and the study as the image had them."""
    objects = [each for each in assessments.objects(instance_id) if each["path"].endswith(".dcm")]
    for each in sorted(objects, key=lambda item: item["kind"] != "structured_report"):
        try:
            return image.read_header(config.results_path / each["path"])
        except ApplianceError:
            continue
    return None


def report(
    result: Dataset,
    provenance: Provenance,
    person: str,
    said: list[dict[str, Any]],
    label: str = writer.RESEARCH_USE,
    predecessors: Sequence[str] = (),
) -> Dataset:
    """One reader's assessments of one result, as a document in its study.

    Parameters
    ----------
    result
        The result object that is assessed, without pixels.
    said
        Rows as of `Assessments.of_instance`, at least one.
    predecessors
        SOP Instance UIDs of documents that this one takes the place of.
    """
    source = Image(np.empty((0, 0)), result, None)
    latest = max(each["made_at"] for each in said)
    provenance = msgspec.structs.replace(provenance, made_at=datetime.fromtimestamp(latest, UTC).isoformat())
    key = *map(str, (result.SOPInstanceUID, person, *(each["id"] for each in said))), "assessment"
    (root,) = MeasurementReport(
        observation_context=ObservationContext(
            observer_person_context=ObserverContext(
                observer_type=codes.DCM.Person,
                observer_identifying_attributes=PersonObserverIdentifyingAttributes(
                    name=f"{writer.long_string(person)[:60].translate(_NO_NAME) or 'Reader'}^"
                ),
            )
        ),
        procedure_reported=concepts.procedure(said[0].get("modality", "")),
        imaging_measurements=[_group(result, each, label) for each in said],
        title=codes.DCM.ImagingMeasurementReport,
    )
    children, root.ContentSequence = root.ContentSequence, ContentSequence()
    document = hd.sr.Comprehensive3DSR(
        evidence=[writer.evidence(source)],
        content=root,
        series_instance_uid=writer.derived_uid(str(result.StudyInstanceUID), provenance.device_uid, "assessments"),
        series_number=9009,
        sop_instance_uid=writer.derived_uid(*key),
        instance_number=said[-1]["id"],
        manufacturer=writer.MANUFACTURER,
        is_complete=True,
        is_final=False,
        is_verified=False,
        record_evidence=False,
    )
    document.ContentSequence = children
    writer.inherit(document, source)
    writer.stamp(document, source, provenance, "Readers' assessment of AI results")
    del document.ContributingEquipmentSequence  # no algorithm made this
    document.CodingSchemeIdentificationSequence = concepts.scheme_identification()
    document.CurrentRequestedProcedureEvidenceSequence = [_evidence(result, [str(result.SOPInstanceUID)])]
    if predecessors:
        document.PredecessorDocumentsSequence = [_evidence(document, predecessors)]
    return document


def _group(result: Dataset, said: dict[str, Any], label: str) -> MeasurementsAndQualitativeEvaluations:
    concept = writer.coded(msgspec.convert(said["code"], Code))
    evaluations = [QualitativeEvaluation(name=_ASSESSMENT, value=_VERDICTS[said["verdict"]])]
    if said["reason"]:
        words = REASONS[said["subject"]][said["verdict"]][said["reason"]]  # type: ignore[index]
        evaluations.append(
            QualitativeEvaluation(name=_REASON, value=CodedConcept(said["reason"], concepts.SCHEME, words))
        )
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            identifier=writer.long_string(f"{said['package']} {said['label']}"),
            uid=writer.derived_uid(str(result.SOPInstanceUID), said["subject"], said["label"]),
        ),
        finding_type=concept,
        qualitative_evaluations=evaluations,
    )
    group[0].ContentSequence.append(
        CompositeContentItem(
            name=_ASSESSED,
            referenced_sop_class_uid=result.SOPClassUID,
            referenced_sop_instance_uid=result.SOPInstanceUID,
            relationship_type=_CONTAINS,
        )
    )
    told = f"The AI result of {said['package']} was: {said['label']} {said['said']}."
    for words in (told, said["comment"], f"{label}."):
        if words:
            text = writer.ascii_text(" ".join(words.split()))
            group[0].ContentSequence.append(TextContentItem(codes.DCM.Comment, text, _CONTAINS))
    return group


def _evidence(like: Dataset, sop_instance_uids: Sequence[str]) -> Dataset:
    """Objects of the series and the SOP class of this one, as SR documents refer to them (PS3.3 section C.17.2)."""
    series, study = Dataset(), Dataset()
    series.SeriesInstanceUID = like.SeriesInstanceUID
    series.ReferencedSOPSequence = []
    for uid in sop_instance_uids:
        reference = Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = like.SOPClassUID, uid
        series.ReferencedSOPSequence.append(reference)
    study.StudyInstanceUID = like.StudyInstanceUID
    study.ReferencedSeriesSequence = [series]
    return study
