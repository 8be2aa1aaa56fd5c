"""Segmentations: how masks are compared, how networks learn, what ships."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from appliance.preprocess import Step
from compression import checkpoint, external
from compression.page import interval
from compression.quantize import FLOAT
from compression.recipe import AllowRecipe, AugmentPolicyRecipe, AugmentRecipe, RecipeError
from compression.recipe import read as read_classification
from compression.segmentation import (
    augment,
    cases,
    choose,
    contact_sheet,
    evaluate,
    gaps,
    gate,
    measures,
    overlap,
    pack,
    report,
    train,
    volumes,
)
from compression.segmentation.recipe import GateRecipe, read
from compression.unet import UNet, unpruned
from tests.compression.test_segmentation_cases import write_pair
from tests.running import CHECKOUT

LUNGS, HIPPOCAMPUS, CHEST = (
    CHECKOUT / "models" / name / "recipe.toml" for name in ("lungs", "hippocampus", "chest-pneumonia")
)
masks = st.integers(0, 2**16 - 1).map(
    lambda bits: np.array([(bits >> n) & 1 for n in range(16)], np.uint8).reshape(4, 4)
)


# --- masks -----------------------------------------------------------------------------------------------------------


@given(masks, masks)
def test_dice_and_iou_say_the_same(one: np.ndarray, other: np.ndarray) -> None:
    dice, iou = overlap.dice(one, other, 1)[0], measures.iou(one, other, 1)[0]
    assert dice == pytest.approx(2 * iou / (1 + iou))
    assert overlap.dice(one, one, 1)[0] == 1.0


def test_one_segments_error_does_not_make_up_for_anothers() -> None:
    recipe = read(HIPPOCAMPUS)
    values = np.zeros((3, len(evaluate.FIGURES), 2))
    values[:, evaluate.FIGURES.index("volume_error")] = [0.1, -0.2]
    given: Any = SimpleNamespace(recipe=replace(recipe, evaluate=replace(recipe.evaluate, bootstrap=5)))
    figures = evaluate._figures(given, {"a": values}, np.arange(3), np.ones(3, dtype=bool))["a"]
    assert [part["volume_error"][0] for part in figures.values()] == pytest.approx([0.1, 0.2, 0.15])
    assert [part["volume_bias"][0] for part in figures.values()] == pytest.approx([0.1, -0.2, -0.05])


def test_cases_without_a_distance_are_counted_beside_the_mean_of_the_others() -> None:
    recipe = read(HIPPOCAMPUS)
    values = np.ones((4, len(evaluate.FIGURES), 2))
    near = evaluate.FIGURES.index("mean_surface_distance")
    values[0, near], values[1, near, 1] = np.nan, np.nan
    given: Any = SimpleNamespace(recipe=replace(recipe, evaluate=replace(recipe.evaluate, bootstrap=5)))
    everyone = np.ones(4, dtype=bool)
    figures = evaluate._figures(given, {"a": values}, np.arange(4), everyone)["a"]
    assert [part["without_distance"] for part in figures.values()] == [1, 2, 2]
    assert [part["mean_surface_distance"][0] for part in figures.values()] == [1.0, 1.0, 1.0]
    values[:, near] = np.nan
    figures = evaluate._figures(given, {"a": values}, np.arange(4), everyone)["a"]
    assert [part["without_distance"] for part in figures.values()] == [4, 4, 4]
    assert figures["mean"]["mean_surface_distance"] == [None, None, None]


def test_volume_errors_are_over_the_cases_that_have_the_segment_and_the_others_are_counted() -> None:
    recipe = read(HIPPOCAMPUS)
    values = np.ones((12, len(evaluate.FIGURES), 2))
    values[:, evaluate.FIGURES.index("volume_error"), 0] = [0.1] * 4 + [np.inf] * 7 + [np.nan]
    given: Any = SimpleNamespace(recipe=replace(recipe, evaluate=replace(recipe.evaluate, bootstrap=50)))
    figures = evaluate._figures(given, {"a": values}, np.arange(12), np.ones(12, dtype=bool))["a"]
    assert [part["volume_error"] for part in figures.values()] == [[0.1] * 3, [1.0] * 3, [0.55] * 3]
    assert [part["volume_bias"] for part in figures.values()] == [[0.1] * 3, [1.0] * 3, [0.55] * 3]
    assert [part["drawn_where_none"] for part in figures.values()] == [7, 0, 7]
    values[:4, evaluate.FIGURES.index("volume_error"), 0] = np.nan
    figures = evaluate._figures(given, {"a": values}, np.arange(12), np.ones(12, dtype=bool))["a"]
    assert [part["volume_error"][0] for part in figures.values()] == [None, 1.0, None]
    json.dumps(figures, allow_nan=False)
    assert "volume_error" not in pack.measured(figures)["mean"] and "dice" in pack.measured(figures)["mean"]


@pytest.mark.parametrize(("patients", "told"), [(9, False), (10, True)])
def test_figures_of_too_few_patients_have_no_interval(patients: int, told: bool) -> None:
    recipe = read(HIPPOCAMPUS)
    values = np.random.default_rng(0).random((40, len(evaluate.FIGURES), 2))
    given: Any = SimpleNamespace(recipe=replace(recipe, evaluate=replace(recipe.evaluate, bootstrap=50)))
    figures = evaluate._figures(given, {"a": values}, np.arange(40) % patients, np.ones(40, dtype=bool))["a"]
    value, low, high = figures["mean"]["dice"]
    assert (low is not None) == (high is not None) == told
    assert (interval([value, low, high], 3) == f"{value:.3f} (too few patients)") != told


def test_subgroups_are_of_age_device_and_site_too(tmp_path: Path) -> None:
    case = write_pair(tmp_path, np.full((8, 6), 9, np.uint8), np.zeros((8, 6), np.uint8))
    (tmp_path / "manifest.csv").write_text(
        "file,mask,patient_id,age,scanner,location,sex\n"
        "a.png,a-mask.png,p1,7,one,north,F\nb.png,a-mask.png,p2,70,two,,F\nc.png,a-mask.png,p3,,one,north,F\n"
    )
    listed = [(replace(case, file=f"{name}.png"), 0) for name in "abc"]
    assert {name: values.tolist() for name, values in evaluate._columns(tmp_path, listed).items()} == {
        "age": ["under 18", "65 and more", "unknown"],
        "device": ["one", "two", "one"],
        "site": ["north", "unknown", "north"],
    }


def test_an_alarm_names_the_subgroup_that_is_drawn_worse() -> None:
    chance = np.random.default_rng(0)
    patients = np.arange(120) // 2  # two cases of each
    dice = np.clip(0.9 + chance.normal(0, 0.03, 120), 0, 1)
    columns = {
        "sex": np.array(["F", "M"])[patients % 2],
        "site": np.array(list("abc"))[patients % 3],
        "device": np.where(patients < 4, "old", "new"),
    }
    rows = gaps.gaps(dice, patients, columns, 0.05)
    assert not any(row.get("alarm") for row in rows)
    assert [row["subgroup"] for row in rows[-2:]] == ["device: new", "device: old"] and "gap" not in rows[-1]
    dice[columns["site"] == "c"] -= 0.1
    (alarm,) = (row for row in gaps.gaps(dice, patients, columns, 0.05) if row.get("alarm"))
    assert alarm["subgroup"] == "site: c" and alarm["patients"] == [20, 40]
    assert alarm["gap"][0] == pytest.approx(-0.1, abs=0.02) and alarm["gap"][1] < alarm["gap"][0] < alarm["gap"][2] < 0
    assert not any(row.get("alarm") for row in gaps.gaps(dice, patients, columns, 0.2))
    assert all(row["p_holm"] == row["p"] for row in gaps.gaps(dice, patients, {"sex": columns["sex"]}, 0.05))
    assert not any(row.get("alarm") for row in gaps.gaps(np.ones(120), patients, columns, 0.05))


def test_a_segment_that_neither_mask_has_agrees() -> None:
    nothing = np.zeros((3, 3), np.uint8)
    assert overlap.dice(nothing, nothing, 2).tolist() == [1.0, 1.0]
    assert np.isnan(measures.volume_error(nothing, nothing, 2)).all()
    assert gate.compare(nothing[None], nothing[None], nothing[None], 2)["volume_error"] == 0.0


def test_volumes_and_distances_of_cubes_are_what_a_ruler_says() -> None:
    one, other = np.zeros((20, 20, 20), np.uint8), np.zeros((20, 20, 20), np.uint8)
    one[5:10, 5:10, 5:10] = 1
    other[5:10, 5:10, 7:12] = 1  # the same cube, two voxels aside
    assert measures.volume_error(one, other, 1).tolist() == [0.0]
    assert overlap.dice(one, other, 1)[0] == pytest.approx(3 / 5)
    mean, far = measures.surface_distances(one, other, 1, (1.0, 1.0, 1.5))
    assert far[0] == pytest.approx(3.0)  # two voxels of 1.5 mm
    assert 0.0 < mean[0] < far[0]
    larger = one.copy()
    larger[5:10, 5:10, 10] = 1
    assert measures.volume_error(larger, one, 1)[0] == pytest.approx(0.2)
    assert np.isnan(measures.surface_distances(one, np.zeros_like(one), 1, (1.0, 1.0, 1.0))[0]).all()


def note_process(build: Any, fold: int) -> None:
    (build.work / str(fold)).write_text(f"{os.getpid()} {torch.get_num_threads()}")


@pytest.mark.long
def test_folds_that_are_left_over_get_all_threads(tmp_path: Path) -> None:
    of_recipe = SimpleNamespace(data=SimpleNamespace(cross_validated=3))
    build = SimpleNamespace(recipe=of_recipe, threads=2, group=SimpleNamespace(size=1), work=tmp_path)
    before = torch.get_num_threads()
    torch.set_num_threads(2)  # whatever an earlier test in this process left
    try:
        train.each_fold(build, note_process)  # type: ignore[arg-type]
    finally:
        torch.set_num_threads(before)
    processes, threads = zip(*((tmp_path / str(fold)).read_text().split() for fold in range(3)), strict=True)
    assert str(os.getpid()) not in processes[:2] and processes[2] == str(os.getpid())
    assert threads == ("1", "1", "2")


def until_told(build: Any, fold: int) -> None:
    (build.work / str(fold)).touch()
    with checkpoint.watched() as signals:
        for _ in range(600):
            if signals.name:
                raise checkpoint.StoppedError(signals.name)
            time.sleep(0.05)


def test_no_fold_is_begun_after_a_signal_to_stop(tmp_path: Path) -> None:
    of_recipe = SimpleNamespace(data=SimpleNamespace(cross_validated=6))
    build = SimpleNamespace(recipe=of_recipe, threads=2, group=SimpleNamespace(size=1), work=tmp_path)

    def stop() -> None:
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    with pytest.raises(checkpoint.StoppedError):
        train.each_fold(build, until_told)  # type: ignore[arg-type]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"]


def test_a_contact_sheet_shows_outlines_and_says_what_copies_lose(tmp_path: Path) -> None:
    y, x = np.mgrid[:64, :64]
    mask = ((x - 32) ** 2 + (y - 14) ** 2 < 9**2).astype(np.uint8) * 255
    write_pair(tmp_path / "set", np.where(mask > 0, 60, 160).astype(np.uint8), mask)
    recipe = read(LUNGS)
    steps = (Step("resize", {"rows": 64, "columns": 64}), *recipe.input.late())
    shape = replace(recipe.input, shape=(64, 64), steps=steps)
    crop = AugmentRecipe(name="Crop", p=1.0, parameters={"x_min": 0, "y_min": 40, "x_max": 64, "y_max": 64})
    given = replace(recipe, data=replace(recipe.data, train="set", even=None), input=shape)
    sheet = contact_sheet.of_recipe(replace(given, augment=()), tmp_path, 1, 2)
    assert contact_sheet.warnings(sheet) == []
    assert sheet.report["kept"]["Lungs"]["percentiles"] == [1.0, 1.0, 1.0]
    (row,) = sheet.rows
    blue = (row.pictures[0] == recipe.package.segments[0].color).all(axis=-1)
    assert 40 < blue.sum() < 80  # the edge of a disk of radius 9
    sheet = contact_sheet.of_recipe(replace(given, augment=(crop,)), tmp_path, 1, 2)
    assert contact_sheet.warnings(sheet)[0].startswith("Lungs: 100% of the copies show (almost) nothing of it")
    page = contact_sheet.write(sheet, tmp_path / "sheet.html").read_text()
    assert "Lungs 0%" in page
    with pytest.raises(RecipeError, match=r"is a page \(.html\)"):
        contact_sheet.write(sheet, tmp_path / "sheet.png")


def test_volumes_are_not_turned_far_flipped_or_bent_and_an_exception_is_recorded() -> None:
    def refused(name: str, parameters: dict[str, Any], word: str, policy: AugmentPolicyRecipe) -> None:
        step = AugmentRecipe(name=name, p=1.0, parameters=parameters)
        with pytest.raises(RecipeError, match=word):
            augment.compose([step], policy, 3, 0)

    none = AugmentPolicyRecipe()
    refused("RandAffine", {"rotate_range": [0.0, 0.4, 0.0]}, "more than 15", none)
    refused("RandAffine", {"rotate_range": [[-0.1, 0.4], 0.0, 0.0]}, "more than 15", none)
    refused("RandAffine", {"scale_range": 1.5}, "mirrors", none)
    refused("RandRotate", {"range_x": 1.0}, "more than 15", none)
    refused("RandFlip", {}, "another anatomy", none)
    refused("RandZoom", {"min_zoom": -0.5, "max_zoom": 1.1}, "above 0", none)
    refused("RandZoom", {"min_zoom": "small"}, "min_zoom = 'small'", none)
    refused("Rand3DElastic", {"sigma_range": [5, 7], "magnitude_range": [50, 150]}, "no bound", none)
    refused("RandRotate", {"range_q": 1.0}, "range_q", none)
    allow = replace(none, allow=(AllowRecipe(transform="RandFlip", reason="halves of a phantom"),))
    refused("RandZoom", {}, "RandFlip, which no", allow)
    flip = AugmentRecipe(name="RandFlip", p=1.0, parameters={"spatial_axis": 0})
    pixels = np.random.default_rng(0).random((12, 16, 12)).astype(np.float32)
    made = augment.compose([flip], allow, 3, 0)(pixels, (pixels > 0.9).astype(np.uint8))
    np.testing.assert_array_equal(made[0], pixels[::-1])
    np.testing.assert_array_equal(made[1], pixels[::-1] > 0.9)  # what moves the volume moves its mask


@pytest.mark.parametrize(("direction", "axis"), [("left-right", 2), ("head-foot", 0), ("left-right", -1)])
def test_volumes_of_what_has_no_sides_may_be_flipped_along_the_axis_that_the_policy_names(
    direction: Any, axis: int
) -> None:
    policy = AugmentPolicyRecipe(anatomy="phantom", may_flip=(direction,))
    pixels = np.random.default_rng(0).random((12, 16, 10)).astype(np.float32)
    labels = (pixels > 0.9).astype(np.uint8)

    def flip(axes: object) -> AugmentRecipe:
        return AugmentRecipe(name="RandFlip", p=1.0, parameters={} if axes is None else {"spatial_axis": axes})

    made = augment.compose([flip(axis)], policy, 3, 0)(pixels, labels)
    np.testing.assert_array_equal(made[0], np.flip(pixels, axis))
    np.testing.assert_array_equal(made[1], np.flip(labels, axis))
    for refused in (None, 1, [0, 2], 2 - axis % 3):
        with pytest.raises(RecipeError, match=r"RandFlip: .*may_flip"):
            augment.compose([flip(refused)], policy, 3, 0)
    with pytest.raises(RecipeError, match=r"RandAxisFlip: .*another anatomy"):
        augment.compose([AugmentRecipe(name="RandAxisFlip", p=1.0)], policy, 3, 0)


def test_volumes_are_augmented_with_their_masks() -> None:
    recipe = read(HIPPOCAMPUS)
    pixels = np.random.default_rng(0).random((12, 16, 12)).astype(np.float32)
    labels = (pixels > 0.9).astype(np.uint8) * 2
    for dimensions, made in ((3, augment.compose(recipe.augment, recipe.augment_policy, 3, 5)(pixels, labels)),):
        assert made[0].ndim == dimensions and made[0].shape == pixels.shape
        assert made[0].dtype == np.float32 and set(np.unique(made[1])) <= {0, 2}


def test_volumes_are_cut_only_always() -> None:
    pixels = np.random.default_rng(0).random((12, 16, 12)).astype(np.float32)
    policy, size = AugmentPolicyRecipe(), {"roi_size": [8, 16, 10]}
    cut = AugmentRecipe(name="CenterSpatialCrop", p=1.0, parameters=size)
    made = augment.compose([cut], policy, 3, 0)(pixels, (pixels > 0.9).astype(np.uint8))
    np.testing.assert_array_equal(made[0], pixels[2:10, :, 1:11])
    np.testing.assert_array_equal(made[1], made[0] > 0.9)
    with pytest.raises(RecipeError, match=r"always done; say p = 1\.0"):
        augment.compose([replace(cut, p=0.5)], policy, 3, 0)


# --- networks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_network_is_made_again_from_its_weights(dimensions: int) -> None:
    torch.manual_seed(0)
    network = UNet(dimensions, 2, 0.1, unpruned(4, 3)).eval()
    again = UNet.from_state(network.state_dict(), 0.1).eval()
    given = torch.rand(2, 1, *(16,) * dimensions)
    logits, embedding = network(given)
    assert logits.shape == (2, 3, *(16,) * dimensions) and embedding.shape == (2, 16)
    assert torch.equal(again(given)[0], logits)


def test_constants_make_the_median_volume_that_of_the_masks() -> None:
    chance = np.random.default_rng(0)
    truth = np.zeros((9, 12, 20, 20), np.uint8)
    truth[:, 2:6, 4:16, 4:16], truth[:, 6:10, 4:16, 4:16] = 1, 2
    sure = np.stack([np.where(truth == label, 2.0, 0.0) for label in range(3)], axis=1)
    logits = sure + chance.normal(0, 1, sure.shape)
    logits[:, 2] += 0.3  # draws the second too large

    def ratios(shift: np.ndarray) -> np.ndarray:
        drawn = (logits + np.concatenate([[0.0], shift])[:, None, None, None]).argmax(1)
        return np.array([np.median((drawn == k).sum((1, 2, 3)) / (truth == k).sum((1, 2, 3))) for k in (1, 2)])

    assert ratios(np.zeros(2))[1] > 1.2
    found = volumes.constants(iter(logits), truth)
    assert np.abs(found).max() < volumes.LARGEST
    np.testing.assert_allclose(ratios(found), 1.0, atol=0.01)


def test_a_mirrored_case_has_its_sides_exchanged_and_nothing_else() -> None:
    pixels = np.arange(24).reshape(2, 3, 4)
    other = evaluate._mirrored(cases.Source(pixels, pixels % 3, (1.0, 2.0, 3.0)))
    np.testing.assert_array_equal(other.pixels[..., ::-1], pixels)
    np.testing.assert_array_equal(other.labels[..., ::-1], pixels % 3)
    assert other.spacing == (1.0, 2.0, 3.0)


# --- what ships ------------------------------------------------------------------------------------------------------


def verdict(producer: str, milliseconds: float, between: float, broken: tuple[str, ...] = ()) -> gate.Verdict:
    costs = {"dice_loss": 0.0, "dice_between": between, "volume_error": 0.0}
    return gate.Verdict("cpu", producer, ("a",), 1, milliseconds, costs, broken)


def test_the_most_alike_of_the_fast_ones_ships_and_float_where_int8_is_no_faster() -> None:
    tried = {FLOAT: verdict(FLOAT, 10.0, 1.0), "a": verdict("a", 5.0, 0.97), "b": verdict("b", 5.2, 0.99)}
    assert gate.decide("cpu", tried)[0].producer == "b"
    tried["c"] = verdict("c", 1.0, 0.5, ("dice_between 0.5 against 0.95 allowed",))
    assert gate.decide("cpu", tried)[0].producer == "b"
    slow = {FLOAT: verdict(FLOAT, 4.0, 1.0), "a": verdict("a", 5.0, 0.97)}
    shipped, int8, why = gate.decide("cpu", slow)
    assert (shipped.producer, int8.producer) == (FLOAT, "a") and "no faster" in why
    with pytest.raises(RecipeError, match="no int8 candidate passes the gate"):
        gate.decide("cpu", {FLOAT: slow[FLOAT], "c": tried["c"]})


def test_the_gate_measures_the_segment_that_loses_most() -> None:
    truth = np.zeros((2, 4, 4), np.uint8)
    truth[:, :2], truth[:, 2:] = 1, 2
    worse = truth.copy()
    worse[:, 3] = 0
    costs = gate.compare(truth, truth, worse, 2)
    assert costs["dice_loss"] == pytest.approx(1 / 3, abs=1e-3)
    assert costs["dice_between"] == pytest.approx(2 / 3, abs=1e-3) and costs["volume_error"] == 0.5
    limits = GateRecipe(dice_loss=0.01, dice_between=0.95, volume_error=0.6)
    assert [each.split()[0] for each in gate.broken(limits, costs)] == ["dice_loss", "dice_between"]
    assert gate.broken(limits, {**costs, "volume_error": float("nan")})[-1].startswith("volume_error")


def test_the_smallest_network_that_loses_nothing_goes_on() -> None:
    rows = [
        {"name": "unpruned", "parameters": 100, "dice": [0.90, 0.88]},
        {"name": "pruned-0.30", "parameters": 50, "dice": [0.90, 0.875]},
        {"name": "pruned-0.50", "parameters": 25, "dice": [0.91, 0.86]},
    ]
    assert [row["chosen"] for row in choose.choose(rows, 0.01)] == [False, True, False]
    assert [row["chosen"] for row in choose.choose(rows, 0.001)] == [True, False, False]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (LUNGS, "The build chose nothing on test or external data. Yet figures on lungs-external are not blind: "
         "people saw results there while they made the model."),
        (HIPPOCAMPUS, "Pruning and quantization were chosen on validation cases, which other folds test. The build "
         "chose nothing else on test or external data. Yet figures on the test are not blind: people saw results there "
         "while they made the model."),
        (CHEST, "The build chose nothing on test or external data. Yet figures on the test and chest-nih are not "
         "blind: people saw results there while they made the model."),
    ],
)  # fmt: skip
def test_card_and_report_say_what_was_chosen_on_what(path: Path, said: str) -> None:
    recipe = read(path) if path != CHEST else read_classification(path)
    assert external.blindness(SimpleNamespace(recipe=recipe)) == said  # type: ignore[arg-type]


def measured(dice: list[float | None]) -> dict[str, Any]:
    return {"networks": {"cpu int8": {"mean": {"dice": dice}}}}


@pytest.mark.parametrize(
    ("elsewhere", "lost", "said"),
    [
        ([0.80, 0.78, 0.82], "0.1500 [0.12", True),
        ([0.94, 0.93, 0.95], "0.0100 [-0.0", False),  # less than the margin
        ([0.80, None, None], "0.1500 (too few patients)", False),
    ],
)
def test_what_is_lost_elsewhere_is_told_with_its_interval(elsewhere: list[float | None], lost: str, said: bool) -> None:
    drop = {"external: far": evaluate.drop(measured([0.95, 0.94, 0.96]), measured(elsewhere))}
    assert interval(drop["external: far"]["cpu int8"], 4).startswith(lost)
    told = report.outside({"drop": drop, "subgroup_margin": 0.05}, ["cpu int8"], {"external: far": "far"})
    assert ["cpu int8 draws worse outside, on far" in each for each in told] == ([True] if said else [])


def test_that_nobody_knows_how_it_draws_elsewhere_is_told() -> None:
    (told,) = report.outside({"drop": {}, "subgroup_margin": 0.05}, ["cpu int8"], {})
    assert "No external set was measured" in told


_WINDOW = 'name = "window"\nparameters = { center = 2000.0, width = 4000.0 }'
_RESIZE, _RESAMPLE = 'name = "resize"', 'name = "resample"\nparameters = { millimeters = 1.0 }'
_STRETCH = 'name = "percentile_stretch"'


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("levels = 5", "levels = 10", "input.shape must be a multiple"),
        ("cross_validated = 1", "cross_validated = 9", "data.cross_validated is more"),
        ("width = 12", "widht = 12", "widht"),
        ('looked_at = ["lungs-', 'looked_at = ["lung-', "card.looked_at: 'lung-external' is neither test nor in data."),
        ("augment_after = 1", "augment_after = 2", "input.augment_after: images are augmented at 8 bits"),
        ("augment_after = 1", "augment_after = 0", "input.steps: .*first step after input.augment_after, not resize"),
        (f"{_STRETCH}\nparameters = {{ low = 1.0, high = 99.0 }}", _WINDOW, "input.steps: .*, not window"),
        (_STRETCH, 'name = "percentile_strech"', "input.steps: step 2 is 'percentile_strech'.* there are resize, "),
        ("low = 1.0, high", "lo = 1.0, high", "input.steps: step 2, percentile_stretch: .*argument"),
        ("std = 0.27", "std = 0", "input.steps: step 3, normalize: std is 0"),
        (f"{_RESIZE}\nparameters = {{ rows = 256, columns = 256 }}", _RESAMPLE, "step 1, resample: .*take resize"),
        ("[gate]", '[augment_policy]\nmay_flip = ["left-right"]\n\n[gate]', "may_flip: a chest has sides"),
        ("\nseed = ", "\nseed = -1 #", "seed"),
        ("\nbatch = ", "\nbatch = 0 #", "batch"),
        ("\nepochs = ", "\nepochs = 0 #", "epochs"),
        ("\nlearning_rate = ", "\nlearning_rate = -0.1 #", "learning_rate"),
        ("\nweight_decay = ", "\nweight_decay = -0.1 #", "weight_decay"),
    ],
)
def test_a_wrong_recipe_is_named(tmp_path: Path, before: str, after: str, said: str) -> None:
    path, text = tmp_path / "recipe.toml", LUNGS.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    with pytest.raises(RecipeError, match=said) as error:
        read(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(("after", "last"), [(1, "none"), (4, "normalize")])
def test_volumes_are_augmented_only_where_their_values_are_0_to_1(tmp_path: Path, after: int, last: str) -> None:
    path, text = tmp_path / "recipe.toml", HIPPOCAMPUS.read_text()
    path.write_text(text.replace("augment_after = 3", f"augment_after = {after}"))
    with pytest.raises(RecipeError, match=rf"input\.augment_after: volumes are augmented in 0 to 1.*, not {last}"):
        read(path)
    path.write_text(text.replace("augment_after = 3", "augment_after = 2"))
    assert read(path).input.augment_after == 2
