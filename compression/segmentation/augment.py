"""Random changes of training cases and their masks together: albumentations' on images, MONAI's on volumes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import monai.transforms
import numpy as np
import torch

from compression import augment
from compression.recipe import AugmentPolicyRecipe, AugmentRecipe, RecipeError

Augment = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
_MOST_RADIANS = np.deg2rad(15.0)
_REFUSED = ("Flip", "Rotate90")
_MOVING = ("RandAffine", "Rand3DElastic", "RandZoom", "RandGridDistortion")


def compose(steps: Sequence[AugmentRecipe], policy: AugmentPolicyRecipe, dimensions: int, seed: int) -> Augment:
    """What augments ``(pixels, labels)``, both of the network's shape; raises `RecipeError` as `augment.compose`."""
    return _on_images(steps, policy, seed) if dimensions == 2 else _on_volumes(steps, seed)


def _on_images(steps: Sequence[AugmentRecipe], policy: AugmentPolicyRecipe, seed: int) -> Augment:
    transforms = augment.compose(steps, policy, seed)

    def run(pixels: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        made = transforms(image=pixels, mask=labels)
        return made["image"], made["mask"]

    return run


def _on_volumes(steps: Sequence[AugmentRecipe], seed: int) -> Augment:
    transforms = []
    for step in steps:
        kind = getattr(monai.transforms, f"{step.name}d", None)
        if kind is None:
            raise RecipeError(f"augment {step.name}: MONAI {monai.__version__} has no such transform of dictionaries")
        if any(word in step.name for word in _REFUSED):
            raise RecipeError(f"augment {step.name}: flips and turns by 90 degrees show another anatomy")
        if np.max(np.abs(step.parameters.get("rotate_range", 0.0))) > _MOST_RADIANS:
            raise RecipeError(f"augment {step.name}: turns of more than 15 degrees are refused")
        moving = step.name in _MOVING
        keys = ("pixels", "labels") if moving else ("pixels",)
        mode = {"mode": ("bilinear", "nearest")} if moving else {}
        transforms.append(kind(keys, prob=step.p, **mode, **step.parameters))
    together = monai.transforms.Compose(transforms)
    together.set_random_state(seed)

    def run(pixels: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        given: Any = {
            "pixels": torch.from_numpy(pixels[None]),
            "labels": torch.from_numpy(labels[None].astype(np.float32)),
        }
        made = together(given)
        return np.clip(made["pixels"].numpy()[0], 0.0, 1.0), made["labels"].numpy()[0].astype(np.uint8)

    return run
