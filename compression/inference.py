"""Running a network file on many images, through the device's own preprocessing and backends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from appliance.backend import Backend, Options
from appliance.backends import onnxruntime, openvino
from appliance.preprocess import preprocess

if TYPE_CHECKING:
    from compression.build import Build

INPUT = "image"
LOGITS, ACTIVATION_MAP, EMBEDDING = "logits", "activation_map", "embedding"
# What runs the artifact of each target here. TensorRT needs a GPU: its very file is run by ONNX Runtime instead.
RUNTIMES = {"cpu": onnxruntime, "openvino": openvino, "tensorrt": onnxruntime}


def open_network(artifact: bytes, target: str, threads: int = 1) -> Backend:
    """A network on the CPU, by the device's own backend; ``target`` is a key of `RUNTIMES`."""
    return RUNTIMES[target].open(artifact, Options(threads=threads, device="CPU"))


class Network:
    """A network file, opened as the device opens it.

    Parameters
    ----------
    target
        A key of `RUNTIMES`.
    """

    def __init__(self, path: Path, target: str = "cpu", threads: int = 2) -> None:
        self._backend = open_network(path.read_bytes(), target, threads)

    def run(self, inputs: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
        """Every output by name, its first axis the images."""
        collected: dict[str, list[np.ndarray]] = {}
        for tensor in inputs:
            for name, value in self._backend.run({INPUT: tensor}).items():
                collected.setdefault(name, []).append(value)
        return {name: np.concatenate(values) for name, values in collected.items()}


def tensors(build: Build, pixels: Iterable[np.ndarray], what: str | None = None) -> Iterator[np.ndarray]:
    """Preprocessed images, float32 ``(1, 1, rows, columns)`` each; with a progress bar that says ``what``."""
    steps = build.recipe.input.steps()
    for image in tqdm(pixels, desc=what, unit="image", disable=what is None):
        yield preprocess(image, steps)
