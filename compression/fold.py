"""Stage ``data`` of one fold of a cross-validation: the training side's patients, dealt anew, never the test's."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from compression import build as classification
from compression import columns, data, splits
from compression.recipe import RecipeError

SECTIONS = ("data", "input")


@dataclass(kw_only=True)
class Build(classification.Build):
    """Of one fold.

    Attributes
    ----------
    whole
        The build whose training side is dealt; its stage ``data`` has run.
    number, count
        Which fold, from 0 on, of how many.
    """

    whole: classification.Build
    number: int
    count: int


def of(whole: classification.Build, number: int, count: int) -> Build:
    """One fold's build; its stages lie below the work folder of the whole."""
    given = {field.name: getattr(whole, field.name) for field in fields(whole)}
    work = whole.work / "cross-validation" / f"{count}-fold" / str(number + 1)
    return Build(**given | {"work": work, "keys": {}, "adopted": ()}, whole=whole, number=number, count=count)


def fingerprint(fold: Build) -> bytes:
    return f"{fold.whole.keys['data']} {fold.number} {fold.count} {_site(fold.whole)}".encode()


def run(fold: Build) -> str:
    """Test: the patients held out; validation: one of ``data.validation_folds`` groups of the others.

    Raises
    ------
    RecipeError
        Patients are so few, or so uneven, that a part lacks a class.
    """
    images, sites, recipe = _training_side(fold.whole), _sites(fold.whole), fold.recipe.data
    places = np.array([f"{index:09d}" for index in range(len(images))])
    content = splits.Content(places, _named(fold.whole, images.labels), images.patients, sites)
    _, held = list(splits.k_fold(content, fold.count))[fold.number]
    split = np.full(len(images), "train", dtype=object)
    split[held] = "test"
    if not 0 < images.labels[held].sum() < len(held):
        raise RecipeError(f"all {len(held)} images held out are of one class; take fewer folds, or bring more patients")
    folds, labels, patients = recipe.validation_folds, images.labels, images.patients
    split[data.deal_validation(split, labels, patients, sites, folds, recipe.seed)] = "validation"
    return data.save(fold, split, images, folds)


def _training_side(whole: classification.Build) -> data.Images:
    """All images that are not of the list's test."""
    train, validation = (data.load(whole, name) for name in ("train", "validation"))
    return data.Images(
        np.concatenate([train.pixels, validation.pixels]),
        np.concatenate([train.labels, validation.labels]),
        np.concatenate([train.patients, validation.patients]),
    )


def _named(whole: classification.Build, labels: np.ndarray) -> np.ndarray:
    positive = whole.recipe.data.positive
    return np.where(labels, positive, f"not {positive}")


def _sites(whole: classification.Build) -> np.ndarray | None:
    """Of each of these images, where the list has them."""
    name = _site(whole)
    if name is None:
        return None
    return np.concatenate([data.column(whole, part, name) for part in ("train", "validation")])


def _site(whole: classification.Build) -> str | None:
    """The column that tells the site."""
    row = data.read_manifest(whole.data_root / whole.recipe.data.train)[0]
    return columns.site(row, whole.recipe.check.site)
