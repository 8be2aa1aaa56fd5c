"""Figures with intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np

# Of fewer patients a bootstrap's interval is too narrow, of one it has no width.
FEWEST_PATIENTS = 10


def resamples_of(patients: np.ndarray | Sequence[str], chance: np.random.Generator) -> Iterator[np.ndarray]:
    """Without end: indices of all images of as many patients as there are, drawn with replacement."""
    names, index = np.unique(patients, return_inverse=True)
    members = [np.flatnonzero(index == number) for number in range(len(names))]
    while True:
        yield np.concatenate([members[number] for number in chance.integers(0, len(names), len(names))])


def bootstrap(
    measure: Callable[[np.ndarray], Sequence[float]], labels: np.ndarray, patients: np.ndarray, resamples: int
) -> list[list[float | None]]:
    """Figures with their 95 % intervals by a percentile bootstrap over patients (Efron & Tibshirani, 1993).

    Parameters
    ----------
    measure
        Figures of the images at some indices. It is not asked where a resample lacks one of the two classes.
    labels, patients
        bool and str ``(count,)``.

    Returns
    -------
    ``[value, low, high]`` for each figure, rounded to four digits; low and high are None of fewer patients than
    `FEWEST_PATIENTS`.
    """
    values = [round(float(each), 4) for each in measure(np.arange(len(labels)))]
    if len(np.unique(patients)) < FEWEST_PATIENTS:
        return [[value, None, None] for value in values]
    drawn = [
        measure(chosen)
        for chosen in islice(resamples_of(patients, np.random.default_rng(0)), resamples)
        if 0 < labels[chosen].sum() < len(chosen)
    ]
    low, high = np.round(np.percentile(drawn, [2.5, 97.5], axis=0), 4).tolist()
    return [list(triple) for triple in zip(values, low, high, strict=True)]


def map_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Median over images of Pearson's correlation of two activation maps ``(images, rows, columns)``.

    A flat map is like another flat one, and unlike any that points somewhere.
    """
    return float(np.median([_correlation(a, b) for a, b in zip(one, other, strict=True)]))


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    flat = [np.ptp(each) == 0 for each in (one, other)]
    return float(all(flat)) if any(flat) else float(np.corrcoef(one.ravel(), other.ravel())[0, 1])
