"""Stage ``golden``: generated cases that look like the training set's and copy no patient, and what is drawn on them.

A case is the mean of the training set plus its principal components with random coefficients (Turk & Pentland, 1991).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from sklearn.decomposition import PCA

from appliance.preprocess import preprocess, resize
from compression.arrays import save_arrays
from compression.inference import Network
from compression.recipe import RecipeError
from compression.segmentation import cases, gate, overlap

if TYPE_CHECKING:
    from compression.segmentation.build import Build

SECTIONS = ("input", "golden")
_CANDIDATES_PER_CASE = 8
_MOST_CASES = 800
_COMPARED = 4096  # voxels of a case, for the likeness


def path(build: Build) -> Path:
    return build.folder("golden") / "golden.npz"


def run(build: Build) -> str:
    recipe = build.recipe.golden
    found, prepared = cases.load(build)
    # A marker on a deep image may lie far beyond white.
    training = np.clip(prepared.pixels[cases.split(build, found, 0)["train"][:_MOST_CASES]], 0, 255)
    generated = _draw(training, build)
    nearest, usual = _likeness(generated, training)
    generated = generated[nearest <= usual]
    if len(generated) < recipe.count:
        raise RecipeError(
            f"all but {len(generated)} of the generated cases look more like a training case than those look like each "
            "other; lower golden.components, or take more training cases"
        )
    images = np.stack([_sized(image, recipe.shape) for image in generated])
    inputs = [preprocess(image, build.recipe.input.steps, _spacing(build)) for image in images]
    drawn = {
        target: gate.drawn(Network(gate.artifact(build, target), target, build.threads), inputs)
        for target in build.recipe.quantize.targets
    }
    chosen = _choose(build, list(drawn.values()))
    expected = {f"{target}/labels": labels[chosen] for target, labels in drawn.items()}
    save_arrays(path(build), {"images": images[chosen], **expected})
    closest = float(nearest[nearest <= usual][chosen].max())
    facts = {"largest_correlation_with_a_training_case": round(closest, 4), "usual_between_patients": round(usual, 4)}
    (build.folder("golden") / "facts.json").write_text(json.dumps(facts))
    return f"{recipe.count} cases for each target; nearest training case r = {closest:.3f} (usual {usual:.3f})"


def _spacing(build: Build) -> tuple[float, ...] | None:
    """Of a generated volume: what the steps resample to."""
    for step in build.recipe.input.steps:
        if step.name == "resample":
            return (step.parameters["millimeters"],) * len(build.recipe.input.shape)
    return None


def _draw(training: np.ndarray, build: Build) -> np.ndarray:
    """Random cases of the training set's low-rank model, uint8 ``(count, ...)`` on the network's grid."""
    recipe, chance = build.recipe.golden, np.random.default_rng(build.recipe.data.seed)
    sample = training.reshape(len(training), -1)
    sample = sample / max(float(sample.max()), 1e-6)
    model = PCA(min(recipe.components, len(sample) - 1), svd_solver="randomized", random_state=0).fit(sample)
    count = recipe.count * _CANDIDATES_PER_CASE
    coefficients = chance.normal(0.0, recipe.spread, (count, model.n_components_)) * np.sqrt(model.explained_variance_)
    images = model.inverse_transform(coefficients).reshape(count, *training.shape[1:])
    return np.clip(images * 255.0 + 0.5, 0, 255).astype(np.uint8)


def _sized(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """An image resized; of a volume its middle, since it has a spacing to keep."""
    if image.ndim == 2:
        large = resize(image.astype(np.float32), rows=shape[0], columns=shape[1])
        return np.clip(large + 0.5, 0, 255).astype(np.uint8)
    starts = [(have - want) // 2 for have, want in zip(image.shape, shape, strict=True)]
    return image[tuple(slice(start, start + want) for start, want in zip(starts, shape, strict=True))]


def _choose(build: Build, drawn: list[np.ndarray]) -> np.ndarray:
    """Indices of the cases that every target draws most alike, each segment being there.

    Where rounding decides a whole part of an outline, other CPUs would draw another one without being wrong.
    """
    segments, count = len(build.recipe.package.segments), build.recipe.golden.count
    alike = []
    for masks in zip(*drawn, strict=True):
        present = all((mask == number).any() for mask in masks for number in range(1, segments + 1))
        pairs = [overlap.dice(masks[0], other, segments).min() for other in masks[1:]]
        alike.append(min(pairs, default=1.0) if present else 0.0)
    chosen = np.argsort(alike)[::-1][:count]
    if len(chosen) < count or min(alike[number] for number in chosen) <= 0.0:
        raise RecipeError(
            f"of the generated cases only {sum(value > 0 for value in alike)} show every segment, {count} are needed: "
            "the network draws too badly; train it longer or on more"
        )
    return np.sort(chosen)


def _likeness(generated: np.ndarray, training: np.ndarray) -> tuple[np.ndarray, float]:
    """Each generated case's largest correlation with a training case, and what is usual among training cases.

    Of what tells a case from the mean of all, since that is what could give a patient away.

    A generated case that is more like one than training cases are like each other is thrown away. The usual one is the
    95th percentile over training cases, each with its most similar other one.
    """
    step = max(training[0].size // _COMPARED, 1)
    thin, other = (each.reshape(len(each), -1)[:, ::step].astype(np.float32) for each in (training, generated))
    thin *= 255.0 / max(float(thin.max()), 1e-6)
    mean = thin.mean(axis=0)
    small, other = _standard(thin - mean), _standard(other - mean)
    nearest = (other @ small.T).max(axis=1)
    among = small @ small.T
    among[np.arange(len(among)), np.arange(len(among))] = -1.0
    return nearest, float(np.percentile(among.max(axis=1), 95))


def _standard(vectors: np.ndarray) -> np.ndarray:
    vectors = vectors - vectors.mean(axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6))
