"""Masks from PNG, NIfTI and DICOM SEG come to lie on their image's grid, or are named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image as PillowImage
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import MRImageStorage, generate_uid

from compression import masks, sources
from compression.deidentify_files import Options, run
from compression.masks import MaskLabelError, MaskSizeError
from compression.problems import DataError
from compression.pseudonyms import Pseudonyms
from tests.dicom_files import make_radiograph

ROWS, COLUMNS, SLICES = 24, 20, 6
NAMES = ("anterior", "posterior")


def make_series(
    folder: Path, slices: int = SLICES, patient: str = "TEST-0", direction: Sequence[float] = (1, 0, 0, 0, 1, 0)
) -> list[Path]:
    """An MR series with the slice's number in its pixels, its files named against the order of the slices."""
    series, study, frame = (generate_uid(entropy_srcs=[name, str(folder.name), patient]) for name in "stf")
    normal = np.cross(direction[:3], direction[3:])
    paths = []
    for number in range(slices):
        pixels = np.full((ROWS, COLUMNS), 100 * (number + 1), dtype=np.uint16)
        pixels[:4, :3] = 7  # upper left, so that turns and mirrors show
        paths.append(
            make_radiograph(
                folder / f"{slices - number}.dcm", pixels=pixels, seed=number, SOPClassUID=MRImageStorage,
                Modality="MR",
                SeriesInstanceUID=series, StudyInstanceUID=study, FrameOfReferenceUID=frame, PatientID=patient,
                InstanceNumber=number + 1, ImageOrientationPatient=list(direction), PixelSpacing=[0.5, 0.75],
                ImagePositionPatient=[float(x) for x in np.array([-10, -20, 30]) + 2 * number * normal],
                SliceThickness=2, ViewPosition=None, PatientOrientation=None,
            )
        )  # fmt: skip
    return paths


def labels() -> np.ndarray:
    """``(slices, rows, columns)``: each slice another place, both labels, the first slice empty."""
    found = np.zeros((SLICES, ROWS, COLUMNS), dtype=np.uint8)
    for number in range(1, SLICES):
        found[number, 2 : 4 + number, 3:9] = 1
        found[number, 14:18, number : number + 4] = 2
    return found


def describe(number: int, name: str) -> hd.seg.SegmentDescription:
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=name,
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=codes.SCT.Hippocampus,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
    )


def make_seg(
    path: Path, images: Sequence[Dataset], stack: np.ndarray, names: Sequence[str] = NAMES, kind: str = "BINARY"
) -> Path:
    """A DICOM SEG of label values ``(frames, rows, columns)`` over the images, in their order."""
    file = hd.seg.Segmentation(
        source_images=list(images),
        pixel_array=stack,
        segmentation_type=kind,
        segment_descriptions=[describe(number, name) for number, name in enumerate(names, start=1)],
        series_instance_uid=generate_uid(),
        series_number=9,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="Generated",
        manufacturer_model_name="Generated",
        software_versions="1",
        device_serial_number="1",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save_as(path)
    return path


@pytest.fixture
def series(tmp_path: Path) -> list[Path]:
    return make_series(tmp_path / "series")


def test_slices_are_sorted_by_their_place_and_the_affine_is_right(series: list[Path]) -> None:
    source = sources.read(series)
    assert source.pixels.shape == (COLUMNS, ROWS, SLICES)
    assert source.pixels[10, 10].tolist() == [100, 200, 300, 400, 500, 600]
    assert source.affine is not None
    # The first pixel of the first slice: RAS is LPS with x and y negated.
    assert (source.affine @ [0, 0, 0, 1])[:3] == pytest.approx([10, 20, 30])
    assert (source.affine @ [1, 0, 0, 1])[:3] == pytest.approx([10 - 0.75, 20, 30])
    assert (source.affine @ [0, 1, 0, 1])[:3] == pytest.approx([10, 20 - 0.5, 30])
    assert (source.affine @ [0, 0, 1, 1])[:3] == pytest.approx([10, 20, 32])
    turned, affine = sources.to_ras(source.pixels, source.affine)
    assert nibabel.aff2axcodes(affine) == ("R", "A", "S")
    assert turned[-1, -1, 0] == 7  # right is where x grows now, anterior where y grows
    assert turned.dtype == np.int16


def test_a_sagittal_series_is_turned_too(tmp_path: Path) -> None:
    source = sources.read(make_series(tmp_path / "s", direction=(0, 1, 0, 0, 0, -1)))
    assert source.affine is not None
    turned, affine = sources.to_ras(source.pixels, source.affine)
    assert nibabel.aff2axcodes(affine) == ("R", "A", "S")
    assert turned.shape == (SLICES, COLUMNS, ROWS)
    assert np.diag(affine)[:3] == pytest.approx([2, 0.75, 0.5])


def test_a_series_that_is_no_even_stack_is_named(series: list[Path]) -> None:
    with pytest.raises(DataError, match="one is missing"):
        sources.read([*series[:2], *series[3:]])
    with pytest.raises(DataError, match="two slices at one position"):
        sources.read([*series, series[0]])
    turned = pydicom.dcmread(series[1])
    turned.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    turned.save_as(series[1])
    with pytest.raises(DataError, match="several directions"):
        sources.read(series)
    del turned.ImagePositionPatient
    turned.save_as(series[1])
    with pytest.raises(DataError, match="ImagePositionPatient"):
        sources.read(series)


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_a_seg_lies_on_its_series_whatever_the_order_of_its_frames(
    kind: str, order: slice, series: list[Path], tmp_path: Path
) -> None:
    images = [pydicom.dcmread(path) for path in series]
    seg = make_seg(tmp_path / "seg.dcm", images[order], labels()[order], kind=kind)
    mask = masks.read(seg, sources.read(series), NAMES)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, labels().transpose(2, 1, 0))


def test_segments_are_found_by_name_not_by_number(series: list[Path], tmp_path: Path) -> None:
    images = [pydicom.dcmread(path) for path in series]
    seg = make_seg(tmp_path / "seg.dcm", images, labels())
    swapped = masks.read(seg, sources.read(series), ("posterior", "anterior"))
    np.testing.assert_array_equal(swapped, np.array([0, 2, 1])[labels()].transpose(2, 1, 0))
    np.testing.assert_array_equal(masks.read(seg, sources.read(series)), labels().transpose(2, 1, 0))
    with pytest.raises(MaskLabelError, match=r"seg\.dcm has the segments posterior; declared are anterior"):
        masks.read(seg, sources.read(series), ("anterior",))


def test_a_seg_of_one_radiograph(tmp_path: Path) -> None:
    path = make_radiograph(tmp_path / "a.dcm", rows=40, columns=30, PixelSpacing=[0.2, 0.2])
    marked = np.zeros((40, 30), dtype=np.uint8)
    marked[5:20, 4:9] = 1
    seg = make_seg(tmp_path / "seg.dcm", [pydicom.dcmread(path)], marked[np.newaxis], ["lung"])
    np.testing.assert_array_equal(masks.read(seg, sources.read([path]), ["lung"]), marked)


def test_a_seg_of_other_images_is_not_an_empty_mask(series: list[Path], tmp_path: Path) -> None:
    others = make_series(tmp_path / "others")
    seg = make_seg(tmp_path / "seg.dcm", [pydicom.dcmread(path) for path in others], labels())
    with pytest.raises(MaskSizeError, match="refers to"):
        masks.read(seg, sources.read(series), NAMES)


def test_what_is_no_binary_segmentation_is_named(series: list[Path], tmp_path: Path) -> None:
    images = [pydicom.dcmread(path) for path in series]
    share = (labels() == 1).astype(np.float32) * 0.5
    fractional = make_seg(tmp_path / "f.dcm", images, share, ["anterior"], kind="FRACTIONAL")
    with pytest.raises(DataError, match="fractional"):
        masks.read(fractional, sources.read(series), NAMES)
    with pytest.raises(DataError, match=r"1\.dcm can't be read as a segmentation"):
        masks.read(series[-1], sources.read(series), NAMES)


def test_a_seg_finds_its_series_after_de_identification(series: list[Path], tmp_path: Path) -> None:
    images = [pydicom.dcmread(path) for path in series]
    make_seg(tmp_path / "series" / "seg.dcm", images, labels())
    run(tmp_path / "series", tmp_path / "out", Pseudonyms(bytes(32)), Options())
    clean = {path: pydicom.dcmread(path) for path in (tmp_path / "out").rglob("*.dcm")}
    (seg,) = [path for path, each in clean.items() if each.Modality == "SEG"]
    source = sources.read([path for path, each in clean.items() if each.Modality == "MR"])
    np.testing.assert_array_equal(masks.read(seg, source, NAMES), labels().transpose(2, 1, 0))


def picture(path: Path, values: np.ndarray, mode: str | None = None) -> Path:
    image = PillowImage.fromarray(values)
    (image.convert(mode) if mode else image).save(path)
    return path


def test_pictures_hold_labels_or_black_and_white(tmp_path: Path) -> None:
    source = sources.Source(np.zeros((10, 8), dtype=np.uint8))
    values = np.zeros((10, 8), dtype=np.uint8)
    values[2:5, 3:6] = 1
    np.testing.assert_array_equal(masks.read(picture(tmp_path / "a.png", values), source, ["lung"]), values)
    np.testing.assert_array_equal(masks.read(picture(tmp_path / "b.png", values * 255), source, ["lung"]), values)
    np.testing.assert_array_equal(masks.read(picture(tmp_path / "c.png", values * 255, "1"), source, ["lung"]), values)
    two = values + np.roll(values, 3, axis=0) * 2
    np.testing.assert_array_equal(masks.read(picture(tmp_path / "d.png", two), source, NAMES), two)


def test_a_wrong_mask_is_named_and_says_what_is_wrong(tmp_path: Path) -> None:
    source = sources.Source(np.zeros((10, 8), dtype=np.uint8))
    values = np.zeros((10, 8), dtype=np.uint8)
    with pytest.raises(MaskSizeError, match=r"a\.png: mask and image are 8x9 and 8x10 \(columns x rows\)"):
        masks.read(picture(tmp_path / "a.png", values[:9]), source, NAMES)
    values[0, :2] = 3, 128
    with pytest.raises(MaskLabelError, match=r"b\.png holds labels 3, 128; declared are 0 to 2"):
        masks.read(picture(tmp_path / "b.png", values), source, NAMES)
    with pytest.raises(MaskLabelError, match="in color"):
        masks.read(picture(tmp_path / "c.png", values, "RGB"), source, NAMES)
    (tmp_path / "d.png").write_bytes((tmp_path / "b.png").read_bytes()[:40])
    with pytest.raises(DataError, match=r"d\.png can't be decoded"):
        masks.read(tmp_path / "d.png", source, NAMES)
    with pytest.raises(DataError, match="not DICOM"):
        masks.read(tmp_path / "seg.dcm", source, NAMES)


def test_a_nifti_mask_must_lie_where_its_image_lies(tmp_path: Path) -> None:
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6), dtype=np.int16), affine), tmp_path / "image.nii.gz")
    source = sources.read([tmp_path / "image.nii.gz"])
    values = np.zeros((4, 5, 6), dtype=np.uint8)
    values[1, 2, 3] = 2

    def mask(values: np.ndarray, affine: np.ndarray) -> Path:
        nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / "mask.nii.gz")
        return tmp_path / "mask.nii.gz"

    np.testing.assert_array_equal(masks.read(mask(values, affine), source, NAMES), values)
    moved = affine.copy()
    moved[0, 3] = 5
    with pytest.raises(MaskSizeError, match=r"5\.00 mm away"):
        masks.read(mask(values, moved), source, NAMES)
    with pytest.raises(MaskSizeError, match=r"4x5x5 and 4x5x6 \(columns x rows x slices\)"):
        masks.read(mask(values[..., :5], affine), source, NAMES)
    with pytest.raises(MaskLabelError, match="no whole numbers"):
        masks.read(mask(values.astype(np.float32) / 4, affine), source, NAMES)
    assert not masks.read(mask(values * 0, affine), source, NAMES).any()


@pytest.mark.parametrize("at", [-6, 60])
def test_a_compressed_mask_is_read_to_its_checksum(at: int, tmp_path: Path) -> None:
    image, mask, affine = tmp_path / "image.nii.gz", tmp_path / "mask.nii.gz", np.eye(4)
    values = np.random.default_rng(0).integers(0, 3, (16, 15, 14)).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(values.astype(np.int16), affine), image)
    nibabel.save(nibabel.Nifti1Image(values, affine), mask)
    whole = bytearray(mask.read_bytes())
    whole[at] ^= 0x5A
    mask.write_bytes(whole)
    with pytest.raises(DataError, match=r"mask\.nii\.gz can't be decoded"):
        masks.read(mask, sources.read([image]), NAMES)
