"""How much the score moves between an image's 224-pixel copy, which training saw, and its larger one, as a scanner's.

``python -m tests.benchmarks.native_size`` reads each radiograph of lungs-kermany (longest side 320, aspect kept) and
its copy in chest-kermany (224 x 224, squashed) through the package's preprocessing and network. The radiographs are of
the training split, so the scores say nothing of the model's accuracy; only how far they move counts.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from appliance import package
from appliance.backend import Options
from appliance.backends import onnxruntime
from appliance.preprocess import preprocess
from appliance.probability import calibrated
from compression.data import decode
from tests.running import CHECKOUT

DATA = CHECKOUT.parent / "shared" / "data"


def main() -> None:
    opened = package.read(package.bundled("chest-pneumonia")[0], None)
    target, spec = opened.target("cpu"), opened.manifest.input
    backend = onnxruntime.open(opened.artifact("cpu"), Options())

    def score(path: Path) -> float:
        logits = backend.run({spec.name: preprocess(decode(path), spec.steps)})[opened.manifest.outputs.logits]
        return float(calibrated(logits, target.temperature, target.bias)[0, 0])

    larger, copies = _files("lungs-kermany"), _files("chest-kermany")
    pairs = np.array([(score(larger[name]), score(copies[name])) for name in sorted(larger.keys() & copies.keys())])
    threshold = target.operating_point().threshold
    moved = np.abs(pairs[:, 0] - pairs[:, 1])
    flips = ((pairs >= threshold)[:, 0] != (pairs >= threshold)[:, 1]).mean()
    print(f"{len(pairs)} radiographs of {len(larger)}, each as 224 x 224 and with its longest side of 320 pixels")
    print(
        f"|difference of the probability|: median {np.median(moved):.4f}, p95 {np.percentile(moved, 95):.4f}, "
        f"max {moved.max():.4f}; signed mean {np.mean(pairs[:, 0] - pairs[:, 1]):+.4f}; decisions changed {flips:.2%}"
    )


def _files(name: str) -> dict[str, Path]:
    """File name -> path, of the images that a data set lists."""
    with (DATA / name / "manifest.csv").open() as file:
        return {Path(row["file"]).name: DATA / name / row["file"] for row in csv.DictReader(file)}


if __name__ == "__main__":
    main()
