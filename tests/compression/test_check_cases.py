"""check-data of a segmentation names damaged files, masks that don't fit, labels outside the set, leaks."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image as PillowImage

from appliance.preprocess import preprocess
from compression import clipping, gray_steps, importing
from compression.cli import main
from compression.importers import IMPORTERS
from compression.importing import Options
from compression.segmentation.recipe import read
from tests.dicom_files import chest_pixels
from tests.running import CHECKOUT

LUNGS, HIPPOCAMPUS = (CHECKOUT / "models" / name / "recipe.toml" for name in ("lungs", "hippocampus"))
SHARED = CHECKOUT.parent / "shared" / "data"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The work folder is below the current one."""
    monkeypatch.chdir(tmp_path)


def check(recipe: Path, data: Path, *options: str) -> Result:
    arguments = ["check-data", str(recipe), "--data", str(data), *options]
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


def found(recipe: Path, data: Path) -> dict[str, dict[str, Any]]:
    """Problems by name."""
    result = check(recipe, data, "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == any(each["severity"] == "error" for each in report["problems"])
    return {each["what"]: each for each in report["problems"]}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Radiographs with masks in both sets that the recipe for lungs names."""
    for name, seed in (("lungs-kermany", 0), ("lungs-external", 100)):
        folder = tmp_path / name
        rows = []
        for number in range(8):
            for kind, values in (
                ("images", chest_pixels(40, 30, 8, seed + number)),
                ("masks", np.pad(np.full((10, 10), 255, dtype=np.uint8), ((10, 20), (10, 10)))),
            ):
                (folder / kind).mkdir(parents=True, exist_ok=True)
                PillowImage.fromarray(values).save(folder / kind / f"{number}.png")
            rows.append(
                {
                    "file": f"images/{number}.png",
                    "mask": f"masks/{number}.png",
                    "label": "NORMAL",
                    "patient_id": f"{name}-{number // 2}",
                    "split": "train" if number < 6 else "test",
                }
            )
        write(folder, rows)
    return tmp_path


def write(folder: Path, rows: list[dict[str, str]]) -> None:
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_sound_pictures_and_masks_stop_nothing(pictures: Path) -> None:
    result = check(LUNGS, pictures)
    assert result.exit_code == 0, result.output
    assert "8 cases of 4 patients" in result.stdout
    assert "8.33%" in result.stdout  # 100 of 1,200 pixels
    assert "training cases: 6: few" in result.stdout
    assert "parameters per training case: 184," in result.stdout  # 1,105,000 of recipe lungs
    assert "0 errors" in result.stdout


def test_a_split_that_no_fold_is_dealt_by_is_told(pictures: Path) -> None:
    told = "the list's split is not used: folds are dealt by patient"
    problem = found(LUNGS, pictures)[told]
    assert (problem["severity"], problem["data_set"]) == ("note", "lungs-kermany")  # an external set is whole anyway
    assert problem["hint"] == "take test rows out of the list, or name them as an external set"
    manifest = pictures / "lungs-kermany" / "manifest.csv"
    manifest.write_text(manifest.read_text().replace(",train", ",").replace(",test", ","))
    assert told not in found(LUNGS, pictures)


def test_each_defect_of_pictures_is_named_and_counted(pictures: Path) -> None:
    folder = pictures / "lungs-kermany"
    path = folder / "images" / "0.png"
    path.write_bytes(path.read_bytes()[:300])
    (folder / "images" / "1.png").unlink()
    PillowImage.fromarray(np.zeros((39, 30), dtype=np.uint8)).save(folder / "masks" / "2.png")
    PillowImage.fromarray(np.full((40, 30), 77, dtype=np.uint8)).save(folder / "masks" / "3.png")
    PillowImage.fromarray(np.zeros((40, 30), dtype=np.uint8)).save(folder / "masks" / "4.png")
    (folder / "masks" / "5.png").unlink()
    (folder / "masks" / "6.png").write_bytes(b"no picture")
    with (folder / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows[7]["patient_id"] = rows[0]["patient_id"]
    rows[6]["patient_id"] = ""
    write(folder, rows)
    problems = found(LUNGS, pictures)
    for what, named in {
        "corrupt image": "images/0.png", "missing file": "images/1.png", "mask of another size": "masks/2.png",
        "label outside the set": "77", "missing mask": "masks/5.png", "corrupt mask": "masks/6.png",
        "patients in two splits": "lungs-kermany-0 in test and train", "no patient": "images/6.png",
    }.items():  # fmt: skip
        assert problems[what]["severity"] == "error"
        assert problems[what]["count"] == 1
        assert named in problems[what]["examples"][0]
    assert problems["empty mask"]["severity"] == "warning"
    assert str(pictures) not in json.dumps(problems)


def test_images_of_a_recipe_for_volumes_are_named_and_the_other_way_round(pictures: Path, tmp_path: Path) -> None:
    text = HIPPOCAMPUS.read_text()
    begin, end = text.index("same_patient = ["), text.index("\n]\n", text.index("same_patient = ["))
    recipe = tmp_path / "recipe.toml"
    recipe.write_text((text[:begin] + text[end + 3 :]).replace('"hippocampus"  ', '"lungs-kermany"  '))
    for path in pictures.glob("lungs-kermany/masks/*.png"):
        with PillowImage.open(path) as mask:
            mask.point([0, *[1] * 255]).save(path)
    problem = found(recipe, pictures)["image of other dimensions"]
    assert (problem["severity"], problem["count"]) == ("error", 8)
    assert problem["examples"][0] == "images/0.png has 2 dimensions; the recipe reads 3"
    for name in ("lungs-kermany", "lungs-external"):
        shutil.rmtree(pictures / name)
        for kind, values in (("images", np.arange(27.0)), ("labels", np.arange(27) % 2)):
            (pictures / name / kind).mkdir(parents=True)
            volume = nibabel.Nifti1Image(values.reshape(3, 3, 3).astype(np.int16), np.eye(4))
            nibabel.save(volume, pictures / name / kind / "a.nii.gz")
    assert "a.nii.gz has 3 dimensions; the recipe reads 2" in check(LUNGS, pictures).output


def test_an_external_image_that_training_has_seen_stops(pictures: Path) -> None:
    one, other = (pictures / name / "images" / "3.png" for name in ("lungs-kermany", "lungs-external"))
    other.write_bytes(one.read_bytes())
    problem = found(LUNGS, pictures)["the same image in training and external set"]
    assert problem["severity"] == "error"
    assert problem["examples"] == ["images/3.png = images/3.png"]


def test_a_patient_in_training_and_in_an_external_set_is_warned_of(pictures: Path) -> None:
    what = "patients in training and external set"
    assert what not in found(LUNGS, pictures)
    manifest = pictures / "lungs-external" / "manifest.csv"
    manifest.write_text(manifest.read_text().replace("lungs-external-2", "lungs-kermany-2"))
    problem = found(LUNGS, pictures)[what]
    assert (problem["severity"], problem["count"]) == ("warning", 1)
    assert problem["examples"] == ["lungs-kermany-2"]


def test_a_brightened_copy_is_found_within_a_set_and_in_another(pictures: Path) -> None:
    what = "near duplicates between data sets", "near duplicates of two patients", "near duplicates of one patient"
    for seed, path in enumerate(sorted(pictures.glob("*/images/*.png"))):  # the fixture's are all alike
        shapes = np.random.default_rng(seed).integers(0, 256, (16, 12)).astype(np.uint8)
        PillowImage.fromarray(shapes).resize((30, 40), PillowImage.Resampling.BICUBIC).save(path)
    assert not set(what) & set(found(LUNGS, pictures))
    first = pictures / "lungs-kermany" / "images" / "2.png"
    with PillowImage.open(first) as image:
        brighter = image.point([round(255 * (level / 255) ** 0.8) for level in range(256)])
    for copy in ("lungs-kermany/images/3.png", "lungs-kermany/images/6.png", "lungs-external/images/0.png"):
        brighter.save(pictures / copy)
        brighter = brighter.point([max(level - 3, 0) for level in range(256)])
    problems = found(LUNGS, pictures)
    assert [problems[name]["severity"] for name in what] == ["warning", "warning", "note"]
    assert [problems[name]["count"] for name in what] == [3, 2, 1]
    of_one = problems["near duplicates of one patient"]["examples"]
    assert of_one[0].startswith("lungs-kermany/images/2.png = lungs-kermany/images/3.png, distance 0.0")


def test_what_is_clipped_and_the_training_images_normalization_are_told(pictures: Path) -> None:
    report = json.loads(check(LUNGS, pictures, "--json").stdout)
    recipe, training = read(LUNGS), sorted(pictures.glob("lungs-kermany/images/*.png"))
    stretched = np.stack([
        preprocess(np.asarray(PillowImage.open(path)), recipe.input.steps[:2])[0, 0] for path in training
    ])  # fmt: skip
    found = report["sets"]["lungs-kermany"]["normalization"]
    assert [found["mean"], found["std"]] == pytest.approx([stretched.mean(), stretched.std()], abs=1e-3)
    told = {each["what"]: each for each in report["problems"]}["normalization that is not the training images'"]
    assert told["severity"] == "warning" and f"mean = {found['mean']:.3f}" in told["hint"]
    assert "normalization" not in report["sets"]["lungs-external"]
    with (pictures / ".build" / "lungs" / "check-data" / "clipped.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["data_set"] for row in rows] == ["lungs-kermany"] * 8 + ["lungs-external"] * 8
    stretch = recipe.input.steps[1:2]
    ends = [clipping.ends(preprocess(np.asarray(PillowImage.open(path)), stretch)) for path in training]
    assert [float(row["black"]) for row in rows[:8]] == pytest.approx([low for low, _ in ends], abs=1e-4)
    assert [float(row["white"]) for row in rows[:8]] == pytest.approx([high for _, high in ends], abs=1e-4)


def test_each_defect_of_volumes_is_named_and_counted(tmp_path: Path) -> None:
    folder = tmp_path / "hippocampus"
    affine = np.eye(4)
    for number in range(5):
        values = np.random.default_rng(number).integers(0, 900, (6, 7, 8)).astype(np.int16)
        mask = (values > 600).astype(np.uint8) + (values > 800)
        moved = affine.copy()
        moved[2, 3] = 4.0 * (number == 2)
        mask[0, 0, 0] = 3 * (number == 3)
        for kind, array, where in (("images", values, affine), ("labels", mask[: 6 - (number == 1)], moved)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, where), folder / kind / f"v{number}.nii.gz")
    path = folder / "images" / "v4.nii.gz"
    path.write_bytes(path.read_bytes()[:200])
    problems = found(for_other_volumes(tmp_path), tmp_path)
    assert problems["mask of another size"]["count"] == 2
    assert "5x7x8 and 6x7x8" in problems["mask of another size"]["examples"][0]
    assert "4.00 mm away" in problems["mask of another size"]["examples"][1]
    assert "labels/v3.nii.gz holds the label 3" in problems["label outside the set"]["examples"][0]
    assert "images/v4.nii.gz" in problems["corrupt image"]["examples"][0]
    assert problems["no list, so that patients are not known"]["severity"] == "note"


def for_other_volumes(folder: Path, same_patient: str = "") -> Path:
    """The recipe for hippocampus, with other volumes of one patient."""
    lines = HIPPOCAMPUS.read_text()
    begin = lines.index("same_patient = [")
    path = folder / "recipe.toml"
    path.write_text(lines[:begin] + same_patient + lines[lines.index("\n]\n", begin) + 3 :])
    return path


def test_volumes_of_one_scan_under_two_patients_are_told_by_their_grays(tmp_path: Path) -> None:
    """As of two sides of one head: other pixels, but levels that one factor scaled."""
    factors = {"a": 5.9588623, "b": 5.9588623, "c": 5.9590, "d": 1.0, "e": 1.0, "f": 0.73}
    for seed, (name, factor) in enumerate(factors.items()):
        levels = np.random.default_rng(seed).integers(20 * seed, 400 + 90 * seed, (6, 7, 8)) * factor
        for kind, array in (("images", levels.astype(np.float32)), ("labels", (levels > 300).astype(np.uint8))):
            (tmp_path / "hippocampus" / kind).mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "hippocampus" / kind / f"{name}.nii.gz")
    (said,) = (
        each for what, each in found(for_other_volumes(tmp_path), tmp_path).items() if "look like one scan's" in what
    )
    assert said["severity"] == "warning" and said["count"] == 1
    assert said["examples"][0].startswith("images/a.nii.gz and images/b.nii.gz: 5.95886")
    joined = for_other_volumes(tmp_path, 'same_patient = [["a", "b"]]\n')
    assert not any("look like one scan's" in what for what in found(joined, tmp_path))
    assert "5 patients" in check(joined, tmp_path).output
    unknown = check(for_other_volumes(tmp_path, 'same_patient = [["a", "x"]]\n'), tmp_path)
    assert unknown.exit_code != 0 and "data.same_patient: hippocampus has no patient x" in unknown.output


def test_a_step_that_many_scans_share_is_their_formats() -> None:
    patients = [str(number) for number in range(40)]
    others: list[float | None] = [None] * 20
    assert gray_steps.shared([0.3] * 9 + others, patients) == []
    assert gray_steps.shared([0.3] * 4 + others, patients) == [[0, 1, 2, 3]]
    assert gray_steps.shared([0.3] * 4 + others, ["one"] * 40) == []
    assert gray_steps.shared([0.3] * 4 + others[:3], patients) == []  # more than half of all


def test_what_an_import_left_out_or_allowed_is_told_and_whether_it_is_still_the_same(pictures: Path) -> None:
    source, target = pictures / "lungs-kermany", pictures / "imported" / "lungs-kermany"
    (source / "images" / "0.png").write_bytes(b"no picture")
    target.parent.mkdir()
    options = Options(skip=frozenset({"--skip-corrupt"}), agreement="contract 7")
    importing.run(IMPORTERS["folder"], source, target, options)
    (pictures / "lungs-external").rename(target.parent / "lungs-external")
    problems = found(LUNGS, target.parent)
    assert problems["left out by the import: corrupt image"]["count"] == 1
    assert problems["identifying DICOM, imported by agreement"]["examples"] == ["contract 7"]
    assert "files that changed since they were imported" not in problems
    (target / "images" / "1.png").write_bytes((target / "images" / "2.png").read_bytes())
    assert "files that changed since they were imported" in found(LUNGS, target.parent)


@pytest.mark.skipif(not (SHARED / "hippocampus").is_dir(), reason="not there: shared/data/hippocampus")
def test_the_hippocampus_data_is_sound() -> None:
    assert not [each for each in found(HIPPOCAMPUS, SHARED).values() if each["severity"] == "error"]
