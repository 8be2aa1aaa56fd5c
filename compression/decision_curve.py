"""Is the model better than acting on everybody or on nobody, and than rules that don't look at the image?"""

from __future__ import annotations

import numpy as np


def net_benefit(probabilities: np.ndarray, labels: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """True positives an image less false positives, weighed by the odds of the threshold (Vickers & Elkin, 2006).

    Who would act at a probability of 10 % takes nine needless actions for one that is needed, so a false positive
    costs 1/9 of a true positive there. It holds at the prevalence of these very images.

    Parameters
    ----------
    probabilities, labels
        Calibrated probabilities and bool ``(images,)``.
    thresholds
        Probabilities from which on one acts ``(thresholds,)``, each between 0 and 1.

    Returns
    -------
    Array ``(thresholds,)``. Of treating nobody it is 0 everywhere.
    """
    acts = probabilities[None] >= thresholds[:, None]
    return _balance(acts[:, labels].sum(axis=1), acts[:, ~labels].sum(axis=1), len(labels), thresholds)


def treat_all(prevalence: float, thresholds: np.ndarray) -> np.ndarray:
    """Net benefit of acting on everybody ``(thresholds,)``: it crosses 0 where the threshold is the prevalence."""
    return _balance(prevalence, 1 - prevalence, 1, thresholds)


def gain(probabilities: np.ndarray, labels: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Net benefit above the better one of acting on everybody and on nobody ``(thresholds,)``: is the model of use?"""
    without = np.maximum(treat_all(float(labels.mean()), thresholds), 0.0)
    return net_benefit(probabilities, labels, thresholds) - without


def rules_that_look_at_nothing(labels: np.ndarray) -> dict[str, dict[str, float]]:
    """Accuracy, sensitivity and specificity of calling every image normal, and of calling every image positive.

    A set in which nine of ten images are normal makes 90 % of accuracy out of nothing.
    """
    positive = float(labels.mean())
    return {
        "always normal": {"accuracy": 1 - positive, "sensitivity": 0.0, "specificity": 1.0},
        "always positive": {"accuracy": positive, "sensitivity": 1.0, "specificity": 0.0},
    }


def _balance(hits: np.ndarray | float, alarms: np.ndarray | float, images: int, thresholds: np.ndarray) -> np.ndarray:
    balance: np.ndarray = (hits - alarms * thresholds / (1 - thresholds)) / images
    return balance
