"""Stage ``prune``: whole channels are taken out in steps, and after each the network learns from its unpruned teacher.

Channels that depend on each other go together (DepGraph: Fang et al., CVPR 2023). Of the steps, the smallest network
whose area under the curve on validation lies within the best one's confidence interval goes on.
"""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch_pruning
from sklearn.metrics import roc_auc_score
from torch.nn import functional

from appliance.preprocess import preprocess
from compression import data, train
from compression.architectures import MobileNetV2
from compression.augment import compose
from compression.statistics import bootstrap

if TYPE_CHECKING:
    from compression.build import Build

SECTIONS = ("input", "train", "augment", "prune")
_AUGMENTATION_SEED = 11
_ROUNDS, _GRADIENT_BATCHES = 4, 8


def run(build: Build) -> str:
    recipe, folder = build.recipe.prune, build.folder("prune")
    teacher = train.load(build)
    network = copy.deepcopy(teacher)
    table = [_measure(build, "unpruned", 0.0, teacher, teacher)]
    torch.save(teacher.state_dict(), folder / "unpruned.pt")
    removed = 0.0
    for number, ratio in enumerate(recipe.ratios):
        name = f"pruned-{ratio:.2f}"
        begin, done = folder / f"{name}.begin.pt", folder / f"{name}.pt"
        if not done.exists():
            if not begin.exists():  # so that a step that was killed goes on from the same channels
                torch.save(
                    remove_channels(build, network, 1.0 - (1.0 - ratio) / (1.0 - removed)).state_dict(),
                    begin.with_suffix(".tmp"),
                )
                begin.with_suffix(".tmp").replace(begin)
            torch.manual_seed(build.recipe.data.seed + number)
            smaller = _load(build, begin)
            follow = train.Teacher(teacher, recipe.distillation, recipe.map_distillation)
            tuning = train.Tuning(
                name, recipe.epochs, recipe.learning_rate, build.recipe.data.seed + 100 * (number + 1), follow
            )
            tuned, _ = train.fit(build, smaller, tuning, folder / f"{name}.checkpoint.pt")
            torch.save(tuned.state_dict(), done.with_suffix(".tmp"))
            done.with_suffix(".tmp").replace(done)
        network = _load(build, done)
        removed = ratio
        table.append(_measure(build, name, ratio, network, teacher))
    best = max(table, key=lambda row: row["auc"][0])
    chosen = min((row for row in table if row["auc"][0] >= best["auc"][1]), key=lambda row: row["parameters"])
    for row in table:
        row["chosen"] = row is chosen
    (folder / "table.json").write_text(json.dumps(table, indent=1))
    torch.save(_load(build, folder / f"{chosen['name']}.pt").state_dict(), folder / "network.pt")
    small = chosen["parameters"] / table[0]["parameters"]
    return (
        f"{chosen['name']}: {small:.0%} of the parameters, {chosen['macs'] / table[0]['macs']:.0%} of the MACs, "
        f"validation AUC {chosen['auc'][0]:.4f} (best {best['name']} {best['auc'][0]:.4f} from {best['auc'][1]:.4f})"
    )


def load(build: Build) -> MobileNetV2:
    """The network that goes on, in evaluation mode."""
    return _load(build, build.folder("prune") / "network.pt")


def table(build: Build) -> list[dict[str, Any]]:
    """Every network that was tried, with what it gave."""
    rows: list[dict[str, Any]] = json.loads((build.folder("prune") / "table.json").read_text())
    return rows


def remove_channels(build: Build, network: MobileNetV2, ratio: float) -> MobileNetV2:
    """A copy without the least important ``ratio`` of all channels, rounded to what the targets like.

    Importance is what the loss on training images would change by, to first order (Molchanov et al., CVPR 2019), ranked
    over all layers together and asked for anew after each of a few rounds. Ranked by magnitude, layer by layer, the
    same ratio destroys this network: its batch normalization is folded away, so that magnitudes say little.
    """
    smaller = copy.deepcopy(network).eval()
    recipe = build.recipe.prune
    example = torch.zeros(1, 1, build.recipe.input.rows, build.recipe.input.columns)
    pruner = torch_pruning.pruner.BasePruner(
        smaller,
        example,
        importance=torch_pruning.importance.GroupTaylorImportance(),
        global_pruning=True,
        pruning_ratio=ratio,
        max_pruning_ratio=recipe.most_of_a_layer,
        iterative_steps=_ROUNDS,
        ignored_layers=[smaller.classifier],
        round_to=recipe.round_to,
        forward_fn=lambda pruned, inputs: pruned(inputs)[0],
    )
    for _ in range(_ROUNDS):
        _gradients(build, smaller)
        pruner.step()
    return MobileNetV2.from_state(smaller.state_dict(), build.recipe.train.dropout)


def _gradients(build: Build, network: MobileNetV2) -> None:
    """Leave the loss's gradients on some training images, half of each class, in the network's parameters."""
    training, steps = data.load(build, "train"), build.recipe.input.steps()
    chance = np.random.default_rng(build.recipe.data.seed)
    network.zero_grad()
    for _ in range(_GRADIENT_BATCHES):
        halves = [chance.choice(np.flatnonzero(training.labels == label), 16) for label in (False, True)]
        chosen = np.concatenate(halves)
        inputs = torch.from_numpy(np.concatenate([preprocess(training.pixels[each], steps) for each in chosen]))
        labels = torch.from_numpy(training.labels[chosen].astype(np.float32))
        functional.binary_cross_entropy_with_logits(network(inputs)[0][:, 0], labels).backward()  # type: ignore[no-untyped-call]


def _load(build: Build, path: Any) -> MobileNetV2:
    return MobileNetV2.from_state(torch.load(path, weights_only=True), build.recipe.train.dropout).eval()


def _measure(build: Build, name: str, ratio: float, network: MobileNetV2, teacher: MobileNetV2) -> dict[str, Any]:
    """Size, and what it does on validation images and augmented copies of them, which are harder."""
    validation = data.load(build, "validation")
    augment = compose(build.recipe.augment, _AUGMENTATION_SEED)
    copies = np.stack([augment(image=image)["image"] for image in validation.pixels])
    pixels = np.concatenate([validation.pixels, copies])
    labels, patients = np.tile(validation.labels, 2), np.tile(validation.patients, 2)
    scores = train.logits(build, network, pixels)
    theirs = train.logits(build, teacher, pixels)
    example = torch.zeros(1, 1, build.recipe.input.rows, build.recipe.input.columns)
    macs, parameters = torch_pruning.utils.count_ops_and_params(network, example)

    def area(chosen: np.ndarray) -> tuple[float]:
        return (float(roc_auc_score(labels[chosen], scores[chosen])),)

    (auc,) = bootstrap(area, labels, patients, build.recipe.evaluate.bootstrap)
    return {
        "name": name,
        "ratio": ratio,
        "parameters": int(parameters),
        "macs": int(macs),
        "auc": auc,
        "flips_at_zero": round(float(((scores > 0) != (theirs > 0)).mean()), 4),
    }
