"""Target ``cpu``: static int8 for ONNX Runtime, QDQ, U8 activations and S8 weights per channel.

Signed activations would run at the speed of float on x86.
"""

from __future__ import annotations

import logging
import shutil
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
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry
from onnxruntime.quantization.shape_inference import quant_pre_process

from compression.inference import INPUT, tensors

if TYPE_CHECKING:
    from compression.build import Build
    from compression.export import Source

TARGET = "cpu"
# What its quantizer takes, and what costs nothing where it stays in float or is folded away.
OPERATORS = frozenset(QDQRegistry) | frozenset(QLinearOpsRegistry) | {"Relu", "ReduceMean", "Flatten"}
PRODUCER = "onnxruntime quantize_static, QDQ, U8 activations, S8 weights per channel"


def float_artifact(source: Source, folder: Path) -> Path:
    return Path(shutil.copy(source.onnx, folder / "float.onnx"))


def candidates(build: Build, source: Source, folder: Path, images: np.ndarray) -> dict[str, Path]:
    path = folder / "int8.onnx"
    with prepared(source, folder) as prepared_path:
        quantize_static(
            str(prepared_path),
            str(path),
            Reader(build, images, TARGET),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            calibrate_method=CalibrationMethod[build.recipe.quantize.method],
        )
    return {PRODUCER: path}


class prepared:  # noqa: N801  used as a function
    """The float network, with shapes inferred and constants folded, as ONNX Runtime's quantizer wants it."""

    def __init__(self, source: Source, folder: Path) -> None:
        self._source, self._path = source.onnx, folder / "prepared.onnx"

    def __enter__(self) -> Path:
        logging.getLogger().setLevel(logging.ERROR)  # the quantizer warns on the root logger of what it does itself
        quant_pre_process(str(self._source), str(self._path))
        return self._path

    def __exit__(self, *_: object) -> None:
        self._path.unlink()


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Preprocessed calibration images, one at a time."""

    def __init__(self, build: Build, images: np.ndarray, what: str) -> None:
        self._inputs = iter(tensors(build, images, f"calibrating {what}"))

    def get_next(self) -> dict[str, np.ndarray] | None:
        tensor = next(self._inputs, None)
        return None if tensor is None else {INPUT: tensor}
