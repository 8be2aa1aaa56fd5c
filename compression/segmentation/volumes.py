"""Stage ``volumes``: networks that draw each segment, in the median, as large as it is.

A loss on voxels and on overlap leaves a bias of volumes, a share of every volume. Where the recipe asks for it, a
constant is added to the logit of each segment (the bias of the last layer), such that half of the fold's training and
validation cases come out larger than their masks and half smaller. Its test cases have no part in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm import tqdm

from compression import checkpoint
from compression.segmentation import cases, choose, train
from compression.unet import UNet

if TYPE_CHECKING:
    from compression.segmentation.build import Build

SECTIONS = ("volumes",)
LARGEST = 1.0  # in a logit; a network that needs more draws too badly to be helped so
_ROUNDS, _HALVINGS = 4, 12  # a segment's constant moves its neighbor's volume, too, but little


def run(build: Build) -> str:
    found, prepared = cases.load(build)
    unbiased, said = build.recipe.volumes.unbiased, []
    for fold in tqdm(train.folds(build), desc="volumes", unit="fold"):
        chosen, unpruned = choose.load(build, fold), train.load(build, fold)
        if unbiased:
            parts = cases.split(build, found, fold)
            seen = prepared.where(np.concatenate([parts["train"], parts["validation"]]))
            shift = _shifted(build, chosen, seen)
            _shifted(build, unpruned, seen)
            said.append(f"fold {fold} " + ", ".join(f"{each:+.2f}" for each in shift))
        checkpoint.save(_path(build, fold), chosen.state_dict())
        checkpoint.save(_unpruned_path(build, fold), unpruned.state_dict())
    return "; ".join(said) if unbiased else "as they were trained"


def _shifted(build: Build, network: UNet, seen: cases.Prepared) -> np.ndarray:
    """Add its constants to a network; what they are."""
    shift = constants(_logits(build, network, seen), seen.labels)
    network.head.bias.data[1:] += torch.from_numpy(shift).float()
    return shift


def load(build: Build, fold: int) -> UNet:
    """The pruned network of a fold that goes on, in evaluation mode."""
    return train.read(build, _path(build, fold))


def load_unpruned(build: Build, fold: int) -> UNet:
    """The unpruned network of a fold, treated alike, in evaluation mode."""
    return train.read(build, _unpruned_path(build, fold))


def constants(logits: Iterator[np.ndarray], labels: np.ndarray) -> np.ndarray:
    """What to add to the logits of each segment, so that the median case's volume is that of its mask: ``(segments,)``.

    Parameters
    ----------
    logits
        Of each case ``(1 + segments, ...)``.
    labels
        ``(cases, ...)``; a case whose mask lacks a segment has no say in it.
    """
    # Only voxels that the largest constants could turn are looked at more than once.
    certain, undecided, owner = [], [], []
    for number, each in enumerate(logits):
        flat = each.reshape(len(each), -1)
        second, first = np.partition(flat, -2, axis=0)[-2:]
        open_ = first - second < 2 * LARGEST
        certain.append(np.bincount(flat[:, ~open_].argmax(0), minlength=len(flat)))
        undecided.append(flat[:, open_])
        owner.append(np.full(int(open_.sum()), number))
    fixed, values, of = np.array(certain), np.concatenate(undecided, axis=1), np.concatenate(owner)
    segments = len(values) - 1
    wanted = np.array([[(each == segment).sum() for segment in range(1, segments + 1)] for each in labels])
    shift = np.zeros(segments)
    for _ in range(_ROUNDS):
        for segment in range(segments):
            has = wanted[:, segment] > 0
            low, high = -LARGEST, LARGEST
            for _ in range(_HALVINGS):
                shift[segment] = (low + high) / 2
                drawn = (values + np.concatenate([[0.0], shift])[:, None]).argmax(0) == segment + 1
                have = fixed[:, segment + 1] + np.bincount(of[drawn], minlength=len(fixed))
                if np.median(have[has] / wanted[has, segment]) < 1.0:
                    low = shift[segment]
                else:
                    high = shift[segment]
    return shift


@torch.no_grad()
def _logits(build: Build, network: UNet, prepared: cases.Prepared) -> Iterator[np.ndarray]:
    for pixels in prepared.pixels:
        yield network(train.inputs(build, [pixels]))[0][0].numpy()


def _path(build: Build, fold: int) -> Path:
    return build.folder("volumes") / f"pruned.fold-{fold}.pt"


def _unpruned_path(build: Build, fold: int) -> Path:
    return build.folder("volumes") / f"unpruned.fold-{fold}.pt"
