"""How good answers were, against the truth: rates, area under the ROC curve, calibration, trend; each with n and a 95 %
interval. numpy alone: the device has no scipy. Where there is nothing to say of, None."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from appliance import roc
from appliance.roc import Z95

_BINS = 10
_LEAST_TREND, _LEAST_TREND_DAYS = 40, 60.0


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval, and of how many."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Bin:
    """Cases whose probability lies in a range: the mean of it, and how many turned out to have the finding."""

    low: float
    high: float
    said: float
    seen: Estimate


@dataclass(frozen=True)
class Calibration:
    """``bins`` that hold a case each at the least; ``ece``: mean distance of said and seen, weighted by cases (Naeini,
    2015). ``in_the_large``: how much more often there is the finding than said, in shares."""

    bins: list[Bin]
    ece: float
    in_the_large: Estimate


@dataclass(frozen=True)
class Trend:
    """A logistic line through right and wrong answers over time.

    ``change``: of the log odds in 30 days; ``now`` and ``ahead``: the rate of the line today and ``days`` later.
    """

    change: Estimate
    now: Estimate
    ahead: Estimate
    days: float

    @property
    def is_seen(self) -> bool:
        """Whether the interval of the change leaves out none at all."""
        return self.change.low > 0.0 or self.change.high < 0.0


def rate(right: np.ndarray, patients: np.ndarray) -> Estimate | None:
    """How often ``right`` is true, by patients as `appliance.roc.rate`; bool and identifiers ``(cases,)``."""
    if not len(right):
        return None
    return Estimate(*roc.rate(right, patients), len(right))


def auc(scores: np.ndarray, truth: np.ndarray, patients: np.ndarray) -> Estimate | None:
    """Area under the ROC curve, by patients as `appliance.roc.delong` and `auc_interval`; all ``(cases,)``."""
    if truth.all() or not truth.any():
        return None
    return Estimate(*roc.auc_interval(roc.delong(scores[np.newaxis], truth, patients)), len(truth))


def calibration(probabilities: np.ndarray, truth: np.ndarray, patients: np.ndarray) -> Calibration | None:
    """Reliability in ten ranges of the same width; all ``(cases,)``, and intervals by patients."""
    n = len(truth)
    if n == 0:
        return None
    place = np.minimum((probabilities * _BINS).astype(int), _BINS - 1)
    bins, error = [], 0.0
    for number in range(_BINS):
        inside = place == number
        seen = rate(truth[inside], patients[inside])
        if seen is not None:
            said = float(probabilities[inside].mean())
            bins.append(Bin(number / _BINS, (number + 1) / _BINS, said, seen))
            error += seen.n / n * abs(seen.value - said)
    seen = rate(truth, patients)
    assert seen is not None
    said = float(probabilities.mean())
    return Calibration(bins, error, Estimate(seen.value - said, seen.low - said, seen.high - said, n))


def corrected_sensitivity(
    hits: int, alarms: int, missed: int, cleared: int, share: float, studies: int
) -> Estimate | None:
    """Sensitivity where positive and negative answers are not verified equally often (Begg & Greenes, Biometrics 1983).

    Parameters
    ----------
    hits, alarms
        Verified positive answers that were right, and wrong.
    missed, cleared
        Verified negative answers that were wrong, and right.
    share, studies
        Of all studies those with a positive answer, and how many there are.

    Right as long as, among the studies of one answer, those that were verified are like the others. Where no verified
    answer was missed, or none was right, half a case is added to each of the four (Haldane, Annals of Human Genetics
    1956): else nothing would seem to be missed at all. None where no positive, or no negative answer was verified.
    """
    n, added = hits + alarms + missed + cleared, 0.0 if hits and missed else 0.5
    verified, verified_negative = hits + alarms + 2 * added, missed + cleared + 2 * added
    if not (0.0 < share < 1.0 and hits + alarms and missed + cleared):
        return None
    present, absent = (hits + added) / verified, (missed + added) / verified_negative
    odds = share * present / ((1.0 - share) * absent)
    variance = 1.0 / (studies * share * (1.0 - share))
    variance += (1.0 - present) / (verified * present) + (1.0 - absent) / (verified_negative * absent)
    middle, half = math.log(odds), Z95 * math.sqrt(variance)
    return Estimate(_expit(middle), _expit(middle - half), _expit(middle + half), n)


def trend(days: Sequence[float] | np.ndarray, right: Sequence[bool] | np.ndarray, ahead: float = 90.0) -> Trend | None:
    """A logistic regression of right answers on time, in days from now (the past is negative); None of too few or too
    short.

    With half a case of each kind added in the middle, so that it exists where all are right.
    """
    at, outcome = np.asarray(days, float), np.asarray(right, float)
    if len(at) < _LEAST_TREND or at.max() - at.min() < _LEAST_TREND_DAYS:
        return None
    x = np.concatenate([at, np.full(2, at.mean())]) / 30.0
    y, weight = np.concatenate([outcome, [0.0, 1.0]]), np.concatenate([np.ones(len(at)), [0.5, 0.5]])
    design, beta = np.stack([np.ones(len(x)), x], axis=1), np.array([_logit(min(max(y.mean(), 0.01), 0.99)), 0.0])
    for _ in range(50):
        p = 1.0 / (1.0 + np.exp(-np.clip(design @ beta, -30, 30)))
        information = (design * (weight * p * (1.0 - p))[:, None]).T @ design
        try:
            step = np.linalg.solve(information, design.T @ (weight * (y - p)))
        except np.linalg.LinAlgError:
            return None
        beta = beta + np.clip(step, -2.0, 2.0)
        if np.abs(step).max() < 1e-9:
            break
    covariance, n = np.linalg.inv(information), len(at)

    def at_month(month: float) -> Estimate:
        point = np.array([1.0, month])
        middle, half = float(point @ beta), Z95 * math.sqrt(float(point @ covariance @ point))
        return Estimate(_expit(middle), _expit(middle - half), _expit(middle + half), n)

    slope, half = float(beta[1]), Z95 * math.sqrt(float(covariance[1, 1]))
    return Trend(Estimate(slope, slope - half, slope + half, n), at_month(0.0), at_month(ahead / 30.0), ahead)


def _logit(value: float) -> float:
    return math.log(value / (1.0 - value))


def _expit(value: float) -> float:
    return 1.0 / (1.0 + math.exp(-value)) if value >= 0 else math.exp(value) / (1.0 + math.exp(value))
