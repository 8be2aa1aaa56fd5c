"""Result objects, judged by dicom3tools, dcmtk and highdicom: valid, readable, filed with their study, repeatable."""

from __future__ import annotations

import dataclasses
import re
import shutil
import struct
import subprocess
import warnings
from datetime import date
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom as hd
import msgspec
import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.sr.codedict import codes
from pydicom.tag import Tag
from pydicom.uid import UID, GrayscaleSoftcopyPresentationStateStorage

from appliance import writer
from appliance.image import Image, load
from appliance.result import Code, Finding, Prediction, Provenance, Segment
from appliance.writers import WRITERS
from appliance.writers.secondary_capture import picture
from tests import dicom_files
from tests.appliance import judges
from tests.dicom_files import DX
from tests.running import CHECKOUT

SR, SC, SEG = "structured_report", "secondary_capture", "segmentation"
FRACTIONAL, PR, PM = "fractional_segmentation", "presentation_state", "parametric_map"
SETTINGS = writer.Settings(tuple(WRITERS))
LUNG = Code("39607008", "SCT", "Lung")
PNEUMONIA = Code("233604007", "SCT", "Pneumonia")
WARNING = "Outside validated use: the patient is 40 years old and the model was validated on children of 1 to 5 years."
REAL = CHECKOUT.parent / "shared" / "dicom" / "pydicom-data" / "RG1_J2KI.dcm"

PROVENANCE = Provenance(
    package="chest-pneumonia",
    version="1.0.0",
    package_sha256="ab" * 32,
    artifact_sha256="cd" * 32,
    target="onnxruntime-cpu-int8",
    backend="onnxruntime",
    device="CPUExecutionProvider (Intel® Xeon)",
    receipt="0123456789abcdef",
    software_version="0.1.0",
    made_at="2001-02-03T23:30:00+00:00",  # long ago, so that a clock that is read shows itself
    intended_use="Second look at chest radiographs of children.",
    not_for=("diagnosis",),
    device_uid=writer.derived_uid("a device"),
    finding_site=LUNG,
)


def make_radiograph(path: Path, **attributes: Any) -> Path:
    """One that states all that any kind of object needs."""
    return dicom_files.make_radiograph(path, **{"ImagerPixelSpacing": [0.15, 0.15], **attributes})


def finding(probability: float = 0.934, label: str = "Pneumonia", code: Code = PNEUMONIA) -> Finding:
    positive = probability >= 0.4
    words = f"Signs of {label.lower()} are likely." if positive else f"No signs of {label.lower()}."
    return Finding(label, code, probability, 0.4, "balanced", positive, True, words)


def prediction(*findings: Finding, notes: tuple[str, ...] = ()) -> Prediction:
    found = findings or (finding(),)
    coarse = np.zeros((7, 7), dtype=np.float32)
    coarse[4, 1] = 1.0
    return Prediction(found, {each.label: coarse for each in found}, np.zeros(3, dtype=np.float32), notes)


def outlined(image: Image, said: Prediction) -> Prediction:
    """With the middle of the image outlined as lungs."""
    mask = np.zeros((1, *image.pixels.shape), np.uint8)
    rows, columns = image.pixels.shape
    mask[0, rows // 4 : 3 * rows // 4, columns // 4 : 3 * columns // 4] = 1
    probabilities = (0.9 * mask + 0.05).astype(np.float32)[np.newaxis]
    structure = Code("91723000", "SCT", "Anatomical Structure")
    lungs = Segment("Lungs", structure, LUNG, (70, 170, 255), int(mask.sum()), 0.93, 0.08, area_share=0.25)
    return dataclasses.replace(said, segments=(lungs,), mask=mask, probabilities=probabilities)


def write(kind: str, image: Image, said: Prediction | None = None, provenance: Provenance = PROVENANCE) -> bytes:
    said = said or prediction()
    if kind in (SEG, FRACTIONAL, PR) and said.mask is None:
        said = outlined(image, said)
    (dataset,) = WRITERS[kind].write([image], said, provenance, SETTINGS)
    return writer.to_bytes(dataset)


def read(data: bytes) -> Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pydicom, on what is wrong in the source and kept
        return pydicom.dcmread(BytesIO(data))


def with_raw(path: Path, **values: bytes) -> Path:
    """Put values into a file as they are, valid or not."""
    dataset = pydicom.dcmread(path)
    for keyword, value in values.items():
        tag = Tag(tag_for_keyword(keyword))
        padded = value + b" " * (len(value) % 2)
        dataset[tag] = RawDataElement(tag, dictionary_VR(tag), len(padded), padded, 0, False, True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.save_as(path)
    return path


def tool(*command: object) -> subprocess.CompletedProcess[str]:
    name = str(command[0])
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed (Debian packages dicom3tools and dcmtk)")
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, errors="replace")


def assert_valid(data: bytes, folder: Path) -> None:
    path = folder / "result.dcm"
    path.write_bytes(data)
    assert judges.dciodvfy(path) == []
    if read(data).SOPClassUID == GrayscaleSoftcopyPresentationStateStorage:
        assert judges.dcmpschk(path) == []


def dsrdump(data: bytes, folder: Path) -> str:
    path = folder / "report.dcm"
    path.write_bytes(data)
    dump = tool("dsrdump", "+Pl", path)
    assert dump.returncode == 0, dump.stderr
    assert not re.search(r"^[EF]: ", dump.stderr, re.MULTILINE), dump.stderr
    return dump.stdout


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_radiograph(tmp_path / "source.dcm", InstanceNumber=7)


@pytest.fixture
def image(source: Path) -> Image:
    return load(source)


RICH = {
    "PatientBirthDate": "20211231",
    "PatientSex": "F",
    "PatientSize": "1.05",
    "PatientWeight": "17.5",
    "PatientComments": "Comes back on Monday",
    "StudyDescription": "XR THORAX",
    "InstitutionName": "Krankenhaus der Barmherzigen Schwestern zu München, Abteilung",
    "InstitutionAddress": "Straße " * 100,
    "Laterality": "",
    "TimezoneOffsetFromUTC": "+0900",
    "BurnedInAnnotation": "NO",
}
MINIMAL = dict.fromkeys((
    "SpecificCharacterSet", "StudyDate", "StudyTime", "AccessionNumber", "StudyID", "ReferringPhysicianName",
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "SeriesNumber", "InstanceNumber",
    "Manufacturer", "ImageType", "SeriesDate", "SeriesTime", "ContentDate", "ContentTime",
))  # fmt: skip
SOURCES: dict[str, dict[str, Any]] = {
    "CR": {},
    "DX": {"SOPClassUID": DX, "Modality": "DX"},
    "rich": RICH,
    "minimal": MINIMAL,
    "newborn": {"PatientAge": "002D"},
    "weeks": {"PatientAge": "006W"},
    "MONOCHROME1": {"photometric": "MONOCHROME1"},
    "tiny": {"rows": 16, "columns": 24},
}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("attributes", SOURCES.values(), ids=SOURCES)
def test_the_validator_finds_nothing_wrong(kind: str, attributes: dict[str, Any], tmp_path: Path) -> None:
    said = prediction(notes=(WARNING,))
    image = load(make_radiograph(tmp_path / "source.dcm", **attributes))
    assert_valid(write(kind, image, said), tmp_path)


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientBirthDate", b"1970.01.01"),
        ("PatientBirthDate", b"unknown"),
        ("StudyTime", b"25:00"),
        ("StudyDate", b"last week"),
        ("PatientSex", b"U"),
        ("PatientSize", b"1,75"),
        ("PatientAge", b"4Y"),
        ("StudyDescription", b"D" * 200),
        ("StudyID", b"S" * 40),
        ("InstanceNumber", b"99999999999"),
        ("InstanceNumber", b"one"),
        ("TimezoneOffsetFromUTC", b"CET"),
        ("SpecificCharacterSet", b"ISO_IR 999"),
    ],
)
def test_a_value_that_breaks_the_rules_does_not_break_the_result(
    kind: str, keyword: str, value: bytes, tmp_path: Path
) -> None:
    image = load(with_raw(make_radiograph(tmp_path / "source.dcm"), **{keyword: value}))
    assert_valid(write(kind, image), tmp_path)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_real_radiograph(kind: str, tmp_path: Path) -> None:
    if not REAL.exists():
        pytest.skip(f"{REAL.name} of pydicom-data is not beside the checkout")
    if kind == PM:  # it states no spacing, so there is none
        assert WRITERS[kind].write([load(REAL)], prediction(), PROVENANCE, SETTINGS) == []
        return
    result = write(kind, load(REAL))
    assert_valid(result, tmp_path)
    assert read(result).StudyInstanceUID == pydicom.dcmread(REAL, stop_before_pixels=True).StudyInstanceUID


def test_results_and_source_are_of_one_patient_and_study(source: Path, image: Image, tmp_path: Path) -> None:
    paths = [source]
    for kind in WRITERS:
        paths.append(tmp_path / f"{kind}.dcm")
        paths[-1].write_bytes(write(kind, image))
    verdict = tool("dcentvfy", *paths)
    assert verdict.returncode == 0, verdict.stderr
    assert "Error" not in verdict.stderr


# --- the patient ----------------------------------------------------------------------------------------------------

_BY_THE_BOOK = {  # the examples of PS3.5 annexes H, I, J and K, and others
    "Japanese": (
        b"\\ISO 2022 IR 87",
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
    ),
    "Japanese with katakana": (
        b"ISO 2022 IR 13\\ISO 2022 IR 87",
        b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J=\x1b$B$d$^$@\x1b(J^\x1b$B$?$m$&\x1b(J",
    ),
    "Korean": (
        b"\\ISO 2022 IR 149",
        b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
    ),
    "Greek": (b"ISO_IR 126", b"\xc4\xe9\xef\xed\xf5\xf3\xe9\xef\xf2"),
    "UTF-8": (b"ISO_IR 192", "Wang^XiaoDong=王^小東".encode()),
    "Latin-1": (b"ISO_IR 100", "Müller^Jürgen".encode("latin-1")),
}
_OTHERWISE = {
    "an empty component group": (b"GB18030", b"Wang^XiaoDong=\xcd\xf5^\xd0\xa1\xb6\xab="),
    "Korean, designated once": (b"\\ISO 2022 IR 149", b"\x1b$)CHong^Gildong=\xfb\xf3^\xd1\xce\xd4\xd7"),
    "declared UTF-8, is Latin-1": (b"ISO_IR 192", "Müller^Jürgen".encode("latin-1")),
    "not declared": (b"", "Müller^Jürgen".encode("latin-1")),
    "unknown": (b"ISO_IR 999", b"M\xfcller"),
}


def named(path: Path, character_set: bytes, name: bytes) -> Path:
    """A file with just these bytes: pydicom would encode them anew, so they go into the finished file."""
    data = make_radiograph(path, SpecificCharacterSet="ISO_IR 6", PatientName="X").read_bytes()
    for head, value in ((b"\x08\x00\x05\x00CS", character_set), (b"\x10\x00\x10\x00PN", name)):
        at = data.index(head)
        (length,) = struct.unpack("<H", data[at + 6 : at + 8])
        value += b" " * (len(value) % 2)
        data = data[:at] + head + struct.pack("<H", len(value)) + value + data[at + 8 + length :]
    path.write_bytes(data)
    return path


def name_in(data: bytes) -> bytes:
    return (read(data).get_item("PatientName").value or b"").rstrip()


@pytest.mark.parametrize("looked_at", [False, True], ids=["untouched", "looked at"])
@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(("character_set", "name"), _BY_THE_BOOK.values(), ids=_BY_THE_BOOK)
def test_the_name_is_the_same_bytes(
    kind: str, character_set: bytes, name: bytes, looked_at: bool, tmp_path: Path
) -> None:
    image = load(named(tmp_path / "source.dcm", character_set, name))
    if looked_at:  # which makes pydicom replace the bytes by text
        assert str(image.header.PatientName)
    result = write(kind, image)
    assert name_in(result) == name
    assert read(result).get("SpecificCharacterSet") == image.header.SpecificCharacterSet
    assert_valid(result, tmp_path)


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(("character_set", "name"), _OTHERWISE.values(), ids=_OTHERWISE)
def test_a_name_against_the_rules_is_the_same_bytes_too(
    kind: str, character_set: bytes, name: bytes, tmp_path: Path
) -> None:
    assert name_in(write(kind, load(named(tmp_path / "source.dcm", character_set, name)))) == name


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.2"], ids=["implicit", "big endian"])
def test_the_name_survives_another_encoding_of_the_file(syntax: str, tmp_path: Path) -> None:
    path = make_radiograph(tmp_path / "source.dcm", PatientName="Müller^Jürgen")
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = syntax
    if syntax.endswith(".2.2"):
        dataset.PixelData = dataset.pixel_array.byteswap().tobytes()
    implicit = syntax == "1.2.840.10008.1.2"
    pydicom.dcmwrite(path, dataset, implicit_vr=implicit, little_endian=implicit, force_encoding=True)
    for kind in WRITERS:
        result = write(kind, load(path))
        assert name_in(result) == "Müller^Jürgen".encode("latin-1")
        assert_valid(result, tmp_path)


def test_patient_and_study_come_from_the_source(tmp_path: Path) -> None:
    image = load(make_radiograph(tmp_path / "source.dcm", **RICH))
    for kind in WRITERS:
        result = read(write(kind, image))
        for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "PatientSize",
                        "PatientWeight", "PatientComments", "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID",
                        "AccessionNumber", "StudyDescription", "ReferringPhysicianName"):  # fmt: skip
            assert result[keyword].value == image.header[keyword].value, keyword
        assert result.SeriesInstanceUID != image.header.SeriesInstanceUID


def test_what_names_the_patient_is_kept_even_if_too_long(tmp_path: Path) -> None:
    path = with_raw(make_radiograph(tmp_path / "source.dcm"), PatientID=b"P" * 80, AccessionNumber=b"A" * 30)
    for kind in WRITERS:
        result = read(write(kind, load(path)))
        assert result.get_item("PatientID").value == b"P" * 80
        assert result.get_item("AccessionNumber").value == b"A" * 30


@pytest.mark.parametrize("value", [None, b"", b"1.2.03", b"1.2.3\\1.2.4", b"study 5", b"1." + b"2" * 70])
def test_a_source_that_no_result_can_be_filed_with_is_told(value: bytes | None, tmp_path: Path) -> None:
    path = make_radiograph(tmp_path / "source.dcm", **({"StudyInstanceUID": None} if value is None else {}))
    if value is not None:
        with_raw(path, StudyInstanceUID=value)
    assert writer.missing(pydicom.dcmread(path)) == ["StudyInstanceUID"]


def test_nothing_is_missing_in_a_whole_header(image: Image) -> None:
    assert writer.missing(image.header) == []
    assert writer.missing(Dataset()) == ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]


# --- the same again --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", WRITERS)
def test_the_same_work_gives_the_same_bytes(kind: str, source: Path) -> None:
    first, second = write(kind, load(source)), write(kind, load(source))
    assert first == second
    assert date.today().strftime("%Y%m%d").encode() not in first, "a clock was read"
    for root in (
        b"1.2.826.0.1.3680043.8.498.",
        b"1.2.826.0.1.3680043.10.511.3.",
    ):  # of pydicom's and highdicom's chance
        generated = set(re.findall(re.escape(root) + rb"[0-9.]+", first)) - _uids_of(source)
        assert not generated, "a UID by chance"


def _uids_of(path: Path) -> set[bytes]:
    header = pydicom.dcmread(path, stop_before_pixels=True)
    return {
        str(header[keyword].value).encode() for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    }


@given(st.lists(st.text(), min_size=1, max_size=4))
def test_derived_uids_are_valid_and_repeatable(parts: list[str]) -> None:
    uid = writer.derived_uid(*parts)
    assert UID(uid).is_valid
    assert len(uid) <= 64
    assert uid == writer.derived_uid(*parts)
    assert uid != writer.derived_uid(*parts, "more")


@pytest.mark.parametrize("kind", WRITERS)
def test_another_image_package_or_device_is_another_object(kind: str, image: Image, tmp_path: Path) -> None:
    study = image.header.StudyInstanceUID
    sibling = load(make_radiograph(tmp_path / "sibling.dcm", StudyInstanceUID=study, InstanceNumber=8))
    made = [
        read(data)
        for data in (
            write(kind, image),
            write(kind, sibling),
            write(kind, image, provenance=_changed(package_sha256="ef" * 32)),
            write(kind, image, provenance=_changed(device_uid=writer.derived_uid("another device"))),
        )
    ]
    assert len({each.SOPInstanceUID for each in made}) == 4
    # A series has no more than one Frame of Reference (PS3.3 A.1.2.3).
    places = {each.get("FrameOfReferenceUID") for each in made[:2]}
    assert len({each.SeriesInstanceUID for each in made[:2]}) == len(places)
    assert len({each.SeriesInstanceUID for each in made}) == len(places) + 2
    assert [each.InstanceNumber for each in made[:2]] == [7, 8]


def _changed(**fields: Any) -> Provenance:
    return Provenance(**{**{name: getattr(PROVENANCE, name) for name in PROVENANCE.__struct_fields__}, **fields})


def test_a_series_does_not_change_with_the_time(image: Image, tmp_path: Path) -> None:
    paths = []
    for number, made_at in enumerate(("2001-02-03T23:30:00+00:00", "2002-01-01T00:00:00+00:00")):
        other = load(
            make_radiograph(tmp_path / f"{number}.dcm", StudyInstanceUID=image.header.StudyInstanceUID, PatientID="P")
        )
        for kind in WRITERS:
            paths.append(tmp_path / f"{kind}-{number}.dcm")
            paths[-1].write_bytes(write(kind, other, provenance=_changed(made_at=made_at)))
    verdict = tool("dcentvfy", *paths)
    assert verdict.returncode == 0, verdict.stderr
    assert "Error" not in verdict.stderr


@pytest.mark.parametrize(
    ("offset", "day", "clock"),
    [(None, "20010203", "233000"), ("+0900", "20010204", "083000"), ("-0330", "20010203", "200000")],
)
def test_the_time_counts_in_the_source_s_time_zone(offset: str | None, day: str, clock: str, tmp_path: Path) -> None:
    attributes = {} if offset is None else {"TimezoneOffsetFromUTC": offset}
    image = load(make_radiograph(tmp_path / "source.dcm", **attributes))
    for kind in WRITERS:
        result = read(write(kind, image))
        made = "PresentationCreation" if kind == PR else "Content"
        assert (result[f"{made}Date"].value, result[f"{made}Time"].value) == (day, clock)
        assert result.ContributingEquipmentSequence[0].ContributionDateTime == day + clock
        assert result.get("TimezoneOffsetFromUTC") == offset


# --- the structured report -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("probability", "verdict", "number"),
    [(0.934, "Present", "93.4"), (0.0312, "Absent", "3.12"), (1.0, "Present", "100")],
)
def test_a_viewer_shows_finding_verdict_and_probability(
    probability: float, verdict: str, number: str, image: Image, tmp_path: Path
) -> None:
    said = prediction(finding(probability), notes=(WARNING,))
    text = dsrdump(write(SR, image, said), tmp_path)
    assert '(233604007,SCT,"Pneumonia")' in text
    code = {"Present": "52101004", "Absent": "272519000"}[verdict]
    assert f'CODE:(,,"Pneumonia")=({code},SCT,"{verdict}")' in text
    assert re.search(rf'NUM:\(,,"Certainty of Finding"\)="{number}(\.0+)?" \(%,UCUM,"Percent"\)', text)
    assert "UNVERIFIED" in text
    assert "PRELIMINARY" in text
    assert "COMPLETE" in text
    for sentence in (said.findings[0].words, WARNING, writer.RESEARCH_USE):
        assert sentence in text


def test_what_the_model_is_unsure_of_is_neither_present_nor_absent(image: Image, tmp_path: Path) -> None:
    unsure = msgspec.structs.replace(finding(0.39), unsure=True)
    text = dsrdump(write(SR, image, prediction(unsure)), tmp_path)
    assert 'CODE:(,,"Pneumonia")=(82334004,SCT,"Indeterminate")' in text
    positive = msgspec.structs.replace(finding(0.5), unsure=True)
    assert 'CODE:(,,"Pneumonia")=(52101004,SCT,"Present")' in dsrdump(write(SR, image, prediction(positive)), tmp_path)


def test_highdicom_reads_the_measurement_group_back(image: Image, tmp_path: Path) -> None:
    path = tmp_path / "report.dcm"
    path.write_bytes(write(SR, image))
    report = hd.sr.srread(path)
    assert isinstance(report, hd.sr.Comprehensive3DSR)
    assert (report.CompletionFlag, report.VerificationFlag, report.PreliminaryFlag) == (
        "COMPLETE",
        "UNVERIFIED",
        "PRELIMINARY",
    )
    assert report.content.get_observer_contexts()[0].observer_identifying_attributes.uid == PROVENANCE.device_uid
    (group,) = report.content.get_image_measurement_groups()
    assert group.tracking_identifier == "chest-pneumonia Pneumonia"
    assert group.tracking_uid.startswith("2.25.")
    assert group.finding_type == hd.sr.CodedConcept(*_triple(PNEUMONIA))
    assert [site.value for site in group.finding_sites] == [hd.sr.CodedConcept(*_triple(LUNG))]
    (measurement,) = group.get_measurements(codes.DCM.CertaintyOfFinding)
    assert float(measurement.value) == 93.4
    (evaluation,) = group.get_qualitative_evaluations()
    assert evaluation.value == codes.SCT.Present
    assert group.source_images[0].referenced_sop_instance_uid == image.sop_instance_uid


def _triple(code: Code) -> tuple[str, str, str]:
    return code.value, code.scheme, code.meaning


def test_the_algorithm_is_identified_to_the_last_byte(image: Image, tmp_path: Path) -> None:
    text = dsrdump(write(SR, image), tmp_path)
    assert 'TEXT:(,,"Algorithm Name")="chest-pneumonia"' in text
    assert 'TEXT:(,,"Algorithm Version")="1.0.0"' in text
    for parameter in (
        f"package sha256: {PROVENANCE.package_sha256}",
        f"artifact sha256: {PROVENANCE.artifact_sha256}",
        f"target: {PROVENANCE.target}",
        f"backend: {PROVENANCE.backend}",
        "device: CPUExecutionProvider (Intel? Xeon)",  # every character set can carry it
        f"receipt: {PROVENANCE.receipt}",
        "operating point: balanced, threshold 0.400000",
    ):
        assert f'TEXT:(,,"Algorithm Parameters")="{parameter}"' in text


def test_the_image_is_referenced_in_the_content_and_as_evidence(image: Image) -> None:
    report = read(write(SR, image))
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    (series,) = study.ReferencedSeriesSequence
    (instance,) = series.ReferencedSOPSequence
    assert study.StudyInstanceUID == image.header.StudyInstanceUID
    assert series.SeriesInstanceUID == image.header.SeriesInstanceUID
    assert (instance.ReferencedSOPClassUID, instance.ReferencedSOPInstanceUID) == (
        image.sop_class_uid,
        image.sop_instance_uid,
    )
    pointed = [
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in _walk(report) if item.ValueType == "IMAGE"
    ]
    assert pointed == [image.sop_instance_uid]


def _walk(item: Dataset) -> list[Dataset]:
    below = [found for child in item.get("ContentSequence", []) for found in _walk(child)]
    return [item, *below]


def test_each_finding_is_tracked_by_itself(image: Image, tmp_path: Path) -> None:
    effusion = Code("60046008", "SCT", "Pleural effusion")
    data = write(SR, image, prediction(finding(0.9), finding(0.1, "Effusion", effusion)))
    assert_valid(data, tmp_path)
    groups = hd.sr.srread(BytesIO(data)).content.get_image_measurement_groups()
    assert [group.tracking_identifier for group in groups] == ["chest-pneumonia Pneumonia", "chest-pneumonia Effusion"]
    assert len({group.tracking_uid for group in groups}) == 2
    assert [group.get_qualitative_evaluations()[0].value for group in groups] == [codes.SCT.Present, codes.SCT.Absent]


def test_long_and_foreign_texts_fit(image: Image, tmp_path: Path) -> None:
    long = Code("233604007", "SCT", "Pneumonia " * 20)
    provenance = _changed(package="paquet-pédiatrique-" + "x" * 80, version="1.0.0+" + "y" * 80, finding_site=None)
    said = prediction(finding(label="Pneumonie “aiguë”", code=long), notes=("Außerhalb " * 60,))
    for kind in WRITERS:
        assert_valid(write(kind, image, said, provenance), tmp_path)


# --- the secondary capture -------------------------------------------------------------------------------------------


def test_the_capture_references_its_source_and_says_how_it_was_derived(image: Image) -> None:
    capture = read(write(SC, image))
    assert capture.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7"
    assert capture.PhotometricInterpretation == "RGB"
    assert list(capture.ImageType)[:2] == ["DERIVED", "SECONDARY"]
    assert capture.SourceImageSequence[0].ReferencedSOPInstanceUID == image.sop_instance_uid
    assert "chest-pneumonia 1.0.0" in capture.DerivationDescription
    assert capture.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert capture.pixel_array.shape == (capture.Rows, capture.Columns, 3)


@pytest.mark.parametrize(
    ("attributes", "burned_in", "lossy"),
    [
        ({}, None, None),
        ({"BurnedInAnnotation": "YES"}, "YES", None),
        ({"BurnedInAnnotation": "NO", "LossyImageCompression": "00"}, "NO", None),
        ({"LossyImageCompression": "01"}, None, "01"),
    ],
)
def test_the_history_of_the_pixels_is_kept(
    attributes: dict[str, str], burned_in: str | None, lossy: str | None, tmp_path: Path
) -> None:
    data = write(SC, load(make_radiograph(tmp_path / "source.dcm", **attributes)))
    assert_valid(data, tmp_path)
    capture = read(data)
    assert capture.get("BurnedInAnnotation") == burned_in
    assert capture.get("LossyImageCompression") == lossy
    segmentation = write(SEG, load(tmp_path / "source.dcm"))
    assert_valid(segmentation, tmp_path)
    assert read(segmentation).LossyImageCompression == (lossy or "00")


@pytest.mark.parametrize(("rows", "columns"), [(2500, 2048), (300, 1200), (16, 24)])
def test_the_panels_are_gray_and_colored_and_the_same_size(rows: int, columns: int, tmp_path: Path) -> None:
    image = load(make_radiograph(tmp_path / "source.dcm", rows=rows, columns=columns))
    pixels = picture([image], prediction(notes=(WARNING,)), PROVENANCE)
    scale = min(1024 / max(rows, columns), max(512 / max(rows, columns), 1.0))
    shown_rows, shown_columns = round(rows * scale), round(columns * scale)
    assert pixels.dtype == np.uint8
    assert pixels.shape[0] > shown_rows
    assert pixels.shape[1] == max(2 * shown_columns + 48, 640)
    quiet = picture([image], _without_evidence(), PROVENANCE)
    colored = picture([image], prediction(), PROVENANCE)
    changed = np.argwhere((quiet != colored).any(axis=2))
    assert changed[:, 1].min() >= pixels.shape[1] - shown_columns - 16, "only the right panel carries color"
    assert changed[:, 1].max() < pixels.shape[1] - 16


def _without_evidence() -> Prediction:
    said = prediction()
    return Prediction(
        said.findings, {label: np.zeros((7, 7), np.float32) for label in said.activation_maps}, said.embedding
    )


def test_long_warnings_make_the_capture_longer_not_wider(image: Image) -> None:
    short = picture([image], prediction(), PROVENANCE)
    long = picture([image], prediction(notes=(WARNING * 5, "W" * 500)), PROVENANCE)
    assert long.shape[1] == short.shape[1]
    assert long.shape[0] > short.shape[0]
    margin = long[:, -8:].reshape(-1, 3)
    assert len(np.unique(margin, axis=0)) == 2, (
        "no letter reaches the edge: the margin has the band's and the paper's color"
    )


def test_no_heat_map_means_no_capture(image: Image) -> None:
    said = prediction()
    bare = Prediction(said.findings, {}, said.embedding)
    assert not WRITERS[SC].accepts(bare)
    assert WRITERS[SR].accepts(bare)
    assert {kind for kind, one in WRITERS.items() if one.accepts(said)} == {SR, SC, PM}
    assert not any(one.accepts(Prediction((), {}, said.embedding)) for one in WRITERS.values())
    drawn = outlined(image, Prediction((), {}, said.embedding))
    assert {kind for kind, one in WRITERS.items() if one.accepts(drawn)} == {SR, SC, SEG, FRACTIONAL, PR}


# --- the headers of both ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", WRITERS)
def test_the_equipment_is_this_appliance(kind: str, image: Image) -> None:
    result = read(write(kind, image))
    assert result.Manufacturer == "Scanside"
    assert list(result.SoftwareVersions) == ["0.1.0", "chest-pneumonia 1.0.0"]
    assert PROVENANCE.device_uid.endswith(result.DeviceSerialNumber)
    assert result.file_meta.ImplementationVersionName.startswith("SCANSIDE")
    assert result.file_meta.MediaStorageSOPInstanceUID == result.SOPInstanceUID
