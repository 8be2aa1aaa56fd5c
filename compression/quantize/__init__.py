"""Stage ``quantize``: int8 candidates for each target, and the float network in each target's form.

A target is a module with ``TARGET``, ``float_artifact(build)`` and ``candidates(build)``, which both write into the
stage's folder. Which candidate ships, and whether one does, is decided by the stage ``gate``.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from compression import data
from compression.quantize import cpu, openvino, tensorrt

if TYPE_CHECKING:
    from pathlib import Path

    from compression.build import Build

SECTIONS = ("input", "quantize")
TARGETS = {module.TARGET: module for module in (cpu, openvino, tensorrt)}
FLOAT = "float"


def run(build: Build) -> str:
    training = data.load(build, "train")
    recipe = build.recipe.quantize
    chosen = stratified(training.labels, recipe.images, build.recipe.data.seed)
    images = training.pixels[chosen]
    made = {}
    for name in recipe.targets:
        folder = build.folder("quantize") / name
        folder.mkdir(exist_ok=True)
        module = TARGETS[name]
        paths = {FLOAT: module.float_artifact(build, folder), **module.candidates(build, folder, images)}
        made[name] = {producer: str(path.relative_to(build.folder("quantize"))) for producer, path in paths.items()}
    (build.folder("quantize") / "candidates.json").write_text(json.dumps(made, indent=1))
    counted = ", ".join(f"{name}: {len(paths) - 1}" for name, paths in made.items())
    return f"int8 candidates calibrated on {len(images)} images of training patients; {counted}"


def stratified(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Indices of ``count`` images (or all, where there are fewer), half of them of each class."""
    chance = np.random.default_rng(seed)
    halves = [np.flatnonzero(labels == label) for label in (False, True)]
    return np.sort(np.concatenate([chance.permutation(half)[: count // 2] for half in halves]))


def candidates(build: Build, target: str) -> dict[str, Path]:
    """Producer -> artifact; `FLOAT` is the network that the others were made from."""
    made = json.loads((build.folder("quantize") / "candidates.json").read_text())
    return {producer: build.folder("quantize") / name for producer, name in made[target].items()}
