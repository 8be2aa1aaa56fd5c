"""One study's value in each stream, from what its reading has in memory.

Costs some milliseconds for a radiograph of five million pixels: levels are taken from a grid of at most 512 x 512 of
them, sharpness and noise from nine patches at the image's own resolution.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from pydicom import Dataset

from appliance import image
from appliance.drift.streams import Value, category
from appliance.result import Prediction

_GRID = 512  # pixels along a side
_PATCH = 128
_FLAT = 0.02  # of the range: a row or column that varies by less is border
_NOISE = np.sqrt(np.pi / 2) / 6  # of the mean absolute response to the mask of `_noise`


@dataclass(frozen=True)
class Space:
    """Where the training images lie among the network's embeddings, from a principal component analysis.

    Attributes
    ----------
    mean
        float32 ``(features,)``.
    axes
        float32 ``(axes, features)``: principal axes, each divided by the standard deviation along it.
    rest
        The root mean square of what the axes leave of a training image's embedding.
    """

    mean: np.ndarray
    axes: np.ndarray
    rest: float

    @classmethod
    def of_package(cls, arrays: Mapping[str, np.ndarray], target: str) -> Space | None:
        """From `appliance.package.Package.drift`; None where it has none for the target."""
        if f"{target}/mean" not in arrays:
            return None
        mean, axes, rest = (arrays[f"{target}/{name}"] for name in ("mean", "axes", "rest"))
        return cls(mean, axes, float(rest.item()))

    def values(self, embedding: np.ndarray) -> dict[str, Value]:
        """How far an embedding lies from the training images within their axes, and beyond; about 1 is usual."""
        if embedding.shape != self.mean.shape or not np.isfinite(embedding).all():
            return {}
        offset = embedding.astype(np.float64) - self.mean
        along = self.axes @ offset
        norms = np.linalg.norm(self.axes, axis=1)
        inside = (self.axes / norms[:, None]) @ offset
        beyond = max(float(offset @ offset - inside @ inside), 0.0)
        return {"distance": float(np.sqrt(np.mean(along**2))), "novelty": math.sqrt(beyond) / self.rest}


def values(
    pixels: np.ndarray, header: Dataset, spacing: tuple[float, ...] | None, said: Prediction, space: Space | None
) -> dict[str, Value]:
    """By the names of `appliance.drift.streams`; what is not there can't be had.

    Parameters
    ----------
    pixels
        ``(rows, columns)``, or ``(slices, rows, columns)`` of a volume, whose middle slice stands for it.
    """
    shown = pixels[len(pixels) // 2] if pixels.ndim == 3 else pixels
    return {
        **of_header(header, spacing),
        **of_image(shown),
        **of_answer(said),
        **(space.values(said.embedding) if space is not None else {}),
    }


def of_header(header: Dataset, spacing: tuple[float, ...] | None) -> dict[str, Value]:
    taken = image.describe(header)["acquired_at"]
    maker, model = image.text(header, "Manufacturer"), image.text(header, "ManufacturerModelName")
    detector = image.text(header, "DetectorID") or image.text(header, "DeviceSerialNumber")
    return {
        "scanner": category(" ".join(filter(None, (maker, model, detector and f"({detector})")))),
        "age": image.age_years(header),
        "sex": category(image.text(header, "PatientSex").upper()),
        "manufacturer": category(maker),
        "model": category(model),
        "detector": category(detector),
        "kvp": _number(header, "KVP"),
        "exposure": _number(header, "Exposure"),
        "pixel_spacing": spacing[-1] if spacing else None,
        "view": category(image.text(header, "ViewPosition").upper()),
        "body_part": category(image.text(header, "BodyPartExamined").upper()),
        "hour": _hour(taken),
    }


def _number(header: Dataset, keyword: str) -> float | None:
    try:
        return float(image.text(header, keyword))
    except ValueError:
        return None


def _hour(taken: str) -> float | None:
    """Of `appliance.image.describe`'s time of acquisition."""
    try:
        hours, minutes = int(taken[11:13]), int(taken[14:16])
    except ValueError:
        return None
    return hours + minutes / 60 if hours < 24 and minutes < 60 else None


def of_image(pixels: np.ndarray) -> dict[str, Value]:
    """Of pixels as the network is given them, before its own steps; nothing of an image of one level."""
    step = max(-(-max(pixels.shape) // _GRID), 1)
    grid = np.asarray(pixels[::step, ::step], np.float32)
    low, dark, middle, bright, high = np.percentile(grid, (1, 25, 50, 75, 99))
    extent = float(high - low)
    rows, columns = pixels.shape
    if not extent > 0 or not math.isfinite(extent):
        return {"aspect": rows / columns}
    level = np.clip((grid - low) / extent, 0, 1)
    sharpness, noise = _detail(pixels, extent)
    return {
        "dark_quarter": float((dark - low) / extent),
        "median_level": float((middle - low) / extent),
        "bright_quarter": float((bright - low) / extent),
        "levels": extent,
        "contrast": float(level.std()),
        "sharpness": sharpness,
        "noise": noise,
        "clipped_dark": float((grid == grid.min()).mean()),
        "clipped_bright": float((grid == grid.max()).mean()),
        "collimation": _border(level),
        "aspect": rows / columns,
    }


def _detail(pixels: np.ndarray, extent: float) -> tuple[float, float]:
    """Mean absolute gradient, and standard deviation of noise (Immerkaer, 1996), both by the image's range."""
    gradients, responses = [], []
    starts = [np.linspace(0, max(size - _PATCH, 0), 3 if size > _PATCH else 1).astype(int) for size in pixels.shape]
    for row in starts[0]:
        for column in starts[1]:
            patch = np.asarray(pixels[row : row + _PATCH, column : column + _PATCH], np.float32)
            if min(patch.shape) < 3:
                continue
            gradients.append(np.abs(np.diff(patch, axis=0)).mean() + np.abs(np.diff(patch, axis=1)).mean())
            second = np.diff(np.diff(patch, 2, axis=0), 2, axis=1)
            responses.append(np.abs(second).mean())
    if not gradients:
        return math.nan, math.nan
    return float(np.mean(gradients)) / 2 / extent, float(_NOISE * np.mean(responses)) / extent


def _border(level: np.ndarray) -> float:
    """The share of the image outside of what varies: the rows and columns along its edges that are flat."""
    kept = 1.0
    for axis in (0, 1):
        varies = np.flatnonzero(level.std(axis=1 - axis) >= _FLAT)
        kept *= (varies[-1] - varies[0] + 1) / level.shape[axis] if len(varies) else 0.0
    return 1.0 - kept


def of_answer(said: Prediction) -> dict[str, Value]:
    """Of a classification its first finding; of a segmentation all segments together."""
    found: dict[str, Value] = {}
    if said.findings:
        first = said.findings[0]
        found = {
            "score": first.probability,
            "entropy": _entropy(first.probability),
            "prediction_set": None if first.prediction_set is None else str(len(first.prediction_set)),
            "unsure": "yes" if first.unsure else "no",
            "positive": "yes" if first.positive else "no",
        }
    if said.segments and said.mask is not None:
        voxels = sum(each.voxels for each in said.segments)
        found["outlined"] = voxels / said.mask.size
        if voxels:
            found["outline_doubt"] = sum(each.uncertain_share * each.voxels for each in said.segments) / voxels
    return found


def _entropy(probability: float) -> float:
    if not 0 < probability < 1:
        return 0.0
    return -probability * math.log2(probability) - (1 - probability) * math.log2(1 - probability)
