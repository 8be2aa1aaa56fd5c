"""Stage ``ensemble``: heads on each artifact's own embedding, whose disagreement tells a device how sure it may be.

Each head is a logistic regression that learned from another bootstrap sample of the training patients (bagging:
Breiman, 1996). They share the network, so a device affords them: some thousand multiplications an image. What they
can't see is how far another network would have disagreed; the report's abstention curve says what they are worth.

A device adds to the network's calibrated logit how far each head lies from the mean of all (`appliance.probability`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from sklearn.linear_model import LogisticRegression
from tqdm import tqdm

from appliance.package import Ensemble
from appliance.probability import Heads, spread
from compression import calibrate, data, gate
from compression.arrays import save_arrays
from compression.augment import compose
from compression.inference import EMBEDDING, Network, tensors
from compression.statistics import resamples_of

if TYPE_CHECKING:
    from pathlib import Path

    from compression.build import Build

SECTIONS = ("input", "augment", "calibrate", "ensemble")
FILE = "ensemble.npz"
_AUGMENTATION_SEED = 11


@dataclass(frozen=True)
class Learned:
    """Embeddings ``(images, features)`` with their labels and patients."""

    embeddings: np.ndarray
    labels: np.ndarray
    patients: np.ndarray


def run(build: Build) -> str:
    arrays, limits = {}, {}
    for target, choice in gate.load(build).items():
        network = Network(gate.artifact(build, target), target, build.threads)
        answers = calibrate.ask(build, network, target)
        heads = fit(build, _learned(build, network, target), answers, choice.shipped.calibration)
        arrays[f"{target}/weights"], arrays[f"{target}/bias"] = heads.heads.weights, heads.heads.bias
        limits[target] = heads.limit
    save_arrays(path(build), arrays)
    (build.folder("ensemble") / "limits.json").write_text(json.dumps(limits))
    said = ", ".join(f"{target} {limit:.3f}" for target, limit in limits.items())
    return f"{build.recipe.ensemble.heads} heads; limit of their spread: {said}"


def path(build: Build) -> Path:
    return build.folder("ensemble") / FILE


def load(build: Build, target: str) -> Heads:
    with np.load(path(build)) as arrays:
        return Heads(arrays[f"{target}/weights"], arrays[f"{target}/bias"])


def spec(build: Build, target: str) -> Ensemble:
    """What the manifest says of a target's heads."""
    limits = json.loads((build.folder("ensemble") / "limits.json").read_text())
    return Ensemble(FILE, limits[target], build.recipe.ensemble.answered)


@dataclass(frozen=True)
class Fitted:
    heads: Heads
    limit: float


def fit(build: Build, learned: Learned, answers: calibrate.Answers, calibration: calibrate.Calibration) -> Fitted:
    """Heads, on the scale on which their mean is calibrated, and the largest spread that counts as agreement."""
    recipe, chance = build.recipe.ensemble, np.random.default_rng(build.recipe.data.seed)
    mean, std = learned.embeddings.mean(axis=0), learned.embeddings.std(axis=0) + 1e-6
    standard = (learned.embeddings - mean) / std
    weights, biases = [], []
    both = (each for each in resamples_of(learned.patients, chance) if 0 < learned.labels[each].sum() < len(each))
    drawn = islice(both, recipe.heads)
    for chosen in tqdm(drawn, desc="heads", total=recipe.heads, unit="head"):
        head = LogisticRegression(C=recipe.inverse_regularization, class_weight="balanced", max_iter=500)
        head.fit(standard[chosen], learned.labels[chosen])
        weights.append(head.coef_[0] / std)
        biases.append(float(head.intercept_[0] - weights[-1] @ mean))
    weight, bias = np.stack(weights), np.array(biases)
    # As calibrate.fit: the clean images weigh as much as all their copies together.
    copies = len(answers.logits) - 1
    means = answers.embeddings @ weight.mean(axis=0) + bias.mean()
    logits = np.concatenate([np.tile(means[0], copies), means[1:].ravel()])
    temperature, _ = calibrate.fit_logistic(logits, np.tile(answers.labels, 2 * copies))
    heads = Heads(
        ((weight - weight.mean(axis=0)) / temperature)[:, None].astype(np.float32),
        ((bias - bias.mean()) / temperature)[:, None].astype(np.float32),
    )
    hard = answers.embeddings[1:].reshape(-1, answers.embeddings.shape[-1])
    apart = spread(calibration.heads(heads, hard, answers.logits[1:].ravel()))
    return Fitted(heads, round(float(np.quantile(apart, recipe.answered, method="higher")), 6))


def _learned(build: Build, network: Network, what: str) -> Learned:
    """Embeddings of the training images and of one augmented copy of each."""
    training = data.load(build, "train")
    augment = compose(build.recipe.augment, build.recipe.augment_policy, _AUGMENTATION_SEED)
    copies = (augment(image=image)["image"] for image in training.pixels)
    found = [
        network.run(tensors(build, given, f"{what}: training {name}"))[EMBEDDING]
        for name, given in (("images", training.pixels), ("copies", copies))
    ]
    return Learned(np.concatenate(found), np.tile(training.labels, 2), np.tile(training.patients, 2))
