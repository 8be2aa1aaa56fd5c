"""How far a drawn mask is from the truth, besides `compression.segmentation.overlap.dice`."""

from __future__ import annotations

import warnings

import monai.metrics
import numpy as np
import torch


def iou(one: np.ndarray, other: np.ndarray, segments: int) -> np.ndarray:
    """Intersection over union (Jaccard, 1912) of each segment, ``(segments,)``; 1 where neither has any of it."""
    values = []
    for number in range(1, segments + 1):
        a, b = one == number, other == number
        union = int((a | b).sum())
        values.append(int((a & b).sum()) / union if union else 1.0)
    return np.array(values)


def volume_error(drawn: np.ndarray, truth: np.ndarray, segments: int) -> np.ndarray:
    """By which share of the truth the volume of each segment is too large, or too small (below 0): ``(segments,)``.

    Where the truth has none of it, not a number for a segment that was not drawn either, else infinite.
    """
    values = []
    for number in range(1, segments + 1):
        have, want = int((drawn == number).sum()), int((truth == number).sum())
        values.append((have - want) / want if want else (np.inf if have else np.nan))
    return np.array(values)


def surface_distances(
    one: np.ndarray, other: np.ndarray, segments: int, spacing: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Between the surfaces of each segment, both ways, in the unit of ``spacing``: the mean, and the 95th percentile.

    ``(segments,)`` each; not a number where one of the masks has none of it. The mean over both surfaces is the average
    symmetric surface distance; the percentile that of the Hausdorff distance (Huttenlocher et al., 1993).
    """
    a, b = (
        torch.from_numpy(np.stack([mask == number for number in range(1, segments + 1)])[None]).float()
        for mask in (one, other)
    )
    mean = np.full(segments, np.nan)
    percentile = np.full(segments, np.nan)
    both = [number for number in range(segments) if a[0, number].any() and b[0, number].any()]
    if both:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # MONAI's at a call of its own
            near, far = _surface_distances(a[:, both], b[:, both], list(spacing))
        mean[both], percentile[both] = near, far
    return mean, percentile


def _surface_distances(a: torch.Tensor, b: torch.Tensor, spacing: list[float]) -> tuple[np.ndarray, np.ndarray]:
    near = monai.metrics.compute_average_surface_distance(
        a, b, include_background=True, symmetric=True, spacing=spacing
    )
    far = monai.metrics.compute_hausdorff_distance(a, b, include_background=True, percentile=95, spacing=spacing)
    return near[0].numpy(), far[0].numpy()
