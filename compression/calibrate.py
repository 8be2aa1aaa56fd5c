"""Stage ``calibrate``: temperature and thresholds, on the int8 artifact itself, run by its own runtime.

Clean validation images look easier than the next hospital's, and a threshold that is chosen on them does not hold.
So both are fitted on validation images together with augmented copies of them, and thresholds on the copies alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np
from scipy.optimize import minimize_scalar

from appliance.package import OperatingPoint
from appliance.receipt import calibrated
from compression import data, export
from compression.augment import compose
from compression.inference import Network, tensors
from compression.quantize import cpu

if TYPE_CHECKING:
    from compression.build import Build

SECTIONS = ("input", "augment", "calibrate")
_AUGMENTATION_SEED = 7


class Calibration(msgspec.Struct, frozen=True):
    """What belongs to one artifact; errors are expected calibration errors (15 bins) before and after."""

    temperature: float
    activation_map_scale: float
    operating_points: tuple[OperatingPoint, ...]
    ece_before: float
    ece_after: float


def run(build: Build) -> str:
    recipe = build.recipe.calibrate
    validation = data.load(build, "validation")
    network = Network(cpu.path(build))
    clean = network.run(tensors(build, validation.pixels, "clean"))
    augment = compose(build.recipe.augment, _AUGMENTATION_SEED)
    copies = [
        network.run(
            tensors(build, (augment(image=image)["image"] for image in validation.pixels), f"copy {number + 1}")
        )
        for number in range(recipe.augmented_copies)
    ]
    labels = validation.labels
    # The clean images weigh as much as all their copies together.
    logits = np.concatenate([clean[export.LOGITS][:, 0]] * len(copies) + [copy[export.LOGITS][:, 0] for copy in copies])
    everything = np.tile(labels, 2 * len(copies))
    temperature = fit_temperature(logits, everything)
    hard = calibrated(np.concatenate([copy[export.LOGITS][:, 0] for copy in copies]), temperature)
    points = tuple(
        _operating_point(point.name, point.sensitivity, hard, np.tile(labels, len(copies)))
        for point in recipe.operating_points
    )
    strongest = clean[export.ACTIVATION_MAP][labels, 0].max(axis=(1, 2))
    result = Calibration(
        temperature=round(temperature, 6),
        activation_map_scale=round(float(np.percentile(strongest, 99)), 6),
        operating_points=points,
        ece_before=expected_calibration_error(calibrated(logits, 1.0), everything),
        ece_after=expected_calibration_error(calibrated(logits, temperature), everything),
    )
    (build.folder("calibrate") / "calibration.json").write_bytes(msgspec.json.encode(result))
    thresholds = ", ".join(f"{point.name} {point.threshold:.3f}" for point in points)
    return (
        f"temperature {temperature:.3f}, ECE {result.ece_before:.3f} -> {result.ece_after:.3f}; thresholds {thresholds}"
    )


def load(build: Build) -> Calibration:
    return msgspec.json.decode((build.folder("calibrate") / "calibration.json").read_bytes(), type=Calibration)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature of least negative log-likelihood (Guo et al., ICML 2017)."""
    signed = np.where(labels, logits, -logits).astype(np.float64)

    def loss(log_temperature: float) -> float:
        return float(np.logaddexp(0.0, -signed / np.exp(log_temperature)).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.05), np.log(20.0)), method="bounded").x))


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Mean gap between predicted and observed rate over equal-width bins, weighted by their images."""
    index = np.minimum((probabilities * bins).astype(int), bins - 1)
    gaps = [
        abs(probabilities[index == each].mean() - labels[index == each].mean()) * (index == each).mean()
        for each in np.unique(index)
    ]
    return round(float(sum(gaps)), 4)


def _operating_point(name: str, sensitivity: float, probabilities: np.ndarray, labels: np.ndarray) -> OperatingPoint:
    """The largest threshold that still finds this share of the positives, rounded down to what a page can show."""
    threshold = np.floor(np.quantile(probabilities[labels], 1.0 - sensitivity, method="lower") * 1e4) / 1e4
    positive = probabilities >= threshold
    return OperatingPoint(
        name=name,
        threshold=float(threshold),
        sensitivity=round(float(positive[labels].mean()), 4),
        specificity=round(float((~positive[~labels]).mean()), 4),
        chosen_on="augmented validation images",
    )
