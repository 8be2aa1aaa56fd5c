"""Does a network draw worse for some people, or somewhere else? Each subgroup's patients against all others.

As in `compression.subgroups`, an alarm needs three things: the subgroup is worse than the rest by more than the margin,
the 95 % interval of the gap excludes 0, and so does the test after Holm's correction for all comparisons of a network
in the set. No alarm is no proof that there is no gap: the interval tells how large one could still be.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import t

from compression.statistics import FEWEST_PATIENTS
from compression.subgroups import alarmed, comparison, rounded


def gaps(dice: np.ndarray, patients: np.ndarray, columns: dict[str, np.ndarray], margin: float) -> list[dict[str, Any]]:
    """Each subgroup against the rest of the set, worst first; those with too few patients last.

    Parameters
    ----------
    dice, patients
        Of each case its mean Dice coefficient over the segments, and whose it is: ``(cases,)``.
    columns
        Name of a column -> value of each case, str ``(cases,)``.
    margin
        By how much a subgroup may be worse.

    Returns
    -------
    Rows with ``subgroup`` and ``patients`` (the subgroup's and the rest's), ``values``, ``gap``, ``p``, ``p_holm`` and
    ``alarm``; where either side has too few patients, only the first two. A patient counts once, with the mean of his
    cases; one who has cases on both sides counts on both.
    """
    judged: list[dict[str, Any]] = []
    tests: list[tuple[str, ...]] = []
    too_few: list[dict[str, Any]] = []
    for column, values in columns.items():
        for value in sorted(set(values)):
            inside, rest = (_of_patients(dice[side], patients[side]) for side in (values == value, values != value))
            row: dict[str, Any] = {"subgroup": f"{column}: {value}", "patients": [len(inside), len(rest)]}
            if min(len(inside), len(rest)) >= FEWEST_PATIENTS:
                judged.append({**row, **_compare(inside, rest)})
                tests.append(comparison(column, values, value))
            else:
                too_few.append(row)
    return alarmed(judged, tests, margin) + too_few


def _of_patients(dice: np.ndarray, patients: np.ndarray) -> np.ndarray:
    _, index = np.unique(patients, return_inverse=True)
    means: np.ndarray = np.bincount(index, dice) / np.bincount(index)
    return means


def _compare(inside: np.ndarray, rest: np.ndarray) -> dict[str, Any]:
    """The means of both and the gap, each with its interval, and p: Student's of means, Welch's of the gap (1947)."""
    errors = np.array([each.var(ddof=1) / len(each) for each in (inside, rest)])
    degrees = np.array([len(inside) - 1, len(rest) - 1])
    means = [float(each.mean()) for each in (inside, rest)]
    gap, error = means[0] - means[1], float(np.sqrt(errors.sum()))
    freedom = errors.sum() ** 2 / (errors**2 / degrees).sum() if error > 0 else 1.0
    p = float(2 * t.sf(abs(gap) / error, freedom)) if error > 0 else float(gap == 0)
    sides = zip(means, np.sqrt(errors), degrees, strict=True)
    return {"values": [_interval(*each) for each in sides], "gap": _interval(gap, error, freedom), "p": p}


def _interval(value: float, error: float, freedom: float) -> list[float]:
    half = t.ppf(0.975, freedom) * error
    return rounded((value, value - half, value + half))
