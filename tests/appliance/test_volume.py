"""Slices become the same volume however they were cut, numbered and sent; what is no volume is turned away in words."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.errors import ImageError
from appliance.image import read_header
from appliance.volume import Volume, load_volume
from tests.dicom_files import hippocampus_pixels, make_series
from tests.running import CHECKOUT

REAL = CHECKOUT.parent / "shared" / "dicom" / "mr-hippocampus"
PIXELS = hippocampus_pixels(5, 6, 7)
TYPE = ["ORIGINAL", "PRIMARY", "M"]


def loaded(paths: list[Path]) -> Volume:
    return load_volume(paths, [read_header(path) for path in paths])


def changed(path: Path, **attributes: Any) -> str:
    """Set attributes of a file, None removes one; its SOP Instance UID."""
    dataset = pydicom.dcmread(path)
    for keyword, value in attributes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    dataset.save_as(path)
    return str(dataset.SOPInstanceUID)


def by_height(paths: list[Path]) -> list[Path]:
    """The files of a series that was cut axially, from the feet on."""
    return sorted(paths, key=lambda path: float(pydicom.dcmread(path).ImagePositionPatient[2]))


@given(
    shape=st.tuples(*[st.integers(3, 6)] * 3),
    spacing=st.tuples(*[st.sampled_from([0.5, 0.9375, 1.0, 3.3])] * 3),
    order=st.permutations(range(3)),
    flipped=st.sets(st.integers(0, 2)),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_however_it_was_cut_it_is_the_same_volume(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    order: list[int],
    flipped: set[int],
    seed: int,
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 4000, shape).astype(np.uint16)
    cut = order[0], order[1], order[2]
    with tempfile.TemporaryDirectory() as folder:
        files = make_series(Path(folder), pixels, spacing=spacing, order=cut, flipped=tuple(sorted(flipped)), seed=seed)
        volume = loaded(files)
        stored = {str(each.SOPInstanceUID): each.pixel_array for each in map(pydicom.dcmread, files)}
    np.testing.assert_array_equal(volume.pixels, pixels)
    assert volume.spacing == pytest.approx(spacing)
    assert volume.warnings == ()
    # What is drawn on the volume lands on the pixels of the very image that showed them.
    aligned = volume.align(pixels)
    for image, plane in zip(volume.images, aligned, strict=True):
        np.testing.assert_array_equal(plane, stored[image.sop_instance_uid])
        np.testing.assert_array_equal(plane, image.pixels)
    np.testing.assert_array_equal(volume.straighten(aligned), pixels)


@pytest.mark.parametrize("degrees", [4, 20])
def test_an_oblique_series_is_read_and_beyond_ten_degrees_warned_of(degrees: int, tmp_path: Path) -> None:
    angle = np.deg2rad(degrees)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    files = make_series(tmp_path, PIXELS, directions=np.eye(3)[::-1] @ turn, flipped=(1,), order=(0, 2, 1))
    volume = loaded(files)
    np.testing.assert_array_equal(volume.pixels, PIXELS)
    np.testing.assert_allclose(volume.directions, np.eye(3)[::-1] @ turn, atol=1e-6)
    assert bool(volume.warnings) == (degrees > 10)
    assert all(f"{degrees} degrees" in warning for warning in volume.warnings)


def test_the_distance_of_slices_is_measured_not_believed(tmp_path: Path) -> None:
    volume = loaded(make_series(tmp_path, PIXELS, spacing=(2.5, 1.0, 1.0), SliceThickness=9))
    assert volume.spacing == pytest.approx((2.5, 1.0, 1.0))


def test_slices_that_are_not_quite_even_are_measured_over_all(tmp_path: Path) -> None:
    files = by_height(make_series(tmp_path, hippocampus_pixels(9, 6, 7)))
    heights = np.concatenate([np.arange(5), 4 + 1.015 * np.arange(1, 5)])
    for path, height in zip(files, heights, strict=True):
        changed(path, ImagePositionPatient=[0, 0, float(height)])
    assert loaded(files).spacing[0] == pytest.approx(heights[-1] / 8)


@pytest.mark.parametrize("length", [0.9955, 1.004])
def test_directions_that_are_not_quite_of_length_1_measure_nothing(length: float, tmp_path: Path) -> None:
    files = by_height(make_series(tmp_path, hippocampus_pixels(60, 6, 7)))
    for path in files:
        changed(path, ImageOrientationPatient=[length, 0, 0, 0, length, 0])
    assert loaded(files).spacing == pytest.approx((1.0, 1.0, 1.0))


# --- what is no volume ----------------------------------------------------------------------------------------------


def test_a_missing_slice_is_told_with_its_neighbors(tmp_path: Path) -> None:
    files = by_height(make_series(tmp_path, hippocampus_pixels(8, 6, 7), spacing=(1.5, 1.0, 1.0)))
    neighbors = [changed(files[2]), changed(files[4])]
    files.pop(3)
    with pytest.raises(
        ImageError, match=r"gap: 3.00 mm between \S+ and \S+, where slices lie 1.50 mm apart"
    ) as refused:
        loaded(files)
    assert all(uid in str(refused.value) for uid in neighbors)


def test_two_at_one_position_are_named(tmp_path: Path) -> None:
    files = by_height(make_series(tmp_path, PIXELS))
    position = pydicom.dcmread(files[1]).ImagePositionPatient
    uids = [changed(files[1]), changed(files[2], ImagePositionPatient=position)]
    with pytest.raises(ImageError, match="same position") as refused:
        loaded(files)
    assert all(uid in str(refused.value) for uid in uids)


@pytest.mark.parametrize(
    ("attributes", "word"),
    [
        ({"ImageOrientationPatient": [0, 1, 0, 1, 0, 0]}, "differ in orientation"),
        ({"PixelSpacing": [2, 1]}, "differ in Pixel Spacing"),
        ({"FrameOfReferenceUID": "1.2.3"}, "differ in Frame of Reference"),
        ({"Rows": 7}, "differ in Rows"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "P"]}, r"differ in Image Type: ORIGINAL\PRIMARY in"),
        ({"ImageType": ["DERIVED", "PRIMARY"]}, "differ in Image Type"),
        ({"EchoTime": 90}, "differ in Echo Time: 3.0 in"),
        ({"EchoTime": "3.05"}, "differ in Echo Time"),
        ({"EchoTime": None}, "differ in Echo Time: 3.0 in"),
        ({"RepetitionTime": 4000}, "differ in Repetition Time: none in"),
        ({"ContrastBolusAgent": "GADOVIST"}, "differ in Contrast/Bolus Agent: none in"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "differ in Photometric Interpretation: MONOCHROME2 in"),
        ({"SeriesInstanceUID": "1.2.3"}, "2 series"),
        ({"ImagePositionPatient": None}, "Image Position (Patient) is missing"),
        ({"ImageOrientationPatient": None}, "Image Orientation (Patient) is missing"),
        ({"PixelSpacing": None}, "Pixel Spacing is missing"),
        ({"PixelSpacing": [0, 1]}, "is not above 0"),
        ({"FrameOfReferenceUID": None}, "Frame of Reference UID (0020,0052) is missing"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "two orthogonal unit vectors"),
        ({"ImagePositionPatient": [9, -40, -48]}, "not above each other"),
        ({"PixelData": b"\0\0"}, "ends after"),
    ],
    ids=str,
)
def test_what_is_no_volume_is_turned_away_with_its_uid(
    attributes: dict[str, object], word: str, tmp_path: Path
) -> None:
    files = by_height(make_series(tmp_path, PIXELS))
    uid = changed(files[2], **attributes)
    with pytest.raises(ImageError) as refused:
        loaded(files)
    assert word in str(refused.value)
    assert (uid if "SeriesInstanceUID" not in attributes else "1.2.3") in str(refused.value)


def test_what_is_only_written_otherwise_is_one_volume(tmp_path: Path) -> None:
    files = by_height(make_series(tmp_path, PIXELS, EchoTime="3", RepetitionTime=8, ImageType=TYPE))
    changed(files[1], EchoTime="3.000", RepetitionTime="8.02", ImageType=[*TYPE, "NORM"])
    assert loaded(files).warnings == ()


def test_several_acquisitions_are_read_with_a_warning(tmp_path: Path) -> None:
    files = by_height(make_series(tmp_path, PIXELS, AcquisitionNumber=1))
    assert loaded(files).warnings == ()
    changed(files[2], AcquisitionNumber=2)
    (warning,) = loaded(files).warnings
    assert warning.startswith("The slices state 2 different Acquisition Numbers")


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_slices_are_no_volume(count: int, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=f"has {count} slice"):
        loaded(by_height(make_series(tmp_path, PIXELS))[:count])


@pytest.mark.skipif(not REAL.exists(), reason="no real MR series beside the checkout (shared/dicom)")
def test_a_real_series() -> None:
    files = sorted(REAL.glob("*.dcm"))
    volume = loaded(files)
    assert volume.pixels.shape == (32, 51, 35)
    assert volume.spacing == (1.0, 1.0, 1.0)
    assert volume.warnings == ()
    heights = [float(image.header.ImagePositionPatient[2]) for image in volume.images]
    assert all(one < other for one, other in itertools.pairwise(heights))
