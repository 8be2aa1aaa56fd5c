"""How long one image takes, so that it can be compared."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np

_ROUNDS, _BLOCK, _WARM_UP = 12, 10, 3


def milliseconds(calls: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Median milliseconds of each call, in blocks that take turns.

    Turns, so that a noisy moment of the machine hits all of them; blocks with a few calls that don't count, since each
    runtime finds the caches full of another one's network.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(_ROUNDS):
        for name, call in calls.items():
            for number in range(_BLOCK):
                start = time.perf_counter()
                call()
                if number >= _WARM_UP:
                    taken[name].append(time.perf_counter() - start)
    return {name: round(float(np.median(each)) * 1000, 3) for name, each in taken.items()}
