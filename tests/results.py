"""Predictions as a model would make them, for tests of what is written about them."""

from __future__ import annotations

import numpy as np

from appliance import writer
from appliance.result import Code, Finding, Prediction, Provenance, Segment

LUNG = Code("39607008", "SCT", "Lung")
PNEUMONIA = Code("233604007", "SCT", "Pneumonia")
HIPPOCAMPUS = Code("5366008", "SCT", "Hippocampus")
STRUCTURE = Code("91723000", "SCT", "Anatomical Structure")
WARNING = "Outside validated use: the patient is 40 years old | the model was validated on children."

PROVENANCE = Provenance(
    package="chest-pneumonia",
    version="1.0.0",
    package_sha256="ab" * 32,
    artifact_sha256="cd" * 32,
    target="cpu",
    backend="onnxruntime",
    device="CPUExecutionProvider (Intel® Xeon)",
    receipt="0123456789abcdef",
    software_version="0.1.0",
    made_at="2001-02-03T23:30:00+00:00",  # long ago, so that a clock that is read shows itself
    intended_use="Second look at chest radiographs of children.",
    not_for=("diagnosis",),
    device_uid=writer.derived_uid("a device"),
    finding_site=LUNG,
)


def finding(probability: float = 0.934, unsure: bool = False) -> Finding:
    positive = probability >= 0.4
    words = "Signs of pneumonia are likely." if positive else "No signs of pneumonia."
    return Finding("Pneumonia", PNEUMONIA, probability, 0.4, "balanced", positive, True, words, unsure)


def found(probability: float = 0.934, unsure: bool = False) -> Prediction:
    """A finding with a warning."""
    said = finding(probability, unsure)
    coarse = np.zeros((7, 7), np.float32)
    return Prediction((said,), {"Pneumonia": coarse}, np.zeros(3, np.float32), (WARNING,))


def drawn() -> Prediction:
    """Two parts of a volume; the mask itself is in no message."""
    parts = (
        ("Anterior hippocampus", Code("255549009", "SCT", "Anterior"), 1.6234),
        ("Posterior hippocampus", Code("255551008", "SCT", "Posterior"), 0.0),
    )
    segments = tuple(
        Segment(label, STRUCTURE, HIPPOCAMPUS, (255, 170, 60), round(volume * 1000), 0.9, 0.1, modifier, volume)
        for label, modifier, volume in parts
    )
    return Prediction((), {}, np.zeros(3, np.float32), (), segments, np.zeros((3, 4, 4), np.uint8))


def lungs_beside(said: Prediction) -> Prediction:
    """With an outline that another package drew on the same image."""
    lungs = Segment("Lungs", STRUCTURE, LUNG, (70, 170, 255), 5000, 0.93, 0.08, area_share=0.2514, area_mm2=51234.56)
    by = Provenance(**{**{name: getattr(PROVENANCE, name) for name in PROVENANCE.__struct_fields__},
                       "package": "lungs", "package_sha256": "ef" * 32})  # fmt: skip
    mask = np.ones((1, 4, 4), np.uint8)
    return Prediction(
        said.findings, said.activation_maps, said.embedding, said.warnings, (lungs,), mask, segmented_by=by
    )
