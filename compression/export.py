"""Stage ``export``: the trained network as ONNX, checked against torch."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch

from compression import data, train
from compression.inference import INPUT, Network, tensors
from compression.recipe import RecipeError

if TYPE_CHECKING:
    from pathlib import Path

    from compression.build import Build

SECTIONS = ("input",)
LOGITS, ACTIVATION_MAP, EMBEDDING = "logits", "activation_map", "embedding"
_LARGEST_DIFFERENCE = 1e-3


def path(build: Build) -> Path:
    return build.folder("export") / "float.onnx"


def run(build: Build) -> str:
    network = train.load(build)
    shape = (1, 1, build.recipe.input.rows, build.recipe.input.columns)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            (torch.zeros(shape),),
            input_names=[INPUT],
            output_names=[LOGITS, ACTIVATION_MAP, EMBEDDING],
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(str(path(build)), external_data=False)
    onnx.checker.check_model(str(path(build)), full_check=True)
    pixels = data.load(build, "validation").pixels[:64]
    exported = Network(path(build)).run(tensors(build, pixels))[LOGITS][:, 0]
    difference = float(np.abs(exported - train.logits(build, network, pixels)).max())
    if not difference <= _LARGEST_DIFFERENCE:
        raise RecipeError(f"the exported network differs from the trained one by {difference:.4f} in a logit")
    return f"{path(build).stat().st_size / 1e6:.1f} MB, largest difference of a logit {difference:.1e}"
