"""ONNX Runtime's `quantize_static`, which the targets ``cpu`` and ``tensorrt`` share: QDQ, S8 weights per channel."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

from compression.inference import INPUT

if TYPE_CHECKING:
    from compression.export import Source


@dataclass(frozen=True)
class Calibration:
    """What a quantizer looks at.

    Attributes
    ----------
    inputs
        Preprocessed cases of training patients, float32 ``(1, 1, ...)`` each.
    method
        How ranges of activations are found: a name of ONNX Runtime's `CalibrationMethod`.
    """

    inputs: Sequence[np.ndarray]
    method: str


def float_artifact(source: Source, folder: Path) -> Path:
    return Path(shutil.copy(source.onnx, folder / "float.onnx"))


def quantized(source: Source, folder: Path, calibration: Calibration, **form: Any) -> Path:
    """The int8 network of a target; ``form`` are the options of `quantize_static` that make it that target's."""
    path = folder / "int8.onnx"
    with _prepared(source, folder) as prepared:
        quantize_static(
            str(prepared),
            str(path),
            _Reader(calibration),
            quant_format=QuantFormat.QDQ,
            weight_type=QuantType.QInt8,
            per_channel=True,
            calibrate_method=CalibrationMethod[calibration.method],
            **form,
        )
    return path


class _prepared:  # noqa: N801  used as a function
    """The float network, with shapes inferred and constants folded, as ONNX Runtime's quantizer wants it."""

    def __init__(self, source: Source, folder: Path) -> None:
        self._source, self._path = source.onnx, folder / "prepared.onnx"

    def __enter__(self) -> Path:
        logging.getLogger().setLevel(logging.ERROR)  # the quantizer warns on the root logger of what it does itself
        quant_pre_process(str(self._source), str(self._path))
        return self._path

    def __exit__(self, *_: object) -> None:
        self._path.unlink()


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """The calibration's inputs, one at a time."""

    def __init__(self, calibration: Calibration) -> None:
        self._inputs = iter(tqdm(calibration.inputs, desc="calibrating", unit="input"))

    def get_next(self) -> dict[str, np.ndarray] | None:
        tensor = next(self._inputs, None)
        return None if tensor is None else {INPUT: tensor}
