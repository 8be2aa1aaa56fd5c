"""De-identification against PS3.15's table, the gaps of its library, and the check that refuses what identifies."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from click.testing import CliRunner
from dicomanonymizer.simpledicomanonymizer import initialize_actions
from pydicom import DataElement, Dataset
from pydicom.datadict import dictionary_VM, dictionary_VR, keyword_for_tag
from pydicom.tag import Tag
from pydicom.uid import JPEG2000Lossless

from compression.cli import main
from compression.deidentify import EDITION, deidentify
from compression.deidentify_files import Options, run
from compression.identifying import identifying
from compression.problems import DataError
from compression.pseudonyms import Pseudonyms, load_or_create_key
from tests.compression.test_masks import labels, make_seg, make_series
from tests.dicom_files import make_radiograph
from tests.running import CHECKOUT

KEY = bytes(range(32))
SECRET = "SECRET"
SERIES = CHECKOUT.parent / "shared" / "dicom" / "mr-hippocampus"
# A value of each representation that would be found again if it stayed.
VALUES: dict[str, object] = {
    "PN": "SECRET^NAME", "LO": SECRET, "SH": SECRET, "LT": SECRET, "ST": SECRET, "UT": SECRET, "UC": SECRET,
    "CS": SECRET, "AE": SECRET, "UR": "http://secret.example", "DA": "19770707", "TM": "070707", "DT": "19770707070707",
    "AS": "077Y", "DS": "7.77", "IS": "777", "US": 777, "SS": 777, "UL": 777, "SL": 777, "FD": 7.75, "FL": 7.75,
    "UI": "1.2.777.7", "OB": b"SECRET", "OW": b"SECRET", "UN": b"SECRET",
}  # fmt: skip


def secret_item() -> Dataset:
    item = Dataset()
    item.PersonName = "SECRET^NESTED"
    item.TextValue = SECRET
    item.ReferencedSOPInstanceUID = "1.2.777.7"
    return item


def everything() -> Dataset:
    """A data set with a value in every attribute of Table E.1-1 that pydicom knows."""
    dataset = Dataset()
    for tag in initialize_actions(f"dicomfields_{EDITION}"):
        keyword = keyword_for_tag(Tag(tag)) if len(tag) == 2 and tag[0] != 2 else ""
        if keyword:
            vr = dictionary_VR(Tag(tag))
            many = vr == "UI" and dictionary_VM(Tag(tag)) != "1"
            value = [secret_item()] if vr == "SQ" else ["1.2.777.7", "1.2.777.8"] if many else VALUES[vr]
            dataset.add(DataElement(Tag(tag), vr, value))
    return dataset


def whole(path: Path, **attributes: object) -> Dataset:
    return pydicom.dcmread(make_radiograph(path, **attributes))


def test_every_attribute_of_the_table_loses_its_value(tmp_path: Path) -> None:
    dataset = whole(tmp_path / "a.dcm")
    dataset.update(everything())
    deidentify(dataset, Pseudonyms(KEY))
    dump = str(dataset).upper()
    for value in ("SECRET", "1977", "070707", "077Y", "7.77", "777", "7.75", "1.2.777"):
        assert value not in dump, [line for line in dump.splitlines() if value in line]
    assert identifying(dataset) == []


def test_items_at_any_depth_are_treated_the_same(tmp_path: Path) -> None:
    dataset = whole(tmp_path / "a.dcm")
    inner = secret_item()
    inner.PatientBirthDate = "19770707"
    inner.add_new(0x00091010, "LO", SECRET)
    middle = Dataset()
    middle.ViewCodeSequence = [inner]
    dataset.AnatomicRegionSequence = [middle]
    deidentify(dataset, Pseudonyms(KEY))
    item = dataset.AnatomicRegionSequence[0].ViewCodeSequence[0]
    assert SECRET not in str(dataset)
    assert "1977" not in str(dataset)
    assert not any(element.tag.is_private for element in item)
    assert item.ReferencedSOPInstanceUID == Pseudonyms(KEY).uid("1.2.777.7")


def test_dates_are_empty_or_gone_and_not_the_year_one(tmp_path: Path) -> None:
    dataset = whole(tmp_path / "a.dcm", PatientBirthDate="19770707")
    deidentify(dataset, Pseudonyms(KEY))
    assert dataset.PatientBirthDate in ("", None)
    assert dataset.StudyDate in ("", None)
    assert "AcquisitionDate" not in dataset or not str(dataset.AcquisitionDate or "").startswith("2026")
    assert dataset.LongitudinalTemporalInformationModified == "REMOVED"


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy is not installed (Debian: dicom3tools)")
def test_objects_stay_valid(tmp_path: Path) -> None:
    make_radiograph(tmp_path / "in" / "cr.dcm", PatientName="DOE^JANE", PatientBirthDate="19770707")
    series = make_series(tmp_path / "in" / "series")
    make_seg(tmp_path / "in" / "series" / "seg.dcm", [pydicom.dcmread(path) for path in series], labels())
    run(tmp_path / "in", tmp_path / "out", Pseudonyms(KEY), Options())
    kinds = {pydicom.dcmread(path).Modality: path for path in (tmp_path / "out").rglob("*.dcm")}
    assert errors(kinds["CR"]) == errors(tmp_path / "in" / "cr.dcm") == set()
    assert errors(kinds["SEG"]) <= errors(tmp_path / "in" / "series" / "seg.dcm")
    assert errors(kinds["MR"]) <= errors(series[0])


def errors(path: Path) -> set[str]:
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
    return {line for line in done.stderr.splitlines() if line.startswith("Error")}


def test_it_says_what_was_done_and_the_file_holds_nothing_else(tmp_path: Path) -> None:
    path = make_radiograph(tmp_path / "a.dcm", PatientName="SECRET^NAME", InstitutionName=SECRET)
    data = bytearray(path.read_bytes())
    data[:6] = b"SECRET"  # in the preamble
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "SECRET.dcm").write_bytes(data)
    dataset = pydicom.dcmread(tmp_path / "in" / "SECRET.dcm")
    dataset.file_meta.SourceApplicationEntityTitle = SECRET
    dataset.add_new(0x00091001, "LO", SECRET)
    dataset.add_new(0x60003000, "OW", b"SECRET")
    dataset.add_new(0x60000010, "US", 10)
    dataset.save_as(tmp_path / "in" / "SECRET.dcm")
    run(tmp_path / "in", tmp_path / "out", Pseudonyms(KEY), Options())
    (written,) = (tmp_path / "out").rglob("*.dcm")
    assert b"SECRET" not in written.read_bytes()
    assert "SECRET" not in str(written)
    result = pydicom.dcmread(written)
    assert result.PatientIdentityRemoved == "YES"
    assert [item.CodeValue for item in result.DeidentificationMethodCodeSequence] == ["113100"]
    assert "PS3.15" in result.DeidentificationMethod[0]
    assert result.file_meta.MediaStorageSOPInstanceUID == result.SOPInstanceUID
    assert not [element for element in result if element.tag.group == 0x6000]
    assert result.pixel_array.tobytes() == pydicom.dcmread(path).pixel_array.tobytes()
    said = (tmp_path / "out" / "deidentification.json").read_text()
    assert SECRET not in said
    assert json.loads(said)["removed"]["private"] == 1


def test_pseudonyms_are_the_same_with_the_key_and_others_without(tmp_path: Path) -> None:
    one, again, other = (whole(tmp_path / "a.dcm", PatientID="MRN-1") for _ in range(3))
    deidentify(one, Pseudonyms(KEY))
    deidentify(again, Pseudonyms(KEY))
    deidentify(other, Pseudonyms(bytes(32)))
    assert (one.PatientID, one.SOPInstanceUID) == (again.PatientID, again.SOPInstanceUID)
    assert one.PatientID != other.PatientID
    assert one.SOPInstanceUID != other.SOPInstanceUID
    assert one.PatientName == one.PatientID
    assert Pseudonyms(KEY).uid("1.2.840.10008.1.4.1.1") == "1.2.840.10008.1.4.1.1"


def test_the_key_is_secret_and_apart_from_the_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="lies in"):
        load_or_create_key(tmp_path / "out" / "key", tmp_path / "out")
    path = tmp_path / "key"
    key, is_new = load_or_create_key(path, tmp_path / "out")
    assert is_new
    assert path.stat().st_mode & 0o077 == 0
    assert load_or_create_key(path, tmp_path / "out") == (key, False)
    path.write_text("no key")
    with pytest.raises(DataError, match="no key"):
        load_or_create_key(path, tmp_path / "out")


def test_characteristics_are_kept_where_asked_for_and_great_ages_are_not_told(tmp_path: Path) -> None:
    kept = whole(tmp_path / "a.dcm", PatientAge="097Y", PatientSex="F")
    born = whole(tmp_path / "b.dcm", PatientAge=None, PatientBirthDate="20160101")
    gone = whole(tmp_path / "c.dcm", PatientAge="097Y", PatientSex="F")
    deidentify(kept, Pseudonyms(KEY), characteristics=True)
    deidentify(born, Pseudonyms(KEY), characteristics=True)
    deidentify(gone, Pseudonyms(KEY))
    assert (kept.PatientAge, kept.PatientSex) == ("089Y", "F")
    assert born.PatientAge == "010Y"
    assert not born.PatientBirthDate
    assert "PatientAge" not in gone
    assert not gone.PatientSex
    assert "113108" in [item.CodeValue for item in kept.DeidentificationMethodCodeSequence]


def test_burned_in_names_are_refused_unless_left_out_by_a_rule(tmp_path: Path) -> None:
    source = tmp_path / "in"
    make_radiograph(source / "a.dcm", seed=1)
    make_radiograph(source / "b.dcm", seed=2, BurnedInAnnotation="YES")
    make_radiograph(source / "c.dcm", seed=3, SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    (source / "d.dcm").write_bytes(b"no DICOM")
    with pytest.raises(DataError, match=r"b\.dcm: BurnedInAnnotation is YES"):
        run(source, tmp_path / "out", Pseudonyms(KEY), Options())
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    report = run(source, tmp_path / "out", Pseudonyms(KEY), Options(leave_out=True))
    assert report.files == 1
    assert sorted(report.refused) == ["b.dcm", "c.dcm", "d.dcm"]
    checked = run(source, tmp_path / "checked", Pseudonyms(KEY), Options(leave_out=True, pixels_checked=True))
    assert checked.files == 2  # what says YES stays out, whoever has looked


def test_compressed_pixels_come_through_as_they_are(tmp_path: Path) -> None:
    path = make_radiograph(tmp_path / "in" / "a.dcm", transfer_syntax=JPEG2000Lossless)
    run(tmp_path / "in", tmp_path / "out", Pseudonyms(KEY), Options())
    (written,) = (tmp_path / "out").rglob("*.dcm")
    assert pydicom.dcmread(written).PixelData == pydicom.dcmread(path).PixelData


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_radiograph(tmp_path / "in" / "a.dcm")

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DataError, match="no room left"):
        run(tmp_path / "in", tmp_path / "out", Pseudonyms(KEY), Options())
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(
    ("attributes", "found"),
    [
        ({"PatientName": "DOE^JANE"}, "PatientName"),
        ({"PatientBirthDate": "19770707"}, "PatientBirthDate"),
        ({"InstitutionAddress": "1 Main Street"}, "InstitutionAddress"),
        ({"OtherPatientIDs": "7"}, "OtherPatientIDs"),
        ({"ImageComments": "Mrs Doe"}, "ImageComments"),
        ({"BurnedInAnnotation": "YES"}, "BurnedInAnnotation is YES"),
        ({"PatientIdentityRemoved": "NO"}, "PatientIdentityRemoved is not YES"),
        ({"LongitudinalTemporalInformationModified": None, "StudyDate": "20260101"}, "StudyDate"),
    ],
)  # fmt: skip
def test_what_identifies_is_named_without_its_value(attributes: dict[str, object], found: str, tmp_path: Path) -> None:
    dataset = whole(tmp_path / "a.dcm")
    deidentify(dataset, Pseudonyms(KEY))
    assert identifying(dataset) == []
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    assert identifying(dataset) == [found]
    nested = Dataset()
    nested.add_new(0x00091001, "LO", "x")
    dataset.AnatomicRegionSequence = [nested]
    assert identifying(dataset) == sorted([found, "private group 0009"])


def test_labels_are_translated_with_the_same_key(tmp_path: Path) -> None:
    make_radiograph(tmp_path / "in" / "a.dcm", PatientID="MRN-1")
    (tmp_path / "labels.csv").write_text("PatientID,label\nMRN-1,NORMAL\n")
    arguments = [
        "deidentify",
        str(tmp_path / "in"),
        str(tmp_path / "out"),
        "--label-file",
        str(tmp_path / "labels.csv"),
    ]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "MRN-1" not in result.output
    key, _ = load_or_create_key(tmp_path / "out.pseudonyms.key", tmp_path / "out")
    pseudonym = Pseudonyms(key).patient("MRN-1")
    assert (tmp_path / "out.labels.csv").read_text() == f"PatientID,label\n{pseudonym},NORMAL\n"
    (written,) = (tmp_path / "out").rglob("*.dcm")
    assert pydicom.dcmread(written).PatientID == pseudonym


@pytest.mark.parametrize("text", ["patient,label\nMRN-1,NORMAL\n", "PatientID,label\n", "", "PatientID,label\na,b,c\n"])
def test_labels_that_can_t_be_used_are_told_before_anything_is_written(text: str, tmp_path: Path) -> None:
    make_radiograph(tmp_path / "in" / "a.dcm", PatientID="MRN-1")
    labels = tmp_path / "labels.csv"
    labels.write_text(text)
    arguments = ["deidentify", str(tmp_path / "in"), str(tmp_path / "out"), "--label-file", str(labels)]
    refused = CliRunner().invoke(main, arguments)
    assert refused.exit_code == 1
    assert str(labels) in refused.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "labels.csv"]
    labels.write_text("PatientID,label\nMRN-1,NORMAL\n")
    assert CliRunner().invoke(main, arguments).exit_code == 0


@pytest.mark.skipif(not SERIES.is_dir(), reason="the MR series is not beside the checkout: shared/dicom/mr-hippocampus")
def test_a_real_series_stays_one_series(tmp_path: Path) -> None:
    report = run(SERIES, tmp_path / "out", Pseudonyms(KEY), Options())
    assert report.files == 32
    headers = [pydicom.dcmread(path) for path in sorted((tmp_path / "out").rglob("*.dcm"))]
    assert len({header.SeriesInstanceUID for header in headers}) == 1
    assert len({header.SOPInstanceUID for header in headers}) == 32
    assert not any(identifying(header) for header in headers)
    positions = np.sort([float(header.ImagePositionPatient[2]) for header in headers])
    assert (np.diff(positions) == 1).all()
