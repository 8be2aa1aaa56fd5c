"""The linear probe: do the features of the initial weights carry over to these images?

Logistic regression on frozen features (Alain & Bengio, 2016), cross-validated by patient on the training side only,
against the same on features of the same network with random weights, which already tell blobs from edges. What random
features give costs nothing; only what lies above them was learned elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.nn import functional
from tqdm import tqdm

from appliance.preprocess import preprocess
from compression import architectures, augment, data, distributed, roc, splits
from compression.recipe import Recipe, RecipeError

_FOLDS = 5
_STRENGTHS = (0.001, 0.01, 0.1, 1.0)  # of the regression, chosen within each training part
_RANDOM = 3  # networks with random weights; the best of them is compared with
_EASY = 0.9  # of random features: they know no anatomy, so that something simple tells the label
_LITTLE = 0.02  # of an area under the curve: a gain that hardly decides anything


def probe(
    recipe: Recipe, data_root: Path, weights_root: Path, count: int, scratch: int, threads: int, augmented: bool = False
) -> dict[str, Any]:
    """Compare the initial weights with random ones.

    Parameters
    ----------
    count
        How many images to use at most, of whole patients drawn at random.
    scratch
        Epochs of a training from scratch on the first fold's training part, to compare on its held-out part; 0: none.
    augmented
        Change each image once as training would, so that how it was acquired tells less of the label.

    Raises
    ------
    RecipeError
        Where the recipe names no initial weights, or there are too few patients.
    """
    if not recipe.train.weights:
        raise RecipeError("the recipe names no initial weights (train.weights), so there is nothing to probe")
    distributed.use_threads(threads)
    images = take(recipe, data_root, count)
    if augmented:
        transform = augment.compose(recipe.augment, recipe.augment_policy, recipe.data.seed)
        images = replace(images, pixels=np.stack([transform(image=image)["image"] for image in images.pixels]))
    folds = splits.folds_or_none(images.labels.astype(str), images.patients, _FOLDS)
    if folds is None:
        raise RecipeError(f"a class has fewer than {_FOLDS} patients among {len(images.labels)} images; take more")
    scores = []
    for seed in (None, *range(_RANDOM)):
        torch.manual_seed(recipe.data.seed if seed is None else seed)
        initial = weights_root / recipe.train.weights if seed is None else None
        what = "pretrained" if seed is None else f"random {seed + 1} of {_RANDOM}"
        found = features(recipe, initial, images.pixels, what)
        scores.append(out_of_sample(found, images.labels, images.patients, folds))
    areas = roc.delong(np.stack(scores), images.labels, images.patients)
    best = 1 + int(np.argmax(areas.value[1:]))
    report: dict[str, Any] = {
        "recipe": f"{recipe.package.id} {recipe.package.version}",
        "network": recipe.train.network,
        "weights": recipe.train.weights,
        "images": len(images.labels),
        "augmented": augmented,
        "patients": len(set(images.patients.tolist())),
        "positive": int(images.labels.sum()),
        "pretrained": _rounded(roc.auc_interval(areas, 0)),
        "random": _rounded(roc.auc_interval(areas, best)),
        "random_each": [round(float(each), 4) for each in areas.value[1:]],
        "gain": _rounded(roc.auc_difference(areas, 0, best)[:3]),
    }
    if scratch:
        report["scratch"] = _against_scratch(recipe, images, folds[0], scores[0], scratch)
    return {**report, "verdict": verdict(report)}


def take(recipe: Recipe, data_root: Path, count: int) -> data.Images:
    """All training images of patients drawn at random, until there are ``count``."""
    folder = data_root / recipe.data.train
    rows = data.training_rows(folder)
    patients = np.array([row["patient_id"] for row in rows])
    names, index = np.unique(patients, return_inverse=True)
    turn = np.random.default_rng(recipe.data.seed).permutation(len(names))
    order = np.argsort(turn[index], kind="stable")
    chosen = np.sort(order[:count])
    pixels = [
        data.decode_to(folder / rows[each]["file"], recipe.input) for each in tqdm(chosen, "decoding", unit="image")
    ]
    labels = np.array([rows[each]["label"] == recipe.data.positive for each in chosen])
    if labels.all() or not labels.any():
        raise RecipeError(f"{folder}: {len(labels)} training images are of one class; take more with --images")
    return data.Images(np.stack(pixels), labels, patients[chosen])


@torch.no_grad()
def features(recipe: Recipe, initial: Path | None, pixels: np.ndarray, what: str) -> np.ndarray:
    """Embeddings ``(count, features)`` of a network that learns nothing; random weights where ``initial`` is None."""
    network = architectures.new(recipe.train.network, 0.0, initial)
    if initial is None and any(True for _ in network.buffers()):
        _settle(network, recipe, pixels[: recipe.train.batch])
    network.eval().to(memory_format=torch.channels_last)
    starts = range(0, len(pixels), recipe.train.batch)
    parts = [
        network(_inputs(recipe, pixels[at : at + recipe.train.batch]))[2].numpy()
        for at in tqdm(starts, f"features, {what}", unit="batch")
    ]
    return np.concatenate(parts)


def _settle(network: torch.nn.Module, recipe: Recipe, pixels: np.ndarray) -> None:
    """Let batch normalization see some images, so that a signal comes through an untrained network."""
    network.train()
    for _ in range(20):
        network(_inputs(recipe, pixels))


def out_of_sample(
    found: np.ndarray, labels: np.ndarray, patients: np.ndarray, folds: Sequence[tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
    """Decision values ``(count,)`` of images whose patients the regression has not seen."""
    scores = np.zeros(len(labels))
    for training, held in folds:
        inner = splits.folds_or_none(labels[training].astype(str), patients[training], _FOLDS)
        strength = _STRENGTHS[1] if inner is None else _best_strength(found[training], labels[training], inner[0])
        model = _regression(strength).fit(found[training], labels[training])
        # Each fold's regression has its own scale: what is compared over folds is the standardized value.
        own = model.decision_function(found[training])
        scores[held] = (model.decision_function(found[held]) - own.mean()) / max(own.std(), 1e-9)
    return scores


def _best_strength(found: np.ndarray, labels: np.ndarray, fold: tuple[np.ndarray, np.ndarray]) -> float:
    training, held = fold
    areas = [
        roc_auc_score(
            labels[held], _regression(each).fit(found[training], labels[training]).decision_function(found[held])
        )
        for each in _STRENGTHS
    ]
    return _STRENGTHS[int(np.argmax(areas))]


def _regression(strength: float) -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000, class_weight="balanced"))


def _against_scratch(
    recipe: Recipe, images: data.Images, fold: tuple[np.ndarray, np.ndarray], probed: np.ndarray, epochs: int
) -> dict[str, Any]:
    """Train from scratch on one part and compare with the probe on the other."""
    training, held = fold
    trained = _train(recipe, images.where(training), epochs)
    with torch.no_grad():
        starts = range(0, len(held), recipe.train.batch)
        logits = torch.cat(
            [trained(_inputs(recipe, images.pixels[held[at : at + recipe.train.batch]]))[0][:, 0] for at in starts]
        ).numpy()
    areas = roc.delong(np.stack([probed[held], logits]), images.labels[held], images.patients[held])
    return {
        "epochs": epochs,
        "trained_on": len(training),
        "held_out": len(held),
        "probe": _rounded(roc.auc_interval(areas, 0)),
        "scratch": _rounded(roc.auc_interval(areas, 1)),
        "gain": _rounded(roc.auc_difference(areas, 0, 1)[:3]),
    }


def _train(recipe: Recipe, images: data.Images, epochs: int) -> torch.nn.Module:
    """A plain training from random weights, with the recipe's augmentation, batch and learning rate."""
    torch.manual_seed(recipe.data.seed)
    network = architectures.new(recipe.train.network, recipe.train.dropout, None).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(
        network.parameters(), recipe.train.learning_rate, weight_decay=recipe.train.weight_decay
    )
    count = max(1, len(images.labels) // recipe.train.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.train.learning_rate, epochs=epochs, steps_per_epoch=count
    )
    transform = augment.compose(recipe.augment, recipe.augment_policy, recipe.data.seed)
    weight = torch.tensor((~images.labels).sum() / images.labels.sum())
    chance = np.random.default_rng(recipe.data.seed)
    network.train()
    for epoch in range(epochs):
        order = chance.permutation(len(images.labels))
        for number in tqdm(range(count), f"from scratch, epoch {epoch + 1} of {epochs}", unit="batch"):
            chosen = order[number * recipe.train.batch : (number + 1) * recipe.train.batch]
            copies = np.stack([transform(image=image)["image"] for image in images.pixels[chosen]])
            labels = torch.from_numpy(images.labels[chosen].astype(np.float32))
            logits = network(_inputs(recipe, copies))[0][:, 0]
            loss = functional.binary_cross_entropy_with_logits(logits, labels, pos_weight=weight)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return network.eval()


def _inputs(recipe: Recipe, pixels: np.ndarray) -> torch.Tensor:
    steps = recipe.input.steps()
    return torch.from_numpy(np.concatenate([preprocess(image, steps) for image in pixels])).to(
        memory_format=torch.channels_last
    )


def verdict(report: dict[str, Any]) -> str:
    """What the figures mean, in plain language."""
    gain, low, high = report["gain"]
    against = f"by {gain:.3f} of an AUC [{low:.3f}, {high:.3f}] over random features of the same network"
    if low > 0 and gain >= _LITTLE:
        words = f"The pretrained features carry over: they gain {against}. Start from these weights."
    elif low > 0:
        words = f"The pretrained features carry over, but little: they gain {against}. Other weights may do as well."
    elif high < 0:
        words = (
            f"The pretrained features are worse here: they differ {against}. Look for other weights, or train without."
        )
    else:
        words = (
            f"It can't be told whether the pretrained features carry over: they differ {against}. "
            f"Take more than {report['images']} images, or other weights."
        )
    if report["random"][0] >= _EASY:
        words += (
            f" Random features alone reach {report['random'][0]:.3f}: something simple tells the label, perhaps how "
            "the images were acquired. check-data looks for it, and --augmented makes it random."
        )
    if "scratch" in report:
        each = report["scratch"]
        gain, low, high = each["gain"]
        compared = (
            "is better than" if low > 0 else "is worse than" if high < 0 else "can't be told from"
        )  # fmt: skip
        words += (
            f" On {each['held_out']} held-out images, a line through frozen features {compared} {each['epochs']} "
            f"epochs of training from scratch on {each['trained_on']} images ({gain:+.3f} [{low:.3f}, {high:.3f}])."
        )
    return words


def in_words(report: dict[str, Any]) -> str:
    """The figures for a terminal."""
    lines = [
        f"{report['recipe']}: {report['network']}, {report['weights']}; {report['images']} training images "
        f"{'(each augmented once) ' if report['augmented'] else ''}of "
        f"{report['patients']} patients, {report['positive']} positive; AUC with 95 % interval, by patient",
        f"  pretrained features  {_cell(report['pretrained'])}",
        f"  random features      {_cell(report['random'])}   (the best of {len(report['random_each'])})",
    ]
    if "scratch" in report:
        each = report["scratch"]
        lines += [
            f"  on {each['held_out']} held-out images: probe {_cell(each['probe'])}, "
            f"{each['epochs']} epochs from scratch {_cell(each['scratch'])}"
        ]
    return "\n".join([*lines, report["verdict"]])


def _cell(triple: Sequence[float]) -> str:
    value, low, high = triple
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(float(each), 4) for each in values]
