"""What a model said about an image, and what said it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
import numpy as np


def percent(probability: float) -> str:
    """For people; 0 and 100 % are kept for certainty, which no model has."""
    return in_percent(min(max(probability, 0.001), 0.999), 1)


def in_percent(share: float, digits: int = 0) -> str:
    """Of 0.314: "31 %"; with a space, as numbers and their units are written (ISO 80000-1)."""
    return f"{share * 100:.{digits}f} %"


def rounded_percent(probability: float) -> str:
    """The same at a glance: a digit after the point only near the ends."""
    digits = 1 if probability < 0.1 or probability > 0.9 else 0
    return in_percent(min(max(probability, 0.001), 0.999), digits)


class Code(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A coded concept: Code Value, Coding Scheme Designator, Code Meaning (DICOM PS3.3 section 8)."""

    value: str
    scheme: str
    meaning: str


class Finding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One finding that the model looked for, present or not.

    ``probability`` is calibrated, in [0, 1]; ``positive`` is ``probability >= threshold``, where the
    threshold is the named operating point of the artifact that ran. ``unsure``: the prediction set is not just that
    decision; what is not positive then is reported as neither present nor absent. ``map_share``: how much of its
    activation map lies inside the segments that accompany it, in [0, 1], None where that was not looked at;
    ``map_withheld``: too little, so the map is not shown. ``heads``: the probabilities that the heads of an ensemble
    give, from the lowest on; none where the package has no ensemble. ``prediction_set``: the answers that the
    probability is usual for; it holds the truth in a share ``coverage`` of the images of each class. Both are None
    where the package has no conformal quantiles.
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
    map_share: float | None = None
    map_withheld: bool = False
    heads: tuple[float, ...] = ()
    prediction_set: tuple[Literal["absent", "present"], ...] | None = None
    coverage: float | None = None

    @property
    def reported_as(self) -> Literal["present", "absent", "indeterminate"]:
        if self.positive:
            return "present"
        return "indeterminate" if self.unsure else "absent"

    @property
    def certainty(self) -> str:
        """How sure the model is, in sentences."""
        sentence = (
            f"Calibrated probability {percent(self.probability)}; reported as present from {percent(self.threshold)} "
            f"(operating point {self.operating_point})."
        )
        if self.heads:
            sentence += (
                f" {len(self.heads)} heads that learned from other samples of the patients give "
                f"{percent(self.heads[0])} to {percent(self.heads[-1])}."
            )
        return sentence


class Segment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One segment that a model drew, in the terms of the Segmentation IOD (PS3.3 section C.8.20.4), and its size.

    ``voxels`` counts the source's own (of an image, its pixels); ``mean_probability`` is over them, and
    ``uncertain_share`` the share of them whose probability is below `SURE`; both are 0 where there are none. Of a
    volume, ``volume_ml``; of an image, ``area_share`` of its pixels, and ``area_mm2`` where its spacing is known
    (that at the detector, where the image states no other).
    """

    label: str
    category: Code
    type: Code
    color: tuple[int, int, int]
    voxels: int
    mean_probability: float
    uncertain_share: float
    modifier: Code | None = None
    volume_ml: float | None = None
    area_share: float | None = None
    area_mm2: float | None = None

    @property
    def size(self) -> str:
        """For people: "1.62 mL", or "31.4 % of the image"."""
        if self.volume_ml is not None:
            return f"{self.volume_ml:.2f} mL"
        return f"{in_percent(self.area_share or 0.0, 1)} of the image"

    @property
    def certainty(self) -> str:
        """How large it is, and how sure the model, in a sentence."""
        return (
            f"{self.label}: {self.size}, mean probability {percent(self.mean_probability)}; "
            f"{in_percent(self.uncertain_share, 1)} of it has a probability below {in_percent(SURE)}."
        )


OUTSIDE_VALIDATED_USE = "Outside validated use"  # how a warning begins that says so
AGE_NOT_STATED = "The age is not stated"  # so nobody knows whether it is within
VIEW_NOT_STATED = "The view position is not stated"
NOT_UPRIGHT = "The image is not upright"
REVIEW_REQUIRED = "Review required"  # as above
SURE = 0.8  # a probability from which a voxel counts as certain
SAME_SIZE = 0.1  # a segment counts as the same where its size differs by this share at the most


@dataclass(frozen=True)
class Prediction:
    """What was found in one image or volume, what was drawn in it, and the maps behind the findings.

    Attributes
    ----------
    findings
        One per finding of the package's manifest, in its order; none of a segmentation.
    activation_maps
        label -> float32 ``(rows, columns)`` evidence in [0, 1] on the model's coarse grid; 0 is none and
        1 is the package's reference strength. It covers the whole image. One that is withheld is not there.
    embedding
        float32 ``(n,)``: the pooled features of the network.
    warnings
        Sentences that must be shown with the result, such as "outside validated use".
    segments
        One per segment of the manifest of the package that drew them, in its order.
    mask
        uint8 ``(images, rows, columns)``: the number of the segment from 1 on, 0 where there is none, on the grid of
        the source images and in their order; None where nothing draws segments.
    probabilities
        float32 ``(segments, images, rows, columns)`` on the same grid, what lies beyond the network's view being 0; a
        view that is not contiguous. None where there is no mask.
    segmented_by
        Who drew the segments, where that is another package than the one that made the findings.
    """

    findings: tuple[Finding, ...]
    activation_maps: dict[str, np.ndarray] = field(repr=False)
    embedding: np.ndarray = field(repr=False)
    warnings: tuple[str, ...] = ()
    segments: tuple[Segment, ...] = ()
    mask: np.ndarray | None = field(default=None, repr=False)
    probabilities: np.ndarray | None = field(default=None, repr=False)
    segmented_by: Provenance | None = None

    @property
    def positive(self) -> bool:
        return any(finding.positive for finding in self.findings)

    @property
    def urgent(self) -> bool:
        return any(finding.positive and finding.urgent for finding in self.findings)


class Provenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which model, file, runtime and device made a prediction.

    ``package_sha256`` is of the package file, ``artifact_sha256`` of the network inside it;
    ``receipt`` identifies the proof that this backend reproduces the package's golden vectors here;
    ``made_at`` is ISO 8601 with the offset from UTC; ``intended_use`` and ``not_for`` come from the manifest.
    ``safe_mode``: the level of `appliance.safe_mode` under which it was made.
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
    safe_mode: Literal["none", "banner", "review"] = "none"

    def to_dict(self) -> dict[str, Any]:
        return msgspec.to_builtins(self)


class Outlines(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Segments as the ledger keeps them: who drew them, and on how many slices (of an image, 1)."""

    segments: tuple[Segment, ...]
    provenance: Provenance
    slices: int
