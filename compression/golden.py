"""Stage ``golden``: generated images that behave like radiographs and copy no patient, and what the artifact says.

An image is the mean of one class plus its principal components with random coefficients (Turk & Pentland, 1991).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
from sklearn.decomposition import PCA

from appliance.preprocess import resize
from compression import data, ensemble, gate
from compression.arrays import save_arrays
from compression.inference import ACTIVATION_MAP, EMBEDDING, LOGITS, Network, tensors
from compression.recipe import RecipeError

if TYPE_CHECKING:
    from pathlib import Path

    from compression.build import Build

SECTIONS = ("input", "golden")
_CANDIDATES_PER_IMAGE = 8
_WELL_CLEAR = 0.1
_IMAGES_OF_A_CLASS = 1200


def path(build: Build) -> Path:
    return build.folder("golden") / "golden.npz"


def run(build: Build) -> str:
    recipe = build.recipe.golden
    chance = np.random.default_rng(build.recipe.data.seed)
    training = data.load(build, "train")
    candidates = np.concatenate(
        [
            _draw(
                training.where(training.labels == label).pixels,
                recipe,
                chance,
                recipe.count * _CANDIDATES_PER_IMAGE // 2,
            )
            for label in (False, True)
        ]
    )
    nearest, usual = _likeness(candidates, training.pixels)
    candidates = candidates[nearest <= usual]
    outputs: dict[str, dict[str, np.ndarray]] = {
        target: Network(gate.artifact(build, target), target, build.threads).run(
            tensors(build, candidates, f"golden, {target}")
        )
        for target in build.recipe.quantize.targets
    }
    chosen = _choose(build, outputs, recipe.count)
    closest = float(nearest[nearest <= usual][chosen].max())
    expected = {
        f"{target}/{name}": given[name][chosen]
        for target, given in outputs.items()
        for name in (LOGITS, ACTIVATION_MAP)
    }
    choices = gate.load(build)
    for target, given in outputs.items():
        calibration = choices[target].shipped.calibration
        heads = ensemble.load(build, target)
        answers = calibration.heads(heads, given[EMBEDDING][chosen], given[LOGITS][chosen, 0])
        expected[f"{target}/heads"] = answers.T[:, :, None].astype(np.float32)
    save_arrays(path(build), {"images": candidates[chosen], **expected})
    facts = {"largest_correlation_with_a_training_image": round(closest, 4), "usual_between_patients": round(usual, 4)}
    (build.folder("golden") / "facts.json").write_text(json.dumps(facts))
    return f"{recipe.count} images for each target; nearest training image r = {closest:.3f} (usual {usual:.3f})"


def _draw(pixels: np.ndarray, recipe, chance: np.random.Generator, count: int) -> np.ndarray:  # type: ignore[no-untyped-def]
    """Random images of one class's low-rank model, uint8 ``(count, recipe.rows, recipe.columns)``."""
    sample = np.clip(pixels[chance.permutation(len(pixels))[:_IMAGES_OF_A_CLASS]], 0, 255) / 255.0
    sample = sample.reshape(len(sample), -1)
    components = min(recipe.components, len(sample) - 1)
    model = PCA(components, svd_solver="randomized", random_state=0).fit(sample.astype(np.float32))
    coefficients = chance.normal(0.0, recipe.spread, (count, components)) * np.sqrt(model.explained_variance_)
    images = model.inverse_transform(coefficients).reshape(-1, *pixels.shape[1:])
    large = [resize(image.astype(np.float32) * 255.0, rows=recipe.rows, columns=recipe.columns) for image in images]
    return np.clip(np.stack(large) + 0.5, 0, 255).astype(np.uint8)


def _choose(build: Build, outputs: dict[str, dict[str, np.ndarray]], count: int) -> np.ndarray:
    """Indices of images clear of every target's thresholds, as many positive as negative, spread over probabilities.

    Well clear where there are enough of them; at the least by twice of what a device's probability may be off.
    """
    choices, found = gate.load(build), []
    for room in (_WELL_CLEAR, 2 * build.recipe.golden.probability_tolerance):
        clear, positive = [], []
        for target, given in outputs.items():
            calibration = choices[target].shipped.calibration
            probabilities = calibration.probabilities(given[LOGITS][:, 0])
            thresholds = np.array([point.threshold for point in calibration.operating_points])
            # Near 0 and 1 the distance in probability says little, so the thresholds there are given less room.
            rooms = np.minimum(room, 0.5 * np.minimum(thresholds, 1 - thresholds))
            clear.append((np.abs(probabilities[:, None] - thresholds) > rooms).all(axis=1))
            positive.append(probabilities >= calibration.threshold(build.recipe.calibrate.default_operating_point))
        sides = (~np.any(positive, axis=0), np.all(positive, axis=0))
        found = [np.flatnonzero(np.all(clear, axis=0) & side) for side in sides]
        if min(map(len, found)) >= count // 2:
            break
    else:
        raise RecipeError(
            f"of the generated images only {len(found[0])} lie clear below and {len(found[1])} above the thresholds, "
            f"{count // 2} each are needed: the network tells the classes apart too badly; train it longer or on more"
        )
    ordered = [each[np.argsort(probabilities[each])] for each in found]
    return np.concatenate([each[np.linspace(0, len(each) - 1, count // 2).astype(int)] for each in ordered])


def _likeness(images: np.ndarray, training: np.ndarray) -> tuple[np.ndarray, float]:
    """Each generated image's largest correlation with a training image, and what is usual among training images.

    A generated image that is more like one than training images are like each other is thrown away. The usual one is
    the 95th percentile over training images, each with its most similar other one, at 56 x 56 pixels.
    """
    small = np.stack([_standard(image) for image in training])
    generated = np.stack([_standard(image) for image in images])
    nearest = (generated @ small.T).max(axis=1)
    among = small[:1000] @ small.T
    among[np.arange(len(among)), np.arange(len(among))] = -1.0
    return nearest, float(np.percentile(among.max(axis=1), 95))


def _standard(image: np.ndarray) -> np.ndarray:
    vector = resize(np.clip(image, 0, 255).astype(np.float32), rows=56, columns=56).ravel()
    vector = vector - vector.mean()
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-6))
