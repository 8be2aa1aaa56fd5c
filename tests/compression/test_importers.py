"""Every layout becomes a data set that training reads; what is wrong stops by name or is left out by rule, counted."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from click.testing import CliRunner, Result
from PIL import Image as PillowImage
from PIL.PngImagePlugin import PngInfo

from appliance import image
from compression import deidentify_files, importing, sources
from compression.cli import main
from compression.content import content_version
from compression.data import decode, read_manifest
from compression.importers import IMPORTERS
from compression.importing import Options
from compression.problems import DataError
from compression.pseudonyms import Pseudonyms
from compression.segmentation import cases
from tests.compression.test_masks import NAMES, labels, make_seg, make_series
from tests.dicom_files import chest_pixels, make_radiograph
from tests.running import CHECKOUT

SHARED = CHECKOUT.parent / "shared"
REMOVED = {"PatientIdentityRemoved": "YES", "LongitudinalTemporalInformationModified": "REMOVED", "AccessionNumber": ""}


def command(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["import", *map(str, arguments)], catch_exceptions=False)


def done(layout: str, source: Path, target: Path, **options: Any) -> tuple[list[dict[str, str]], dict[str, Any]]:
    """The rows of the imported list and the report."""
    report = importing.run(IMPORTERS[layout], source, target, Options(**options))
    assert report == json.loads((target / "import.json").read_text())
    return read_manifest(target), report


def write_list(folder: Path, rows: list[dict[str, str]], name: str = "manifest.csv") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six images of three patients: 8-bit JPEG and PNG, 16-bit PNG, a BMP, and masks."""
    source = tmp_path / "source"
    rows = []
    for number in range(6):
        bits, suffix = (16, "png") if number == 2 else (8, ("jpg", "png", "png", "bmp")[number % 4])
        file = source / "images" / f"{number}.{suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        PillowImage.fromarray(chest_pixels(40, 30, bits, number)).save(file)
        mask = np.zeros((40, 30), dtype=np.uint8)
        mask[5:20, 4:12] = 255 * (number != 5)
        (source / "masks").mkdir(exist_ok=True)
        PillowImage.fromarray(mask).save(source / "masks" / f"{number}.png")
        rows.append(
            {"file": f"images/{file.name}", "label": ("NORMAL", "PNEUMONIA")[number % 2],
             "patient_id": f"P{number // 2}",
             "split": "train" if number < 4 else "test", "mask": f"masks/{number}.png", "age": str(20 + number)}
        )  # fmt: skip
    return write_list(source, rows)


def rewrite(folder: Path, number: int, **changes: str) -> None:
    with (folder / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows[number] |= changes
    write_list(folder, rows)


def test_the_command_offers_every_layout() -> None:
    result = command("--help")
    assert all(layout in result.output for layout in IMPORTERS)
    assert "Examples" in result.output


def test_a_folder_keeps_its_images_columns_and_depth(folder: Path, tmp_path: Path) -> None:
    rows, report = done("folder", folder, tmp_path / "target", segments=("lung",))
    assert [row["label"] for row in rows] == ["NORMAL", "PNEUMONIA"] * 3
    assert rows[4]["split"] == "test"
    assert rows[4]["age"] == "24"
    assert (tmp_path / "target" / rows[0]["file"]).read_bytes() == (folder / "images" / "0.jpg").read_bytes()
    np.testing.assert_array_equal(decode(tmp_path / "target" / rows[2]["file"]), chest_pixels(40, 30, 16, 2))
    np.testing.assert_array_equal(decode(tmp_path / "target" / rows[3]["file"]), chest_pixels(40, 30, 8, 3))
    with PillowImage.open(tmp_path / "target" / rows[0]["mask"]) as mask:
        assert np.unique(np.asarray(mask)).tolist() == [0, 1]
    assert report["empty_masks"] == ["masks/5.png"]
    assert report["patients"] == 3
    assert report["content"] == content_version(tmp_path / "target")


def test_columns_may_have_other_names(folder: Path, tmp_path: Path) -> None:
    text = (folder / "manifest.csv").read_text()
    (folder / "manifest.csv").write_text(text.replace("label", "finding").replace("patient_id", "subject"))
    with pytest.raises(DataError, match="lacks patient_id"):
        done("folder", folder, tmp_path / "target")
    rows, _ = done("folder", folder, tmp_path / "target", columns={"label": "finding", "patient_id": "subject"})
    assert rows[1]["label"] == "PNEUMONIA"
    assert rows[1]["patient_id"] == "P0"


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        (",NORMAL,P1,", ",NORMAL, left,P1,", r"line 4: 7 values for 6 columns"),  # a comma in no quotes: whose image?
        (",NORMAL,P1,", ",P1,", r"line 4: 5 values for 6 columns"),
        (",split,", ",label,", r"several columns called label"),
    ],
)
def test_a_list_whose_values_are_not_below_their_columns_is_refused(
    folder: Path, tmp_path: Path, old: str, new: str, word: str
) -> None:
    listed = folder / "manifest.csv"
    text = listed.read_text()
    assert old in text
    listed.write_text(text.replace(old, new, 1))
    with pytest.raises(DataError, match=word):
        done("folder", folder, tmp_path / "target")
    with pytest.raises(DataError, match=word):  # nor does a training take it
        read_manifest(folder)


def test_the_same_source_gives_the_same_version_anywhere(folder: Path, tmp_path: Path) -> None:
    _, one = done("folder", folder, tmp_path / "one")
    shutil.copytree(folder, tmp_path / "moved")
    _, other = done("folder", tmp_path / "moved", tmp_path / "other")
    assert one["content"] == other["content"]
    rewrite(tmp_path / "moved", 0, label="PNEUMONIA")
    _, changed = done("folder", tmp_path / "moved", tmp_path / "changed")
    assert changed["content"] != one["content"]


def damage_image(folder: Path) -> None:
    path = folder / "images" / "1.png"
    path.write_bytes(path.read_bytes()[:200])


def remove_image(folder: Path) -> None:
    (folder / "images" / "1.png").unlink()


def resize_mask(folder: Path) -> None:
    PillowImage.fromarray(np.zeros((39, 30), dtype=np.uint8)).save(folder / "masks" / "1.png")


def other_mask_label(folder: Path) -> None:
    PillowImage.fromarray(np.full((40, 30), 9, dtype=np.uint8)).save(folder / "masks" / "1.png")


def damage_mask(folder: Path) -> None:
    (folder / "masks" / "1.png").write_bytes(b"no picture")


def remove_mask(folder: Path) -> None:
    (folder / "masks" / "1.png").unlink()


def other_label(folder: Path) -> None:
    rewrite(folder, 1, label="TUBERCULOSIS")


def no_label(folder: Path) -> None:
    rewrite(folder, 1, label="")


@pytest.mark.parametrize(
    ("spoil", "kind", "rule", "named"),
    [
        (damage_image, "corrupt image", "--skip-corrupt", "1.png"),
        (remove_image, "corrupt image", "--skip-corrupt", "images/1.png"),
        (resize_mask, "mask of another size", "--skip-masks", "30x39 and 30x40"),
        (other_mask_label, "mask with an undeclared label", "--skip-masks", "label 9"),
        (damage_mask, "corrupt mask", "--skip-masks", "masks/1.png"),
        (remove_mask, "no mask", "--skip-masks", "masks/1.png"),
        (other_label, "label outside the set", "--skip-labels", "TUBERCULOSIS"),
        (no_label, "no label", "--skip-labels", "1.png"),
    ],
)  # fmt: skip
def test_a_fault_stops_by_name_or_is_left_out_by_its_rule_and_counted(
    spoil: Any, kind: str, rule: str, named: str, folder: Path, tmp_path: Path
) -> None:
    spoil(folder)
    target = tmp_path / "target"
    arguments = ["folder", folder, target, "--segment", "lung", "--label", "NORMAL", "--label", "PNEUMONIA"]
    stopped = command(*arguments)
    assert stopped.exit_code == 1
    assert f"{kind}: " in stopped.output
    assert named in stopped.output
    assert rule in stopped.output
    assert not list(tmp_path.glob("target*"))
    result = command(*arguments, rule)
    assert result.exit_code == 0, result.output
    assert f"left out by {rule}: {kind}: 1" in result.output
    assert "5 cases" in result.output
    assert len(read_manifest(target)) == 5
    assert len(json.loads((target / "import.json").read_text())["skipped"][kind]) == 1


def test_a_patient_in_two_splits_or_without_a_name_always_stops(folder: Path, tmp_path: Path) -> None:
    everything = frozenset(rule for rule in importing.RULES.values() if rule)
    rewrite(folder, 4, patient_id="P0")
    with pytest.raises(DataError, match="1 patients are in two splits: P0 in test and train"):
        done("folder", folder, tmp_path / "target", skip=everything)
    rewrite(folder, 4, patient_id="")
    with pytest.raises(DataError, match="has no patient"):
        done("folder", folder, tmp_path / "target", skip=everything)


def test_a_list_may_not_lead_out_of_its_folder(folder: Path, tmp_path: Path) -> None:
    rewrite(folder, 0, file="../elsewhere.png")
    with pytest.raises(DataError, match=r"line 2: '\.\./elsewhere\.png'"):
        done("folder", folder, tmp_path / "target")


def test_a_full_disk_leaves_no_half_data_set(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PillowImage.Image, "save", full)
    with pytest.raises(DataError, match="no room left on the disk"):
        done("folder", folder, tmp_path / "target")
    assert not list(tmp_path.glob("target*"))


def test_what_is_there_is_never_overwritten(folder: Path, tmp_path: Path) -> None:
    done("folder", folder, tmp_path / "target")
    with pytest.raises(DataError, match="is there already"):
        done("folder", folder, tmp_path / "target")


# --- DICOM ----------------------------------------------------------------------------------------------------------


def clean_radiograph(path: Path, number: int, **attributes: Any) -> Path:
    patient = f"P-{number // 2}"
    return make_radiograph(path, seed=number, **{"PatientID": patient, "PatientName": patient, **REMOVED, **attributes})


def test_training_sees_what_the_device_sees(tmp_path: Path) -> None:
    """12 and 16 bits, MONOCHROME1, a modality LUT with negative values: levels of the list give the values back."""
    source = tmp_path / "dicom"
    kinds: list[dict[str, Any]] = [
        {"bits": 12}, {"bits": 8}, {"bits": 16}, {"bits": 12, "photometric": "MONOCHROME1"},
        {"bits": 12, "RescaleSlope": "1", "RescaleIntercept": "-1024"},
        {"bits": 12, "RescaleSlope": "0.37", "RescaleIntercept": "0"},
    ]  # fmt: skip
    paths = [clean_radiograph(source / f"{number}.dcm", number, **kind) for number, kind in enumerate(kinds)]
    (tmp_path / "labels.csv").write_text(
        "PatientID,label,split\nP-0,NORMAL,train\nP-1,NORMAL,test\nP-2,PNEUMONIA,test\n"
    )
    rows, report = done("dicom-tree", source, tmp_path / "target", label_file=tmp_path / "labels.csv")
    assert report["labels"] == {"NORMAL": 4, "PNEUMONIA": 2}
    by_name = {Path(row["file"]).stem: row for row in rows}
    for path, kind in zip(paths, kinds, strict=True):
        seen = image.load(path)
        row = by_name[seen.sop_instance_uid]
        levels = decode(tmp_path / "target" / row["file"])
        assert levels.dtype == (np.uint8 if kind["bits"] == 8 else np.uint16)
        slope, intercept = float(row["rescale_slope"]), float(row["rescale_intercept"])
        exact = "0.37" not in kind.values()
        np.testing.assert_allclose(levels * slope + intercept, seen.pixels, atol=0 if exact else 0.51 * slope)
    assert (rows[0]["view"], rows[0]["age"], rows[0]["sex"]) == ("PA", "4", "O")


def test_dicom_that_identifies_is_refused_unless_agreed_on_and_recorded(tmp_path: Path) -> None:
    source = tmp_path / "dicom"
    clean_radiograph(source / "a.dcm", 0)
    clean_radiograph(source / "b.dcm", 1, PatientName="DOE^JANE", PatientIdentityRemoved="NO")
    (tmp_path / "labels.csv").write_text("PatientID,label\nP-0,NORMAL\n")
    arguments = ["dicom-tree", source, tmp_path / "target", "--label-file", tmp_path / "labels.csv"]
    refused = command(*arguments)
    assert refused.exit_code == 1
    assert "b.dcm still identifies a person: PatientIdentityRemoved is not YES, PatientName" in refused.output
    assert "DOE" not in refused.output
    assert not (tmp_path / "target").exists()
    allowed = command(*arguments, "--identified-by-agreement", "contract 7 of 2026")
    assert allowed.exit_code == 0, allowed.output
    report = json.loads((tmp_path / "target" / "import.json").read_text())
    assert report["identified_by_agreement"] == "contract 7 of 2026"
    assert report["cases"] == 2


def test_a_list_of_dicom_files_is_refused_too_where_they_identify(tmp_path: Path) -> None:
    source = tmp_path / "source"
    clean_radiograph(source / "a.dcm", 0)
    clean_radiograph(source / "b", 1, PatientBirthDate="19770707")
    rows = [{"file": name, "label": "NORMAL", "patient_id": name} for name in ("a.dcm", "b")]
    write_list(source, rows)
    with pytest.raises(DataError, match="b still identifies a person: PatientBirthDate"):
        done("folder", source, tmp_path / "target")
    imported, _ = done("folder", source, tmp_path / "target", agreement="signed")
    levels = decode(tmp_path / "target" / imported[0]["file"])
    np.testing.assert_array_equal(levels, image.load(source / "a.dcm").pixels)


def test_texts_of_a_file_do_not_come_along(folder: Path, tmp_path: Path) -> None:
    texts = PngInfo()
    texts.add_text("Comment", "SECRET")
    PillowImage.fromarray(chest_pixels(40, 30, 8, 1)).save(folder / "images" / "1.png", pnginfo=texts)
    rows, _ = done("folder", folder, tmp_path / "target")
    assert b"SECRET" not in (tmp_path / "target" / rows[1]["file"]).read_bytes()
    np.testing.assert_array_equal(decode(tmp_path / "target" / rows[1]["file"]), chest_pixels(40, 30, 8, 1))


def test_a_tree_of_series_and_segmentations_becomes_volumes_with_masks(tmp_path: Path) -> None:
    for patient in ("one", "other"):
        paths = make_series(tmp_path / "dicom" / patient, patient=patient)
        make_seg(tmp_path / "dicom" / patient / "seg.dcm", [pydicom.dcmread(path) for path in paths], labels())
    deidentify_files.run(tmp_path / "dicom", tmp_path / "clean", Pseudonyms(bytes(32)), deidentify_files.Options())
    rows, report = done("dicom-tree", tmp_path / "clean", tmp_path / "target", segments=NAMES)
    assert report["masks"] == 2
    assert {row["patient_id"] for row in rows} == {Pseudonyms(bytes(32)).patient(each) for each in ("one", "other")}
    for case in cases.listed(tmp_path / "target"):
        source = cases.read(tmp_path / "target", case, NAMES)
        # Training lays a volume out as DICOM does: the stack is back where it came from.
        np.testing.assert_array_equal(source.labels, labels())
        assert source.pixels[:, 12, 10].tolist() == [100, 200, 300, 400, 500, 600]
        assert source.spacing == (2, 0.5, 0.75)
        volume = nibabel.load(tmp_path / "target" / case.file)
        assert nibabel.aff2axcodes(volume.affine) == ("R", "A", "S")
        assert volume.get_data_dtype() == np.int16


def test_what_is_no_image_for_a_case_is_named(tmp_path: Path) -> None:
    source = tmp_path / "dicom"
    clean_radiograph(source / "a.dcm", 0)
    (source / "readme.txt").write_text("hello")
    (tmp_path / "labels.csv").write_text("PatientID,label\nP-0,NORMAL\n")
    with pytest.raises(DataError, match=r"other object: .*readme\.txt"):
        done("dicom-tree", source, tmp_path / "target", label_file=tmp_path / "labels.csv")
    cut = clean_radiograph(source / "b.dcm", 1)
    cut.write_bytes(cut.read_bytes()[:-2000])
    skip = frozenset({"--skip-other"})
    with pytest.raises(DataError, match=r"corrupt image: .*b\.dcm"):
        done("dicom-tree", source, tmp_path / "target", label_file=tmp_path / "labels.csv", skip=skip)
    skip = frozenset({"--skip-other", "--skip-corrupt"})
    rows, report = done("dicom-tree", source, tmp_path / "target", label_file=tmp_path / "labels.csv", skip=skip)
    assert len(rows) == 1
    assert {kind: len(each) for kind, each in report["skipped"].items()} == {"other object": 1, "corrupt image": 1}


def test_labels_go_by_the_most_special_key_and_must_fit_something(tmp_path: Path) -> None:
    source = tmp_path / "dicom"
    first, _ = (clean_radiograph(source / f"{number}.dcm", number) for number in (0, 1))
    uid = pydicom.dcmread(first).SOPInstanceUID
    (tmp_path / "labels.csv").write_text(f"PatientID,SOPInstanceUID,label\nP-0,,NORMAL\n,{uid},PNEUMONIA\n")
    rows, _ = done("dicom-tree", source, tmp_path / "target", label_file=tmp_path / "labels.csv")
    assert {Path(row["file"]).stem == uid: row["label"] for row in rows} == {True: "PNEUMONIA", False: "NORMAL"}
    (tmp_path / "labels.csv").write_text("PatientID,label\nMRN-1,NORMAL\n")
    with pytest.raises(DataError, match="fits any image"):
        done("dicom-tree", source, tmp_path / "other", label_file=tmp_path / "labels.csv")
    (tmp_path / "labels.csv").write_text("PatientID,label\nP-0,NORMAL\nP-0,PNEUMONIA\n")
    with pytest.raises(DataError, match="line 3: PatientID is listed twice"):
        done("dicom-tree", source, tmp_path / "other", label_file=tmp_path / "labels.csv")


def test_a_label_without_an_image_stops_by_its_line_or_is_left_out_by_its_rule_and_counted(tmp_path: Path) -> None:
    source, listed, target = tmp_path / "dicom", tmp_path / "labels.csv", tmp_path / "target"
    uids = [pydicom.dcmread(clean_radiograph(source / f"{number}.dcm", number)).SOPInstanceUID for number in (0, 1)]
    listed.write_text(f"PatientID,SOPInstanceUID,label\n,{uids[0]},NORMAL\n,{uids[1]},NORMAL\nMRN-1,,PNEUMONIA\n")
    arguments = ["dicom-tree", source, target, "--label-file", listed]
    stopped = command(*arguments)
    assert stopped.exit_code == 1
    assert "label without an image: " in stopped.output
    assert "labels.csv, line 4: its PatientID fits no file" in stopped.output
    assert not target.exists()
    result = command(*arguments, "--skip-labels")
    assert result.exit_code == 0, result.output
    assert "2 cases" in result.output
    assert "left out by --skip-labels: label without an image: 1" in result.output
    assert len(json.loads((target / "import.json").read_text())["skipped"]["label without an image"]) == 1
    # Each slice of a series is an image.
    make_series(tmp_path / "series", patient="P-3")
    deidentify_files.run(tmp_path / "series", tmp_path / "clean", Pseudonyms(bytes(32)), deidentify_files.Options())
    slices = [pydicom.dcmread(path) for path in (tmp_path / "clean").rglob("*.dcm")]
    listed.write_text("SOPInstanceUID,label\n" + "".join(f"{each.SOPInstanceUID},NORMAL\n" for each in slices))
    _, report = done("dicom-tree", tmp_path / "clean", tmp_path / "volume", label_file=listed)
    assert report["labels"] == {"NORMAL": 1}
    # Whom all images' own rows stand before has images.
    listed.write_text(f"PatientID,SOPInstanceUID,label\n,{uids[0]},NORMAL\n,{uids[1]},NORMAL\nP-0,,PNEUMONIA\n")
    _, report = done("dicom-tree", source, tmp_path / "other", label_file=listed)
    assert report["labels"] == {"NORMAL": 2}
    # What a rule of its own leaves out does not want for an image.
    color = pydicom.dcmread(source / "1.dcm")
    color.SamplesPerPixel, color.PhotometricInterpretation = 3, "RGB"
    color.save_as(source / "1.dcm")
    skip = frozenset({"--skip-other"})
    _, report = done("dicom-tree", source, tmp_path / "gray", label_file=listed, skip=skip)
    assert {kind: len(each) for kind, each in report["skipped"].items()} == {"other object": 1}


# --- NIfTI ----------------------------------------------------------------------------------------------------------


def write_volume(path: Path, values: np.ndarray, affine: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, affine), path)


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    """Two pairs, stored with x to the left and y to the front, as many scanners have it."""
    source = tmp_path / "nifti"
    affine = np.array([[-1.0, 0, 0, 9], [0, -2, 0, 8], [0, 0, 3, 7], [0, 0, 0, 1]])
    for number in range(2):
        values = np.random.default_rng(number).integers(-1000, 3000, (6, 5, 4)).astype(np.int16)
        write_volume(source / "images" / f"v{number}.nii", values, affine)
        write_volume(source / "labels" / f"v{number}.nii", (values > 1000).astype(np.uint8), affine)
    return source


def test_nifti_pairs_are_turned_to_ras_and_keep_their_values(volumes: Path, tmp_path: Path) -> None:
    rows, report = done("nifti", volumes, tmp_path / "target", segments=("thing",))
    assert [row["file"] for row in rows] == ["images/v0.nii.gz", "images/v1.nii.gz"]
    assert report["patients"] == 2
    for row in rows:
        volume, mask = (nibabel.load(tmp_path / "target" / row[name]) for name in ("file", "mask"))
        before = nibabel.load(volumes / "images" / f"{row['patient_id']}.nii")
        assert nibabel.aff2axcodes(volume.affine) == ("R", "A", "S")
        assert volume.header.get_zooms() == (1, 2, 3)
        np.testing.assert_array_equal(np.asarray(volume.dataobj), np.asarray(before.dataobj)[::-1, ::-1])
        # The voxel is where it was in the patient.
        np.testing.assert_allclose(volume.affine @ [0, 0, 0, 1], before.affine @ [5, 4, 0, 1])
        np.testing.assert_array_equal(np.asarray(mask.dataobj), np.asarray(volume.dataobj) > 1000)
    assert len(cases.listed(tmp_path / "target")) == 2


@pytest.mark.parametrize("at", [-6, 60])
def test_a_compressed_volume_is_read_to_its_checksum(at: int, tmp_path: Path) -> None:
    path = tmp_path / "v.nii.gz"
    write_volume(path, np.random.default_rng(0).integers(-1000, 3000, (16, 15, 14)).astype(np.int16), np.eye(4))
    whole = bytearray(path.read_bytes())
    whole[at] ^= 0x5A
    path.write_bytes(whole)
    with pytest.raises(DataError, match=r"v\.nii\.gz can't be decoded"):
        sources.read([path])


def test_nifti_without_its_pair_is_named(volumes: Path, tmp_path: Path) -> None:
    (volumes / "labels" / "v1.nii").rename(volumes / "labels" / "w.nii")
    with pytest.raises(DataError, match=r"other object: .*w\.nii has no image"):
        done("nifti", volumes, tmp_path / "target")
    with pytest.raises(DataError, match=r"no mask: .*v1\.nii has no mask"):
        done("nifti", volumes, tmp_path / "target", skip=frozenset({"--skip-other"}))
    skip = frozenset({"--skip-other", "--skip-masks"})
    rows, _ = done("nifti", volumes, tmp_path / "target", skip=skip)
    assert [row["patient_id"] for row in rows] == ["v0"]


# --- NIH ------------------------------------------------------------------------------------------------------------

NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],\n"
)


@pytest.fixture
def nih(tmp_path: Path) -> Path:
    source = tmp_path / "nih"
    entries = [
        ("00000001_000.png", "No Finding", "1", "058Y", "M", "PA"),
        ("00000002_000.png", "Pneumonia|Edema", "2", "006M", "F", "AP"),
        ("00000002_001.png", "Edema", "2", "006M", "F", "AP"),
        ("00000003_000.png", "Pneumonia", "3", "071", "F", "AP"),
    ]
    lines = [
        f"{file},{found},0,{who},{age},{sex},{view},2682,2749,0.143,0.143,\n"
        for file, found, who, age, sex, view in entries
    ]
    for number, (file, *_) in enumerate(entries):
        path = source / f"images_00{1 + number // 2}" / "images" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = PillowImage.fromarray(chest_pixels(32, 32, 8, number))
        (picture.convert("RGBA") if number == 3 else picture).save(path)  # as some of NIH's are
    (source / "Data_Entry_2017.csv").write_text(NIH_HEADER + "".join(lines))
    (source / "train_val_list.txt").write_text("00000001_000.png\n00000002_000.png\n00000002_001.png\n")
    (source / "test_list.txt").write_text("00000003_000.png\n")
    return source


@pytest.mark.parametrize(("listed", "word"), [("00000001_000.png\n00000003_000.png\n", "both"), ("", "none")])
def test_an_image_of_both_official_lists_or_of_none_is_named(nih: Path, tmp_path: Path, listed: str, word: str) -> None:
    (nih / "test_list.txt").write_text(listed)
    with pytest.raises(DataError, match=rf"0000000[13]_000.png is in {word} of train_val_list"):
        done("nih", nih, tmp_path / "target", finding="Pneumonia")


def test_nih_findings_become_one_label(nih: Path, tmp_path: Path) -> None:
    rows, report = done("nih", nih, tmp_path / "target", finding="Pneumonia")
    assert [row["label"] for row in rows] == ["No Finding", "Pneumonia", "No Finding", "Pneumonia"]
    assert [row["split"] for row in rows] == ["train", "train", "train", "test"]
    assert [row["age"] for row in rows] == ["58", "0", "0", "71"]
    assert (rows[1]["sex"], rows[1]["view"], rows[1]["original_width"]) == ("F", "AP", "2682")
    assert rows[1]["findings"] == "Pneumonia|Edema"
    np.testing.assert_array_equal(decode(tmp_path / "target" / rows[3]["file"]), chest_pixels(32, 32, 8, 3))
    assert report["skipped"] == {}
    rows, report = done("nih", nih, tmp_path / "fewer", finding="Pneumonia", others="leave-out")
    assert len(rows) == 3
    assert report["skipped"] == {"other findings only": ["00000002_001.png"]}


def test_nih_says_which_findings_there_are(nih: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="knows Edema, Pneumonia"):
        done("nih", nih, tmp_path / "target", finding="Pneumonai")


# --- real files -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not (SHARED / "data" / "hippocampus").is_dir(), reason="not there: shared/data/hippocampus")
def test_the_hippocampus_volumes_stay_what_they_are(tmp_path: Path) -> None:
    source = tmp_path / "few"
    for kind in ("images", "labels"):
        (source / kind).mkdir(parents=True)
        for path in sorted((SHARED / "data" / "hippocampus" / kind).glob("*"))[:4]:
            shutil.copy(path, source / kind)
    done("nifti", source, tmp_path / "target", segments=NAMES)
    for one, other in zip(cases.listed(source), cases.listed(tmp_path / "target"), strict=True):
        before, after = cases.read(source, one, ("one", "two")), cases.read(tmp_path / "target", other, ("one", "two"))
        np.testing.assert_array_equal(before.pixels, after.pixels)
        np.testing.assert_array_equal(before.labels, after.labels)
        assert before.spacing == after.spacing


@pytest.mark.skipif(not (SHARED / "data" / "lungs-external").is_dir(), reason="not there: shared/data/lungs-external")
def test_radiographs_with_masks_stay_what_they_are(tmp_path: Path) -> None:
    source = SHARED / "data" / "lungs-external"
    _, report = done("folder", source, tmp_path / "target", columns={"label": "finding"}, segments=("lung",))
    assert report["cases"] == report["masks"] == 90
    for before, after in zip(cases.listed(source)[:10], cases.listed(tmp_path / "target")[:10], strict=True):
        one, other = cases.read(source, before, ("one",)), cases.read(tmp_path / "target", after, ("one",))
        np.testing.assert_array_equal(one.pixels, other.pixels)
        np.testing.assert_array_equal(one.labels, other.labels)
