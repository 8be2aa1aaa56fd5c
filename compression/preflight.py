"""What can be told to be wrong before any long work starts."""

from __future__ import annotations

import json
import tempfile
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from compression import architectures, check_pairs, data, export, quantize, splits, train
from compression.augment import compose
from compression.inventory import spelled_twice
from compression.recipe import RecipeError

if TYPE_CHECKING:
    from compression.build import Build
    from compression.recipe import Recipe

_NEEDED = {"openvino": ("openvino", "nncf"), "cpu": ("onnxruntime",), "tensorrt": ("onnxruntime",)}


def check(build: Build) -> None:
    """Look at the recipe's transforms, the tools, the weights and every row of the data sets' lists.

    Raises
    ------
    RecipeError
        Naming the file, and the line where it is one.
    """
    recipe = build.recipe
    compose(recipe.augment, recipe.augment_policy, seed=0)
    for target in recipe.quantize.targets:
        missing = [name for name in _NEEDED[target] if util.find_spec(name) is None]
        if missing:
            raise RecipeError(f"target {target} needs {', '.join(missing)}: pip install 'scanside[training]'")
    weights = train.initial_weights(build)
    if weights is not None and not weights.is_file():
        raise RecipeError(f"the initial weights {weights} are not there; is --weights right?")
    if list(recipe.prune.ratios) != sorted(set(recipe.prune.ratios)):
        raise RecipeError(f"{build.recipe_path}: prune.ratios must rise from step to step")
    _check_site(build.data_root / recipe.data.train, recipe)
    for name in (recipe.data.train, *recipe.data.external):
        _check_labels(build.data_root / name, recipe)
        _check_list(build.data_root / name, recipe.data.positive, has_splits=name == recipe.data.train)
    check_pairs.warn_of_patients(build, [
        (name, [row["patient_id"] for row in data.distinct_rows(build.data_root / name)
                if name != recipe.data.train or row["split"] != "test"])
        for name in (recipe.data.train, *recipe.data.external)
    ])  # fmt: skip
    if not build.folder("train").exists():
        _check_operators(build)


def _check_operators(build: Build) -> None:
    """The weights are of the network, and every target takes its operators: it is exported untrained to see."""
    network = architectures.new(build.recipe.train.network, 0.0, train.initial_weights(build)).eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "untrained.onnx"
        shape = (1, 1, build.recipe.input.rows, build.recipe.input.columns)
        export.convert(network, shape, path)
        faults = quantize.unquantizable(onnx.load(str(path)), build.recipe.quantize.targets)
    if faults:
        raise RecipeError(f"{build.recipe_path}: {'; '.join(faults)}; change the network or quantize.targets")


def _check_site(folder: Path, recipe: Recipe) -> None:
    """Another column in its place would spread and judge by what nobody named."""
    there = data.read_manifest(folder)[0]
    if recipe.check.site and recipe.check.site not in there:
        raise RecipeError(
            f"{folder / 'manifest.csv'} has no column {recipe.check.site}, which check.site names; its columns are "
            f"{', '.join(there)}"
        )


def _check_labels(folder: Path, recipe: Recipe) -> None:
    """All labels but the positive one count as negative, so a misspelled one would teach that a finding is none."""
    rows, path, declared = data.read_manifest(folder), folder / "manifest.csv", recipe.check.labels
    found = sorted({row["label"] for row in rows if row["label"]})
    twins = spelled_twice([row["label"] for row in rows])
    for line, row in enumerate(rows, start=2):
        if row["label"] in twins:
            raise RecipeError(
                f"{path}, line {line}: label {row['label']!r}, but most are spelled {twins[row['label']]!r}; mend it"
            )
    if recipe.check.must_declare(found):
        quoted = ", ".join(json.dumps(label) for label in found)
        raise RecipeError(
            f"{path} holds {len(found)} labels, and all but {recipe.data.positive!r} would count as negative; mend it, "
            f"or declare them in the recipe: [check] labels = [{quoted}]"
        )
    for line, row in enumerate(rows, start=2):
        if declared and row["label"] and row["label"] not in declared:
            raise RecipeError(
                f"{path}, line {line}: label {row['label']!r} is none of {', '.join(declared)}, which check.labels "
                "declares; mend it, or take the row out of the list"
            )


def _check_list(folder: Path, positive: str, has_splits: bool) -> None:
    """Each row has a label, a patient, a file that is there, and a known split; both classes are in each split."""
    rows, path = data.read_manifest(folder), folder / "manifest.csv"
    if has_splits and "split" not in rows[0]:
        raise RecipeError(
            f"{path} needs the column split, with the values {', '.join(splits.NAMES)}; check-data proposes one. "
            "Without validation, a part of train is taken"
        )
    labels: dict[str, set[bool]] = {}
    split_of: dict[str, tuple[str, int]] = {}
    for line, row in enumerate(rows, start=2):
        for column in ("file", "label", "patient_id"):
            if not row[column]:
                raise RecipeError(f"{path}, line {line}: {column} is empty")
        if not (folder / row["file"]).is_file():
            raise RecipeError(f"{path}, line {line}: {row['file']} is not there")
        split = row["split"] if has_splits else ""
        if has_splits and split not in splits.NAMES:
            raise RecipeError(f"{path}, line {line}: split {split!r} is none of {', '.join(splits.NAMES)}")
        before, where = split_of.setdefault(row["patient_id"], (split, line))
        if before != split:
            raise RecipeError(
                f"{path}, line {line}: patient {row['patient_id']} is in {split} here and in {before} on line {where}"
            )
        labels.setdefault(split, set()).add(row["label"] == positive)
    for split in splits.expected(np.array(list(labels))) if has_splits else ("",):
        found = labels.get(split, set())
        if found != {True, False}:
            held = f"only {positive!r}" if found == {True} else f"no {positive!r}" if found else "no image"
            raise RecipeError(f"{path}: {split or 'it'} holds {held}; both classes are needed")
