"""Sensitivity, specificity and what follows from them: intervals, differences, predictive values, likelihood ratios."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.stats import norm

from appliance import roc
from appliance.roc import Z95, Interval


class Rate(NamedTuple):
    """So many of so many; not whole numbers where images were counted down to independent ones."""

    hits: float
    total: float

    @property
    def value(self) -> float:
        return self.hits / self.total


def rate(right: np.ndarray, patients: np.ndarray) -> Rate:
    """How often ``right`` is true, counted as as many independent images as the patients' are worth.

    Parameters
    ----------
    right, patients
        bool and identifiers ``(images,)``, at least one image.
    """
    effect = roc.design_effect(right, patients)
    return Rate(float(right.sum()) / effect, len(right) / effect)


def wilson(given: Rate) -> Interval:
    """A rate with Wilson's 95 % score interval (JASA 1927)."""
    return roc.wilson(given.hits, given.total)


def difference(one: Rate, other: Rate) -> tuple[float, float, float, float]:
    """How much larger one rate is than an independent other: value, 95 % interval, two-sided p.

    The interval is Newcombe's (method 10, Statistics in Medicine 1998), p that of the score test (pooled z).
    """
    gap = one.value - other.value
    (_, low, high), (_, other_low, other_high) = wilson(one), wilson(other)
    below = np.hypot(one.value - low, other_high - other.value)
    above = np.hypot(high - one.value, other.value - other_low)
    pooled = (one.hits + other.hits) / (one.total + other.total)
    error = np.sqrt(pooled * (1 - pooled) * (1 / one.total + 1 / other.total))
    return gap, float(gap - below), float(gap + above), float(2 * norm.sf(abs(gap) / error)) if error > 0 else 1.0


def predictive_values(sensitivity: Rate, specificity: Rate, prevalence: float) -> tuple[Interval, Interval]:
    """What a positive and a negative result mean where the finding is so frequent: PPV and NPV with 95 % intervals.

    By Bayes' rule; the intervals are on the logit scale (Mercaldo, Lau & Zhou, Statistics in Medicine 2007). Where
    sensitivity or specificity is 0 or 1, both are drawn towards one half first (the paper's adjusted form).
    """
    if any(each.value in (0.0, 1.0) for each in (sensitivity, specificity)):
        sensitivity, specificity = (
            Rate(each.hits + Z95**2 / 2, each.total + Z95**2) for each in (sensitivity, specificity)
        )
    odds = prevalence / (1 - prevalence)
    missed, alarms = sensitivity.total - sensitivity.hits, specificity.total - specificity.hits
    return (
        _logit_interval(
            sensitivity.value * odds / (1 - specificity.value),
            (1 - sensitivity.value) / sensitivity.hits + specificity.value / alarms,
        ),
        _logit_interval(
            specificity.value / odds / (1 - sensitivity.value),
            sensitivity.value / missed + (1 - specificity.value) / specificity.hits,
        ),
    )


def likelihood_ratios(sensitivity: Rate, specificity: Rate) -> tuple[Interval, Interval]:
    """By how much a positive and a negative result change the odds of the finding (Simel et al., 1991).

    Where a rate is 0 or 1, half an image is added to each of the four counts, so that no ratio is infinite.
    """
    if any(each.value in (0.0, 1.0) for each in (sensitivity, specificity)):
        sensitivity, specificity = (Rate(each.hits + 0.5, each.total + 1) for each in (sensitivity, specificity))
    missed = Rate(sensitivity.total - sensitivity.hits, sensitivity.total)
    false_alarm = Rate(specificity.total - specificity.hits, specificity.total)
    return _ratio(sensitivity, false_alarm), _ratio(missed, specificity)


def _ratio(one: Rate, other: Rate) -> Interval:
    value = one.value / other.value
    spread = float(np.exp(Z95 * np.sqrt(1 / one.hits - 1 / one.total + 1 / other.hits - 1 / other.total)))
    return value, value / spread, value * spread


def _logit_interval(odds: float, variance: float) -> Interval:
    spread = float(np.exp(Z95 * np.sqrt(variance)))
    low, value, high = (each / (1 + each) for each in (odds / spread, odds, odds * spread))
    return value, low, high
