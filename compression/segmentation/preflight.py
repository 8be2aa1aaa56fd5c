"""What can be told to be wrong before any long work starts; what lies in the files, `compression.check_cases` tells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from compression.recipe import RecipeError
from compression.segmentation import augment, cases
from compression.segmentation.cases import Case

if TYPE_CHECKING:
    from compression.segmentation.build import Build


def check(build: Build) -> None:
    """Look at the recipe's transforms and at every case of its data sets.

    Raises
    ------
    RecipeError
        Naming the transform, or the data set and the case.
    """
    recipe = build.recipe
    augment.compose(recipe.augment, recipe.augment_policy, len(recipe.input.shape), seed=0)
    _check_cases(build.data_root / recipe.data.train, cases.of_training(recipe.data, build.data_root))
    if recipe.data.external:
        folder = build.data_root / recipe.data.external
        _check_cases(folder, cases.listed(folder))
        if not build.folder("train").exists():  # those that learn are read at once, but these only after hours
            segments = [segment.label for segment in recipe.package.segments]
            for case in tqdm(cases.listed(folder), desc=f"reading {folder.name}", unit="case"):
                cases.read(folder, case, segments)


def _check_cases(folder: Path, listed: Sequence[Case]) -> None:
    """Each has a patient, an image and a mask that are there, and is listed once."""
    seen = set()
    for case in listed:
        if not case.patient:
            raise RecipeError(f"{folder}: {case.file} has no patient_id, so that no fold can keep its patient together")
        for what, name in (("image", case.file), ("mask", case.mask)):
            if not name or not (folder / name).is_file():
                raise RecipeError(f"{folder}: the {what} {name or '(none)'} of {case.file or 'a row'} is not there")
        if case.file in seen:
            raise RecipeError(f"{folder}: {case.file} is listed twice; keep one of the two")
        seen.add(case.file)
