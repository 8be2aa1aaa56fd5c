"""Grouped k-fold cross-validation of a classification: what the recipe's training reaches on patients it has not seen.

For each fold a network is trained on the other folds' patients, calibrated and given its thresholds on validation
patients among them, and asked about those held out: every patient of the training side is asked about once. The list's
test has no part in it. Figures are of the unpruned float network; a build tells what pruning and int8 cost.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from typing import Any

import click
import numpy as np
from msgspec.structs import replace

from compression import build as classification
from compression import calibrate, columns, data, export, fold, held_out, inference, preflight, rates, roc, splits
from compression import stages as building
from compression.held_out import Answers, Scores
from compression.recipe import RecipeError
from compression.stages import Stage
from compression.subgroups import Sample, rounded

# Of a fold; its training is the build's own.
STAGES = (
    Stage("data", fold, 1, (data, splits, columns)),
    dataclasses.replace(next(stage for stage in classification.STAGES if stage.name == "train"), share=1),
    Stage("answer", held_out, 1, (calibrate, export, inference)),
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
        Patients are too few for so many folds, or what stops a build; before any training.
    """
    recipe = build.recipe  # neither external sets nor int8 have a part in it
    needed = replace(recipe, data=replace(recipe.data, external=()), quantize=replace(recipe.quantize, targets=()))
    preflight.check(dataclasses.replace(build, recipe=needed))
    building.run(build, classification.STAGES, "data", (), ())
    folds = [fold.of(build, number, count) for number in range(count)]
    for each in folds:
        try:
            building.run(each, STAGES, "data", (), ())
        except RecipeError as error:
            raise RecipeError(f"fold {each.number + 1} of {count}: {error}") from error
    for each in folds:
        click.echo(f"fold {each.number + 1} of {count}")
        start = time.monotonic()
        building.run(each, STAGES, None, (), ())
        left = (count - 1 - each.number) * (time.monotonic() - start) / 60
        if left > 1:
            click.echo(f"about {left:.0f} min to go")
    found = report(build, [held_out.load(each) for each in folds])
    (folds[0].work.parent / REPORT).write_text(json.dumps(found, indent=1))
    return found


def report(build: classification.Build, answers: Sequence[Answers]) -> dict[str, Any]:
    """Figures of each fold, and of all, as ``[value, low, high]`` with 95 % intervals by patients.

    The area is the mean of the folds' own, since probabilities of two networks don't rank images against each other;
    their patients are different ones, so its variance is the sum of theirs by the square of their number.
    """
    recipe, held = build.recipe, [each.held for each in answers]
    points = {point.name: point.sensitivity for point in recipe.calibrate.operating_points}
    areas = [roc.delong(each.probabilities[None], each.labels, each.patients) for each in held]
    values = np.concatenate([area.value for area in areas])
    mean = roc.Areas(
        values.mean(keepdims=True),
        np.sum([area.covariance for area in areas], axis=0) / len(areas) ** 2,
        sum(area.positive for area in areas),
        sum(area.negative for area in areas),
    )
    return {
        "recipe": f"{recipe.package.id} {recipe.package.version}",
        "network": recipe.train.network,
        "default_operating_point": recipe.calibrate.default_operating_point,
        "folds": [
            _counts(each.held) | {"auc": rounded(roc.auc_interval(area)), "operating_points": {
                name: {"threshold": each.calibration.threshold(name), **_rates(_said([each], name, "held"))}
                for name in points
            }}
            for each, area in zip(answers, areas, strict=True)
        ],
        "all": _counts(*held) | {
            "auc": rounded(roc.auc_interval(mean)),
            "auc_standard_deviation": round(float(values.std(ddof=1)), 4),
            "operating_points": {name: {"asked": asked, **_carried_over(answers, name)}
                                 for name, asked in points.items()},
        },
    }  # fmt: skip


def in_words(found: dict[str, Any]) -> str:
    """The report for a terminal."""
    whole, point, count = found["all"], found["default_operating_point"], len(found["folds"])
    lines = [
        f"{found['recipe']}: {found['network']}, {count} folds of {whole['patients']:,} patients "
        f"({whole['images']:,} images, {whole['positive']:,} positive); 95 % intervals, by patient",
        f"{'fold':<6}{'images':>8}  {'AUC':<24}{'threshold':<11}{'sensitivity':<24}specificity   (at {point})",
    ]
    for number, each in enumerate(found["folds"], start=1):
        at = each["operating_points"][point]
        lines.append(
            f"{number:<6}{each['images']:>8,}  {_cell(each['auc']):<24}{at['threshold']:<11.4f}"
            f"{_cell(at['sensitivity']):<24}{_cell(at['specificity'])}"
        )
    lines.append(
        f"{'mean':<6}{'':>8}  {_cell(whole['auc'])}, standard deviation over folds "
        f"{whole['auc_standard_deviation']:.3f}"
    )
    if count > 2:
        lines.append(
            f"Any two of the networks share {(count - 2) / (count - 1):.0%} of the patients that they learned from: "
            "with others to learn from, the area would vary by more than that."
        )
    for name, at in whole["operating_points"].items():
        lines.append(
            f"{name}: sensitivity {_cell(at['sensitivity'])} held out, {_cell(at['validation']['sensitivity'])} on the "
            f"validation images on whose augmented copies {at['asked']:.3f} was asked{_verdict(at)}; specificity "
            f"{_cell(at['specificity'])} and {_cell(at['validation']['specificity'])}"
        )
    return "\n".join(lines)


def _verdict(at: dict[str, Any]) -> str:
    _, low, high = at["sensitivity_lost"]
    return f" (patients that thresholds were not chosen on lose {low:.3f} to {high:.3f})" if low > 0 else ""


def _carried_over(answers: Sequence[Answers], point: str) -> dict[str, Any]:
    """Rates on images held out beside those on the validation images, of the same networks and thresholds."""
    held, validation = _said(answers, point, "held"), _said(answers, point, "validation")
    lost = rates.difference(validation.rate(True), held.rate(True))
    return _rates(held) | {"validation": _rates(validation), "sensitivity_lost": rounded(lost[:3])}


def _said(answers: Sequence[Answers], point: str, where: str) -> Sample:
    """What the networks said of all images ``held`` out, or of their ``validation`` images, each by its threshold."""
    scores: list[Scores] = [getattr(each, where) for each in answers]
    said = [one.probabilities >= each.calibration.threshold(point) for one, each in zip(scores, answers, strict=True)]
    return Sample(
        np.concatenate([one.probabilities for one in scores]),
        np.concatenate(said),
        np.concatenate([one.labels for one in scores]),
        np.concatenate([one.patients for one in scores]),
    )


def _counts(*held: Scores) -> dict[str, int]:
    return {
        "images": sum(len(each.labels) for each in held),
        "patients": sum(len(set(each.patients.tolist())) for each in held),
        "positive": sum(int(each.labels.sum()) for each in held),
    }


def _rates(sample: Sample) -> dict[str, list[float]]:
    return {
        "sensitivity": rounded(rates.wilson(sample.rate(True))),
        "specificity": rounded(rates.wilson(sample.rate(False))),
    }


def _cell(triple: Sequence[float]) -> str:
    value, low, high = triple
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"
