"""Since when: the study from which on a stream's values are told apart best from the reference, and tests beside."""

from __future__ import annotations

import math

import numpy as np

from appliance.drift import martingale
from appliance.drift.streams import MISSING, NUMERIC, STREAMS

_CELLS = 10  # of a number: tenths of the reference
_LAGS = 5
LEAST = 100  # studies for a test of independence


def cells(stream: int, reference: np.ndarray) -> np.ndarray:
    """int ``(bins,)``: the cell of each bin; of a number what is missing, then about tenths of the reference."""
    if not STREAMS[stream].numeric:
        return np.arange(len(reference))
    known = reference.astype(float).copy()
    known[MISSING] = 0
    below = np.cumsum(known) - known / 2
    total = max(known.sum(), 1.0)
    found = 1 + np.minimum((_CELLS * below / total).astype(int), _CELLS - 1)
    found[MISSING] = 0
    return found


def change_point(stream: int, bins: np.ndarray, reference: np.ndarray) -> int:
    """The index from which on the studies' ``bins`` ``(studies,)`` differ most from those before and the reference.

    It is that of the greatest likelihood where each of the two parts has shares of its own, in `cells`; each cell that
    is used after the change costs half a logarithm of the number of studies there (Schwarz's criterion), so that a few
    at the end don't win.
    """
    where = cells(stream, reference)
    count = int(where.max()) + 1
    after = np.zeros((len(bins), count))
    after[np.arange(len(bins)), where[bins]] = 1
    after = after[::-1].cumsum(axis=0)[::-1]
    before = np.bincount(where, reference, count) + 0.5 + after[0] - after
    likelihood = _likelihood(after) + _likelihood(before)
    likelihood -= 0.5 * (after > 0).sum(axis=1) * np.log(after.sum(axis=1))
    return int(np.argmax(likelihood))


def _likelihood(counts: np.ndarray) -> np.ndarray:
    """The logarithm of the likelihood of counts ``(changes, cells)`` by their own shares."""
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = counts * np.log(counts / counts.sum(axis=1, keepdims=True))
    return np.asarray(np.where(counts > 0, terms, 0.0).sum(axis=1))


def scores(bins: np.ndarray, seed: int) -> np.ndarray:
    """Normal scores ``(studies, streams)`` of the conformal p-values of studies among those before them.

    While studies are exchangeable, these are independent and standard normal, and independent of what comes later.
    """
    counts = np.zeros((bins.shape[1], int(bins.max(initial=0)) + 1), np.int64)
    found = np.zeros(bins.shape)
    every = np.arange(bins.shape[1])
    for number, study in enumerate(bins):
        counts[every, study] += 1
        chance = martingale.seeded(seed, number, len(every))
        p = martingale.p_values(counts, study, NUMERIC, chance)
        found[number] = [martingale.normal_score(float(each)) for each in p]
    return found


def ranks(bins: np.ndarray, seed: int) -> np.ndarray:
    """Ranks ``(studies, streams)`` of studies among each other, in [0, 1), ties by chance; of a category by frequency.

    Quicker than `scores`, for a look at the latest studies.
    """
    every = np.arange(bins.shape[1])
    counts = np.zeros((bins.shape[1], int(bins.max(initial=0)) + 1), np.int64)
    for study in bins:
        counts[every, study] += 1
    values = np.where(NUMERIC, bins, counts[every, bins])
    chance = martingale.seeded(seed, len(bins), bins.size).reshape(bins.shape)
    return np.asarray((values + chance).argsort(axis=0).argsort(axis=0) / max(len(bins), 1))


def autocorrelation(score: np.ndarray) -> float:
    """The p-value of the test of Ljung and Box (1978) that scores ``(studies,)`` don't depend on the five before."""
    count = len(score)
    if count < LEAST:
        return 1.0
    centered = score - score.mean()
    spread = float(centered @ centered)
    if spread == 0:
        return 1.0
    lags = range(1, _LAGS + 1)
    found = [float(centered[lag:] @ centered[:-lag]) / spread for lag in lags]
    statistic = count * (count + 2) * sum(each**2 / (count - lag) for lag, each in zip(lags, found, strict=True))
    return _chi_squared_tail(statistic)


def _chi_squared_tail(x: float) -> float:
    """Of a chi-squared variable with five degrees of freedom, in closed form."""
    half = x / 2
    tail = math.erfc(math.sqrt(half)) + math.exp(-half) * math.sqrt(x / math.pi) * math.sqrt(2) * (1 + x / 3)
    return min(max(tail, 0.0), 1.0)


def stability_index(stream: int, usual: np.ndarray, now: np.ndarray) -> float:
    """The population stability index of two rows of counts, in `cells`. For show: with few studies it is never 0."""
    where = cells(stream, usual)
    count = int(where.max()) + 1
    used = np.bincount(where, usual + now, count) > 0
    shares = [np.bincount(where, row, count)[used] + 0.5 for row in (usual, now)]
    expected, found = (row / row.sum() for row in shares)
    return float(((found - expected) * np.log(found / expected)).sum())


def kolmogorov_smirnov(stream: int, usual: np.ndarray, now: np.ndarray) -> float | None:
    """The largest distance of the two distribution functions of a number; None of a category, or without values."""
    rows = [row[1:] for row in (usual, now)]
    if not STREAMS[stream].numeric or not all(row.sum() for row in rows):
        return None
    one, other = (np.cumsum(row) / row.sum() for row in rows)
    return float(np.abs(one - other).max())
