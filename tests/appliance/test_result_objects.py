"""All objects of all bundled models, on sources of every kind, before judges that no one here wrote."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import highdicom as hd
import msgspec
import numpy as np
import pydicom
import pytest
from PIL import Image as PillowImage
from PIL import ImageDraw
from pydicom import Dataset
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.sr.codedict import codes
from pydicom.tag import Tag
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from appliance import concepts, in_service, package, render, writer
from appliance.config import Config, Inference, Models, ResultKind, Results
from appliance.errors import ImageError, InputError
from appliance.image import load
from appliance.pipeline import Pipeline, Reading, Stopwatch, write_objects
from appliance.writers import WRITERS
from tests import fake_package
from tests.appliance import judges
from tests.dicom_files import DX, hippocampus_pixels, make_radiograph, make_series
from tests.peers import needs
from tests.running import CHECKOUT

_ALL = ("chest-pneumonia", "lungs", "hippocampus")
pytestmark = pytest.mark.skipif(not all(map(package.bundled, _ALL)), reason="not all model packages are bundled")
_SHARED = CHECKOUT.parent / "shared" / "dicom"
_RADIOGRAPH, _SERIES = _SHARED / "pydicom-data" / "RG1_J2KI.dcm", _SHARED / "mr-hippocampus"
RESULT_KINDS = get_args(ResultKind)
CHEST = set(RESULT_KINDS)
DRAWN = CHEST - {"parametric_map"}

Read = Callable[..., Reading]


def opened(folder: Path, *paths: Path) -> Pipeline:
    keys = tuple({str(path.parent / "trusted") for path in paths if (path.parent / "trusted").exists()})
    config = Config(
        data_dir=str(folder),
        models=Models(packages=tuple(map(str, paths)), trusted_keys=keys),
        inference=Inference(backend="onnxruntime", threads=1),
        results=Results(least_map_share=0.0),
    )
    return Pipeline.open(config, in_service.try_out(config), writer.derived_uid("a device"))


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Read]:
    """Files to a reading, by all models or by the lungs alone.

    Those that draw have the bundled ones' manifests, and networks that find something in generated images.
    """
    folder = tmp_path_factory.mktemp("boxes")
    lungs, volumes = fake_package.lungs(folder), fake_package.hippocampus(folder)
    both = {
        False: opened(folder / "all", *package.bundled("chest-pneumonia"), lungs, volumes),
        True: opened(folder / "lungs", lungs),
    }

    def reading(*files: Path, lungs_alone: bool = False) -> Reading:
        stopwatch, chosen = Stopwatch(), both[lungs_alone]
        return chosen.infer(chosen.prepare(files, None, stopwatch), stopwatch)

    yield reading
    for each in both.values():
        each.close()


def written(reading: Reading, folder: Path) -> dict[str, Path]:
    paths = {}
    for kind, dataset in write_objects(reading, RESULT_KINDS):
        paths[kind] = folder / f"{kind}.dcm"
        paths[kind].write_bytes(writer.to_bytes(dataset))
    return paths


def faults(paths: dict[str, Path]) -> list[str]:
    """Of every judge that is quick."""
    found = [fault for path in paths.values() for fault in judges.dciodvfy(path)]
    found += judges.dsrdump(paths["structured_report"])
    found += judges.air(pydicom.dcmread(paths["structured_report"]))
    return found + (judges.dcmpschk(paths["presentation_state"]) if "presentation_state" in paths else [])


def chest(folder: Path, **attributes: Any) -> Path:
    return make_radiograph(folder / "source.dcm", **{"ImagerPixelSpacing": [0.2, 0.2], **attributes})


def hippocampus(folder: Path, shape: tuple[int, int, int] = (30, 44, 36), **attributes: Any) -> list[Path]:
    return make_series(folder / "series", hippocampus_pixels(*shape), spacing=(1.0, 1.0, 1.2), **attributes)


ODD: dict[str, dict[str, Any]] = {
    "plain": {},
    "no PatientSex, no StudyTime, no StudyID": {"PatientSex": None, "StudyTime": None, "StudyID": None},
    "long": {"PatientName": "L" * 31 + "^" + "N" * 32, "PatientID": "I" * 64, "StudyDescription": "D" * 64},
    "Japanese": {"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう"},
    "Cyrillic": {"SpecificCharacterSet": "ISO_IR 144", "PatientName": "Люкceмбypг", "StudyDescription": "Грудь"},
    "UTF-8": {"SpecificCharacterSet": "ISO_IR 192", "PatientName": "Иванов^Иван", "ReferringPhysicianName": "李^明"},
    "no character set": {"SpecificCharacterSet": None, "PatientName": None, "AccessionNumber": None},
    "old": {"PatientAge": "040Y", "TimezoneOffsetFromUTC": "-0330", "Laterality": "L"},
}
RADIOGRAPHS: dict[str, dict[str, Any]] = {
    **{f"CR, {name}": odd for name, odd in ODD.items()},
    "DX": {"SOPClassUID": DX, "Modality": "DX"},
    "DX, JPEG 2000": {"SOPClassUID": DX, "Modality": "DX", "transfer_syntax": JPEG2000Lossless},
    "RLE, 8 bits": {"transfer_syntax": RLELossless, "bits": 8},
    "JPEG-LS, MONOCHROME1": {"transfer_syntax": JPEGLSLossless, "photometric": "MONOCHROME1"},
    "once lossy": {"LossyImageCompression": "01", "LossyImageCompressionRatio": 10},
    "small, 16 bits": {"rows": 40, "columns": 32, "bits": 16, "RescaleSlope": 2, "RescaleIntercept": -1024},
}
SERIES: dict[str, dict[str, Any]] = {
    **{f"MR, {name}": odd for name, odd in ODD.items()},
    "JPEG 2000": {"transfer_syntax": JPEG2000Lossless},
    "RLE": {"transfer_syntax": RLELossless},
    "sagittal": {"order": (2, 0, 1), "flipped": (1,)},
}


@pytest.mark.parametrize("attributes", RADIOGRAPHS.values(), ids=RADIOGRAPHS)
def test_every_object_of_a_radiograph_is_valid(attributes: dict[str, Any], read: Read, tmp_path: Path) -> None:
    source = chest(tmp_path, **attributes)
    paths = written(read(source), tmp_path)
    assert set(paths) == CHEST
    assert faults(paths) == []
    assert_filed(paths, source)


@pytest.mark.parametrize("attributes", SERIES.values(), ids=SERIES)
def test_every_object_of_a_series_is_valid(attributes: dict[str, Any], read: Read, tmp_path: Path) -> None:
    sources = hippocampus(tmp_path, **attributes)
    paths = written(read(*sources), tmp_path)
    assert set(paths) == DRAWN
    assert faults(paths) == []
    assert_filed(paths, sources[0])


@pytest.mark.parametrize("attributes", [{}, {"SOPClassUID": DX, "Modality": "DX", "transfer_syntax": RLELossless}])
def test_every_object_of_the_lungs_alone_is_valid(attributes: dict[str, Any], read: Read, tmp_path: Path) -> None:
    source = chest(tmp_path, **attributes)
    paths = written(read(source, lungs_alone=True), tmp_path)
    assert set(paths) == DRAWN
    assert faults(paths) == []
    assert_filed(paths, source)


@pytest.mark.long
def test_every_object_of_the_bundled_models_is_valid_on_real_images(tmp_path: Path) -> None:
    if not (_RADIOGRAPH.exists() and _SERIES.exists()):
        pytest.skip("no real images are beside the checkout (shared/dicom)")
    everything = opened(tmp_path / "box", *(path for name in _ALL for path in package.bundled(name)))
    radiograph = tmp_path / "radiograph.dcm"
    header = pydicom.dcmread(_RADIOGRAPH)
    header.Modality, header.BodyPartExamined, header.ViewPosition = "CR", "CHEST", "PA"
    header.save_as(radiograph)
    for name, sources in (("chest", [radiograph]), ("hippocampus", sorted(_SERIES.glob("*.dcm")))):
        stopwatch, folder = Stopwatch(), tmp_path / name
        folder.mkdir()
        reading = everything.infer(everything.prepare(sources, None, stopwatch), stopwatch)
        paths = written(reading, folder)
        assert set(paths) == DRAWN
        assert faults(paths) == []
        assert_filed(paths, sources[0])
    everything.close()


def assert_filed(paths: dict[str, Path], source: Path) -> None:
    """In the study of the source, of its patient to the byte, in a series of their own, made by this appliance."""
    header = pydicom.dcmread(source, stop_before_pixels=True)
    series = {header.SeriesInstanceUID}
    for path in paths.values():
        result = pydicom.dcmread(path)
        for keyword in ("PatientName", "PatientID", "PatientBirthDate", "AccessionNumber", "SpecificCharacterSet"):
            # No value and no attribute are the same to a PACS.
            own, given = (each.get_item(Tag(keyword)) for each in (result, header))
            assert ((own and own.value) or None) == ((given and given.value) or None), keyword
        assert result.StudyInstanceUID == header.StudyInstanceUID
        assert result.SeriesInstanceUID not in series
        series.add(result.SeriesInstanceUID)
        (equipment,) = result.ContributingEquipmentSequence
        assert equipment.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
        assert "package sha256: " in equipment.ContributionDescription
        assert header.SOPInstanceUID.encode() in path.read_bytes(), "it names its source"


def test_a_series_of_results_has_one_frame_of_reference(read: Read, tmp_path: Path) -> None:
    """PS3.3 A.1.2.3; though a study may have several, and a report has to refer to the right series."""
    places: dict[str, set[str]] = {}
    for number in range(2):
        folder = tmp_path / str(number)
        sources = hippocampus(folder, StudyInstanceUID="1.2.3")
        paths = written(read(*sources), folder)
        for path in paths.values():
            result = pydicom.dcmread(path)
            places.setdefault(result.SeriesInstanceUID, set()).add(result.get("FrameOfReferenceUID", ""))
        segmentation = pydicom.dcmread(paths["segmentation"])
        (evidence,) = pydicom.dcmread(paths["structured_report"]).CurrentRequestedProcedureEvidenceSequence
        assert {
            each.SeriesInstanceUID: each.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
            for each in evidence.ReferencedSeriesSequence
        }[segmentation.SeriesInstanceUID] == segmentation.SOPInstanceUID
    assert all(len(each) == 1 for each in places.values())
    assert len({place for each in places.values() for place in each if place}) == 2


# --- PixelMed's validator of templates -------------------------------------------------------------------------------


def test_pixelmed_knows_the_template_and_what_breaks_it(read: Read, tmp_path: Path) -> None:
    whole = written(read(chest(tmp_path)), tmp_path)["structured_report"]
    broken = pydicom.dcmread(whole)
    (procedure,) = (item for item in broken.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "121058")
    procedure.ConceptCodeSequence[0].CodeValue = "399208008"  # a chest radiograph, which is not among them
    broken.save_as(tmp_path / "broken.dcm")
    good, bad = judges.pixelmed([whole, tmp_path / "broken.dcm"])
    assert good == []
    assert len(bad) == 1 and bad[0].endswith("not found in context group 100")


@pytest.mark.slow
def test_pixelmed_finds_no_error_in_any_report(read: Read, tmp_path: Path) -> None:
    reports = []
    for number, (made, attributes) in enumerate(
        [*((chest, each) for each in RADIOGRAPHS.values()), *((hippocampus, each) for each in SERIES.values())]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        sources = made(folder, **attributes)
        sources = [sources] if isinstance(sources, Path) else sources
        reports.append(written(read(*sources), folder)["structured_report"])
        if made is chest and number == 0:
            (folder / "lungs").mkdir()
            reports.append(written(read(*sources, lungs_alone=True), folder / "lungs")["structured_report"])
    found = dict(zip(map(str, reports), judges.pixelmed(reports), strict=True))
    assert not any(found.values()), found


# --- each judge bites ------------------------------------------------------------------------------------------------


def test_the_other_judges_bite_too(read: Read, tmp_path: Path) -> None:
    paths = written(read(chest(tmp_path)), tmp_path)
    assert faults(paths) == []

    def broken(kind: str, change: Callable[[Dataset], None]) -> Path:
        dataset, path = pydicom.dcmread(paths[kind]), tmp_path / "broken.dcm"
        change(dataset)
        dataset.save_as(path)
        return path

    def without_tracking(dataset: Dataset) -> None:
        (measurements,) = (
            item for item in dataset.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "126010"
        )
        group = measurements.ContentSequence[0]
        group.ContentSequence = [item for item in group.ContentSequence if item.ValueType != "UIDREF"]

    def without_value(dataset: Dataset) -> None:
        del next(item for item in judges.walk(dataset) if item.ValueType == "NUM").MeasuredValueSequence[0].NumericValue

    def without_area(dataset: Dataset) -> None:
        del dataset.DisplayedAreaSelectionSequence

    for kind, tag in (("segmentation", "SegmentSequence"), ("parametric_map", "RealWorldValueMappingSequence"),
                      ("secondary_capture", "ConversionType"), ("structured_report", "CompletionFlag"),
                      ("presentation_state", "PresentationCreationDate"),
                      ("fractional_segmentation", "MaximumFractionalValue")):  # fmt: skip

        def without(dataset: Dataset, tag: str = tag) -> None:
            delattr(dataset.SharedFunctionalGroupsSequence[0] if tag.startswith("Real") else dataset, tag)

        assert judges.dciodvfy(broken(kind, without)), tag
    assert judges.dsrdump(broken("structured_report", without_value))
    assert judges.dcmpschk(broken("presentation_state", without_area))
    report = pydicom.dcmread(broken("structured_report", without_tracking))
    assert judges.air(report) == ["group 1: 0 of tracking UID"]
    assert judges.dciodvfy(tmp_path / "broken.dcm") == [], "which is why there is a judge of our own"


# --- read back -------------------------------------------------------------------------------------------------------


def test_highdicom_reads_everything_back(read: Read, tmp_path: Path) -> None:
    reading = read(chest(tmp_path))
    said, uid = reading.prediction, reading.images[0].sop_instance_uid
    paths = written(reading, tmp_path)
    assert said.mask is not None and said.probabilities is not None
    binary, fractional = (hd.seg.segread(paths[kind]) for kind in ("segmentation", "fractional_segmentation"))
    options: dict[str, Any] = {"ignore_spatial_locations": True, "assert_missing_frames_are_empty": True}
    mask = binary.get_pixels_by_source_instance([uid], combine_segments=True, **options)
    np.testing.assert_array_equal(mask, said.mask)
    likely = fractional.get_pixels_by_source_instance([uid], rescale_fractional=True, **options)
    np.testing.assert_allclose(likely[..., 0], said.probabilities[0], atol=0.5 / 255 + 1e-6)
    report = hd.sr.srread(paths["structured_report"])
    assert isinstance(report, hd.sr.Comprehensive3DSR)
    finding, lungs = report.content.get_image_measurement_groups()
    (certainty,) = finding.get_measurements(codes.DCM.CertaintyOfFinding)
    assert float(certainty.value) == pytest.approx(100 * said.findings[0].probability, abs=0.005)
    (share,) = lungs.get_measurements(concepts.AREA_SHARE)
    assert float(share.value) == pytest.approx(100 * (said.segments[0].area_share or 0), abs=0.005)
    state = pydicom.dcmread(paths["presentation_state"])
    tracked = {
        graphic.TrackingUID
        for annotation in state.GraphicAnnotationSequence
        for graphic in annotation.get("GraphicObjectSequence", [])
    }
    assert tracked == {lungs.tracking_uid} == {binary.get_segment_description(1).tracking_uid}


def test_a_volume_s_fractional_segmentation_lies_on_its_slices(read: Read, tmp_path: Path) -> None:
    reading = read(*hippocampus(tmp_path, order=(2, 0, 1), flipped=(1,)))
    said = reading.prediction
    assert said.mask is not None and said.probabilities is not None and said.mask.any()
    assert said.probabilities.shape == (2, *said.mask.shape)
    most = said.probabilities.argmax(axis=0) + 1
    np.testing.assert_array_equal(most[said.mask > 0], said.mask[said.mask > 0])
    seg = hd.seg.segread(written(reading, tmp_path)["fractional_segmentation"])
    uids = [image.sop_instance_uid for image in reading.images]
    likely = seg.get_pixels_by_source_instance(uids, rescale_fractional=True, assert_missing_frames_are_empty=True)
    np.testing.assert_allclose(np.moveaxis(likely, -1, 0), said.probabilities, atol=0.5 / 255 + 1e-6)


def test_the_parametric_map_is_the_activation_map(read: Read, tmp_path: Path) -> None:
    reading = read(chest(tmp_path))
    path = written(reading, tmp_path)["parametric_map"]
    made = pydicom.dcmread(path)
    values = np.frombuffer(made.FloatPixelData, "<f4").reshape(made.Rows, made.Columns)
    shown = render.finer(reading.prediction.activation_maps["Pneumonia"], values.shape)
    np.testing.assert_array_equal(values, shown)
    measures = made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    rows, columns = reading.images[0].pixels.shape
    assert made.Rows * measures.PixelSpacing[0] == pytest.approx(rows * 0.2)
    assert made.Columns * measures.PixelSpacing[1] == pytest.approx(columns * 0.2)


@pytest.mark.parametrize("missing", ["ImagerPixelSpacing", "PatientOrientation"])
def test_where_the_size_or_the_side_is_unknown_there_is_no_parametric_map(
    missing: str, read: Read, tmp_path: Path
) -> None:
    source = chest(tmp_path)
    dataset = pydicom.dcmread(source)
    delattr(dataset, missing)
    dataset.save_as(source)
    paths = written(read(source), tmp_path)
    assert set(paths) == DRAWN
    assert faults(paths) == []


# --- the presentation state ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "attributes",
    [
        {"bits": 8},
        {"bits": 16, "photometric": "MONOCHROME1"},
        {"WindowCenter": 2000, "WindowWidth": 1000},
        {"RescaleSlope": 2, "RescaleIntercept": -1024, "photometric": "MONOCHROME1"},
    ],
    ids=str,
)
def test_dcmtk_shows_the_image_through_the_state_as_the_page_does(
    attributes: dict[str, Any], read: Read, tmp_path: Path
) -> None:
    source = chest(tmp_path, **attributes)
    state = written(read(source), tmp_path)["presentation_state"]
    shown = tmp_path / "shown.pgm"
    subprocess.run([needs("dcmp2pgm"), "-p", state, source, shown], check=True, capture_output=True)
    picture = np.asarray(PillowImage.open(shown)).astype(float)
    expected = render.display(load(source)).astype(float)
    assert picture.shape == expected.shape
    assert np.abs(picture - expected).mean() < 4.0


def test_the_state_keeps_the_shape_of_pixels_that_are_not_square(read: Read, tmp_path: Path) -> None:
    """Where only their ratio is stated, no millimeters."""
    paths = written(read(make_radiograph(tmp_path / "source.dcm", PixelAspectRatio=[2, 1])), tmp_path)
    (area,) = pydicom.dcmread(paths["presentation_state"]).DisplayedAreaSelectionSequence
    assert list(area.PresentationPixelAspectRatio) == [2, 1]
    assert faults(paths) == []


def test_the_lines_run_along_the_mask(read: Read, tmp_path: Path) -> None:
    reading = read(chest(tmp_path))
    state = pydicom.dcmread(written(reading, tmp_path)["presentation_state"])
    assert reading.prediction.mask is not None
    mask = reading.prediction.mask[0]
    drawn = PillowImage.new("1", mask.shape[::-1])
    pen = ImageDraw.Draw(drawn)
    for annotation in state.GraphicAnnotationSequence:
        for graphic in annotation.get("GraphicObjectSequence", []):
            points = np.array(graphic.GraphicData).reshape(-1, 2) - 0.5  # Pillow counts from the pixels' centers
            pen.polygon([(float(x), float(y)) for x, y in points], fill=1)
    agreeing = np.asarray(drawn) == (mask > 0)
    assert agreeing.mean() > 0.99
    words = [text.UnformattedTextValue for text in state.GraphicAnnotationSequence[0].TextObjectSequence]
    assert words[0] == writer.RESEARCH_USE
    assert words[1].startswith("Lungs: ")


def test_where_no_one_transformation_fits_there_is_no_state(read: Read, tmp_path: Path) -> None:
    sources = hippocampus(tmp_path, shape=(30, 44, 36))
    for number, source in enumerate(sources):
        dataset = pydicom.dcmread(source)
        dataset.RescaleSlope, dataset.RescaleIntercept = 1 + number % 2 * 0.01, 0
        dataset.save_as(source)
    assert set(written(read(*sources), tmp_path)) == DRAWN - {"presentation_state"}


# --- what the report says --------------------------------------------------------------------------------------------


def items(paths: dict[str, Path], name: hd.sr.CodedConcept) -> list[Dataset]:
    report = pydicom.dcmread(paths["structured_report"])
    return [
        item
        for item in judges.walk(report)
        if "ConceptNameCodeSequence" in item and item.ConceptNameCodeSequence[0].CodeValue == name.value
    ]


def test_the_report_says_what_the_probability_is_usual_for(read: Read, tmp_path: Path) -> None:
    reading = read(chest(tmp_path))
    (finding,) = reading.prediction.findings
    assert finding.prediction_set is not None and finding.coverage is not None
    for said, meant in ((("present",), ["52101004"]), (("absent", "present"), ["272519000", "52101004"]),
                        ((), ["260413007"])):  # fmt: skip
        changed = msgspec.structs.replace(finding, prediction_set=said, heads=(finding.probability,) * 3)
        other = dataclasses.replace(reading, prediction=dataclasses.replace(reading.prediction, findings=(changed,)))
        paths = written(other, tmp_path)
        assert faults(paths) == []
        found = items(paths, concepts.PREDICTION_SET)
        assert [item.ConceptCodeSequence[0].CodeValue for item in found] == meant
        (coverage,) = items(paths, concepts.COVERAGE)
        assert float(coverage.MeasuredValueSequence[0].NumericValue) == pytest.approx(100 * finding.coverage)
        (point,) = items(paths, concepts.OPERATING_POINT)
        assert point.TextValue.startswith(f"{finding.operating_point}: present from")


def test_outside_validated_use_is_a_code_too(read: Read, tmp_path: Path) -> None:
    inside = written(read(chest(tmp_path, PatientAge="003Y")), tmp_path)
    assert items(inside, concepts.VALIDATED_USE) == []
    (item,) = items(written(read(chest(tmp_path, PatientAge="040Y")), tmp_path), concepts.VALIDATED_USE)
    assert item.ConceptCodeSequence[0].CodeValue == "outside"


@pytest.mark.parametrize(("modality", "code"), [("MR", "25056-3"), ("CR", "363679005")])
def test_the_procedure_is_of_context_group_100(modality: str, code: str, read: Read, tmp_path: Path) -> None:
    sources = hippocampus(tmp_path) if modality == "MR" else [chest(tmp_path)]
    (procedure,) = items(written(read(*sources), tmp_path), codes.DCM.ProcedureReported)
    assert procedure.ConceptCodeSequence[0].CodeValue == code


def test_a_report_refers_to_no_segmentation_that_is_not_made(read: Read, tmp_path: Path) -> None:
    reading = read(chest(tmp_path), lungs_alone=True)
    for kinds in (("structured_report",), ("structured_report", "fractional_segmentation")):
        objects = dict(write_objects(reading, kinds))
        data = writer.to_bytes(objects["structured_report"])
        made = [each.SOPInstanceUID for kind, each in objects.items() if kind != "structured_report"]
        assert all(str(uid).encode() in data for uid in made)
        (evidence,) = objects["structured_report"].CurrentRequestedProcedureEvidenceSequence
        assert len(evidence.ReferencedSeriesSequence) == len(kinds)


def test_the_label_is_as_configured(read: Read, tmp_path: Path) -> None:
    label = "Investigational, do not use for diagnosis"
    reading = read(chest(tmp_path))
    for kind, dataset in write_objects(reading, RESULT_KINDS, label):
        data = writer.to_bytes(dataset)
        assert writer.RESEARCH_USE.encode() not in data, kind
        assert label.encode() in data or kind == "secondary_capture" or label[:20].encode() in data, kind
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"label": "nicht für Diagnosen"}, Results)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"label": " "}, Results)


# --- hostile sources -------------------------------------------------------------------------------------------------


def with_raw(path: Path, **values: bytes) -> Path:
    """Put values into a file as they are, valid or not."""
    dataset = pydicom.dcmread(path)
    for keyword, value in values.items():
        tag = Tag(tag_for_keyword(keyword))
        padded = value + b" " * (len(value) % 2)
        dataset[tag] = RawDataElement(tag, dictionary_VR(tag), len(padded), padded, 0, False, True)
    dataset.save_as(path)
    return path


def test_private_blocks_and_overlays_stay_behind(read: Read, tmp_path: Path) -> None:
    source = chest(tmp_path)
    dataset = pydicom.dcmread(source)
    block = dataset.private_block(0x0029, "HOSTILE", create=True)
    block.add_new(1, "OB", b"SECRET" * 1000)
    block.add_new(2, "SQ", [Dataset()])
    for group in range(0x6000, 0x6020, 2):  # 16 planes of 128 KiB: 2 MB
        for element, vr, value in ((0x10, "US", 1024), (0x11, "US", 1024), (0x40, "CS", "G"), (0x50, "SS", [1, 1]),
                                   (0x100, "US", 1), (0x102, "US", 0), (0x3000, "OW", b"\xaa" * 131072)):  # fmt: skip
            dataset.add_new((group, element), vr, value)
    dataset.save_as(source)
    assert source.stat().st_size > 2_000_000
    paths = written(read(source), tmp_path)
    assert faults(paths) == []
    for path in paths.values():
        assert b"SECRET" not in path.read_bytes()
        assert not any(each.tag.is_private or 0x6000 <= each.tag.group < 0x6100 for each in pydicom.dcmread(path))


@pytest.mark.parametrize(
    "values",
    [
        {"PatientBirthDate": b"yesterday", "PatientSex": b"male", "PatientAge": b"-1", "PatientWeight": b"heavy"},
        {"PatientOrientation": b"UP\\DOWN", "ImagerPixelSpacing": b"a\\b", "Laterality": b"both sides"},
        {"StudyDate": b"2026-01-02", "StudyTime": b"half past", "StudyID": b"S" * 100, "InstanceNumber": b"1.5"},
        {"WindowCenter": b"x", "WindowWidth": b"y", "BurnedInAnnotation": b"maybe", "LossyImageCompression": b"?"},
        {"FrameOfReferenceUID": b"not.a.uid", "PositionReferenceIndicator": b"P" * 100, "SeriesNumber": b"one"},
    ],
    ids=lambda values: ", ".join(values),
)
def test_values_of_a_wrong_kind_are_not_copied_on(values: dict[str, bytes], read: Read, tmp_path: Path) -> None:
    paths = written(read(with_raw(chest(tmp_path), **values)), tmp_path)
    assert faults(paths) == []
    for path in paths.values():
        for value in values.values():
            assert len(value) < 3 or value not in path.read_bytes()


@pytest.mark.parametrize("character_set", [None, "ISO_IR 192", "ISO_IR 166"])
def test_text_that_its_character_set_does_not_have_is_not_copied_on(
    character_set: str | None, read: Read, tmp_path: Path
) -> None:
    """As Latin-1 without a character set, which many send; neither as it is, nor with something in its place."""
    source = chest(tmp_path, SpecificCharacterSet=character_set, PatientName="Doe^J")
    paths = written(
        read(with_raw(source, StudyDescription=b"Gr\xf6\xff", ReferringPhysicianName=b"M\xfcller\xff")), tmp_path
    )
    assert faults(paths) == []
    for path in paths.values():
        result = pydicom.dcmread(path)
        assert "StudyDescription" not in result
        assert result.ReferringPhysicianName == ""


@pytest.mark.parametrize("vr", ["DA", "SH", "OB", "UN", "FD"])
def test_an_element_that_claims_another_vr_is_not_copied_on(vr: str, read: Read, tmp_path: Path) -> None:
    source = chest(tmp_path)
    dataset = pydicom.dcmread(source)
    for keyword in ("PatientWeight", "StudyDescription"):
        tag = Tag(tag_for_keyword(keyword))
        dataset[tag] = RawDataElement(tag, vr, 8, b"20260101", 0, False, True)
    dataset.save_as(source)
    assert faults(written(read(source), tmp_path)) == []


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
@pytest.mark.parametrize("value", [b"1.2.03.4", b"nonsense", b"1." + b"9" * 70])
def test_a_uid_that_is_none_fails_with_its_name(keyword: str, value: bytes, read: Read, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=keyword):
        read(with_raw(chest(tmp_path), **{keyword: value}))


def test_a_frame_of_reference_that_is_none_fails_with_its_tag(read: Read, tmp_path: Path) -> None:
    sources = [with_raw(path, FrameOfReferenceUID=b"1.2.three") for path in hippocampus(tmp_path)]
    with pytest.raises(ImageError, match=r"0020,0052"):
        read(*sources)


def test_positions_of_too_many_digits_are_written_anew(read: Read, tmp_path: Path) -> None:
    sources = hippocampus(tmp_path)
    for path in sources:
        x, y, z = (float(value) for value in pydicom.dcmread(path).ImagePositionPatient)
        long = f"{x:.20f}\\{y:.20f}\\{z:.20f}".encode()
        with_raw(path, ImagePositionPatient=long, PositionReferenceIndicator=b"P" * 100)
    assert faults(written(read(*sources), tmp_path)) == []


def test_numbers_of_too_many_digits_are_written_anew(read: Read, tmp_path: Path) -> None:
    long = b"0.123456789012345678901234567890"
    source = with_raw(
        chest(tmp_path), ImagerPixelSpacing=long + b"\\" + long, RescaleSlope=long, RescaleIntercept=b"-1.0" + b"0" * 30
    )
    paths = written(read(source), tmp_path)
    assert set(paths) == CHEST
    assert faults(paths) == []
    assert all(long[:18] not in path.read_bytes() for path in paths.values())
    state = pydicom.dcmread(paths["presentation_state"])
    assert float(state.RescaleSlope) == pytest.approx(0.123456789)


def test_every_kind_that_may_be_configured_has_a_writer() -> None:
    assert set(RESULT_KINDS) == set(WRITERS)
    assert set(Results().kinds) < set(WRITERS)
