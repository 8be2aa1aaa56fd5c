"""Stage ``answer`` of one fold of a cross-validation: its network, calibrated, is asked about the patients held out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from compression import calibrate, data, export, train
from compression.calibrate import Calibration
from compression.inference import LOGITS, Network, tensors

if TYPE_CHECKING:
    from pathlib import Path

    from compression.fold import Build

SECTIONS = ("input", "augment", "augment_policy", "calibrate")


@dataclass(frozen=True)
class Answers:
    """Calibrated probabilities of one fold's network on images held out, and on the validation images themselves.

    Attributes
    ----------
    calibration
        Its thresholds were chosen on augmented copies of these validation images.
    """

    held: Scores
    validation: Scores
    calibration: Calibration


@dataclass(frozen=True)
class Scores:
    """Probabilities, bool labels and patients, each ``(images,)``."""

    probabilities: np.ndarray
    labels: np.ndarray
    patients: np.ndarray


def run(build: Build) -> str:
    folder, what = build.folder("answer"), f"fold {build.number + 1} of {build.count}"
    network = Network(export.write(build, train.load(build), folder / "float.onnx").onnx, threads=build.threads)
    answers = calibrate.ask(build, network, what)
    calibration = calibrate.fit(build.recipe.calibrate, answers)
    validation, held = data.load(build, "validation"), data.load(build, "test")
    said = network.run(tensors(build, held.pixels, f"{what}: held out"))[LOGITS][:, 0]
    for name, logits, images in (("validation", answers.logits[0], validation), ("held", said, held)):
        np.savez(
            folder / f"{name}.npz",
            probabilities=calibration.probabilities(logits),
            labels=images.labels,
            patients=images.patients,
        )
    (folder / "calibration.json").write_bytes(msgspec.json.encode(calibration))
    return f"{len(held)} images of {len(set(held.patients.tolist()))} patients held out"


def load(build: Build) -> Answers:
    folder = build.folder("answer")
    calibration = msgspec.json.decode((folder / "calibration.json").read_bytes(), type=Calibration)
    return Answers(_read(folder / "held.npz"), _read(folder / "validation.npz"), calibration)


def _read(path: Path) -> Scores:
    with np.load(path) as arrays:
        return Scores(arrays["probabilities"], arrays["labels"], arrays["patients"])
