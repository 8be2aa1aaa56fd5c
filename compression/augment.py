"""Random changes of training images, as other scanners, exposures and positions would make them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import albumentations
import cv2
import numpy as np

from compression import augment_policy, levels
from compression.recipe import AugmentPolicyRecipe, AugmentRecipe, RecipeError
from compression.transforms import AbdomenBelow, BlackLevel

cv2.setNumThreads(1)

_OWN: dict[str, type[albumentations.BasicTransform]] = {"BlackLevel": BlackLevel, "AbdomenBelow": AbdomenBelow}


class Several(albumentations.SomeOf):
    """From ``least`` to ``most`` of the transforms, in their order, each with certainty.

    albumentations' own draws a fixed number, and leaves some of these out again by their ``p``; here ``p`` is how
    likely a transform is drawn, compared with the others.
    """

    def __init__(self, transforms: Sequence[albumentations.BasicTransform], least: int, most: int) -> None:
        shares = np.array([each.p for each in transforms])
        for each in transforms:
            each.p = 1.0
        super().__init__(list(transforms), n=most)
        self._shares, self._least, self._most = shares / shares.sum(), least, most

    def _get_idx(self) -> np.ndarray:
        count = self.py_random.randint(self._least, self._most)
        return np.sort(self.random_generator.choice(len(self._shares), size=count, replace=False, p=self._shares))


class Augmentation(albumentations.Compose):
    """Transforms of an image ``image=`` ``(rows, columns)`` of levels from 0 to 255, and of its mask, if it has one.

    What the stages keep is rounded here: albumentations takes, and this gives, uint8.
    """

    def __call__(self, *args: Any, force_apply: bool = False, **data: Any) -> dict[str, Any]:
        given = {**data, "image": levels.rounded(data["image"])}
        made: dict[str, Any] = super().__call__(*args, force_apply=force_apply, **given)
        return made


def compose(steps: Sequence[AugmentRecipe], policy: AugmentPolicyRecipe, seed: int) -> Augmentation:
    """The transforms of a recipe.

    Raises
    ------
    RecipeError
        For what the policy refuses, a transform that is not known, or a parameter that it does not have.
    """
    transforms = [make(step) for step in steps]
    augment_policy.check(transforms, policy)
    if policy.some_of is not None:
        least, most = policy.some_of
        if not least <= most <= sum(step.p > 0 for step in steps):
            raise RecipeError(
                f"augment_policy.some_of [{least}, {most}]: from fewer to more, and of no more than [[augment]] has"
            )
        transforms = [Several(transforms, least, most)]
    return Augmentation(transforms, seed=seed)


def make(step: AugmentRecipe) -> albumentations.BasicTransform:
    """One transform; raises `RecipeError` where its name or a parameter is not known."""
    kind = _OWN.get(step.name) or getattr(albumentations, step.name, None)
    if not (isinstance(kind, type) and issubclass(kind, albumentations.BasicTransform)):
        raise RecipeError(
            f"augment {step.name}: albumentations {albumentations.__version__} has no such transform; "
            "for some of them at a time there is augment_policy.some_of"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # it only warns of a parameter that is misspelled, and leaves it out
            return kind(**{key: _tuples(value) for key, value in step.parameters.items()}, p=step.p)
    except (TypeError, ValueError, UserWarning) as error:
        raise RecipeError(f"augment {step.name}: {error}") from error


def _tuples(value: Any) -> Any:
    """TOML's lists as the tuples that albumentations wants, also inside tables."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(value) if isinstance(value, list) else value
