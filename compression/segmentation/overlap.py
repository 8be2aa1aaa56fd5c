"""How well two masks agree."""

from __future__ import annotations

import numpy as np


def dice(one: np.ndarray, other: np.ndarray, segments: int) -> np.ndarray:
    """The Dice coefficient (Dice, 1945) of each segment, ``(segments,)``; 1 where neither mask has any of it.

    Parameters
    ----------
    one, other
        Labels of the same shape: 0 is background, segment k has k.
    """
    values = []
    for number in range(1, segments + 1):
        a, b = one == number, other == number
        both = int(a.sum()) + int(b.sum())
        values.append(2.0 * int((a & b).sum()) / both if both else 1.0)
    return np.array(values)
