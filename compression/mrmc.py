"""Several readers and one model on the same images: how sure a difference is, for other readers and other patients.

The model of Obuchowski & Rockette (Communications in Statistics - Simulation and Computation 1995) for one treatment,
with the degrees of freedom of Hillis (Statistics in Medicine 2007): readers and patients are both a sample. Against a
model that reads alone, the figure is each reader's difference from it (Hupse et al., European Radiology 2013;
Chakraborty, Observer Performance Methods for Diagnostic Imaging, 2017, chapter 22).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from compression import roc


@dataclass(frozen=True)
class Mean:
    """A mean over readers with its 95 % interval.

    Attributes
    ----------
    standard_error, degrees_of_freedom
        Of the mean.
    p
        Two-sided, that the mean of all readers is 0.
    """

    value: float
    low: float
    high: float
    standard_error: float
    degrees_of_freedom: float
    p: float


def interval(value: float, between: float, covariance: float, readers: int) -> Mean:
    """The mean of readers who are a sample of readers, on patients who are a sample of patients.

    Parameters
    ----------
    between
        Mean square between readers: the variance of their figures.
    covariance
        Mean covariance of the figures of two readers, which comes from the patients that they share; one below 0
        counts as 0 (Hillis 2007).
    """
    spread = between + readers * max(covariance, 0.0)
    error = float(np.sqrt(spread / readers))
    # Readers who are all alike leave the patients alone as a source of chance: a normal distribution.
    freedom = (readers - 1) * (spread / between) ** 2 if between > 0 else float("inf")
    half = float(student.ppf(0.975, freedom)) * error
    p = float(2 * student.sf(abs(value) / error, freedom)) if error > 0 else float(value == 0)
    return Mean(value, value - half, value + half, error, freedom, p)


def of_readers(values: np.ndarray, covariance: np.ndarray) -> Mean:
    """The mean over readers of a figure.

    Parameters
    ----------
    values, covariance
        ``(readers,)`` and ``(readers, readers)``, as from `areas` or `shares`. Of a single reader nothing tells how far
        others differ; then the interval is about other patients only.
    """
    count = len(values)
    if count == 1:
        return interval(float(values[0]), 0.0, float(covariance[0, 0]), 1)
    shared = float(covariance[~np.eye(count, dtype=bool)].mean())
    return interval(float(values.mean()), float(values.var(ddof=1)), shared, count)


def against(values: np.ndarray, covariance: np.ndarray) -> Mean:
    """How much larger the first figure, the model's, is than the mean of the others, the readers'.

    Parameters
    ----------
    values, covariance
        ``(1 + readers,)`` and its square.
    """
    contrast = np.hstack([np.ones((len(values) - 1, 1)), -np.eye(len(values) - 1)])
    return of_readers(contrast @ values, contrast @ covariance @ contrast.T)


def areas(scores: np.ndarray, truth: np.ndarray, patients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Areas under the ROC curves ``(who,)`` with DeLong's covariance; parameters as of `compression.roc.delong`."""
    found = roc.delong(scores, truth, patients)
    return found.value, found.covariance


def shares(right: np.ndarray, patients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How often each is right ``(who,)``, with the covariance over patients.

    Parameters
    ----------
    right, patients
        bool ``(who, images)`` and identifiers ``(images,)``.
    """
    names, index = np.unique(patients, return_inverse=True)
    values = right.mean(axis=1)
    sums = np.stack([np.bincount(index, row, len(names)) for row in right - values[:, None]])
    correction = len(names) / max(len(names) - 1, 1)
    return values, correction * sums @ sums.T / right.shape[1] ** 2
