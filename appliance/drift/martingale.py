"""Bets against exchangeability: conformal p-values, and the martingales that grow where these are not uniform.

While studies are exchangeable (independent and alike is enough), the smoothed conformal p-values of a stream are
independent and uniform, whatever its distribution (Vovk, Gammerman, Shafer: Algorithmic Learning in a Random World,
chapter 8). A bet ``f`` with integral 1 then multiplies a capital by 1 on average, so that by Ville's inequality the
capital ever reaches ``1 / alpha`` with a probability of at most alpha. A mean of such capitals over streams, however
these depend on each other, is one again.

All functions take any leading axes, such as simulated runs, before those of streams.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

# A bet puts a share of its capital on p-values up to a cut. Small shares are for changes that concern a few studies in
# a hundred, which are the hardest to notice: they have more of the stake.
_BETS = (
    # share, cut, stake
    (0.04, 0.003, 2.0),
    (0.04, 0.008, 3.0),
    (0.04, 0.02, 3.0),
    (0.2, 0.02, 1.0),
    (0.7, 0.02, 1.0),
    (0.3, 0.1, 1.0),
    (0.6, 0.3, 1.0),
)
_JUMPS = np.array([0.0003, 0.003])  # of the capital, put on all bets anew after each study
_IDLE = 0.2  # of what is put anew: not at stake
_SHARE, _CUT, _STAKE = (np.array(column) for column in zip(*_BETS, strict=True))
_ENDS = 4  # of the p-values: low, high, either, neither
BETS = _ENDS * len(_BETS)
_STAKES = np.tile(_STAKE, _ENDS) / (_ENDS * _STAKE.sum())
_PRIOR = np.concatenate([[_IDLE], (1 - _IDLE) * _STAKES])
_NORMAL = NormalDist()


def p_values(counts: np.ndarray, bins: np.ndarray, numeric: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """Smoothed conformal p-values of the latest study among all so far.

    Parameters
    ----------
    counts
        int ``(..., streams, bins)``: of all studies, the latest included.
    bins
        int ``(..., streams)``: the latest study's.
    numeric
        bool ``(streams,)``: a number's rank counts, of a category how rare it is.
    chance
        float ``(..., streams)`` in [0, 1): breaks ties.

    Returns
    -------
    float ``(..., streams)``: low for a low number and for a rare category.
    """
    every = np.arange(counts.shape[-1])
    own = np.take_along_axis(counts, bins[..., None], axis=-1)
    below = np.where(numeric[:, None], every < bins[..., None], counts < own)
    tied = np.where(numeric[:, None], every == bins[..., None], counts == own)
    total = counts.sum(axis=-1)
    lower = np.where(below, counts, 0).sum(axis=-1)
    ties = np.where(tied, counts, 0).sum(axis=-1)
    return np.asarray((lower + chance * ties) / total)


def bets(p: np.ndarray) -> np.ndarray:
    """What each bet pays on p-values: ``(..., streams)`` -> ``(..., streams, bets)``."""
    near = 2 * np.minimum(p, 1 - p)
    ends = np.stack([p, 1 - p, near, 1 - near], axis=-1)
    paid = (1 - _SHARE) + _SHARE / _CUT * (ends[..., None] <= _CUT)
    return paid.reshape(*p.shape, BETS)


@dataclass
class Capitals:
    """What the bets of each stream are worth.

    Attributes
    ----------
    shares
        ``(..., streams, jumps, 1 + bets)``: how each capital is spread, with sum 1.
    logs
        ``(..., streams, jumps)``: the natural logarithm of each capital.
    detectors
        ``(..., streams, bets)``: Shiryaev-Roberts sums, which forget what was lost before a change.
    """

    shares: np.ndarray
    logs: np.ndarray
    detectors: np.ndarray

    @classmethod
    def new(cls, shape: tuple[int, ...]) -> Capitals:
        """``shape``: any leading axes, then streams."""
        return cls(
            np.broadcast_to(_PRIOR, (*shape, len(_JUMPS), 1 + BETS)).copy(),
            np.zeros((*shape, len(_JUMPS))),
            np.zeros((*shape, BETS)),
        )

    def update(self, p: np.ndarray) -> None:
        """Settle the bets on the p-values ``(..., streams)`` of a study, and place those on the next."""
        paid = bets(p)
        self.shares[..., 1:] *= paid[..., None, :]
        total = self.shares.sum(axis=-1, keepdims=True)
        self.logs += np.log(total[..., 0])
        self.shares *= (1 - _JUMPS)[:, None] / total
        self.shares += _JUMPS[:, None] * _PRIOR
        self.detectors += 1
        np.minimum(self.detectors * paid, 1e300, out=self.detectors)

    def evidence(self) -> np.ndarray:
        """The natural logarithm of each stream's martingale ``(..., streams)``: the mean over its jumps."""
        top = self.logs.max(axis=-1, keepdims=True)
        return np.asarray(top[..., 0] + np.log(np.exp(self.logs - top).mean(axis=-1)))

    def warnings(self) -> np.ndarray:
        """Each stream's e-detector ``(..., streams)``: the mean over its bets of their Shiryaev-Roberts
        sums.

        On average it takes at least c studies until it, or a weighted mean over streams, reaches c (Shin, Ramdas,
        Rinaldo: E-detectors, 2023).
        """
        return np.asarray(self.detectors @ _STAKES)


def combined(evidence: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The natural logarithm of the weighted mean over streams of martingales, ``(..., streams)`` -> ``(...)``."""
    chosen = weights > 0
    logs = evidence[..., chosen] + np.log(weights[chosen] / weights[chosen].sum())
    top = logs.max(axis=-1, keepdims=True)
    return np.asarray(top[..., 0] + np.log(np.exp(logs - top).sum(axis=-1)))


def normal_score(p: float) -> float:
    """The standard normal quantile of a uniform p-value."""
    return _NORMAL.inv_cdf(min(max(p, 1e-9), 1 - 1e-9))


SLACK = 0.5  # of the CUSUM, in standard deviations: half the shift that it is quickest for


def cusum(before: float, score: float) -> float:
    """One step of a CUSUM chart (Page, 1954) for a rise of standard normal scores."""
    return max(0.0, before + score - SLACK)


def cusum_limit(run_length: float) -> float:
    """The limit at which a CUSUM of independent normal scores runs so many studies on average (Siegmund, 1985)."""
    low, high = 0.0, 50.0
    for _ in range(60):
        middle = (low + high) / 2
        b = 2 * SLACK * (middle + 1.166)
        if (math.exp(b) - b - 1) / (2 * SLACK**2) < run_length:
            low = middle
        else:
            high = middle
    return high


def seeded(seed: int, study: int, streams: int) -> np.ndarray:
    """The chance ``(streams,)`` that breaks the ties of a study: the same again wherever it is asked for."""
    return np.random.Generator(np.random.Philox(key=seed, counter=study)).random(streams)
