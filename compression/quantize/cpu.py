"""Target ``cpu``: static int8 for ONNX Runtime, QDQ, U8 activations and S8 weights per channel.

Signed activations would run at the speed of float on x86.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

from compression.quantize import static

if TYPE_CHECKING:
    from compression.build import Build
    from compression.export import Source

TARGET = "cpu"
# What its quantizer takes, and what costs nothing where it stays in float or is folded away.
OPERATORS = frozenset(QDQRegistry) | frozenset(QLinearOpsRegistry) | {"Relu", "ReduceMean", "Flatten"}
PRODUCER = "onnxruntime quantize_static, QDQ, U8 activations, S8 weights per channel"
float_artifact = static.float_artifact


def candidates(build: Build, source: Source, folder: Path, images: np.ndarray) -> dict[str, Path]:
    return {PRODUCER: static.quantized(build, source, folder, images, TARGET, activation_type=QuantType.QUInt8)}
