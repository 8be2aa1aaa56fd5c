"""Which images and volumes a segmentation's drift reference is of; how it is made is for `compression.reference`.

Studies are of the patients that the shipped network, that of the first fold, was not trained on: those that validated
it, and those of its test. The first alone would be few. Its training patients say where embeddings lie.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from appliance.image import Image
from appliance.package import Package
from appliance.volume import Volume
from compression import reference
from compression.recipe import RecipeError
from compression.segmentation import cases

if TYPE_CHECKING:
    from compression.segmentation.build import Build

WHO = "patients of the data set that the network was not trained on"


def training(build: Build) -> Iterator[Image | Volume]:
    """Every case that the shipped network was trained on."""
    yield from _sources(build, ("train",))


def studies(build: Build) -> Iterator[Image | Volume]:
    """The first case of each patient that it was not."""
    yield from _sources(build, ("validation", "test"), one_a_patient=True)


def check_same(build: Build, before: Package) -> None:
    """Raise `RecipeError` where a package was made of other data, or of patients that were dealt otherwise."""
    made = before.manifest.training
    dealt = {name: len(chosen) for name, chosen in cases.split(build, _dealt(build), 0).items()}
    if made.get("data_manifest_sha256") != cases.list_digest(build):
        raise RecipeError(f"{before} was made of other data than {build.data_root / build.recipe.data.train}")
    if made.get("cases") != dealt:
        raise RecipeError(f"{before} was made of the cases {made.get('cases')}, and here they are dealt to {dealt}")


def _dealt(build: Build) -> list[cases.Case]:
    named = build.recipe.data
    return cases.dealt(cases.of_training(named, build.data_root), named.folds, named.seed)


def _sources(build: Build, splits: tuple[str, ...], one_a_patient: bool = False) -> Iterator[Image | Volume]:
    """As they lie in the data set."""
    dealt, seen = _dealt(build), set()
    chosen = cases.split(build, dealt, 0)
    segments = [segment.label for segment in build.recipe.package.segments]
    for number in sorted(np.concatenate([chosen[name] for name in splits]).tolist()):
        case = dealt[number]
        if one_a_patient and case.patient in seen:
            continue
        seen.add(case.patient)
        yield as_read(cases.read(build.data_root / build.recipe.data.train, case, segments))


def as_read(source: cases.Source) -> Image | Volume:
    """As a device has it after decoding; of images the data sets state no spacing."""
    if source.pixels.ndim == 2:
        return reference.plain(source.pixels)
    depth, height, width = source.spacing
    return Volume(source.pixels, (depth, height, width), (), (), (0, 1, 2), (), np.eye(3)[::-1])
