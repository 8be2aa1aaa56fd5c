"""``check-data``: what is wrong with a data set, before hours of training.

Errors must stop a training; warnings are for a person to judge; notes are for the record.
"""

from __future__ import annotations

import csv
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from compression import (
    balance,
    check_page,
    check_pairs,
    clipping,
    columns,
    confounders,
    imported,
    inventory,
    label_errors,
    normalization,
    readers,
    splits,
)
from compression.architectures import NETWORKS
from compression.content import content_version
from compression.inventory import Inventory
from compression.problems import Problem, Severity, add
from compression.recipe import Recipe, RecipeError

NAME = "check-data"
SPLIT = "split.csv"
_STOPPING = {
    "missing file", "corrupt image", "constant image", "label", "no patient", "missing mask", "corrupt mask",
    "mask of another size",
}  # fmt: skip
_KNOWS_SOMETHING = 0.7  # area under the curve below which the simple model is no judge of labels
_IMBALANCE = 3.0  # to 1, from which on weights are proposed among the problems
_MENDING = {
    "empty mask": "right where there is nothing to mark; else mend it",
}
_TELLING = {
    "stored": (
        "statistics of the stored image that tell the label by themselves",
        "a model will use them: make them random in training, or have them equal in both classes",
    ),
    "prepared": (
        "statistics of the prepared image that tell the label by themselves",
        "preprocessing leaves them in what the network gets: augment (blur, resolution, noise, contrast, crop)",
    ),
    "list": (
        "columns of the list that tell the label by themselves",
        "report figures by group; a model may learn the group",
    ),
}


@dataclass(frozen=True)
class Checked:
    """Everything found, as plain values, and the images for a page that may show them."""

    report: dict[str, Any]
    sets: list[Inventory]

    @property
    def stops(self) -> bool:
        return any(problem["severity"] == "error" for problem in self.report["problems"])


def check(recipe: Recipe, data_root: Path, weights_root: Path, plan: splits.Plan | None = None) -> Checked:
    """Look at the training set of a recipe and at its external sets.

    A split of the training set is proposed where there is a ``plan`` for it, or its list has none.

    Raises
    ------
    RecipeError
        Where a list can't be read at all, or can't be split as planned; all else is reported.
    """
    begun = time.monotonic()
    steps = recipe.input.steps()[:-1]
    names = [recipe.data.train, *recipe.data.external]
    sets = [replace(inventory.take(data_root / name, recipe.check.labels, steps), name=name) for name in names]
    imagenet = weights_root / recipe.train.weights
    weights = imagenet if imagenet.is_file() else None
    problems: list[Problem] = []
    found = {
        taken.name: _one_set(recipe, data_root, taken, weights, problems, training=number == 0, plan=plan)
        for number, taken in enumerate(sets)
    }
    twice = check_pairs.find(sets, problems)
    check_pairs.patients([(taken.name, _patients(taken, number == 0)) for number, taken in enumerate(sets)], problems)
    order = ("error", "warning", "note")
    problems.sort(key=lambda problem: order.index(problem.severity))
    report = {
        "recipe": f"{recipe.package.id} {recipe.package.version}",
        "problems": [asdict(problem) for problem in problems],
        "sets": found,
        "duplicates": twice,
        "seconds": round(time.monotonic() - begun, 1),
        "memory_mb": _peak_memory(),
    }
    return Checked(report, sets)


def write(checked: Checked, work: Path, out: Path | None) -> Path:
    """Write JSON and HTML: with pictures into the work folder, without into ``out``; the page with pictures.

    The work folder also gets what is of single images: how much of each is clipped, and a proposed split.
    """
    for folder, pictures in ((work, True), *(((out, False),) if out else ())):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{NAME}.json").write_text(json.dumps(checked.report, indent=1) + "\n")
        (folder / f"{NAME}.html").write_text(check_page.page(checked.report, checked.sets, pictures))
    clipping.write(work, {each.name: (each.column("file").tolist(), each.clipped) for each in checked.sets})
    training = checked.sets[0]
    proposed = checked.report["sets"][training.name].get("proposed_split")
    if proposed:
        with (work / SPLIT).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(proposed[0]))
            writer.writeheader()
            writer.writerows(proposed)
    return work / f"{NAME}.html"


def _patients(taken: Inventory, training: bool) -> list[str]:
    """Of the images that are used; of the training set, but for those that are its own test."""
    learned_from = taken.column("split") != "test" if training else True
    patients: list[str] = taken.column("patient_id")[taken.used & learned_from].tolist()
    return patients


# --- one data set ----------------------------------------------------------------------------------------------------


def _one_set(
    recipe: Recipe,
    data_root: Path,
    taken: Inventory,
    weights: Path | None,
    problems: list[Problem],
    training: bool,
    plan: splits.Plan | None,
) -> dict[str, Any]:
    if training and recipe.check.site and not taken.has(recipe.check.site):
        hint = f"is check.site right? The list's columns are {', '.join(taken.rows[0])}"
        add(problems, "error", taken.name, "no such column", [recipe.check.site], hint)
    site = columns.site(taken.rows[0], recipe.check.site)
    content = splits.Content(
        np.char.add(taken.digests, taken.mask_digests),
        taken.column("label"),
        taken.column("patient_id"),
        taken.column(site) if site else None,
        taken.column("split") if taken.has("split") else None,
    )
    files = content_version(data_root / taken.name)
    imported.check(data_root / taken.name, taken.name, files, problems)
    found: dict[str, Any] = {
        "version": splits.version(content),
        "files": files,
        "counts": balance.counts(taken, site),
    }
    found["faults"] = _faults(taken, problems)
    found["clipping"] = clipping.check(taken.name, taken.column("file").tolist(), taken.clipped, problems)
    _labels(recipe, taken, problems)
    chosen = np.flatnonzero(taken.used)
    if training:
        if plan or not taken.has("split"):
            _propose(taken, content, plan, found, problems)
        if taken.has("split"):
            _splits(taken, content, recipe.data.positive, found, problems)
            chosen = np.flatnonzero(taken.used & (taken.column("split") == "train"))
        found |= _amounts(recipe, taken, chosen, problems)
        if len(chosen):
            means, spreads = (taken.prepared[name][chosen] / 255 for name in ("mean", "contrast"))
            of_recipe = recipe.input.mean, recipe.input.std
            found["normalization"] = normalization.check(taken.name, of_recipe, means, spreads, problems)
    found["confounders"] = _confounders(recipe, taken, chosen, problems)
    found["label_errors"] = _label_errors(recipe, taken, weights, problems)
    if training and recipe.check.readers:
        found["readers"] = _readers(data_root / recipe.data.train / recipe.check.readers, taken, problems)
    return found


def _faults(taken: Inventory, problems: list[Problem]) -> dict[str, list[dict[str, str]]]:
    kinds: dict[str, list[dict[str, str]]] = {}
    for fault in taken.faults:
        kinds.setdefault(fault.kind, []).append({"file": fault.file, "what": fault.what})
    for kind, each in kinds.items():
        severity: Severity = "error" if kind in _STOPPING else "warning"
        examples = [f"{fault['file']}: {fault['what']}" for fault in each]
        add(
            problems,
            severity,
            taken.name,
            kind,
            examples,
            _MENDING.get(kind, "mend it or take its row out of the list"),
        )
    return kinds


def _labels(recipe: Recipe, taken: Inventory, problems: list[Problem]) -> None:
    labels = sorted(set(taken.column("label").tolist()))
    positive = recipe.data.positive
    if not recipe.check.labels:
        quoted = ", ".join(json.dumps(label) for label in labels)
        severity: Severity = "error" if recipe.check.must_declare(labels) else "note"
        hint = f"all but {positive!r} count as negative; to have others refused: [check] labels = [{quoted}]"
        add(problems, severity, taken.name, "labels that the recipe does not declare", labels, hint)
    if positive not in labels:
        add(problems, "error", taken.name, "no image of the positive label", [positive], "is data.positive right?")
    elif len(labels) == 1:
        add(problems, "error", taken.name, "one label only", labels, "both classes are needed")


def _propose(
    taken: Inventory, content: splits.Content, plan: splits.Plan | None, found: dict[str, Any], problems: list[Problem]
) -> None:
    """A split for the list; where none was asked for, that it can't be made is one more thing to tell."""
    wanted = plan or splits.Plan()
    hint = (
        f"a column split is needed; {NAME}/{SPLIT} of the work folder proposes one, by patient: {wanted.in_words()}. "
        "Join it to the list by the column file"
    )
    try:
        proposed = {"file": taken.column("file").tolist(), **wanted.columns(content)}
        found["proposed_split"] = [
            dict(zip(proposed, values, strict=True)) for values in zip(*proposed.values(), strict=True)
        ]
    except RecipeError as error:
        if plan:
            raise
        hint = str(error)
    if not taken.has("split"):
        add(problems, "error", taken.name, "no splits", [], hint, count=1)


def _splits(
    taken: Inventory, content: splits.Content, positive: str, found: dict[str, Any], problems: list[Problem]
) -> None:
    split = taken.column("split")
    other = sorted(set(split.tolist()) - set(splits.NAMES))
    add(problems, "error", taken.name, "unknown splits", other, f"known are {', '.join(splits.NAMES)}")
    leaks = splits.leaks(taken.column("patient_id"), split)
    found["patients_in_two_splits"] = leaks
    examples = [f"{patient} in {' and '.join(names)}" for patient, names in leaks.items()]
    add(
        problems,
        "error",
        taken.name,
        "patients in two splits",
        examples,
        "what was learned of a patient is known in the test: keep each patient in one split",
    )
    missing = []
    for name in splits.expected(split[taken.used]):
        there = set((content.labels[taken.used & (split == name)] == positive).tolist())
        missing += [
            f"{name}: no {'positive' if which else 'negative'}" for which in (True, False) if which not in there
        ]
    add(problems, "error", taken.name, "splits without one of the classes", missing, "both are needed in each split")


def _amounts(recipe: Recipe, taken: Inventory, chosen: np.ndarray, problems: list[Problem]) -> dict[str, Any]:
    """Weights, and what the numbers mean for a task of this kind."""
    labels = taken.column("label")
    if not len(chosen):
        return {}
    parameters = sum(each.numel() for each in NETWORKS[recipe.train.network].unpruned(1, 0.0).parameters())
    weighting = balance.weighting(labels[chosen], recipe.data.positive)
    bands = {
        "training images": balance.band(len(chosen), balance.TRAINING_IMAGES),
        "parameters per training image": balance.band(round(parameters / len(chosen)), balance.PARAMETERS_PER_SAMPLE),
    }
    in_test = taken.used & (taken.column("split") == "test")
    if in_test.any():
        _, numbers = np.unique(labels[in_test], return_counts=True)
        bands["test images of the rarest label"] = balance.band(int(numbers.min()), balance.TEST_OF_EACH_CLASS)
    few = [f"{name}: {each['value']:,}" for name, each in bands.items() if each["in_words"].startswith(("few", "high"))]
    add(problems, "warning", taken.name, "numbers that are unusual for a task of this kind", few, "see the bands")
    if weighting["imbalance"] >= _IMBALANCE:
        add(
            problems,
            "note",
            taken.name,
            "imbalance",
            [f"{weighting['imbalance']} to 1"],
            f"training weighs the classes inversely by itself: {weighting['in_words']}",
        )
    return {"parameters": parameters, "weighting": weighting, "bands": bands}


def _confounders(recipe: Recipe, taken: Inventory, chosen: np.ndarray, problems: list[Problem]) -> dict[str, Any]:
    positive = taken.column("label")[chosen] == recipe.data.positive
    if positive.all() or not positive.any():
        return {}
    patients = taken.column("patient_id")[chosen]
    found: dict[str, Any] = {"images": len(chosen), "together": {}}
    for kind, table in (("stored", taken.stored), ("prepared", taken.prepared), ("list", None)):
        if table is None:
            ranked, found["unjudged"] = confounders.columns([taken.rows[index] for index in chosen], positive, patients)
        else:
            part = {name: values[chosen] for name, values in table.items()}
            ranked = confounders.rank(part, positive, patients, kind)
            found["together"][kind] = confounders.together(part, positive, patients) if ranked else None
        found[kind] = [each.as_json() for each in ranked]
        examples = [each.in_words() for each in ranked if each.flagged]
        add(problems, "warning", taken.name, _TELLING[kind][0], examples, _TELLING[kind][1])
    telling = [name for name, reason in found["unjudged"].items() if reason == confounders.TELLS_ALL]
    hint = "is it the label in other words? If not, a network may learn it instead: bring both classes of each value"
    add(problems, "warning", taken.name, "columns of the list that tell the label of every image", telling, hint)
    unjudged = [f"{name}: {reason}" for name, reason in found["unjudged"].items() if name not in telling]
    hint = "could one of them tell the label by itself? Nothing here says that it does not"
    add(problems, "note", taken.name, "columns of the list that were not judged", unjudged, hint)
    return found


def _label_errors(recipe: Recipe, taken: Inventory, weights: Path | None, problems: list[Problem]) -> dict[str, Any]:
    used = np.flatnonzero(taken.used)
    labels, patients = taken.column("label")[used], taken.column("patient_id")[used]
    features, what = label_errors.features(taken.small[used], recipe.train.network, weights, recipe.train.threads)
    suspicion = label_errors.find(features, labels, patients)
    if suspicion is None:
        return {"features": what, "skipped": "one label only, fewer than five patients of one, or images all alike"}
    suspects = [
        {
            "file": taken.rows[used[each.index]]["file"],
            "index": int(used[each.index]),
            "split": taken.rows[used[each.index]].get("split", ""),
            "given": each.given,
            "suggested": each.suggested,
            "probability": each.probability,
            "margin": each.margin,
        }
        for each in suspicion.suspects
    ]
    knows = suspicion.auc >= _KNOWS_SOMETHING
    hint = f"have a reader look at the first ones; estimated share of wrong labels {suspicion.noise:.1%}"
    if not knows:
        hint = f"the simple model knows little here (AUC {suspicion.auc:.2f}), so this says little about the labels"
    add(
        problems,
        "warning" if knows else "note",
        taken.name,
        "labels that look wrong",
        [
            f"{each['file']}: {each['given']}, looks like {each['suggested']} ({each['probability']:.2f})"
            for each in suspects
        ],
        hint,
    )
    return {"features": what, **suspicion.as_json(), "suspects": suspects}


def _readers(path: Path, taken: Inventory, problems: list[Problem]) -> dict[str, Any]:
    readings = readers.read(path)
    decided, ties = readers.adjudicate(readings)
    given, whose = (
        dict(zip(taken.column("file").tolist(), taken.column(name).tolist(), strict=True))
        for name in ("label", "patient_id")
    )
    unknown = sorted(set(readings.images) - set(given))
    against = {image: label for image, label in decided.items() if image in given and given[image] != label}
    add(problems, "warning", taken.name, "ties between readers", list(ties), "have a further reader settle them")
    words = [f"{image}: {given[image]}, readers say {label}" for image, label in against.items()]
    add(problems, "warning", taken.name, "labels against the readers' majority", words, "settle them")
    add(
        problems, "warning", taken.name, "read images that the list lacks", unknown, f"is {path.name} of this data set?"
    )
    patients = [whose.get(image, image) for image in readings.images]
    return {**readers.agreement(readings, patients), "ties": ties, "against_the_list": against}


def _peak_memory() -> int:
    """Peak resident memory of this process in MB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) // 1024
