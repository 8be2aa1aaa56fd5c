"""``check-data`` for segmentation: images and volumes with masks, by a list or as NIfTI pairs.

Each case is checked: that image and mask can be decoded, have the same size and lie at the same place, that the mask
holds declared labels only and marks something, that it is listed once, that a patient is in one split, and that no
other case shows the same; of pictures, nearly the same. A build refuses what is an error here, in the same words.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from compression import (
    balance,
    check_pairs,
    clipping,
    duplicates,
    gray_steps,
    imported,
    inventory,
    levels,
    masks,
    sources,
    splits,
    tables,
)
from compression.content import MANIFEST, content_version
from compression.masks import MaskLabelError, MaskSizeError
from compression.problems import DataError, Problem, Severity, add
from compression.recipe import RecipeError
from compression.segmentation import cases, grays
from compression.segmentation.cases import Case
from compression.segmentation.grays import Grays
from compression.segmentation.recipe import SegmentationRecipe
from compression.unet import UNet, unpruned

_HINTS = {
    "missing file": "mend it or take its row out of the list",
    "corrupt image": "fetch it again or take its row out of the list",
    "constant image": "is it an image at all?",
    "image of other dimensions": "is the recipe for this data set? Its input.shape says what it reads",
    "missing mask": "mend it or take its row out of the list",
    "corrupt mask": "fetch it again or take its row out of the list",
    "mask of another size": "export the mask on its image's grid",
    "label outside the set": "declare it as a segment, or mend the mask",
    "listed twice": "keep one of the two rows",
    "no patient": "without patients no split can keep them together",
    "empty mask": "right where there is nothing to mark; else mend it",
}
_WARNINGS = ("empty mask",)


@dataclass(frozen=True)
class Checked:
    """Everything found, as plain values; and what is clipped of each case that can be used, for `clipping.write`."""

    report: dict[str, Any]
    clipped: dict[str, tuple[list[str], np.ndarray]]

    @property
    def errors(self) -> list[dict[str, Any]]:
        return [problem for problem in self.report["problems"] if problem["severity"] == "error"]


@dataclass(frozen=True)
class _Seen:
    """A case whose image can be read.

    ``described``: a picture's, as `compression.duplicates.descriptor` has it; ``grays``: of one whose mask can be, too.
    """

    case: Case
    digest: str
    described: np.ndarray | None
    grays: Grays | None


def check(recipe: SegmentationRecipe, data_root: Path) -> Checked:
    """Look at the training set of a recipe and at its external sets.

    Raises
    ------
    RecipeError
        Where a list can't be read at all; all else is reported.
    """
    begun = time.monotonic()
    names = [recipe.data.train, *recipe.data.external]
    problems: list[Problem] = []
    listed = [cases.of_training(recipe.data, data_root), *(cases.listed(data_root / name) for name in names[1:])]
    found: dict[str, Any] = {}
    seen: dict[str, list[_Seen]] = {}
    for name, each in zip(names, listed, strict=True):
        found[name], seen[name] = _one_set(recipe, data_root / name, name, each, problems)
    training = recipe.data.train
    found[training] |= _amounts(recipe, found[training]["cases"])
    measured = [each.grays for each in seen[training] if each.grays]
    found[training]["normalization"] = grays.check(training, measured, recipe.input.steps, problems)
    check_pairs.patients(patients(names, listed), problems)
    _between(seen, problems)
    _nearly(seen, problems)
    order = ("error", "warning", "note")
    problems.sort(key=lambda problem: order.index(problem.severity))
    report = {
        "recipe": f"{recipe.package.id} {recipe.package.version}",
        "problems": [asdict(problem) for problem in problems],
        "sets": found,
        "seconds": round(time.monotonic() - begun, 1),
    }
    return Checked(report, {name: _clipped(each) for name, each in seen.items()})


def patients(names: Sequence[str], listed: Sequence[Sequence[Case]]) -> list[tuple[str, list[str]]]:
    """Of each set, as `check_pairs.patients` takes them."""
    return [(name, [case.patient for case in each]) for name, each in zip(names, listed, strict=True)]


def _clipped(seen: Sequence[_Seen]) -> tuple[list[str], np.ndarray]:
    measured = [(each.case.file, each.grays.lower, each.grays.upper) for each in seen if each.grays]
    return [file for file, *_ in measured], np.array([ends for _, *ends in measured]).reshape(-1, 2)


def _one_set(
    recipe: SegmentationRecipe, folder: Path, name: str, listed: Sequence[Case], problems: list[Problem]
) -> tuple[dict[str, Any], list[_Seen]]:
    segments = [segment.label for segment in recipe.package.segments]
    faults: dict[str, list[str]] = {}
    volumes = np.zeros(len(segments) + 1, dtype=np.int64)
    seen: list[_Seen] = []
    if twice := [file for file, times in Counter(case.file for case in listed).items() if times > 1]:
        faults["listed twice"] = twice
    sizes: Counter[str] = Counter()
    steps: list[float | None] = [None] * len(listed)
    for number, case in enumerate(tqdm(listed, desc=f"reading {name}", unit="case")):
        if not case.patient:
            faults.setdefault("no patient", []).append(f"{case.file}: patient_id is empty")
        pixels = _pixels(folder, case, len(recipe.input.shape), faults)
        if pixels is None:
            continue
        sizes["x".join(str(each) for each in pixels.pixels.shape)] += 1
        steps[number] = gray_steps.step(pixels.pixels)
        mask = _mask(folder, case, pixels, segments, faults)
        measured = None
        if mask is not None:
            volumes += np.bincount(mask.ravel(), minlength=len(volumes))
            if pixels.pixels.ndim == len(recipe.input.shape):
                measured = grays.measure(cases.laid_out(pixels, mask), recipe.input.steps)
        seen.append(_Seen(case, duplicates.digest(pixels.pixels), _described(pixels.pixels), measured))
    for kind, examples in faults.items():
        severity: Severity = "warning" if kind in _WARNINGS else "error"
        add(problems, severity, name, kind, [each.replace(f"{folder}/", "") for each in examples], _HINTS[kind])
    _splits(recipe, folder, name, problems)
    version = content_version(folder)
    imported.check(folder, name, version, problems)
    _copies(name, seen, problems)
    groups = gray_steps.shared(steps, [case.patient for case in listed])
    add(
        problems,
        "warning",
        name,
        "volumes of several patients that look like one scan's: their grays are multiples of the same number",
        [f"{' and '.join(listed[each].file for each in group)}: {steps[group[0]]:.8g}" for group in groups],
        "two sides of one head, for instance: name those of one person in data.same_patient, and no fold parts them",
    )
    share = volumes[1:] / max(int(volumes.sum()), 1)
    report = {
        "files": version,
        "cases": len(listed),
        "patients": len({case.patient for case in listed}),
        "faults": faults,
        "sizes": dict(sizes.most_common(5)),
        "share_of_segments": {label: round(float(each), 5) for label, each in zip(segments, share, strict=True)},
    }
    files, shares = _clipped(seen)
    if files:
        report["clipping"] = clipping.check(name, files, shares, problems)
    return report, seen


def _described(pixels: np.ndarray) -> np.ndarray | None:
    return duplicates.descriptor(levels.rounded(levels.spread(pixels, inventory.SMALL))) if pixels.ndim == 2 else None


def _copies(name: str, seen: Sequence[_Seen], problems: list[Problem]) -> None:
    of_two: list[str] = []
    of_one: list[str] = []
    for group in duplicates.exact([each.digest for each in seen]):
        copies = [seen[index].case for index in group]
        words = " = ".join(case.file for case in copies)
        (of_two if len({case.patient for case in copies}) > 1 else of_one).append(words)
    hint = "give the copies one patient, or take one out"
    add(problems, "error", name, "the same image under two patients", of_two, hint)
    add(problems, "warning", name, "the same image more than once", of_one, "take one out: each counts")


def _amounts(recipe: SegmentationRecipe, count: int) -> dict[str, Any]:
    """What the numbers mean for a task of this kind: of the cases that one fold's network is trained on."""
    training = round(count * (1 - 1 / recipe.data.folds) * (1 - recipe.data.validation_share))
    widths = unpruned(recipe.network.width, recipe.network.levels)
    network = UNet(len(recipe.input.shape), len(recipe.package.segments), recipe.network.dropout, widths)
    parameters = sum(each.numel() for each in network.parameters())
    return {
        "bands": {"training cases": balance.band(training, balance.TRAINING_MASKS)},
        "parameters": parameters,
        "parameters_per_case": round(parameters / max(training, 1)),
    }


def _pixels(folder: Path, case: Case, dimensions: int, faults: dict[str, list[str]]) -> sources.Source | None:
    if not (folder / case.file).is_file():
        faults.setdefault("missing file", []).append(f"{case.file} is not there")
        return None
    try:
        source = cases.decode(folder, case)
    except RecipeError as error:
        faults.setdefault("corrupt image", []).append(str(error))
        return None
    if source.pixels.ndim != dimensions:
        what = f"{case.file} has {source.pixels.ndim} dimensions; the recipe reads {dimensions}"
        faults.setdefault("image of other dimensions", []).append(what)
    if source.pixels.min() == source.pixels.max():
        faults.setdefault("constant image", []).append(f"{case.file}: every pixel is {source.pixels.min()}")
    return source


def _mask(
    folder: Path, case: Case, source: sources.Source, segments: list[str], faults: dict[str, list[str]]
) -> np.ndarray | None:
    if not case.mask or not (folder / case.mask).is_file():
        faults.setdefault("missing mask", []).append(f"{case.mask or 'a mask'} of {case.file} is not there")
        return None
    try:
        mask = masks.read(folder / case.mask, source, segments)
    except DataError as error:
        size, label = isinstance(error, MaskSizeError), isinstance(error, MaskLabelError)
        kind = "mask of another size" if size else "label outside the set" if label else "corrupt mask"
        faults.setdefault(kind, []).append(str(error))
        return None
    if not mask.any():
        faults.setdefault("empty mask", []).append(f"{case.mask}: nothing is marked")
    return mask


def _splits(recipe: SegmentationRecipe, folder: Path, name: str, problems: list[Problem]) -> None:
    """Where the list has splits, or is not there; training deals patients itself, never one into two folds."""
    if not (folder / MANIFEST).is_file():
        known = sum(len(group) for group in recipe.data.same_patient) if name == recipe.data.train else 0
        hint = "a volume counts as a patient; name those of one in data.same_patient, or write manifest.csv"
        what = "no list, so that patients are not known"
        if known:
            what = "no list, so that patients are not known but for what data.same_patient says"
            hint = f"it joins {known} volumes; each of the others counts as a patient"
        add(problems, "note", name, what, [], hint, count=1)
        return
    rows = tables.read(folder / MANIFEST, ["patient_id"])
    patients = np.array([row["patient_id"] for row in rows], dtype=str)
    leaks = splits.leaks(patients, np.array([row.get("split") or "" for row in rows], dtype=str))
    examples = [f"{patient} in {' and '.join(found)}" for patient, found in leaks.items()]
    add(problems, "error", name, "patients in two splits", examples, "keep each patient in one split")
    if name == recipe.data.train and cases.has_split(folder):
        hint = "take test rows out of the list, or name them as an external set"
        add(problems, "note", name, cases.SPLIT_NOT_USED, [], hint, count=1)


def _between(seen: dict[str, list[_Seen]], problems: list[Problem]) -> None:
    """Images of the external sets that training has seen."""
    (training, learned), *external = seen.items()
    known = {each.digest: each.case.file for each in reversed(learned)}  # of copies, the first
    for name, cases_there in external:
        again = [f"{each.case.file} = {known[each.digest]}" for each in cases_there if each.digest in known]
        hint = "take them out of one: what was trained on tests nothing"
        add(problems, "error", f"{training} and {name}", "the same image in training and external set", again, hint)


def _nearly(seen: dict[str, list[_Seen]], problems: list[Problem]) -> None:
    """Pictures that were resized, compressed or brightened, within a set and between two."""
    pictures = [(name, each) for name, found in seen.items() for each in found if each.described is not None]
    if not pictures:
        return
    called = [f"{name}/{each.case.file}" for name, each in pictures]
    patients = [each.case.patient for _, each in pictures]
    described = np.stack([each.described for _, each in pictures if each.described is not None])
    pairs = [
        pair
        for pair in duplicates.near(described)
        if pictures[pair.one][1].digest != pictures[pair.other][1].digest
    ]  # fmt: skip
    images = called, patients, [name for name, _ in pictures]
    check_pairs.near(pairs, images, "data sets", " and ".join(seen), problems)
