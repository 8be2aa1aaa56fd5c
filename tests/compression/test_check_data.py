"""check-data finds planted defects, ends with the right code, and finds the known leaks of the real data set."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image as PillowImage

from appliance.preprocess import preprocess
from appliance.signature import load_or_create_private_key
from compression import check_data, confounders, duplicates, inventory, label_errors
from compression.architectures.mobilenet_v2 import MobileNetV2
from compression.cli import main
from compression.recipe import RecipeError, read
from tests.compression.test_recipe_and_data import RECIPE, write_data_set
from tests.dicom_files import chest_pixels
from tests.running import CHECKOUT

SHARED = CHECKOUT.parent / "shared" / "data"


class DataSet:
    """A generated data set whose list and images a test may spoil, and what check-data says of it."""

    def __init__(self, root: Path, patients: int = 40, images_each: int = 2) -> None:
        self.root = root
        self.folder = write_data_set(root / "data" / "chest-kermany", patients, images_each)
        with (self.folder / "manifest.csv").open(newline="") as file:
            self.rows: list[dict[str, str]] = list(csv.DictReader(file))
        self.extra = ""
        self.replaced: dict[str, str] = {}

    def path(self, number: int) -> Path:
        return self.folder / self.rows[number]["file"]

    def pixels(self, number: int) -> np.ndarray:
        with PillowImage.open(self.path(number)) as image:
            return np.asarray(image)

    def of(self, label: str, split: str) -> list[int]:
        return [number for number, row in enumerate(self.rows) if (row["label"], row["split"]) == (label, split)]

    def write(self) -> Path:
        """Write the list and the recipe; the recipe's path."""
        with (self.folder / "manifest.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(self.rows[0]))
            writer.writeheader()
            writer.writerows(self.rows)
        recipe = self.root / "recipe.toml"
        own = ("external =", "looked_at =")  # which name sets that are not here
        lines = [line for line in RECIPE.read_text().splitlines() if not line.startswith(own)]
        text = "\n".join(lines) + f"\n{self.extra}\n"
        for old, new in self.replaced.items():
            text = text.replace(old, new)
        recipe.write_text(text)
        return recipe

    def run(self, *options: str) -> Result:
        """The command, as a user gives it."""
        arguments = ["check-data", str(self.write()), "--data", str(self.root / "data"), "--weights", str(self.root),
                     "--work", str(self.root / "work"), *options]  # fmt: skip
        return CliRunner().invoke(main, arguments, catch_exceptions=False)

    def build(self) -> Result:
        """Stage data of a build of the same recipe, from scratch, since no test has initial weights."""
        recipe = self.write()
        lines = [line for line in recipe.read_text().splitlines() if not line.startswith("weights =")]
        recipe.write_text("\n".join(lines))
        load_or_create_private_key(self.root / "key.pem")
        arguments = ["build", str(recipe), "--data", str(self.root / "data"), "--weights", str(self.root),
                     "--work", str(self.root / "work"), "--key", str(self.root / "key.pem"),
                     "--stage", "data"]  # fmt: skip
        return CliRunner().invoke(main, arguments)

    def report(self) -> dict[str, Any]:
        """What the command writes as JSON, without the page, which takes longer."""
        checked = check_data.check(read(self.write()), self.root / "data", self.root)
        assert checked.stops == any(each["severity"] == "error" for each in checked.report["problems"])
        found: dict[str, Any] = json.loads(json.dumps(checked.report, allow_nan=False))
        return found


@pytest.fixture
def data_set(tmp_path: Path) -> DataSet:
    return DataSet(tmp_path)


def problems(report: dict[str, Any], what: str) -> list[dict[str, Any]]:
    return [each for each in report["problems"] if each["what"] == what]


def problem(report: dict[str, Any], what: str) -> dict[str, Any]:
    (found,) = problems(report, what)
    return found


def test_a_sound_data_set_stops_nothing_and_all_is_counted(data_set: DataSet) -> None:
    result = data_set.run("--json")
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert not [each for each in report["problems"] if each["severity"] == "error"]
    found = report["sets"]["chest-kermany"]
    assert found["counts"]["used"] == 80
    assert found["counts"]["patients"] == 40
    assert found["counts"]["by"]["label"]["PNEUMONIA"] == {"images": 40, "patients": 20}
    assert found["counts"]["split_by_label"]["test"] == {"NORMAL": 16, "PNEUMONIA": 16}
    assert found["counts"]["images_per_patient"]["histogram"] == {"2": 40}
    assert found["parameters"] > 2_000_000
    assert found["bands"]["training images"]["in_words"].startswith("few")
    assert report["duplicates"]["exact"] == []


def test_tables_and_pages_say_the_same_and_only_the_work_folder_has_pictures(data_set: DataSet) -> None:
    data_set.rows[2]["label"] = "PNEUMONIA" if data_set.rows[2]["label"] == "NORMAL" else "NORMAL"
    result = data_set.run("--out", str(data_set.root / "out"))
    assert "version" in result.stdout
    assert "patients" in result.stdout
    shown = (data_set.root / "work" / "check-data" / "check-data.html").read_text()
    named = (data_set.root / "out" / "check-data.html").read_text()
    assert "data:image" in shown
    assert "data:image" not in named
    assert data_set.rows[2]["file"] in named
    for text in (shown, named):
        assert "<svg" in text
        assert "<script" not in text
        assert "href=" not in text.replace("xlink:href", "")
    json.loads((data_set.root / "out" / "check-data.json").read_text())


def test_a_patient_in_two_splits_stops(data_set: DataSet) -> None:
    other = data_set.of("NORMAL", "test")[0]
    data_set.rows[other]["patient_id"] = data_set.rows[data_set.of("NORMAL", "train")[0]]["patient_id"]
    result = data_set.run()
    assert result.exit_code == 1
    assert "ERROR: chest-kermany: patients in two splits: 1" in result.stdout
    found = problem(data_set.report(), "patients in two splits")
    assert found["severity"] == "error"
    assert found["count"] == 1
    assert data_set.rows[other]["patient_id"] in found["examples"][0]


def test_damaged_rows_are_named_and_counted(data_set: DataSet) -> None:
    data_set.extra = '[check]\nlabels = ["NORMAL", "PNEUMONIA"]'
    data_set.path(0).unlink()
    data_set.path(1).write_bytes(data_set.path(1).read_bytes()[:400])
    data_set.path(2).write_bytes(b"no image at all")
    PillowImage.fromarray(np.full((96, 96), 7, dtype=np.uint8)).save(data_set.path(3))
    data_set.rows[4]["label"] = "TUBERCULOSIS"
    data_set.rows[5]["label"] = ""
    data_set.rows[6]["patient_id"] = ""
    report = data_set.report()
    assert {kind: len(each) for kind, each in report["sets"]["chest-kermany"]["faults"].items()} == {
        "missing file": 1, "corrupt image": 2, "constant image": 1, "label": 2, "no patient": 1,
    }  # fmt: skip
    assert data_set.rows[0]["file"] in problem(report, "missing file")["examples"][0]
    assert "TUBERCULOSIS" in problem(report, "label")["examples"][0]
    assert str(data_set.root) not in json.dumps(report["problems"])
    assert report["sets"]["chest-kermany"]["counts"]["used"] == 74


def test_images_of_more_than_8_bits_are_read_at_their_depth_and_a_mixture_is_told(data_set: DataSet) -> None:
    for number, row in enumerate(data_set.rows):
        if row["label"] == "PNEUMONIA":
            PillowImage.fromarray(data_set.pixels(number).astype(np.uint16) * 16).save(data_set.path(number))
    report = data_set.report()
    found = report["sets"]["chest-kermany"]
    assert found["counts"]["used"] == 80
    assert found["faults"] == {}
    stored = {each["name"]: each for each in found["confounders"]["stored"]}
    assert stored["bits"]["flagged"]
    assert stored["bits"]["positive"] == 16


def test_a_label_in_another_spelling_is_a_fault_though_none_are_declared(data_set: DataSet) -> None:
    data_set.rows[4]["label"] = f" {data_set.rows[4]['label'].lower()}"
    assert "most are spelled" in problem(data_set.report(), "label")["examples"][0]


def test_masks_are_compared_with_their_images(data_set: DataSet) -> None:
    (data_set.folder / "masks").mkdir()
    for number, row in enumerate(data_set.rows):
        mask = np.zeros((96, 96), dtype=np.uint8)
        mask[20:60, 20:60] = 1
        if number == 0:
            mask = mask[:90]
        if number == 1:
            mask[:] = 0
        row["mask"] = f"masks/{number}.png"
        PillowImage.fromarray(mask).save(data_set.folder / row["mask"])
    data_set.rows[2]["mask"] = "masks/nowhere.png"
    report = data_set.report()
    bands = report["sets"]["chest-kermany"]["bands"]
    assert bands["training images"]["in_words"].startswith("few: classifiers")  # masks make no other task of it
    assert "96x90 and 96x96" in problem(report, "mask of another size")["examples"][0]
    assert problem(report, "mask of another size")["severity"] == "error"
    assert problem(report, "missing mask")["count"] == 1
    assert problem(report, "empty mask")["severity"] == "warning"


def test_a_copy_in_another_split_is_found_however_it_was_changed(data_set: DataSet) -> None:
    """Equal pixels in another file format stop; a smaller, brighter JPEG of the same is a warning with its distance."""
    test, train = data_set.of("NORMAL", "test"), data_set.of("NORMAL", "train")
    exact = data_set.folder / "images" / "exact.bmp"
    PillowImage.fromarray(data_set.pixels(train[0])).save(exact)
    data_set.rows[test[0]]["file"] = "images/exact.bmp"
    near = data_set.folder / "images" / "near.jpg"
    brighter = (255 * (data_set.pixels(train[3]) / 255.0) ** 0.8).astype(np.uint8)
    PillowImage.fromarray(brighter).resize((80, 80)).save(near, quality=80)
    data_set.rows[test[2]]["file"] = "images/near.jpg"
    report = data_set.report()
    found = problem(report, "the same picture in two splits")
    assert found["severity"] == "error"
    assert "images/exact.bmp (test)" in found["examples"][0]
    (pair,) = report["duplicates"]["near"]
    assert set(pair["files"]) == {"images/near.jpg", data_set.rows[train[3]]["file"]}
    assert pair["distance"] < report["duplicates"]["limit"]
    assert problem(report, "near duplicates between splits")["count"] == 1


def test_rows_that_the_list_leaves_out_count_nowhere(data_set: DataSet) -> None:
    for row in data_set.rows:
        row["exact_duplicate_of"] = ""
    test, train = data_set.of("NORMAL", "test")[0], data_set.of("NORMAL", "train")[0]
    PillowImage.fromarray(data_set.pixels(train)).save(data_set.path(test))
    data_set.rows[test]["exact_duplicate_of"] = data_set.rows[train]["file"]
    report = data_set.report()
    assert not problems(report, "the same picture in two splits")
    assert report["sets"]["chest-kermany"]["counts"]["left_out_as_duplicates"] == 1
    data_set.rows[data_set.of("PNEUMONIA", "train")[0]]["exact_duplicate_of"] = "somewhere"
    assert problem(data_set.report(), "rows left out as duplicates whose pixels are nowhere else")["count"] == 1


def test_the_same_picture_with_two_labels_stops(data_set: DataSet) -> None:
    one, other = data_set.of("NORMAL", "train")[0], data_set.of("PNEUMONIA", "train")[0]
    PillowImage.fromarray(data_set.pixels(one)).save(data_set.path(other))
    assert problem(data_set.report(), "the same picture with two labels")["severity"] == "error"


def make_constant(data_set: DataSet) -> None:
    number = data_set.of("NORMAL", "train")[0]
    PillowImage.fromarray(np.full((96, 96), 7, dtype=np.uint8)).save(data_set.path(number))


def copy_to_the_test(data_set: DataSet) -> None:
    train, test = data_set.of("NORMAL", "train")[0], data_set.of("NORMAL", "test")[0]
    PillowImage.fromarray(data_set.pixels(train)).save(data_set.path(test))


def copy_to_the_other_label(data_set: DataSet) -> None:
    one, other = data_set.of("NORMAL", "train")[0], data_set.of("PNEUMONIA", "train")[0]
    PillowImage.fromarray(data_set.pixels(one)).save(data_set.path(other))


def add_a_label(data_set: DataSet) -> None:
    data_set.rows[data_set.of("NORMAL", "train")[0]]["label"] = "EFFUSION"


def spell_a_label_otherwise(data_set: DataSet) -> None:
    data_set.rows[data_set.of("NORMAL", "train")[0]]["label"] = "Normal"


def name_a_site_that_is_not_there(data_set: DataSet) -> None:
    data_set.extra = '[check]\nsite = "hospitl"'


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (make_constant, "every pixel is 7"),
        (copy_to_the_test, "the same picture in two splits"),
        (copy_to_the_other_label, "the same picture with two labels"),
        (add_a_label, '[check] labels = ["EFFUSION", "NORMAL", "PNEUMONIA"]'),
        (spell_a_label_otherwise, "most are spelled 'NORMAL'"),
        (name_a_site_that_is_not_there, "columns are file, label, patient_id, split"),
    ],
)
def test_what_stops_in_check_data_stops_a_build(
    spoil: Callable[[DataSet], None], words: str, data_set: DataSet
) -> None:
    spoil(data_set)
    for result in (data_set.run(), data_set.build()):
        assert result.exit_code == 1
        assert words in result.output


def test_a_training_picture_in_the_external_set_stops_both(data_set: DataSet) -> None:
    shutil.copytree(data_set.folder, data_set.root / "data" / "elsewhere")
    data_set.replaced = {'train = "chest-kermany" ': 'external = ["elsewhere"]\ntrain = "chest-kermany" '}
    checked, built = data_set.run(), data_set.build()
    assert checked.exit_code == built.exit_code == 1
    assert "the same picture in two splits: 80" in checked.output
    assert "the same picture in two splits (80): chest-kermany/images/" in built.output


def test_a_patient_in_training_and_in_an_external_set_is_warned_of_by_both(data_set: DataSet) -> None:
    """Not the training set's own test: nothing was learned from it."""
    elsewhere = DataSet(data_set.root / "elsewhere", patients=40)
    for row in elsewhere.rows:
        row["patient_id"] = f"elsewhere {row['patient_id']}"
    learned, tested = (data_set.rows[data_set.of("NORMAL", split)[0]]["patient_id"] for split in ("train", "test"))
    elsewhere.rows[0]["patient_id"], elsewhere.rows[2]["patient_id"] = learned, tested
    elsewhere.write()
    for path in elsewhere.folder.glob("images/*"):  # other pictures
        with PillowImage.open(path) as image:
            turned = image.transpose(PillowImage.Transpose.ROTATE_180)
        turned.save(path)
    shutil.move(elsewhere.folder, data_set.root / "data" / "elsewhere")
    data_set.replaced = {'train = "chest-kermany" ': 'external = ["elsewhere"]\ntrain = "chest-kermany" '}
    found = problem(data_set.report(), "patients in training and external set")
    assert (found["severity"], found["data_set"]) == ("warning", "chest-kermany and elsewhere")
    assert (found["count"], found["examples"]) == (1, [learned])
    built = data_set.build()
    assert built.exit_code == 0, built.output
    assert (
        f"warning: chest-kermany and elsewhere: patients in training and external set: 1 ({learned}): " in built.output
    )


def test_flipped_labels_stand_at_the_top_of_the_ranking(tmp_path: Path) -> None:
    data_set = DataSet(tmp_path, patients=80)
    flipped = [*data_set.of("NORMAL", "train")[:4], *data_set.of("PNEUMONIA", "train")[-4:]]
    for number in flipped:
        data_set.rows[number]["label"] = "PNEUMONIA" if data_set.rows[number]["label"] == "NORMAL" else "NORMAL"
    found = data_set.report()["sets"]["chest-kermany"]["label_errors"]
    first = {each["file"] for each in found["suspects"][: len(flipped)]}
    assert len(first & {data_set.rows[number]["file"] for number in flipped}) >= 7
    assert 0.02 < found["estimated_share_wrong"] < 0.10
    assert found["auc_of_the_simple_model"] > 0.85


def test_a_planted_confounder_is_flagged_and_others_are_not(data_set: DataSet) -> None:
    """Negatives get a black bar on one side, and most of them another scanner in the list."""
    for number, row in enumerate(data_set.rows):
        row |= {"accession": str(number), "finding_words": row["label"].lower()}
        row["scanner"] = "A" if (row["label"] == "NORMAL") == (number % 8 != 0) else "B"
        if row["label"] == "NORMAL":
            pixels = data_set.pixels(number).copy()
            pixels[:, :20] = 0
            PillowImage.fromarray(pixels).save(data_set.path(number))
    found = data_set.report()["sets"]["chest-kermany"]["confounders"]
    stored = {each["name"]: each for each in found["stored"]}
    assert stored["black share"]["auc"] < 0.1
    assert stored["black share"]["flagged"]
    assert "width" not in stored  # which does not vary
    assert [each["name"] for each in found["list"]] == ["scanner"]  # neither identifiers nor the label in other words
    assert found["list"][0]["flagged"]
    assert set(found["unjudged"]) == {"accession", "finding_words"}


def test_a_column_with_gaps_is_judged_and_so_is_whether_a_value_is_given(data_set: DataSet) -> None:
    """Ages of children have pneumonia here, and those of half of the healthy are unknown, as an import writes them."""
    for number, row in enumerate(data_set.rows):
        is_healthy = row["label"] == "NORMAL"
        row["age"] = "" if is_healthy and number % 8 < 4 else str(20 + number % 60 if is_healthy else 2 + number % 25)
        row["mAs"] = f"{number % 7 + 2 * is_healthy + number / 1000:.3f}"
        row["dose"] = str(1000 + number)
        row["operator"] = f"op {number % 3}" if is_healthy else ""
        row["protocol"] = f"{number // 4}" + "x"
        row["always"] = "same"
    result = data_set.run("--json", "--out", str(data_set.root / "out"))
    report = json.loads(result.stdout)
    found = report["sets"]["chest-kermany"]["confounders"]
    listed = {each["name"]: each for each in found["list"]}
    assert set(listed) == {"age", "age is given", "mAs", "operator is given"}
    train = [row for row in data_set.rows if row["split"] == "train"]
    known = [row for row in train if row["age"]]
    positive = np.array([row["label"] == "PNEUMONIA" for row in known])
    ages, patients = np.array([float(row["age"]) for row in known]), np.array([row["patient_id"] for row in known])
    of_age = listed["age"]
    area = confounders.auc(ages, positive, patients)
    assert (of_age["auc"], of_age["low"], of_age["high"]) == pytest.approx(area, abs=1e-4)
    assert listed["age"]["known"] == pytest.approx(len(known) / len(train), abs=1e-4)
    assert listed["age"]["flagged"]
    assert listed["age is given"]["auc"] > 0.7
    assert listed["age is given"]["flagged"]
    assert listed["mAs"]["known"] == 1
    assert set(found["unjudged"]) == {"dose", "operator", "protocol"}
    assert "identifier" in found["unjudged"]["dose"]
    assert "every image" in found["unjudged"]["operator"]
    assert "no value has 10 images" in found["unjudged"]["protocol"]
    told = problem(report, "columns of the list that were not judged")
    assert (told["severity"], told["count"]) == ("note", 2)
    told = problem(report, "columns of the list that tell the label of every image")
    assert (told["severity"], told["examples"]) == ("warning", ["operator"])
    share = f"{listed['age']['known']:.1%}"
    (age,) = [
        each
        for each in problem(report, "columns of the list that tell the label by themselves")["examples"]
        if each.startswith("age (")
    ]
    assert f"on the {share} that have a value" in age
    page = (data_set.root / "out" / "check-data.html").read_text()
    for text in (page, data_set.run().stdout):
        assert share in text
        assert "age is given" in text
        assert found["unjudged"]["protocol"] in text


def test_the_original_size_is_a_confounder_where_the_list_has_it(data_set: DataSet) -> None:
    chance = np.random.default_rng(0)
    for row in data_set.rows:
        side = chance.normal(1650 if row["label"] == "NORMAL" else 1170, 200)
        row |= {"original_width": str(int(side)), "original_height": str(int(side * chance.normal(0.7, 0.02)))}
    found = data_set.report()["sets"]["chest-kermany"]["confounders"]
    flagged = {each["name"] for each in found["stored"] if each["flagged"]}
    assert {"width", "height"} <= flagged
    assert "aspect ratio" not in flagged


def test_without_splits_one_is_proposed(data_set: DataSet) -> None:
    for row in data_set.rows:
        del row["split"]
    result = data_set.run("--json")
    assert result.exit_code == 1  # training wants one
    assert "split.csv" in problem(json.loads(result.stdout), "no splits")["hint"]
    proposed = {row["file"]: row["split"] for row in proposed_split(data_set)}
    assert set(proposed.values()) == {"train", "validation", "test"}
    patients = {(row["patient_id"], proposed[row["file"]]) for row in data_set.rows}
    assert len(patients) == 40
    for row in data_set.rows:
        row["split"] = proposed[row["file"]]
    joined = data_set.run("--json")
    assert joined.exit_code == 0, joined.output
    counts = json.loads(joined.stdout)["sets"]["chest-kermany"]["counts"]["by"]["split"]
    assert set(counts) == {"train", "validation", "test"}


def test_a_proposed_split_can_be_built_from(data_set: DataSet) -> None:
    for row in data_set.rows:
        del row["split"]
    data_set.run()
    proposed = {row["file"]: row["split"] for row in proposed_split(data_set)}
    for row in data_set.rows:
        row["split"] = proposed[row["file"]]
    built = data_set.build()
    assert built.exit_code == 0, built.output
    counts = {name: list(proposed.values()).count(name) for name in ("train", "validation", "test")}
    for name, count in counts.items():
        assert f"{name} {count} (" in built.output


def proposed_split(data_set: DataSet) -> list[dict[str, str]]:
    with (data_set.root / "work" / "check-data" / "split.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_folds_and_a_held_out_site_are_proposed_where_they_are_asked_for(data_set: DataSet) -> None:
    """Whether the list has a split or not."""
    for row in data_set.rows:
        row["hospital"] = "north" if int(row["patient_id"][1:]) % 8 < 2 else "south"
    result = data_set.run("--folds", "5")
    assert result.exit_code == 0, result.output
    assert "5 folds, the first for the test" in result.stdout
    rows = proposed_split(data_set)
    assert [*rows[0]] == ["file", "split", "fold"]
    assert {row["fold"] for row in rows} == {"1", "2", "3", "4", "5"}
    data_set.run("--hold-out-site", "north")
    found = {row["file"]: row["split"] for row in proposed_split(data_set)}
    assert set(found.values()) == {"train", "validation", "test"}
    assert {row["hospital"] for row in data_set.rows if found[row["file"]] == "test"} == {"north"}
    nowhere = data_set.run("--hold-out-site", "west")
    assert nowhere.exit_code == 1
    assert "its sites are 'north', 'south'" in nowhere.output
    assert data_set.run("--hold-out-site", "north", "--folds", "5").exit_code == 2
    drawn = CliRunner().invoke(main, ["check-data", str(CHECKOUT / "models/lungs/recipe.toml"), "--folds", "5"])
    assert drawn.exit_code == 2
    assert "data.folds" in drawn.output


def test_lists_with_and_without_a_split_have_two_versions(data_set: DataSet) -> None:
    versions = {data_set.report()["sets"]["chest-kermany"]["version"]}
    for row in data_set.rows:
        row["site"] = "north"
    versions.add(data_set.report()["sets"]["chest-kermany"]["version"])
    for row in data_set.rows:
        del row["split"]
    versions.add(data_set.report()["sets"]["chest-kermany"]["version"])
    assert len(versions) == 3


def test_a_validation_of_one_class_is_told_by_both(data_set: DataSet) -> None:
    for number in data_set.of("NORMAL", "train")[:6]:
        data_set.rows[number]["split"] = "validation"
    words = problem(data_set.report(), "splits without one of the classes")["examples"]
    assert words == ["validation: no positive"]
    built = data_set.build()
    assert built.exit_code == 1
    assert "validation holds no 'PNEUMONIA'" in built.output


def test_the_training_images_mean_and_spread_are_told_and_another_normalization_is_a_warning(data_set: DataSet) -> None:
    report = data_set.report()
    found = report["sets"]["chest-kermany"]["normalization"]
    recipe = read(data_set.write())
    training = [
        preprocess(data_set.pixels(number), recipe.input.steps()[:-1])
        for label in ("NORMAL", "PNEUMONIA")
        for number in data_set.of(label, "train")
    ]
    pixels = np.concatenate([each.ravel() for each in training])
    assert found["mean"] == pytest.approx(pixels.mean(), abs=1e-3)
    assert found["std"] == pytest.approx(pixels.std(), abs=1e-3)
    told = problem(report, "normalization that is not the training images'")
    assert told["severity"] == "warning"
    assert f"mean = {found['mean']:.3f} and std = {found['std']:.3f}" in told["hint"]
    data_set.replaced = {"mean = 0.5 ": f"mean = {found['mean']}", "std = 0.25": f"std = {found['std']}"}
    assert not problems(data_set.report(), "normalization that is not the training images'")


def test_readers_of_the_recipe_are_compared_with_the_list(data_set: DataSet) -> None:
    data_set.extra = '[check]\nreaders = "readers.csv"'
    lines = ["image,reader,label"]
    for number, row in enumerate(data_set.rows[:20]):
        other = "PNEUMONIA" if row["label"] == "NORMAL" else "NORMAL"
        lines += [f"{row['file']},ann,{row['label'] if number else other}"]
        lines += [f"{row['file']},bob,{other if number < 2 else row['label']}"]
    (data_set.folder / "readers.csv").write_text("\n".join(lines))
    report = data_set.report()
    assert problem(report, "labels against the readers' majority")["count"] == 1
    assert problem(report, "ties between readers")["examples"] == [data_set.rows[1]["file"]]
    assert report["sets"]["chest-kermany"]["readers"]["fleiss"]["in_words"] == "almost perfect"


def test_a_list_that_is_not_there_or_declares_no_positive_is_one_sentence(data_set: DataSet) -> None:
    data_set.extra = '[check]\nlabels = ["NORMAL", "EFFUSION"]'
    result = data_set.run()
    assert result.exit_code == 1
    assert "check.labels" in result.output
    with pytest.raises(RecipeError, match=r"manifest\.csv"):
        check_data.check(read(RECIPE), data_set.root / "nowhere", data_set.root)


def test_a_different_patient_is_no_near_duplicate() -> None:
    """Generated radiographs of 60 people: none is near another, and each is near its own JPEG."""
    images = np.stack([chest_pixels(128, 128, 8, seed=seed).astype(np.uint8) for seed in range(60)])
    described = duplicates.descriptors(images)
    assert duplicates.near(described) == []
    assert duplicates.nearest_other_patient(described, np.arange(60)).min() > duplicates.LIMIT
    buffer = io.BytesIO()
    PillowImage.fromarray(images[3]).save(buffer, "JPEG", quality=60)
    copied = np.asarray(PillowImage.open(buffer))
    (pair,) = duplicates.near(np.vstack([described, duplicates.descriptor(copied)[None]]))
    assert (pair.one, pair.other) == (3, 60)


def test_equal_pixels_have_equal_digests_whatever_their_shape_says() -> None:
    flat = np.arange(12, dtype=np.uint8)
    assert duplicates.digest(flat.reshape(3, 4)) == duplicates.digest(flat.reshape(3, 4).copy())
    assert duplicates.digest(flat.reshape(3, 4)) != duplicates.digest(flat.reshape(4, 3))


def test_the_confident_joint_is_counted_as_in_the_paper() -> None:
    """Two labels, eight images; thresholds are the mean probabilities of those that bear the label: 0.65 and 0.7."""
    given = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    of_one = np.array([0.1, 0.2, 0.2, 0.9, 0.9, 0.9, 0.8, 0.2])
    joint, confident = label_errors.confident_joint(given, np.stack([1 - of_one, of_one], axis=1))
    assert confident.tolist() == [0, 0, 0, 1, 1, 1, 1, 0]
    assert joint == pytest.approx(np.array([[3, 1], [1, 3]]) / 8)
    halfway = np.array([0.1, 0.2, 0.5, 0.9, 0.9, 0.9, 0.8, 0.2])  # thresholds 0.575 and 0.7: the third reaches none
    joint, confident = label_errors.confident_joint(given, np.stack([1 - halfway, halfway], axis=1))
    assert confident[2] == -1
    assert joint.sum(axis=1) == pytest.approx([0.5, 0.5])


def test_labels_are_judged_on_a_networks_embedding_where_its_weights_are_given(tmp_path: Path) -> None:
    """An untrained network's weights in the form of the ImageNet ones."""
    state = MobileNetV2(findings=1, dropout=0.0).state_dict()
    arrays = {name: value.numpy() for name, value in state.items() if name.startswith("features")}
    arrays["features.0.0.weight"] = np.repeat(arrays["features.0.0.weight"] / 3, 3, axis=1)
    np.savez(tmp_path / "weights.npz", **arrays)
    images = np.stack([chest_pixels(128, 128, 8, seed=seed) for seed in range(5)])
    found, what = label_errors.features(images, "mobilenet_v2", tmp_path / "weights.npz", threads=1)
    assert found.shape == (5, 1280)
    assert np.isfinite(found).all()
    assert "weights.npz" in what
    on_pixels, _ = label_errors.features(images, "mobilenet_v2", None, threads=1)
    assert on_pixels.shape == (5, 32 * 32)


def test_an_area_under_the_curve_counts_pairs() -> None:
    values, positive = np.array([1.0, 2.0, 2.0, 3.0]), np.array([False, False, True, True])
    area, low, high = confounders.auc(values, positive, np.arange(4))
    assert area == pytest.approx(3.5 / 4)
    assert 0 <= low < area < high <= 1


def test_more_images_of_the_same_patients_are_no_more_evidence() -> None:
    chance = np.random.default_rng(0)
    positive = np.arange(60) < 30
    values = chance.normal(size=60) + 0.5 * positive
    statistics, patients = {"dose": np.tile(values, 5)}, np.tile(np.arange(60), 5)
    (once,) = confounders.rank({"dose": values}, positive, np.arange(60), "stored")
    (five_times,) = confounders.rank(statistics, np.tile(positive, 5), patients, "stored")
    assert (five_times.auc, five_times.low, five_times.high) == (once.auc, once.low, once.high)


def test_numbers_that_one_class_alone_has_are_told_by_their_gaps() -> None:
    positive = np.arange(60) < 20
    rows = [{"severity": str(number % 4) if ill else "", "dose": "nan" if ill else "inf", "none": ""}
            for number, ill in enumerate(positive)]  # fmt: skip
    judged, unjudged = confounders.columns(rows, positive, np.arange(60))
    assert [(each.name, each.auc, each.flagged) for each in judged] == [("severity is given", 1.0, True)]
    assert unjudged["severity"] == "given for images of one class only"
    assert "every image" in unjudged["dose"]  # words, of which no number is made


@pytest.mark.skipif(not (SHARED / "chest-kermany").is_dir(), reason="needs ../shared/data/chest-kermany")
def test_the_leaks_of_the_kermany_set_are_found() -> None:
    """Sharpness and black level tell the label, as SOURCES.md says; and no two people are near duplicates."""
    taken = _some(SHARED / "chest-kermany", 600)
    positive = taken.column("label") == "PNEUMONIA"
    found = {each.name: each for each in confounders.rank(taken.stored, positive, taken.column("patient_id"), "stored")}
    for name in ("sharpness", "black share"):
        assert found[name].flagged
        assert found[name].auc < 0.35
        assert found[name].negative > found[name].positive
    patients = taken.column("patient_id")
    pairs = duplicates.near(duplicates.descriptors(taken.small))
    assert not [pair for pair in pairs if patients[pair.one] != patients[pair.other]]


@pytest.mark.skipif(not (SHARED / "lungs-kermany").is_dir(), reason="needs ../shared/data/lungs-kermany")
def test_the_original_size_of_kermany_images_is_found_to_tell_the_label() -> None:
    taken = _some(SHARED / "lungs-kermany", 400)
    positive = taken.column("label") == "PNEUMONIA"
    found = confounders.rank(taken.stored, positive, taken.column("patient_id"), "stored")
    flagged = {each.name: each for each in found if each.flagged}
    assert {"width", "height"} <= set(flagged)
    assert flagged["width"].negative > flagged["width"].positive
    assert not taken.faults


def _some(folder: Path, count: int) -> inventory.Inventory:
    """An inventory of rows spread evenly over a list, read where they lie."""
    with (folder / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows = rows[:: max(1, len(rows) // count)]
    steps = read(RECIPE).input.steps()[:-1]
    return inventory.take_rows(folder, rows, ["NORMAL", "PNEUMONIA"], steps)
