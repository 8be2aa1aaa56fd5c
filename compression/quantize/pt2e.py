"""A second producer: neural-compressor on the exported torch graph (PT2E), written as ONNX in QDQ form."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import torch
from tqdm import tqdm

from compression.export import convert
from compression.quantize.qdq import drop_clips, fold_weights
from compression.quantize.static import Calibration

if TYPE_CHECKING:
    from compression.export import Source

PRODUCER = "neural-compressor, PT2E, U8 activations, S8 weights per channel"


def quantized(source: Source, path: Path, calibration: Calibration) -> Path:
    """Quantize the torch network and write it to ``path``, weights folded to int8, a quarter of the size."""
    logging.disable(logging.WARNING)  # it tells of each of its steps, on loggers of its own making
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from neural_compressor.torch import export as exporting
            from neural_compressor.torch import quantization

            shape = calibration.inputs[0].shape
            graph = exporting.export(source.network, (torch.zeros(shape),))
            observed = quantization.prepare(graph, quantization.get_default_static_config())
            with torch.no_grad():
                for tensor in tqdm(calibration.inputs, desc="calibrating, second producer", unit="input"):
                    observed(torch.from_numpy(tensor))
            convert(quantization.convert(observed), shape, path, source.outputs)
    finally:
        logging.disable(logging.NOTSET)
    model = onnx.load(str(path))
    drop_clips(model)
    fold_weights(model)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
    return path
