"""Stage ``choose``: which of the pruned networks goes on.

The smallest whose area under the curve on validation lies within the best one's confidence interval, and that answers
like the unpruned one within the limits of the gate, which it must pass as int8.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from appliance.probability import calibrated
from compression import data, prune
from compression.calibrate import fit_logistic, largest_that_finds

if TYPE_CHECKING:
    from compression.architectures import Classifier
    from compression.build import Build
    from compression.recipe import GateRecipe

SECTIONS = ("calibrate", "gate")


def run(build: Build) -> str:
    rows = choose(_compared(build), build.recipe.gate)
    (build.folder("choose") / "table.json").write_text(json.dumps(rows, indent=1))
    chosen = next(row for row in rows if row["chosen"])
    return (
        f"{chosen['name']}: {chosen['parameters'] / rows[0]['parameters']:.0%} of the parameters, "
        f"{chosen['macs'] / rows[0]['macs']:.0%} of the MACs, {chosen['flips']:.1%} of the decisions change"
    )


def table(build: Build) -> list[dict[str, Any]]:
    """Every network that was made, how it compares with the unpruned one, and which goes on."""
    rows: list[dict[str, Any]] = json.loads((build.folder("choose") / "table.json").read_text())
    return rows


def load(build: Build) -> Classifier:
    """The network that goes on, in evaluation mode."""
    return prune.network(build, next(row for row in table(build) if row["chosen"])["name"])


def choose(rows: list[dict[str, Any]], limits: GateRecipe) -> list[dict[str, Any]]:
    """Mark the smallest network that is good enough; the first row, unpruned, always is."""
    value, low, _ = max((row["auc"] for row in rows), key=lambda auc: auc[0])
    enough = value if low is None else low
    good = [
        row
        for row in rows
        if row["auc"][0] >= enough
        and row["flips"] <= limits.flips
        and row["p99_probability"] <= limits.p99_probability
        and row["map_correlation"] >= limits.map_correlation
    ]
    chosen = min(good or rows[:1], key=lambda row: row["parameters"])
    return [{**row, "chosen": row is chosen} for row in rows]


def _compared(build: Build) -> list[dict[str, Any]]:
    """The rows, each network calibrated and given its threshold, against the unpruned one."""
    labels, recipe = data.load(build, "validation").labels, build.recipe.calibrate
    points = {point.name: point.sensitivity for point in recipe.operating_points}
    rows, answers = prune.table(build), []
    for row in rows:
        logits = prune.logits(build, row["name"])
        probabilities = calibrated(logits, *fit_logistic(logits.ravel(), np.tile(labels, 2)))
        threshold = largest_that_finds(points[recipe.default_operating_point], logits[1, labels])
        answers.append((probabilities, logits >= threshold))
        row["flips"] = round(float((answers[-1][1] != answers[0][1]).mean()), 4)
        row["p99_probability"] = round(float(np.percentile(np.abs(probabilities - answers[0][0]), 99)), 4)
    return rows
