"""Stage ``train``: fine-tuning from ImageNet weights, with a checkpoint after each epoch."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import albumentations
import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from appliance.preprocess import preprocess
from compression import data
from compression.architectures import MobileNetV2
from compression.augment import compose

if TYPE_CHECKING:
    from compression.build import Build

SECTIONS = ("input", "train", "augment")


def fingerprint(build: Build) -> bytes:
    path = build.weights_root / build.recipe.train.weights
    return path.read_bytes() if path.exists() else b""


def run(build: Build) -> str:
    recipe, folder = build.recipe.train, build.folder("train")
    torch.manual_seed(build.recipe.data.seed)
    network = MobileNetV2(findings=1, dropout=recipe.dropout)
    network.load_imagenet(build.weights_root / recipe.weights)
    tuning = Tuning("train", recipe.epochs, recipe.learning_rate, build.recipe.data.seed)
    average, log = fit(build, network, tuning, folder / "checkpoint.pt")
    torch.save(average.state_dict(), folder / "network.pt")
    (folder / "log.json").write_text(json.dumps(log))
    return f"{recipe.epochs} epochs, validation AUC {log[-1]['validation_auc']:.4f}"


def load(build: Build) -> MobileNetV2:
    """The trained network, unpruned, in evaluation mode."""
    state = torch.load(build.folder("train") / "network.pt", weights_only=True)
    return MobileNetV2.from_state(state, build.recipe.train.dropout).eval()


@dataclass(frozen=True)
class Teacher:
    """An unpruned network that a smaller one is to follow (Hinton et al., 2015).

    ``weight`` is the share of the loss that compares with its probabilities instead of the labels; ``map_weight``
    counts the squared difference of the activation maps, in units of their variance.
    """

    network: MobileNetV2
    weight: float
    map_weight: float


@dataclass(frozen=True)
class Tuning:
    """One run of fine-tuning: its name for the progress bar, its length, the peak of its one-cycle schedule."""

    name: str
    epochs: int
    learning_rate: float
    seed: int
    teacher: Teacher | None = None


def fit(
    build: Build, network: MobileNetV2, tuning: Tuning, checkpoint: Path
) -> tuple[MobileNetV2, list[dict[str, Any]]]:
    """Fine-tune on the training images, or go on from a checkpoint.

    Returns
    -------
    The network with averaged weights, in evaluation mode, and one entry per epoch.
    """
    recipe = build.recipe.train
    torch.set_num_threads(recipe.threads)
    training, validation = data.load(build, "train"), data.load(build, "validation")
    network = network.to(memory_format=torch.channels_last)
    steps = tuning.epochs * (len(training) // recipe.batch)
    optimizer = torch.optim.AdamW(network.parameters(), lr=tuning.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, tuning.learning_rate, total_steps=steps)
    state: dict[str, Any] = {"epoch": 0, "log": []}
    average = copy.deepcopy(network)
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["chance"])
    for epoch in range(state["epoch"], tuning.epochs):
        loss = _epoch(build, tuning, epoch, network, average, optimizer, schedule, training)
        area = roc_auc_score(validation.labels, logits(build, average, validation.pixels))
        state["log"].append({"epoch": epoch + 1, "loss": round(loss, 4), "validation_auc": round(float(area), 4)})
        tqdm.write(f"{tuning.name}, epoch {epoch + 1} of {tuning.epochs}: loss {loss:.4f}, validation AUC {area:.4f}")
        state |= {"epoch": epoch + 1, "network": network.state_dict(), "average": average.state_dict(),
                  "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(),
                  "chance": torch.get_rng_state()}  # fmt: skip
        torch.save(state, checkpoint.with_suffix(".tmp"))
        checkpoint.with_suffix(".tmp").replace(checkpoint)
    return average.eval(), state["log"]


def _epoch(
    build: Build,
    tuning: Tuning,
    epoch: int,
    network: MobileNetV2,
    average: MobileNetV2,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    training: data.Images,
) -> float:
    """One pass over the training images in random order; the mean loss."""
    recipe = build.recipe.train
    seed = tuning.seed + epoch
    augment = compose(build.recipe.augment, seed)
    order = np.random.default_rng(seed).permutation(len(training))
    # Weighted by class: a positive counts less where there are more of them.
    weight = torch.tensor((~training.labels).sum() / training.labels.sum())
    network.train()
    losses = []
    count = len(training) // recipe.batch
    progress = tqdm(range(count), desc=f"{tuning.name}, epoch {epoch + 1} of {tuning.epochs}", unit="batch")
    for number in progress:
        chosen = order[number * recipe.batch : (number + 1) * recipe.batch]
        inputs = _batch(build, training.pixels[chosen], augment)
        labels = torch.from_numpy(training.labels[chosen].astype(np.float32))
        loss = _loss(network(inputs), inputs, labels, weight, tuning.teacher)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        _move(average, network, epoch * count + number, recipe.average_decay)
        losses.append(loss.item())
        progress.set_postfix(loss=f"{np.mean(losses[-20:]):.3f}")
    return float(np.mean(losses))


def _loss(
    outputs: tuple[Tensor, Tensor, Tensor], inputs: Tensor, labels: Tensor, weight: Tensor, teacher: Teacher | None
) -> Tensor:
    own_logits, own_map, _ = outputs
    loss = functional.binary_cross_entropy_with_logits(own_logits[:, 0], labels, pos_weight=weight)
    if teacher is None:
        return loss
    with torch.no_grad():
        their_logits, their_map, _ = teacher.network(inputs)
    soft = functional.binary_cross_entropy_with_logits(own_logits[:, 0], torch.sigmoid(their_logits[:, 0]))
    maps = nn.functional.mse_loss(own_map, their_map) / their_map.var()
    return (1.0 - teacher.weight) * loss + teacher.weight * soft + teacher.map_weight * maps


@torch.no_grad()
def _move(average: MobileNetV2, network: MobileNetV2, step: int, decay: float) -> None:
    """Exponential moving average, faster during the first steps."""
    weight = 1.0 - min(decay, (1 + step) / (10 + step))
    for mean, value in zip(average.parameters(), network.parameters(), strict=True):
        mean.lerp_(value, weight)


def _batch(build: Build, pixels: np.ndarray, augment: albumentations.Compose | None) -> Tensor:
    """Augmented (if asked) and preprocessed as on the device: float32 ``(batch, 1, rows, columns)``."""
    steps = build.recipe.input.steps()
    images = [augment(image=image)["image"] if augment else image for image in pixels]
    return torch.from_numpy(np.concatenate([preprocess(image, steps) for image in images])).to(
        memory_format=torch.channels_last
    )


@torch.no_grad()
def logits(build: Build, network: MobileNetV2, pixels: np.ndarray) -> np.ndarray:
    """Logits ``(count,)`` of images ``(count, rows, columns)``."""
    network.eval()
    size = build.recipe.train.batch
    parts = [network(_batch(build, pixels[at : at + size], None))[0][:, 0] for at in range(0, len(pixels), size)]
    return torch.cat(parts).numpy()
