"""What closes the gap to another hospital without training on it: the bundled network on images made more alike.

``python -m tests.benchmarks.external_gap [DATA]`` reads Kermany's official test and chest-nih (PA and AP apart) as they
are, cut to the lungs that the lungs package outlines, without what lies outside of them, with the contrast evened out,
with the histogram of Kermany's training images, blurred to one sharpness, and as the mean of five sections. It prints
the area under the ROC curve of each with DeLong's interval. It chooses nothing: a choice by these figures would be made
on the test.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from appliance import package
from appliance.backend import Options
from appliance.backends import onnxruntime
from appliance.preprocess import preprocess, restore
from appliance.probability import softmax
from appliance.roc import delong
from compression.data import decode, read_manifest
from compression.roc import auc_interval
from tests.running import CHECKOUT

SIZE = 224
MARGIN = 0.06  # of an image's side, around the lungs
SECTIONS = ((0.0, 0.0), (0.0, 0.1), (0.1, 0.0), (0.1, 0.1), (0.05, 0.05))  # where sections of 9/10 of a side begin
Rows = list[dict[str, str]]


class Reader:
    """A bundled package on the CPU."""

    def __init__(self, name: str) -> None:
        opened = package.read(package.bundled(name)[0], None)
        self.input, self._logits = opened.manifest.input, opened.manifest.outputs.logits
        self._backend = onnxruntime.open(opened.artifact("cpu"), Options())

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        return self._backend.run({self.input.name: preprocess(pixels, self.input.steps)})[self._logits][0]


class Lungs(Reader):
    def __init__(self) -> None:
        super().__init__("lungs")

    def mask(self, pixels: np.ndarray) -> np.ndarray:
        """Where the lungs are, on the image's own grid."""
        return restore(softmax(self.logits(pixels)), self.input.steps, pixels.shape).argmax(0) > 0


def cut(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The box of the lungs with a margin; the whole image where none were found."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return pixels
    tall, wide = (round(MARGIN * side) for side in pixels.shape)
    return pixels[max(rows[0] - tall, 0) : rows[-1] + tall + 1, max(columns[0] - wide, 0) : columns[-1] + wide + 1]


def alone(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Only the lungs, and the mean of them elsewhere."""
    if not mask.any():
        return pixels
    near = cv2.dilate(mask.astype(np.uint8), np.ones((9, 9), np.uint8)).astype(bool)
    return np.where(near, pixels, pixels[near].mean()).astype(pixels.dtype)


def gray(pixels: np.ndarray) -> np.ndarray:
    """Stretched to 8 bits at the size that the network sees."""
    low, high = np.percentile(pixels, [1, 99])
    stretched = np.clip((pixels - low) / max(high - low, 1e-6), 0, 1) * 255
    return np.asarray(cv2.resize(stretched.astype(np.float32), (SIZE, SIZE), interpolation=cv2.INTER_AREA)).astype(
        np.uint8
    )


def evened(pixels: np.ndarray) -> np.ndarray:
    """Contrast-limited adaptive histogram equalization (Zuiderveld, 1994)."""
    return np.asarray(cv2.createCLAHE(2.0, (8, 8)).apply(gray(pixels)))


def blurred(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.GaussianBlur(gray(pixels), (0, 0), 2.0))


def matched(pixels: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """With the cumulative histogram ``shares``, ``(256,)``."""
    image = gray(pixels)
    own = np.cumsum(np.bincount(image.ravel(), minlength=256)) / image.size
    return np.interp(own, shares, np.arange(256))[image].astype(np.uint8)


def histogram(images: Sequence[np.ndarray]) -> np.ndarray:
    """The mean cumulative histogram of images, ``(256,)``."""
    return np.mean([np.cumsum(np.bincount(gray(each).ravel(), minlength=256)) / SIZE**2 for each in images], axis=0)


def section(pixels: np.ndarray, top: float, left: float) -> np.ndarray:
    rows, columns = pixels.shape
    return pixels[round(top * rows) : round((top + 0.9) * rows), round(left * columns) : round((left + 0.9) * columns)]


def main(data: Path) -> None:
    chest, lungs = Reader("chest-pneumonia"), Lungs()
    kermany, nih = read_manifest(data / "chest-kermany"), read_manifest(data / "chest-nih")
    test = [row for row in kermany if row["split"] == "test" and not row["exact_duplicate_of"]]
    trained = [decode(data / "chest-kermany" / row["file"]) for row in kermany if row["split"] == "train"][::20]
    shares = histogram(trained)

    def score(pixels: np.ndarray) -> float:
        return float(chest.logits(pixels)[0])

    ways: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
        "as it ships": lambda pixels, _: score(pixels),
        "cut to the lungs": lambda pixels, mask: score(cut(pixels, mask)),
        "the lungs alone": lambda pixels, mask: score(alone(pixels, mask)),
        "cut, and the lungs alone": lambda pixels, mask: score(cut(alone(pixels, mask), mask)),
        "contrast evened out": lambda pixels, _: score(evened(pixels)),
        "Kermany's histogram": lambda pixels, _: score(matched(pixels, shares)),
        "blurred to one sharpness": lambda pixels, _: score(blurred(pixels)),
        "mean of five sections": lambda pixels, _: float(np.mean([score(section(pixels, *at)) for at in SECTIONS])),
        "cut, with Kermany's histogram": lambda pixels, mask: score(matched(cut(pixels, mask), shares)),
    }
    sets: dict[str, tuple[str, Rows]] = {"Kermany's test": ("chest-kermany", test), "chest-nih": ("chest-nih", nih)}
    for view in ("PA", "AP"):
        sets[f"chest-nih, {view}"] = ("chest-nih", [row for row in nih if row["view"] == view])
    known: dict[str, list[float]] = {}
    for folder, rows in (sets["Kermany's test"], sets["chest-nih"]):
        for row in tqdm(rows, desc=folder, unit="image"):
            pixels = decode(data / folder / row["file"])
            mask = lungs.mask(pixels)
            known[row["file"]] = [way(pixels, mask) for way in ways.values()]
    print(
        "| area under the ROC curve | " + " | ".join(f"{name}, {len(rows)}" for name, (_, rows) in sets.items()) + " |"
    )
    print("|---" * (len(sets) + 1) + "|")
    for number, name in enumerate(ways):
        cells = []
        for _, rows in sets.values():
            positive = np.array([row["label"] == "PNEUMONIA" for row in rows])
            patients = np.array([row["patient_id"] for row in rows])
            scores = np.array([[known[row["file"]][number] for row in rows]])
            value, low, high = auc_interval(delong(scores, positive, patients))
            cells.append(f"{value:.3f} [{low:.3f}, {high:.3f}]")
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else CHECKOUT.parent / "shared" / "data")
