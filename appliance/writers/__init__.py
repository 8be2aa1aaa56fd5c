"""Result objects, one module for each kind; a new kind is a new module and a line here."""

from __future__ import annotations

from appliance.writer import Writer
from appliance.writers.secondary_capture import SecondaryCaptureWriter
from appliance.writers.structured_report import StructuredReportWriter

WRITERS: dict[str, Writer] = {writer.kind: writer for writer in (StructuredReportWriter(), SecondaryCaptureWriter())}
