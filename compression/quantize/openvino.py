"""Target ``openvino``: NNCF on the IR, packed as one zip with fixed dates."""

from __future__ import annotations

import logging
import re
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from appliance.backends.openvino import BIN, XML
from compression import export
from compression.inference import tensors

if TYPE_CHECKING:
    from compression.build import Build

TARGET = "openvino"
PRODUCER = "NNCF, post-training, preset MIXED, accurate bias correction"


def float_artifact(build: Build, folder: Path) -> Path:
    return _save(_convert(build), folder / "float.zip")


def candidates(build: Build, folder: Path, images: np.ndarray) -> dict[str, Path]:
    import nncf

    nncf.set_log_level(logging.ERROR)
    dataset = nncf.Dataset(list(tensors(build, images, f"calibrating {TARGET}")))
    quantized = nncf.quantize(
        _convert(build),
        dataset,
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(images),
        # The fast one gives many times more decision flips (0.4 % against 3.1 %).
        fast_bias_correction=False,
    )
    return {PRODUCER: _save(quantized, folder / "int8.zip")}


def _convert(build: Build) -> Any:
    """The float network as an OpenVINO model with a static shape (a dynamic batch gave constant logits in int8)."""
    import openvino

    model = openvino.convert_model(str(export.path(build)))
    model.reshape([1, 1, build.recipe.input.rows, build.recipe.input.columns])
    return model


def _save(model: Any, path: Path) -> Path:
    """The IR as a zip, the same bytes for the same network: its notes on paths and settings of the making are cut."""
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        openvino.save_model(model, Path(folder) / XML, compress_to_fp16=False)
        xml = re.sub(rb"\t<rt_info>.*</rt_info>\n", b"", (Path(folder) / XML).read_bytes(), flags=re.DOTALL)
        weights = (Path(folder) / BIN).read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in ((XML, xml), (BIN, weights)):
            archive.writestr(zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0)), content)
    return path
