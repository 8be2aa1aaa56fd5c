"""The build of a segmentation: its stages, and what shapes each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from appliance import preprocess
from compression import augment as image_augment
from compression import (
    augment_policy,
    columns,
    diagnosis,
    external,
    inference,
    levels,
    masks,
    page,
    roc,
    shipping,
    sources,
    stages,
    statistics,
    subgroups,
    timing,
    transforms,
    unet,
)
from compression import export as onnx_export
from compression import reference as drift
from compression.build import LOOP, QUANTIZERS
from compression.quantize import cpu, openvino, pt2e, qdq, static, tensorrt
from compression.segmentation import (
    augment,
    card,
    cases,
    choose,
    evaluate,
    export,
    gaps,
    gate,
    golden,
    measures,
    overlap,
    pack,
    preflight,
    prune,
    quantize,
    reference,
    report,
    train,
    volumes,
)
from compression.segmentation.recipe import SegmentationRecipe
from compression.stages import Stage

LIBRARIES = (
    "torch", "torch-pruning", "monai", "nibabel", "onnx", *QUANTIZERS, "albumentations", "numpy", "pillow",
    "scikit-learn",
)  # fmt: skip
STAGES = (
    Stage("data", cases, 1, (levels, preprocess, sources, masks)),
    Stage("train", train, 62, (unet, augment, image_augment, augment_policy, transforms, overlap, *LOOP)),
    Stage("prune", prune, 27),
    Stage("choose", choose, 0.1),
    Stage("volumes", volumes, 1),
    Stage("export", export, 1, (onnx_export, inference)),
    Stage("quantize", quantize, 3, (cpu, openvino, pt2e, qdq, static, tensorrt), QUANTIZERS),
    Stage("gate", gate, 2, (shipping, timing, measures, inference)),
    Stage("golden", golden, 1, (inference,)),
    Stage("evaluate", evaluate, 3, (external, gaps, statistics, subgroups, roc, columns, inference)),
    Stage("report", report, 0.1, (page, diagnosis)),
    Stage("pack", pack, 1, (card, reference, drift, inference)),
)


@dataclass
class Build(stages.Build):
    """What the stages of a segmentation may use; see `compression.stages.Build`."""

    recipe: SegmentationRecipe
    libraries: tuple[str, ...] = LIBRARIES


def run(build: Build, last: str | None, force: Sequence[str], adopt: Sequence[str] = ()) -> None:
    """Look at what can be told before, then run the stages as `compression.stages.run`."""
    stages.check_names(STAGES, last, force, adopt)
    preflight.check(build)
    stages.run(build, STAGES, last, force, adopt)
