"""What the training side refuses, and how it splits."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage
from sklearn.model_selection import StratifiedGroupKFold

from compression import data, evaluate, reference, stages, tables
from compression.build import STAGES, Build
from compression.calibrate import Answers, expected_calibration_error, fit, fit_conformal, fit_logistic
from compression.cli import main
from compression.content import content_version
from compression.recipe import Recipe, RecipeError, read
from tests.dicom_files import chest_pixels
from tests.running import CHECKOUT

RECIPE = CHECKOUT / "models" / "chest-pneumonia" / "recipe.toml"


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return read(RECIPE)


def changed(tmp_path: Path, old: str, new: str) -> Path:
    text = RECIPE.read_text()
    assert old in text
    (tmp_path / "recipe.toml").write_text(text.replace(old, new, 1))
    return tmp_path / "recipe.toml"


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("epochs = 5", "epochz = 5", "epochz"),
        ("epochs = 5", "epochs = 'five'", "train.epochs"),
        ('version = "1.3.1"', 'version = "one"', "version"),
        ('default_operating_point = "balanced"', 'default_operating_point = "best"', "default_operating_point"),
        ("sensitivity = 0.98", "sensitivity = 1.5", "sensitivity"),
        ("[input]", "[input", "recipe.toml"),
        ("std = 0.25", "std = 0.0", "std"),
        ("std = 0.25", "std = -0.25", "std"),
        ('weights = "mobilenet_v2_imagenet_folded.npz"', 'network = "vgg16"', "vgg16"),
    ],
)
def test_a_wrong_recipe_is_named(old: str, new: str, word: str, tmp_path: Path) -> None:
    path = changed(tmp_path, old, new)
    with pytest.raises(RecipeError, match=word) as fault:
        read(path)
    assert str(path) in str(fault.value)
    if word != "default_operating_point":  # which is no fault of one line alone
        line = next(number for number, text in enumerate(path.read_text().splitlines(), start=1) if new in text)
        assert f"line {line}" in str(fault.value)


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("learning_rate = 3e-4  ", "learning_rate = -3e-4", "train.learning_rate"),
        ("learning_rate = 3e-4  ", "learning_rate = 0.0", "train.learning_rate"),
        ("learning_rate = 3e-4  ", "learning_rate = nan", "train.learning_rate"),
        ("weight_decay = 0.01", "weight_decay = -0.01", "train.weight_decay"),
        ("dropout = 0.2", "dropout = 1.0", "train.dropout"),
        ("epochs = 5 ", "epochs = 0 ", "train.epochs"),
        ("batch = 32", "batch = 0", "train.batch"),
        ("threads = 2", "threads = 0", "train.threads"),
        ("average_decay = 0.998", "average_decay = 1.0", "train.average_decay"),
        ("rows = 224", "rows = 0", "input.rows"),
        ("percentile_low = 1.0", "percentile_low = -1.0", "input.percentile_low"),
        ("percentile_high = 99.0", "percentile_high = 199.0", "input.percentile_high"),
        ("mean = 0.5", "mean = inf", "input.mean"),
        ("std = 0.25", "std = 0.0", "input.std"),
        ("std = 0.25", "std = -0.25", "input.std"),
        ("std = 0.25", "std = inf", "input.std"),
        ("seed = 20260101", "seed = -1", "data.seed"),
        ("seed = 20260101", "seed = 4294967296", "data.seed"),
        ("learning_rate = 3e-4\n", "learning_rate = -3e-4\n", "prune.learning_rate"),
        ("ratios = [0.3, 0.4, 0.5]", "ratios = [0.3, 1.4]", "prune.ratios"),
        ("most_of_a_layer = 0.75", "most_of_a_layer = 0.0", "prune.most_of_a_layer"),
        ("distillation = 0.9", "distillation = 1.9", "prune.distillation"),
        ("aware_learning_rate = 5e-5", "aware_learning_rate = 0", "quantize.aware_learning_rate"),
        ('targets = ["cpu", "openvino", "tensorrt"]', "targets = []", "quantize.targets"),
        ("images = 200", "images = 1", "quantize.images"),
        ("coverage = 0.90", "coverage = 9.0", "calibrate.coverage"),
        ("augmented_copies = 3", "augmented_copies = 0", "calibrate.augmented_copies"),
        ("flips = 0.02", "flips = 2", "gate.flips"),
        ("count = 16", "count = 1", "golden.count"),
        ("count = 16", "count = 15", "golden.count"),
        ("spread = 0.9", "spread = 0.0", "golden.spread"),
        ("bootstrap = 2000", "bootstrap = 0", "evaluate.bootstrap"),
    ],
)
def test_a_number_that_makes_no_sense_is_named_with_its_line(old: str, new: str, key: str, tmp_path: Path) -> None:
    path = changed(tmp_path, old, new)
    with pytest.raises(RecipeError, match=rf"recipe\.toml, line \d+: .*`\$\.{re.escape(key)}(\[\d\])?`"):
        read(path)


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("percentile_low = 1.0", "percentile_low = 99.5", "input.percentile_low 99.5 is not below input.percentile_hi"),
        ("percentile_high = 99.0", "percentile_high = 1.0", "every image would be flat"),
        ("age_years = [1.0, 5.0]", "age_years = [5.0, 1.0]", "package.intended_use.age_years"),
        ('name = "high_sensitivity"', 'name = "balanced"', "calibrate.operating_points has balanced more than once"),
        ('targets = ["cpu", ', 'targets = ["cpu", "cpu", ', "quantize.targets has cpu more than once"),
    ],
)
def test_numbers_that_do_not_go_together_are_named(old: str, new: str, word: str, tmp_path: Path) -> None:
    path = changed(tmp_path, old, new)
    with pytest.raises(RecipeError, match=word) as fault:
        read(path)
    assert str(path) in str(fault.value)


def test_what_is_for_classifications_alone_says_so_of_a_segmentation(tmp_path: Path) -> None:
    lungs = CHECKOUT / "models" / "lungs" / "recipe.toml"
    said = "is the recipe of a segmentation, and this is for classifications only; for both are check-data, contact-sh"
    with pytest.raises(RecipeError, match=said) as fault:
        read(lungs)
    assert str(lungs) in str(fault.value)
    refused = CliRunner().invoke(main, ["linear-probe", str(lungs), "--data", str(tmp_path)])
    assert refused.exit_code == 1
    assert said in refused.output
    for recipe, other in ((lungs, "chest-pneumonia"), (RECIPE, "lungs")):
        (package,) = (CHECKOUT / "models" / other).glob("*.scanside")
        key = tmp_path / "key.pem"
        CliRunner().invoke(main, ["keygen", str(key)])
        arguments = ["add-reference", str(recipe), str(package), "--key", str(key), "--work", str(tmp_path / "work")]
        refused = CliRunner().invoke(main, arguments)
        assert refused.exit_code == 1
        assert "give the package's own recipe" in refused.output
        assert not (tmp_path / "work").exists()


def test_a_recipe_may_say_that_it_is_of_a_classification(tmp_path: Path) -> None:
    path = changed(tmp_path, "[package]", 'task = "classification"\n[package]')
    assert read(path) == read(RECIPE)
    with pytest.raises(RecipeError, match="task 'detection' is none of"):
        read(changed(tmp_path, "[package]", 'task = "detection"\n[package]'))


def write_data_set(folder: Path, patients: int, images_each: int = 2, seed: int = 0) -> Path:
    """Generated radiographs of two kinds, clear lungs and clouded ones, as a data set with its list."""
    rows = []
    for patient in range(patients):
        positive = patient % 2 == 1
        for number in range(images_each):
            pixels = chest_pixels(96, 96, 8, seed=seed + patient * 10 + number).astype(np.float32)
            if positive:
                pixels[50:80, 55:85] += 90
            file = folder / "images" / f"{patient}-{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            PillowImage.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file)
            rows.append(
                {
                    "file": str(file.relative_to(folder)),
                    "label": "PNEUMONIA" if positive else "NORMAL",
                    "patient_id": f"p{patient}",
                    "split": "test" if patient % 5 == 0 or patient % 5 == 1 else "train",
                }
            )
    with (folder / "manifest.csv").open("w", newline="") as file_:
        writer = csv.DictWriter(file_, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder


def make_build(recipe: Recipe, folder: Path) -> Build:
    key = Ed25519PrivateKey.generate()
    return Build(recipe, RECIPE, folder / "data", folder / "weights", folder / "work", key, folder)


def test_no_patient_is_in_two_splits(recipe: Recipe, tmp_path: Path) -> None:
    write_data_set(tmp_path / "data" / "chest-kermany", patients=60)
    build = make_build(recipe, tmp_path)
    build.folder("data").mkdir(parents=True)
    data.run(build)
    patients = {split: set(data.load(build, split).patients) for split in data.SPLITS}
    assert all(patients.values())
    assert not patients["train"] & patients["validation"]
    assert not patients["train"] & patients["test"]
    assert not patients["validation"] & patients["test"]
    assert {len(data.load(build, "validation").labels) for _ in range(2)} == {len(data.load(build, "validation"))}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, ""),
        ({"data_manifest_sha256": "0" * 64}, "was made of other data"),
        ({"images": {"train": 1, "validation": 1, "test": 1}}, "images that it learned from"),
        ({"validation_dealt_by": None}, "images that it learned from"),  # as builds dealt it once, whatever the sites
    ],
)
def test_a_reference_is_of_images_that_the_package_has_not_learned_from(
    recipe: Recipe, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    folder = write_data_set(tmp_path / "data" / "chest-kermany", patients=60)
    rows = tables.read(folder / "manifest.csv", ())
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "site"])
        writer.writeheader()
        writer.writerows({**row, "site": f"site {number % 2}"} for number, row in enumerate(rows))
    build = make_build(recipe, tmp_path)
    build.folder("data").mkdir(parents=True)
    data.run(build)
    made = {
        "data_manifest_sha256": reference.data_digest(build),
        "images": {split: len(data.load(build, split)) for split in data.SPLITS},
        "validation_dealt_by": "site",
    }
    before: Any = SimpleNamespace(manifest=SimpleNamespace(training={**made, **change}))
    with pytest.raises(RecipeError, match=words) if words else nullcontext():
        reference.check_same(build, before)


def prepared(recipe: Recipe, root: Path) -> dict[str, data.Images]:
    build = make_build(recipe, root)
    build.folder("data").mkdir(parents=True, exist_ok=True)
    data.run(build)
    return {split: data.load(build, split) for split in data.SPLITS}


def test_patients_whom_the_list_gives_to_validation_are_the_validation(recipe: Recipe, tmp_path: Path) -> None:
    folder = write_data_set(tmp_path / "data" / "chest-kermany", patients=60)
    listed = folder / "manifest.csv"
    given = {f"p{number}" for number in range(60) if number % 5 == 3}
    lines = [
        line.replace(",train", ",validation") if line.split(",")[2] in given else line
        for line in listed.read_text().splitlines()
    ]
    listed.write_text("\n".join(lines))
    found = prepared(recipe, tmp_path)
    assert set(found["validation"].patients) == given
    assert set(found["train"].patients) == {f"p{number}" for number in range(60) if number % 5 in (2, 4)}
    assert {row["split"] for row in data.training_rows(folder)} == {"train", "validation"}


def add_column(folder: Path, name: str, value_of: Callable[[int], str]) -> None:
    """A column of the list, by the patient's number."""
    with (folder / "manifest.csv").open(newline="") as file:
        rows = [{**row, name: value_of(int(row["patient_id"][1:]))} for row in csv.DictReader(file)]
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_sites_are_spread_where_validation_is_dealt_and_a_list_without_them_is_dealt_by_label(
    recipe: Recipe, tmp_path: Path
) -> None:
    """Of the training side's 36 patients of each label, 8 are of the small site and 7 groups are dealt."""
    folder = write_data_set(tmp_path / "data" / "chest-kermany", patients=120, images_each=1)
    rows = [row for row in data.read_manifest(folder) if row["split"] == "train"]
    labels = np.array([row["label"] == "PNEUMONIA" for row in rows])
    patients = np.array([row["patient_id"] for row in rows])
    splitter = StratifiedGroupKFold(recipe.data.validation_folds, shuffle=True, random_state=recipe.data.seed)
    _, by_label = next(splitter.split(labels, labels, patients))
    assert prepared(recipe, tmp_path)["validation"].patients.tolist() == patients[by_label].tolist()
    rest = [np.setdiff1d(patients[labels == label], patients[by_label]) for label in (True, False)]
    small = {each for of_label in rest for each in of_label[:8]}  # of which dealing by label alone takes none
    add_column(folder, "ward", lambda number: "small" if f"p{number}" in small else "large")
    assert prepared(recipe, tmp_path)["validation"].patients.tolist() == patients[by_label].tolist()
    named = msgspec.structs.replace(recipe, check=msgspec.structs.replace(recipe.check, site="ward"))
    validation = prepared(named, tmp_path)["validation"]
    for label in (True, False):
        assert 1 <= len(set(validation.patients[validation.labels == label]) & small) <= 2


def test_another_column_of_sites_deals_anew_only_where_validation_is_dealt(recipe: Recipe, tmp_path: Path) -> None:
    folder = write_data_set(tmp_path / "data" / "chest-kermany", patients=20)
    add_column(folder, "site", lambda _: "north")
    add_column(folder, "ward", lambda _: "south")

    def key(site: str | None) -> bytes:
        named = msgspec.structs.replace(recipe, check=msgspec.structs.replace(recipe.check, site=site))
        return data.fingerprint(make_build(named, tmp_path))

    assert key(None) == key("site") != key("ward")
    add_column(folder, "split", lambda number: ("train", "validation", "test")[number // 2 % 3])
    assert key("site") == key("ward")


def test_the_same_version_and_seed_give_the_same_split_wherever_the_files_lie(recipe: Recipe, tmp_path: Path) -> None:
    write_data_set(tmp_path / "one" / "data" / "chest-kermany", patients=60)
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    versions = {content_version(tmp_path / root / "data" / "chest-kermany") for root in ("one", "other")}
    assert len(versions) == 1
    one, other = prepared(recipe, tmp_path / "one"), prepared(recipe, tmp_path / "other")
    for split in data.SPLITS:
        assert one[split].patients.tolist() == other[split].patients.tolist()
        np.testing.assert_array_equal(one[split].pixels, other[split].pixels)
    shutil.rmtree(tmp_path / "other" / "work" / "data")
    seeded = msgspec.structs.replace(recipe, data=msgspec.structs.replace(recipe.data, seed=recipe.data.seed + 1))
    again = prepared(seeded, tmp_path / "other")  # its pixels come from the cache
    assert again["validation"].patients.tolist() != one["validation"].patients.tolist()
    np.testing.assert_array_equal(again["test"].pixels, one["test"].pixels)


def test_a_changed_image_changes_the_key_of_the_stage(recipe: Recipe, tmp_path: Path) -> None:
    folder = write_data_set(tmp_path / "data" / "chest-kermany", patients=4)
    build = make_build(recipe, tmp_path)
    before = data.fingerprint(build)
    PillowImage.fromarray(chest_pixels(96, 96, 8, 999)).save(folder / "images" / "0-0.png")
    assert data.fingerprint(build) != before


def test_a_patient_who_is_in_two_official_splits_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    folder = write_data_set(tmp_path / "data" / "chest-kermany", patients=60)
    manifest = (folder / "manifest.csv").read_text().replace(",p2,train", ",p0,train")
    (folder / "manifest.csv").write_text(manifest)
    build = make_build(recipe, tmp_path)
    build.folder("data").mkdir(parents=True)
    with pytest.raises(RecipeError, match="p0"):
        data.run(build)


def test_a_picture_that_breaks_off_within_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    PillowImage.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300), dtype=np.uint8)).save(path)
    content = bytearray(path.read_bytes())
    second = content.index(b"IDAT", content.index(b"IDAT") + 4)
    content[second : second + 4] = b"\0\0\0\0"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"broken\.png can't be decoded"):
        data.decode(path)


@pytest.mark.parametrize(
    ("kept", "words"), [(4, "can't be dealt to 7 folds"), (1, "all .* images of train are negative")]
)
def test_too_few_patients_are_said_before_any_training(kept: int, words: str, recipe: Recipe, tmp_path: Path) -> None:
    folder = write_data_set(tmp_path / "data" / "chest-kermany", patients=60)
    lines = (folder / "manifest.csv").read_text().splitlines()
    training = [line for line in lines if line.endswith("train")]
    training = [line for line in training if "NORMAL" in line] if kept == 1 else training[: 2 * kept]
    (folder / "manifest.csv").write_text(
        "\n".join([lines[0], *(line for line in lines if line.endswith("test")), *training])
    )
    build = make_build(recipe, tmp_path)
    build.folder("data").mkdir(parents=True)
    with pytest.raises(RecipeError, match=words):
        data.run(build)


def test_another_external_set_is_evaluated_anew(recipe: Recipe, tmp_path: Path) -> None:
    far = write_data_set(tmp_path / "data" / "chest-nih", patients=4)
    build = make_build(recipe, tmp_path)
    before = evaluate.fingerprint(build)
    manifest = far / "manifest.csv"
    manifest.write_text(manifest.read_text().replace("NORMAL", "PNEUMONIA", 1))
    assert evaluate.fingerprint(build) != before


def test_a_training_picture_that_comes_into_an_external_set_after_stage_data_is_named_before_it_measures(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    near = write_data_set(tmp_path / "data" / "chest-kermany", patients=60)
    far = write_data_set(tmp_path / "data" / "chest-nih", patients=4, seed=5000)
    build, manifest = make_build(recipe, tmp_path), far / "manifest.csv"
    both = [stage for stage in STAGES if stage.name in ("data", "evaluate")]
    stages.run(build, both, "data", (), ())
    (far / "images" / "again.png").write_bytes((near / "images" / "2-0.png").read_bytes())
    manifest.write_text(manifest.read_text() + "images/again.png,NORMAL,p9,train\n")
    with pytest.raises(RecipeError, match="the same picture in two splits") as fault:
        stages.run(build, both, None, (), ())
    copies = "chest-kermany/images/2-0.png (train, NORMAL) = chest-nih/images/again.png (chest-nih, NORMAL)"
    assert copies in str(fault.value)
    assert re.search(r"^data +kept:", capsys.readouterr().out, re.MULTILINE)  # and no training is made again


def test_a_data_set_that_is_not_there_is_named(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"chest-kermany.*--data"):
        data.run(make_build(recipe, tmp_path))


@settings(max_examples=25, deadline=None)
@given(true=st.floats(0.3, 4.0), shift=st.floats(-2, 2), seed=st.integers(0, 100))
def test_temperature_and_bias_of_distorted_logits_are_found(true: float, shift: float, seed: int) -> None:
    chance = np.random.default_rng(seed)
    logits = chance.normal(0, 2, 6000)
    labels = chance.random(6000) < 1 / (1 + np.exp(-(logits + shift)))
    temperature, bias = fit_logistic(logits * true, labels)
    assert temperature == pytest.approx(true, rel=0.2)
    assert bias == pytest.approx(shift, abs=0.3)


@given(seed=st.integers(0, 1000), coverage=st.sampled_from([0.8, 0.9, 0.95]))
def test_prediction_sets_hold_the_truth_as_often_as_stated_in_each_class(seed: int, coverage: float) -> None:
    chance = np.random.default_rng(seed)
    labels = chance.random(20_000) < 0.3
    probabilities = 1 / (1 + np.exp(-chance.normal(np.where(labels, 1.0, -1.0), 1.5)))
    found = fit_conformal(probabilities[:10_000], labels[:10_000], coverage)
    fresh, truth = probabilities[10_000:], labels[10_000:]
    assert (1 - fresh[truth] <= found.present).mean() == pytest.approx(coverage, abs=0.06)
    assert (fresh[~truth] <= found.absent).mean() == pytest.approx(coverage, abs=0.06)


def test_a_prediction_set_holds_the_truth_where_all_probabilities_are_next_to_0_and_1() -> None:
    labels = np.arange(400) < 200
    probabilities = np.where(labels, 1 - 1e-7, 1e-7)
    found = fit_conformal(probabilities, labels, 0.9)
    assert (probabilities[~labels] <= found.absent).all()
    assert (1 - probabilities[labels] <= found.present).all()


@pytest.mark.parametrize(("images", "sure"), [(18, False), (19, True), (20, True)])
def test_a_class_with_too_few_images_for_a_coverage_is_in_every_prediction_set(images: int, sure: bool) -> None:
    labels = np.arange(200 + images) < images
    found = fit_conformal(np.where(labels, 0.8, 0.1), labels, 0.95)
    assert found.absent == pytest.approx(0.1)
    assert found.present == pytest.approx(0.2 if sure else 1.0)


def answers(positives: np.ndarray, negatives: np.ndarray) -> Answers:
    """Of images that look the same in their one copy."""
    labels = np.arange(len(positives) + len(negatives)) < len(positives)
    logits = np.concatenate([positives, negatives])
    return Answers(np.stack([logits, logits]), np.ones((len(labels), 2, 2)), labels, np.zeros((2, len(labels), 1)))


def test_a_threshold_is_the_largest_that_finds_the_share_of_positives(recipe: Recipe) -> None:
    chance = np.random.default_rng(0)
    found = fit(recipe.calibrate, answers(chance.normal(1, 1, 100), chance.normal(-1, 1, 100)))
    stated = {point.name: point.sensitivity for point in recipe.calibrate.operating_points}
    assert {point.name: point.sensitivity for point in found.operating_points} == stated


def test_an_operating_point_at_which_every_image_is_positive_is_refused(recipe: Recipe) -> None:
    chance = np.random.default_rng(0)
    positives = np.append(chance.normal(6, 1, 94), np.full(6, -200.0))
    with pytest.raises(RecipeError, match="high_sensitivity would call every image positive: to find 98"):
        fit(recipe.calibrate, answers(positives, chance.normal(-6, 1, 100)))


def test_the_calibration_error_of_honest_probabilities_is_small() -> None:
    chance = np.random.default_rng(0)
    probabilities = chance.random(20_000)
    labels = chance.random(20_000) < probabilities
    assert expected_calibration_error(probabilities, labels) < 0.02
    assert expected_calibration_error(np.full(1000, 0.9), np.zeros(1000, dtype=bool)) == pytest.approx(0.9)
