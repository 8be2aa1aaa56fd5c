"""Stage ``gate``: which candidate ships for each target, calibrated on itself; a build stops where none may.

Each candidate is compared with the unpruned float network, on the same images. One that costs more than the recipe
allows is out, and where all are, more costly ways are tried. Of the rest the best ships, if it is faster than float on
its target; if not, float ships, and the manifest says so.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

from compression import calibrate, data, export, quantize, shipping, stages
from compression.calibrate import Answers, Calibration
from compression.inference import RUNTIMES, Network, tensors
from compression.recipe import GateRecipe
from compression.statistics import map_correlation
from compression.timing import milliseconds

if TYPE_CHECKING:
    from compression.build import Build

SECTIONS = ("input", "augment", "quantize", "calibrate", "gate")


class Verdict(msgspec.Struct, frozen=True):
    """One candidate: its speed, what it costs against the unpruned float network, and the limits that it breaks.

    ``milliseconds``: median of one image through the network on one thread.
    """

    target: str
    producer: str
    artifact: str
    bytes: int
    milliseconds: float
    costs: dict[str, float]
    broken: tuple[str, ...]
    calibration: Calibration


class Choice(msgspec.Struct, frozen=True):
    """What ships for a target, why, and all that was tried."""

    target: str
    shipped: Verdict
    reason: str
    tried: tuple[Verdict, ...]


def run(build: Build) -> str:
    unpruned = reference(build)
    choices = [_choose(build, target, unpruned) for target in build.recipe.quantize.targets]
    return shipping.save(build, choices)


def reference(build: Build) -> tuple[Answers, Calibration]:
    """The unpruned float network's answers, and the calibration that fits them."""
    answers = calibrate.ask(build, Network(export.unpruned_path(build), threads=build.threads), "unpruned float")
    return answers, calibrate.fit(build.recipe.calibrate, answers)


def load(build: Build) -> dict[str, Choice]:
    """Target -> what ships."""
    return shipping.load(build, Choice)


def artifact(build: Build, target: str) -> Path:
    """The file that ships for a target."""
    return build.work / load(build)[target].shipped.artifact


def runtime(build: stages.Build, target: str) -> str:
    """What calibrated a target, in words, with the version that it had then."""
    name = RUNTIMES[target].NAME
    version = f"{name} {stages.made_with(build, 'gate')[name]}, CPU"
    return f"{version} (the same file; no TensorRT on the machine that built it)" if target == "tensorrt" else version


def _choose(build: Build, target: str, unpruned: tuple[Answers, Calibration]) -> Choice:
    paths = quantize.candidates(build, target)
    tried = _judge(build, target, paths, unpruned)
    if not shipping.good(tried):
        for more in quantize.fallbacks(build, target, build.folder("gate")):
            tqdm.write(f"{target}: no candidate passes so far; trying {', '.join(more)}")
            tried |= _judge(build, target, {quantize.FLOAT: paths[quantize.FLOAT], **more}, unpruned)
            if shipping.good(tried):
                break
    shipped, reason = decide(target, tried)
    return Choice(target, shipped, reason, tuple(tried.values()))


def _judge(
    build: Build, target: str, paths: dict[str, Path], unpruned: tuple[Answers, Calibration]
) -> dict[str, Verdict]:
    """A verdict on each candidate; all are timed in turn."""
    networks = {producer: Network(path, target, threads=1) for producer, path in paths.items()}
    image = list(tensors(build, data.load(build, "validation").pixels[:1]))
    speeds = milliseconds({producer: partial(network.run, image) for producer, network in networks.items()})
    recipe, verdicts = build.recipe, {}
    for producer, path in paths.items():
        answers = calibrate.ask(build, networks[producer], target)
        calibration = calibrate.fit(recipe.calibrate, answers)
        costs = compare(*unpruned, answers, calibration, recipe.calibrate.default_operating_point)
        verdicts[producer] = Verdict(
            target=target,
            producer=producer,
            artifact=str(path.relative_to(build.work)),
            bytes=path.stat().st_size,
            milliseconds=speeds[producer],
            costs=costs,
            broken=broken(recipe.gate, costs, calibration.ece_after),
            calibration=calibration,
        )
    return verdicts


def decide(target: str, verdicts: dict[str, Verdict]) -> tuple[Verdict, str]:
    """What ships, and why: see `shipping.decide`; of the fast ones, that with the fewest flips."""
    shipped, _, reason = shipping.decide(
        target, verdicts, lambda verdict: (verdict.costs["flips"], verdict.costs["p99_probability"])
    )
    return shipped, reason


def compare(
    before: Answers, before_calibration: Calibration, after: Answers, after_calibration: Calibration, point: str
) -> dict[str, float]:
    """What a candidate costs; each network is judged with its own calibration and thresholds."""
    one, other = before_calibration.probabilities(before.logits), after_calibration.probabilities(after.logits)
    decided_before, decided_after = (
        one >= before_calibration.threshold(point),
        other >= after_calibration.threshold(point),
    )
    labels = np.tile(before.labels, len(before.logits))
    return {
        "flips": round(float((decided_before != decided_after).mean()), 4),
        "p99_probability": round(float(np.percentile(np.abs(one - other), 99)), 4),
        "map_correlation": round(map_correlation(before.maps, after.maps), 4),
        "auc_loss": round(float(roc_auc_score(labels, one.ravel()) - roc_auc_score(labels, other.ravel())), 5),
    }


def broken(limits: GateRecipe, costs: dict[str, float], calibration_error: float) -> tuple[str, ...]:
    """The limits that are broken, each with its figure."""
    faults = []
    for name, value in costs.items():
        limit = getattr(limits, name)
        if not (value >= limit if name == "map_correlation" else value <= limit):
            faults.append(f"{name} {value} against {limit} allowed")
    if not calibration_error <= limits.calibration_error:
        faults.append(f"calibration_error {calibration_error} against {limits.calibration_error} allowed")
    return tuple(faults)
