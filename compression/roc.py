"""Areas under curves: of a ROC curve with DeLong's variance, of two models on the same images, average precision.

A patient may have several images, which are no independent evidence. So the variance is summed over patients
(Obuchowski, Biometrics 1997); where each patient has one image, it is DeLong's, digit for digit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm, rankdata

Z95 = float(norm.ppf(0.975))
_FULL = 1.0 - 1e-12


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
    among_all = rankdata(scores, axis=1)
    within = np.empty(scores.shape)
    within[:, labels], within[:, ~labels] = rankdata(scores[:, labels], axis=1), rankdata(scores[:, ~labels], axis=1)
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


def auc_interval(areas: Areas, model: int = 0) -> tuple[float, float, float]:
    """An area with its 95 % interval, on the logit scale (Pepe, 2003, 5.2), so that it stays below 1.

    Where the classes don't overlap, or one has a single patient, DeLong's variance says nothing; then Newcombe's score
    interval (method 5, Statistics in Medicine 2006) tells how little is known.
    """
    value, error = float(areas.value[model]), float(np.sqrt(max(areas.covariance[model, model], 0.0)))
    if not 1.0 - _FULL < value < _FULL or error == 0.0 or min(areas.positive, areas.negative) < 2:
        return (value, *_score_interval(value, areas.positive, areas.negative))
    middle, half = np.log(value / (1 - value)), Z95 * error / (value * (1 - value))
    return value, float(1 / (1 + np.exp(half - middle))), float(1 / (1 + np.exp(-half - middle)))


def auc_difference(areas: Areas, one: int, other: int) -> tuple[float, float, float, float]:
    """How much larger one model's area is than the other's on the same images: value, 95 % interval, p (DeLong, 1988).

    p is two-sided. Where the two rank all images alike, the difference is 0 and p is 1.
    """
    contrast = np.zeros(len(areas.value))
    contrast[one], contrast[other] = 1.0, -1.0
    return wald(float(contrast @ areas.value), float(contrast @ areas.covariance @ contrast))


def wald(difference: float, variance: float) -> tuple[float, float, float, float]:
    """A difference, its 95 % interval and its two-sided p from a normal approximation."""
    error = float(np.sqrt(max(variance, 0.0)))
    if error < 1.0 - _FULL:
        return difference, difference, difference, 1.0 if abs(difference) < 1.0 - _FULL else 0.0
    return (
        difference, difference - Z95 * error, difference + Z95 * error, float(2 * norm.sf(abs(difference) / error))
    )  # fmt: skip


def average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """The area under the steps of the precision-recall curve: mean precision at each positive image.

    Images of the same score are taken in together, so that their order in the file doesn't count.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    hits = np.cumsum(labels[order])[ends]
    return float((np.diff(hits, prepend=0) * hits / (ends + 1)).sum() / hits[-1])


def _score_interval(value: float, positive: int, negative: int) -> tuple[float, float]:
    weight = (positive + negative) / 2 - 1

    def beyond(area: float) -> float:
        spread = 1 + weight * ((1 - area) / (2 - area) + area / (1 + area))
        return (value - area) ** 2 - Z95**2 * area * (1 - area) * spread / (positive * negative)

    # At the value itself it is no bound, though an equality where the value is 0 or 1: so begin beside it.
    low = 0.0 if value <= 0.0 else float(brentq(beyond, 0.0, value * _FULL))
    high = 1.0 if value >= 1.0 else float(brentq(beyond, 1.0 - (1.0 - value) * _FULL, 1.0))
    return low, high
