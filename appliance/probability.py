"""Probabilities from a network's outputs: calibrated ones of findings, of segments, and how far an ensemble agrees."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def calibrated(logits: np.ndarray, temperature: float, bias: float = 0.0) -> np.ndarray:
    """Calibrated probabilities: the logistic function of ``logits / temperature + bias`` (Platt, 1999)."""
    # The hyperbolic tangent is the same curve and can't overflow.
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * (logits.astype(np.float64) / temperature + bias)))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities over the first axis."""
    powers = np.exp(logits - logits.max(axis=0))
    return np.asarray(powers / powers.sum(axis=0))


@dataclass(frozen=True)
class Heads:
    """An ensemble that shares one network: logistic regressions on its embedding, as deviations from their mean.

    The network's own answer takes the place of that mean, so that the heads lie about the probability that is reported.

    Attributes
    ----------
    weights
        float32 ``(heads, findings, features)``.
    bias
        float32 ``(heads, findings)``.
    """

    weights: np.ndarray
    bias: np.ndarray

    def probabilities(
        self, embeddings: np.ndarray, logits: np.ndarray, temperature: float, bias: float = 0.0
    ) -> np.ndarray:
        """``(images, heads, findings)`` of a network's embeddings ``(images, features)``, logits ``(images, findings)``
        and their calibration.
        """
        apart = np.einsum("hkf,nf->nhk", self.weights, embeddings.astype(np.float64)) + self.bias
        return calibrated(logits.astype(np.float64)[:, np.newaxis] / temperature + apart, 1.0, bias)


def spread(probabilities: np.ndarray) -> np.ndarray:
    """How far heads disagree: the standard deviation of their probabilities ``(heads, ...)``."""
    return np.asarray(probabilities.std(axis=0))
