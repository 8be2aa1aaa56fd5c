"""Whether a recipe's normalization is that of its training images: their mean and standard deviation, all pixels alike.

A network learns with any, but initial weights expect what they were trained on: a mean of about 0, a spread of about 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from compression.problems import Problem, add

_APART = 0.1  # standard deviations between the means, and of one standard deviation to the other


def check(
    data_set: str, recipe: tuple[float, float], means: np.ndarray, spreads: np.ndarray, problems: list[Problem]
) -> dict[str, Any]:
    """What is measured and what the recipe has; among the problems where they are apart.

    Parameters
    ----------
    recipe
        Its mean and its standard deviation.
    means, spreads
        Mean and standard deviation of each training image before ``normalize``, ``(images,)``, all of one size.
    """
    of_recipe, spread = recipe
    mean = float(means.mean())
    std = float(np.sqrt((spreads**2 + means**2).mean() - mean**2))
    if std > 0 and (abs(of_recipe - mean) > _APART * std or abs(spread - std) > _APART * std):
        add(
            problems,
            "warning",
            data_set,
            "normalization that is not the training images'",
            [f"the recipe has mean {of_recipe:g} and std {spread:g}, the images {mean:.3f} and {std:.3f}"],
            f"mean = {mean:.3f} and std = {std:.3f}, unless others are meant: then the recipe should say why",
        )
    return {"mean": round(mean, 4), "std": round(std, 4), "recipe": {"mean": of_recipe, "std": spread}}


def in_words(found: dict[str, Any]) -> str:
    return (
        f"training images before normalization, from 0 to 1: mean {found['mean']:.3f}, standard deviation "
        f"{found['std']:.3f}; the recipe has {found['recipe']['mean']:g} and {found['recipe']['std']:g}"
    )
