"""What the steps before normalization make of a case's gray values: how much they clip, their mean and spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from appliance.preprocess import MOVING, Step, preprocess
from compression import clipping, normalization
from compression.problems import Problem

if TYPE_CHECKING:
    from compression.segmentation.cases import Source

_NORMALIZE = "normalize"


@dataclass(frozen=True)
class Grays:
    """Of one case: shares of its pixels at the lower and the upper end, and mean and spread of what is normalized.

    Where the image was is looked at for what is clipped, and not the padding around it.
    """

    lower: float
    upper: float
    mean: float
    std: float


def measure(source: Source, steps: Sequence[Step]) -> Grays:
    """Run a recipe's steps over a case, without the normalization."""
    before = [step for step in steps if step.name != _NORMALIZE]
    in_place = preprocess(source.pixels, [step for step in before if step.name not in MOVING], source.spacing)
    given = preprocess(source.pixels, before, source.spacing)
    return Grays(*clipping.ends(in_place), float(given.mean()), float(given.std()))


def check(data_set: str, found: Sequence[Grays], steps: Sequence[Step], problems: list[Problem]) -> dict[str, Any]:
    """The training cases beside the recipe's normalization, as `compression.normalization.check` has it."""
    declared = next((step.parameters for step in steps if step.name == _NORMALIZE), None)
    if declared is None or not found:
        return {}
    means, spreads = np.array([(each.mean, each.std) for each in found]).T
    return normalization.check(data_set, (declared["mean"], declared["std"]), means, spreads, problems)
