"""How much of an image preprocessing cuts: pixels that end at the lower or the upper end of the gray scale.

What is cut is one flat black or white, whatever it showed. Some of it is meant (air beside the patient, a marker); an
image that loses far more than the others of its set was exposed, windowed or collimated differently.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compression.problems import Problem, add

NAME = "clipped.csv"
_MUCH = 0.10  # below it an image is no outlier, however alike the others are
_FENCE = 3.0  # interquartile ranges above the third quartile: Tukey's far out


def ends(prepared: np.ndarray) -> tuple[float, float]:
    """Shares of an image's pixels at the lower and at the upper end.

    Parameters
    ----------
    prepared
        Float, any shape, from 0 to 1: as `appliance.preprocess.percentile_stretch` or `window` gives it.
    """
    return float((prepared <= 0.0).mean()), float((prepared >= 1.0).mean())


def summary(files: Sequence[str], shares: np.ndarray) -> dict[str, Any]:
    """The distribution over the images of a set, and those that lose far more than the others.

    Parameters
    ----------
    shares
        ``(images, 2)``: at the lower and at the upper end.
    """
    cut = shares.sum(axis=1)
    first, third = np.percentile(cut, [25, 75])
    limit = max(_MUCH, float(third + _FENCE * (third - first)))
    far = [index for index in np.argsort(-cut) if cut[index] > limit]
    return {
        "percentiles": {f"{each:g}": round(float(np.percentile(cut, each)), 4) for each in (5, 50, 95, 100)},
        "lower_end": round(float(shares[:, 0].mean()), 4),
        "upper_end": round(float(shares[:, 1].mean()), 4),
        "limit": round(limit, 4),
        "outliers": [
            {"file": files[index], "lower": round(lower, 4), "upper": round(upper, 4)}
            for index, (lower, upper) in ((each, shares[each].tolist()) for each in far)
        ],
    }  # fmt: skip


def check(data_set: str, files: Sequence[str], shares: np.ndarray, problems: list[Problem]) -> dict[str, Any]:
    """`summary`, its outliers among the problems."""
    found = summary(files, shares)
    examples = [
        f"{each['file']}: {each['lower']:.0%} black, {each['upper']:.0%} white after preprocessing"
        for each in found["outliers"]
    ]
    add(
        problems, "warning", data_set, "images that preprocessing clips far more than the others", examples,
        "look at them: a border, a burnt-in text or another exposure takes the range that the anatomy needs",
    )  # fmt: skip
    return found


def write(folder: Path, sets: Mapping[str, tuple[Sequence[str], np.ndarray]]) -> None:
    """Write a list of every image into a folder; ``sets``: data set -> files, and shares as `summary` takes them."""
    with (folder / NAME).open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["data_set", "file", "clipped", "black", "white"])
        for name, (files, shares) in sets.items():
            for image, (black, white) in zip(files, shares.tolist(), strict=True):
                rows.writerow([name, image, *(f"{each:.4f}" for each in (black + white, black, white))])


def in_words(found: dict[str, Any]) -> str:
    each = found["percentiles"]
    return (
        f"clipped pixels per image: median {each['50']:.1%}, 95 % of the images below {each['95']:.1%}, at most "
        f"{each['100']:.1%} (black {found['lower_end']:.1%}, white {found['upper_end']:.1%} in the mean); "
        f"{len(found['outliers'])} above {found['limit']:.0%}"
    )
