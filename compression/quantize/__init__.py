"""Stage ``quantize``: int8 candidates for each target, and the float network in each target's form.

A target is a module with ``TARGET``, ``float_artifact(source, folder)`` and ``candidates(source, folder,
calibration)``, which return what they wrote into the folder. Which candidate ships, and whether one does, is decided by
the stage ``gate``; where none may, it asks for `fallbacks`. Nothing makes int4: it would have to pass the same gate.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import onnx

from compression import data, export
from compression.inference import tensors
from compression.quantize import aware, cpu, openvino, tensorrt
from compression.quantize.static import Calibration

if TYPE_CHECKING:
    from pathlib import Path

    from compression.build import Build

SECTIONS = ("input", "quantize")
TARGETS = {module.TARGET: module for module in (cpu, openvino, tensorrt)}
FLOAT = "float"


def run(build: Build) -> str:
    calibration = calibrating(build)
    made = {}
    for target in build.recipe.quantize.targets:
        folder = build.folder("quantize") / target
        folder.mkdir(exist_ok=True)
        source, module = export.source(build), TARGETS[target]
        paths = {
            FLOAT: module.float_artifact(source, folder),
            **module.candidates(source, folder, calibration),
        }
        made[target] = {producer: str(path.relative_to(build.work)) for producer, path in paths.items()}
    (build.folder("quantize") / "candidates.json").write_text(json.dumps(made, indent=1))
    counted = ", ".join(f"{target}: {len(paths) - 1}" for target, paths in made.items())
    return f"int8 candidates calibrated on {len(calibration.inputs)} images of training patients; {counted}"


def unquantizable(model: onnx.ModelProto, targets: Iterable[str]) -> list[str]:
    """The operators of a float network that a target doesn't take, each with its target and the first node's name."""
    first: dict[str, str] = {}
    for node in model.graph.node:
        first.setdefault(node.op_type, node.name)
    return [
        f"{target} can't quantize {operator} ({name})"
        for target in targets
        for operator, name in first.items()
        if operator not in TARGETS[target].OPERATORS
    ]


def candidates(build: Build, target: str) -> dict[str, Path]:
    """Producer -> artifact; `FLOAT` is the network that the others were made from."""
    made = json.loads((build.folder("quantize") / "candidates.json").read_text())
    return {producer: build.work / name for producer, name in made[target].items()}


def fallbacks(build: Build, target: str, folder: Path) -> Iterator[dict[str, Path]]:
    """More candidates, each costlier to make than the one before, made when they are asked for."""
    calibration, source = calibrating(build), export.source(build)
    own = folder / target
    own.mkdir(exist_ok=True)
    if target == openvino.TARGET:
        yield openvino.accuracy_control(build, source, own, calibration)
    retrained = aware.retrained(build, source, folder / "aware", calibration)
    made = TARGETS[target].candidates(retrained, own, calibration)
    yield {f"{producer}, {aware.PRODUCER}": path for producer, path in made.items()}


def calibrating(build: Build) -> Calibration:
    """Images of training patients, half of each class."""
    training, recipe = data.load(build, "train"), build.recipe.quantize
    images = training.pixels[stratified(training.labels, recipe.images, build.recipe.data.seed)]
    return Calibration(list(tensors(build, images)), recipe.method)


def stratified(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Indices of ``count`` images (or all, where there are fewer), half of them of each class."""
    chance = np.random.default_rng(seed)
    halves = [np.flatnonzero(labels == label) for label in (False, True)]
    return np.sort(np.concatenate([chance.permutation(half)[: count // 2] for half in halves]))
