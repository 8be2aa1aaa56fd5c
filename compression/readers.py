"""Several readers of the same images: how far they agree beyond chance, and one label out of theirs."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations, islice
from pathlib import Path
from typing import Any

import numpy as np

from compression import tables
from compression.recipe import RecipeError
from compression.statistics import FEWEST_PATIENTS, resamples_of

_COLUMNS = ("image", "reader", "label")
_RESAMPLES = 2000
# Landis & Koch, Biometrics 1977: names by convention, without a proof behind them.
_WORDS = ((0.2, "slight"), (0.4, "fair"), (0.6, "moderate"), (0.8, "substantial"), (1.0, "almost perfect"))


@dataclass(frozen=True)
class Readings:
    """Who called which image what.

    Attributes
    ----------
    images, readers, labels
        Names, sorted.
    table
        int ``(images, readers)``: index of the label, -1 where the reader did not see the image.
    """

    images: list[str]
    readers: list[str]
    labels: list[str]
    table: np.ndarray

    def counts(self) -> np.ndarray:
        """Votes ``(images, labels)``."""
        return np.stack([(self.table == number).sum(axis=1) for number in range(len(self.labels))], axis=1)


def read(path: Path) -> Readings:
    """Read a CSV with the columns image, reader, label; raises `RecipeError` with the line."""
    said: dict[tuple[str, str], str] = {}
    for line, row in enumerate(tables.read(path, _COLUMNS), start=2):
        image, reader, label = (row[name] for name in _COLUMNS)
        if not (image and reader and label):
            raise RecipeError(f"{path}, line {line}: image, reader or label is empty")
        if (image, reader) in said:
            raise RecipeError(f"{path}, line {line}: {reader} has read {image} twice; keep one of the two")
        said[image, reader] = label
    images, readers = sorted({image for image, _ in said}), sorted({reader for _, reader in said})
    labels = sorted(set(said.values()))
    table = np.full((len(images), len(readers)), -1)
    for (image, reader), label in said.items():
        table[images.index(image), readers.index(reader)] = labels.index(label)
    return Readings(images, readers, labels, table)


def patients(path: Path, readings: Readings) -> list[str]:
    """Whose each image is, by the CSV's column patient; without one, each image counts as a patient's only one."""
    known = {row["image"]: row.get("patient") or row["image"] for row in tables.read(path, _COLUMNS)}
    return [known[image] for image in readings.images]


def cohen(one: np.ndarray, other: np.ndarray) -> float:
    """Cohen's kappa of two readers (Educational and Psychological Measurement 1960).

    Parameters
    ----------
    one, other
        int ``(images,)``: labels; images that either has not read (-1) don't count.

    Returns
    -------
    NaN where no image has both, or chance alone would make them agree always.
    """
    both = (one >= 0) & (other >= 0)
    a, b = one[both], other[both]
    if not len(a):
        return float("nan")
    labels = int(max(a.max(), b.max())) + 1
    agreed = float((a == b).mean())
    by_chance = float(np.bincount(a, minlength=labels) @ np.bincount(b, minlength=labels)) / len(a) ** 2
    return (agreed - by_chance) / (1 - by_chance) if by_chance < 1 else float("nan")


def fleiss(counts: np.ndarray) -> float:
    """Fleiss' kappa (Psychological Bulletin 1971) of votes ``(images, labels)``.

    Images may have different numbers of votes; each counts by its pairs of votes, and those with fewer than two don't.
    With equal numbers this is Fleiss' own. NaN where nothing can be compared.
    """
    votes = counts.sum(axis=1)
    counts, votes = counts[votes > 1], votes[votes > 1]
    if not len(counts):
        return float("nan")
    agreed = float(((counts * (counts - 1)).sum(axis=1) / (votes * (votes - 1))).mean())
    shares = counts.sum(axis=0) / votes.sum()
    by_chance = float((shares**2).sum())
    return (agreed - by_chance) / (1 - by_chance) if by_chance < 1 else float("nan")


def agreement(readings: Readings, patients: Sequence[str] | None = None, resamples: int = _RESAMPLES) -> dict[str, Any]:
    """Kappas with 95 % percentile intervals by a bootstrap over patients: of each two readers, and of all.

    Parameters
    ----------
    patients
        Whose each of the readings' images is ``(images,)``; without it, each image counts as a patient's only one.

    Returns
    -------
    Of each kappa ``[value, low, high]``; None where it can't be told, low and high where there are fewer patients than
    `FEWEST_PATIENTS`.
    """
    counts, table = readings.counts(), readings.table
    patients = readings.images if patients is None else patients
    pairs = []
    for one, other in combinations(range(len(readings.readers)), 2):
        both = (table[:, one] >= 0) & (table[:, other] >= 0)
        kappa = _interval(partial(_cohen_of, table[:, one], table[:, other]), patients, resamples)
        pairs.append(
            {
                "readers": [readings.readers[one], readings.readers[other]],
                "images": int(both.sum()),
                "agreed": round(float((table[both, one] == table[both, other]).mean()), 4) if both.any() else None,
                "kappa": kappa,
                "in_words": words(kappa[0]),
            }
        )
    overall = _interval(lambda chosen: fleiss(counts[chosen]), patients, resamples)
    return {
        "images": len(readings.images),
        "readers": readings.readers,
        "labels": readings.labels,
        "read_once": int((counts.sum(axis=1) == 1).sum()),
        "cohen": pairs,
        "fleiss": {"kappa": overall, "in_words": words(overall[0])},
    }


def adjudicate(readings: Readings) -> tuple[dict[str, str], dict[str, dict[str, int]]]:
    """Each image's label by majority, and the ties, which a further reader has to settle: image -> votes."""
    decided, ties = {}, {}
    for image, votes in zip(readings.images, readings.counts(), strict=True):
        first = np.flatnonzero(votes == votes.max())
        if len(first) == 1:
            decided[image] = readings.labels[first[0]]
        else:
            ties[image] = {readings.labels[number]: int(votes[number]) for number in np.flatnonzero(votes)}
    return decided, ties


def write(path: Path, readings: Readings) -> None:
    """The adjudicated labels as a CSV: image, label (empty for ties), votes."""
    decided, _ = adjudicate(readings)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "label", "votes"])
        for image, votes in zip(readings.images, readings.counts(), strict=True):
            said = "; ".join(
                f"{label} {number}" for label, number in zip(readings.labels, votes, strict=True) if number
            )
            writer.writerow([image, decided.get(image, ""), said])


def words(kappa: float | None) -> str:
    """A kappa in the words of Landis & Koch."""
    if kappa is None:
        return "can't be told"
    return "poor" if kappa < 0 else next(word for limit, word in _WORDS if kappa <= limit)


def _cohen_of(one: np.ndarray, other: np.ndarray, chosen: np.ndarray) -> float:
    return cohen(one[chosen], other[chosen])


def _interval(measure: Callable[[np.ndarray], float], patients: Sequence[str], resamples: int) -> list[float | None]:
    """``[value, low, high]`` of what is measured of the images at some indices, None where it can't be told."""
    drawn = np.array([])
    if len(set(patients)) >= FEWEST_PATIENTS:
        resampled = islice(resamples_of(patients, np.random.default_rng(0)), resamples)
        drawn = np.array([measure(chosen) for chosen in resampled])
        drawn = drawn[~np.isnan(drawn)]
    low, high = np.percentile(drawn, [2.5, 97.5]) if len(drawn) else (float("nan"),) * 2
    figures = (measure(np.arange(len(patients))), float(low), float(high))
    return [None if np.isnan(each) else round(float(each), 4) for each in figures]
