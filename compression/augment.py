"""Random changes of training images, as other scanners, exposures and positions would make them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import albumentations
import cv2
import numpy as np

from compression.recipe import AugmentRecipe, RecipeError

# The heart is on the left: a mirrored or turned chest radiograph shows another anatomy.
_REFUSED = ("Flip", "Rotate90", "Transpose", "D4", "SquareSymmetry")
_MOST_DEGREES = 15.0

cv2.setNumThreads(1)


class BlackLevel(albumentations.ImageOnlyTransform):
    """Subtract a random level up to ``limit`` (of 255) and stretch the rest: a scanner's cut-off at the dark end."""

    def __init__(self, limit: float = 50, p: float = 0.5) -> None:
        super().__init__(p=p)
        self.limit = limit

    def apply(self, img: np.ndarray, level: float = 0.0, **_: Any) -> np.ndarray:
        return np.clip((img.astype(np.float32) - level) * (255.0 / (255.0 - level)), 0, 255).astype(np.uint8)

    def get_params(self) -> dict[str, Any]:
        return {"level": self.py_random.uniform(0, self.limit)}


def compose(steps: Sequence[AugmentRecipe], seed: int) -> albumentations.Compose:
    """The transforms of a recipe; call it with ``image=`` uint8 ``(rows, columns)``.

    Raises
    ------
    RecipeError
        For a flip, a turn of more than 15 degrees, or a transform that is not known.
    """
    transforms = []
    for step in steps:
        if any(word in step.name for word in _REFUSED):
            raise RecipeError(f"augment {step.name}: a chest radiograph must not be flipped or turned by 90 degrees")
        degrees = np.abs(step.parameters.get("rotate", step.parameters.get("limit", 0) if "Rotate" in step.name else 0))
        if np.max(degrees) > _MOST_DEGREES:
            raise RecipeError(f"augment {step.name}: turns of more than {_MOST_DEGREES:g} degrees are refused")
        kind = BlackLevel if step.name == "BlackLevel" else getattr(albumentations, step.name, None)
        if kind is None:
            raise RecipeError(f"augment {step.name}: albumentations {albumentations.__version__} has no such transform")
        transforms.append(kind(**{key: _tuples(value) for key, value in step.parameters.items()}, p=step.p))
    return albumentations.Compose(transforms, seed=seed)


def _tuples(value: Any) -> Any:
    """TOML's lists as the tuples that albumentations wants, also inside tables."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(value) if isinstance(value, list) else value
