"""Cross-validation of a classification: every patient of the training side is asked about once, by a network that has
not seen them; the test has no part in it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from msgspec.structs import replace
from scipy.stats import norm

from appliance.package import Conformal, OperatingPoint
from compression import build as classification
from compression import cross_validation, data, fold, splits
from compression import stages as building
from compression.build import Build
from compression.calibrate import Calibration
from compression.cli import main
from compression.held_out import Answers, Scores
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
    assert said.count(" kept: ") == 1 + 4 * FOLDS and " s: " not in said


def test_another_training_is_not_taken_for_this_one(build: Build, recipe: Recipe) -> None:
    fold_data, training, _ = cross_validation.STAGES
    building.run(build, classification.STAGES, "data", (), ())
    each = fold.of(build, 0, FOLDS)
    building.run(each, (fold_data, training), None, (), ())
    before = dict(each.keys)
    other = make_build(replace(recipe, train=replace(recipe.train, epochs=2)), build.out)
    building.run(other, classification.STAGES, "data", (), ())
    again = fold.of(other, 0, FOLDS)
    building.run(again, (fold_data, training), None, (), ())
    assert again.keys["data"] == before["data"]
    assert again.keys["train"] != before["train"]


def with_columns(build: Build, **columns: Callable[[int], str]) -> None:
    """Further columns of the list, from the patient's number."""
    path = build.data_root / "chest-kermany" / "manifest.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], *columns])
        writer.writeheader()
        for row in rows:
            number = int(row["patient_id"].removeprefix("p"))
            writer.writerow(row | {name: value(number) for name, value in columns.items()})


def test_sites_are_spread_over_the_folds(build: Build) -> None:
    with_columns(build, site=lambda number: "north" if number % 4 < 2 else "south")
    building.run(build, classification.STAGES, "data", (), ())
    for number in range(FOLDS):
        each = fold.of(build, number, FOLDS)
        building.run(each, cross_validation.STAGES[:1], None, (), ())
        held = sorted(set(data.load(each, "test").patients))
        north = sum(int(patient.removeprefix("p")) % 4 < 2 for patient in held)
        assert abs(north - len(held) / 2) <= 2


def scores(folder: str, labels: np.ndarray, negative: float, positive: float) -> Scores:
    patients = np.array([f"{folder}{number}" for number in range(len(labels))])
    return Scores(np.where(labels, positive, negative), labels, patients)


def test_figures_are_of_each_fold_by_its_own_thresholds(build: Build) -> None:
    """Two folds that rank perfectly on scales of their own: neither one threshold for both, nor one ranking."""
    labels = np.arange(40) % 2 == 1
    answers = [
        Answers(scores(name, labels, low, high), scores(f"v{name}", labels, low, high), calibration(threshold))
        for name, low, high, threshold in (("a", 0.1, 0.4, 0.3), ("b", 0.5, 0.9, 0.8))
    ]
    found = cross_validation.report(build, answers)
    assert [each["auc"][0] for each in found["folds"]] == [1.0, 1.0]
    assert found["all"]["auc"][0] == 1.0 and found["all"]["auc_standard_deviation"] == 0.0
    for at in found["all"]["operating_points"].values():
        assert at["sensitivity"][0] == at["specificity"][0] == 1.0
        assert at["sensitivity_lost"][0] == 0.0
    assert found["all"]["patients"] == 80


def test_the_mean_of_folds_is_as_certain_as_its_patients_allow(build: Build) -> None:
    """Simulated: the interval holds the true area as often as it says, and is narrower than one fold's."""
    chance, true, held = np.random.default_rng(0), norm.cdf(1.5 / np.sqrt(2)), 0
    labels = np.arange(100) % 2 == 1
    for trial in range(200):
        answers = []
        for number in range(4):
            drawn = 1 / (1 + np.exp(-(chance.normal(0, 1, 100) + 1.5 * labels)))
            patients = np.array([f"{number} {image}" for image in range(100)])
            each = Scores(drawn, labels, patients)
            answers.append(Answers(each, each, calibration(0.5)))
        found = cross_validation.report(build, answers)
        _, low, high = found["all"]["auc"]
        held += low <= true <= high
        if trial == 0:
            _, one_low, one_high = found["folds"][0]["auc"]
            assert 1.6 < (one_high - one_low) / (high - low) < 2.5
    assert 0.91 <= held / 200 <= 0.985


def test_what_patients_lose_that_thresholds_were_not_chosen_on_is_told(build: Build) -> None:
    labels = np.arange(400) % 2 == 1
    known = scores("v", labels, 0.1, 0.9)
    others = scores("h", labels, 0.1, 0.9)
    others.probabilities[np.flatnonzero(labels)[:60]] = 0.2
    answers = [Answers(others, known, calibration(0.5)), Answers(known, known, calibration(0.5))]
    found = cross_validation.report(build, answers)
    assert found["all"]["operating_points"]["balanced"]["sensitivity_lost"][0] == pytest.approx(0.15)
    assert "that thresholds were not chosen on lose 0.1" in cross_validation.in_words(found)
    # Copies that are harder than the images themselves are no such loss.
    easy = cross_validation.report(build, [Answers(known, known, calibration(0.5))] * 2)
    assert "not chosen on lose" not in cross_validation.in_words(easy)


def test_another_column_of_sites_deals_anew(build: Build, recipe: Recipe) -> None:
    with_columns(build, ward=lambda number: str(number % 3))
    building.run(build, classification.STAGES, "data", (), ())
    other = make_build(replace(recipe, check=replace(recipe.check, site="ward")), build.out)
    building.run(other, classification.STAGES, "data", (), ())
    assert fold.fingerprint(fold.of(other, 0, FOLDS)) != fold.fingerprint(fold.of(build, 0, FOLDS))


def test_a_fold_without_a_class_is_told_before_any_training(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dealing by patient promises no class to each fold where patients are very uneven."""

    def uneven(content: splits.Content, folds: int) -> list[tuple[np.ndarray, np.ndarray]]:
        held = np.flatnonzero(content.labels != "PNEUMONIA")[:10]
        return [(np.setdiff1d(np.arange(len(content)), held), held)] * folds

    monkeypatch.setattr(splits, "k_fold", uneven)
    building.run(build, classification.STAGES, "data", (), ())
    with pytest.raises(RecipeError, match="all 10 images held out are of one class"):
        building.run(fold.of(build, 0, FOLDS), cross_validation.STAGES, "data", (), ())


def test_too_few_patients_are_told_before_any_training(build: Build) -> None:
    with pytest.raises(RecipeError, match=r"fold 1 of 30: .* has 18 patients: too few for 30 parts"):
        cross_validation.run(build, 30)
    assert not list(build.work.glob("cross-validation/*/*/train"))


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
