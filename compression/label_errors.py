"""Labels that look wrong: confident learning (Northcutt, Jiang & Chuang, JAIR 70, 2021) on cheap features.

A simple model, fitted on other patients, gives each image a probability of each label. An image counts as confidently
of a label where its probability reaches that label's own threshold, the mean probability among the images that bear
it. Counting given against confident labels estimates the joint distribution of given and true labels; the images off
its diagonal are those to look at again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from compression import architectures, distributed, splits
from compression.recipe import NetworkName

_FOLDS = 5
_COMPONENTS = 64  # of the features, in principal components: more make the small model overconfident
_BATCH = 64
_STRETCH = (1, 99)  # percentiles, so that brightness alone does not tell images apart
_PIXELS = 32  # side of the copies whose pixels are the features where no network is given


@dataclass(frozen=True)
class Suspect:
    """An image, by index, whose label looks wrong; ``margin``: probability given minus suggested, low is worse."""

    index: int
    given: str
    suggested: str
    probability: float
    margin: float


@dataclass(frozen=True)
class Suspicion:
    """What confident learning found.

    Attributes
    ----------
    names
        The labels.
    joint
        float ``(labels, labels)``: estimated share of images with a given label (row) and a true one (column).
    suspects
        Worst first.
    auc
        Of the simple model on patients that it was not fitted on, mean over labels: near 0.5 it knows nothing.
    """

    names: list[str]
    joint: np.ndarray
    suspects: list[Suspect]
    auc: float

    @property
    def noise(self) -> float:
        """Estimated share of wrong labels."""
        return float(1 - np.trace(self.joint))

    def as_json(self) -> dict[str, Any]:
        return {
            "labels": self.names,
            "joint": self.joint.round(4).tolist(),
            "estimated_share_wrong": round(self.noise, 4),
            "auc_of_the_simple_model": round(self.auc, 4),
        }


def find(features: np.ndarray, labels: np.ndarray, patients: np.ndarray) -> Suspicion | None:
    """Look for wrong labels.

    Parameters
    ----------
    features
        float ``(count, features)``.
    labels, patients
        str ``(count,)``.

    Returns
    -------
    None where there is one label only, or fewer than five patients of one, or all images look the same.
    """
    names, given = np.unique(labels, return_inverse=True)
    if len(names) < 2 or not np.ptp(features, axis=0).any():
        return None
    probabilities = out_of_sample(features, labels, patients)
    if probabilities is None:
        return None
    joint, confident = confident_joint(given, probabilities)
    wrong = np.flatnonzero((confident >= 0) & (confident != given))
    suspects = [
        Suspect(
            int(index), str(names[given[index]]), str(names[confident[index]]),
            round(float(probabilities[index, confident[index]]), 4),
            round(float(probabilities[index, given[index]] - probabilities[index, confident[index]]), 4),
        )
        for index in wrong
    ]  # fmt: skip
    areas = [roc_auc_score(given == number, probabilities[:, number]) for number in range(len(names))]
    return Suspicion(names.tolist(), joint, sorted(suspects, key=lambda each: each.margin), float(np.mean(areas)))


def out_of_sample(features: np.ndarray, labels: np.ndarray, patients: np.ndarray) -> np.ndarray | None:
    """Probabilities ``(count, labels)`` by grouped cross-validation; None where a label has too few patients."""
    folds = splits.folds_or_none(labels, patients, _FOLDS)
    if folds is None:
        return None
    probabilities = np.zeros((len(labels), len(np.unique(labels))))
    for training, held in tqdm(folds, desc="cross-validating", unit="fold"):
        components = min(_COMPONENTS, len(training) // 4, features.shape[1])
        model = make_pipeline(
            StandardScaler(), PCA(components, random_state=0), StandardScaler(),
            LogisticRegression(C=0.1, max_iter=1000),
        )  # fmt: skip
        probabilities[held] = model.fit(features[training], labels[training]).predict_proba(features[held])
    return probabilities


def confident_joint(given: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The joint of given and true labels, and each image's confident label (equations 1 to 3 of the paper).

    Parameters
    ----------
    given
        int ``(count,)``, each label at least once.
    probabilities
        float ``(count, labels)``, out of sample.

    Returns
    -------
    Shares ``(labels, labels)`` that sum to 1, calibrated so that each row's sum is the share of its given label; and
    int ``(count,)``, -1 where no threshold is reached.
    """
    count, labels = probabilities.shape
    thresholds = np.array([probabilities[given == number, number].mean() for number in range(labels)])
    reached = probabilities >= thresholds
    confident = np.where(reached.any(axis=1), np.where(reached, probabilities, -1.0).argmax(axis=1), -1)
    counts = np.zeros((labels, labels))
    np.add.at(counts, (given[confident >= 0], confident[confident >= 0]), 1)
    rows = counts.sum(axis=1, keepdims=True)
    shares = np.bincount(given, minlength=labels)[:, None] / count
    # A label of which no image is confident stays as it is given.
    joint = np.where(rows > 0, counts / np.maximum(rows, 1), np.eye(labels)) * shares
    return joint / joint.sum(), confident


def features(
    small: np.ndarray, network_name: NetworkName, weights: Path | None, threads: int
) -> tuple[np.ndarray, str]:
    """Features ``(count, features)`` of small uint8 images ``(count, rows, columns)``, and what they are.

    Embeddings of a frozen network with its initial weights; pixels where ``weights`` is None.
    """
    if weights is None:
        side = small.shape[1] // _PIXELS
        means = small.reshape(len(small), _PIXELS, side, _PIXELS, side).mean(axis=(2, 4))
        return _stretched(means).reshape(len(small), -1), f"pixels at {_PIXELS}x{_PIXELS}"
    distributed.use_threads(threads)
    network = architectures.new(network_name, 0.0, weights)
    network.eval().to(memory_format=torch.channels_last)
    parts = []
    with torch.no_grad():
        for start in tqdm(range(0, len(small), _BATCH), desc="embedding", unit="batch"):
            batch = torch.from_numpy(_stretched(small[start : start + _BATCH])[:, None] * 2 - 1)
            parts.append(network(batch.to(memory_format=torch.channels_last))[2].numpy())
    return np.concatenate(parts), f"{network_name}'s embedding ({weights.name}, {small.shape[1]}x{small.shape[2]})"


def _stretched(images: np.ndarray) -> np.ndarray:
    """Each image's percentiles mapped to 0 and 1, float32."""
    low, high = np.percentile(images, _STRETCH, axis=(1, 2), keepdims=True)
    return np.clip((images - low) / np.maximum(high - low, 1), 0, 1).astype(np.float32)
