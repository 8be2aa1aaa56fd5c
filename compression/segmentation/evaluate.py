"""Stage ``evaluate``: what each network draws on cases that it has not learned from, on the grid of the source.

Each fold's networks draw that fold's test cases, and their mirror images where the recipe asks for it; external sets
are drawn by the network that ships.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from appliance.preprocess import preprocess, restore
from appliance.probability import softmax
from compression import columns, external, roc, tables
from compression.inference import LOGITS, Network
from compression.quantize import FLOAT
from compression.segmentation import cases, export, gate, measures, overlap, train
from compression.segmentation.cases import Case, Source
from compression.segmentation.gaps import gaps
from compression.statistics import FEWEST_PATIENTS, resamples_of
from compression.subgroups import rounded
from compression.timing import milliseconds

if TYPE_CHECKING:
    from compression.segmentation.build import Build

SECTIONS = ("input", "data", "evaluate")
fingerprint = external.fingerprint
MIRRORED = "mirrored"
UNPRUNED, PRUNED, AVERAGE = "unpruned float", "pruned float", "no model: the average mask"
FIGURES = ("dice", "iou", "volume_error", "mean_surface_distance", "hausdorff_95")
_DICE, _VOLUME, _DISTANCE = (FIGURES.index(name) for name in ("dice", "volume_error", "mean_surface_distance"))
_SUBGROUPS = ("label", "finding", "sublabel", "view", "sex")
_SMALLEST_SUBGROUP = 10  # patients
_HARDEST = 8


@dataclass(frozen=True)
class Contender:
    """A network of each fold, and the target whose runtime runs it."""

    paths: tuple[Path, ...]
    target: str


def run(build: Build) -> str:
    contenders, recipe = _contenders(build), build.recipe
    found, prepared = cases.load(build)
    average = [_average(build, prepared, cases.split(build, found, fold)["train"]) for fold in train.folds(build)]
    tested = [(case, case.fold) for case in found if case.fold in train.folds(build)]
    sets = {"test": _set(build, contenders, recipe.data.train, tested, average)}
    for key, name in external.sets(build).items():
        listed = [(case, 0) for case in cases.listed(build.data_root / name)]
        sets[key] = _set(build, contenders, name, listed, average)
    if recipe.evaluate.mirrored:
        sets[MIRRORED] = _set(build, contenders, recipe.data.train, tested, average, mirrored=True)
    report = {
        "networks": _costs(build, contenders),
        "sets": sets,
        "drop": drops(build, sets),
        "distance_unit": "pixels" if len(recipe.input.shape) == 2 else "mm",
        "subgroup_margin": recipe.evaluate.subgroup_margin,
    }
    (build.folder("evaluate") / "report.json").write_text(json.dumps(report, indent=1))
    said = [
        f"{name}: Dice " + ", ".join(f"{key} {each['mean']['dice'][0]:.4f}" for key, each in found["networks"].items())
        for name, found in sets.items()
    ]
    alarmed = sorted({row["subgroup"] for found in sets.values() for name in contenders for row in alarms(found, name)})
    return "; ".join([*said, f"alarms: {', '.join(alarmed)}" if alarmed else "no subgroup alarm"])


def load(build: Build) -> dict[str, Any]:
    """The figures: of each network its costs; of each set, network and segment ``[value, low, high]``.

    A value is None where no case has one, low and high where patients are too few for a bootstrap. Beside them
    ``without_distance``: so many cases are in no mean of distances, for one of the masks has none of the segment (of
    the mean of all segments, of any of them); ``drawn_where_none``: so many have none of it and yet it was drawn. They
    are in no median of the volume's error, nor are those that rightly have none. ``drop``: external set -> network ->
    what its mean Dice coefficient loses from the test to there.
    """
    report: dict[str, Any] = json.loads((build.folder("evaluate") / "report.json").read_text())
    return report


def drops(build: Build, sets: dict[str, Any]) -> dict[str, dict[str, list[float | None]]]:
    """External set -> `drop` from the test to there."""
    return {name: drop(sets["test"], sets[name]) for name in external.sets(build)}


def drop(test: dict[str, Any], other: dict[str, Any]) -> dict[str, list[float | None]]:
    """What the mean Dice coefficient of each network loses from one set to another without a patient of the first.

    Returns
    -------
    Network -> ``[value, low, high]``, 95 % by the two intervals; low and high are None where one set has none.
    """
    found: dict[str, list[float | None]] = {}
    for network in test["networks"]:
        inside, outside = (each["networks"][network]["mean"]["dice"] for each in (test, other))
        if None in (*inside, *outside):
            found[network] = [round(inside[0] - outside[0], 4), None, None]
        else:
            found[network] = [*rounded(roc.square_and_add(inside, outside)[:3])]
    return found


def alarms(found: dict[str, Any], network: str) -> list[dict[str, Any]]:
    """The subgroups of a set for which a network draws worse, as `compression.segmentation.gaps.gaps` has them."""
    return [row for row in found["gaps"][network] if row.get("alarm")]


def _contenders(build: Build) -> dict[str, Contender]:
    folds, choices = train.folds(build), gate.load(build)
    contenders = {
        UNPRUNED: Contender(tuple(export.unpruned_path(build, fold) for fold in folds), "cpu"),
        PRUNED: Contender(tuple(export.path(build, fold) for fold in folds), "cpu"),
    }
    for target, choice in choices.items():
        contenders[f"{target} int8"] = Contender(tuple(build.work / name for name in choice.int8.artifacts), target)
    return contenders


def row_of(target: str, producer: str) -> str:
    """The row of the report that is a target's shipped network, by what made that."""
    return PRUNED if producer == FLOAT else f"{target} int8"


def _average(build: Build, prepared: cases.Prepared, chosen: np.ndarray) -> np.ndarray:
    """The label that most training masks have at each voxel of the network's grid: what looking at nothing gives."""
    labels = range(1 + len(build.recipe.package.segments))
    return np.stack([(prepared.labels[chosen] == label).mean(axis=0) for label in labels]).astype(np.float32)


def _set(
    build: Build,
    contenders: dict[str, Contender],
    data_set: str,
    listed: Sequence[tuple[Case, int]],
    average: Sequence[np.ndarray],
    mirrored: bool = False,
) -> dict[str, Any]:
    """Figures of each network on the cases, or their mirror images, each drawn by the network of the fold beside it."""
    folder, steps = build.data_root / data_set, build.recipe.input.steps
    names = [segment.label for segment in build.recipe.package.segments]
    segments = len(names)
    values: dict[str, list[np.ndarray]] = {name: [] for name in (*contenders, AVERAGE)}
    opened: dict[tuple[str, int], Network] = {}
    for case, fold in tqdm(listed, desc=f"evaluating {data_set}", unit="case"):
        source = cases.read(folder, case, names)
        if mirrored:
            source = _mirrored(source)
        given = preprocess(source.pixels, steps, source.spacing)
        for name in values:
            if name == AVERAGE:
                shares = average[fold]
            else:
                contender = contenders[name]
                if (name, fold) not in opened:
                    opened[name, fold] = Network(contender.paths[fold], contender.target, build.threads)
                shares = softmax(opened[name, fold].run([given])[LOGITS][0])
            drawn = restore(shares, steps, source.labels.shape, source.spacing).argmax(0).astype(np.uint8)
            near, far = measures.surface_distances(drawn, source.labels, segments, source.spacing)
            values[name].append(
                np.stack([
                    overlap.dice(drawn, source.labels, segments),
                    measures.iou(drawn, source.labels, segments),
                    measures.volume_error(drawn, source.labels, segments),
                    near,
                    far,
                ])
            )  # fmt: skip
    figures = {name: np.stack(each) for name, each in values.items()}  # (cases, figures, segments)
    patients = np.array([case.patient for case, _ in listed])
    known = _columns(folder, listed)
    everyone = np.ones(len(patients), dtype=bool)
    return {
        "cases": len(listed),
        "patients": len(set(patients)),
        "networks": _figures(build, figures, patients, everyone),
        "subgroups": {
            f"{column}: {value}": {
                "cases": int((each == value).sum()),
                "networks": _figures(build, figures, patients, each == value),
            }
            for column, each in known.items()
            for value in sorted(set(each))
            if len(set(patients[each == value])) >= _SMALLEST_SUBGROUP
        },
        "gaps": {
            name: gaps(figures[name][:, _DICE].mean(axis=1), patients, known, build.recipe.evaluate.subgroup_margin)
            for name in contenders
        },
        "hardest": {name: _hardest(figures[name], listed) for name in contenders},
    }


def _mirrored(source: Source) -> Source:
    """The same with left and right exchanged, which is the last axis of an image and of an axial volume."""
    return Source(source.pixels[..., ::-1].copy(), source.labels[..., ::-1].copy(), source.spacing)


def _columns(folder: Path, listed: Sequence[tuple[Case, int]]) -> dict[str, np.ndarray]:
    """What subgroups are made of: column of the manifest -> value of each case, where there are several values."""
    manifest = folder / "manifest.csv"
    if not manifest.is_file():
        return {}
    by_file = {row["file"]: row for row in tables.read(manifest, ("file",))}
    rows = [by_file[case.file] for case, _ in listed]
    known = columns.of_subgroups(rows, _SUBGROUPS)
    return {name: values for name, values in known.items() if len(set(values)) > 1}


def _figures(
    build: Build, figures: dict[str, np.ndarray], patients: np.ndarray, chosen: np.ndarray
) -> dict[str, dict[str, dict[str, Any]]]:
    """Network -> segment, or "mean" of all -> figure -> ``[value, low, high]``, and what `load` says stands beside."""
    labels = [segment.label for segment in build.recipe.package.segments]
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name, signed in figures.items():
        # Of the mean of all segments, sizes of errors are averaged: with their signs, one would make up for another.
        values = np.concatenate([signed, signed[:, [_VOLUME]]], axis=1)[chosen]
        values[:, _VOLUME] = np.abs(values[:, _VOLUME])
        drawn_where_none = np.isinf(values[:, _VOLUME])  # (cases, segments)
        values[np.isinf(values)] = np.nan
        parts = {label: (values[:, :, number], drawn_where_none[:, number]) for number, label in enumerate(labels)}
        parts["mean"] = values.mean(axis=2), drawn_where_none.any(axis=1)
        found[name] = {
            part: {
                **_intervals(each, patients[chosen], build.recipe.evaluate.bootstrap),
                "without_distance": int(np.isnan(each[:, _DISTANCE]).sum()),
                "drawn_where_none": int(drawn.sum()),
            }
            for part, (each, drawn) in parts.items()
        }
    return found


def _intervals(values: np.ndarray, patients: np.ndarray, resamples: int) -> dict[str, list[float | None]]:
    """Of values ``(cases, figures)`` with ``volume_bias`` last, with 95 % intervals by a bootstrap over patients.

    Overlaps are means over cases, distances over those that have one; the volume's error is the median of its size, and
    ``volume_bias`` its median with the sign, over those that have the segment.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice|All-NaN slice", RuntimeWarning)  # no case has a figure
        value = _summary(values)
        low, high = np.full((2, len(value)), np.nan)
        if len(np.unique(patients)) >= FEWEST_PATIENTS:
            resampled = islice(resamples_of(patients, np.random.default_rng(0)), resamples)
            low, high = np.nanpercentile([_summary(values[each]) for each in resampled], [2.5, 97.5], axis=0)
    triples = zip((*FIGURES, "volume_bias"), value, low, high, strict=True)
    return {name: [None if np.isnan(each) else round(float(each), 4) for each in triple] for name, *triple in triples}


def _summary(values: np.ndarray) -> np.ndarray:
    summary = np.nanmean(values, axis=0)
    summary[[_VOLUME, -1]] = np.nanmedian(values[:, [_VOLUME, -1]], axis=0)
    return summary


def _hardest(values: np.ndarray, listed: Sequence[tuple[Case, int]]) -> list[dict[str, Any]]:
    """The cases with the least mean Dice coefficient, worst first."""
    dice = values[:, _DICE].mean(axis=1)
    return [
        {"file": listed[number][0].file, "dice": round(float(dice[number]), 4)}
        for number in np.argsort(dice)[:_HARDEST]
    ]


def _costs(build: Build, contenders: dict[str, Contender]) -> dict[str, Any]:
    """Size, and milliseconds for one case on one thread."""
    given = np.zeros((1, 1, *build.recipe.input.shape), dtype=np.float32)
    networks = {name: Network(each.paths[0], each.target, threads=1) for name, each in contenders.items()}
    speeds = milliseconds({name: partial(network.run, [given]) for name, network in networks.items()})
    return {
        name: {"bytes": contenders[name].paths[0].stat().st_size, "milliseconds": speeds[name]} for name in contenders
    }
