"""Areas under ROC curves with DeLong's variance, and two models or two decisions on the same images.

A patient may have several images, which are no independent evidence. So DeLong's variance is summed over patients
(Obuchowski, Biometrics 1997); where each patient has one image, it is DeLong's, digit for digit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

_NORMAL = NormalDist()
Z95 = _NORMAL.inv_cdf(0.975)
_ZERO = 1e-12


@dataclass(frozen=True)
class Areas:
    """Areas under the ROC curves of some models on the same images.

    Attributes
    ----------
    value
        ``(models,)``.
    covariance
        ``(models, models)``.
    positive, negative
        Patients with a positive image, and with a negative one.
    """

    value: np.ndarray
    covariance: np.ndarray
    positive: int
    negative: int


def delong(scores: np.ndarray, labels: np.ndarray, patients: np.ndarray) -> Areas:
    """Areas under ROC curves with their covariance (DeLong, DeLong & Clarke-Pearson, Biometrics 1988).

    By midranks (Sun & Xu, IEEE Signal Processing Letters 2014), summed over patients (Obuchowski, Biometrics 1997).

    Parameters
    ----------
    scores
        ``(models, images)``; higher means more likely positive. A tie of a positive and a negative counts one half.
    labels, patients
        bool and identifiers ``(images,)``; both classes must be there.
    """
    positive, negative = int(labels.sum()), int((~labels).sum())
    among_all = midranks(scores)
    within = np.empty(scores.shape)
    within[:, labels], within[:, ~labels] = midranks(scores[:, labels]), midranks(scores[:, ~labels])
    # Of a positive image: the share of negatives below it. Of a negative one: the share of positives above it.
    placed = (among_all - within) / np.where(labels, negative, positive)
    placed[:, ~labels] = 1.0 - placed[:, ~labels]
    value = placed[:, labels].mean(axis=1)
    names, index = np.unique(patients, return_inverse=True)
    off = placed - value[:, None]
    by_positive, by_negative = (
        np.stack([np.bincount(index, row * chosen, len(names)) for row in off]) for chosen in (labels, ~labels)
    )
    counts = [len(np.unique(index[chosen])) for chosen in (labels, ~labels)]
    one, other = (count / max(count - 1, 1) for count in counts)
    both = len(names) / max(len(names) - 1, 1) * by_positive @ by_negative.T / (positive * negative)
    covariance = (
        one * by_positive @ by_positive.T / positive**2
        + other * by_negative @ by_negative.T / negative**2
        + both
        + both.T
    )
    return Areas(value, covariance, counts[0], counts[1])


def midranks(scores: np.ndarray) -> np.ndarray:
    """Ranks from 1 on along the last axis, ``(images,)`` or ``(models, images)``; equal scores share their mean."""
    ranks = np.empty(scores.shape)
    for row, given in zip(np.atleast_2d(ranks), np.atleast_2d(scores), strict=True):
        _, place, counts = np.unique(given, return_inverse=True, return_counts=True)
        row[:] = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return ranks


def auc_difference(areas: Areas, one: int, other: int) -> tuple[float, float, float, float]:
    """How much larger one model's area is than the other's on the same images: value, 95 % interval, p (DeLong, 1988).

    p is two-sided. Where the two rank all images alike, the difference is 0 and p is 1.
    """
    contrast = np.zeros(len(areas.value))
    contrast[one], contrast[other] = 1.0, -1.0
    return wald(float(contrast @ areas.value), float(contrast @ areas.covariance @ contrast))


def wald(difference: float, variance: float) -> tuple[float, float, float, float]:
    """A difference, its 95 % interval and its two-sided p from a normal approximation."""
    error = math.sqrt(max(variance, 0.0))
    if error < _ZERO:
        return difference, difference, difference, 1.0 if abs(difference) < _ZERO else 0.0
    return (
        difference,
        difference - Z95 * error,
        difference + Z95 * error,
        math.erfc(abs(difference) / error / math.sqrt(2)),
    )


def wilson(hits: float, total: float) -> tuple[float, float, float]:
    """A rate with Wilson's 95 % score interval (JASA 1927)."""
    middle = (hits + Z95**2 / 2) / (total + Z95**2)
    half = Z95 * math.sqrt(hits * (total - hits) / total + Z95**2 / 4) / (total + Z95**2)
    return hits / total, max(middle - half, 0.0), min(middle + half, 1.0)


def mcnemar(only_one: int, only_other: int) -> float:
    """Two-sided exact p that two decisions on the same images differ (McNemar, Psychometrika 1947).

    Parameters
    ----------
    only_one, only_other
        Images on which only the one, and only the other, says yes (or is right).
    """
    discordant = only_one + only_other
    if discordant == 0:
        return 1.0
    fewer = min(only_one, only_other)
    below = sum(math.comb(discordant, count) for count in range(fewer + 1))
    return min(2 * below / 2**discordant, 1.0)


def paired_difference(only_one: int, only_other: int, total: int) -> tuple[float, float, float]:
    """How much larger one rate is than another on the same images, with its 95 % interval.

    By Wald's method with half an image added to each of the four cells (Agresti & Min, Statistics in Medicine 2005),
    which holds for few images, too.
    """
    gap = (only_one - only_other) / total
    one, other, count = only_one + 0.5, only_other + 0.5, total + 2
    middle = (one - other) / count
    error = math.sqrt(max(one + other - (one - other) ** 2 / count, 0.0)) / count
    return gap, max(middle - Z95 * error, -1.0), min(middle + Z95 * error, 1.0)
