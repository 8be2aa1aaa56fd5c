"""Stage ``export``: the pruned network, and the unpruned one to compare with, as ONNX, checked against torch."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch

from compression import choose, data, train
from compression.inference import ACTIVATION_MAP, EMBEDDING, INPUT, LOGITS, Network, tensors
from compression.recipe import RecipeError

if TYPE_CHECKING:
    from compression.architectures import Classifier
    from compression.build import Build

SECTIONS = ("input",)
OUTPUTS = (LOGITS, ACTIVATION_MAP, EMBEDDING)
LARGEST_DIFFERENCE = 1e-3  # of a logit, between torch and ONNX


@dataclass(frozen=True)
class Source:
    """What quantizers start from: a float network, as ONNX and in torch, and the names of its outputs."""

    onnx: Path
    network: torch.nn.Module
    outputs: Sequence[str] = OUTPUTS


def source(build: Build) -> Source:
    """The pruned network."""
    return Source(path(build), choose.load(build))


def path(build: Build) -> Path:
    """The pruned network, float."""
    return build.folder("export") / "float.onnx"


def unpruned_path(build: Build) -> Path:
    return build.folder("export") / "unpruned.onnx"


def run(build: Build) -> str:
    said = []
    for name, network, target in (
        ("pruned", choose.load(build), path(build)),
        ("unpruned", train.load(build), unpruned_path(build)),
    ):
        difference = _export(build, network, target)
        said.append(f"{name} {target.stat().st_size / 1e6:.1f} MB (differs by {difference:.1e} in a logit)")
    return ", ".join(said)


def write(build: Build, network: Classifier, target: Path) -> Source:
    """Export one network; raises `RecipeError` where it then says something else than in torch."""
    _export(build, network, target)
    return Source(target, network)


def _export(build: Build, network: Classifier, target: Path) -> float:
    """Write one network and check it; the largest difference of a logit from torch's."""
    convert(network, (1, 1, build.recipe.input.rows, build.recipe.input.columns), target)
    pixels = data.load(build, "validation").pixels[:64]
    exported = Network(target, threads=build.threads).run(tensors(build, pixels))[LOGITS][:, 0]
    difference = float(np.abs(exported - train.logits(build, network, pixels)).max())
    if not difference <= LARGEST_DIFFERENCE:
        raise RecipeError(f"the exported network differs from the trained one by {difference:.4f} in a logit")
    return difference


def convert(network: torch.nn.Module, shape: tuple[int, ...], target: Path, outputs: Sequence[str] = OUTPUTS) -> None:
    """Write a torch network as ONNX with the names that a package declares, and a static shape."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            (torch.zeros(shape),),
            input_names=[INPUT],
            output_names=list(outputs),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(str(target), external_data=False)
    onnx.checker.check_model(str(target), full_check=True)
