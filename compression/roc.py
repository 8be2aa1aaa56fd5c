"""Areas under curves: of a ROC curve with its interval, average precision; what a device computes, too, is its."""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq

from appliance.roc import Z95, Areas, auc_difference, delong, wald

__all__ = ["Z95", "Areas", "auc_difference", "auc_interval", "average_precision", "delong", "wald"]

_FULL = 1.0 - 1e-12


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
