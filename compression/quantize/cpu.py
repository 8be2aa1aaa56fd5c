"""Stage ``quantize`` for target ``cpu``: static int8 for ONNX Runtime, QDQ, U8 activations and S8 weights per channel.

Signed activations would run at the speed of float on x86.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from tqdm import tqdm

from compression import data, export
from compression.inference import INPUT, tensors

if TYPE_CHECKING:
    from compression.build import Build

SECTIONS = ("input", "quantize")
TARGET = "cpu"
PRODUCER = "onnxruntime quantize_static, QDQ, U8 activations, S8 weights per channel"


def path(build: Build) -> Path:
    return build.folder("quantize") / "cpu.onnx"


def run(build: Build) -> str:
    recipe = build.recipe.quantize
    training = data.load(build, "train")
    chosen = stratified(training.labels, recipe.images, build.recipe.data.seed)
    prepared = build.folder("quantize") / "prepared.onnx"
    logging.getLogger().setLevel(logging.ERROR)  # the quantizer warns on the root logger about what it does itself
    quant_pre_process(str(export.path(build)), str(prepared))
    quantize_static(
        str(prepared),
        str(path(build)),
        _Reader(tensors(build, tqdm(training.pixels[chosen], desc="calibrating", unit="image"))),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        calibrate_method=CalibrationMethod[recipe.method],
    )
    prepared.unlink()
    before, after = export.path(build).stat().st_size, path(build).stat().st_size
    sizes = f"{after / 1e6:.1f} MB int8 (float {before / 1e6:.1f} MB)"
    return f"{sizes}, calibrated by {recipe.method} on {len(chosen)} images"


def stratified(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Indices of ``count`` images (or all, where there are fewer), half of them of each class."""
    chance = np.random.default_rng(seed)
    halves = [np.flatnonzero(labels == label) for label in (False, True)]
    return np.sort(np.concatenate([chance.permutation(half)[: count // 2] for half in halves]))


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, inputs: object) -> None:
        self._inputs = iter(inputs)  # type: ignore[call-overload]

    def get_next(self) -> dict[str, np.ndarray] | None:
        tensor = next(self._inputs, None)
        return None if tensor is None else {INPUT: tensor}
