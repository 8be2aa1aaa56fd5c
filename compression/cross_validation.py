"""Grouped k-fold cross-validation of a classification: what the recipe's training reaches on patients it has not seen.

For each fold a network is trained on the other folds' patients, calibrated and given its thresholds on validation
patients among them, and asked about those held out: every patient of the training side is asked about once. The list's
test has no part in it. Figures are of the unpruned float network; a build tells what pruning and int8 cost.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click
import numpy as np

from compression import build as classification
from compression import calibrate, data, export, fold, held_out, inference, preflight, rates, roc, splits, stages
from compression.held_out import Answers
from compression.stages import Stage
from compression.subgroups import Sample, rounded

# Of a fold; its training is the build's own.
STAGES = (
    Stage("data", fold, 1, (data, splits)),
    next(stage for stage in classification.STAGES if stage.name == "train"),
    Stage("answer", held_out, 10, (calibrate, export, inference)),
)
REPORT = "report.json"


def run(build: classification.Build, count: int) -> dict[str, Any]:
    """Train and ask ``count`` networks, one after another; what an earlier run made and still fits is kept.

    Returns
    -------
    What `report` makes of it, which also lies in the work folder, in ``cross-validation/COUNT-fold/report.json``.

    Raises
    ------
    RecipeError
        A class has fewer patients than folds, or what stops a build.
    """
    preflight.check(build)
    stages.run(build, classification.STAGES, "data", (), ())
    splits.check_patients(*_labels_and_patients(build), count)
    answers = []
    for number in range(count):
        click.echo(f"fold {number + 1} of {count}")
        each = fold.of(build, number, count)
        stages.run(each, STAGES, None, (), ())
        answers.append(held_out.load(each))
    found = report(build, answers)
    (each.work.parent / REPORT).write_text(json.dumps(found, indent=1))
    return found


def report(build: classification.Build, answers: Sequence[Answers]) -> dict[str, Any]:
    """Figures of each fold and of all that was held out, as ``[value, low, high]`` with 95 % intervals by patients."""
    recipe = build.recipe
    points = {point.name: point.sensitivity for point in recipe.calibrate.operating_points}
    samples = {name: [_sample(each, name) for each in answers] for name in points}
    areas = [roc.auc_interval(each.areas()) for each in samples[recipe.calibrate.default_operating_point]]
    values = np.array([area[0] for area in areas])
    return {
        "recipe": f"{recipe.package.id} {recipe.package.version}",
        "network": recipe.train.network,
        "default_operating_point": recipe.calibrate.default_operating_point,
        "folds": [
            _counts(each) | {"auc": rounded(area), "operating_points": {
                name: {"threshold": each.calibration.threshold(name), **_rates(samples[name][number])}
                for name in points
            }}
            for number, (each, area) in enumerate(zip(answers, areas, strict=True))
        ],
        "auc_of_folds": rounded([float(values.mean()), float(values.std(ddof=1))]),
        "all": _counts(*answers) | {
            "auc": rounded(roc.auc_interval(_joined(next(iter(samples.values()))).areas())),
            "operating_points": {
                name: {"asked": asked, **_rates(_joined(samples[name]))} for name, asked in points.items()
            },
        },
    }  # fmt: skip


def in_words(found: dict[str, Any]) -> str:
    """The report for a terminal."""
    whole, point = found["all"], found["default_operating_point"]
    lines = [
        f"{found['recipe']}: {found['network']}, {len(found['folds'])} folds of {whole['patients']:,} patients "
        f"({whole['images']:,} images, {whole['positive']:,} positive); 95 % intervals, by patient",
        f"{'fold':<6}{'images':>8}  {'AUC':<24}{'threshold':<11}{'sensitivity':<24}specificity   (at {point})",
    ]
    for number, each in enumerate(found["folds"], start=1):
        at = each["operating_points"][point]
        lines.append(
            f"{number:<6}{each['images']:>8,}  {_cell(each['auc']):<24}{at['threshold']:<11.4f}"
            f"{_cell(at['sensitivity']):<24}{_cell(at['specificity'])}"
        )
    mean, deviation = found["auc_of_folds"]
    lines += [
        f"{'all':<6}{whole['images']:>8,}  {_cell(whole['auc'])}",
        f"AUC of the folds: mean {mean:.3f}, standard deviation {deviation:.3f}. Their networks share most of their "
        "training patients, so other patients to learn from would change it by more than that.",
    ]
    for name, at in whole["operating_points"].items():
        lines.append(
            f"{name}: sensitivity {_cell(at['sensitivity'])} where {at['asked']:.3f} was asked of validation copies, "
            f"specificity {_cell(at['specificity'])}{_verdict(at)}"
        )
    return "\n".join(lines)


def _verdict(at: dict[str, Any]) -> str:
    _, low, high = at["sensitivity"]
    if high < at["asked"]:
        return "; thresholds find too few of patients they were not chosen on"
    return "; thresholds find more than was asked" if low > at["asked"] else ""


def _labels_and_patients(build: classification.Build) -> tuple[np.ndarray, np.ndarray]:
    images = fold.training_side(build)
    return np.where(images.labels, build.recipe.data.positive, "the other class"), images.patients


def _sample(answers: Answers, point: str) -> Sample:
    said = answers.scores >= answers.calibration.threshold(point)
    return Sample(answers.scores, said, answers.labels, answers.patients)


def _joined(samples: Sequence[Sample]) -> Sample:
    return Sample(
        np.concatenate([each.scores for each in samples]),
        np.concatenate([each.said for each in samples]),
        np.concatenate([each.labels for each in samples]),
        np.concatenate([each.patients for each in samples]),
    )


def _counts(*answers: Answers) -> dict[str, int]:
    return {
        "images": sum(len(each.labels) for each in answers),
        "patients": sum(len(set(each.patients.tolist())) for each in answers),
        "positive": sum(int(each.labels.sum()) for each in answers),
    }


def _rates(sample: Sample) -> dict[str, list[float]]:
    return {
        "sensitivity": rounded(rates.wilson(sample.rate(True))),
        "specificity": rounded(rates.wilson(sample.rate(False))),
    }


def _cell(triple: Sequence[float]) -> str:
    value, low, high = triple
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"
