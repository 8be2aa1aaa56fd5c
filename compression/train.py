"""Stage ``train``: fine-tuning, with a checkpoint after each epoch."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import albumentations
import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
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
    recipe = build.recipe.train
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(build.recipe.data.seed)
    training, validation = data.load(build, "train"), data.load(build, "validation")
    network = MobileNetV2(findings=1, dropout=recipe.dropout).to(memory_format=torch.channels_last)
    steps = recipe.epochs * (len(training) // recipe.batch)
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps)
    checkpoint = build.folder("train") / "checkpoint.pt"
    state: dict[str, Any] = {"epoch": 0, "log": []}
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
    else:
        network.load_imagenet(build.weights_root / recipe.weights)
    average = copy.deepcopy(network)
    if "average" in state:
        average.load_state_dict(state["average"])
    for epoch in range(state["epoch"], recipe.epochs):
        loss = _epoch(build, epoch, network, average, optimizer, schedule, training)
        area = roc_auc_score(validation.labels, logits(build, average, validation.pixels))
        state["log"].append({"epoch": epoch, "loss": round(loss, 4), "validation_auc": round(float(area), 4)})
        tqdm.write(f"epoch {epoch}: loss {loss:.4f}, validation AUC {area:.4f}")
        state |= {"epoch": epoch + 1, "network": network.state_dict(), "average": average.state_dict(),
                  "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}  # fmt: skip
        torch.save(state, checkpoint.with_suffix(".tmp"))
        checkpoint.with_suffix(".tmp").replace(checkpoint)
    torch.save(average.state_dict(), build.folder("train") / "network.pt")
    (build.folder("train") / "log.json").write_text(json.dumps(state["log"]))
    return f"{recipe.epochs} epochs, validation AUC {state['log'][-1]['validation_auc']:.4f}"


def load(build: Build) -> MobileNetV2:
    """The trained network, in evaluation mode."""
    network = MobileNetV2(findings=1, dropout=build.recipe.train.dropout)
    network.load_state_dict(torch.load(build.folder("train") / "network.pt", weights_only=True))
    return network.eval()


def _epoch(
    build: Build,
    epoch: int,
    network: MobileNetV2,
    average: MobileNetV2,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    training: data.Images,
) -> float:
    """One pass over the training images in random order; the mean loss."""
    recipe = build.recipe.train
    seed = build.recipe.data.seed + epoch
    augment = compose(build.recipe.augment, seed)
    order = np.random.default_rng(seed).permutation(len(training))
    # Weighted by class: a positive counts less where there are more of them.
    criterion = nn.BCEWithLogitsLoss(pos_weight=torch.tensor((~training.labels).sum() / training.labels.sum()))
    network.train()
    losses = []
    count = len(training) // recipe.batch
    progress = tqdm(range(count), desc=f"epoch {epoch}", unit="batch")
    for number in progress:
        chosen = order[number * recipe.batch : (number + 1) * recipe.batch]
        inputs = _batch(build, training.pixels[chosen], augment)
        loss = criterion(network(inputs)[0][:, 0], torch.from_numpy(training.labels[chosen].astype(np.float32)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        _move(average, network, epoch * count + number, recipe.average_decay)
        losses.append(loss.item())
        progress.set_postfix(loss=f"{np.mean(losses[-20:]):.3f}")
    return float(np.mean(losses))


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
