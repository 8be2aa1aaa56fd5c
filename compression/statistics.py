"""Figures with intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

# Of fewer patients a bootstrap's interval is too narrow, of one it has no width.
FEWEST_PATIENTS = 10


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
    names, index = np.unique(patients, return_inverse=True)
    if len(names) < FEWEST_PATIENTS:
        return [[value, None, None] for value in values]
    members = [np.flatnonzero(index == number) for number in range(len(names))]
    chance = np.random.default_rng(0)
    drawn = []
    for _ in range(resamples):
        chosen = np.concatenate([members[number] for number in chance.integers(0, len(names), len(names))])
        if 0 < labels[chosen].sum() < len(chosen):
            drawn.append(measure(chosen))
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
