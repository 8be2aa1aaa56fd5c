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
    from compression.fold import Build

SECTIONS = ("input", "augment", "augment_policy", "calibrate")


@dataclass(frozen=True)
class Answers:
    """Of images held out: probabilities, bool labels and patients ``(images,)``, and what calibrated the first."""

    scores: np.ndarray
    labels: np.ndarray
    patients: np.ndarray
    calibration: Calibration


def run(build: Build) -> str:
    folder, what = build.folder("answer"), f"fold {build.number + 1} of {build.count}"
    network = Network(export.write(build, train.load(build), folder / "float.onnx").onnx, threads=build.threads)
    calibration = calibrate.fit(build.recipe.calibrate, calibrate.ask(build, network, what))
    held = data.load(build, "test")
    said = network.run(tensors(build, held.pixels, f"{what}: held out"))[LOGITS][:, 0]
    np.savez(folder / "held.npz", scores=calibration.probabilities(said), labels=held.labels, patients=held.patients)
    (folder / "calibration.json").write_bytes(msgspec.json.encode(calibration))
    return f"{len(held)} images of {len(set(held.patients.tolist()))} patients held out"


def load(build: Build) -> Answers:
    folder = build.folder("answer")
    calibration = msgspec.json.decode((folder / "calibration.json").read_bytes(), type=Calibration)
    with np.load(folder / "held.npz") as arrays:
        return Answers(arrays["scores"], arrays["labels"], arrays["patients"], calibration)
