"""FHIR R4 (4.0.1): one transaction Bundle with a DiagnosticReport, its Observations and the algorithm's Device.

The same result sent again changes nothing at a server: each entry is created only where nothing with its identifier
exists (``ifNoneExist``). Patient, ImagingStudy and ServiceRequest belong to other systems; they are referred to by
their identifiers and never created. Everything is preliminary: no reader has seen it.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from appliance import message, writer
from appliance.config import Fhir
from appliance.errors import ApplianceError
from appliance.image import Image
from appliance.message import Order
from appliance.result import Code, Finding, Prediction, Provenance, Segment

_SYSTEMS = {
    "SCT": "http://snomed.info/sct", "DCM": "http://dicom.nema.org/resources/ontology/DCM",
    "LN": "http://loinc.org", "RADLEX": "http://radlex.org",
}  # fmt: skip
_HL7 = "http://terminology.hl7.org/CodeSystem"
_UCUM = "http://unitsofmeasure.org"
_UIDS = "urn:dicom:uid"
_MADE_BY_AI = {
    "system": f"{_HL7}/v3-ObservationValue", "code": "AIAST", "display": "Artificial Intelligence asserted",
}  # fmt: skip
_INTERPRETATION = {
    "present": ("POS", "Positive"),
    "absent": ("NEG", "Negative"),
    "indeterminate": ("IND", "Indeterminate"),
}
_SEXES = {"M": "male", "F": "female", "O": "other"}
_Resource = dict[str, Any]


class FhirBundleWriter:
    """See the module; `appliance.message.MessageWriter`."""

    kind = "fhir_bundle"
    suffix = "json"

    def __init__(self, settings: Fhir, label: str = writer.RESEARCH_USE) -> None:
        self._settings, self._label = settings, label

    def accepts(self, prediction: Prediction) -> bool:
        return bool(prediction.findings or prediction.segments)

    def obstacle(self, images: Sequence[Image]) -> str:
        """UTF-8 has every character, but not every identifier can be read."""
        return message.illegible(images[0])

    def write(self, images: Sequence[Image], prediction: Prediction, provenance: Provenance) -> bytes:
        if reason := self.obstacle(images):
            raise ApplianceError(reason)
        order = Order.of(images[0])
        prediction = replace(prediction, warnings=(*prediction.warnings, f"{self._label}."))  # closes every text
        about, study = self._about(order, prediction, provenance), _study(order)
        drawn_by = prediction.segmented_by or provenance
        devices = {each.package_sha256: _device(each) for each in (provenance, drawn_by)}
        derived = {**study, **({"display": order.series} if order.series else {})}
        shared = {**about, "derivedFrom": [derived]}
        observations = list(_observations(images, prediction, provenance, shared, order.laterality))
        report = _report(
            prediction,
            {
                **about,
                **_identified(writer.instance_uid(images, provenance, self.kind)),
                "result": [_reference(each) for each in observations],
                "imagingStudy": [study],
            },
        )
        entries = [_entry(each) for each in (*devices.values(), *observations, report)]
        bundle: _Resource = {
            "resourceType": "Bundle",
            "type": "transaction",
            "timestamp": provenance.made_at,
            "entry": entries,
        }
        return msgspec.json.format(msgspec.json.encode(bundle), indent=1)

    def _about(self, order: Order, prediction: Prediction, provenance: Provenance) -> _Resource:
        """What report and observations share: whose, of which study, when."""
        flags = [{"code": value.value, "display": value.meaning} for _, value in message.flags(prediction.warnings)]
        about: _Resource = {
            "meta": {"security": [_MADE_BY_AI], **({"tag": flags} if flags else {})},
            "status": "preliminary",
            "subject": self._subject(order),
        }
        if order.studied_at is not None:
            # A time of the day needs its zone (datatype dateTime); where the source states none, the day is known.
            whole = order.study_time is not None and order.utc_offset
            about["effectiveDateTime"] = order.studied_at.isoformat() if whole else order.studied_at.date().isoformat()
        about["issued"] = provenance.made_at
        if order.accession_number:
            identifier = {
                "type": {"coding": [{"system": f"{_HL7}/v2-0203", "code": "ACSN", "display": "Accession ID"}]},
                **({"system": self._settings.accession_system} if self._settings.accession_system else {}),
                "value": order.accession_number,
            }
            about["basedOn"] = [{"type": "ServiceRequest", "identifier": identifier}]
        return about

    def _subject(self, order: Order) -> _Resource:
        """The patient, by the identifier that the source has; who has none is somebody of whom only that is known."""
        subject: _Resource = {"type": "Patient"}
        if order.patient_id:
            identifier: _Resource = {"value": order.patient_id}
            system = f"urn:oid:{order.issuer_oid}" if order.issuer_oid else self._settings.patient_system
            if system:
                identifier["system"] = system
            if order.issuer:
                identifier["assigner"] = {"display": order.issuer}
            subject["identifier"] = identifier
        names = [name.text for name in order.names if name is not None and name.text]
        known = [*names[:1], *([f"born {order.birth_date.isoformat()}"] if order.birth_date else []),
                 *([_SEXES[order.sex]] if order.sex in _SEXES else [])]  # fmt: skip
        subject["display"] = ", ".join(known) or "unknown"
        return subject


def _study(order: Order) -> _Resource:
    return {
        "type": "ImagingStudy",
        "identifier": {"system": _UIDS, "value": f"urn:oid:{order.study_instance_uid}"},
    }


def _report(prediction: Prediction, about: _Resource) -> _Resource:
    positive = [finding for finding in prediction.findings if finding.positive]
    said = [finding.words for finding in prediction.findings] + [each.certainty for each in prediction.segments]
    report: _Resource = {
        "resourceType": "DiagnosticReport",
        **about,
        "category": [_concept(f"{_HL7}/v2-0074", "RAD", "Radiology")],
        "code": _coded(message.IMAGING_STUDY),
        "conclusion": " ".join([*said, *prediction.warnings]),
    }
    if positive:
        report["conclusionCode"] = [_coded(finding.code) for finding in positive]
    return report


def _observations(
    images: Sequence[Image], prediction: Prediction, provenance: Provenance, shared: _Resource, side: Code | None
) -> Iterator[_Resource]:
    drawn_by = prediction.segmented_by or provenance
    found = [_of_finding(images, prediction, each, provenance, shared) for each in prediction.findings]
    drawn = [_of_segment(images, prediction, each, drawn_by, shared) for each in prediction.segments]
    for observation in (*found, *drawn):
        if side is not None:
            component = {"code": _coded(message.LATERALITY), "valueCodeableConcept": _coded(side)}
            observation["component"] = [*observation.get("component", []), component]
        yield observation


def _of_finding(
    images: Sequence[Image], prediction: Prediction, finding: Finding, provenance: Provenance, shared: _Resource
) -> _Resource:
    code, display = _INTERPRETATION[finding.reported_as]
    observation = _observation(images, finding.label, provenance, shared)
    observation |= {
        "code": _coded(finding.code),
        "valueCodeableConcept": _coded(message.REPORTED_AS[finding.reported_as]),
        "interpretation": [_concept(f"{_HL7}/v3-ObservationInterpretation", code, display)],
        "component": [
            {
                "code": _coded(message.CERTAINTY),
                "valueQuantity": _quantity(round(finding.probability * 100.0, 2), "%"),
            }
        ],
        "note": _notes(finding.words, finding.certainty, prediction, provenance),
    }
    if provenance.finding_site is not None:
        observation["bodySite"] = _coded(provenance.finding_site)
    return observation


def _of_segment(
    images: Sequence[Image], prediction: Prediction, segment: Segment, drawn_by: Provenance, shared: _Resource
) -> _Resource:
    """What is measured of it; the first measurement is the value, further ones are components."""
    site = _coded(segment.type)
    if segment.modifier is not None:
        site = {"coding": [*site["coding"], *_coded(segment.modifier)["coding"]], "text": segment.label}
    (concept, value, unit, _), *more = message.measures(segment)
    observation = _observation(images, segment.label, drawn_by, shared)
    observation |= {
        "code": _coded(concept),
        "valueQuantity": _quantity(value, unit),
        "bodySite": site,
        "note": _notes(segment.certainty, "", prediction, drawn_by),
    }
    if more:
        observation["component"] = [
            {"code": _coded(concept), "valueQuantity": _quantity(value, unit)} for concept, value, unit, _ in more
        ]
    return observation


def _observation(images: Sequence[Image], label: str, made_by: Provenance, shared: _Resource) -> _Resource:
    return {
        "resourceType": "Observation",
        **shared,
        **_identified(writer.tracking_uid(images, made_by, label)),
        "category": [_concept(f"{_HL7}/observation-category", "imaging", "Imaging")],
        "device": _reference(_device(made_by)),
    }


def _device(provenance: Provenance) -> _Resource:
    """The algorithm on this device: the package, not the backend, which may change from night to night."""
    return {
        "resourceType": "Device",
        **_identified(writer.derived_uid(provenance.device_uid, provenance.package_sha256, "fhir device")),
        "manufacturer": writer.MANUFACTURER,
        "serialNumber": writer.serial_number(provenance),
        "deviceName": [{"name": provenance.package, "type": "model-name"}],
        "type": {"text": "Artificial intelligence algorithm, research use only"},
        "version": [
            {"type": {"text": "package"}, "value": provenance.version},
            {"type": {"text": "package sha256"}, "value": provenance.package_sha256},
        ],
        "note": [{"text": provenance.intended_use}],
    }


def _entry(resource: _Resource) -> _Resource:
    identifier = resource["identifier"][0]
    return {
        "fullUrl": _reference(resource)["reference"],
        "resource": resource,
        "request": {
            "method": "POST",
            "url": resource["resourceType"],
            "ifNoneExist": f"identifier={identifier['system']}|{identifier['value']}",
        },
    }


def _identified(uid: str) -> _Resource:
    return {"identifier": [{"system": _UIDS, "value": f"urn:oid:{uid}"}]}


def _reference(resource: _Resource) -> _Resource:
    """To another entry of the Bundle, by the UUID in its UID (``2.25.`` of PS3.5 section B.2)."""
    uid = resource["identifier"][0]["value"]
    return {"reference": f"urn:uuid:{uuid.UUID(int=int(uid.rpartition('.')[2]))}"}


def _coded(code: Code) -> _Resource:
    """Without a coding where FHIR has no name for the scheme."""
    system = _SYSTEMS.get(code.scheme)
    if system is None:
        return {"text": code.meaning}
    return _concept(system, code.value, code.meaning)


def _concept(system: str, code: str, display: str) -> _Resource:
    return {"coding": [{"system": system, "code": code, "display": display}], "text": display}


def _quantity(value: float, unit: str) -> _Resource:
    return {"value": value, "unit": unit, "system": _UCUM, "code": unit}


def _notes(first: str, second: str, prediction: Prediction, provenance: Provenance) -> list[_Resource]:
    sentences = [first, second, *prediction.warnings, message.made_by(provenance)]
    return [{"text": sentence} for sentence in sentences if sentence]
