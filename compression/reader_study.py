"""A blinded reader study's answers against the truth and the model: operating points, ROC, differences, agreement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compression import mrmc, rates, readers, roc, tables
from compression.inventory import spelled_twice
from compression.recipe import RecipeError
from compression.statistics import bootstrap
from compression.subgroups import Sample, rounded

PRESENT, ABSENT, CANT_JUDGE, NOT_READ = 1, 0, -1, -2
_LABELS = {"present": PRESENT, "absent": ABSENT, "can't judge": CANT_JUDGE}
_RESAMPLES = 2000


@dataclass(frozen=True)
class Study:
    """Answers, truth and scores of the same images.

    Attributes
    ----------
    images, readers
        Names, sorted.
    truth, patients, scores
        bool, str and float ``(images,)``; a score is NaN where there is none.
    threshold
        From which score on the model says present.
    said, ratings, seconds
        ``(images, readers)``: one of `PRESENT` to `NOT_READ`; higher means surer that it is present, NaN where it was
        not judged; time.
    said_again, ratings_again
        The same of a second showing.
    """

    images: list[str]
    readers: list[str]
    truth: np.ndarray
    patients: np.ndarray
    scores: np.ndarray
    threshold: float
    said: np.ndarray
    ratings: np.ndarray
    seconds: np.ndarray
    said_again: np.ndarray
    ratings_again: np.ndarray


def read(answers: Path, truth: Path, scores: Path, positive: str, threshold: float | None = None) -> Study:
    """Read what ``scanside study export`` wrote, and the truth.

    Parameters
    ----------
    truth
        CSV with the columns image, label and, where a patient has several images, patient. The images that were read
        have two labels.
    scores
        CSV with the columns image, score and threshold, or the threshold is given.
    positive
        The label of the truth that means present.

    Raises
    ------
    RecipeError
        Naming the file and the image or line.
    """
    readings = readers.read(answers)
    labels, given = _by_image(truth, ("image", "label")), _by_image(scores, ("image", "score"))
    images, names = readings.images, readings.readers
    for image in images:
        if image not in labels:
            raise RecipeError(f"{truth} has no row for image {image}, which {answers} has")
    is_present = np.array([labels[image]["label"] == positive for image in images])
    if is_present.all() or not is_present.any():
        raise RecipeError(
            f"{truth}: of the images that were read {is_present.sum()} have the label {positive!r}, and both classes "
            "must be there; name the label that means present with --positive"
        )
    _check_labels(truth, labels, set(images), positive)
    table = {key: np.full((len(images), len(names)), NOT_READ) for key in ("", "_again")}
    numbers = {key: np.full((len(images), len(names)), np.nan) for key in ("rating", "seconds", "rating_again")}
    for line, row in enumerate(tables.read(answers, ("image", "reader", "label", "rating")), start=2):
        place = images.index(row["image"]), names.index(row["reader"])
        for key, cells in table.items():
            label = row.get(f"label{key}") or ""
            if label and label not in _LABELS:
                raise RecipeError(f"{answers}, line {line}: label {label!r} is none of {', '.join(_LABELS)}")
            cells[place] = _LABELS.get(label, NOT_READ)
        for key, values in numbers.items():
            values[place] = _number(row.get(key) or "nan", f"{answers}, line {line}")
        if table[""][place] >= ABSENT and np.isnan(numbers["rating"][place]):
            raise RecipeError(
                f"{answers}, line {line}: {row['reader']} judged image {row['image']}, and rating is empty; give how "
                "sure they were, or make the label can't judge"
            )
    return Study(
        images, names, is_present,
        np.array([labels[image].get("patient") or image for image in images]),
        np.array([_score(scores, given.get(image)) for image in images]),
        _threshold(scores, given, threshold),
        table[""], numbers["rating"], numbers["seconds"], table["_again"], numbers["rating_again"],
    )  # fmt: skip


def _by_image(path: Path, columns: tuple[str, ...]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for line, row in enumerate(tables.read(path, columns), start=2):
        if found.setdefault(row["image"], row) is not row:
            raise RecipeError(f"{path}, line {line}: image {row['image']} is listed twice; keep one of the two")
    return found


def _check_labels(path: Path, rows: dict[str, dict[str, str]], images: set[str], positive: str) -> None:
    """All labels but the positive one count as absent, so a misspelled one would turn a finding into none."""
    lines = {line: row["label"] for line, row in enumerate(rows.values(), start=2) if row["image"] in images}
    twins = spelled_twice(list(lines.values()))
    other = Counter(label for label in lines.values() if label != positive).most_common(1)[0][0]
    for line, label in lines.items():
        if not label:
            raise RecipeError(f"{path}, line {line}: label is empty; give it")
        if label in twins:
            raise RecipeError(f"{path}, line {line}: label {label!r}, but most are spelled {twins[label]!r}; mend it")
        if label not in (positive, other):
            raise RecipeError(
                f"{path}, line {line}: label {label!r} is neither {positive!r}, which means present, nor {other!r}, "
                "the most frequent other one; mend it, or call all that is absent the same"
            )


def _score(path: Path, row: dict[str, str] | None) -> float:
    return np.nan if row is None else _number(row["score"], f"{path}, image {row['image']}")


def _number(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise RecipeError(f"{where}: {text!r} is no number") from error


def _threshold(path: Path, rows: dict[str, dict[str, str]], given: float | None) -> float:
    found = {row.get("threshold") or "" for row in rows.values()}
    if given is not None:
        return given
    if len(found) != 1 or found == {""}:
        raise RecipeError(f"{path} names {len(found - {''})} thresholds; give the one that counts with --threshold")
    return _number(found.pop(), str(path))


# --- figures ---------------------------------------------------------------------------------------------------------


def analyze(study: Study, resamples: int = _RESAMPLES) -> dict[str, Any]:
    """Every figure of the page; rates and areas as ``[value, low, high]`` with 95 % intervals.

    A reader's own figures count every image that they judged. Comparisons count the images that everybody judged and
    that have a score.
    """
    scored = ~np.isnan(study.scores)
    complete = scored & (study.said >= ABSENT).all(axis=1)
    patients = [len(np.unique(study.patients[complete & (study.truth == present)])) for present in (True, False)]
    if min(patients) < 2:  # what one patient adds to chance can't be told
        raise RecipeError(
            f"{complete.sum()} images were judged by every reader and have a score, of {patients[0]} patients with the "
            f"finding and of {patients[1]} without it: nothing can be compared with fewer than two of each"
        )
    model = Sample(study.scores, study.scores >= study.threshold, study.truth, study.patients).where(scored)
    return {
        "images": len(study.images),
        "positive": int(study.truth.sum()),
        "compared": int(complete.sum()),
        "readers": [_reader(study, number) for number in range(len(study.readers))],
        "model": {"threshold": study.threshold, "images": len(model.labels), **_figures(model)},
        "majority": _majority(study),
        **_comparison(study, complete, resamples),
    }


def _figures(sample: Sample) -> dict[str, Any]:
    return {
        "sensitivity": rounded(rates.wilson(sample.rate(True))),
        "specificity": rounded(rates.wilson(sample.rate(False))),
        "auc": rounded(roc.auc_interval(sample.areas())),
        "roc": points(sample.scores, sample.labels),
    }


def points(scores: np.ndarray, truth: np.ndarray) -> list[list[float]]:
    """The empirical ROC curve: ``[1 - specificity, sensitivity]`` from (0, 0) to (1, 1), one for each score."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    hits, alarms = (np.cumsum(chosen[order])[ends] / chosen.sum() for chosen in (truth, ~truth))
    return [[0.0, 0.0], *([round(float(x), 4), round(float(y), 4)] for x, y in zip(alarms, hits, strict=True))]


def _reader(study: Study, number: int) -> dict[str, Any]:
    said, ratings = study.said[:, number], study.ratings[:, number]
    read, judged = said > NOT_READ, said >= ABSENT
    if len(set(study.truth[judged])) < 2:
        raise RecipeError(f"{study.readers[number]} has not judged images of both classes")
    sample = Sample(ratings, said == PRESENT, study.truth, study.patients)
    # The worst that can be said of what could not be judged: it counts as wrong.
    strict = Sample(sample.scores, np.where(judged, said == PRESENT, ~study.truth), study.truth, study.patients)
    seconds = study.seconds[read, number]
    return {
        "reader": study.readers[number],
        "images": int(read.sum()),
        "cant_judge": int((said == CANT_JUDGE).sum()),
        **_figures(sample.where(np.flatnonzero(judged))),
        "strict_sensitivity": rounded(rates.wilson(strict.where(np.flatnonzero(read)).rate(True))),
        "strict_specificity": rounded(rates.wilson(strict.where(np.flatnonzero(read)).rate(False))),
        "kappa_with_truth": _or_none(readers.cohen(np.where(judged, said, -1), study.truth.astype(int))),
        "again": _again(study, number),
        "seconds": None if np.isnan(seconds).all() else rounded(np.nanpercentile(seconds, [50, 25, 75])),
    }  # fmt: skip


def _again(study: Study, number: int) -> dict[str, Any]:
    """How far a reader agrees with themselves on what they saw twice, "can't judge" being an answer, too."""
    first, second = study.said[:, number], study.said_again[:, number]
    both = (first > NOT_READ) & (second > NOT_READ)
    apart = np.abs(study.ratings[both, number] - study.ratings_again[both, number])
    return {
        "images": int(both.sum()),
        "agreed": round(float((first[both] == second[both]).mean()), 4) if both.any() else None,
        "kappa": _or_none(readers.cohen(np.where(both, first + 1, -1), np.where(both, second + 1, -1))),
        "rating_apart": None if np.isnan(apart).all() else round(float(np.nanmean(apart)), 2),
    }


def _majority(study: Study) -> dict[str, Any]:
    """What more readers said than not; an image on which they are even counts for neither."""
    votes = (study.said == PRESENT).sum(axis=1) - (study.said == ABSENT).sum(axis=1)
    decided = np.flatnonzero(votes != 0)
    sample = Sample(votes.astype(float), votes > 0, study.truth, study.patients).where(decided)
    found: dict[str, Any] = {"images": len(decided), "ties": int((votes == 0).sum())}
    for name, label in (("sensitivity", True), ("specificity", False)):
        if (sample.labels == label).any():
            found[name] = rounded(rates.wilson(sample.rate(label)))
    return found


def _comparison(study: Study, complete: np.ndarray, resamples: int) -> dict[str, Any]:
    """The mean reader, and the model less the mean reader: for other readers and patients, and for other patients."""
    truth, patients = study.truth[complete], study.patients[complete]
    scores = np.vstack([study.scores[complete], study.ratings[complete].T])
    said = np.vstack([scores[0] >= study.threshold, study.said[complete].T == PRESENT])
    measures: dict[str, Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]] = {
        "auc": lambda at: mrmc.areas(scores[:, at], truth[at], patients[at]),
        "sensitivity": lambda at: mrmc.shares(said[:, at[truth[at]]], patients[at[truth[at]]]),
        "specificity": lambda at: mrmc.shares(~said[:, at[~truth[at]]], patients[at[~truth[at]]]),
    }
    everything = np.arange(len(truth))
    mean, difference = {}, {}
    drawn = bootstrap(lambda at: [_gap(measure(at)[0]) for measure in measures.values()], truth, patients, resamples)
    for (name, measure), (_, *resampled) in zip(measures.items(), drawn, strict=True):
        values, covariance = measure(everything)
        mean[name] = _as_json(mrmc.of_readers(values[1:], covariance[1:, 1:]), lowest=0.0)
        difference[name] = _as_json(mrmc.against(values, covariance), lowest=-1.0) | {"bootstrap": resampled}
    return {"mean_reader": mean, "difference": difference}


def _gap(values: np.ndarray) -> float:
    return float(values[0] - values[1:].mean())


def _as_json(found: mrmc.Mean, lowest: float) -> dict[str, Any]:
    """With ``interval`` cut off at what can be: few readers give one that reaches beyond."""
    values = {name: _or_none(value) for name, value in asdict(found).items()}
    return values | {"interval": rounded((found.value, max(found.low, lowest), min(found.high, 1.0)))}


def _or_none(value: float) -> float | None:
    return round(value, 4) if np.isfinite(value) else None
