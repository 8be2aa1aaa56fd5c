"""Random changes of training cases and their masks together: albumentations' on images, MONAI's on volumes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import monai.transforms
import numpy as np
import torch

from compression import augment, augment_policy
from compression.recipe import AugmentPolicyRecipe, AugmentRecipe, RecipeError

Augment = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
# MONAI's transforms of volumes, by name: these leave every voxel where it is, and so the mask.
_STILL = (
    "RandAdjustContrast", "RandBiasField", "RandCoarseDropout", "RandGaussianNoise", "RandGaussianSharpen",
    "RandGaussianSmooth", "RandGibbsNoise", "RandHistogramShift", "RandKSpaceSpikeNoise", "RandRicianNoise",
    "RandScaleIntensity", "RandScaleIntensityFixedMean", "RandShiftIntensity", "RandSimulateLowResolution",
    "RandStdShiftIntensity",
)  # fmt: skip
_TURNING = ("RandAffine", "RandRotate")
# What an axis of an axial volume, as `compression.segmentation.cases.read` lays it out, runs along.
_FLIPS = {0: "head-foot", 2: "left-right"}
_CUTTING = ("CenterSpatialCrop",)  # always, not by chance: the network learns on less than it will draw on


def compose(steps: Sequence[AugmentRecipe], policy: AugmentPolicyRecipe, dimensions: int, seed: int) -> Augment:
    """What augments ``(pixels, labels)``, both of the network's shape; raises `RecipeError` as `augment.compose`."""
    return _on_images(steps, policy, seed) if dimensions == 2 else _on_volumes(steps, policy, seed)


def _on_images(steps: Sequence[AugmentRecipe], policy: AugmentPolicyRecipe, seed: int) -> Augment:
    transforms = augment.compose(steps, policy, seed)

    def run(pixels: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        made = transforms(image=pixels, mask=labels)
        return made["image"], made["mask"]

    return run


def _on_volumes(steps: Sequence[AugmentRecipe], policy: AugmentPolicyRecipe, seed: int) -> Augment:
    if policy.some_of is not None:
        raise RecipeError("augment_policy.some_of: volumes get each transform by its own p; take it out")
    allowed = augment_policy.allowed(policy, [step.name for step in steps])
    transforms = []
    for step in steps:
        kind = getattr(monai.transforms, f"{step.name}d", None)
        if kind is None:
            raise RecipeError(f"augment {step.name}: MONAI {monai.__version__} has no such transform of dictionaries")
        if min([*_ends(step, "min_zoom"), *_ends(step, "max_zoom")], default=1.0) <= 0:
            raise RecipeError(f"augment {step.name}: min_zoom and max_zoom must be above 0, which leaves nothing")
        fault = None if step.name in allowed else _fault(step, policy)
        if fault:
            raise RecipeError(f"augment {step.name}: {fault}. {augment_policy.hint(step.name)}")
        moving = step.name not in _STILL
        keys = ("pixels", "labels") if moving else ("pixels",)
        known = inspect.signature(kind).parameters
        mode = {"mode": ("bilinear", "nearest")} if moving and "mode" in known else {}
        chance = {"prob": step.p} if "prob" in known else {}
        if not chance and step.p != 1.0:
            raise RecipeError(f"augment {step.name}: it is always done; say p = 1.0")
        try:
            transforms.append(kind(keys, **chance, **mode, **step.parameters))
        except (TypeError, ValueError) as error:
            raise RecipeError(f"augment {step.name}: {error}") from error
    turned = sum(_tilt(step) for step in steps if step.name in _TURNING and step.name not in allowed)
    if turned > augment_policy.MOST_DEGREES:
        raise RecipeError(
            f"augment: the transforms together turn about an axis by {turned:.1f} degrees; more than "
            f"{augment_policy.MOST_DEGREES:g} are refused"
        )
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


def _fault(step: AugmentRecipe, policy: AugmentPolicyRecipe) -> str | None:
    """What is unsafe about a transform of volumes; None where it is known to be safe."""
    if step.name in (*_STILL, *_CUTTING, "RandZoom"):
        return None
    if step.name == "RandFlip":
        return _fault_of_flip(step, policy)
    if "Flip" in step.name or "Rotate90" in step.name:
        return "flips and turns by 90 degrees show another anatomy"
    if step.name not in _TURNING:
        return "how far it turns, mirrors or bends has no bound that is known here"
    if _largest(step, "scale_range") >= 1:
        return "a scale of 0 or less mirrors the volume"
    if (tilt := _tilt(step)) > augment_policy.MOST_DEGREES:
        return f"turns about an axis by {tilt:.1f} degrees; more than {augment_policy.MOST_DEGREES:g} are refused"
    return None


def _fault_of_flip(step: AugmentRecipe, policy: AugmentPolicyRecipe) -> str | None:
    given = step.parameters.get("spatial_axis", [0, 1, 2])  # MONAI's default: all of them
    axes = [axis % 3 if isinstance(axis, int) else axis for axis in (given if isinstance(given, list) else [given])]
    wanted = [_FLIPS.get(axis) for axis in axes]
    if all(direction in policy.may_flip for direction in wanted):
        return None
    known = ", ".join(f'"{direction}" spatial_axis {axis}' for axis, direction in _FLIPS.items())
    return (
        "flips and turns by 90 degrees show another anatomy; of one that has no sides, augment_policy.may_flip says so "
        f"and permits {known}"
    )


def _tilt(step: AugmentRecipe) -> float:
    """By how many degrees it tilts a volume about an axis at most, shears included."""
    turn = max(_largest(step, name) for name in ("rotate_range", "range_x", "range_y", "range_z"))
    return float(np.rad2deg(turn + np.arctan(_largest(step, "shear_range"))))


def _largest(step: AugmentRecipe, name: str) -> float:
    return max((abs(end) for end in _ends(step, name)), default=0.0)


def _ends(step: AugmentRecipe, name: str) -> list[float]:
    """MONAI takes a number, one for each axis, or the two ends for each axis."""
    given = step.parameters.get(name, [])
    ends = [end for axis in (given if isinstance(given, list) else [given])
            for end in (axis if isinstance(axis, list) else [axis])]  # fmt: skip
    try:
        return [float(end) for end in ends]
    except (TypeError, ValueError) as error:
        raise RecipeError(f"augment {step.name}: {name} = {given!r}: {error}") from error
