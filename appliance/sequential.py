"""Is a rate still at its floor? A test that may be looked at after each case, with an error that it can state.

Cases come one after another, each right or wrong; the null hypothesis is that each is right with a probability of the
floor or more, whatever came before. For an alternative ``p`` below the floor ``q`` the wealth of a bet grows by
``p/q`` with each that is right and by ``(1-p)/(1-q)`` with each that is wrong: under the null it is a supermartingale
(its expectation is linear in the true rate, and 1 at the floor). The mean over a grid of alternatives is one, too.

Two statistics of it. The *wealth* since the first case is ever as high as 1/alpha with a probability of alpha at most
(Ville, 1939; Waudby-Smith & Ramdas, 2024). It needs long to notice a model that was good for long. The *detector* adds
a stake of 1 for each alternative at each case (Shin, Ramdas & Rinaldo, 2023, e-detectors): while the rate is at the
floor or above, the mean number of cases until it reaches ``run_length`` is that at the least.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np

_ALTERNATIVES = 24
_NEAREST, _FARTHEST = 0.01, 0.6  # how far below the floor, as a share of it


class Evidence(msgspec.Struct, frozen=True):
    """What a test says after so many cases.

    Attributes
    ----------
    cases, right
        Since the test began.
    wealth
        Its natural logarithm; at ``wealth_limit`` the rate is below the floor, wrongly with a probability of ``alpha``
        at most.
    detector
        As ``wealth``, of the statistic that forgets; ``run_length`` as of `SequentialTest`.
    by
        Which of them has reached its limit: wealth, detector, or none.
    reached_after
        Cases until then; 0 where none has.
    since_case
        The case, from 1 on, from which the detector's evidence counts most: about when the rate has changed.
    recent, recent_right
        Cases since then, and how many of them were right.
    """

    floor: float
    alpha: float
    run_length: int
    cases: int
    right: int
    wealth: float
    detector: float
    by: str
    reached_after: int
    since_case: int
    recent: int
    recent_right: int

    @property
    def wealth_limit(self) -> float:
        return -math.log(self.alpha)

    @property
    def detector_limit(self) -> float:
        return math.log(self.run_length)


def alternatives(floor: float) -> np.ndarray:
    """Rates below the floor that are bet on, ``(24,)``, closer to each other near it."""
    return floor * (1.0 - np.geomspace(_NEAREST, _FARTHEST, _ALTERNATIVES))


def advance(wealth: np.ndarray, detector: np.ndarray, right: np.ndarray, floor: float) -> tuple[np.ndarray, np.ndarray]:
    """Natural logarithms of both statistics for each alternative, ``(..., 24)``, after one case more, ``(...)``."""
    bets = alternatives(floor)
    gain, loss = np.log(bets / floor), np.log((1.0 - bets) / (1.0 - floor))
    step = np.where(np.asarray(right)[..., None], gain, loss)
    return wealth + step, np.logaddexp(detector, 0.0) + step


def log_mean(logs: np.ndarray) -> np.ndarray:
    """The natural logarithm of the mean over alternatives, the last axis."""
    top = logs.max(axis=-1, keepdims=True)
    return np.asarray((top + np.log(np.exp(logs - top).mean(axis=-1, keepdims=True)))[..., 0])


def test(right: Sequence[bool] | np.ndarray, floor: float, alpha: float, run_length: int) -> Evidence:
    """What the cases say, in the order in which their truth became known."""
    outcomes = np.asarray(right, bool)
    wealth, detector = np.zeros(_ALTERNATIVES), np.full(_ALTERNATIVES, -np.inf)
    reached, by, peak = 0, "none", [0.0, -math.inf]
    for number, each in enumerate(outcomes, start=1):
        wealth, detector = advance(wealth, detector, each, floor)
        peak = [float(log_mean(wealth)), float(log_mean(detector))]
        if peak[0] >= -math.log(alpha):
            reached, by = number, "wealth"
        elif peak[1] >= math.log(run_length):
            reached, by = number, "detector"
        if reached:
            break
    upto = reached or len(outcomes)
    since = _change(outcomes[:upto], floor)
    return Evidence(
        floor=floor, alpha=alpha, run_length=run_length, cases=len(outcomes), right=int(outcomes.sum()),
        wealth=peak[0], detector=peak[1], by=by, reached_after=reached, since_case=since + 1 if upto else 0,
        recent=upto - since, recent_right=int(outcomes[since:upto].sum()),
    )  # fmt: skip


def _change(outcomes: np.ndarray, floor: float) -> int:
    """How many cases come before those that speak most against the floor: the maximum of the likelihood ratio."""
    n = len(outcomes)
    if n == 0:
        return 0
    wrong = np.cumsum((~outcomes)[::-1])[::-1].astype(float)
    size = np.arange(n, 0, -1, dtype=float)
    rate = np.minimum(1.0 - wrong / size, floor)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.nan_to_num((size - wrong) * np.log(rate / floor)) + wrong * np.log((1 - rate) / (1 - floor))
    return int(np.argmax(ratio))
