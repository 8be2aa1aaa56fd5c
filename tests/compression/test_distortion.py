"""How far copies are from their originals, what preprocessing clips, and the contact sheet that shows it."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import albumentations
import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image as PillowImage

from appliance.preprocess import percentile_stretch, window
from compression import check_data, check_text, clipping, contact_sheet, distortion
from compression.problems import Problem
from compression.recipe import RecipeError, read
from tests.compression.test_recipe_and_data import RECIPE, changed, write_data_set
from tests.dicom_files import chest_pixels
from tests.running import CHECKOUT

IMAGE = chest_pixels(150, 150, 8, seed=3)


def measured(transform: albumentations.BasicTransform) -> distortion.Distortion:
    return distortion.copy(albumentations.Compose([transform], seed=0), IMAGE)[1]


def test_a_copy_that_is_the_original_is_not_distorted() -> None:
    found = measured(albumentations.NoOp(p=1.0))
    assert found == distortion.Distortion(1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, False)
    assert distortion.in_words(found) == "similarity 1.00, sharpness x 1.00"


@pytest.mark.parametrize("degrees", [-12, 7])
def test_a_turn_is_measured(degrees: int) -> None:
    found = measured(albumentations.Rotate(limit=(degrees, degrees), p=1.0))
    assert found.turn == pytest.approx(-degrees, abs=0.5)  # albumentations counts counterclockwise
    assert not found.mirrored
    assert found.cut < 0.25
    assert found.empty > 0.02


def test_a_flip_is_seen() -> None:
    assert measured(albumentations.HorizontalFlip(p=1.0)).mirrored
    assert measured(albumentations.VerticalFlip(p=1.0)).mirrored
    assert measured(albumentations.RandomRotate90(p=1.0)).mirrored is False


def test_what_a_crop_cuts_away_is_measured() -> None:
    found = measured(albumentations.RandomResizedCrop(size=(150, 150), scale=(0.5, 0.5), ratio=(1, 1), p=1.0))
    assert found.cut == pytest.approx(0.5, abs=0.1)
    assert found.empty == 0


def test_blur_noise_and_exposure_are_told_apart() -> None:
    blurred = measured(albumentations.GaussianBlur(blur_limit=0, sigma_limit=(4, 4), p=1.0))
    noisy = measured(albumentations.GaussNoise(std_range=(0.2, 0.2), p=1.0))
    bright = measured(albumentations.RandomBrightnessContrast((0.4, 0.4), (0, 0), p=1.0))
    assert blurred.sharpness < 0.8
    assert noisy.sharpness > 2
    assert bright.middle > 60
    assert bright.clipped > 0.1


def test_what_destroys_the_picture_is_warned_of_with_a_reason() -> None:
    away = albumentations.Compose(
        [albumentations.RandomResizedCrop(size=(150, 150), scale=(0.1, 0.2), p=1.0)], seed=0
    )  # fmt: skip
    found = distortion.summary([distortion.copy(away, IMAGE)[1] for _ in range(10)])
    (warning,) = [each for each in found["warnings"] if each.startswith("cut")]
    assert "100% of the copies" in warning
    assert "the label stays" in warning
    gentle = albumentations.Compose([albumentations.RandomGamma(gamma_limit=(90, 110), p=1.0)], seed=0)
    assert distortion.summary([distortion.copy(gentle, IMAGE)[1] for _ in range(10)])["warnings"] == []


def test_clipped_shares_of_a_stretch_and_of_a_window() -> None:
    ramp = np.arange(1000, dtype=np.float32).reshape(10, 100)
    lower, upper = clipping.ends(percentile_stretch(ramp, low=1.0, high=99.0))
    assert lower == pytest.approx(0.01, abs=0.002)
    assert upper == pytest.approx(0.01, abs=0.002)
    assert clipping.ends(window(ramp, center=500, width=500)) == pytest.approx((0.25, 0.25), abs=0.002)


def test_an_image_that_is_clipped_far_more_than_the_others_is_named() -> None:
    shares = np.tile([0.01, 0.02], (20, 1))
    shares[7] = [0.3, 0.1]
    problems: list[Problem] = []
    found = clipping.check("a-set", [f"{number}.png" for number in range(20)], shares, problems)
    assert found["percentiles"]["50"] == pytest.approx(0.03)
    assert [each["file"] for each in found["outliers"]] == ["7.png"]
    (problem,) = problems
    assert problem.examples == ["7.png: 30% black, 10% white after preprocessing"]
    assert "1 above 10%" in clipping.in_words(found)


def test_check_data_names_the_image_that_is_mostly_border(tmp_path: Path) -> None:
    folder = write_data_set(tmp_path / "chest-kermany", patients=40)
    file = folder / "images" / "4-0.png"
    with PillowImage.open(file) as image:
        pixels = np.asarray(image).copy()
    pixels[:60] = 0
    PillowImage.fromarray(pixels).save(file)
    recipe = read(RECIPE)
    checked = check_data.check(replace(recipe, data=replace(recipe.data, external=())), tmp_path, tmp_path)
    found = checked.report["sets"]["chest-kermany"]["clipping"]
    assert [each["file"] for each in found["outliers"]] == ["images/4-0.png"]
    assert found["outliers"][0]["lower"] > 0.5
    assert any("preprocessing clips" in each["what"] for each in checked.report["problems"])
    assert "clipped pixels per image" in check_text.report(checked.report)
    page = check_data.write(checked, tmp_path / "work", None)
    assert "clipped pixels per image" in page.read_text()
    with (page.parent / clipping.NAME).open(newline="") as listed:
        shares = {row["file"]: float(row["clipped"]) for row in csv.DictReader(listed)}
    assert len(shares) == 80
    assert max(shares, key=lambda each: shares[each]) == "images/4-0.png"
    assert shares["images/4-0.png"] == pytest.approx(found["percentiles"]["100"], abs=1e-4)


def run(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "compression", "contact-sheet", *options],
                          capture_output=True, text=True, cwd=CHECKOUT, timeout=120)  # fmt: skip


@pytest.mark.long
def test_the_contact_sheet_shows_images_beside_their_copies(tmp_path: Path) -> None:
    write_data_set(tmp_path / "data" / "chest-kermany", patients=20)
    options = (str(RECIPE), "--data", str(tmp_path / "data"), "--images", "3", "--copies", "2")
    page = tmp_path / "sheet.html"
    done = run(*options, "--out", str(page), "--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["together"]["copies"] == 2 * 24
    assert "2. Affine" in figures["alone"]
    text = page.read_text()
    assert text.count("<img") == 3 * 3
    assert "similarity" in text
    picture = tmp_path / "sheet.png"
    assert run(*options, "--out", str(picture)).returncode == 0
    with PillowImage.open(picture) as image:
        assert image.size[0] > 3 * 224
        assert image.size[1] > 3 * 224


def test_a_sheet_of_what_the_policy_refuses_is_not_made(tmp_path: Path) -> None:
    write_data_set(tmp_path / "data" / "chest-kermany", patients=20)
    path = changed(tmp_path, 'name = "RandomGamma"\nparameters = { gamma_limit = [55, 180] }', 'name = "D4"')
    done = run(str(path), "--data", str(tmp_path / "data"), "--out", str(tmp_path / "sheet.html"))
    assert done.returncode == 1
    assert "augment D4" in done.stderr
    assert not (tmp_path / "sheet.html").exists()


def test_an_exception_is_shown_on_the_sheet(tmp_path: Path) -> None:
    path = changed(
        tmp_path, 'name = "RandomGamma"\nparameters = { gamma_limit = [55, 180] }', 'name = "HorizontalFlip"'
    )
    allow = '[augment_policy]\nallow = [{ transform = "HorizontalFlip", reason = "a drill of this test" }]\n\n[prune]'
    path.write_text(path.read_text().replace("[prune]", allow))
    pixels = np.stack([chest_pixels(224, 224, 8, seed) for seed in range(2)])
    sheet = contact_sheet.make(read(path), ["one", "two"], pixels)
    written = contact_sheet.write(sheet, tmp_path / "sheet.html").read_text()
    assert "a drill of this test" in written
    assert any("HorizontalFlip: mirrored" in each for each in contact_sheet.warnings(sheet))
    with pytest.raises(RecipeError, match=r"\.html"):
        contact_sheet.write(sheet, tmp_path / "sheet.pdf")
