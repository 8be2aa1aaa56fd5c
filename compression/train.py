"""Stage ``train``: fine-tuning from initial weights, or from scratch, by the loop that all tasks share."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from appliance.preprocess import preprocess
from compression import architectures, checkpoint, contact_sheet, data, diagnosis, distributed, loop, losses, sampling
from compression.architectures import Classifier
from compression.augment import Augmentation, compose

if TYPE_CHECKING:
    from compression.build import Build

SECTIONS = ("input", "train", "augment", "augment_policy")
DISTRIBUTED = True


def fingerprint(build: Build) -> bytes:
    path = initial_weights(build)
    weights = path.read_bytes() if path is not None and path.exists() else b""
    return architectures.sources(build.recipe.train.network) + weights


def initial_weights(build: Build) -> Path | None:
    """The file that training starts from; None where it starts from scratch."""
    name = build.recipe.train.weights
    return build.weights_root / name if name else None


def run(build: Build) -> str:
    recipe, folder = build.recipe.train, build.folder("train")
    if build.group.main:
        _show_augmentation(build)
        _warn_of_sampling(build)
    torch.manual_seed(build.recipe.data.seed)
    weights = initial_weights(build)
    network = architectures.new(recipe.network, recipe.dropout, weights)
    if weights is None:
        tqdm.write(f"train: {recipe.network} from scratch, since the recipe names no initial weights")
    tuning = Tuning("train", recipe.epochs, recipe.learning_rate, build.recipe.data.seed)
    average, log = fit(build, network, tuning, folder / "checkpoint.pt")
    if build.group.main:
        checkpoint.save(folder / "network.pt", average.state_dict())
        (folder / "log.json").write_text(json.dumps(log))
    begun = "from scratch" if weights is None else f"from {weights.name}"
    kept = max(log, key=lambda entry: entry["score"]) if recipe.keep == "best" else log[-1]
    return (
        f"{recipe.network} {begun}, {len(log)} epochs, validation AUC {kept['score']:.4f} of epoch {kept['epoch']}, "
        "which is kept"
    )


def _show_augmentation(build: Build) -> None:
    """Write the contact sheet before hours of training, and say where a transform destroys too much."""
    sheet = contact_sheet.of_build(build)
    path = contact_sheet.write(sheet, build.work / contact_sheet.NAME)
    tqdm.write(f"train: augmented copies to look at: {path}")
    for each in contact_sheet.warnings(sheet):
        tqdm.write(f"train: warning: {each}")


def _warn_of_sampling(build: Build) -> None:
    """Say which values of ``train.sampling_column`` no balance can keep from telling the label."""
    if name := build.recipe.train.sampling_column:
        values = data.column(build, "train", name)
        if telling := sampling.of_one_class(data.load(build, "train").labels, values):
            tqdm.write(
                f"train: warning: each of these values of the column {name} has training images of one class only, so "
                f"that it tells the label still: {', '.join(telling)}; bring images of the other class, or leave these "
                "out"
            )


def load(build: Build) -> Classifier:
    """The trained network, unpruned, in evaluation mode."""
    state = torch.load(build.folder("train") / "network.pt", weights_only=True)
    return architectures.NETWORKS[build.recipe.train.network].from_state(state, build.recipe.train.dropout).eval()


def log(build: Build) -> list[dict[str, Any]]:
    """One entry for each epoch."""
    entries: list[dict[str, Any]] = json.loads((build.folder("train") / "log.json").read_text())
    return entries


@dataclass(frozen=True)
class Teacher:
    """An unpruned network that a smaller one is to follow (Hinton et al., 2015).

    ``weight`` is the share of the loss that compares with its probabilities instead of the labels; ``map_weight``
    counts the squared difference of the activation maps, in units of their variance.
    """

    network: Classifier
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


def fit(build: Build, network: Classifier, tuning: Tuning, checkpoint: Path) -> tuple[Classifier, list[dict[str, Any]]]:
    """Fine-tune on the training images, or go on from a checkpoint; see `compression.loop.fit`."""
    recipe = build.recipe.train
    distributed.use_threads(recipe.threads)
    settings = loop.Settings(
        epochs=tuning.epochs,
        batch=recipe.batch,
        learning_rate=tuning.learning_rate,
        weight_decay=recipe.weight_decay,
        clip=recipe.clip,
        average_decay=recipe.average_decay,
        patience=recipe.patience,
        keep=recipe.keep,
        schedule=recipe.schedule,
        accumulate=recipe.accumulate,
        checkpoint_every=recipe.checkpoint_every,
        spike=recipe.spike,
        amp=recipe.amp,
    )
    network = network.to(memory_format=torch.channels_last)
    tuned, log = loop.fit(Task(build, tuning), network, settings, checkpoint, tuning.name, group=build.group)
    if tuning.teacher:  # which went where its pupil was
        tuning.teacher.network.cpu()
    return cast("Classifier", tuned), log


class Task:
    """Telling whether the finding is there; see `compression.loop.Task`."""

    measure = "validation AUC"
    ignored = diagnosis.CLASS_IGNORED

    def __init__(self, build: Build, tuning: Tuning) -> None:
        self._build, self._recipe, self._tuning = build, build.recipe.train, tuning
        self._training, self._validation = data.load(build, "train"), data.load(build, "validation")
        labels, shares = self._training.labels, None
        if self._recipe.sampling == "balanced":
            column = self._recipe.sampling_column
            shares = sampling.shares(labels, data.column(build, "train", column) if column else None)
        self._shares = shares
        self._weight = losses.positive_weight(labels, self._recipe.missed_cost, shares)

    def steps(self) -> int:
        return sampling.steps(len(self._training), self._recipe.batch, self._build.group)

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        seed, group = self._tuning.seed + epoch, self._build.group
        augment = compose(self._build.recipe.augment, self._build.recipe.augment_policy, seed + 100_000 * group.rank)
        order = sampling.order(len(self._training), seed, self._shares)
        for chosen in sampling.batches(order, self._recipe.batch, group):
            inputs = _batch(self._build, self._training.pixels[chosen], augment)
            yield inputs, torch.from_numpy(self._training.labels[chosen].astype(np.float32))

    def loss(self, network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs, labels = batch
        # Compared in float32, whatever the network computes in.
        own_logits, own_map = (each.float() for each in network(inputs)[:2])
        loss = self._of(own_logits[:, 0], labels)
        teacher = self._tuning.teacher
        if teacher is None:
            return loss
        with torch.no_grad():
            their_logits, their_map = (each.float() for each in teacher.network.to(inputs.device)(inputs)[:2])
        soft = functional.binary_cross_entropy_with_logits(own_logits[:, 0], torch.sigmoid(their_logits[:, 0]))
        maps = nn.functional.mse_loss(own_map, their_map) / their_map.var()
        return (1.0 - teacher.weight) * loss + teacher.weight * soft + teacher.map_weight * maps

    def validate(self, network: nn.Module) -> loop.Validation:
        """The area under the ROC curve, the loss on the labels, and what is found of each class at 1 in 2."""
        labels, said = self._validation.labels, logits(self._build, network, self._validation.pixels)
        if not np.isfinite(said).all():
            return loop.Validation(math.nan)
        return loop.Validation(
            float(roc_auc_score(labels, said)),
            float(self._of(torch.from_numpy(said), torch.from_numpy(labels.astype(np.float32)))),
            {"positive": float((said[labels] > 0).mean()), "negative": float((said[~labels] <= 0).mean())},
        )

    def _of(self, logits: Tensor, labels: Tensor) -> Tensor:
        weight = self._weight.to(logits.device)
        return losses.of_finding(self._recipe.loss, logits, labels, weight, self._recipe.focal_gamma)


def _batch(build: Build, pixels: np.ndarray, augment: Augmentation | None) -> Tensor:
    """Augmented (if asked) and preprocessed as on the device: float32 ``(batch, 1, rows, columns)``."""
    steps = build.recipe.input.steps()
    images = [augment(image=image)["image"] if augment else image for image in pixels]
    return torch.from_numpy(np.concatenate([preprocess(image, steps) for image in images])).to(
        memory_format=torch.channels_last
    )


@torch.no_grad()
def logits(build: Build, network: nn.Module, pixels: np.ndarray) -> np.ndarray:
    """Logits ``(count,)`` of images ``(count, rows, columns)``."""
    network.eval()
    size = build.recipe.train.batch
    device = distributed.device_of(network)
    batches = (_batch(build, pixels[at : at + size], None).to(device) for at in range(0, len(pixels), size))
    return torch.cat([network(batch)[0][:, 0] for batch in batches]).cpu().numpy()
