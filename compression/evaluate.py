"""Stage ``evaluate``: float, pruned and int8 on data that chose nothing, by subgroup, with intervals and costs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from appliance.probability import spread
from compression import (
    abstention,
    calibrate,
    columns,
    data,
    decisions,
    ensemble,
    export,
    external,
    gate,
    hard_cases,
    quantize,
    rates,
    roc,
    subgroups,
    train,
)
from compression.calibrate import Calibration
from compression.decision_curve import rules_that_look_at_nothing, treat_all
from compression.inference import ACTIVATION_MAP, EMBEDDING, LOGITS, Network, tensors
from compression.statistics import FEWEST_PATIENTS, bootstrap, map_correlation
from compression.subgroups import Sample, rounded
from compression.timing import milliseconds

if TYPE_CHECKING:
    from compression.build import Build
    from compression.recipe import EvaluateRecipe

SECTIONS = ("input", "augment", "data", "evaluate", "calibrate")
UNPRUNED, PRUNED, EAGER = "unpruned float", "pruned float", "unpruned float, torch eager"
_SMALLEST_SUBGROUP = 20  # patients
_COLUMNS = ("sublabel", "view", "sex")


@dataclass(frozen=True)
class Contender:
    """A network file, the target whose runtime runs it, and the calibration that belongs to it."""

    path: Path
    target: str
    calibration: Calibration


@dataclass(frozen=True)
class Set:
    """A data set with what its subgroups are made of, and all that its list says: column -> value of each image."""

    images: data.Images | data.Undecoded
    files: tuple[str, ...]
    columns: dict[str, np.ndarray]
    listed: dict[str, np.ndarray]


def fingerprint(build: Build) -> bytes:
    return external.fingerprint(build) + (build.recipe.check.site or "").encode()


def run(build: Build) -> str:
    data.check_external(build)
    contenders = _contenders(build)
    sets = {"validation": Set(data.load(build, "validation"), (), {}, {}), "test": _test(build)}
    sets |= {key: _external(build, name) for key, name in external.sets(build).items()}
    answers = {name: _answers(build, contenders, each, name) for name, each in sets.items()}
    report: dict[str, Any] = {
        "networks": _costs(build, contenders),
        "sets": {name: _set_figures(build, contenders, each, answers[name]) for name, each in sets.items()},
        "site_prevalence": build.recipe.evaluate.site_prevalence,
        "subgroup_margin": build.recipe.evaluate.subgroup_margin,
    }
    report["drop"] = {
        key: {name: _drop(answers["test"].samples[name], answers[key].samples[name]) for name in contenders}
        for key in external.sets(build)
    }
    (build.folder("evaluate") / "report.json").write_text(json.dumps(report, indent=1))
    return _summary(report["sets"])


def _summary(sets: dict[str, Any]) -> str:
    parts = []
    for name, found in sets.items():
        if name != "validation":
            networks = found["networks"].items()
            parts.append(f"{name}: AUC " + ", ".join(f"{key} {each['auc'][0]:.4f}" for key, each in networks))
    alarms = {
        row["subgroup"]
        for found in sets.values()
        for rows in found["gaps"].values()
        for row in rows
        if row.get("alarm")
    }
    return "; ".join([*parts, f"alarms: {', '.join(sorted(alarms))}" if alarms else "no subgroup alarm"])


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
    """The official test: the same rows as stage ``data`` took."""
    folder = build.data_root / build.recipe.data.train
    rows = [row for row in data.distinct_rows(folder) if row["split"] == "test"]
    return Set(
        data.load(build, "test"),
        tuple(row["file"] for row in rows),
        subgroup_columns(rows, build.recipe.check.site),
        hard_cases.columns(rows),
    )


def _external(build: Build, name: str) -> Set:
    folder = build.data_root / name
    rows = data.distinct_rows(folder)
    images = data.Undecoded(
        [folder / row["file"] for row in rows],
        np.array([row["label"] == build.recipe.data.positive for row in rows]),
        np.array([row["patient_id"] for row in rows]),
    )
    return Set(
        images,
        tuple(row["file"] for row in rows),
        subgroup_columns(rows, build.recipe.check.site),
        hard_cases.columns(rows),
    )


def subgroup_columns(rows: list[dict[str, str]], site: str | None = None) -> dict[str, np.ndarray]:
    """What a list knows about its images that may make subgroups; ``site``: the recipe's ``check.site``."""
    return columns.of_subgroups(rows, _COLUMNS, site)


# --- figures ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answers:
    """What each network said of a set: calibrated probabilities, the default operating point's decisions, the maps.

    ``apart``: of those that ship, the spread of the ensemble's heads.
    """

    samples: dict[str, Sample]
    maps: dict[str, np.ndarray]
    apart: dict[str, np.ndarray]


def _answers(build: Build, contenders: dict[str, Contender], given: Set, what: str) -> Answers:
    images, point = given.images, build.recipe.calibrate.default_operating_point
    answers = Answers({}, {}, {})
    for name, contender in contenders.items():
        outputs = Network(contender.path, contender.target, build.threads).run(
            tensors(build, images.pixels, f"{what}: {name}")
        )
        probabilities = contender.calibration.probabilities(outputs[LOGITS][:, 0])
        said = probabilities >= contender.calibration.threshold(point)
        answers.samples[name] = Sample(probabilities, said, images.labels, images.patients)
        answers.maps[name] = outputs[ACTIVATION_MAP][:, 0]
        if name not in (UNPRUNED, PRUNED):
            heads = ensemble.load(build, name)
            answers.apart[name] = spread(contender.calibration.heads(heads, outputs[EMBEDDING], outputs[LOGITS][:, 0]))
    return answers


def _set_figures(build: Build, contenders: dict[str, Contender], given: Set, answers: Answers) -> dict[str, Any]:
    images, samples, recipe = given.images, answers.samples, build.recipe.evaluate
    found: dict[str, Any] = {
        "images": len(images),
        "positive": int(images.labels.sum()),
        "networks": {name: figures(sample, recipe.bootstrap) for name, sample in samples.items()},
        "subgroups": {},
        "gaps": {name: subgroups.gaps(each, given.columns, recipe.subgroup_margin) for name, each in samples.items()},
        "against": {},
        "calibration": {name: calibrate.measured(each.scores, images.labels) for name, each in samples.items()},
        "conformal_coverage": {
            name: _coverage(samples[name].scores, images.labels, each.calibration) for name, each in contenders.items()
        },
    }
    for column, values in given.columns.items():
        for value in sorted(set(values)):
            chosen = np.flatnonzero(values == value)
            if len(set(images.patients[chosen])) >= _SMALLEST_SUBGROUP:
                found["subgroups"][f"{column}: {value}"] = {
                    "images": len(chosen),
                    "positive": int(images.labels[chosen].sum()),
                    "networks": {
                        name: figures(sample.where(chosen), recipe.bootstrap) for name, sample in samples.items()
                    },
                }
    for name in contenders:
        if name not in (UNPRUNED, PRUNED):
            found["against"][name] = {
                other: _difference(answers, name, other, given.files) for other in (UNPRUNED, PRUNED)
            }
    point = build.recipe.calibrate.default_operating_point
    found["abstention"] = {
        name: abstention.measure(
            samples[name], apart, ensemble.spec(build, name).limit, contenders[name].calibration.threshold(point)
        )
        for name, apart in answers.apart.items()
    }
    found["hard_cases"] = _hard_cases(build, contenders, given, answers) if given.files else {}
    return found | _decisions(contenders, samples, recipe)


def _hard_cases(build: Build, contenders: dict[str, Contender], given: Set, answers: Answers) -> dict[str, Any]:
    """Of the networks that ship, at the default operating point."""
    point = build.recipe.calibrate.default_operating_point
    return {
        name: hard_cases.find(answers.samples[name], each.calibration.threshold(point), given.files, given.listed)
        for name, each in contenders.items()
        if name not in (UNPRUNED, PRUNED)
    }


def _decisions(contenders: dict[str, Contender], samples: dict[str, Sample], recipe: EvaluateRecipe) -> dict[str, Any]:
    """What decisions are worth, beside rules that don't look at the image."""
    labels = next(iter(samples.values())).labels
    points: dict[str, Any] = {}
    for name, sample in samples.items():
        points[name] = {}
        for point in contenders[name].calibration.operating_points:
            said = replace(sample, said=sample.scores >= point.threshold)
            points[name][point.name] = {
                "threshold": point.threshold, **decisions.at_point(said, recipe.site_prevalence)
            }  # fmt: skip
    return {
        "operating_points": points,
        "no_model": rules_that_look_at_nothing(labels),
        "decision_curve": {
            "thresholds": rounded(decisions.THRESHOLDS),
            "treat_all": rounded(treat_all(float(labels.mean()), decisions.THRESHOLDS)),
            "networks": {
                name: decisions.curve(each.scores, labels, each.patients, recipe.bootstrap)
                for name, each in samples.items()
            },
        },
    }


def _drop(internal: Sample, external: Sample) -> dict[str, Any]:
    """How much of each figure is lost on the way from the test to an external set."""
    return {
        figure: subgroups.compare(internal, external, figure)
        for figure in subgroups.FIGURES
        if min(each.patients_of(figure) for each in (internal, external)) >= FEWEST_PATIENTS
    }


def figures(sample: Sample, resamples: int) -> dict[str, Sequence[float | None]]:
    """``[value, low, high]`` of each figure, 95 % intervals; of one class only, what can be said of it.

    Low and high of ``pr_auc`` are None where patients are too few for a bootstrap.
    """
    labels = sample.labels
    found: dict[str, Sequence[float | None]] = {}
    if 0 < labels.sum() < len(labels):
        found["auc"] = rounded(roc.auc_interval(sample.areas()))
        (found["pr_auc"],) = bootstrap(
            lambda chosen: [roc.average_precision(sample.scores[chosen], labels[chosen])],
            labels, sample.patients, resamples,
        )  # fmt: skip
    if labels.any():
        found["sensitivity"] = rounded(rates.wilson(sample.rate(True)))
    if not labels.all():
        found["specificity"] = rounded(rates.wilson(sample.rate(False)))
    return found


def _difference(answers: Answers, name: str, other: str, files: tuple[str, ...]) -> dict[str, Any]:
    """What one network costs against another, each judged by its own calibration; the files whose decision changed."""
    after, before = answers.samples[name], answers.samples[other]
    changed, labels = np.flatnonzero(after.said != before.said), after.labels
    areas = roc.delong(np.stack([before.scores, after.scores]), labels, after.patients)
    *auc_loss, p = roc.auc_difference(areas, 0, 1)
    return {
        "flips": round(len(changed) / len(labels), 4),
        "p99_probability": round(float(np.percentile(np.abs(after.scores - before.scores), 99)), 4),
        "map_correlation": round(map_correlation(answers.maps[other], answers.maps[name]), 4),
        "auc_loss": rounded(auc_loss),
        "auc_p": round(p, 4),
        "changed": [
            {"number": int(index), "file": files[index] if files else "", "positive": bool(labels[index]),
             "before": round(float(before.scores[index]), 4), "after": round(float(after.scores[index]), 4)}
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
