"""Losses that must not be learned from: no numbers, and spikes.

The rule. A step whose loss or gradient is no number, or whose loss is a spike, is skipped and counted. After
`IN_A_ROW` skipped steps the training goes back to its last checkpoint with half the learning rate, once. If it
happens again, it stops.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

IN_A_ROW = 5
_FIRST, _RECENT = 20, 100


class Watch:
    """Judges each loss by those before it.

    A spike is larger than ``factor`` times the median of the last 100, and than twice the median of the first 20: a
    network that has learned much and meets a hard batch gets a loss far above its usual ones, but none like a
    network that has learned nothing.
    """

    def __init__(self, factor: float, first: Sequence[float] = (), recent: Sequence[float] = ()) -> None:
        self._factor, self._first, self._recent = factor, list(first), list(recent)

    def fault(self, loss: float) -> str:
        """What is wrong with a loss, or nothing."""
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if len(self._first) == _FIRST:
            usual = float(np.median(self._recent))
            if loss > max(self._factor * usual, 2.0 * float(np.median(self._first))):
                return f"the loss jumped to {loss:.3g} from about {usual:.3g}"
        return ""

    def learned(self, loss: float) -> None:
        """Take in a loss that was learned from."""
        if len(self._first) < _FIRST:
            self._first.append(loss)
        self._recent = [*self._recent[1 - _RECENT :], loss]

    def state(self) -> dict[str, list[float]]:
        """For a checkpoint; the arguments of a watch that goes on."""
        return {"first": self._first, "recent": self._recent}
