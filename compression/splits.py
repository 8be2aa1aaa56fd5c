"""Splits by patient, and the version of a data set: the same version has the same split, whatever its files are called.

What is dealt depends on pixels, labels, patients and sites alone, all of which the version covers, as it does a split
that the list gives itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from compression import columns
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
    given
        str ``(count,)``: the split that the list gives; None where it gives none.
    """

    digests: np.ndarray
    labels: np.ndarray
    patients: np.ndarray
    sites: np.ndarray | None = None
    given: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)


def version(content: Content) -> str:
    """SHA-256 of all that a split depends on: what the images show, labels, patients, and sites and splits if given.

    Names and order of files don't matter.
    """
    keys = _keys(content)
    for name, values in (("site", content.sites), ("split", content.given)):
        if values is not None:
            keys = [f"{key} {name} {value!r}" for key, value in zip(keys, values.tolist(), strict=True)]
    return _hash(keys)


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
    dealt_by = strata(content.labels, content.patients, content.sites, folds)[order]
    # A seed of the content, so that another data set is not split along the same lines.
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=int(_hash(_keys(content))[:8], 16))
    for training, held in splitter.split(dealt_by, dealt_by, content.patients[order]):
        yield np.sort(order[training]), np.sort(order[held])


def hold_out_site(content: Content, site: str) -> np.ndarray:
    """A test on one whole site, the rest 80 % training and 20 % validation: str ``(count,)``.

    Patients who were also seen elsewhere go with the site.

    Raises
    ------
    RecipeError
        Where there is no such site, or nothing but it.
    """
    if content.sites is None:
        raise RecipeError(
            f"there is no site {site!r}: the list has no column for it ({', '.join(columns.SITE)}); add one, or name "
            "another with check.site"
        )
    if site not in content.sites:
        there = ", ".join(repr(str(each)) for each in np.unique(content.sites))
        raise RecipeError(f"there is no site {site!r} in the data set; its sites are {there}")
    test = np.isin(content.patients, content.patients[content.sites == site])
    if test.all():
        raise RecipeError(f"all patients are of the site {site!r}: nothing is left for training")
    rest = Content(content.digests[~test], content.labels[~test], content.patients[~test], content.sites[~test])
    _, validation = next(k_fold(rest, 5))
    split = np.where(test, "test", "train").astype(object)
    split[np.flatnonzero(~test)[validation]] = "validation"
    return split.astype(str)


@dataclass(frozen=True)
class Plan:
    """How to split: grouped ``folds``, or a test on one whole ``site``; without either 70/20/10."""

    folds: int | None = None
    site: str | None = None

    def in_words(self) -> str:
        if self.site is not None:
            return f"the site {self.site!r} for the test, the rest 80/20"
        return f"{self.folds} folds, the first for the test" if self.folds else "70/20/10"

    def columns(self, content: Content) -> dict[str, list[str]]:
        """Columns for the list, by name: ``split``, and of folds the number of each, from 1 on, as ``fold``.

        Raises
        ------
        RecipeError
            There is no such site, or a label has too few patients.
        """
        if self.site is not None:
            return {"split": hold_out_site(content, self.site).tolist()}
        if self.folds is None:
            return {"split": three_way(content).tolist()}
        number = np.zeros(len(content), dtype=int)
        for fold, (_, held) in enumerate(k_fold(content, self.folds), start=1):
            number[held] = fold
        split = np.where(number == 1, "test", "train")
        return {"split": split.tolist(), "fold": number.astype(str).tolist()}


def strata(labels: np.ndarray, patients: np.ndarray, sites: np.ndarray | None, folds: int) -> np.ndarray:
    """What is to be in proportion in each of so many folds: label and site of each image, or labels without sites.

    Sites that have fewer patients of a label than there are folds can't be spread over them, and are taken as one;
    where even together they have too few, they go with the label's largest site.

    Parameters
    ----------
    labels, patients, sites
        ``(count,)``; sites may be None.
    """
    if sites is None:
        return labels
    both = np.array([f"{label} | {site}" for label, site in zip(labels, sites, strict=True)])
    found = both.copy()
    for label in np.unique(labels):
        of_label = labels == label
        count = {each: len(set(patients[both == each])) for each in np.unique(both[of_label])}
        small = of_label & np.isin(both, [each for each, number in count.items() if number < folds])
        is_enough = len(set(patients[small])) >= folds
        found[small] = str(label) if is_enough else max(count, key=lambda each: count[each])
    return found


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


def _hash(keys: list[str]) -> str:
    return hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest()


def _keys(content: Content) -> list[str]:
    return [
        f"{digest} {label!r} {patient!r}"
        for digest, label, patient in zip(
            content.digests.tolist(), content.labels.tolist(), content.patients.tolist(), strict=True
        )
    ]


def _check_patients(content: Content, folds: int) -> None:
    for label in np.unique(content.labels):
        count = len(set(content.patients[content.labels == label]))
        if count < folds:
            raise RecipeError(
                f"{str(label)!r} has {count} patients: too few for {folds} parts without a patient in two"
            )
