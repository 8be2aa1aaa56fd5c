"""Areas under curves: of a ROC curve with its interval, average precision; what a device computes, too, is its."""

from __future__ import annotations

import numpy as np

from appliance.roc import Z95, Areas, auc_difference, auc_interval, delong, is_vague, square_and_add, wald

__all__ = [
    "Z95",
    "Areas",
    "auc_difference",
    "auc_interval",
    "average_precision",
    "delong",
    "is_vague",
    "square_and_add",
    "wald",
]


def average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """The area under the steps of the precision-recall curve: mean precision at each positive image.

    Images of the same score are taken in together, so that their order in the file doesn't count.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    hits = np.cumsum(labels[order])[ends]
    return float((np.diff(hits, prepend=0) * hits / (ends + 1)).sum() / hits[-1])
