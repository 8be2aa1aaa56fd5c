"""What a model could use instead of anatomy: statistics of one number each, and how well each alone tells the label.

A network takes what is easiest (Geirhos et al., Shortcut learning in deep neural networks, Nature Machine Intelligence
2020): of radiographs that is the scanner and the hospital before the disease (Zech et al., PLOS Medicine 2018).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from compression import roc, splits
from compression.columns import numbers

BAND = (0.35, 0.65)  # an area under the curve outside of it is flagged
_BLACK, _WHITE = 8, 247  # gray levels of 0 to 255: black and white after a JPEG, too
_BORDER = 0.04  # of the shorter side
_VALUES = 12  # a column with more groups is no grouping
TELLS_ALL = "its groups tell the label of every image"
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
        Median of the statistic among the two; NaN for groups.
    flagged
        Outside `BAND`, and the interval excludes 0.5.
    known
        Share of the images that it was judged on: those that have a value.
    """

    name: str
    kind: str
    auc: float
    low: float
    high: float
    positive: float
    negative: float
    flagged: bool
    known: float = 1.0

    def in_words(self) -> str:
        """With what it is judged on, where that is not every image."""
        part = "" if self.known == 1 else f" on the {self.known:.1%} that have a value"
        return f"{self.name} (AUC {self.auc:.2f}{part})"

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


def auc(values: np.ndarray, positive: np.ndarray, patients: np.ndarray) -> tuple[float, float, float]:
    """Area under the curve with its 95 % interval over patients, as `compression.roc` has it.

    Parameters
    ----------
    values, positive, patients
        float, bool and identifiers ``(count,)``; both classes must be there.
    """
    return roc.auc_interval(roc.delong(values[None], positive, patients))


def rank(
    statistics: Mapping[str, np.ndarray], positive: np.ndarray, patients: np.ndarray, kind: str
) -> list[Confounder]:
    """Each statistic that varies, against the label, the most telling first."""
    found = []
    for name, values in statistics.items():
        if np.ptp(values) > 0:
            medians = float(np.median(values[positive])), float(np.median(values[~positive]))
            found.append(_confounder(name, kind, values, positive, patients, medians))
    return sorted(found, key=lambda each: -abs(each.auc - 0.5))


def columns(
    rows: list[dict[str, str]], positive: np.ndarray, patients: np.ndarray
) -> tuple[list[Confounder], dict[str, str]]:
    """Each column of the list: numbers as they are, groups by their share of positives (which flatters rare ones).

    Numbers are judged on the images that have one. Whether a value is given at all is a statistic of its own: of a
    column of words, the empty ones are a group. A column that is the same everywhere tells nothing.

    Returns
    -------
    The columns judged, the most telling first; and name -> reason of those whose values could not be.
    """
    found: list[Confounder] = []
    unjudged: dict[str, str] = {}
    for name in rows[0]:
        words = np.array([row[name] for row in rows])
        if name in _NOT_COLUMNS or len(set(words.tolist())) == 1:
            continue
        scale = numbers(words)
        known = words != "" if scale is None else ~np.isnan(scale)
        judged = _values(name, words, scale, known, positive, patients)
        if isinstance(judged, str):
            unjudged[name] = judged
        else:
            found.append(judged)
        if known.any() and not known.all() and (scale is not None or name in unjudged):
            found.append(_by_group(f"{name} is given", known.astype(int), positive, patients))
    return sorted(found, key=lambda each: -abs(each.auc - 0.5)), unjudged


def _values(
    name: str,
    words: np.ndarray,
    scale: np.ndarray | None,
    known: np.ndarray,
    positive: np.ndarray,
    patients: np.ndarray,
) -> Confounder | str:
    """A column's values against the label, or why they can't be judged."""
    given = words[known]
    if len(given) < 2:
        return "given for one image at most"
    is_measured = scale is not None and bool((scale[known] % 1 != 0).any())
    if len(set(given.tolist())) == len(given) and not is_measured:
        return "another value for each image, as an identifier has"
    if scale is not None:
        values, of_known = scale[known], positive[known]
        if of_known.all() or not of_known.any():
            return "given for images of one class only"
        medians = float(np.median(values[of_known])), float(np.median(values[~of_known]))
        return _confounder(name, "list", values, of_known, patients[known], medians, float(known.mean()))
    names, group, counts = np.unique(words, return_inverse=True, return_counts=True)
    names, group = np.unique(np.where(counts < _RARE, "(rare)", names)[group], return_inverse=True)
    if len(names) == 1:
        return f"no value has {_RARE} images"
    if len(names) > _VALUES:
        return f"{len(names)} groups, and more than {_VALUES} are no grouping"
    if all(len(set(positive[group == each].tolist())) == 1 for each in range(len(names))):
        return TELLS_ALL
    return _by_group(name, group, positive, patients)


def _by_group(name: str, group: np.ndarray, positive: np.ndarray, patients: np.ndarray) -> Confounder:
    """Groups, int ``(count,)`` from 0 on, each by its share of positives."""
    shares = np.bincount(group, positive) / np.bincount(group)
    return _confounder(name, "list", shares[group], positive, patients, (float("nan"), float("nan")))


def rows(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """Of a table: name, kind, area with its interval, both medians, share of images with a value, and a flag.

    ``found``: confounders by kind, as `Confounder.as_json` has them.
    """
    return [
        (
            each["name"],
            each["kind"],
            f"{each['auc']:.3f} [{each['low']:.3f}, {each['high']:.3f}]",
            *("" if each[side] is None else f"{each[side]:.4g}" for side in ("positive", "negative")),
            f"{each['known']:.1%}",
            "flagged" if each["flagged"] else "",
        )
        for kind in ("stored", "prepared", "list")
        for each in found[kind]
    ]


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
    return round(auc(scores, positive, patients)[0], 4)


def _confounder(
    name: str,
    kind: str,
    values: np.ndarray,
    positive: np.ndarray,
    patients: np.ndarray,
    medians: tuple[float, float],
    known: float = 1.0,
) -> Confounder:
    area, low, high = auc(values, positive, patients)
    flagged = not BAND[0] <= area <= BAND[1] and not low <= 0.5 <= high
    area, low, high, one, other, known = (round(each, 4) for each in (area, low, high, *medians, known))
    return Confounder(name, kind, area, low, high, one, other, flagged, known)
