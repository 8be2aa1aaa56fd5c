"""Stage ``quantize``: for each fold int8 candidates for each target, and the float network in each target's form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from compression.quantize import FLOAT, TARGETS
from compression.quantize.static import Calibration
from compression.segmentation import cases, export, train

if TYPE_CHECKING:
    from compression.segmentation.build import Build

SECTIONS = ("input", "quantize")


def run(build: Build) -> str:
    made: dict[str, dict[str, list[str]]] = {}
    for fold in train.folds(build):
        calibration, source = _calibrating(build, fold), export.source(build, fold)
        for target in build.recipe.quantize.targets:
            folder = build.folder("quantize") / target / f"fold-{fold}"
            folder.mkdir(parents=True, exist_ok=True)
            paths = {
                FLOAT: TARGETS[target].float_artifact(source, folder),
                **TARGETS[target].candidates(source, folder, calibration),
            }
            for producer, path in paths.items():
                made.setdefault(target, {}).setdefault(producer, []).append(str(path.relative_to(build.work)))
    (build.folder("quantize") / "candidates.json").write_text(json.dumps(made, indent=1))
    counted = ", ".join(f"{target}: {len(paths) - 1}" for target, paths in made.items())
    return f"int8 candidates calibrated on {len(calibration.inputs)} cases of training patients; {counted}"


def candidates(build: Build, target: str) -> dict[str, list[Path]]:
    """Producer -> artifact of each fold; `FLOAT` is the network that the others were made from."""
    made = json.loads((build.folder("quantize") / "candidates.json").read_text())
    return {producer: [build.work / name for name in names] for producer, names in made[target].items()}


def _calibrating(build: Build, fold: int) -> Calibration:
    found, prepared = cases.load(build)
    training = cases.split(build, found, fold)["train"]
    chance, recipe = np.random.default_rng(build.recipe.data.seed), build.recipe.quantize
    chosen = np.sort(chance.permutation(training)[: recipe.images])
    given = train.inputs(build, list(prepared.pixels[chosen])).numpy()
    return Calibration([np.ascontiguousarray(each) for each in given[:, None]], recipe.method)
