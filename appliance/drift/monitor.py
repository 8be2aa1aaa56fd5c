"""One watch against one reference: what is usual so far, the capitals of the bets against it, and what they say.

Everything follows from the reference, a seed, and the studies in their order: the same again after any restart.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np

from appliance.drift import martingale
from appliance.drift.martingale import Capitals
from appliance.drift.streams import INDEX, MISSING, NUMERIC, STREAMS, WEIGHTS

_CONFIDENCE = INDEX["entropy"]


@dataclass(frozen=True)
class Limits:
    """When it is said that something has changed.

    Attributes
    ----------
    alpha
        How likely there ever is an alarm though nothing changes.
    run_length
        So many studies there are, on average, at the least until an early warning though nothing changes; about so
        many until the one on confidence.
    """

    alpha: float
    run_length: float

    @property
    def alarm(self) -> float:
        """Of the natural logarithm of the mean martingale."""
        return math.log(1 / self.alpha)

    @property
    def confidence(self) -> float:
        return martingale.cusum_limit(self.run_length)


@dataclass(frozen=True)
class Signals:
    """After a study: natural logarithms of the mean martingale, of the e-detector, and the CUSUM on confidence."""

    evidence: float
    warning: float
    confidence: float


class Monitor:
    """A watch that begins with a reference.

    Parameters
    ----------
    counts
        int ``(streams, MOST_BINS)`` of the reference; studies are added to it as they come.
    weights
        ``(streams,)``: the share of the stake of each; those of 0 are not watched.
    seed
        Of the chance that breaks ties.
    """

    def __init__(self, counts: np.ndarray, weights: np.ndarray, seed: int) -> None:
        self.counts = counts.astype(np.int64)
        self.weights = weights.astype(float)
        self.seed = seed
        self.studies = 0
        self.cusum = 0.0
        self._capitals = Capitals.new((len(STREAMS),))

    def observe(self, bins: np.ndarray) -> Signals:
        """The next study, int ``(streams,)``."""
        bins = bins.astype(np.int64)
        self.counts[np.arange(len(STREAMS)), bins] += 1
        chance = martingale.seeded(self.seed, self.studies, len(STREAMS))
        p = martingale.p_values(self.counts, bins, NUMERIC, chance)
        self._capitals.update(p)
        if bins[_CONFIDENCE] != MISSING:
            self.cusum = martingale.cusum(self.cusum, martingale.normal_score(float(p[_CONFIDENCE])))
        self.studies += 1
        return self.signals()

    def signals(self) -> Signals:
        if not self.weights.any():
            return Signals(0.0, -math.inf, self.cusum)
        warning = float(self._capitals.warnings() @ self.weights / self.weights.sum())
        return Signals(
            float(martingale.combined(self.evidence(), self.weights)),
            math.log(warning) if warning > 0 else -math.inf,
            self.cusum,
        )

    def evidence(self) -> np.ndarray:
        """The natural logarithm of each stream's martingale."""
        return self._capitals.evidence()

    def warnings(self) -> np.ndarray:
        """Each stream's e-detector, ``(streams,)``."""
        return self._capitals.warnings()

    def restart_warnings(self) -> None:
        """After an early warning: the e-detector and the CUSUM begin anew, the martingales go on."""
        self._capitals.detectors[:] = 0.0
        self.cusum = 0.0

    def to_bytes(self) -> bytes:
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            counts=self.counts.astype(np.int32),
            weights=self.weights,
            numbers=np.array([self.seed, self.studies], np.int64),
            cusum=np.array(self.cusum),
            shares=self._capitals.shares,
            logs=self._capitals.logs,
            detectors=self._capitals.detectors,
        )
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> Monitor:
        with np.load(io.BytesIO(content), allow_pickle=False) as kept:
            seed, studies = (int(each) for each in kept["numbers"])
            made = cls(kept["counts"], kept["weights"], seed)
            made.studies, made.cusum = studies, float(kept["cusum"])
            made._capitals = Capitals(kept["shares"], kept["logs"], kept["detectors"])
        return made


def weights(known: np.ndarray, left_out: np.ndarray) -> np.ndarray:
    """The stake of the streams that a reference knows, bool ``(streams,)``, without those that are left out."""
    return np.where(known & ~left_out, WEIGHTS, 0.0)
