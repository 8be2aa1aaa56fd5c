"""How far an augmented copy is from its original, and where a transform destroys what is to be seen.

Some numbers are of gray levels, from original and copy. Others are of geometry: a grid of cells goes through the same
transform beside the image, so that it is known which part of the original is where.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from compression.augment import Augmentation
from compression.augment_policy import MOST_DEGREES

_CELLS = 15  # along each side: 225 cells, which a byte can number; 0 is what lies outside the original
_SIGMA, _C1, _C2 = 1.5, (0.01 * 255) ** 2, (0.03 * 255) ** 2  # of the structural similarity, as in its paper
_OFTEN = 0.05  # share of copies beyond a limit from which on it is worth a warning


@dataclass(frozen=True)
class Distortion:
    """One copy against its original.

    Attributes
    ----------
    similarity
        Mean structural similarity (Wang et al., IEEE TIP 2004), 1 for equal images; a shift alone lowers it much.
    sharpness
        Mean absolute gradient, the copy's over the original's: below 1 blurred, above 1 sharpened or noisy.
    dark, middle, bright
        Shift of the 1st, 50th and 99th percentile, in gray levels of 255.
    clipped
        Share of pixels that are at 0 or 255 in the copy, filling left out, less that in the original.
    cut
        Share of the original's area that is no longer there, in whole cells: one in 225 each.
    empty
        Share of the copy's area that is filled, with nothing of the original.
    turn
        Degrees, clockwise as the picture is seen, of the rotation in the closest linear map.
    mirrored
        Whether that map mirrors.
    """

    similarity: float
    sharpness: float
    dark: float
    middle: float
    bright: float
    clipped: float
    cut: float
    empty: float
    turn: float
    mirrored: bool


@dataclass(frozen=True)
class Limit:
    """A bound of one figure, and why there."""

    figure: str
    low: float
    high: float
    reason: str


LIMITS = (
    Limit("sharpness", 0.2, 5.0, "lines of a pixel or two, as of vessels, are blurred away or drown in noise"),
    Limit("clipped", -1.0, 0.25, "a quarter of the picture has become plain black or white"),
    Limit("cut", 0.0, 0.45, "the finding may lie in the part that is cut away, while the label stays"),
    Limit("empty", 0.0, 0.25, "a quarter of the picture is filling, which no scanner makes"),
    Limit("turn", -MOST_DEGREES, MOST_DEGREES, "no radiograph is taken at such a tilt"),
    Limit("mirrored", 0, 0, "the heart is on the other side"),
    Limit("dark", -128, 128, "half the gray scale"),
    Limit("middle", -100, 100, "lungs and soft tissue change places in brightness"),
    Limit("bright", -128, 128, "half the gray scale"),
)  # fmt: skip


def copy(transform: Augmentation, image: np.ndarray) -> tuple[np.ndarray, Distortion]:
    """An augmented copy of a uint8 image ``(rows, columns)`` and what it is against the original."""
    made = transform(image=image, mask=_grid(image.shape))
    return made["image"], measure(image, made["image"], made["mask"])


def measure(original: np.ndarray, changed: np.ndarray, cells: np.ndarray) -> Distortion:
    """Compare a copy with its original.

    Parameters
    ----------
    original, changed
        uint8 ``(rows, columns)``, of one size.
    cells
        uint8, of the copy's size: the number of the original's cell at each pixel, 0 for none.
    """
    shifts = np.percentile(changed, [1, 50, 99]) - np.percentile(original, [1, 50, 99])
    turn, mirrored = _turn(cells)
    return Distortion(
        similarity=round(structural_similarity(original, changed), 4),
        sharpness=round(_gradient(changed) / max(_gradient(original), 1e-6), 4),
        dark=round(float(shifts[0]), 1),
        middle=round(float(shifts[1]), 1),
        bright=round(float(shifts[2]), 1),
        clipped=round(_at_the_ends(changed[cells > 0]) - _at_the_ends(original), 4),
        cut=round(1.0 - len(np.setdiff1d(np.unique(cells), [0])) / _CELLS**2, 4),
        empty=round(float((cells == 0).mean()), 4),
        turn=round(turn, 1),
        mirrored=mirrored,
    )


def summary(measured: Sequence[Distortion]) -> dict[str, Any]:
    """Median, 5th and 95th percentile of each figure over some copies, and warnings where a limit is passed often."""
    table = {each.name: np.array([getattr(one, each.name) for one in measured], float) for each in fields(Distortion)}
    warnings = []
    for limit in LIMITS:
        beyond = (table[limit.figure] < limit.low) | (table[limit.figure] > limit.high)
        if beyond.mean() > _OFTEN:
            warnings.append(
                f"{limit.figure} beyond {limit.low:g} to {limit.high:g} in {beyond.mean():.0%} of the copies: "
                f"{limit.reason}"
            )
    percentiles = {
        name: [round(float(each), 4) for each in np.percentile(values, [5, 50, 95])] for name, values in table.items()
    }
    return {"copies": len(measured), "percentiles": percentiles, "warnings": warnings}


def in_words(measured: Distortion) -> str:
    """A caption: what differs, in few words."""
    parts = [f"similarity {measured.similarity:.2f}", f"sharpness x {measured.sharpness:.2f}"]
    parts += [f"{name} {value:+.0f}" for name, value in asdict(measured).items()
              if name in ("dark", "middle", "bright") and abs(value) >= 5]  # fmt: skip
    parts += [f"{name} {value:.0%}" for name, value in asdict(measured).items()
              if name in ("clipped", "cut", "empty") and value >= 0.005]  # fmt: skip
    if abs(measured.turn) >= 1:
        parts.append(f"turned {measured.turn:+.0f} degrees")
    return ", ".join([*parts, *(["mirrored"] if measured.mirrored else [])])


def structural_similarity(one: np.ndarray, other: np.ndarray) -> float:
    """Mean structural similarity of two uint8 images of one size, with a Gaussian window of 1.5 pixels."""
    a, b = one.astype(np.float32), other.astype(np.float32)
    mean_a, mean_b, square_a, square_b, product = _smoothed((a, b, a * a, b * b, a * b))
    variance_a, variance_b = square_a - mean_a**2, square_b - mean_b**2
    above = (2 * mean_a * mean_b + _C1) * (2 * (product - mean_a * mean_b) + _C2)
    below = (mean_a**2 + mean_b**2 + _C1) * (variance_a + variance_b + _C2)
    return float((above / below).mean())


def _smoothed(images: Iterable[np.ndarray]) -> list[np.ndarray]:
    return [gaussian_filter(image, _SIGMA) for image in images]


def _gradient(image: np.ndarray) -> float:
    down, right = np.gradient(image.astype(np.float32))
    return float((np.abs(down) + np.abs(right)).mean())


def _at_the_ends(image: np.ndarray) -> float:
    return float(((image == 0) | (image == 255)).mean()) if image.size else 0.0


def _grid(shape: tuple[int, ...]) -> np.ndarray:
    """The number of each pixel's cell, 1 to 225."""
    rows, columns = (np.arange(length) * _CELLS // length for length in shape)
    return (rows[:, None] * _CELLS + columns[None, :] + 1).astype(np.uint8)


def _turn(cells: np.ndarray) -> tuple[float, bool]:
    """Rotation in degrees, and whether it mirrors, of the linear map closest to where the whole cells went."""
    counts = np.bincount(cells.ravel(), minlength=_CELLS**2 + 1)
    usual = np.median(counts[1:][counts[1:] > 0]) if counts[1:].any() else np.inf
    there = np.flatnonzero(counts[1:] > 0.5 * usual) + 1
    if len(there) < 3:
        return 0.0, False
    y, x = np.indices(cells.shape)
    after = np.stack(
        [np.bincount(cells.ravel(), each.ravel(), _CELLS**2 + 1)[there] / counts[there] for each in (x, y)]
    )
    before = np.stack([(there - 1) % _CELLS, (there - 1) // _CELLS]).astype(float)
    before, after = (each - each.mean(axis=1, keepdims=True) for each in (before, after))
    linear = after @ np.linalg.pinv(before)
    mirrored = bool(np.linalg.det(linear) < 0)
    if mirrored:
        linear[:, 0] = -linear[:, 0]  # what is left is the turn beside a flip from left to right
    return float(np.degrees(np.arctan2(linear[1, 0] - linear[0, 1], linear[0, 0] + linear[1, 1]))), mirrored
