"""Comprehensive 3D SR with a TID 1500 Measurement Report, by IHE's AI Results (AIR).

What was looked for, and how sure; what was drawn, how large, and which segment of which Segmentation that is. Every
measurement group is tracked and names the algorithm (TID 4019).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import highdicom as hd
from highdicom.sr import (
    AlgorithmIdentification,
    CodeContentItem,
    CodedConcept,
    ContainerContentItem,
    ContentSequence,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    ImageContentItem,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    ReferencedSegment,
    ReferencedSegmentationFrame,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    SourceImageForSegmentation,
    TextContentItem,
    TrackingIdentifier,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import SegmentationStorage

from appliance import concepts, source_grid, writer
from appliance.image import Image, text
from appliance.result import Finding, Prediction, Provenance, Segment, in_percent

_CONTAINS = RelationshipTypeValues.CONTAINS
_Group: TypeAlias = (
    MeasurementsAndQualitativeEvaluations
    | PlanarROIMeasurementsAndQualitativeEvaluations
    | VolumetricROIMeasurementsAndQualitativeEvaluations
)


class StructuredReportWriter:
    """See the module; `appliance.writer.Writer`."""

    kind = "structured_report"

    def accepts(self, prediction: Prediction) -> bool:
        return bool(prediction.findings or prediction.segments)

    def write(
        self, images: Sequence[Image], prediction: Prediction, provenance: Provenance, settings: writer.Settings
    ) -> list[Dataset]:
        first = images[0]
        segmentation = _segmentation(images, prediction, provenance, settings)
        (root,) = _content(images, prediction, provenance, settings, segmentation)
        # highdicom copies the content and searches it several times, which takes as long as all the rest. So it gets
        # the root alone, and what the root holds and refers to follows.
        children, root.ContentSequence = root.ContentSequence, ContentSequence()
        report = hd.sr.Comprehensive3DSR(
            evidence=[writer.evidence(first)],
            content=root,
            series_instance_uid=writer.series_uid(first, provenance, self.kind),
            series_number=9001,
            sop_instance_uid=writer.instance_uid(images, provenance, self.kind),
            instance_number=writer.instance_number(first),
            manufacturer=writer.MANUFACTURER,
            is_complete=True,
            is_final=False,
            is_verified=False,
            record_evidence=False,
        )
        report.ContentSequence = children
        writer.inherit(report, first)
        what = "findings" if prediction.findings else "measurements"
        writer.stamp(report, first, provenance, f"AI {what}: {provenance.package}")
        report.CodingSchemeIdentificationSequence = concepts.scheme_identification()
        report.CurrentRequestedProcedureEvidenceSequence = [_evidence(images, segmentation)]
        return [report]


def _segmentation(
    images: Sequence[Image], prediction: Prediction, provenance: Provenance, settings: writer.Settings
) -> Dataset | None:
    """References to the Segmentation that holds the segments: the binary one, or else the fractional one."""
    kind = next((kind for kind in ("segmentation", "fractional_segmentation") if kind in settings.kinds), None)
    if kind is None or prediction.mask is None:
        return None
    drawn_by, found = prediction.segmented_by or provenance, Dataset()
    found.SOPClassUID = SegmentationStorage
    found.SOPInstanceUID = writer.instance_uid(images, drawn_by, kind)
    found.SeriesInstanceUID = source_grid.series_uid(images, drawn_by, kind)
    return found


def _evidence(images: Sequence[Image], segmentation: Dataset | None) -> Dataset:
    """All that the content refers to, by series; all of it is in one study (PS3.3 section C.17.2)."""
    by_series: dict[str, list[Dataset]] = {}
    for each in (*(image.header for image in images), *([segmentation] if segmentation else [])):
        reference = Dataset()
        reference.ReferencedSOPClassUID = each.SOPClassUID
        reference.ReferencedSOPInstanceUID = each.SOPInstanceUID
        by_series.setdefault(str(each.SeriesInstanceUID), []).append(reference)
    study = Dataset()
    study.StudyInstanceUID = images[0].header.StudyInstanceUID
    study.ReferencedSeriesSequence = []
    for uid, references in by_series.items():
        series = Dataset()
        series.SeriesInstanceUID = uid
        series.ReferencedSOPSequence = references
        study.ReferencedSeriesSequence.append(series)
    return study


def _content(
    images: Sequence[Image],
    prediction: Prediction,
    provenance: Provenance,
    settings: writer.Settings,
    segmentation: Dataset | None,
) -> MeasurementReport:
    device = DeviceObserverIdentifyingAttributes(
        uid=provenance.device_uid,
        name="Scanside",
        manufacturer_name=writer.MANUFACTURER,
        model_name=writer.MODEL_NAME,
        serial_number=writer.serial_number(provenance),
    )
    groups: list[_Group] = [_of_finding(images, finding, provenance) for finding in prediction.findings]
    for number, segment in enumerate(prediction.segments, start=1):
        groups.append(_of_segment(images, prediction, number, segment, provenance, segmentation))
    for group in groups:
        _comment(group, *prediction.warnings, f"{settings.label}.")
    report = MeasurementReport(
        observation_context=ObservationContext(
            observer_device_context=ObserverContext(
                observer_type=codes.DCM.Device, observer_identifying_attributes=device
            )
        ),
        procedure_reported=concepts.procedure(text(images[0].header, "Modality")),
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    if flags := concepts.flags(prediction.warnings):
        report[0].ContentSequence.append(_flags(flags))
    return report


def _flags(flags: Sequence[tuple[CodedConcept, CodedConcept]]) -> ContainerContentItem:
    """As codes, for programs: the Qualitative Evaluations of TID 1500. The words stand in each group."""
    container = ContainerContentItem(
        name=CodedConcept("C0034375", "UMLS", "Qualitative Evaluations"), relationship_type=_CONTAINS
    )
    container.ContentSequence = ContentSequence(
        [CodeContentItem(name=name, value=value, relationship_type=_CONTAINS) for name, value in flags]
    )
    return container


def _side(images: Sequence[Image]) -> CodedConcept | None:
    """Of a paired body part, as a modifier of its site."""
    stated = writer.laterality(images[0])
    return writer.coded(stated) if stated else None


def _of_finding(images: Sequence[Image], finding: Finding, provenance: Provenance) -> _Group:
    """One finding as TID 1501: coded present, absent or indeterminate, its probability and what that is usual for."""
    concept, side = writer.coded(finding.code), _side(images)
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(images, finding.label, provenance),
        finding_type=concept,
        finding_sites=[FindingSite(writer.coded(provenance.finding_site), side)] if provenance.finding_site else None,
        algorithm_id=_algorithm(
            provenance, {"operating point": f"{finding.operating_point}, threshold {finding.threshold:.6f}"}
        ),
        measurements=list(_probabilities(finding)),
        qualitative_evaluations=[
            QualitativeEvaluation(name=concept, value=concepts.REPORTED_AS[finding.reported_as]),
            *_prediction_set(finding),
        ],
        source_images=_references(images),
    )
    point = f"{finding.operating_point}: present from a probability of {in_percent(finding.threshold, 1)}"
    group[0].ContentSequence.append(_text(concepts.OPERATING_POINT, point))
    _comment(group, finding.words, finding.certainty)
    return group


def _probabilities(finding: Finding) -> Iterator[Measurement]:
    """The calibrated probability, what the heads of an ensemble give at least and at most, the threshold; in percent.

    TID 310 has a range of uncertainty as a property of the measurement, which PixelMed's validator takes for an error.
    """
    yield Measurement(concepts.CERTAINTY, _percent(finding.probability), concepts.PERCENT)
    if finding.heads:
        yield Measurement(concepts.LOWEST_HEAD, _percent(finding.heads[0]), concepts.PERCENT)
        yield Measurement(concepts.HIGHEST_HEAD, _percent(finding.heads[-1]), concepts.PERCENT)
    yield Measurement(concepts.THRESHOLD, _percent(finding.threshold), concepts.PERCENT)
    if finding.coverage is not None:
        yield Measurement(concepts.COVERAGE, _percent(finding.coverage), concepts.PERCENT)


def _prediction_set(finding: Finding) -> Iterator[QualitativeEvaluation]:
    """One evaluation for each answer in the set; one that says "none" where it is empty."""
    if finding.prediction_set is None:
        return
    for answer in finding.prediction_set:
        yield QualitativeEvaluation(name=concepts.PREDICTION_SET, value=concepts.REPORTED_AS[answer])
    if not finding.prediction_set:
        yield QualitativeEvaluation(name=concepts.PREDICTION_SET, value=concepts.NO_ANSWER)


def _of_segment(
    images: Sequence[Image],
    prediction: Prediction,
    number: int,
    segment: Segment,
    provenance: Provenance,
    segmentation: Dataset | None,
) -> _Group:
    """One segment, tracked as in the Segmentation: its volume, or its share of the image.

    It refers to the very segment, as the region of TID 1410 or 1411. Beside findings, which have no region, it is the
    source of the measurement in TID 1501: validators hold all groups of a report to the rules of one template.
    """
    drawn_by = prediction.segmented_by or provenance
    site = FindingSite(
        writer.coded(segment.type),
        _side(images),
        topographical_modifier=segment.modifier and writer.coded(segment.modifier),
    )
    common: dict[str, Any] = {
        "tracking_identifier": _tracking(images, segment.label, drawn_by),
        "finding_category": writer.coded(segment.category),
        "finding_type": writer.coded(segment.type),
        "finding_sites": [site],
        "algorithm_id": _algorithm(drawn_by, {}),
        "measurements": list(_sizes(segment)),
    }
    group: _Group
    where = (segmentation.SOPClassUID, segmentation.SOPInstanceUID) if segmentation else None
    if where is None or prediction.findings:
        group = MeasurementsAndQualitativeEvaluations(**common, source_images=_references(images))
        if where is not None:
            source = ImageContentItem(codes.DCM.SourceOfMeasurement, *where, None, number, relationship_type=_CONTAINS)
            group[0].ContentSequence.append(source)
    else:
        sources = [SourceImageForSegmentation(image.sop_class_uid, image.sop_instance_uid) for image in images]
        if len(images) == 1:  # its frames are in the order of the segments
            frame = ReferencedSegmentationFrame(*where, number, number, source_image=sources[0])
            # The frame says it, and then the segment must not (PS3.3 table 10-3).
            del frame[0].ReferencedSOPSequence[0].ReferencedSegmentNumber
            group = PlanarROIMeasurementsAndQualitativeEvaluations(**common, referenced_segment=frame)
        else:
            whole = ReferencedSegment(*where, number, source_images=sources)
            group = VolumetricROIMeasurementsAndQualitativeEvaluations(**common, referenced_segment=whole)
    _comment(group, segment.certainty)
    return group


def _sizes(segment: Segment) -> Iterator[Measurement]:
    if segment.volume_ml is not None:
        yield Measurement(codes.SCT.Volume, round(segment.volume_ml, 3), concepts.MILLILITER)
    if segment.area_share is not None:
        yield Measurement(concepts.AREA_SHARE, _percent(segment.area_share), concepts.PERCENT)
    if segment.area_mm2 is not None:
        yield Measurement(codes.SCT.Area, round(segment.area_mm2, 1), codes.UCUM.SquareMillimeter)
    yield Measurement(concepts.MEAN_PROBABILITY, _percent(segment.mean_probability), concepts.PERCENT)
    yield Measurement(concepts.UNCERTAIN_SHARE, _percent(segment.uncertain_share), concepts.PERCENT)


def _percent(share: float) -> float:
    return round(share * 100.0, 2)


def _tracking(images: Sequence[Image], label: str, provenance: Provenance) -> TrackingIdentifier:
    return TrackingIdentifier(
        identifier=writer.tracking_id(provenance, label), uid=writer.tracking_uid(images, provenance, label)
    )


def _references(images: Sequence[Image]) -> list[SourceImageForMeasurementGroup]:
    return [SourceImageForMeasurementGroup(image.sop_class_uid, image.sop_instance_uid) for image in images]


def _comment(group: _Group, *sentences: str) -> None:
    group[0].ContentSequence.extend(_text(codes.DCM.Comment, sentence) for sentence in sentences)


def _text(name: CodedConcept, value: str) -> TextContentItem:
    return TextContentItem(name=name, value=writer.ascii_text(value), relationship_type=_CONTAINS)


def _algorithm(provenance: Provenance, more: dict[str, str]) -> AlgorithmIdentification:
    """TID 4019."""
    parameters = {**writer.algorithm_parameters(provenance), **more}
    return AlgorithmIdentification(
        name=writer.ascii_text(provenance.package),
        version=writer.ascii_text(provenance.version),
        manufacturer=writer.MANUFACTURER,
        parameters=[writer.ascii_text(f"{name}: {value}") for name, value in parameters.items()],
    )
