"""Comprehensive SR with a TID 1500 Measurement Report: what was looked for, present or absent, and how sure."""

from __future__ import annotations

from collections.abc import Sequence

import highdicom as hd
from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    TextContentItem,
    TrackingIdentifier,
)
from pydicom import Dataset
from pydicom.sr.codedict import codes

from appliance import writer
from appliance.image import Image
from appliance.result import Code, Finding, Prediction, Provenance

# CAD's term for "the likelihood that the finding detected is in fact the type of finding identified", in percent
# (PS3.16 annex D). "Probability" (DCM 122157) belongs to no context group and does not say of what;
# "Probability of cancer" (DCM 111047) is of one disease.
_CERTAINTY = codes.DCM.CertaintyOfFinding
_PERCENT = codes.UCUM.Percent
# In every edition of CID 100, which TID 1500 takes this from, and true of any modality: the source image says which.
_PROCEDURE = codes.SCT.ImagingProcedure
_REPORTED_AS = {
    "present": codes.SCT.Present,
    "absent": codes.SCT.Absent,
    "indeterminate": codes.SCT.Indeterminate,
}
_LONGEST_CODE_MEANING = 64


class StructuredReportWriter:
    """See the module; `appliance.writer.Writer`."""

    kind = "structured_report"

    def accepts(self, prediction: Prediction) -> bool:
        return bool(prediction.findings)

    def write(self, images: Sequence[Image], prediction: Prediction, provenance: Provenance) -> list[Dataset]:
        sources = [writer.evidence(image) for image in images]
        first = images[0]
        report = hd.sr.ComprehensiveSR(
            evidence=sources,
            content=_content(images, prediction, provenance)[0],
            series_instance_uid=writer.series_uid(first, provenance, self.kind),
            series_number=9001,
            sop_instance_uid=writer.instance_uid(first, provenance, self.kind),
            instance_number=writer.instance_number(first),
            manufacturer=writer.MANUFACTURER,
            is_complete=True,
            is_final=False,
            is_verified=False,
        )
        writer.inherit(report, first)
        writer.stamp(report, first, provenance, f"AI findings: {provenance.package}")
        return [report]


def _content(images: Sequence[Image], prediction: Prediction, provenance: Provenance) -> MeasurementReport:
    device = DeviceObserverIdentifyingAttributes(
        uid=provenance.device_uid,
        name="Scanside",
        manufacturer_name=writer.MANUFACTURER,
        model_name=writer.MODEL_NAME,
        serial_number=writer.serial_number(provenance),
    )
    return MeasurementReport(
        observation_context=ObservationContext(
            observer_device_context=ObserverContext(
                observer_type=codes.DCM.Device, observer_identifying_attributes=device
            )
        ),
        procedure_reported=_PROCEDURE,
        imaging_measurements=[_group(images, prediction, finding, provenance) for finding in prediction.findings],
        title=codes.DCM.ImagingMeasurementReport,
    )


def _group(
    images: Sequence[Image], prediction: Prediction, finding: Finding, provenance: Provenance
) -> MeasurementsAndQualitativeEvaluations:
    """One finding as TID 1501: tracked, coded present, absent or indeterminate, its probability, the algorithm."""
    concept = _coded(finding.code)
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            identifier=writer.ascii_text(f"{provenance.package} {finding.label}"),
            uid=writer.instance_uid(images[0], provenance, f"tracking of {finding.label}"),
        ),
        finding_type=concept,
        finding_sites=[FindingSite(_coded(provenance.finding_site))] if provenance.finding_site else None,
        algorithm_id=_algorithm(finding, provenance),
        measurements=[Measurement(name=_CERTAINTY, value=round(finding.probability * 100.0, 2), unit=_PERCENT)],
        qualitative_evaluations=[QualitativeEvaluation(name=concept, value=_REPORTED_AS[finding.reported_as])],
        source_images=[
            SourceImageForMeasurementGroup(
                referenced_sop_class_uid=image.sop_class_uid, referenced_sop_instance_uid=image.sop_instance_uid
            )
            for image in images
        ],
    )
    certainty = (
        f"Calibrated probability {finding.probability:.1%}; reported as present from {finding.threshold:.1%} "
        f"(operating point {finding.operating_point})."
    )
    for sentence in (finding.words, certainty, *prediction.warnings, f"{writer.RESEARCH_USE}."):
        group[0].ContentSequence.append(
            TextContentItem(
                name=codes.DCM.Comment,
                value=writer.ascii_text(sentence),
                relationship_type=RelationshipTypeValues.CONTAINS,
            )
        )
    return group


def _algorithm(finding: Finding, provenance: Provenance) -> AlgorithmIdentification:
    """TID 4019: exactly which numbers, on which runtime, gave this finding."""
    parameters = {
        "package sha256": provenance.package_sha256,
        "artifact sha256": provenance.artifact_sha256,
        "target": provenance.target,
        "backend": provenance.backend,
        "device": provenance.device,
        "receipt": provenance.receipt,
        "operating point": f"{finding.operating_point}, threshold {finding.threshold:.6f}",
    }
    return AlgorithmIdentification(
        name=writer.ascii_text(provenance.package),
        version=writer.ascii_text(provenance.version),
        manufacturer=writer.MANUFACTURER,
        parameters=[writer.ascii_text(f"{name}: {value}") for name, value in parameters.items()],
    )


def _coded(code: Code) -> CodedConcept:
    return CodedConcept(code.value, code.scheme, writer.ascii_text(code.meaning)[:_LONGEST_CODE_MEANING])
