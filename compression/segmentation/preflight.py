"""What can be told to be wrong before any long work starts."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from appliance import preprocess
from compression import (
    balance,
    check_cases,
    check_pairs,
    check_text,
    clipping,
    content,
    data,
    duplicates,
    external,
    gray_steps,
    imported,
    inventory,
    levels,
    masks,
    problems,
    sources,
    splits,
    tables,
    unet,
)
from compression.recipe import RecipeError
from compression.segmentation import augment, cases, grays

if TYPE_CHECKING:
    from compression.segmentation.build import Build

_CHECKED = "checked"
# What shapes what the check of the cases finds.
SOURCES = (
    check_cases, balance, cases, check_pairs, clipping, content, data, duplicates, gray_steps, grays, imported,
    inventory, levels, masks, preprocess, problems, sources, splits, tables, unet,
)  # fmt: skip


def check(build: Build) -> None:
    """Look at the recipe's transforms, its folds, and at every case of its data sets.

    Raises
    ------
    RecipeError
        Naming the transform or the key, or the data sets' cases as `check-data` does.
    """
    recipe = build.recipe
    augment.compose(recipe.augment, recipe.augment_policy, len(recipe.input.shape), seed=0)
    training = cases.of_training(recipe.data, build.data_root)
    cases.dealt(training, recipe.data.folds, recipe.data.seed)
    listed = [training, *(cases.listed(build.data_root / name) for name in recipe.data.external)]
    check_pairs.warn_of_patients(build, check_cases.patients((recipe.data.train, *recipe.data.external), listed))
    _check_cases(build)


def _check_cases(build: Build) -> None:
    """Refuse what `check-data` calls an error; the same files are read for it once, by the same recipe and check."""
    mark, key = build.work / _CHECKED, _key(build)
    if mark.exists() and mark.read_text() == key:
        return
    if errors := check_cases.check(build.recipe, build.data_root).errors:
        raise RecipeError("the data can't be learned from:" + "\n".join(check_text.problems(errors)))
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.write_text(key)


def _key(build: Build) -> str:
    digest = hashlib.sha256(cases.fingerprint(build) + external.fingerprint(build))
    digest.update(msgspec.json.encode([build.recipe.data, build.recipe.input], order="deterministic"))
    for source in SOURCES:
        digest.update(Path(str(source.__file__)).read_bytes())
    return digest.hexdigest()
