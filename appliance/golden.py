"""Golden vectors: what they become as inputs, and how far a backend's answers are from what they must be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from appliance.errors import ReceiptError
from appliance.package import Package, Target
from appliance.preprocess import preprocess
from appliance.probability import calibrated

MAP_TOLERANCE = 0.2  # largest difference of an activation map, as a share of its scale: 0 to 1 is what is drawn

Outputs = Mapping[str, np.ndarray]  # of one call, the images of a batch in front


def tensors(package: Package, vectors: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The network's inputs, float32 ``(1, 1, ...)``, made as of any image."""
    steps, images = package.manifest.input.steps, vectors["images"]
    millimeters = next((step.parameters.get("millimeters") for step in steps if step.name == "resample"), None)
    spacing = None if millimeters is None else (float(millimeters),) * (images.ndim - 1)
    return [preprocess(image, steps, spacing) for image in images]


class Agreement(msgspec.Struct, frozen=True):
    """How far answers are off: see `appliance.receipt.Receipt`; ``min_dice`` is of a segmentation only."""

    max_abs_dp: float = 0.0
    flips: int = 0
    max_abs_dmap: float = 0.0
    min_dice: float | None = None

    def objection(self, package: Package, count: int) -> str:
        """Why it is not good enough, empty where it is."""
        golden = package.manifest.golden
        # `not <=` also catches NaN.
        if self.min_dice is not None:
            if not self.min_dice >= golden.smallest_dice:
                return (
                    f"smallest Dice coefficient of a segment {self.min_dice:.4f} (allowed {golden.smallest_dice:.4f}) "
                    f"of {count} golden vectors"
                )
        elif self.flips or not (self.max_abs_dp <= golden.probability_tolerance and self.max_abs_dmap <= MAP_TOLERANCE):
            return (
                f"largest difference of a probability {self.max_abs_dp:.4f} (allowed "
                f"{golden.probability_tolerance:.4f}), {self.flips} of {count} decisions differ, largest difference of "
                f"an activation map {self.max_abs_dmap:.3f} of its scale (allowed {MAP_TOLERANCE})"
            )
        return ""


def agreement(package: Package, name: str, vectors: Mapping[str, np.ndarray], answers: Sequence[Outputs]) -> Agreement:
    """How well the answers to the first golden vectors, one image each, agree with what target ``name`` must give."""
    outputs, count = package.manifest.outputs, len(answers)
    logits = np.concatenate([answer[outputs.logits] for answer in answers])
    if package.segments:
        classes, wanted = logits.shape[1], vectors[f"{name}/labels"][:count]
        pairs = zip(labels(logits), wanted, strict=True)
        return Agreement(min_dice=min(_smallest_dice(one, other, classes) for one, other in pairs))
    target = package.target(name)
    max_dp, flips = difference(target, logits, vectors[f"{name}/logits"][:count])
    heads = package.heads(name)
    if heads is not None:
        embeddings = np.concatenate([answer[outputs.embedding] for answer in answers])
        given = heads.probabilities(embeddings, logits, target.temperature, target.bias)
        max_dp = max(max_dp, float(np.abs(given - vectors[f"{name}/heads"][:count]).max()))
    maps = np.concatenate([answer[outputs.activation_map] for answer in answers])
    apart = float(np.abs(maps - vectors[f"{name}/activation_map"][:count]).max())
    return Agreement(max_dp, flips, apart / target.activation_map_scale)


def difference(target: Target, given: np.ndarray, wanted: np.ndarray) -> tuple[float, int]:
    """The largest difference of a calibrated probability, and how many decisions differ."""
    got = calibrated(given, target.temperature, target.bias)
    expected = calibrated(wanted, target.temperature, target.bias)
    threshold = target.operating_point().threshold
    return float(np.abs(got - expected).max()), int(((got >= threshold) != (expected >= threshold)).sum())


def labels(logits: np.ndarray) -> np.ndarray:
    """uint8 ``(batch, ...)``: the most probable segment of each pixel, 0 for the background."""
    return np.asarray(logits.argmax(axis=1)).astype(np.uint8)


def _smallest_dice(given: np.ndarray, wanted: np.ndarray, classes: int) -> float:
    """The least Dice coefficient (Dice, 1945) of any segment; 1 where neither has any of it."""
    smallest = 1.0
    for number in range(1, classes):
        one, other = given == number, wanted == number
        both = int(one.sum()) + int(other.sum())
        if both:
            smallest = min(smallest, 2.0 * int((one & other).sum()) / both)
    return smallest


def check_shapes(package: Package, name: str, vectors: Mapping[str, np.ndarray], outputs: Outputs, batch: int) -> None:
    """Raise `ReceiptError` where a batch's outputs are missing, of another shape than they must be, or no numbers."""
    manifest = package.manifest
    heads = package.heads(name)
    features = None if heads is None else heads.weights.shape[-1]
    wanted: dict[str, tuple[int | None, ...]] = {manifest.outputs.embedding: (batch, features)}
    if package.segments:
        wanted[manifest.outputs.logits] = batch, 1 + len(manifest.segments), *manifest.input.shape[2:]
    else:
        wanted[manifest.outputs.logits] = batch, len(manifest.findings)
        wanted[manifest.outputs.activation_map] = batch, *vectors[f"{name}/activation_map"].shape[1:]
    for output, shape in wanted.items():
        given = outputs.get(output)
        if given is None:
            raise ReceiptError(f"there is no output {output!r} of {package} (there are {', '.join(outputs)})")
        fits = given.ndim == len(shape) and all(
            want in (None, have) for want, have in zip(shape, given.shape, strict=True)
        )
        if not fits:
            raise ReceiptError(f"{output!r} of {package} has the shape {given.shape}, not {shape}")
        if not np.isfinite(given).all():
            raise ReceiptError(f"{output!r} of {package} has values that are no numbers")
