"""Splits by patient, and the version of a data set: the same content gives the same version, and so the same split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from compression.recipe import RecipeError

NAMES = ("train", "validation", "test")
_TENTHS = {"train": 7, "validation": 2, "test": 1}


@dataclass(frozen=True)
class Content:
    """What a split depends on, ``count`` images in any order.

    Attributes
    ----------
    digests
        str ``(count,)``: of decoded pixels (`duplicates.digest`); masks are joined to them where there are some.
    labels, patients
        str ``(count,)``.
    sites
        str ``(count,)``, or None where the site is not known.
    """

    digests: np.ndarray
    labels: np.ndarray
    patients: np.ndarray
    sites: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)


def version(content: Content) -> str:
    """SHA-256 of what the images show and of their labels and patients; names and order of files don't matter."""
    return hashlib.sha256("\n".join(sorted(_keys(content))).encode()).hexdigest()


def three_way(content: Content) -> np.ndarray:
    """70 % training, 20 % validation, 10 % test: no patient in two, labels and sites in proportion.

    Returns
    -------
    str ``(count,)``: one of `NAMES` for each image. The shares are of images, as near as whole patients allow.

    Raises
    ------
    RecipeError
        Where there are fewer than ten patients of a label.
    """
    names = np.repeat(list(_TENTHS), list(_TENTHS.values()))
    split = np.empty(len(content), dtype=object)
    for number, (_, held) in enumerate(k_fold(content, len(names))):
        split[held] = names[number]
    return split.astype(str)


def k_fold(content: Content, folds: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Grouped stratified k-fold: index arrays of training and held-out images, one pair a fold.

    Raises
    ------
    RecipeError
        Where a label has fewer patients than there are folds.
    """
    _check_patients(content, folds)
    order = np.argsort(np.array(_keys(content)), kind="stable")
    strata = _strata(content, folds)[order]
    # A seed of the content, so that another data set is not split along the same lines.
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=int(version(content)[:8], 16))
    for training, held in splitter.split(strata, strata, content.patients[order]):
        yield np.sort(order[training]), np.sort(order[held])


def hold_out_site(content: Content, site: str) -> np.ndarray:
    """A test on one whole site, the rest 80 % training and 20 % validation: str ``(count,)``.

    Patients who were also seen elsewhere go with the site.

    Raises
    ------
    RecipeError
        Where there is no such site, or nothing but it.
    """
    if content.sites is None or site not in content.sites:
        raise RecipeError(f"there is no site {site!r} in the data set")
    test = np.isin(content.patients, content.patients[content.sites == site])
    if test.all():
        raise RecipeError(f"all patients are of the site {site!r}: nothing is left for training")
    rest = Content(content.digests[~test], content.labels[~test], content.patients[~test], content.sites[~test])
    _, validation = next(k_fold(rest, 5))
    split = np.where(test, "test", "train").astype(object)
    split[np.flatnonzero(~test)[validation]] = "validation"
    return split.astype(str)


def expected(given: np.ndarray) -> tuple[str, ...]:
    """The splits that a list must have images for, by those it gives; without validation, it is dealt out of train."""
    return NAMES if "validation" in given else ("train", "test")


def leaks(patients: np.ndarray, split: np.ndarray) -> dict[str, list[str]]:
    """Patients in more than one split, and in which."""
    found: dict[str, set[str]] = {}
    for patient, name in zip(patients, split, strict=True):
        found.setdefault(str(patient), set()).add(str(name))
    return {patient: sorted(names) for patient, names in sorted(found.items()) if len(names) > 1 and patient}


def folds_or_none(labels: np.ndarray, patients: np.ndarray, folds: int) -> list[tuple[np.ndarray, np.ndarray]] | None:
    """`k_fold` over rows that are told apart by their place, or None where a label has too few patients."""
    places = np.array([f"{index:09d}" for index in range(len(labels))])
    try:
        return list(k_fold(Content(places, labels, patients), folds))
    except RecipeError:
        return None


def _keys(content: Content) -> list[str]:
    return [
        f"{digest} {label!r} {patient!r}"
        for digest, label, patient in zip(
            content.digests.tolist(), content.labels.tolist(), content.patients.tolist(), strict=True
        )
    ]


def _strata(content: Content, folds: int) -> np.ndarray:
    """Label and site of each image; the label alone where a site has too few of it to be spread over the folds."""
    if content.sites is None:
        return content.labels
    both = np.array([f"{label} | {site}" for label, site in zip(content.labels, content.sites, strict=True)])
    patients = {each: len(set(content.patients[both == each])) for each in np.unique(both)}
    strata = np.array(
        [each if patients[each] >= folds else label for each, label in zip(both, content.labels, strict=True)]
    )
    values, counts = np.unique(strata, return_counts=True)
    rare = set(values[counts < folds])
    return content.labels if rare else strata


def _check_patients(content: Content, folds: int) -> None:
    for label in np.unique(content.labels):
        count = len(set(content.patients[content.labels == label]))
        if count < folds:
            raise RecipeError(
                f"{str(label)!r} has {count} patients: too few for {folds} parts without a patient in two"
            )
