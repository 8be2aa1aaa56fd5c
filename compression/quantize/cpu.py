"""Target ``cpu``: static int8 for ONNX Runtime, QDQ, U8 activations and S8 weights per channel.

Signed activations would run at the speed of float on x86.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from onnxruntime.quantization import QuantType
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

from compression.quantize import static
from compression.quantize.static import Calibration

if TYPE_CHECKING:
    from compression.export import Source

TARGET = "cpu"
# What its quantizer takes, and what costs nothing where it stays in float or is folded away.
OPERATORS = frozenset(QDQRegistry) | frozenset(QLinearOpsRegistry) | {"Relu", "ReduceMean", "Flatten"}
PRODUCER = "onnxruntime quantize_static, QDQ, U8 activations, S8 weights per channel"
float_artifact = static.float_artifact


def candidates(source: Source, folder: Path, calibration: Calibration) -> dict[str, Path]:
    return {PRODUCER: static.quantized(source, folder, calibration, activation_type=QuantType.QUInt8)}
