"""Stage ``evaluate``: how well the artifact does, with intervals, on data that chose nothing."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import roc_auc_score

from appliance.receipt import calibrated
from compression import calibrate, data, export
from compression.inference import Network, tensors
from compression.quantize import cpu

if TYPE_CHECKING:
    from compression.build import Build

SECTIONS = ("input", "data", "evaluate", "calibrate")


def run(build: Build) -> str:
    networks = {"int8": Network(cpu.path(build)), "float": Network(export.path(build))}
    report: dict[str, Any] = {}
    for name in ("validation", "test"):
        images = data.load(build, name)
        report[name] = _measure(build, networks, images, name)
    if build.recipe.data.external:
        report["external"] = _external(build, networks)
    report["latency_ms"] = {name: _latency(build, network) for name, network in networks.items()}
    (build.folder("evaluate") / "report.json").write_text(json.dumps(report, indent=1))
    test = report["test"]
    return (
        f"test AUC {_interval(test['int8']['auc'])} (float {test['float']['auc'][0]:.4f}), "
        f"sensitivity {_interval(test['int8']['sensitivity'])}, specificity {_interval(test['int8']['specificity'])}"
    )


def load(build: Build) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((build.folder("evaluate") / "report.json").read_text())
    return report


def _interval(triple: list[float]) -> str:
    return f"{triple[0]:.4f} [{triple[1]:.4f}, {triple[2]:.4f}]"


def _measure(build: Build, networks: dict[str, Network], images: data.Images, what: str) -> dict[str, Any]:
    """Figures of each network on some images, and how far int8 is from float."""
    calibration = calibrate.load(build)
    threshold = next(
        point.threshold
        for point in calibration.operating_points
        if point.name == build.recipe.calibrate.default_operating_point
    )
    probabilities = {
        name: calibrated(
            network.run(tensors(build, images.pixels, f"{what}, {name}"))[export.LOGITS][:, 0], calibration.temperature
        )
        for name, network in networks.items()
    }
    found: dict[str, Any] = {"images": len(images), "positive": int(images.labels.sum())}
    found |= {
        name: figures(values, images.labels, images.patients, threshold, build.recipe.evaluate.bootstrap)
        for name, values in probabilities.items()
    }
    difference = np.abs(probabilities["int8"] - probabilities["float"])
    flips = (probabilities["int8"] >= threshold) != (probabilities["float"] >= threshold)
    found["int8_against_float"] = {
        "auc_loss": round(found["float"]["auc"][0] - found["int8"]["auc"][0], 4),
        "flips": round(float(flips.mean()), 4),
        "p99_abs_dp": round(float(np.percentile(difference, 99)), 4),
    }
    return found


def figures(
    probabilities: np.ndarray, labels: np.ndarray, patients: np.ndarray, threshold: float, resamples: int
) -> dict[str, list[float]]:
    """AUC, sensitivity and specificity, each with its 95 % interval by a bootstrap over patients."""
    patients, index = np.unique(patients, return_inverse=True)
    members = [np.flatnonzero(index == number) for number in range(len(patients))]
    chance = np.random.default_rng(0)
    drawn = []
    for _ in range(resamples):
        chosen = np.concatenate([members[number] for number in chance.integers(0, len(patients), len(patients))])
        if 0 < labels[chosen].sum() < len(chosen):
            drawn.append(_three(probabilities[chosen], labels[chosen], threshold))
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    value = _three(probabilities, labels, threshold)
    names = ("auc", "sensitivity", "specificity")
    return {name: [round(float(each), 4) for each in (value[n], low[n], high[n])] for n, name in enumerate(names)}


def _three(probabilities: np.ndarray, labels: np.ndarray, threshold: float) -> tuple[float, float, float]:
    positive = probabilities >= threshold
    return (
        float(roc_auc_score(labels, probabilities)),
        float(positive[labels].mean()),
        float((~positive[~labels]).mean()),
    )


def _external(build: Build, networks: dict[str, Network]) -> dict[str, Any]:
    """Another hospital, by view: pooled figures mislead where one view has most of the normals."""
    assert build.recipe.data.external is not None
    folder = build.data_root / build.recipe.data.external
    rows = data.read_manifest(folder)
    pixels = [data.decode(folder / row["file"]) for row in rows]
    labels = np.array([row["label"] == build.recipe.data.positive for row in rows])
    patients = np.array([row["patient_id"] for row in rows])
    views = np.array([row.get("view") or "unknown" for row in rows])
    report = {}
    for view in ("all", *sorted(set(views))):
        chosen = np.flatnonzero((views == view) | (view == "all"))
        images = data.Images(np.stack([pixels[each] for each in chosen]), labels[chosen], patients[chosen])
        report[view] = _measure(build, networks, images, f"external, {view}")
    return report


def _latency(build: Build, network: Network) -> float:
    """Median milliseconds of one image through preprocessing and network."""
    image = data.load(build, "validation").pixels[:1]
    seconds = []
    for _ in range(60):
        start = time.perf_counter()
        network.run(tensors(build, image))
        seconds.append(time.perf_counter() - start)
    return round(float(np.median(seconds)) * 1000, 2)
