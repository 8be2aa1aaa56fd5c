"""Stage ``gate``: which candidate ships for each target; a build stops where none may.

Each candidate is compared with the unpruned float network on the validation cases of every fold: how well it draws,
how much alike the two draw, how far their volumes are apart. Of those within the recipe's limits the most alike ships,
if it is faster than float on its target; if not, float ships, and the manifest says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from tqdm import tqdm

from compression import shipping
from compression.inference import LOGITS, Network
from compression.segmentation import cases, export, measures, overlap, quantize, train
from compression.segmentation.recipe import GateRecipe
from compression.timing import milliseconds

if TYPE_CHECKING:
    from compression.segmentation.build import Build

SECTIONS = ("input", "gate")


class Verdict(msgspec.Struct, frozen=True):
    """One candidate: its speed, what it costs against the unpruned float network, and the limits that it breaks.

    ``artifacts``: one for each fold; ``milliseconds``: median of one case through the network on one thread.
    """

    target: str
    producer: str
    artifacts: tuple[str, ...]
    bytes: int
    milliseconds: float
    costs: dict[str, float]
    broken: tuple[str, ...]


class Choice(msgspec.Struct, frozen=True):
    """What ships for a target, why, and all that was tried; ``int8`` is the best int8 candidate, shipped or not."""

    target: str
    shipped: Verdict
    int8: Verdict
    reason: str
    tried: tuple[Verdict, ...]


def run(build: Build) -> str:
    folds = [_Fold(build, fold) for fold in train.folds(build)]
    choices = [_choose(build, target, folds) for target in build.recipe.quantize.targets]
    return shipping.save(build, choices)


def load(build: Build) -> dict[str, Choice]:
    """Target -> what ships."""
    return shipping.load(build, Choice)


def artifact(build: Build, target: str) -> Path:
    """The file that ships for a target: that of the first fold, which was chosen before anything was measured."""
    return build.work / load(build)[target].shipped.artifacts[0]


class _Fold:
    """The validation cases of a fold, and what the unpruned float network draws on them."""

    def __init__(self, build: Build, fold: int) -> None:
        found, prepared = cases.load(build)
        validation = prepared.where(cases.split(build, found, fold)["validation"])
        given = train.inputs(build, list(validation.pixels)).numpy()
        self.inputs = [np.ascontiguousarray(each) for each in given[:, None]]
        self.labels = validation.labels
        self.unpruned = drawn(Network(export.unpruned_path(build, fold), threads=build.threads), self.inputs)


def drawn(network: Network, inputs: Sequence[np.ndarray]) -> np.ndarray:
    """The most probable label of each voxel: uint8 ``(cases, ...)``."""
    return np.concatenate([network.run([each])[LOGITS].argmax(1).astype(np.uint8) for each in inputs])


def _choose(build: Build, target: str, folds: Sequence[_Fold]) -> Choice:
    candidates = quantize.candidates(build, target)
    first = {producer: Network(paths[0], target, threads=1) for producer, paths in candidates.items()}
    one = folds[0].inputs[:1]
    speeds = milliseconds({producer: partial(network.run, one) for producer, network in first.items()})
    segments, tried = len(build.recipe.package.segments), {}
    for producer, paths in candidates.items():
        each = [
            drawn(Network(path, target, build.threads), fold.inputs)
            for path, fold in zip(tqdm(paths, desc=f"{target}, {producer[:24]}", unit="fold"), folds, strict=True)
        ]
        costs = compare(
            np.concatenate([fold.labels for fold in folds]),
            np.concatenate([fold.unpruned for fold in folds]),
            np.concatenate(each),
            segments,
        )
        tried[producer] = Verdict(
            target=target,
            producer=producer,
            artifacts=tuple(str(path.relative_to(build.work)) for path in paths),
            bytes=paths[0].stat().st_size,
            milliseconds=speeds[producer],
            costs=costs,
            broken=broken(build.recipe.gate, costs),
        )
    shipped, int8, reason = decide(target, tried)
    return Choice(target, shipped, int8, reason, tuple(tried.values()))


def compare(labels: np.ndarray, before: np.ndarray, after: np.ndarray, segments: int) -> dict[str, float]:
    """What a candidate costs, of the segment where it costs most.

    Parameters
    ----------
    labels, before, after
        The truth, and what the unpruned network and the candidate draw: uint8 ``(cases, ...)``.
    """
    triples = list(zip(labels, before, after, strict=True))
    truth_before = np.mean([overlap.dice(one, truth, segments) for truth, one, _ in triples], axis=0)
    truth_after = np.mean([overlap.dice(other, truth, segments) for truth, _, other in triples], axis=0)
    between = np.mean([overlap.dice(one, other, segments) for _, one, other in triples], axis=0)
    errors = np.abs([measures.volume_error(other, one, segments) for _, one, other in triples])
    errors[np.isnan(errors)] = 0.0  # neither draws it: they agree
    return {
        "dice_loss": round(float((truth_before - truth_after).max()), 4),
        "dice_between": round(float(between.min()), 4),
        "volume_error": round(float(np.median(errors, axis=0).max()), 4),
    }


def broken(limits: GateRecipe, costs: dict[str, float]) -> tuple[str, ...]:
    """The limits that are broken, each with its figure."""
    return tuple(
        f"{name} {value} against {getattr(limits, name)} allowed"
        for name, value in costs.items()
        # `not` also catches NaN
        if not (value >= limits.dice_between if name == "dice_between" else value <= getattr(limits, name))
    )


def decide(target: str, verdicts: dict[str, Verdict]) -> tuple[Verdict, Verdict, str]:
    """What ships, the best int8 candidate, and why: see `shipping.decide`; of the fast ones, the most alike."""
    return shipping.decide(target, verdicts, lambda verdict: -verdict.costs["dice_between"])
