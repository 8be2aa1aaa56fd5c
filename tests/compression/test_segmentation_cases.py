"""Cases of a segmentation: how they are read, prepared and dealt, and what a build refuses before it trains."""

from __future__ import annotations

import ast
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from PIL import Image as PillowImage

from appliance.preprocess import Step, preprocess
from compression import check_cases
from compression.distributed import SINGLE
from compression.recipe import RecipeError
from compression.segmentation import cases, preflight
from compression.segmentation.cases import Case
from compression.segmentation.recipe import InputRecipe, read
from tests.running import CHECKOUT

LUNGS, HIPPOCAMPUS = (CHECKOUT / "models" / name / "recipe.toml" for name in ("lungs", "hippocampus"))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=40, max_size=80), st.integers(0, 5))
def test_no_patient_is_in_two_parts_of_a_fold(patients: list[int], seed: int) -> None:
    listed = [Case(f"{n}.png", f"{n}-mask.png", f"patient {who}", -1, "") for n, who in enumerate(patients)]
    if len(set(patients)) < 5:
        return
    found = cases.dealt(listed, 5, seed)
    recipe = read(LUNGS)

    class _Build:
        pass

    build: Any = _Build()
    build.recipe = replace(recipe, data=replace(recipe.data, folds=5, seed=seed))
    for fold in range(5):
        parts = cases.split(build, found, fold)
        assert sorted(np.concatenate(list(parts.values()))) == list(range(len(found)))
        owners = [{found[number].patient for number in indices} for indices in parts.values()]
        assert not owners[0] & owners[1] and not owners[0] & owners[2] and not owners[1] & owners[2]
    assert cases.dealt(listed, 5, seed) == found


def write_volume(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)


def test_a_volume_is_laid_out_as_dicom_lays_an_axial_series_out(tmp_path: Path) -> None:
    right_anterior_superior = np.zeros((4, 5, 6), np.float32)
    right_anterior_superior[3, 4, 5] = 7.0  # the corner to the right, to the front, to the head
    labels = (right_anterior_superior > 0).astype(np.uint8)
    turned = np.diag([1.0, 2.0, 3.0, 1.0])
    write_volume(tmp_path / "images" / "a.nii.gz", right_anterior_superior, turned)
    write_volume(tmp_path / "labels" / "a.nii.gz", labels, turned)
    (case,) = cases.listed(tmp_path)
    source = cases.read(tmp_path, case, ["one"])
    assert source.pixels.shape == (6, 5, 4) and source.spacing == (3.0, 2.0, 1.0)
    assert source.pixels[5, 0, 0] == 7.0  # last slice to the head, first row to the front, first column to the right
    assert (source.labels == (source.pixels > 0)).all()
    # The same volume, stored from left to right: nothing changes.
    flipped = turned.copy()
    flipped[0, 0], flipped[0, 3] = -1.0, 3.0
    write_volume(tmp_path / "images" / "a.nii.gz", right_anterior_superior[::-1], flipped)
    write_volume(tmp_path / "labels" / "a.nii.gz", labels[::-1], flipped)
    again = cases.read(tmp_path, case, ["one"])
    np.testing.assert_array_equal(again.pixels, source.pixels)


def test_a_volume_without_numbers_or_with_a_mask_elsewhere_is_refused(tmp_path: Path) -> None:
    pixels, labels = np.ones((4, 5, 6), np.float32), np.ones((4, 5, 6), np.uint8)
    write_volume(tmp_path / "images" / "a.nii.gz", pixels)
    write_volume(tmp_path / "labels" / "a.nii.gz", labels, np.diag([2.0, 1.0, 1.0, 1.0]))
    (case,) = cases.listed(tmp_path)
    with pytest.raises(RecipeError, match=r"a.nii.gz lies up to 3.00 mm away from its image"):
        cases.read(tmp_path, case, ["one"])
    pixels[1, 2, 3] = np.nan
    write_volume(tmp_path / "images" / "a.nii.gz", pixels)
    with pytest.raises(RecipeError, match=r"holds values that are no numbers"):
        cases.read(tmp_path, case, ["one"])


def test_another_mask_of_the_same_name_is_another_data_set(tmp_path: Path) -> None:
    write_pair(tmp_path / "set", np.full((8, 6), 9, np.uint8), np.zeros((8, 6), np.uint8))
    recipe = read(LUNGS)
    build = SimpleNamespace(
        data_root=tmp_path, recipe=replace(recipe, data=replace(recipe.data, train="set", even=None))
    )
    before, listed = cases.fingerprint(build), cases.list_digest(build)  # type: ignore[arg-type]
    write_pair(tmp_path / "set", np.full((8, 6), 9, np.uint8), np.full((8, 6), 255, np.uint8))
    assert cases.fingerprint(build) != before  # type: ignore[arg-type]
    assert cases.list_digest(build) == listed  # type: ignore[arg-type]


def test_another_order_of_segments_is_another_data_set_but_another_title_is_not(tmp_path: Path) -> None:
    write_pair(tmp_path / "hippocampus", np.full((8, 6), 9, np.uint8), np.zeros((8, 6), np.uint8))
    recipe = read(HIPPOCAMPUS)

    def fingerprint(**changed: Any) -> bytes:
        given = replace(recipe, package=replace(recipe.package, **changed))
        return cases.fingerprint(SimpleNamespace(data_root=tmp_path, recipe=given))  # type: ignore[arg-type]

    one, other = recipe.package.segments
    assert fingerprint() == fingerprint(
        version="9.9.9", title="another", segments=(replace(one, color=(1, 2, 3)), other)
    )
    assert len({fingerprint(), fingerprint(segments=(other, one)), fingerprint(segments=(one,))}) == 3


def test_more_folds_than_patients_are_named() -> None:
    listed = [Case(f"{n}.png", f"{n}-mask.png", f"patient {n % 3}", -1, "") for n in range(30)]
    with pytest.raises(RecipeError, match=r"data\.folds: 3 patients can't be dealt to 5 folds .*lower data\.folds"):
        cases.dealt(listed, 5, 0)
    assert {case.fold for case in cases.dealt(listed, 3, 0)} == {0, 1, 2}


def of_three_sets(folder: Path) -> Any:
    """A build that learns from four patients and is tested on two other hospitals', before its first stage."""
    for name, seed in (("train", 0), ("external", 100), ("other", 200)):
        write_patients(folder / name, 4, seed)
    recipe = read(LUNGS)
    data = replace(recipe.data, train="train", external=("external", "other"), even=None, folds=3, cross_validated=1)
    made = replace(recipe, data=data)
    return SimpleNamespace(data_root=folder, recipe=made, work=folder / "work", group=SINGLE)


def write_patients(folder: Path, count: int, seed: int) -> None:
    folder.mkdir(exist_ok=True)
    rows = ["file,mask,patient_id"]
    for number in range(count):
        image = np.random.default_rng(seed + number).integers(0, 255, (8, 6)).astype(np.uint8)
        PillowImage.fromarray(image).save(folder / f"{number}.png")
        PillowImage.fromarray((image > 99).astype(np.uint8)).save(folder / f"{number}-mask.png")
        rows.append(f"{number}.png,{number}-mask.png,p{number}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")


@pytest.mark.parametrize("name", ["train", "external", "other"])
@pytest.mark.parametrize(
    ("before", "after", "word"),
    [
        ("0-mask.png,p0", "0-mask.png,", "no patient: 1\n    0.png"),
        ("0-mask.png,p0", "no-mask.png,p0", "missing mask: 1\n    no-mask.png of 0.png is not there"),
        ("1.png,1-mask.png,p1", "0.png,0-mask.png,p0", "listed twice: 1\n    0.png"),
        ("0.png,0-mask.png,p0", "flat.png,0-mask.png,p0", "constant image: 1\n    flat.png: every pixel is 9"),
        ("0.png,0-mask.png,p0", "0.png,wide.png,p0", "mask of another size: 1\n    wide.png"),
        ("0.png,0-mask.png,p0", "a.dcm,0-mask.png,p0", "corrupt image: 1\n    a.dcm is neither a picture nor NIfTI"),
        ("0.png,0-mask.png,p0", "copy.png,0-mask.png,p0", "the same image under two patients: 1\n    copy.png = 1.png"),
    ],
)
def test_a_build_refuses_what_check_data_calls_an_error_before_any_training(
    tmp_path: Path, name: str, before: str, after: str, word: str
) -> None:
    build = of_three_sets(tmp_path)
    preflight.check(build)
    folder = tmp_path / name
    PillowImage.fromarray(np.full((8, 6), 9, np.uint8)).save(folder / "flat.png")
    PillowImage.fromarray(np.zeros((8, 7), np.uint8)).save(folder / "wide.png")
    (folder / "a.dcm").write_bytes(b"DICM")
    (folder / "copy.png").write_bytes((folder / "1.png").read_bytes())
    text = (folder / "manifest.csv").read_text()
    assert before in text
    (folder / "manifest.csv").write_text(text.replace(before, after))
    with pytest.raises(RecipeError) as error:
        preflight.check(build)
    assert f"ERROR: {name}: {word}" in str(error.value)
    (folder / "manifest.csv").write_text(text)
    preflight.check(build)


def test_a_build_warns_of_patients_in_training_and_in_an_external_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build = of_three_sets(tmp_path)
    preflight.check(build)
    said = "patients in training and external set: 4 (p0, p1, p2, p3): one person, or the numbers of two hospitals?"
    assert f"warning: train and external: {said}" in capsys.readouterr().out
    manifest = tmp_path / "external" / "manifest.csv"
    manifest.write_text(manifest.read_text().replace("-mask.png,p", "-mask.png,other "))
    preflight.check(build)
    assert "train and external" not in capsys.readouterr().out


def test_a_case_that_shows_the_same_as_another_is_left_out(tmp_path: Path) -> None:
    build = of_three_sets(tmp_path)
    manifest = tmp_path / "train" / "manifest.csv"
    head, *rows = manifest.read_text().splitlines()
    (tmp_path / "train" / "copy.png").write_bytes((tmp_path / "train" / "1.png").read_bytes())
    rows = [*(f"{row}," for row in rows), "copy.png,1-mask.png,p4,1.png"]
    manifest.write_text("\n".join([f"{head},exact_duplicate_of", *rows]) + "\n")
    assert [case.file for case in cases.of_training(build.recipe.data, tmp_path)] == [f"{n}.png" for n in range(4)]
    preflight.check(build)  # it refuses the same image under two patients
    manifest.write_text(manifest.read_text().replace(",\n", ",1.png\n"))
    with pytest.raises(RecipeError, match="exact_duplicate_of leaves out every case"):
        preflight.check(build)


def test_a_build_does_not_read_every_case_again_while_the_files_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = of_three_sets(tmp_path)
    preflight.check(build)
    monkeypatch.setattr(check_cases, "check", None)
    preflight.check(build)


def test_cases_that_pass_as_one_patient_s_are_read_again_where_the_recipe_joins_them_no_longer(tmp_path: Path) -> None:
    build = of_three_sets(tmp_path)
    (tmp_path / "train" / "2.png").write_bytes((tmp_path / "train" / "1.png").read_bytes())
    apart, joined = build.recipe, replace(build.recipe.data, same_patient=(("p1", "p2"),))
    build.recipe = replace(apart, data=joined)
    preflight.check(build)
    build.recipe = apart
    with pytest.raises(RecipeError, match=r"the same image under two patients: 1\n    1\.png = 2\.png"):
        preflight.check(build)


def test_a_changed_check_reads_every_case_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build, changed = of_three_sets(tmp_path), tmp_path / "check_cases.py"
    preflight.check(build)
    changed.write_text(f"{Path(str(check_cases.__file__)).read_text()}# and looks for more\n")
    monkeypatch.setattr(check_cases, "__file__", str(changed))
    calls: list[Any] = []
    once = check_cases.check
    monkeypatch.setattr(check_cases, "check", lambda *given: calls.append(given) or once(*given))
    preflight.check(build)
    preflight.check(build)
    assert len(calls) == 1
    tree = ast.walk(ast.parse(changed.read_text()))
    used = {node for each in tree if isinstance(each, ast.ImportFrom) and each.module
            for node in (each.module, *(f"{each.module}.{alias.name}" for alias in each.names))}  # fmt: skip
    modules = {name for name in used & sys.modules.keys() if name.startswith("compression.")}
    assert modules - {source.__name__ for source in preflight.SOURCES} == {
        "compression.recipe", "compression.segmentation", "compression.segmentation.recipe"
    }  # fmt: skip


def write_pair(folder: Path, image: np.ndarray, mask: np.ndarray) -> Case:
    folder.mkdir(exist_ok=True)
    PillowImage.fromarray(image).save(folder / "a.png")
    PillowImage.fromarray(mask).save(folder / "a-mask.png")
    (folder / "manifest.csv").write_text("file,mask,patient_id\na.png,a-mask.png,p1\n")
    (case,) = cases.listed(folder)
    return case


def test_bad_pairs_are_named(tmp_path: Path) -> None:
    image = np.full((8, 6), 9, np.uint8)
    case = write_pair(tmp_path, image, np.full((8, 6), 255, np.uint8))
    assert cases.read(tmp_path, case, ["one"]).labels.max() == 1  # black and white
    with pytest.raises(RecipeError, match=r"a-mask.png holds the label 255; declared are 0 to 2"):
        cases.read(tmp_path, case, ["one", "two"])
    case = write_pair(tmp_path, image, np.full((8, 6), 2, np.uint8))  # would be an empty mask, taken for black
    with pytest.raises(RecipeError, match=r"a-mask.png holds the label 2; declared are 0 to 1"):
        cases.read(tmp_path, case, ["one"])
    case = write_pair(tmp_path, image, np.zeros((8, 7), np.uint8))
    with pytest.raises(RecipeError, match=r"a-mask.png: mask and image are 7x8 and 6x8"):
        cases.read(tmp_path, case, ["one"])
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    with pytest.raises(RecipeError, match=r"a\.png can't be decoded"):
        cases.read(tmp_path, case, ["one"])
    with pytest.raises(RecipeError, match=r"a.dcm is neither a picture nor NIfTI"):
        cases.read(tmp_path, replace(case, file="a.dcm"), ["one"])
    with pytest.raises(RecipeError, match=r"neither manifest.csv nor images"):
        cases.listed(tmp_path / "nothing")


def test_labels_move_with_the_pixels() -> None:
    steps = (Step("resample", {"millimeters": 1.0}), Step("pad_or_crop", {"size": [6, 8, 10]}))
    labels = np.zeros((3, 8, 10), np.uint8)
    labels[1, 2:6, 3:7] = 2
    moved = cases.moved(labels, steps, (2.0, 1.0, 1.0))
    assert moved.shape == (6, 8, 10) and set(np.unique(moved)) == {0, 2}
    assert (moved == 2).sum() == pytest.approx(2 * (labels == 2).sum(), rel=0.2)


def test_what_is_prepared_does_not_hang_on_how_a_file_stores_its_levels() -> None:
    """A data set mixes them: volumes of 8 bits and of floats, images of 8 and of 12 bits."""
    chance = np.random.default_rng(0)
    levels = chance.integers(0, 256, (6, 8, 10)).astype(np.uint8)
    steps = (Step("percentile_stretch", {"low": 0.0, "high": 100.0}), Step("pad_or_crop", {"size": [8, 8, 10]}))
    labels, spacing = (levels > 99).astype(np.uint8), (1.0, 1.0, 1.0)
    bytes_, floats = (
        cases.prepare(cases.Source(levels.astype(kind), labels, spacing), InputRecipe((8, 8, 10), steps, 2))[0]
        for kind in (np.uint8, np.float64)
    )
    assert bytes_.dtype == floats.dtype == np.float32
    np.testing.assert_allclose(bytes_, floats)
    of_images = (Step("resize", {"rows": 8, "columns": 10}), steps[0])
    image = levels[0]
    image[0, :2] = 0, 255
    shallow, deep = (
        cases.prepare(cases.Source(each, labels[0], (1.0, 1.0)), InputRecipe((8, 10), of_images, 1))[0]
        for each in (image, image.astype(np.uint16) * 16)
    )
    assert shallow.dtype == deep.dtype == np.float32
    np.testing.assert_allclose(shallow, deep, atol=1e-3)


@pytest.mark.parametrize("outlier", ["none", "a hot pixel", "a marker", "a black frame"])
def test_a_deep_image_is_learned_from_as_the_device_sees_it(outlier: str) -> None:
    """However far from the rest some pixels lie."""
    recipe = read(LUNGS)
    image = np.linspace(20_000, 24_095, 300 * 280).astype(np.uint16).reshape(300, 280)
    if outlier == "a hot pixel":
        image[40, 40] = 65_535
    elif outlier == "a marker":
        image[:25, :25] = 65_535  # 0.7 %
    elif outlier == "a black frame":
        image[:10] = image[:, :10] = 0  # 7 %
    source = cases.Source(image, np.zeros(image.shape, np.uint8), (1.0, 1.0))
    pixels, _ = cases.prepare(source, recipe.input)
    trained, given = preprocess(pixels, recipe.input.late()), preprocess(image, recipe.input.steps)
    level = 1 / 255 / float(recipe.input.steps[-1].parameters["std"])
    assert np.abs(trained - given).max() <= 0.001 * level


def test_stage_data_says_that_folds_are_dealt_by_patient_and_not_by_the_list_s_split(tmp_path: Path) -> None:
    build = of_three_sets(tmp_path)
    build.folder = lambda name: tmp_path
    assert cases.run(build) == "4 cases of 4 patients in 3 folds"
    manifest = tmp_path / "train" / "manifest.csv"
    header, *rows = manifest.read_text().splitlines()
    manifest.write_text("\n".join([f"{header},split", *(f"{row},test" for row in rows)]))
    told = "the list's split is not used: folds are dealt by patient"
    assert cases.run(build) == f"4 cases of 4 patients in 3 folds; {told}"


@pytest.mark.parametrize("harm", ["", "damage", "another step", "another segment"])
def test_prepared_cases_are_kept_and_made_again_where_they_are_not_these(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], harm: str
) -> None:
    build = of_three_sets(tmp_path)
    build.folder = lambda name: tmp_path
    cases.run(build)
    before = cases.load(build)[1]
    assert "wrote 4 samples" in capsys.readouterr().out
    (kept,) = (tmp_path / "work" / "cache").iterdir()
    recipe = build.recipe
    if harm == "damage":
        with kept.open("r+b") as file:
            file.seek(-40, os.SEEK_END)
            file.write(bytes(40))
    elif harm == "another step":
        steps = (replace(recipe.input.steps[0], name="pad_or_crop", parameters={"size": [256, 256]}),)
        build.recipe = replace(recipe, input=replace(recipe.input, steps=(*steps, *recipe.input.steps[1:])))
    elif harm:
        (segment,) = recipe.package.segments
        build.recipe = replace(recipe, package=replace(recipe.package, segments=(replace(segment, label="Lung"),)))
    cases.run(build)
    said = capsys.readouterr().out
    assert ("it is made again" in said) == (harm == "damage")
    assert ("wrote 4 samples" if harm else "read 4 samples") in said
    same = np.array_equal(cases.load(build)[1].labels, before.labels)
    assert same == (harm != "another step")
