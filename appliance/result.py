"""What a model said about an image, and what said it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
import numpy as np


class Code(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A coded concept: Code Value, Coding Scheme Designator, Code Meaning (DICOM PS3.3 section 8)."""

    value: str
    scheme: str
    meaning: str


class Finding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One finding that the model looked for, present or not.

    ``probability`` is calibrated, in [0, 1]; ``positive`` is ``probability >= threshold``, where the
    threshold is the named operating point of the artifact that ran. ``unsure``: the prediction set is not just that
    decision; what is not positive then is reported as neither present nor absent.
    """

    label: str
    code: Code
    probability: float
    threshold: float
    operating_point: str
    positive: bool
    urgent: bool
    words: str
    unsure: bool = False

    @property
    def reported_as(self) -> Literal["present", "absent", "indeterminate"]:
        if self.positive:
            return "present"
        return "indeterminate" if self.unsure else "absent"


@dataclass(frozen=True)
class Prediction:
    """Findings of one image and the maps behind them.

    Attributes
    ----------
    findings
        One per finding of the package's manifest, in its order.
    activation_maps
        label -> float32 ``(rows, columns)`` evidence in [0, 1] on the model's coarse grid; 0 is none and
        1 is the package's reference strength. It covers the whole image.
    embedding
        float32 ``(n,)``: the pooled features of the network.
    warnings
        Sentences that must be shown with the findings, such as "outside validated use".
    """

    findings: tuple[Finding, ...]
    activation_maps: dict[str, np.ndarray] = field(repr=False)
    embedding: np.ndarray = field(repr=False)
    warnings: tuple[str, ...] = ()

    @property
    def urgent(self) -> bool:
        return any(finding.positive and finding.urgent for finding in self.findings)


class Provenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which model, file, runtime and device made a prediction.

    ``package_sha256`` is of the package file, ``artifact_sha256`` of the network inside it;
    ``receipt`` identifies the proof that this backend reproduces the package's golden vectors here;
    ``made_at`` is ISO 8601 with the offset from UTC; ``intended_use`` and ``not_for`` come from the manifest.
    """

    package: str
    version: str
    package_sha256: str
    artifact_sha256: str
    target: str
    backend: str
    device: str
    receipt: str
    software_version: str
    made_at: str
    intended_use: str
    not_for: tuple[str, ...]
    device_uid: str
    finding_site: Code | None = None

    def to_dict(self) -> dict[str, Any]:
        return msgspec.to_builtins(self)
