"""Which images a network gets wrong with confidence, which lie at its threshold, and what they may have in common.

What they share is a guess to look into, not a cause: one test for each value of the list's columns, each patient
counted once, and p after Holm's correction for all of them. With few hard cases only a large excess can be seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import fisher_exact, mannwhitneyu

from compression.columns import numbers
from compression.subgroups import Sample, holm

SHOWN = 12
_NEAR_SHARE = 0.1  # of the images are called near the threshold
_MOST_VALUES = 12  # a column of numbers with more is taken as a scale
_FEWEST = 5  # patients with a value, or without it, that can be tested
_LEVEL = 0.05
_CLIP = 1e-6
# Columns of a list that name an image or a patient, or say the label in the same words.
_NOT_COLUMNS = {"file", "mask", "label", "patient_id", "split", "exact_duplicate_of", "original_sha256"}


def columns(rows: Sequence[dict[str, str]]) -> dict[str, np.ndarray]:
    """Columns of a list that tell images apart: str ``(images,)``, or float for a scale, NaN where it is empty."""
    found: dict[str, np.ndarray] = {}
    for name in rows[0]:
        values = np.array([(row[name] or "").strip() for row in rows])
        if name not in _NOT_COLUMNS and len(set(values)) > 1:
            scale = numbers(values) if len(set(values)) > _MOST_VALUES else None
            found[name] = np.where(values == "", "unknown", values) if scale is None else scale
    return found


def find(sample: Sample, threshold: float, files: Sequence[str], listed: dict[str, np.ndarray]) -> dict[str, Any]:
    """The hard cases of one network on one set.

    Parameters
    ----------
    sample
        With calibrated probabilities as scores.
    files, listed
        Names of the images, and `columns` of their list.

    Returns
    -------
    ``confidently_wrong`` and ``near_threshold``: rows with number, file, patient, positive, score and the columns, the
    hardest first; ``wrong``: how many there are; ``tests``: how many values were tested; ``shared``: those that are
    more frequent among missed images, false alarms or images near the threshold than among the others of that class.
    """
    distance = np.abs(_logit(sample.scores) - _logit(np.array([threshold]))[0])
    wrong = np.flatnonzero(sample.said != sample.labels)
    near = np.argsort(distance, kind="stable")[: max(round(_NEAR_SHARE * len(distance)), 1)]
    groups = {
        "missed": (sample.labels & ~sample.said, sample.labels),
        "false alarms": (~sample.labels & sample.said, ~sample.labels),
        "near the threshold": (np.isin(np.arange(len(distance)), near), np.ones_like(sample.labels)),
    }
    tested = [row for name, each in groups.items() for row in _tests(name, *each, sample.patients, listed)]
    for row, p in zip(tested, holm(np.array([row["p"] for row in tested])), strict=True):
        row["p_holm"], row["p"] = round(float(p), 6), round(row["p"], 6)

    def rows(chosen: np.ndarray) -> list[dict[str, Any]]:
        return [_row(sample, files, listed, int(index)) for index in chosen[:SHOWN]]

    return {
        "wrong": len(wrong),
        "confidently_wrong": rows(wrong[np.argsort(-distance[wrong], kind="stable")]),
        "near_threshold": rows(near),
        "tests": len(tested),
        "shared": sorted((row for row in tested if row["p_holm"] < _LEVEL), key=lambda row: row["p_holm"]),
    }


def _row(sample: Sample, files: Sequence[str], listed: dict[str, np.ndarray], index: int) -> dict[str, Any]:
    return {
        "number": index,
        "file": files[index],
        "patient": str(sample.patients[index]),
        "positive": bool(sample.labels[index]),
        "score": round(float(sample.scores[index]), 4),
        "columns": {name: _cell(values[index]) for name, values in listed.items()},
    }


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return str(value)
    return "" if np.isnan(value) else f"{value:g}"


def _tests(
    group: str, hard: np.ndarray, among: np.ndarray, patients: np.ndarray, listed: dict[str, np.ndarray]
) -> list[dict[str, Any]]:
    """One row a value: its share among the hard images and among the others, and p (Fisher's exact; Mann-Whitney's).

    A patient counts once, as hard where any of their images is.
    """
    once = _once(hard, among, patients)
    hard = hard[once]
    if not hard.any() or hard.all():
        return []
    found = []
    for name, values in listed.items():
        here = values[once]
        if here.dtype.kind == "f":
            known = ~np.isnan(here)
            sides = here[known & hard], here[known & ~hard]
            if min(map(len, sides)) >= _FEWEST:
                medians = [round(float(np.median(side)), 4) for side in sides]
                found.append({"group": group, "what": f"{name} (median)", "is_share": False,
                              "hard": medians[0], "others": medians[1], "count": int(hard.sum()),
                              "p": float(mannwhitneyu(*sides).pvalue)})  # fmt: skip
            continue
        for value in sorted(set(here)):
            has = here == value
            if min(has.sum(), (~has).sum()) >= _FEWEST:
                counts = [[(has & side).sum(), (~has & side).sum()] for side in (hard, ~hard)]
                shares = [round(float(has[side].mean()), 4) for side in (hard, ~hard)]
                found.append({"group": group, "what": f"{name}: {value}", "is_share": True,
                              "hard": shares[0], "others": shares[1], "count": int(hard.sum()),
                              "p": float(fisher_exact(counts, alternative="greater")[1])})  # fmt: skip
    return found


def _once(hard: np.ndarray, among: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """The index of one image of each patient in a group, a hard one where there is any."""
    inside = np.flatnonzero(among)
    order = inside[np.argsort(~hard[inside], kind="stable")]
    _, first = np.unique(patients[order], return_index=True)
    return order[first]


def _logit(probabilities: np.ndarray) -> np.ndarray:
    clipped = np.clip(probabilities, _CLIP, 1 - _CLIP)
    return np.log(clipped / (1 - clipped))
