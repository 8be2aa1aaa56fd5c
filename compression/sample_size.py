"""How many images does a study need, so that its sensitivity and specificity mean something?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binom, norm


class SampleSizeError(Exception):
    """What was asked for has no answer; the message says why and what to change."""


@dataclass(frozen=True)
class Power:
    """A study that shows that a rate is above a floor.

    Attributes
    ----------
    images
        Images of the class.
    pass_at
        The study succeeds with at least so many of them right.
    power
        How likely that is.
    """

    images: int
    pass_at: int
    power: float


@dataclass(frozen=True)
class Question:
    """A rate that is asked for: what is expected, what must be beaten (None: expected less margin), and the share of
    all images that it is measured on."""

    figure: str
    expected: float
    floor: float | None
    share: float


def plan(questions: Sequence[Question], margin: float, power: float, confidence: float) -> dict[str, Any]:
    """What a study needs that answers all questions: by precision, by power, and in all."""
    found: dict[str, Any] = {"margin": margin, "power": power, "confidence": confidence, "figures": {}}
    for each in questions:
        floor = each.expected - margin if each.floor is None else each.floor
        if floor <= 0:
            raise SampleSizeError(
                f"{each.figure} {each.expected:.3g} less the margin {margin:.3g} leaves no floor; give one, or a "
                "smaller margin"
            )
        precise = for_precision(each.expected, margin, confidence)
        shown = for_power(each.expected, floor, power, (1 - confidence) / 2)
        found["figures"][each.figure] = {
            "expected": each.expected,
            "share": each.share,
            "precision": {"of_class": precise, "in_all": in_all(precise, each.share)},
            "power": {
                "floor": round(floor, 9),
                "of_class": shown.images,
                "in_all": in_all(shown.images, each.share),
                "pass_at": shown.pass_at,
                "power": round(shown.power, 4),
            },
        }
    for answer in ("precision", "power"):
        found[f"in_all_for_{answer}"] = max(each[answer]["in_all"] for each in found["figures"].values())
    return found


def sentences(found: dict[str, Any]) -> str:
    """What `plan` found, to read."""
    lines = []
    for name, each in found["figures"].items():
        kind = "with" if name == "sensitivity" else "without"
        precision, power = each["precision"], each["power"]
        lines += [
            f"{name}, expected {each['expected']:.1%}, measured on the {each['share']:.1%} {kind} the finding:",
            f"  to within {found['margin']:.1%}: {precision['of_class']:,} images {kind} the finding, "
            f"{precision['in_all']:,} in all",
            f"  to show it above {power['floor']:.1%}: {power['of_class']:,} images {kind} the finding, "
            f"{power['in_all']:,} in all; it passes with {power['pass_at']:,} of {power['of_class']:,} right, "
            f"with a power of {power['power']:.1%}",
        ]
    lines.append(
        f"In all: {found['in_all_for_precision']:,} images for precision, {found['in_all_for_power']:,} for power, of "
        "as many patients."
    )
    return "\n".join(lines)


def for_precision(rate: float, margin: float, confidence: float) -> int:
    """Images of a class with which the interval of a rate is no wider than +-``margin`` (Buderer, Acad Emerg Med 1996).

    It is Wald's interval, and it is expected: half of all studies find a rate whose interval is wider.
    """
    z = float(norm.ppf((1 + confidence) / 2))
    return max(1, math.ceil(round(z**2 * rate * (1 - rate) / margin**2, 9)))


def in_all(of_class: int, share: float) -> int:
    """Images in all, of which so many are expected to be of a class that has this share."""
    return math.ceil(round(of_class / share, 9))


def for_power(rate: float, floor: float, power: float, level: float, most: int = 200_000) -> Power:
    """The smallest study in which an exact one-sided binomial test shows that a rate is above a floor.

    Power rises in a saw-tooth (Chernick & Liu, The American Statistician 2002): one more image can make it fall. The
    answer is the size from which on it never falls below ``power`` again.

    Parameters
    ----------
    rate, floor
        The rate that is expected, and the one that must be beaten.
    power, level
        How likely success shall be at ``rate``, and how likely it may be at ``floor``.
    most
        Largest size that is tried; beyond it `SampleSizeError`.
    """
    if floor >= rate:
        raise SampleSizeError(f"a rate of {rate:.3g} can't be shown to be above {floor:.3g}; lower the floor")
    # The normal approximation is near; twice it and some more holds the last tooth.
    z = float(norm.ppf(power) * np.sqrt(rate * (1 - rate)) + norm.isf(level) * np.sqrt(floor * (1 - floor)))
    bound = int(2 * (max(z, 1.0) / (rate - floor)) ** 2 + 50 / (1 - floor))
    if bound > 2 * most:
        raise SampleSizeError(
            f"{rate:.3g} and {floor:.3g} are so close that more than {most:,} images would be needed; lower the floor"
        )
    sizes = np.arange(1, bound + 1)
    pass_at = binom.isf(level, sizes, floor).astype(int) + 1
    reached = binom.sf(pass_at - 1, sizes, rate)
    short = np.flatnonzero(reached < power)
    size = int(short[-1]) + 2 if len(short) else 1
    if size > bound:
        raise SampleSizeError(
            f"no size up to {bound:,} images shows that {rate:.3g} is above {floor:.3g} with such a power; lower the "
            "floor, the power or the confidence"
        )
    return Power(size, int(pass_at[size - 1]), float(reached[size - 1]))
