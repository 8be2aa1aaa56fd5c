"""Target ``openvino``: NNCF on the IR, and neural-compressor beside it; packed as one zip with fixed dates."""

from __future__ import annotations

import logging
import re
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from appliance.backends.openvino import BIN, XML
from appliance.probability import calibrated
from compression import data
from compression.inference import LOGITS, Network, tensors
from compression.quantize import pt2e
from compression.quantize.static import Calibration
from compression.recipe import RecipeError

if TYPE_CHECKING:
    from compression.build import Build
    from compression.export import Source

TARGET = "openvino"
# Of ONNX: what NNCF puts its quantizers before, and what passes int8 through or fuses.
OPERATORS = frozenset(
    {
        "Conv",
        "ConvTranspose",
        "Gemm",
        "MatMul",
        "Add",
        "Mul",
        "MaxPool",
        "AveragePool",
        "GlobalAveragePool",
        "ReduceMean",
    }
    | {"Relu", "Clip", "PRelu", "HardSwish", "Sigmoid", "Concat", "Flatten", "Reshape", "Resize", "Transpose", "Split"}
    | {"BatchNormalization"}  # a scale and a shift for each channel
)
PRODUCER = "NNCF, post-training, preset MIXED, accurate bias correction"
ACCURACY_CONTROL = "NNCF with accuracy control: the layers that cost most stay in float"


def float_artifact(source: Source, folder: Path) -> Path:
    return _save(_convert(source.onnx), folder / "float.zip")


def candidates(source: Source, folder: Path, calibration: Calibration) -> dict[str, Path]:
    import nncf

    quantized = nncf.quantize(_convert(source.onnx), _dataset(calibration), **_settings(calibration))
    other = pt2e.quantized(source, folder / "pt2e.onnx", calibration)
    return {
        PRODUCER: _save(quantized, folder / "int8.zip"),
        pt2e.PRODUCER: _save(_convert(other), folder / "int8-pt2e.zip"),
    }


def accuracy_control(build: Build, source: Source, folder: Path, calibration: Calibration) -> dict[str, Path]:
    """The candidate for when the gate fails: layers go back to float until probabilities are close enough to float's.

    Half the allowed flips is what a probability may differ by in the mean, on validation images.
    """
    import nncf

    validation = data.load(build, "validation").pixels
    inputs = list(tensors(build, validation, f"accuracy control, {TARGET}"))
    wanted = calibrated(Network(source.onnx).run(inputs)[LOGITS][:, 0], 1.0)

    def agreement(model: Any, items: Iterable[np.ndarray]) -> tuple[float, list[float]]:
        given = np.concatenate([calibrated(np.asarray(model(item)[LOGITS])[:, 0], 1.0) for item in items])
        apart = np.abs(given - wanted[: len(given)])
        return 1.0 - float(apart.mean()), [1.0 - float(each) for each in apart]

    quantized = nncf.quantize_with_accuracy_control(
        _convert(source.onnx),
        calibration_dataset=_dataset(calibration),
        validation_dataset=nncf.Dataset(inputs),
        validation_fn=agreement,
        max_drop=build.recipe.gate.flips / 2,
        **_settings(calibration),
    )
    return {ACCURACY_CONTROL: _save(quantized, folder / "int8-accuracy-control.zip")}


def _dataset(calibration: Calibration) -> Any:
    import nncf

    nncf.set_log_level(logging.ERROR)
    return nncf.Dataset(list(calibration.inputs))


def _settings(calibration: Calibration) -> dict[str, Any]:
    import nncf

    # The fast bias correction gives many times more decision flips (0.4 % against 3.1 %).
    return {
        "preset": nncf.QuantizationPreset.MIXED,
        "subset_size": len(calibration.inputs),
        "fast_bias_correction": False,
    }


def _convert(path: Path) -> Any:
    """An ONNX network as an OpenVINO model; of a static shape, since a dynamic batch gave constant logits in int8."""
    import openvino

    model = openvino.convert_model(str(path))
    if model.is_dynamic():
        raise RecipeError(f"{path} has no static shape: OpenVINO's int8 would give wrong logits")
    return model


def _save(model: Any, path: Path) -> Path:
    """The IR as a zip, the same bytes for the same network.

    Its notes on paths and settings of the making are cut, and names that count the operations of this process are
    replaced by ones that count those of the network.
    """
    import openvino

    for number, operation in enumerate(model.get_ordered_ops()):
        if re.fullmatch(r"[A-Z][A-Za-z]*_\d+", operation.get_friendly_name()):
            operation.set_friendly_name(f"{operation.get_type_name()}.{number}")
    with tempfile.TemporaryDirectory() as folder:
        openvino.save_model(model, Path(folder) / XML, compress_to_fp16=False)
        xml = re.sub(rb"\t<rt_info>.*</rt_info>\n", b"", (Path(folder) / XML).read_bytes(), flags=re.DOTALL)
        weights = (Path(folder) / BIN).read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in ((XML, xml), (BIN, weights)):
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            archive.writestr(info, content, compress_type=zipfile.ZIP_DEFLATED)
    return path
