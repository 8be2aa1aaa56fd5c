"""``--quick`` of a segmentation: a toy package, every stage for real, in about a minute. Its figures mean nothing."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from appliance.preprocess import Step
from compression.recipe import AugmentRecipe
from compression.segmentation import cases
from compression.segmentation.recipe import GateRecipe, SegmentationRecipe

if TYPE_CHECKING:
    from compression.segmentation.build import Build

_CASES, _FOLDS = 48, 3
_RATIO = 0.1  # so narrow a network loses a whole segment with more, and sometimes with this; then it stays unpruned
_SHAPES = {2: (64, 64), 3: (32, 48, 36)}


def shrink(build: Build) -> Build:
    """The same build with small numbers, on some cases of its data set, its package in the work folder."""
    work = build.work.with_name(f"{build.work.name}-quick")
    root = work / "data-set"
    _some_cases(build, root / build.recipe.data.train)
    return dataclasses.replace(build, recipe=_small(build.recipe), data_root=root, work=work, out=work)


def _small(recipe: SegmentationRecipe) -> SegmentationRecipe:
    shape = _SHAPES[len(recipe.input.shape)]
    tuning = replace(recipe.train, epochs=8, batch=2, learning_rate=5e-3, average_decay=0.8)
    return replace(
        recipe,
        package=replace(recipe.package, id=f"{recipe.package.id}-quick"),
        data=replace(
            recipe.data,
            external=(),
            folds=_FOLDS,
            cross_validated=min(recipe.data.cross_validated, 2),
            validation_share=0.25,
            same_patient=(),  # the small list has joined them
        ),
        input=replace(recipe.input, shape=shape, steps=tuple(_resized(step, shape) for step in recipe.input.steps)),
        network=replace(recipe.network, width=8, levels=3),
        train=tuning,
        augment=tuple(_cropped(step, shape) for step in recipe.augment),
        prune=replace(recipe.prune, ratios=(_RATIO,), train=replace(tuning, epochs=4)),
        quantize=replace(recipe.quantize, images=8),
        gate=GateRecipe(dice_loss=0.3, dice_between=0.0, volume_error=100.0),
        golden=replace(recipe.golden, count=2, shape=tuple(size - 4 for size in shape)),
        evaluate=replace(recipe.evaluate, bootstrap=50),
    )


def _resized(step: Step, shape: tuple[int, ...]) -> Step:
    sizes: dict[str, dict[str, Any]] = {
        "resize": {"rows": shape[-2], "columns": shape[-1]},
        "pad_or_crop": {"size": list(shape)},
    }
    return Step(step.name, sizes.get(step.name, step.parameters))


def _cropped(step: AugmentRecipe, shape: tuple[int, ...]) -> AugmentRecipe:
    return replace(step, parameters={**step.parameters, "size": list(shape)}) if "size" in step.parameters else step


def _some_cases(build: Build, target: Path) -> None:
    """A data set with links to the files of some cases, spread over the whole list."""
    source, even = build.data_root / build.recipe.data.train, build.recipe.data.even
    listed = cases.of_training(build.recipe.data, build.data_root)
    chosen = listed[:: max(len(listed) // _CASES, 1)][:_CASES]
    for case in chosen:
        for name in (case.file, case.mask):
            link = target / name
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to((source / name).resolve())
    if (source / "manifest.csv").is_file():
        with (target / "manifest.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("file", "mask", "patient_id", *([even] if even else [])))
            writer.writerows((case.file, case.mask, case.patient, *([case.group] if even else [])) for case in chosen)
