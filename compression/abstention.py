"""What is won when a model keeps silent where it is least sure: error rate over the share of images answered.

A measure of doubt is of use where its curve falls faster than that of keeping silent at random, which stays level.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from compression import rates
from compression.subgroups import Sample, rounded

SHARES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5)
_LEAST = 1e-6


def curve(wrong: np.ndarray, doubt: np.ndarray) -> np.ndarray:
    """Error rate among the ``k + 1`` least doubtful images, for each k ``(images,)``; of equal doubts, their mean."""
    order = np.argsort(doubt, kind="stable")
    _, group = np.unique(doubt[order], return_inverse=True)
    even = np.bincount(group, wrong[order]) / np.bincount(group)
    return np.asarray(np.cumsum(even[group]) / np.arange(1, len(doubt) + 1))


def near_threshold(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """Doubt without an ensemble: how near a probability lies to the threshold, in logits, negated."""

    def logit(value: np.ndarray) -> np.ndarray:
        inside = np.clip(value, _LEAST, 1 - _LEAST)
        return np.asarray(np.log(inside / (1 - inside)))

    return -np.abs(logit(probabilities) - logit(np.array(threshold)))


def measure(sample: Sample, apart: np.ndarray, limit: float, threshold: float) -> dict[str, Any]:
    """How an ensemble's spread does as a measure of doubt, beside the distance from the threshold.

    Parameters
    ----------
    apart
        The spread of the heads' probabilities ``(images,)``.
    limit
        Above it the device says that it is unsure.

    Returns
    -------
    ``shares`` with the error rates of both measures there; ``area`` under each curve, and of keeping silent at random
    and in the best order there is; at the limit the share answered, and the errors among what is answered and among the
    rest, ``[value, low, high]``.
    """
    wrong = sample.said != sample.labels
    doubts = {"ensemble": apart, "threshold": near_threshold(sample.scores, threshold)}
    curves = {name: curve(wrong, doubt) for name, doubt in doubts.items()}
    places = [max(round(share * len(wrong)), 1) - 1 for share in SHARES]
    sure = apart <= limit
    return {
        "shares": list(SHARES),
        "error_rates": {name: [round(float(each[place]), 4) for place in places] for name, each in curves.items()},
        "area": {
            **{name: round(float(each.mean()), 5) for name, each in curves.items()},
            "random": round(float(wrong.mean()), 5),
            "best": round(float(curve(wrong, wrong.astype(float)).mean()), 5),
        },
        "at_limit": {
            "limit": limit,
            "answered": round(float(sure.mean()), 4),
            **{
                name: rounded(rates.wilson(rates.rate(wrong[chosen], sample.patients[chosen])))
                for name, chosen in (("errors_answered", sure), ("errors_unsure", ~sure))
                if chosen.any()
            },
        },
    }
