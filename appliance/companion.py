"""Two packages on one image: what one outlines says whether the other looked at the right place."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
from PIL import Image as PillowImage

from appliance import render
from appliance.package import Package
from appliance.result import Finding, Prediction, Provenance, in_percent

_GRID = 256  # pixels a side, on which shares are counted: fine enough for a map of 7 x 7


def join(prediction: Prediction, drawn: Prediction, drawn_by: Provenance, least_share: float) -> Prediction:
    """Put the segments of one package beside the findings of another.

    The activation map of a finding is withheld where less than ``least_share`` of what it shows lies inside the
    segments: it would point at something that the model should not have looked at.
    """
    assert drawn.mask is not None
    findings, maps, warnings = [], dict(prediction.activation_maps), []
    names = " and ".join(segment.label.lower() for segment in drawn.segments)
    for finding in prediction.findings:
        share = map_share(maps[finding.label], drawn.mask[0])
        withheld = share is not None and share < least_share
        findings.append(msgspec.structs.replace(finding, map_share=share, map_withheld=withheld))
        if withheld:
            del maps[finding.label]
            warnings.append(_withheld(prediction.findings, finding, share or 0.0, names))
    return replace(
        prediction,
        findings=tuple(findings),
        activation_maps=maps,
        warnings=tuple(dict.fromkeys((*prediction.warnings, *warnings, *drawn.warnings))),
        segments=drawn.segments,
        mask=drawn.mask,
        probabilities=drawn.probabilities,
        segmented_by=drawn_by,
    )


def missing(package: Package) -> str:
    """The warning where the companion gave nothing."""
    names = " and ".join(spec.label.lower() for spec in package.manifest.segments)
    return f"The outline of the {names} failed, so what is shown was not checked against it."


def _withheld(findings: tuple[Finding, ...], finding: Finding, share: float, names: str) -> str:
    of = f" of {finding.label.lower()}" if len(findings) > 1 else ""
    return f"The activation map{of} is withheld: only {in_percent(share)} of it lies inside the {names}."


def map_share(activation_map: np.ndarray, mask: np.ndarray) -> float | None:
    """How much of what an activation map shows lies inside the segments, in [0, 1].

    Parameters
    ----------
    activation_map
        ``(rows, columns)`` evidence in [0, 1] on its coarse grid.
    mask
        ``(rows, columns)``, of the image that both cover; not 0 where a segment is.

    Returns
    -------
    None where the map shows nothing, or nothing was outlined.
    """
    shown = render.visible(render.finer(activation_map, (_GRID, _GRID)))
    total = float(shown.sum())
    if total <= 0.0 or not mask.any():
        return None
    covered = PillowImage.fromarray((mask > 0).astype(np.float32)).resize((_GRID, _GRID), PillowImage.Resampling.BOX)
    return float((shown * np.asarray(covered)).sum()) / total
