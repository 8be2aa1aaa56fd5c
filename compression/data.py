"""Stage ``data``: from image files and a manifest to one array, split by patient."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image as PillowImage
from sklearn.model_selection import StratifiedGroupKFold
from tqdm import tqdm

from appliance.preprocess import resize
from compression.recipe import RecipeError

if TYPE_CHECKING:
    from compression.build import Build

SECTIONS = ("data", "input")
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Images:
    """Images of one split.

    Attributes
    ----------
    pixels
        uint8 ``(count, rows, columns)``.
    labels
        bool ``(count,)``: positive or not.
    patients
        str ``(count,)``: identifiers, unique over all splits.
    """

    pixels: np.ndarray
    labels: np.ndarray
    patients: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, chosen: np.ndarray) -> Images:
        return Images(self.pixels[chosen], self.labels[chosen], self.patients[chosen])


def fingerprint(build: Build) -> bytes:
    return _manifest(build.data_root / build.recipe.data.train).read_bytes()


def run(build: Build) -> str:
    recipe = build.recipe
    folder = build.data_root / recipe.data.train
    rows = [row for row in read_manifest(folder) if not row.get("exact_duplicate_of")]
    size = recipe.input.rows, recipe.input.columns
    pixels = np.stack([_decode(folder / row["file"], size) for row in tqdm(rows, desc="decoding", unit="image")])
    labels = np.array([row["label"] == recipe.data.positive for row in rows])
    patients = np.array([row["patient_id"] for row in rows])
    split = np.array([row["split"] for row in rows], dtype=object)
    split[_validation(split, labels, patients, recipe.data.validation_folds, recipe.data.seed)] = "validation"
    _check_disjoint(split, patients)
    counts = []
    for name in SPLITS:
        chosen = split == name
        np.savez(
            build.folder("data") / f"{name}.npz",
            pixels=pixels[chosen],
            labels=labels[chosen],
            patients=patients[chosen],
        )
        counts.append(f"{name} {chosen.sum()} ({labels[chosen].sum()} positive)")
    return ", ".join(counts)


def load(build: Build, split: str) -> Images:
    with np.load(build.folder("data") / f"{split}.npz") as arrays:
        return Images(arrays["pixels"], arrays["labels"], arrays["patients"])


def read_manifest(folder: Path) -> list[dict[str, str]]:
    """Rows of ``manifest.csv``: at least file, label, patient_id."""
    path = _manifest(folder)
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise RecipeError(f"the data set's list {path} can't be read: {error.strerror}; is --data right?") from error
    needed = {"file", "label", "patient_id"}
    if not rows or not needed <= set(rows[0]):
        raise RecipeError(f"{path} needs the columns {', '.join(sorted(needed))} and at least one row")
    return rows


def _manifest(folder: Path) -> Path:
    return folder / "manifest.csv"


def decode(path: Path) -> np.ndarray:
    """An image file as uint8 ``(rows, columns)``."""
    try:
        with PillowImage.open(path) as image:
            return np.asarray(image.convert("L"))
    except OSError as error:
        raise RecipeError(f"{path} can't be decoded: {error}") from error


def _decode(path: Path, size: tuple[int, int]) -> np.ndarray:
    return np.clip(resize(decode(path), rows=size[0], columns=size[1]) + 0.5, 0, 255).astype(np.uint8)


def _validation(split: np.ndarray, labels: np.ndarray, patients: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Indices of one stratified fold of the training patients."""
    training = np.flatnonzero(split == "train")
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    _, validation = next(splitter.split(training, labels[training], patients[training]))
    return training[validation]


def _check_disjoint(split: np.ndarray, patients: np.ndarray) -> None:
    sets = {name: set(patients[split == name]) for name in SPLITS}
    for one in SPLITS:
        if not sets[one]:
            raise RecipeError(f"the split {one} has no images")
        for other in SPLITS:
            if one < other and sets[one] & sets[other]:
                raise RecipeError(f"patients {sorted(sets[one] & sets[other])[:5]} are in {one} and in {other}")
