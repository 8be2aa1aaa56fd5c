"""Does the activation map show what the network looks at? Two tests that a map which only looks plausible fails.

Randomized weights (Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018): from the output to the input, layer
after layer forgets what it has learned; a map that stays as it was shows edges of the image and not the network.

A planted marker: a head that learns nothing but whether a marker lies in the image must have its map on the marker.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression

from appliance.preprocess import Step, preprocess
from compression.graph import Graph
from compression.inference import ACTIVATION_MAP, EMBEDDING, INPUT, open_network
from compression.roc import delong

SEEDS = (0, 1, 2)
MOST_ALIKE = 0.5  # rank correlation of maps before and after all weights were shuffled
LEAST_GAIN = 2.0  # the map's mass near the marker, over that of a map which knows nothing of it
_MARKER = 8  # the marker's side is the image's shorter one divided by this
_POSITIONS = 12  # of the marker in each image
_TRAINING_SHARE = 0.75


def randomization(artifact: bytes, target: str, tensors: Sequence[np.ndarray]) -> list[dict[str, Any]]:
    """Shuffle the weights of one layer more each time, beginning at the output, and compare the maps.

    The values of each tensor are permuted, so that int8 weights keep their range. A map without any difference left in
    it counts as correlation 0.

    Parameters
    ----------
    tensors
        Preprocessed images, each float32 ``(1, 1, rows, columns)``.

    Returns
    -------
    A row for each number of shuffled layers: ``layer``, the one that was shuffled last; ``correlation``, Spearman's of
    the map with the map before, and ``absolute``, of its size, medians over images and seeds.
    """
    before = _maps(artifact, target, tensors)
    count = len(Graph(artifact).layers())
    found = []
    graphs = [Graph(artifact) for _ in SEEDS]
    for number in range(count - 1, -1, -1):
        names = graphs[0].layers()[number]
        plain, absolute = [], []
        for seed, graph in zip(SEEDS, graphs, strict=True):
            for name in names:
                _shuffle(graph, name, seed, number)
            after = _maps(graph.artifact, target, tensors)
            plain += [correlation(*pair) for pair in zip(before, after, strict=True)]
            absolute += [correlation(np.abs(one), np.abs(other)) for one, other in zip(before, after, strict=True)]
        found.append(
            {
                "layer": "head" if number == count - 1 else names[0].removesuffix("_quantized").removesuffix(".weight"),
                "shuffled": count - number,
                "correlation": round(float(np.median(plain)), 4),
                "absolute": round(float(np.median(absolute)), 4),
            }
        )
    return found


def between_images(artifact: bytes, target: str, tensors: Sequence[np.ndarray]) -> float:
    """Median rank correlation of the maps of two different images: what anatomy alone makes alike."""
    maps = _maps(artifact, target, tensors)
    return float(np.median([correlation(one, other) for at, one in enumerate(maps) for other in maps[:at]]))


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's rank correlation of two maps; 0 where one of them is flat."""
    a, b = rankdata(one), rankdata(other)
    if a.std() == 0 or b.std() == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def _shuffle(graph: Graph, name: str, seed: int, layer: int) -> None:
    values = graph.values(name)
    # Tensors of one layer and the same size share a permutation: the head's weights stand in logits and in the map.
    order = np.random.default_rng([seed, layer, values.size]).permutation(values.size)
    graph.set_values(name, values.ravel()[order].reshape(values.shape))


def _maps(artifact: bytes, target: str, tensors: Sequence[np.ndarray]) -> list[np.ndarray]:
    network = open_network(artifact, target)
    return [network.run({INPUT: tensor})[ACTIVATION_MAP][0, 0] for tensor in tensors]


def planted_marker(artifact: bytes, target: str, images: Sequence[np.ndarray], steps: Sequence[Step]) -> dict[str, Any]:
    """Train a head on the network's own features to find a marker, put it in the graph, and see where its map lies.

    Parameters
    ----------
    images
        Levels from 0 to 255, ``(rows, columns)``, before preprocessing: generated ones, or of the training side. The
        head learns on three quarters of them and is judged on the others.

    Returns
    -------
    ``auc`` of the head on images that it has not seen; ``hits``, the share of maps whose highest cell is the marker's
    or beside it, and ``mass``, the share of the map's positive part there; ``area``, the share of the map that this is,
    which a map that does not know of the marker would give; ``own_head_hits`` and ``own_head_mass``: of the head that
    the network came with, which has no reason to look there.
    """
    graph = Graph(artifact)
    cut = round(_TRAINING_SHARE * len(images))
    embeddings, labels = _embeddings(artifact, target, images[:cut], steps)
    scale = embeddings.std(axis=0) + 1e-6
    # Few images and many features: a strong penalty keeps the head from learning the images by heart.
    head = LogisticRegression(C=0.01, class_weight="balanced", max_iter=2000).fit(embeddings / scale, labels)
    graph.set_head(head.coef_[0] / scale)
    unseen, truth = _embeddings(artifact, target, images[cut:], steps)
    scores = head.decision_function(unseen / scale)
    found: dict[str, Any] = {
        "marked_images": int(truth.sum()),
        "auc": round(float(delong(scores[None], truth, np.arange(len(truth))).value[0]), 4),
    }
    for prefix, network in (("", graph.artifact), ("own_head_", artifact)):
        hits, mass, area = _on_marker(network, target, images[cut:], steps)
        found |= {f"{prefix}hits": round(hits, 4), f"{prefix}mass": round(mass, 4), "area": round(area, 4)}
    return found


def mark(image: np.ndarray, number: int) -> tuple[np.ndarray, tuple[float, float]]:
    """The image with a bright cross on black somewhere, and its center as shares of rows and columns."""
    side = min(image.shape) // _MARKER
    chance = np.random.default_rng([number, *image.shape])
    row, column = (int(chance.integers(0, size - side)) for size in image.shape)
    marked = image.copy()
    patch = marked[row : row + side, column : column + side]
    patch[:] = 0
    bar = slice(side // 2 - side // 6, side // 2 + side // 6 + 1)
    patch[bar], patch[:, bar] = 255, 255
    return marked, ((row + side / 2) / image.shape[0], (column + side / 2) / image.shape[1])


def _embeddings(
    artifact: bytes, target: str, images: Sequence[np.ndarray], steps: Sequence[Step]
) -> tuple[np.ndarray, np.ndarray]:
    """Pooled features of each image without and with the marker in several places, and which have it."""
    network = open_network(artifact, target)
    rows, labels = [], []
    for at, image in enumerate(images):
        marked = [mark(image, at * _POSITIONS + place)[0] for place in range(_POSITIONS)]
        for label, picture in [(False, image), *((True, each) for each in marked)]:
            rows.append(network.run({INPUT: preprocess(picture, steps)})[EMBEDDING][0])
            labels.append(label)
    return np.stack(rows), np.array(labels)


def _on_marker(
    artifact: bytes, target: str, images: Sequence[np.ndarray], steps: Sequence[Step]
) -> tuple[float, float, float]:
    """Hits, mass and area of `planted_marker`, means over images and places."""
    network = open_network(artifact, target)
    found = []
    for at, image in enumerate(images):
        for place in range(_POSITIONS):
            marked, (y, x) = mark(image, at * _POSITIONS + place)
            grid = network.run({INPUT: preprocess(marked, steps)})[ACTIVATION_MAP][0, 0]
            row, column = int(y * grid.shape[0]), int(x * grid.shape[1])
            near = np.zeros(grid.shape, dtype=bool)
            near[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = True
            positive = np.clip(grid, 0.0, None)
            mass = positive[near].sum() / positive.sum() if positive.any() else 0.0
            found.append((near.flat[int(grid.argmax())], mass, near.mean()))
    hits, mass, area = np.array(found, dtype=float).mean(axis=0)
    return float(hits), float(mass), float(area)
