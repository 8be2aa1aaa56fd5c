"""Where the hippocampus model's volume errors come from: its outline, or where it parts anterior from posterior.

``python -m tests.benchmarks.volume_error [DATA]`` draws the volumes that the bundled network has never seen (the test
cases of the first fold), beside two mixtures with the reader's mask. A reader parts the two by a coronal plane. One
mixture takes the network's outline, parted where the reader's is; the other the reader's outline, where each voxel is
anterior or posterior as the network has it. What is left of the error in each is the other's doing.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from appliance import package
from appliance.backend import Options
from appliance.backends import onnxruntime
from appliance.preprocess import preprocess, restore
from appliance.probability import softmax
from compression.segmentation import cases
from compression.segmentation.recipe import read
from tests.running import CHECKOUT

RECIPE = CHECKOUT / "models" / "hippocampus" / "recipe.toml"
Masks = list[np.ndarray]


def probabilities(data: Path) -> tuple[list[np.ndarray], list[np.ndarray], Masks]:
    """On the grids of the sources: what the network says, what it says of the mirror image, and the reader's masks."""
    recipe, opened = read(RECIPE), package.read(package.bundled("hippocampus")[0], None)
    given, answer = opened.manifest.input, opened.manifest.outputs.logits
    backend = onnxruntime.open(opened.artifact("cpu"), Options())
    segments = [segment.label for segment in recipe.package.segments]
    dealt = cases.dealt(cases.of_training(recipe.data, data), recipe.data.folds, recipe.data.seed)

    def said(pixels: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
        outputs = backend.run({given.name: preprocess(pixels, given.steps, spacing)})
        return restore(softmax(outputs[answer][0]), given.steps, pixels.shape, spacing)

    straight, mirrored, masks = [], [], []
    for case in tqdm([each for each in dealt if each.fold == 0], unit="case"):
        source = cases.read(data / recipe.data.train, case, segments)
        straight.append(said(source.pixels, source.spacing))
        mirrored.append(said(source.pixels[..., ::-1].copy(), source.spacing)[..., ::-1])
        masks.append(source.labels)
    return straight, mirrored, masks


def parted_as(outline: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """An outline, each row (a coronal plane) of which is what most of that row's, or the nearest row's, mask is."""
    anterior, posterior = ((mask == label).sum(axis=(0, 2)) for label in (1, 2))
    marked = np.flatnonzero(anterior + posterior)
    nearest = marked[np.abs(np.arange(mask.shape[1])[:, None] - marked).argmin(axis=1)]
    labels = np.where((anterior > posterior)[nearest], 1, 2)
    return np.where(outline, labels[None, :, None], 0)


def row(name: str, drawn: Masks, masks: Masks) -> str:
    """Median and mean size of the error of each part's volume, and of the whole's."""
    volumes, truth = (
        np.array([[(each == 1).sum(), (each == 2).sum(), (each > 0).sum()] for each in found], dtype=float)
        for found in (drawn, masks)
    )
    sizes = np.abs(volumes / truth - 1)
    medians, means = (", ".join(f"{value:.1%}" for value in values) for values in (np.median(sizes, 0), sizes.mean(0)))
    return f"{name:<58} median {medians}   mean {means}"


def main(data: Path) -> None:
    straight, mirrored, masks = probabilities(data)
    drawn = [each.argmax(0) for each in straight]
    both = [(one + other).argmax(0) for one, other in zip(straight, mirrored, strict=True)]
    outlines = [parted_as(each > 0, mask) for each, mask in zip(drawn, masks, strict=True)]
    parts = [np.where(mask > 0, 1 + (each[2] > each[1]), 0) for each, mask in zip(straight, masks, strict=True)]
    print(f"{len(masks)} volumes; anterior, posterior, whole")
    print(row("as it draws", drawn, masks))
    print(row("mean of what it says of a volume and of its mirror image", both, masks))
    print(row("its outline, parted where the reader parts", outlines, masks))
    print(row("the reader's outline, parted where it parts", parts, masks))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else CHECKOUT.parent / "shared" / "data")
