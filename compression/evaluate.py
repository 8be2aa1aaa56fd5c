"""Stage ``evaluate``: float, pruned and int8 on data that chose nothing, by subgroup, with intervals and costs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from compression import data, export, gate, quantize, train
from compression.calibrate import Calibration
from compression.inference import ACTIVATION_MAP, LOGITS, Network, tensors
from compression.statistics import bootstrap, map_correlation
from compression.timing import milliseconds

if TYPE_CHECKING:
    from compression.build import Build

SECTIONS = ("input", "augment", "data", "evaluate", "calibrate")
UNPRUNED, PRUNED, EAGER = "unpruned float", "pruned float", "unpruned float, torch eager"
_SMALLEST_SUBGROUP = 20
_FIGURES = ("auc", "pr_auc", "sensitivity", "specificity")


@dataclass(frozen=True)
class Contender:
    """A network file, the target whose runtime runs it, and the calibration that belongs to it."""

    path: Path
    target: str
    calibration: Calibration


@dataclass(frozen=True)
class Set:
    """A data set with what its subgroups are made of: column -> value of each image."""

    images: data.Images
    files: tuple[str, ...]
    columns: dict[str, np.ndarray]


def run(build: Build) -> str:
    contenders = _contenders(build)
    sets = {"validation": Set(data.load(build, "validation"), (), {}), "test": _test(build)}
    if build.recipe.data.external:
        sets["external"] = _external(build)
    report = {
        "networks": _costs(build, contenders),
        "sets": {name: _set_figures(build, contenders, each, name) for name, each in sets.items()},
    }
    (build.folder("evaluate") / "report.json").write_text(json.dumps(report, indent=1))
    figures = report["sets"]["test"]["networks"]
    return "test AUC " + ", ".join(f"{name} {each['auc'][0]:.4f}" for name, each in figures.items())


def load(build: Build) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((build.folder("evaluate") / "report.json").read_text())
    return report


def _contenders(build: Build) -> dict[str, Contender]:
    choices = gate.load(build)
    tried = choices[build.recipe.quantize.targets[0]].tried
    plain = next(verdict for verdict in tried if verdict.producer == quantize.FLOAT)
    found = {
        UNPRUNED: Contender(export.unpruned_path(build), "cpu", gate.reference(build)[1]),
        PRUNED: Contender(export.path(build), "cpu", plain.calibration),
    }
    for target, choice in choices.items():
        found[target] = Contender(gate.artifact(build, target), target, choice.shipped.calibration)
    return found


# --- data ------------------------------------------------------------------------------------------------------------


def _test(build: Build) -> Set:
    """The official test, with the sublabels of its list where it has them; the same rows as stage ``data`` took."""
    folder = build.data_root / build.recipe.data.train
    rows = [row for row in data.read_manifest(folder) if not row.get("exact_duplicate_of") and row["split"] == "test"]
    columns = {"sublabel": np.array([row["sublabel"] for row in rows])} if "sublabel" in rows[0] else {}
    return Set(data.load(build, "test"), tuple(row["file"] for row in rows), columns)


def _external(build: Build) -> Set:
    assert build.recipe.data.external is not None
    folder = build.data_root / build.recipe.data.external
    rows = data.read_manifest(folder)
    images = data.Images(
        np.stack([data.decode(folder / row["file"]) for row in rows]),
        np.array([row["label"] == build.recipe.data.positive for row in rows]),
        np.array([row["patient_id"] for row in rows]),
    )
    columns: dict[str, np.ndarray] = {}
    for name in ("view", "sex"):
        if name in rows[0]:
            columns[name] = np.array([row[name] or "unknown" for row in rows])
    if "age" in rows[0]:
        columns["age"] = np.array([_age_group(row["age"]) for row in rows])
    return Set(images, tuple(row["file"] for row in rows), columns)


def _age_group(years: str) -> str:
    if not years.isdigit():
        return "unknown"
    return next((name for limit, name in ((18, "under 18"), (40, "18 to 39"), (65, "40 to 64")) if int(years) < limit),
                "65 and more")  # fmt: skip


# --- figures ---------------------------------------------------------------------------------------------------------


def _set_figures(build: Build, contenders: dict[str, Contender], given: Set, what: str) -> dict[str, Any]:
    images, recipe = given.images, build.recipe
    point, resamples = recipe.calibrate.default_operating_point, recipe.evaluate.bootstrap
    logits, maps = {}, {}
    for name, contender in contenders.items():
        outputs = Network(contender.path, contender.target).run(tensors(build, images.pixels, f"{what}: {name}"))
        logits[name], maps[name] = outputs[LOGITS][:, 0], outputs[ACTIVATION_MAP][:, 0]
    probabilities = {name: each.calibration.probabilities(logits[name]) for name, each in contenders.items()}
    thresholds = {name: each.calibration.threshold(point) for name, each in contenders.items()}
    decided = {name: probabilities[name] >= thresholds[name] for name in contenders}
    found: dict[str, Any] = {
        "images": len(images),
        "positive": int(images.labels.sum()),
        "networks": {
            name: figures(probabilities[name], images.labels, images.patients, thresholds[name], resamples)
            for name in contenders
        },
        "subgroups": {},
        "against": {},
        "conformal_coverage": {
            name: _coverage(probabilities[name], images.labels, each.calibration) for name, each in contenders.items()
        },
    }
    for column, values in given.columns.items():
        for value in sorted(set(values)):
            chosen = np.flatnonzero(values == value)
            if len(chosen) >= _SMALLEST_SUBGROUP:
                found["subgroups"][f"{column}: {value}"] = {
                    "images": len(chosen),
                    "positive": int(images.labels[chosen].sum()),
                    "networks": {
                        name: figures(probabilities[name][chosen], images.labels[chosen], images.patients[chosen],
                                      thresholds[name], resamples)
                        for name in contenders
                    },
                }  # fmt: skip
    for name in contenders:
        if name not in (UNPRUNED, PRUNED):
            found["against"][name] = {
                other: _difference(images, probabilities, decided, maps, name, other, given.files, resamples)
                for other in (UNPRUNED, PRUNED)
            }
    return found


def figures(
    probabilities: np.ndarray, labels: np.ndarray, patients: np.ndarray, threshold: float, resamples: int
) -> dict[str, list[float]]:
    """``[value, low, high]`` of each figure, 95 % intervals; of one class only, what can be said of it."""
    positive = probabilities >= threshold

    def measure(chosen: np.ndarray) -> list[float]:
        truth, said = labels[chosen], positive[chosen]
        return [
            float(roc_auc_score(truth, probabilities[chosen])),
            float(average_precision_score(truth, probabilities[chosen])),
            float(said[truth].mean()),
            float((~said[~truth]).mean()),
        ]

    if 0 < labels.sum() < len(labels):
        return dict(zip(_FIGURES, bootstrap(measure, labels, patients, resamples), strict=True))
    return {"sensitivity" if labels.all() else "specificity": _wilson(int((positive == labels).sum()), len(labels))}


def _wilson(hits: int, count: int) -> list[float]:
    """A rate with Wilson's 95 % interval (1927), for subgroups of one class."""
    z, rate = 1.96, hits / count
    middle = (rate + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * np.sqrt(rate * (1 - rate) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    return [round(rate, 4), round(float(middle - half), 4), round(float(middle + half), 4)]


def _difference(
    images: data.Images,
    probabilities: dict[str, np.ndarray],
    decided: dict[str, np.ndarray],
    maps: dict[str, np.ndarray],
    name: str,
    other: str,
    files: tuple[str, ...],
    resamples: int,
) -> dict[str, Any]:
    """What one network costs against another, each judged by its own calibration; the files whose decision changed."""
    changed = np.flatnonzero(decided[name] != decided[other])
    labels = images.labels

    def loss(chosen: np.ndarray) -> list[float]:
        return [
            float(roc_auc_score(labels[chosen], probabilities[other][chosen]))
            - float(roc_auc_score(labels[chosen], probabilities[name][chosen]))
        ]

    (auc_loss,) = bootstrap(loss, labels, images.patients, resamples)
    return {
        "flips": round(len(changed) / len(images), 4),
        "p99_probability": round(float(np.percentile(np.abs(probabilities[name] - probabilities[other]), 99)), 4),
        "map_correlation": round(map_correlation(maps[other], maps[name]), 4),
        "auc_loss": auc_loss,
        "changed": [
            {"number": int(index), "file": files[index] if files else "", "positive": bool(labels[index]),
             "before": round(float(probabilities[other][index]), 4),
             "after": round(float(probabilities[name][index]), 4)}
            for index in changed
        ],
    }  # fmt: skip


def _coverage(probabilities: np.ndarray, labels: np.ndarray, calibration: Calibration) -> dict[str, float]:
    """How often the prediction set holds the truth: over all images and in each class."""
    held = np.where(
        labels, 1.0 - probabilities <= calibration.conformal.present, probabilities <= calibration.conformal.absent
    )
    return {
        "stated": calibration.conformal.coverage,
        "all": round(float(held.mean()), 4),
        "absent": round(float(held[~labels].mean()), 4),
        "present": round(float(held[labels].mean()), 4),
    }


# --- size, time, memory ----------------------------------------------------------------------------------------------


def _costs(build: Build, contenders: dict[str, Contender]) -> dict[str, Any]:
    """Bytes, median milliseconds of one image on one thread, memory, calibration; timed in turn, torch eager, too."""
    image = next(tensors(build, data.load(build, "validation").pixels[:1]))
    networks = {name: Network(each.path, each.target, threads=1) for name, each in contenders.items()}
    eager, threads = train.load(build), torch.get_num_threads()
    torch.set_num_threads(1)
    calls: dict[str, Callable[[], object]] = {
        EAGER: partial(_eager, eager, image),
        **{name: partial(network.run, [image]) for name, network in networks.items()},
    }
    medians = milliseconds(calls)
    torch.set_num_threads(threads)
    found: dict[str, Any] = {EAGER: {"milliseconds": medians[EAGER], "times_as_fast": 1.0}}
    for name, contender in contenders.items():
        found[name] = {
            "bytes": contender.path.stat().st_size,
            "milliseconds": medians[name],
            "times_as_fast": round(medians[EAGER] / medians[name], 2),
            "memory_mb": _memory(contender, image.shape),
            "temperature": contender.calibration.temperature,
            "bias": contender.calibration.bias,
            "ece_before": contender.calibration.ece_before,
            "ece_after": contender.calibration.ece_after,
            "reliability": contender.calibration.reliability,
        }
    return found


@torch.no_grad()
def _eager(network: torch.nn.Module, image: np.ndarray) -> None:
    network(torch.from_numpy(image))


_MEMORY = """
import sys, numpy as np
from pathlib import Path
from compression.inference import INPUT, open_network
shape = tuple(map(int, sys.argv[3].split(",")))
backend = open_network(Path(sys.argv[1]).read_bytes(), sys.argv[2])
backend.run({INPUT: np.zeros(shape, dtype=np.float32)})
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(int(peak.split()[1]) // 1024)  # getrusage would count the process that started this one
"""


def _memory(contender: Contender, shape: tuple[int, ...]) -> int:
    """Peak resident memory in MB of a process that opens the artifact and runs it once."""
    command = [sys.executable, "-c", _MEMORY, str(contender.path), contender.target, ",".join(map(str, shape))]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
