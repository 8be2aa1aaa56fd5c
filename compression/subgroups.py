"""Does the model do worse for some people, or somewhere else? Two groups of images, compared figure by figure.

Every gap stands with its interval. An alarm needs three things: the group is worse than the rest by more than the
margin, the 95 % interval of the gap excludes 0, and so does the test after Holm's correction for all comparisons that
were made in the set. No alarm is no proof that there is no gap: the interval tells how large one could still be.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from compression import rates, roc
from compression.statistics import FEWEST_PATIENTS

FIGURES = ("auc", "sensitivity", "specificity")
_LEVEL = 0.05


@dataclass(frozen=True)
class Sample:
    """Images with what a network said of them, all ``(images,)``.

    ``scores`` may be probabilities or logits; ``said`` is the decision and ``labels`` the truth, both bool.
    """

    scores: np.ndarray
    said: np.ndarray
    labels: np.ndarray
    patients: np.ndarray

    def where(self, chosen: np.ndarray) -> Sample:
        return Sample(self.scores[chosen], self.said[chosen], self.labels[chosen], self.patients[chosen])

    def rate(self, label: bool) -> rates.Rate:
        """Sensitivity of the positive images, or specificity of the negative ones."""
        of_class = self.labels == label
        return rates.rate(self.said[of_class] == label, self.patients[of_class])

    def accuracy(self) -> rates.Rate:
        return rates.rate(self.said == self.labels, self.patients)

    def areas(self) -> roc.Areas:
        return roc.delong(self.scores[None], self.labels, self.patients)

    def images_of(self, figure: str) -> np.ndarray:
        """Which images a figure is about, bool ``(images,)``."""
        return {"sensitivity": self.labels, "specificity": ~self.labels, "auc": np.ones_like(self.labels)}[figure]

    def patients_of(self, figure: str) -> int:
        """How many patients have an image of the class that a figure needs; of two classes, the fewer."""
        classes = {"sensitivity": (True,), "specificity": (False,), "auc": (True, False)}[figure]
        return min(len(np.unique(self.patients[self.labels == each])) for each in classes)


def compare(one: Sample, other: Sample, figure: str) -> dict[str, Any]:
    """A figure in each of two samples that share no image, and the gap, one less the other, with its interval and p.

    Rates: Newcombe's interval and the score test. Areas: a normal approximation with DeLong's variances, or from their
    score intervals where one of these says nothing. The samples count as independent; who has images in both makes the
    interval wider than it need be.
    """
    if figure == "auc":
        here, there = one.areas(), other.areas()
        values = roc.auc_interval(here), roc.auc_interval(there)
        if roc.is_vague(here, 0) or roc.is_vague(there, 0):
            *gap, p = roc.square_and_add(*values)
        else:
            variance = float(here.covariance[0, 0] + there.covariance[0, 0])
            *gap, p = roc.wald(float(here.value[0] - there.value[0]), variance)
    else:
        mine, theirs = (sample.rate(figure == "sensitivity") for sample in (one, other))
        values = rates.wilson(mine), rates.wilson(theirs)
        *gap, p = rates.difference(mine, theirs)
    images = [int(sample.images_of(figure).sum()) for sample in (one, other)]
    return {
        "images": images, "values": [rounded(each) for each in values], "gap": rounded(gap), "p": p
    }  # fmt: skip


def gaps(sample: Sample, columns: dict[str, np.ndarray], margin: float) -> list[dict[str, Any]]:
    """Each subgroup against the rest of the set, figure by figure, worst first; those with too few patients last.

    Parameters
    ----------
    columns
        Name of a column -> value of each image, str ``(images,)``.
    margin
        By how much a subgroup may be worse.

    Returns
    -------
    Rows with ``subgroup``, ``figure`` and what `compare` gives, ``p_holm`` and ``alarm``; where either side has too few
    patients, only ``subgroup``, ``figure`` and ``images``. A figure that the subgroup or the rest lacks gives no row.
    """
    judged: list[dict[str, Any]] = []
    tests: list[tuple[str, ...]] = []
    too_few: list[dict[str, Any]] = []
    for column, values in columns.items():
        for value in sorted(set(values)):
            inside, rest = sample.where(values == value), sample.where(values != value)
            for figure in FIGURES:
                row: dict[str, Any] = {"subgroup": f"{column}: {value}", "figure": figure}
                patients = min(inside.patients_of(figure), rest.patients_of(figure))
                if patients >= FEWEST_PATIENTS:
                    judged.append({**row, **compare(inside, rest, figure)})
                    tests.append((*comparison(column, values, value), figure))
                elif patients > 0:
                    images = [int(each.images_of(figure).sum()) for each in (inside, rest)]
                    too_few.append({**row, "images": images})
    return alarmed(judged, tests, margin) + too_few


def comparison(column: str, values: np.ndarray, value: str) -> tuple[str, ...]:
    """What a subgroup's comparison with the rest is called: where there are two values, it is the other one's, too."""
    return (column,) if len(set(values)) == 2 else (column, value)


def alarmed(rows: list[dict[str, Any]], tests: Sequence[tuple[str, ...]], margin: float) -> list[dict[str, Any]]:
    """Comparisons with ``gap`` and ``p``, worst first, each with ``p_holm`` and ``alarm``.

    ``tests``: the `comparison` of each row. Of rows of the same name, the two sides of one, p counts once.
    """
    p_of = {test: row["p"] for test, row in zip(tests, rows, strict=True)}
    holm_of = dict(zip(p_of, holm(np.array(list(p_of.values()))), strict=True))
    for row, test in zip(rows, tests, strict=True):
        p = holm_of[test]
        low, high = row["gap"][1:]
        row["p_holm"] = round(float(p), 6)
        row["alarm"] = bool(row["gap"][0] < -margin and not low <= 0 <= high and p < _LEVEL)
        row["p"] = round(row["p"], 6)
    return sorted(rows, key=lambda row: row["gap"][0])


def holm(p: np.ndarray) -> np.ndarray:
    """p values ``(tests,)`` corrected for their number (Holm, Scandinavian Journal of Statistics 1979)."""
    order = np.argsort(p, kind="stable")
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return corrected


def rounded(values: Iterable[float]) -> list[float]:
    return [round(float(each), 4) for each in values]
