"""Stage ``prune``: whole channels are taken out in steps, and after each the network learns from its unpruned teacher.

Channels that depend on each other go together (DepGraph: Fang et al., CVPR 2023).
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
from tqdm import tqdm

from appliance.preprocess import preprocess
from compression import checkpoint, data, diagnosis, train
from compression.architectures import NETWORKS, Classifier
from compression.augment import compose
from compression.statistics import bootstrap, map_correlation

if TYPE_CHECKING:
    from compression.build import Build

SECTIONS = ("input", "train", "augment", "augment_policy", "prune")
_AUGMENTATION_SEED = 11
_ROUNDS, _GRADIENT_BATCHES = 4, 8


def run(build: Build) -> str:
    recipe, folder = build.recipe.prune, build.folder("prune")
    teacher = train.load(build)
    network = copy.deepcopy(teacher)
    table = [_measure(build, "unpruned", 0.0, teacher, teacher)]
    checkpoint.save(folder / "unpruned.pt", teacher.state_dict())
    removed = 0.0
    for number, ratio in enumerate(recipe.ratios):
        name = f"pruned-{ratio:.2f}"
        begin, done = folder / f"{name}.begin.pt", folder / f"{name}.pt"
        if not done.exists():
            if not begin.exists():  # so that a step that was killed goes on from the same channels
                cut = remove_channels(build, network, 1.0 - (1.0 - ratio) / (1.0 - removed))
                for said in diagnosis.of_pruning(name, network, cut, recipe.round_to):
                    tqdm.write(said)
                checkpoint.save(begin, cut.state_dict())
            torch.manual_seed(build.recipe.data.seed + number)
            smaller = _load(build, begin)
            follow = train.Teacher(teacher, recipe.distillation, recipe.map_distillation)
            tuning = train.Tuning(
                name, recipe.epochs, recipe.learning_rate, build.recipe.data.seed + 100 * (number + 1), follow
            )
            tuned, _ = train.fit(build, smaller, tuning, folder / f"{name}.checkpoint.pt")
            checkpoint.save(done, tuned.state_dict())
        network = _load(build, done)
        removed = ratio
        table.append(_measure(build, name, ratio, network, teacher))
    (folder / "table.json").write_text(json.dumps(table, indent=1))
    return "; ".join(f"{row['name']} {row['parameters'] / 1e6:.2f} M, AUC {row['auc'][0]:.4f}" for row in table)


def table(build: Build) -> list[dict[str, Any]]:
    """Every network that was made, the unpruned one first, with what was measured."""
    rows: list[dict[str, Any]] = json.loads((build.folder("prune") / "table.json").read_text())
    return rows


def logits(build: Build, name: str) -> np.ndarray:
    """What a network of the table says, ``(2, images)``: of the validation images, and of augmented copies of them."""
    return np.asarray(np.load(build.folder("prune") / f"{name}.logits.npy"))


def network(build: Build, name: str) -> Classifier:
    """A network of the table, in evaluation mode."""
    return _load(build, build.folder("prune") / f"{name}.pt")


def remove_channels(build: Build, network: Classifier, ratio: float) -> Classifier:
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
    return type(network).from_state(smaller.state_dict(), build.recipe.train.dropout)


def _gradients(build: Build, network: Classifier) -> None:
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


def _load(build: Build, path: Any) -> Classifier:
    recipe = build.recipe.train
    return NETWORKS[recipe.network].from_state(torch.load(path, weights_only=True), recipe.dropout).eval()


def _measure(build: Build, name: str, ratio: float, network: Classifier, teacher: Classifier) -> dict[str, Any]:
    """Size, and what it does on validation images and augmented copies of them, which are harder; keeps the logits."""
    validation = data.load(build, "validation")
    augment = compose(build.recipe.augment, build.recipe.augment_policy, _AUGMENTATION_SEED)
    copies = np.stack([augment(image=image)["image"] for image in validation.pixels])
    logits, maps = _answers(build, network, [validation.pixels, copies])
    _, theirs = _answers(build, teacher, [validation.pixels])
    np.save(build.folder("prune") / f"{name}.logits.npy", logits)
    labels, patients, scores = np.tile(validation.labels, 2), np.tile(validation.patients, 2), logits.ravel()
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
        "map_correlation": round(map_correlation(theirs, maps[: len(theirs)]), 4),
    }


@torch.no_grad()
def _answers(build: Build, network: Classifier, sets: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Logits ``(sets, images)`` and activation maps ``(sets x images, rows, columns)``."""
    steps = build.recipe.input.steps()
    outputs = [
        network(torch.from_numpy(preprocess(image, steps)))
        for pixels in sets
        for image in tqdm(pixels, desc="measuring", unit="image")
    ]
    logits = torch.cat([each[0][:, 0] for each in outputs]).numpy()
    return logits.reshape(len(sets), -1), torch.cat([each[1][:, 0] for each in outputs]).numpy()
