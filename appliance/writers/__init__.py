"""What results go out as, one module for each kind; a new kind is a new module and a line here."""

from __future__ import annotations

from appliance.config import Config
from appliance.message import MessageWriter
from appliance.writer import Writer
from appliance.writers.fhir_bundle import FhirBundleWriter
from appliance.writers.hl7_oru import Hl7OruWriter
from appliance.writers.parametric_map import ParametricMapWriter
from appliance.writers.presentation_state import PresentationStateWriter
from appliance.writers.secondary_capture import SecondaryCaptureWriter
from appliance.writers.segmentation import SegmentationWriter
from appliance.writers.structured_report import StructuredReportWriter

_ALL: tuple[Writer, ...] = (
    StructuredReportWriter(),
    SecondaryCaptureWriter(),
    SegmentationWriter(fractional=False),
    SegmentationWriter(fractional=True),
    PresentationStateWriter(),
    ParametricMapWriter(),
)
WRITERS = {writer.kind: writer for writer in _ALL}


def message_writers(config: Config) -> dict[str, MessageWriter]:
    """By kind."""
    label = config.results.label
    found: tuple[MessageWriter, ...] = Hl7OruWriter(config.hl7, label), FhirBundleWriter(config.fhir, label)
    return {writer.kind: writer for writer in found}
