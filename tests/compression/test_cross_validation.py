"""Cross-validation of a classification: every patient of the training side is asked about once, by a network that has
not seen them; the test has no part in it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from appliance.package import Conformal, OperatingPoint
from compression import build as classification
from compression import cross_validation, data, fold, stages
from compression.build import Build
from compression.calibrate import Calibration
from compression.cli import main
from compression.held_out import Answers
from compression.recipe import Recipe, RecipeError, read
from tests.compression.test_recipe_and_data import RECIPE, changed, make_build, write_data_set

FOLDS = 3


@pytest.fixture
def recipe() -> Recipe:
    """The shipped one, on small images, a network from scratch, one short epoch."""
    recipe = read(RECIPE)
    return replace(
        recipe,
        data=replace(recipe.data, external=()),
        input=replace(recipe.input, rows=48, columns=48),
        augment=tuple(step for step in recipe.augment if step.name == "RandomGamma"),
        train=replace(recipe.train, network="resnet18", weights="", batch=16, epochs=1, average_decay=0.5),
        calibrate=replace(recipe.calibrate, augmented_copies=1),
    )


@pytest.fixture
def build(recipe: Recipe, tmp_path: Path) -> Build:
    write_data_set(tmp_path / "data" / "chest-kermany", patients=60)
    return make_build(recipe, tmp_path)


def calibration(threshold: float) -> Calibration:
    """That leaves scores as they are, with one threshold for all operating points of the shipped recipe."""
    names = (point.name for point in read(RECIPE).calibrate.operating_points)
    points = tuple(OperatingPoint(name, threshold, 0.9, 0.9, "validation") for name in names)
    return Calibration(1.0, 0.0, 1.0, points, Conformal(0.9, 0.5, 0.5), 0.0, 0.0, ())


def training_patients(build: Build) -> set[str]:
    with (build.data_root / "chest-kermany" / "manifest.csv").open(newline="") as file:
        return {row["patient_id"] for row in csv.DictReader(file) if row["split"] != "test"}


def test_every_patient_is_asked_about_once_and_what_is_done_is_kept(
    build: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    found = cross_validation.run(build, FOLDS)
    seen: list[str] = []
    for number in range(FOLDS):
        parts = {name: set(data.load(fold.of(build, number, FOLDS), name).patients) for name in data.SPLITS}
        assert not parts["train"] & parts["validation"]
        assert not parts["test"] & (parts["train"] | parts["validation"])
        assert set.union(*parts.values()) == training_patients(build)
        seen += parts["test"]
    assert sorted(seen) == sorted(training_patients(build))
    assert found["all"]["patients"] == len(seen) == sum(each["patients"] for each in found["folds"])
    assert json.loads((build.work / "cross-validation" / "3-fold" / "report.json").read_text()) == found
    assert f"3 folds of {len(seen)} patients" in cross_validation.in_words(found)

    capsys.readouterr()
    assert cross_validation.run(build, FOLDS) == found
    said = capsys.readouterr().out
    assert said.count(" kept: ") == 1 + 3 * FOLDS and " s: " not in said


def test_another_training_is_not_taken_for_this_one(build: Build, recipe: Recipe) -> None:
    fold_data, training, _ = cross_validation.STAGES
    stages.run(build, classification.STAGES, "data", (), ())
    each = fold.of(build, 0, FOLDS)
    stages.run(each, (fold_data, training), None, (), ())
    before = dict(each.keys)
    other = make_build(replace(recipe, train=replace(recipe.train, epochs=2)), build.out)
    stages.run(other, classification.STAGES, "data", (), ())
    again = fold.of(other, 0, FOLDS)
    stages.run(again, (fold_data, training), None, (), ())
    assert again.keys["data"] == before["data"]
    assert again.keys["train"] != before["train"]


def test_sites_are_spread_over_the_folds(build: Build) -> None:
    path = build.data_root / "chest-kermany" / "manifest.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "site"])
        writer.writeheader()
        writer.writerows({**row, "site": "north" if int(row["patient_id"][1:]) % 4 < 2 else "south"} for row in rows)
    stages.run(build, classification.STAGES, "data", (), ())
    for number in range(FOLDS):
        each = fold.of(build, number, FOLDS)
        stages.run(each, cross_validation.STAGES[:1], None, (), ())
        held = sorted(set(data.load(each, "test").patients))
        north = sum(int(patient[1:]) % 4 < 2 for patient in held)
        assert abs(north - len(held) / 2) <= 2


def test_figures_are_of_each_fold_by_its_own_thresholds(build: Build) -> None:
    """Two folds that rank perfectly, whose thresholds differ: what each said counts, not one threshold for both."""
    labels = np.arange(40) % 2 == 1
    patients = np.array([f"p{number}" for number in range(40)])
    answers = [
        Answers(np.where(labels, high, low), labels, np.char.add(name, patients), calibration(threshold))
        for name, low, high, threshold in (("a", 0.1, 0.4, 0.3), ("b", 0.5, 0.9, 0.8))
    ]
    found = cross_validation.report(build, answers)
    assert [each["auc"][0] for each in found["folds"]] == [1.0, 1.0]
    assert found["auc_of_folds"] == [1.0, 0.0]
    assert found["all"]["auc"][0] == 0.75  # by probability alone, b's healthy look worse than a's ill
    for at in found["all"]["operating_points"].values():
        assert at["sensitivity"][0] == at["specificity"][0] == 1.0
    assert found["all"]["patients"] == 80


def test_thresholds_that_do_not_carry_over_are_pointed_out(build: Build) -> None:
    labels = np.arange(200) % 2 == 1
    scores = np.where(labels, np.linspace(0, 1, 200), 0.0)
    patients = np.array([f"p{number}" for number in range(200)])
    words = cross_validation.in_words(
        cross_validation.report(build, [Answers(scores, labels, patients, calibration(0.5))] * 2)
    )
    assert "too few of patients they were not chosen on" in words


def test_too_few_patients_are_told_before_any_training(build: Build) -> None:
    with pytest.raises(RecipeError, match="too few for 30 parts"):
        cross_validation.run(build, 30)
    assert not (build.work / "cross-validation").exists()


def test_a_segmentation_is_referred_to_its_build() -> None:
    lungs = RECIPE.parent.parent / "lungs" / "recipe.toml"
    done = CliRunner().invoke(main, ["cross-validate", str(lungs)])
    assert done.exit_code == 1
    assert "data.cross_validated" in done.output


def test_the_command_says_which_file_is_missing(tmp_path: Path) -> None:
    path = changed(tmp_path, "mobilenet_v2_imagenet_folded.npz", "none.npz")
    done = CliRunner().invoke(
        main,
        ["cross-validate", str(path), "--data", str(tmp_path), "--weights", str(tmp_path), "--work", str(tmp_path)],
    )
    assert done.exit_code == 1
    assert "none.npz" in done.output and "--weights" in done.output
