"""What can be told to be wrong before any long work starts."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from compression import check_cases, check_text, external
from compression.recipe import RecipeError
from compression.segmentation import augment, cases

if TYPE_CHECKING:
    from compression.segmentation.build import Build

_CHECKED = "checked"


def check(build: Build) -> None:
    """Look at the recipe's transforms, its folds, and at every case of its data sets.

    Raises
    ------
    RecipeError
        Naming the transform or the key, or the data sets' cases as `check-data` does.
    """
    recipe = build.recipe
    augment.compose(recipe.augment, recipe.augment_policy, len(recipe.input.shape), seed=0)
    cases.dealt(cases.of_training(recipe.data, build.data_root), recipe.data.folds, recipe.data.seed)
    _check_cases(build)


def _check_cases(build: Build) -> None:
    """Refuse what `check-data` calls an error; the same files are read for it once."""
    mark = build.work / _CHECKED
    key = hashlib.sha256(cases.fingerprint(build) + external.fingerprint(build)).hexdigest()
    if mark.exists() and mark.read_text() == key:
        return
    if errors := check_cases.check(build.recipe, build.data_root).errors:
        raise RecipeError("the data can't be learned from:" + "\n".join(check_text.problems(errors)))
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.write_text(key)
