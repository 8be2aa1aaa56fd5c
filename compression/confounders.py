"""What a model could use instead of anatomy: statistics of one number each, and how well each alone tells the label.

A network takes what is easiest (Geirhos et al., Shortcut learning in deep neural networks, Nature Machine Intelligence
2020): of radiographs that is the scanner and the hospital before the disease (Zech et al., PLOS Medicine 2018).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from compression import splits

BAND = (0.35, 0.65)  # an area under the curve outside of it is flagged
_BLACK, _WHITE = 8, 247  # gray levels of 0 to 255: black and white after a JPEG, too
_BORDER = 0.04  # of the shorter side
_VALUES = 12  # a column with more groups is no grouping
_RARE = 10  # values with fewer images are one group: of a few images, any share of positives is chance
# Columns of a list that name an image, say the label in other words, or are measured from the image anyway.
_NOT_COLUMNS = {
    "file", "mask", "label", "sublabel", "finding", "patient_id", "exact_duplicate_of", "original_sha256",
    "original_width", "original_height", "width", "height", "split",
}  # fmt: skip


@dataclass(frozen=True)
class Confounder:
    """One statistic against the label.

    Attributes
    ----------
    name, kind
        ``kind``: ``stored`` (the image as it is), ``prepared`` (as the network gets it) or ``list`` (a column).
    auc, low, high
        Area under the curve of the statistic alone, positive label against the rest, with its 95 % interval.
    positive, negative
        Median of the statistic among the two; NaN for columns of words.
    flagged
        Outside `BAND`, and the interval excludes 0.5.
    """

    name: str
    kind: str
    auc: float
    low: float
    high: float
    positive: float
    negative: float
    flagged: bool

    def as_json(self) -> dict[str, Any]:
        return {
            name: None if isinstance(value, float) and np.isnan(value) else value
            for name, value in asdict(self).items()
        }


def measure(pixels: np.ndarray) -> dict[str, float]:
    """Statistics of one image ``(rows, columns)`` with gray levels from 0 to 255."""
    image = pixels.astype(np.float32)
    edge = max(1, round(_BORDER * min(image.shape)))
    frame = np.concatenate(
        [
            image[:edge].ravel(),
            image[-edge:].ravel(),
            image[edge:-edge, :edge].ravel(),
            image[edge:-edge, -edge:].ravel(),
        ]
    )
    contrast = float(image.std())
    sharpness = float(np.abs(np.diff(image, axis=1)).mean()) if image.shape[1] > 1 else 0.0
    return {
        "mean": float(image.mean()),
        "contrast": contrast,
        "black share": float((image <= _BLACK).mean()),
        "white share": float((image >= _WHITE).mean()),
        "sharpness": sharpness,
        "sharpness / contrast": sharpness / contrast if contrast > 0 else 0.0,
        "border": float(frame.mean()),
    }


def geometry(row: Mapping[str, str], shape: tuple[int, ...], file_bytes: int) -> dict[str, float]:
    """Size of the original where the list has it, else of the file, in pixels; bytes of the file per pixel."""
    rows, columns = float(shape[0]), float(shape[1])
    try:
        width, height = float(row["original_width"]), float(row["original_height"])
    except (KeyError, ValueError):
        width, height = columns, rows
    return {
        "width": width,
        "height": height,
        "aspect ratio": width / max(height, 1.0),
        "file bytes per pixel": file_bytes / (rows * columns),
    }


def auc(values: np.ndarray, positive: np.ndarray) -> tuple[float, float, float]:
    """Area under the curve with a 95 % interval (Hanley & McNeil, Radiology 1982).

    Parameters
    ----------
    values, positive
        float and bool ``(count,)``; both classes must be there.
    """
    ones, zeros = int(positive.sum()), int((~positive).sum())
    area = float((rankdata(values)[positive].sum() - ones * (ones + 1) / 2) / (ones * zeros))
    better = max(area, 1 - area)
    q1, q2 = better / (2 - better), 2 * better**2 / (1 + better)
    variance = (
        better * (1 - better) + (ones - 1) * (q1 - better**2) + (zeros - 1) * (q2 - better**2)
    ) / (ones * zeros)  # fmt: skip
    half = 1.96 * float(np.sqrt(max(variance, 0.0)))
    return area, max(area - half, 0.0), min(area + half, 1.0)


def rank(statistics: Mapping[str, np.ndarray], positive: np.ndarray, kind: str) -> list[Confounder]:
    """Each statistic that varies, against the label, the most telling first."""
    found = []
    for name, values in statistics.items():
        if np.ptp(values) > 0:
            medians = float(np.median(values[positive])), float(np.median(values[~positive]))
            found.append(_confounder(name, kind, values, positive, medians))
    return sorted(found, key=lambda each: -abs(each.auc - 0.5))


def columns(rows: list[dict[str, str]], positive: np.ndarray) -> list[Confounder]:
    """Each column of the list: numbers as they are, groups by their share of positives (which flatters rare ones).

    Identifiers (another value for each image) are left out, and words that tell the label of every image.
    """
    found = []
    for name in rows[0]:
        words = np.array([row[name] for row in rows])
        if name in _NOT_COLUMNS or len(set(words.tolist())) in (1, len(words)):
            continue
        if (numbers := _numbers(words)) is not None:
            medians = float(np.median(numbers[positive])), float(np.median(numbers[~positive]))
            found.append(_confounder(name, "list", numbers, positive, medians))
            continue
        values, number, counts = np.unique(words, return_inverse=True, return_counts=True)
        values, number = np.unique(np.where(counts < _RARE, "(rare)", values)[number], return_inverse=True)
        if 1 < len(values) <= _VALUES:
            shares = np.array([positive[number == each].mean() for each in range(len(values))])
            if set(shares.tolist()) == {0.0, 1.0}:
                continue
            found.append(_confounder(name, "list", shares[number], positive, (float("nan"), float("nan"))))
    return sorted(found, key=lambda each: -abs(each.auc - 0.5))


def together(statistics: Mapping[str, np.ndarray], positive: np.ndarray, patients: np.ndarray) -> float | None:
    """Area under the curve of all statistics in one logistic regression, on patients that it was not fitted on."""
    table = np.stack([values for values in statistics.values() if np.ptp(values) > 0], axis=1)
    folds = splits.folds_or_none(positive.astype(str), patients, 5)
    if folds is None:
        return None
    scores = np.zeros(len(positive))
    for training, held in folds:
        model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
        scores[held] = model.fit(table[training], positive[training]).decision_function(table[held])
    return round(auc(scores, positive)[0], 4)


def _confounder(
    name: str, kind: str, values: np.ndarray, positive: np.ndarray, medians: tuple[float, float]
) -> Confounder:
    area, low, high = auc(values, positive)
    flagged = not BAND[0] <= area <= BAND[1] and not low <= 0.5 <= high
    area, low, high, one, other = (round(each, 4) for each in (area, low, high, *medians))
    return Confounder(name, kind, area, low, high, one, other, flagged)


def _numbers(words: np.ndarray) -> np.ndarray | None:
    try:
        values = words.astype(float)
    except ValueError:
        return None
    return values if np.isfinite(values).all() else None
