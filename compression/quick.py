"""``--quick``: a toy package, every stage for real, in under two minutes: few patients, small images, short training.

It shows that the tools work together and that a data set can be read. Its figures mean nothing.
"""

from __future__ import annotations

import csv
import dataclasses
from typing import TYPE_CHECKING

from msgspec.structs import replace

from compression import data
from compression.recipe import GateRecipe, Recipe

if TYPE_CHECKING:
    from pathlib import Path

    from compression.build import Build

_SIDE = 96
_PATIENTS = {"train": 60, "validation": 20, "test": 20}  # of each class


def shrink(build: Build) -> Build:
    """The same build with small numbers, on some patients of its data set, its package in the work folder."""
    work = build.work.with_name(f"{build.work.name}-quick")
    root = work / "data-set"
    _some_patients(
        build.data_root / build.recipe.data.train, root / build.recipe.data.train, build.recipe.data.positive
    )
    return dataclasses.replace(build, recipe=_small(build.recipe), data_root=root, work=work, out=work)


def _small(recipe: Recipe) -> Recipe:
    augment = tuple(
        replace(step, parameters={**step.parameters, "size": [_SIDE, _SIDE]}) if "size" in step.parameters else step
        for step in recipe.augment
    )
    return replace(
        recipe,
        package=replace(recipe.package, id=f"{recipe.package.id}-quick"),
        data=replace(recipe.data, external=()),
        input=replace(recipe.input, rows=_SIDE, columns=_SIDE),
        augment=augment,
        train=replace(recipe.train, epochs=3, batch=16, average_decay=0.8),
        prune=replace(recipe.prune, ratios=recipe.prune.ratios[:1], epochs=2),
        quantize=replace(recipe.quantize, images=32, aware_epochs=1),
        calibrate=replace(recipe.calibrate, augmented_copies=1),
        gate=GateRecipe(flips=0.9, p99_probability=0.999, map_correlation=0.001, auc_loss=0.9, calibration_error=0.999),
        golden=replace(recipe.golden, count=4, components=12),
        evaluate=replace(recipe.evaluate, bootstrap=50),
    )


def _some_patients(source: Path, target: Path, positive: str) -> None:
    """A data set with links to the images of the first patients of each class and split."""
    rows = data.distinct_rows(source)
    taken: dict[tuple[str, bool], dict[str, None]] = {}
    kept = []
    for row in rows:
        split = row.get("split", "")
        patients = taken.setdefault((split, row["label"] == positive), {})
        if row["patient_id"] in patients or len(patients) < _PATIENTS.get(split, 0):
            patients[row["patient_id"]] = None
            kept.append(row)
            link = target / row["file"]
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to((source / row["file"]).resolve())
    target.mkdir(parents=True, exist_ok=True)
    with (target / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(kept)
