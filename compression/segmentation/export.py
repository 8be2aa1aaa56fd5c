"""Stage ``export``: for each fold the pruned network, and the unpruned one to compare with, as ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from compression import export
from compression.inference import EMBEDDING, LOGITS, Network
from compression.recipe import RecipeError
from compression.segmentation import cases, train, volumes

if TYPE_CHECKING:
    from compression.segmentation.build import Build

SECTIONS = ("input",)
OUTPUTS = (LOGITS, EMBEDDING)
_COMPARED = 8  # cases


def run(build: Build) -> str:
    largest = 0.0
    for fold in train.folds(build):
        for network, target in (
            (volumes.load(build, fold), path(build, fold)),
            (volumes.load_unpruned(build, fold), unpruned_path(build, fold)),
        ):
            largest = max(largest, _write(build, network, target, fold))
    pruned, unpruned = (each.stat().st_size / 1e6 for each in (path(build, 0), unpruned_path(build, 0)))
    return f"pruned {pruned:.2f} MB, unpruned {unpruned:.2f} MB, at most {largest:.1e} from torch in a logit"


def path(build: Build, fold: int) -> Path:
    """The pruned network of a fold, float."""
    return build.folder("export") / f"float.fold-{fold}.onnx"


def unpruned_path(build: Build, fold: int) -> Path:
    return build.folder("export") / f"unpruned.fold-{fold}.onnx"


def source(build: Build, fold: int) -> export.Source:
    """The pruned network of a fold, for quantizers."""
    return export.Source(path(build, fold), volumes.load(build, fold), OUTPUTS)


def _write(build: Build, network: nn.Module, target: Path, fold: int) -> float:
    """Write one network and check it; the largest difference of a logit from torch's."""
    export.convert(network, (1, 1, *build.recipe.input.shape), target, OUTPUTS)
    found, prepared = cases.load(build)
    chosen = prepared.where(cases.split(build, found, fold)["validation"][:_COMPARED])
    given = train.inputs(build, list(chosen.pixels))
    with torch.no_grad():
        wanted = network(given)[0].numpy()
    exported = Network(target, threads=build.threads).run(
        np.ascontiguousarray(each) for each in given.numpy()[:, None]
    )[LOGITS]
    difference = float(np.abs(exported - wanted).max())
    if not difference <= export.LARGEST_DIFFERENCE:
        raise RecipeError(f"{target} differs from the trained network by {difference:.4f} in a logit")
    return difference
