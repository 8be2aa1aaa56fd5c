"""Packages that draw segments, alone and beside one that looks for findings: what they say, prove and write."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import highdicom as hd
import msgspec
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.sr.codedict import codes

from appliance import companion, in_service, interpret, package, pictures, pipeline, proof, signature, writer
from appliance.backend import Options
from appliance.config import Config, Models, Results
from appliance.errors import BackendError, ImageError, NotAcceptedError
from appliance.package import Package
from appliance.pipeline import Pipeline, Reading, Stopwatch, write_objects
from appliance.preprocess import Step, preprocess
from appliance.serving import Server
from tests import fake_package
from tests.dicom_files import hippocampus_pixels, make_radiograph, make_series
from tests.peers import needs
from tests.running import CHECKOUT

pytestmark = pytest.mark.skipif(not fake_package.BUNDLED, reason="no model package is bundled")
REAL = CHECKOUT.parent / "shared" / "dicom" / "mr-hippocampus"
KINDS = Results().kinds
DRAWN = (*KINDS, "fractional_segmentation", "presentation_state")


class Device:
    """A pipeline on the synthetic packages; a reading of files with it."""

    def __init__(self, folder: Path, *paths: Path, least_map_share: float = 0.35) -> None:
        models = Models(
            packages=tuple(map(str, paths)), trusted_keys=tuple({str(each.parent / "trusted") for each in paths})
        )
        config = Config(data_dir=str(folder), models=models, results=Results(least_map_share=least_map_share))
        config = msgspec.structs.replace(
            config, inference=msgspec.structs.replace(config.inference, backend="onnxruntime")
        )
        self.pipeline = Pipeline.open(config, in_service.try_out(config), writer.derived_uid("a device"))

    def read(self, *files: Path) -> Reading:
        stopwatch = Stopwatch()
        return self.pipeline.infer(self.pipeline.prepare(files, None, stopwatch), stopwatch)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("packages")
    return {
        "lungs": fake_package.lungs(folder),
        "hippocampus": fake_package.hippocampus(folder),
        "everything": fake_package.lungs(folder / "everything", threshold=9.0),
        "nothing": fake_package.lungs(folder / "nothing", threshold=-9.0),
    }


@pytest.fixture(scope="module")
def device(made: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    opened = Device(tmp_path_factory.mktemp("box"), fake_package.BUNDLED[0], made["lungs"], made["hippocampus"])
    yield opened
    opened.pipeline.close()


@pytest.fixture
def chest(tmp_path: Path) -> Path:
    return make_radiograph(tmp_path / "chest.dcm", rows=300, columns=260, ImagerPixelSpacing=[0.5, 0.5])


@pytest.fixture
def series(tmp_path: Path) -> list[Path]:
    return make_series(tmp_path / "series", hippocampus_pixels(18, 30, 24))


# --- volumes ------------------------------------------------------------------------------------------------------


def test_a_series_is_read_as_one_volume(device: Device, series: list[Path]) -> None:
    reading = device.read(*series)
    anterior, posterior = reading.prediction.segments
    assert [anterior.label, posterior.label] == ["Anterior hippocampus", "Posterior hippocampus"]
    assert reading.provenance.package == "hippocampus"
    mask = reading.prediction.mask
    assert mask is not None
    assert mask.shape == (18, 30, 24)
    assert len(reading.images) == 18
    for number, segment in enumerate((anterior, posterior), start=1):
        assert segment.voxels == int((mask == number).sum()) > 100
        assert segment.volume_ml == pytest.approx(segment.voxels / 1000)
        assert segment.area_share is None
        assert 0.8 < segment.mean_probability <= 1.0
        assert 0.0 <= segment.uncertain_share < 0.5
    assert reading.prediction.warnings == ()
    # What it draws is what is bright, the front half anterior.
    bright = np.stack([image.pixels for image in reading.images]) > 500
    assert (bright == (mask > 0)).mean() > 0.97
    rows = [np.argwhere(mask == number)[:, 1].max() for number in (1, 2)]
    assert rows[0] < rows[1]


@pytest.mark.parametrize(("order", "flipped"), [((0, 1, 2), (1, 2)), ((1, 0, 2), (1,)), ((2, 0, 1), (0, 1))])
def test_the_cut_of_a_series_changes_nothing_that_is_measured(
    order: tuple[int, int, int], flipped: tuple[int, ...], device: Device, series: list[Path], tmp_path: Path
) -> None:
    axial = device.read(*series)
    other = device.read(*make_series(tmp_path / "b", hippocampus_pixels(18, 30, 24), order=order, flipped=flipped))
    assert other.reused  # the very same volume
    assert other.prediction.segments == axial.prediction.segments
    assert other.prediction.mask is not None
    assert other.prediction.mask.shape == tuple((18, 30, 24)[axis] for axis in order)
    bright = np.stack([image.pixels for image in other.images]) > 500
    assert (bright == (other.prediction.mask > 0)).mean() > 0.97


def test_a_volume_in_milliliters_counts_the_spacing(device: Device, tmp_path: Path) -> None:
    coarse = make_series(tmp_path / "coarse", hippocampus_pixels(9, 30, 24), spacing=(2.0, 1.0, 1.0))
    fine = make_series(tmp_path / "fine", hippocampus_pixels(18, 30, 24), spacing=(1.0, 1.0, 1.0))
    (one, _), (other, _) = (device.read(*files).prediction.segments for files in (coarse, fine))
    assert one.volume_ml == pytest.approx(other.volume_ml, rel=0.1)
    assert one.voxels < 0.6 * other.voxels


def test_the_same_pixels_with_another_spacing_are_another_volume(device: Device, tmp_path: Path) -> None:
    pixels = hippocampus_pixels(18, 30, 24, seed=5)
    assert not device.read(*make_series(tmp_path / "a", pixels)).reused
    assert device.read(*make_series(tmp_path / "b", pixels)).reused
    assert not device.read(*make_series(tmp_path / "c", pixels, spacing=(1.0, 1.2, 1.2))).reused


def test_one_slice_is_no_volume(device: Device, series: list[Path]) -> None:
    with pytest.raises(ImageError, match="has 1 slice here; a volume needs 3"):
        device.read(series[0])


def test_what_reaches_the_edge_or_is_empty_is_warned_of(device: Device, tmp_path: Path) -> None:
    cut = make_series(tmp_path / "cut", hippocampus_pixels(18, 30, 24)[4:-4, 6:-6])
    warnings = device.read(*cut).prediction.warnings
    assert sum("touches the edge of the volume" in warning for warning in warnings) == 2
    pixels = hippocampus_pixels(18, 30, 24)
    pixels[:, 14:] = 200
    front = device.read(*make_series(tmp_path / "front", pixels)).prediction
    assert [segment.voxels > 0 for segment in front.segments] == [True, False]
    assert any("Posterior hippocampus is empty" in warning for warning in front.warnings)
    assert front.segments[1].volume_ml == 0.0


@settings(deadline=None)
@given(
    shape=st.tuples(*[st.integers(4, 40)] * 3),
    spacing=st.tuples(*[st.sampled_from([0.5, 0.8, 1.0, 1.7, 3.0])] * 3),
    size=st.lists(st.integers(4, 40), min_size=3, max_size=3),
)
def test_what_the_model_sees_of_a_volume_is_what_the_crop_leaves(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], size: list[int]
) -> None:
    steps = (Step("resample", {"millimeters": 1.0}), Step("pad_or_crop", {"size": size}))
    seen = interpret._seen(steps, shape, spacing)
    for axis, (part, count) in enumerate(zip(seen, shape, strict=True)):
        # Of a ramp, what was cut away comes back flat.
        ramp = np.broadcast_to(np.arange(count).reshape([-1 if each == axis else 1 for each in range(3)]), shape)
        tensor = preprocess(ramp.astype(np.float32), steps, spacing)
        resampled = max(round(count * spacing[axis]), 1)
        assert (part == slice(0, count)) or resampled > size[axis]
        assert 0 <= part.start <= part.stop <= count
        expected = min(size[axis] / spacing[axis] * (count * spacing[axis] / resampled), count)
        assert part.stop - part.start == pytest.approx(expected, abs=1.01)
        assert tensor.shape[2:] == tuple(size)


def test_beyond_what_the_model_sees_nothing_is_outlined(device: Device, tmp_path: Path) -> None:
    pixels = np.full((30, 40, 34), 100, np.uint16)
    pixels[10:20, 5:36, 12:22] = 900  # longer than the 32 rows of the grid
    said = device.read(*make_series(tmp_path, pixels)).prediction
    assert said.mask is not None
    rows = np.argwhere(said.mask)[:, 1]
    assert (rows.min(), rows.max()) == (5, 35)
    pixels[10:20] = 100
    pixels[10:20, :, 12:22] = 900
    said = device.read(*make_series(tmp_path / "b", pixels)).prediction
    assert said.mask is not None
    rows = np.argwhere(said.mask)[:, 1]
    assert (rows.min(), rows.max()) == (4, 35)
    assert "The model looks at the middle 24 x 32 x 28 of 30 x 40 x 34 voxels only; outside of it" in said.warnings[0]
    assert sum("touches the edge" in warning for warning in said.warnings) == 2


def test_an_oblique_series_says_so_with_its_result(device: Device, tmp_path: Path) -> None:
    turn = np.array([[1, 0, 0], [0, np.cos(0.3), -np.sin(0.3)], [0, np.sin(0.3), np.cos(0.3)]])
    files = make_series(tmp_path, hippocampus_pixels(18, 30, 24), directions=np.eye(3)[::-1] @ turn)
    assert any("oblique" in warning for warning in device.read(*files).prediction.warnings)


@pytest.mark.skipif(not REAL.exists(), reason="no real MR series beside the checkout (shared/dicom)")
def test_a_real_series_finds_its_package_by_its_description(device: Device) -> None:
    reading = device.read(*sorted(REAL.glob("*.dcm")))
    assert reading.provenance.package == "hippocampus"
    assert reading.prediction.mask is not None
    assert reading.prediction.mask.shape == (32, 51, 35)


# --- routing --------------------------------------------------------------------------------------------------------


def test_a_device_says_all_that_it_reads(device: Device, tmp_path: Path) -> None:
    with pytest.raises(NotAcceptedError, match=r"frontal chest images \(CR, DX\) and hippocampus series \(MR\)"):
        device.read(make_radiograph(tmp_path / "hand.dcm", BodyPartExamined="HAND"))
    with pytest.raises(NotAcceptedError, match="does not say which body part"):
        device.read(*make_series(tmp_path / "knee", hippocampus_pixels(4, 6, 6), SeriesDescription="Knee"))


def test_several_images_are_not_one_volume(device: Device, chest: Path) -> None:
    with pytest.raises(NotAcceptedError, match="single images, not 2 at once"):
        device.read(chest, chest)


# --- beside findings ------------------------------------------------------------------------------------------------


def test_the_lungs_accompany_the_finding(device: Device, chest: Path) -> None:
    reading = device.read(chest)
    said = reading.prediction
    assert reading.provenance.package == "chest-pneumonia"
    assert said.segmented_by is not None
    assert said.segmented_by.package == "lungs"
    (lungs,) = said.segments
    assert said.mask is not None
    assert said.mask.shape == (1, 300, 260)
    assert lungs.area_share == pytest.approx((said.mask > 0).mean())
    assert lungs.area_mm2 == pytest.approx(lungs.voxels * 0.25)
    assert lungs.volume_ml is None
    assert device.read(chest).reused
    outlines = reading.outlines
    assert outlines is not None
    assert outlines.provenance.package == "lungs"


def test_what_both_packages_warn_of_is_said_once(device: Device, tmp_path: Path) -> None:
    warnings = device.read(
        make_radiograph(tmp_path / "chest.dcm", ViewPosition="", PatientAge="061Y")
    ).prediction.warnings
    assert sum("view position is not stated" in warning for warning in warnings) == 1
    assert sum("61 years old" in warning for warning in warnings) == 1


@pytest.mark.long
def test_a_map_outside_the_lungs_is_withheld_everywhere(made: dict[str, Path], chest: Path, tmp_path: Path) -> None:
    for least, withheld in ((0.0, False), (1.0, True)):
        device = Device(tmp_path / "box", fake_package.BUNDLED[0], made["lungs"], least_map_share=least)
        reading = device.read(chest)
        device.pipeline.close()
        (finding,) = reading.prediction.findings
        assert finding.map_share is not None
        assert 0.0 < finding.map_share < 1.0
        assert finding.map_withheld == withheld
        sentence = f"The activation map is withheld: only {finding.map_share * 100:.0f} % of it lies inside the lungs."
        assert (sentence in reading.prediction.warnings) == withheld
        assert (finding.label in reading.prediction.activation_maps) != withheld
        assert ("heat-0.png" in pipeline.previews(reading)) != withheld
        kinds = dict(write_objects(reading, KINDS))
        assert set(kinds) == set(KINDS)
        assert (sentence in _text(kinds["structured_report"], tmp_path)) == withheld


def test_where_nothing_is_outlined_nothing_is_withheld_but_said(
    made: dict[str, Path], chest: Path, tmp_path: Path
) -> None:
    device = Device(tmp_path / "box", fake_package.BUNDLED[0], made["nothing"], least_map_share=1.0)
    said = device.read(chest).prediction
    device.pipeline.close()
    assert said.findings[0].map_share is None
    assert said.activation_maps
    assert "The segment Lungs is empty: the model outlined nothing of it." in said.warnings


@pytest.mark.parametrize(
    ("left", "share"), [(slice(0, 7), 1.0), (slice(0, 0), None), (slice(0, 3), 1.0), (slice(4, 7), 0.0)]
)
def test_the_share_of_a_map_counts_what_is_shown(left: slice, share: float | None) -> None:
    shown = np.zeros((7, 7), np.float32)
    shown[2:5, 0] = 1.0
    shown[6, 6] = 0.05  # too faint to be drawn
    mask = np.zeros((140, 210), np.uint8)
    mask[:, left.start * 30 : left.stop * 30] = 1
    found = companion.map_share(shown, mask)
    assert found is share or found == pytest.approx(share, abs=0.02)
    assert companion.map_share(np.zeros((7, 7), np.float32), np.ones((140, 210), np.uint8)) is None


def test_a_companion_that_fails_costs_nobody_the_findings(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Server.run

    def broken(self: Server, *arguments: object, **more: object) -> object:
        if self.package.manifest.id == "lungs":
            raise BackendError("it is broken")
        return run(self, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Server, "run", broken)
    said = device.read(make_radiograph(tmp_path / "other.dcm", seed=77)).prediction
    assert said.findings
    assert said.mask is None
    assert said.activation_maps
    assert "The outline of the lungs failed, so what is shown was not checked against it." in said.warnings


def test_the_bundled_package_alone_is_as_before(chest: Path, tmp_path: Path) -> None:
    alone = Device(tmp_path / "box", fake_package.BUNDLED[0])
    reading = alone.read(chest)
    alone.pipeline.close()
    assert reading.outlines is None
    assert reading.prediction.findings[0].map_share is None
    assert [kind for kind, _ in write_objects(reading, KINDS)] == ["structured_report", "secondary_capture"]
    assert set(pipeline.previews(reading)) == {"image.png", "heat-0.png"}


# --- proof ----------------------------------------------------------------------------------------------------------


def opened(path: Path) -> Package:
    return package.read(path, signature.load_trusted_keys((path.parent / "trusted",)))


@pytest.mark.parametrize("name", ["lungs", "hippocampus"])
def test_a_receipt_holds_the_smallest_dice(name: str, made: dict[str, Path]) -> None:
    (trial,) = proof.trials("onnxruntime", opened(made[name]), Options(device="CPU"))
    assert trial.receipt is not None, trial.reason
    assert trial.receipt.min_dice == 1.0
    assert trial.receipt.batches == ()
    assert "smallest Dice coefficient of a segment 1.0000" in trial.receipt.summary()
    again = msgspec.json.decode(trial.receipt.to_json(), type=type(trial.receipt))
    assert again.identifier == trial.receipt.identifier


def test_a_receipt_of_a_classification_is_the_same_bytes_as_before() -> None:
    (trial,) = proof.trials("onnxruntime", fake_package.bundled(), Options(device="CPU"))
    assert trial.receipt is not None
    assert b"min_dice" not in trial.receipt.to_json()


@pytest.mark.parametrize("name", ["lungs", "hippocampus"])
def test_a_backend_that_draws_otherwise_gets_no_receipt(name: str, made: dict[str, Path], tmp_path: Path) -> None:
    good = opened(made[name])
    vectors = good.golden()
    vectors["cpu/labels"] = np.roll(vectors["cpu/labels"], 3, axis=-1)
    np.savez(tmp_path / "golden.npz", **vectors)
    files = {each: good.file(each) for each in good.manifest.files}
    files["golden.npz"] = (tmp_path / "golden.npz").read_bytes()
    fake_package._written(tmp_path, good.manifest, files)
    (trial,) = proof.trials("onnxruntime", opened(tmp_path / f"{name}.scanside"), Options(device="CPU"))
    assert trial.receipt is None
    assert re.search(r"smallest Dice coefficient of a segment 0\.\d+ \(allowed 0\.9700\)", trial.reason)


# --- objects --------------------------------------------------------------------------------------------------------


def _text(dataset: pydicom.Dataset, folder: Path) -> str:
    path = folder / "report.dcm"
    path.write_bytes(writer.to_bytes(dataset))
    return subprocess.run([needs("dsrdump"), "+Pl", path], capture_output=True, text=True, check=True).stdout


@pytest.fixture(params=["chest", "volume", "sagittal", "real", "empty"])
def reading(request: pytest.FixtureRequest, device: Device, made: dict[str, Path], tmp_path: Path) -> Iterator[Reading]:
    chest = make_radiograph(tmp_path / "chest.dcm", rows=300, columns=260)
    if request.param == "chest":
        yield device.read(chest)
    elif request.param == "volume":
        yield device.read(*make_series(tmp_path / "s", hippocampus_pixels(18, 30, 24)))
    elif request.param == "sagittal":
        yield device.read(*make_series(tmp_path / "s", hippocampus_pixels(18, 30, 24), order=(2, 0, 1), flipped=(1,)))
    elif request.param == "empty":
        alone = Device(tmp_path / "box", made["nothing"])
        yield alone.read(chest)
        alone.pipeline.close()
    elif REAL.exists():
        yield device.read(*sorted(REAL.glob("*.dcm")))
    else:
        pytest.skip("no real MR series beside the checkout (shared/dicom)")


def test_the_validator_finds_nothing_wrong_with_any_object(reading: Reading, tmp_path: Path) -> None:
    objects = write_objects(reading, DRAWN)
    assert [kind for kind, _ in objects] == list(DRAWN)
    for kind, dataset in objects:
        path = tmp_path / f"{kind}.dcm"
        path.write_bytes(writer.to_bytes(dataset))
        verdict = subprocess.run([needs("dciodvfy"), "-new", path], capture_output=True, text=True)
        assert verdict.returncode == 0, (kind, verdict.stderr)
    again = {kind: writer.to_bytes(dataset) for kind, dataset in write_objects(reading, DRAWN)}
    assert again == {kind: (tmp_path / f"{kind}.dcm").read_bytes() for kind in again}


def test_highdicom_reads_the_very_mask_back(reading: Reading) -> None:
    said = reading.prediction
    assert said.mask is not None
    (_, dataset) = write_objects(reading, ["segmentation"])[0]
    read = hd.seg.segread(BytesIO(writer.to_bytes(dataset)))
    uids = [image.sop_instance_uid for image in reading.images]
    back = read.get_pixels_by_source_instance(
        uids, combine_segments=True, assert_missing_frames_are_empty=True, ignore_spatial_locations=True
    )
    np.testing.assert_array_equal(back, said.mask)
    assert read.StudyInstanceUID == reading.images[0].header.StudyInstanceUID
    for number, segment in enumerate(said.segments, start=1):
        described = read.get_segment_description(number)
        assert described.segment_label == segment.label
        assert described.segmented_property_type.value == segment.type.value
        assert described.segmented_property_category.value == segment.category.value
        assert described.algorithm_type.value == "AUTOMATIC"
        modifiers = described.SegmentedPropertyTypeCodeSequence[0].get("SegmentedPropertyTypeModifierCodeSequence")
        assert (modifiers and modifiers[0].CodeValue) == (segment.modifier and segment.modifier.value)
        drawn_by = said.segmented_by or reading.provenance
        assert described.algorithm_identification[0].AlgorithmName == drawn_by.package
        assert described.RecommendedDisplayCIELabValue
    assert list(read.SoftwareVersions)[1].startswith((said.segmented_by or reading.provenance).package)


def test_the_report_measures_each_segment_and_tracks_it_as_the_segmentation_does(
    reading: Reading, tmp_path: Path
) -> None:
    objects = dict(write_objects(reading, KINDS))
    report = hd.sr.srread(BytesIO(writer.to_bytes(objects["structured_report"])))
    said = reading.prediction
    content, single = report.content, len(reading.images) == 1
    groups = content.get_image_measurement_groups()  # findings, and the segments beside them
    if not said.findings:
        planar, volumetric = content.get_planar_roi_measurement_groups, content.get_volumetric_roi_measurement_groups
        groups = planar() if single else volumetric()
    assert len(groups) == len(said.findings) + len(said.segments)
    segments = hd.seg.segread(BytesIO(writer.to_bytes(objects["segmentation"])))
    for number, segment in enumerate(said.segments, start=1):
        group = groups[len(said.findings) + number - 1]
        described = segments.get_segment_description(number)
        assert (group.tracking_identifier, group.tracking_uid) == (described.tracking_id, described.tracking_uid)
        assert group.finding_type.value == segment.type.value
        references = [item.ReferencedSOPSequence[0] for item in group[0].ContentSequence if item.ValueType == "IMAGE"]
        assert {item.ReferencedSOPInstanceUID for item in references} == {
            segments.SOPInstanceUID, *(image.sop_instance_uid for image in reading.images)
        }  # fmt: skip
        (to_segment,) = (item for item in references if item.ReferencedSOPInstanceUID == segments.SOPInstanceUID)
        if "ReferencedFrameNumber" in to_segment:
            frame = segments.PerFrameFunctionalGroupsSequence[to_segment.ReferencedFrameNumber - 1]
            shared = segments.SharedFunctionalGroupsSequence[0]
            of = frame if "SegmentIdentificationSequence" in frame else shared
            assert of.SegmentIdentificationSequence[0].ReferencedSegmentNumber == number
        else:
            assert to_segment.ReferencedSegmentNumber == number
        if segment.volume_ml is not None:
            (volume,) = group.get_measurements(codes.SCT.Volume)
            assert float(volume.value) == pytest.approx(segment.volume_ml, abs=0.001)
            assert volume.unit.value == "mL"
        else:
            assert segment.area_share is not None
            share = next(each for each in group.get_measurements() if each.name.value == "area-share")
            assert float(share.value) == pytest.approx(100 * segment.area_share, abs=0.01)
    text = _text(objects["structured_report"], tmp_path)
    drawn_by = said.segmented_by or reading.provenance
    assert f'TEXT:(,,"Algorithm Name")="{drawn_by.package}"' in text
    for warning in said.warnings:
        assert warning in text


def test_the_capture_outlines_in_the_segments_colors(reading: Reading) -> None:
    (_, capture) = write_objects(reading, ["secondary_capture"])[0]
    pixels = pydicom.dcmread(BytesIO(writer.to_bytes(capture))).pixel_array
    assert len(capture.SourceImageSequence) == len(reading.images)
    for segment in reading.prediction.segments:
        drawn = (pixels == np.array(segment.color)).all(axis=2).sum()
        assert drawn > 100 if segment.voxels else drawn < 2000  # its name in the legend, no more


def test_the_page_s_strips_cover_each_other(device: Device, series: list[Path]) -> None:
    from PIL import Image as PillowImage

    reading = device.read(*series)
    files = pictures.previews(reading.source, reading.prediction)
    assert set(files) == {"image.png", "outline.png"}
    sizes = [PillowImage.open(BytesIO(content)).size for content in files.values()]
    for width, height in sizes:
        assert height % 18 == 0
        assert width / (height / 18) == pytest.approx(24 / 30, rel=0.02)
    assert sum(map(len, files.values())) < 300_000
