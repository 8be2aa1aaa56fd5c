"""Areas under ROC curves with DeLong's variance, rates, and two models or two decisions on the same images.

A patient may have several images, which are no independent evidence. So DeLong's variance is summed over patients
(Obuchowski, Biometrics 1997); where each patient has one image, it is DeLong's, digit for digit. Rates are counted down
to as many independent images as the patients' are worth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

_NORMAL = NormalDist()
Z95 = _NORMAL.inv_cdf(0.975)
_ZERO = 1e-12
Interval = tuple[float, float, float]  # a value, and its 95 % interval


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


def is_vague(areas: Areas, model: int) -> bool:
    """Whether DeLong's variance of an area says nothing: the classes don't overlap, or one has a single patient."""
    value = float(areas.value[model])
    alone = min(areas.positive, areas.negative) < 2
    return alone or float(areas.covariance[model, model]) < _ZERO**2 or not _ZERO < value < 1.0 - _ZERO


def auc_interval(areas: Areas, model: int = 0) -> Interval:
    """An area with its 95 % interval, on the logit scale (Pepe, 2003, 5.2), so that it stays below 1.

    Where the classes don't overlap, or one has a single patient, DeLong's variance says nothing; then Newcombe's score
    interval (method 5, Statistics in Medicine 2006), by patients, tells how little is known.
    """
    value, error = float(areas.value[model]), math.sqrt(max(float(areas.covariance[model, model]), 0.0))
    if is_vague(areas, model):
        return (value, *_score_interval(value, areas.positive, areas.negative))
    middle, half = math.log(value / (1.0 - value)), Z95 * error / (value * (1.0 - value))
    return value, 0.5 + math.tanh((middle - half) / 2) / 2, 0.5 + math.tanh((middle + half) / 2) / 2


def auc_difference(areas: Areas, one: int, other: int) -> tuple[float, float, float, float]:
    """How much larger one model's area is than the other's on the same images: value, 95 % interval, p (DeLong, 1988).

    p is two-sided. Where the two rank all images alike, the difference is 0 and p is 1. Where DeLong's variance of one
    says nothing, both come from the areas' intervals as if these were independent: too wide rather than too narrow.
    """
    contrast = np.zeros(len(areas.value))
    contrast[one], contrast[other] = 1.0, -1.0
    difference = float(contrast @ areas.value)
    if is_vague(areas, one) or is_vague(areas, other):
        return square_and_add(auc_interval(areas, one), auc_interval(areas, other))
    variance = float(contrast @ areas.covariance @ contrast)
    if abs(difference) < _ZERO and variance < _ZERO**2:
        return 0.0, 0.0, 0.0, 1.0
    return wald(difference, variance)


def square_and_add(one: Interval, other: Interval) -> tuple[float, float, float, float]:
    """How much larger one figure is than an independent other: value, 95 % interval, two-sided p, from their intervals.

    Newcombe's method 10 (Statistics in Medicine 1998; for any figures: Zou & Donner, Statistics in Medicine 2008); p is
    that of the interval (Altman & Bland, BMJ 2011).
    """
    (value, low, high), (value_2, low_2, high_2) = one, other
    difference = value - value_2
    below, above = math.hypot(value - low, high_2 - value_2), math.hypot(high - value, value_2 - low_2)
    p = _two_sided(difference, (below if difference > 0.0 else above) / Z95)
    return difference, difference - below, difference + above, p


def wald(difference: float, variance: float) -> tuple[float, float, float, float]:
    """A difference of two areas or rates, its 95 % interval and its two-sided p from a normal approximation.

    A variance of 0 is no certainty: it is that of 1 and 1, and says nothing. Then the interval is all that a difference
    can be, and p is 1.
    """
    error = math.sqrt(max(variance, 0.0))
    if error < _ZERO:
        return difference, -1.0, 1.0, 1.0
    return difference, difference - Z95 * error, difference + Z95 * error, _two_sided(difference, error)


def _two_sided(difference: float, error: float) -> float:
    return math.erfc(abs(difference) / error / math.sqrt(2))


def _score_interval(area: float, positive: int, negative: int) -> tuple[float, float]:
    """By halving: a device has no scipy."""
    weight = (positive + negative) / 2 - 1

    def inside(other: float) -> bool:
        spread = 1 + weight * ((1 - other) / (2 - other) + other / (1 + other))
        return (area - other) ** 2 <= Z95**2 * other * (1 - other) * spread / (positive * negative)

    bounds = []
    for outer in (0.0, 1.0):
        out, within = outer, area + (outer - area) * 1e-9
        for _ in range(60):
            middle = (out + within) / 2
            out, within = (out, middle) if inside(middle) else (middle, within)
        bounds.append(outer if area == outer else within)
    return bounds[0], bounds[1]


def rate(right: np.ndarray, patients: np.ndarray) -> Interval:
    """How often ``right`` is true, with Wilson's interval for as many images as the patients' are worth.

    Parameters
    ----------
    right, patients
        bool and identifiers ``(images,)``, at least one image.
    """
    effect = design_effect(right, patients)
    return wilson(float(right.sum()) / effect, len(right) / effect)


def design_effect(values: np.ndarray, patients: np.ndarray, least: float = 0.0) -> float:
    """How many images of these patients are worth an independent one (Kish, 1965, 8.2; Rao & Scott, Biometrics 1992).

    The variance of the mean by patients against that by images: 1 where each patient has one image, and never more than
    if all images of a patient were alike. Nearly equal values don't tell how alike a patient's images are; so two more
    patients count here, with as many images as others have, of which one has ``least`` on all, and the other 1.

    Parameters
    ----------
    values, patients
        Numbers from ``least`` to 1 and identifiers ``(images,)``, at least one image.
    """
    names, index, sizes = np.unique(patients, return_inverse=True, return_counts=True)
    size = float(sizes.mean())
    count = len(values) + 2 * size
    sums = np.append(np.bincount(index, values), [size * least, size])
    mean = float(sums.sum()) / count
    by_patients = float(((sums - mean * np.append(sizes, [size, size])) ** 2).sum())
    by_images = float(((values - mean) ** 2).sum()) + size * ((least - mean) ** 2 + (1.0 - mean) ** 2)
    patients_counted = len(names) + 2
    effect = patients_counted / (patients_counted - 1) * (count - 1) / count * by_patients / by_images
    return min(max(effect, 1.0), float((sizes**2).sum()) / len(values))


def wilson(hits: float, total: float) -> Interval:
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


def paired_difference(one: np.ndarray, other: np.ndarray, patients: np.ndarray) -> Interval:
    """How much more often one is right than another on the same images, with its 95 % interval.

    By Wald's method with half an image added to each of the four cells (Agresti & Min, Statistics in Medicine 2005),
    which holds for few images, too. The cells are counted down to as many images as the patients' are worth, by the
    variance over patients that Obuchowski has (Statistics in Medicine 1998).

    Parameters
    ----------
    one, other, patients
        bool, bool and identifiers ``(images,)``, at least one image.
    """
    effect = design_effect(one.astype(float) - other, patients, least=-1.0)
    gained, lost = float((one & ~other).sum()) / effect + 0.5, float((other & ~one).sum()) / effect + 0.5
    count = len(one) / effect + 2
    middle = (gained - lost) / count
    error = math.sqrt(max(gained + lost - (gained - lost) ** 2 / count, 0.0)) / count
    return float(one.mean() - other.mean()), max(middle - Z95 * error, -1.0), min(middle + Z95 * error, 1.0)
