"""Volumes of one scan under several patients, told by their grays.

Software that stores a scan in floating point scales its levels by a factor of its own for each scan, which all that is
cut from it keeps: their grays are multiples of the same number, to many digits. So are the two sides of one head, whose
pixels have nothing in common.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_FEWEST_LEVELS = 16
_OFF = 0.01  # of a step, by which grays may miss its multiples
_SAME = 1e-6  # relative; of volumes that are known to be of one scan, measured: 1e-8
_MOST_OF_A_SCAN = 8  # volumes; a step that more of them share, or half of all, is a format's, not a scan's


def step(pixels: np.ndarray) -> float | None:
    """The number that all grays of a volume are multiples of; None of whole numbers, and where there is none."""
    if not np.issubdtype(pixels.dtype, np.floating):
        return None
    levels = np.unique(np.abs(pixels.astype(np.float64)))
    levels = levels[(levels > 0) & np.isfinite(levels)]
    if len(levels) < _FEWEST_LEVELS:
        return None
    found = float(np.diff(levels, prepend=0.0).min())
    reach = levels[0]
    while reach < levels[-1]:  # the farther a level, the more digits it gives, once those below have told its multiple
        reach = min(max(reach, found) * 4, levels[-1])
        near = levels[levels <= reach]
        multiples = np.round(near / found)
        found = float(near @ multiples / (multiples @ multiples))
    off = np.abs(levels / found - np.round(levels / found)).max()
    return found if off < _OFF and abs(found - round(found)) > _SAME * found else None


def shared(steps: Sequence[float | None], patients: Sequence[str]) -> list[list[int]]:
    """Groups of volumes, by index, that have one step, and not one patient."""
    order = sorted((value, index) for index, value in enumerate(steps) if value is not None)
    groups: list[list[int]] = []
    last = 0.0
    for value, index in order:
        if groups and value - last <= _SAME * value:
            groups[-1].append(index)
        else:
            groups.append([index])
        last = value
    return [
        sorted(group)
        for group in groups
        if len({patients[index] for index in group}) > 1 and len(group) <= min(_MOST_OF_A_SCAN, len(steps) // 2)
    ]
