"""The build of a classification: its stages, and what shapes each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from appliance import preprocess
from compression import (
    abstention,
    augment,
    augment_policy,
    calibrate,
    card,
    checkpoint,
    choose,
    columns,
    data,
    decision_curve,
    decisions,
    diagnosis,
    distributed,
    duplicates,
    ensemble,
    evaluate,
    export,
    external,
    gate,
    golden,
    hard_cases,
    inference,
    levels,
    loop,
    losses,
    optimization,
    pack,
    page,
    precision,
    preflight,
    prune,
    quantize,
    rates,
    reference,
    report,
    report_clinical,
    report_hard_cases,
    roc,
    sampling,
    shipping,
    sources,
    spikes,
    splits,
    stages,
    statistics,
    subgroups,
    task,
    timing,
    train,
    transforms,
)
from compression.quantize import aware, cpu, openvino, pt2e, qdq, static, tensorrt
from compression.recipe import Recipe
from compression.stages import Stage

# What shapes every training.
LOOP = (checkpoint, distributed, loop, losses, optimization, precision, sampling, spikes, task)
# What makes networks int8 and runs them from there on: another version makes quantize and all stages after it anew.
QUANTIZERS = ("onnxruntime", "openvino", "nncf", "neural-compressor")
LIBRARIES = ("torch", "torch-pruning", "onnx", *QUANTIZERS, "albumentations", "numpy", "pillow", "scikit-learn")
STAGES = (
    Stage("data", data, 1, (sources, duplicates, levels, preprocess, splits)),
    Stage("train", train, 20, (augment, augment_policy, transforms, preprocess, *LOOP)),
    Stage("prune", prune, 62, (statistics,)),
    Stage("choose", choose, 0.1, (calibrate,)),
    Stage("export", export, 1, (inference,)),
    Stage(
        "quantize", quantize, 2, (aware, cpu, openvino, pt2e, qdq, static, tensorrt, inference, preprocess), QUANTIZERS
    ),
    Stage("gate", gate, 3, (calibrate, augment, transforms, inference, preprocess, shipping, timing)),
    Stage("ensemble", ensemble, 4, (calibrate, augment, transforms, inference, preprocess)),
    Stage("golden", golden, 1, (inference, preprocess)),
    Stage(
        "evaluate",
        evaluate,
        9,
        (
            statistics,
            timing,
            roc,
            rates,
            decision_curve,
            decisions,
            subgroups,
            hard_cases,
            abstention,
            columns,
            external,
            inference,
        ),
    ),
    Stage("report", report, 0.5, (page, report_clinical, report_hard_cases, diagnosis)),
    Stage("pack", pack, 2, (card, reference, inference)),
)


@dataclass
class Build(stages.Build):
    """What the stages of a classification may use; see `compression.stages.Build`."""

    recipe: Recipe
    libraries: tuple[str, ...] = LIBRARIES


def run(build: Build, last: str | None, force: Sequence[str], adopt: Sequence[str] = ()) -> None:
    """Look at what can be told before, then run the stages as `compression.stages.run`."""
    stages.check_names(STAGES, last, force, adopt)
    preflight.check(build)
    stages.run(build, STAGES, last, force, adopt)
