"""Stage ``prune``: whole channels are taken out of each fold's network in steps, and after each it is fine-tuned.

Channels that depend on each other go together (DepGraph: Fang et al., CVPR 2023).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch_pruning
from tqdm import tqdm

from compression import checkpoint, diagnosis
from compression.segmentation import cases, overlap, train
from compression.unet import UNet

if TYPE_CHECKING:
    from compression.segmentation.build import Build

SECTIONS = ("input", "network", "augment", "augment_policy", "prune")
UNPRUNED = "unpruned"
_ROUNDS, _GRADIENT_BATCHES = 4, 8


def run(build: Build) -> str:
    train.each_fold(build, _prune)
    rows = [_measured(build, name) for name in names(build)]
    (build.folder("prune") / "table.json").write_text(json.dumps(rows, indent=1))
    return "; ".join(f"{row['name']} {row['parameters'] / 1e6:.2f} M, Dice {np.mean(row['dice']):.4f}" for row in rows)


def names(build: Build) -> list[str]:
    """Every network of a fold, the unpruned one first."""
    return [UNPRUNED, *(f"pruned-{ratio:.2f}" for ratio in build.recipe.prune.ratios)]


def table(build: Build) -> list[dict[str, Any]]:
    """For each name its size, and on the validation cases of all folds the Dice coefficients of each segment."""
    rows: list[dict[str, Any]] = json.loads((build.folder("prune") / "table.json").read_text())
    return rows


def network(build: Build, name: str, fold: int) -> UNet:
    """A network of the table, in evaluation mode."""
    return train.load(build, fold) if name == UNPRUNED else train.read(build, _path(build, name, fold))


def _path(build: Build, name: str, fold: int) -> Path:
    return build.folder("prune") / f"{name}.fold-{fold}.pt"


def _prune(build: Build, fold: int) -> None:
    recipe = build.recipe
    smaller, removed = train.load(build, fold), 0.0
    for number, (name, ratio) in enumerate(zip(names(build)[1:], recipe.prune.ratios, strict=True)):
        done = _path(build, name, fold)
        if not done.exists():
            begin = done.with_suffix(".begin")
            if not begin.exists():  # so that a step that was killed goes on from the same channels
                cut = remove_channels(build, fold, smaller, 1.0 - (1.0 - ratio) / (1.0 - removed))
                for said in diagnosis.of_pruning(name, smaller, cut, recipe.prune.round_to):
                    tqdm.write(said)
                checkpoint.save(begin, cut.state_dict())
            torch.manual_seed(recipe.data.seed + 1000 * (number + 1) + fold)
            train.tune(build, fold, train.read(build, begin), recipe.prune.train, f"{name}, fold {fold}", done)
        smaller, removed = train.read(build, done), ratio


def remove_channels(build: Build, fold: int, network: UNet, ratio: float) -> UNet:
    """A copy without the least important ``ratio`` of all channels.

    Importance is what the loss on training cases would change by, to first order (Molchanov et al., CVPR 2019), ranked
    over all layers together and asked for anew after each of a few rounds.
    """
    smaller = copy.deepcopy(network).eval()
    task = train.Task(build, fold, build.recipe.prune.train.batch)
    pruner = torch_pruning.pruner.BasePruner(
        smaller,
        torch.zeros(1, 1, *build.recipe.input.shape),
        importance=torch_pruning.importance.GroupTaylorImportance(),
        global_pruning=True,
        pruning_ratio=ratio,
        max_pruning_ratio=0.75,  # that no layer becomes a bottleneck
        iterative_steps=_ROUNDS,
        ignored_layers=[smaller.head],
        round_to=build.recipe.prune.round_to,
        forward_fn=lambda pruned, inputs: pruned(inputs)[0],
    )
    for _ in range(_ROUNDS):
        smaller.zero_grad()
        for batch in islice(task.batches(0), _GRADIENT_BATCHES):
            task.loss(smaller, batch).backward()  # type: ignore[no-untyped-call]
        pruner.step()
    return UNet.from_state(smaller.state_dict(), build.recipe.network.dropout)


def _measured(build: Build, name: str) -> dict[str, Any]:
    found, prepared = cases.load(build)
    values: list[Sequence[float]] = []
    for fold in train.folds(build):
        validation = prepared.where(cases.split(build, found, fold)["validation"])
        one = network(build, name, fold)
        drawn = train.draw(build, one, validation)
        segments = len(build.recipe.package.segments)
        values += [overlap.dice(a, b, segments).tolist() for a, b in zip(drawn, validation.labels, strict=True)]
    shipped = network(build, name, train.folds(build)[0])
    macs, parameters = torch_pruning.utils.count_ops_and_params(shipped, torch.zeros(1, 1, *build.recipe.input.shape))
    return {
        "name": name,
        "parameters": int(parameters),
        "macs": int(macs),
        "dice": np.round(np.mean(values, axis=0), 4).tolist(),
    }
