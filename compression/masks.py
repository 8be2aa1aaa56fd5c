"""Masks from PNG, NIfTI and DICOM SEG, as labels on the grid of their image."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
import nibabel
import numpy as np
import pydicom
from PIL import Image as PillowImage
from pydicom import Dataset
from pydicom.errors import InvalidDicomError

from compression.problems import DataError
from compression.sources import PICTURES, UNREADABLE, Source, check_one_page, check_to_its_end, is_nifti

_WHITE = 255
_SAME_MILLIMETERS = 0.01
_MOST_LABELS = 255


def read(path: Path, source: Source, segments: Sequence[str] = ()) -> np.ndarray:
    """A mask as labels on its image's grid.

    Parameters
    ----------
    path
        PNG (or another picture without loss): label values, or 0 and 255 where there is one segment. NIfTI: label
        values, on the same grid and affine as the image. DICOM SEG: binary segments or a label map, which name the
        image's SOP instances.
    source
        The image as `compression.sources.read` gives it.
    segments
        Names of labels 1, 2... A DICOM SEG's segments are found by these names (Segment Label), in any order. Empty:
        any labels are taken, those of a DICOM SEG by Segment Number.

    Returns
    -------
    uint8 of the shape of ``source.pixels``; 0 is background. It may be empty, which the caller counts.

    Raises
    ------
    DataError
        It can't be read, has another size or lies elsewhere, or holds a label that is not declared.
    """
    if is_nifti(path):
        values = _nifti(path, source)
    elif path.suffix.lower() in PICTURES:
        values = _picture(path, segments)
    else:
        values = _segmentation(path, source, segments)
    if values.shape != source.pixels.shape:
        sizes = " and ".join(_size(shape) for shape in (values.shape, source.pixels.shape))
        raise MaskSizeError(f"{path}: mask and image are {sizes} (columns x rows{' x slices' * (values.ndim > 2)})")
    return _labels(values, path, len(segments))


class MaskSizeError(DataError):
    """A mask is not of its image's size, or lies elsewhere in space."""


class MaskLabelError(DataError):
    """A mask holds labels that are not declared."""


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(str(each) for each in (shape if len(shape) > 2 else shape[::-1]))


def _labels(values: np.ndarray, path: Path, count: int) -> np.ndarray:
    found = np.unique(values)
    if len(found) and (found != np.rint(found)).any():
        raise MaskLabelError(f"{path} holds values that are no whole numbers; a mask holds labels")
    most = count or _MOST_LABELS
    outside = [int(value) for value in found if not 0 <= value <= most]
    if outside:
        shown = ", ".join(str(value) for value in outside[:5])
        raise MaskLabelError(
            f"{path} holds {'labels' if len(outside) > 1 else 'the label'} {shown}; declared are 0 to {most}"
        )
    return values.astype(np.uint8)


def _picture(path: Path, segments: Sequence[str]) -> np.ndarray:
    try:
        with PillowImage.open(path) as picture:
            check_one_page(picture)
            if picture.mode not in ("1", "L", "P", "I", "I;16"):
                raise MaskLabelError(f"{path} is in color (mode {picture.mode}); a mask holds one label for each pixel")
            values = np.asarray(picture).astype(np.int32)  # of a palette, the indices
    except UNREADABLE as error:
        raise DataError(f"{path} can't be decoded: {error}") from error
    if len(segments) <= 1 and set(np.unique(values).tolist()) <= {0, _WHITE}:
        values = values // _WHITE  # black and white
    return values


def _nifti(path: Path, source: Source) -> np.ndarray:
    try:
        check_to_its_end(path)
        volume = nibabel.load(path)
        values = np.asarray(volume.dataobj)
    except UNREADABLE as error:
        raise DataError(f"{path} can't be decoded: {error}") from error
    if source.affine is None:
        raise MaskSizeError(f"{path} is a volume, its image is none")
    if values.shape == source.pixels.shape:
        corners = np.array([[x, y, z, 1] for x in (0, 1) for y in (0, 1) for z in (0, 1)], dtype=float)
        corners[:, :3] *= np.array(values.shape) - 1
        apart = np.abs(corners @ (volume.affine - source.affine).T).max()
        if apart > _SAME_MILLIMETERS:
            raise MaskSizeError(
                f"{path} lies up to {apart:.2f} mm away from its image though the sizes agree; resample the one to "
                "the other's grid"
            )
    return values


def _segmentation(path: Path, source: Source, segments: Sequence[str]) -> np.ndarray:
    """Frames are found by the SOP instances that they name, so that their order in the file does not matter."""
    if not source.sop_instance_uids:
        raise DataError(f"{path} is no mask for an image that is not DICOM: its frames name SOP instances")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is wrong beyond repair raises
            file = hd.seg.Segmentation.from_dataset(_complete(pydicom.dcmread(path)), copy=False)
            numbers = _segment_numbers(file, path, segments)
            _check_sources(file, path, source)
            stack = file.get_pixels_by_source_instance(
                list(source.sop_instance_uids),
                segment_numbers=sorted(numbers),
                combine_segments=True,
                ignore_spatial_locations=source.affine is None,
                assert_missing_frames_are_empty=True,
            )
    except (*UNREADABLE, InvalidDicomError, AttributeError, KeyError, RuntimeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} can't be read as a segmentation of its image: {error}") from error
    table = np.zeros(max([int(stack.max(initial=0)), *numbers]) + 1, dtype=np.int32)
    for number, label in numbers.items():
        table[number] = label
    labels = table[stack]
    return labels[0] if source.affine is None else labels.transpose(2, 1, 0)


def _complete(dataset: Dataset) -> Dataset:
    """Give Pixel Measures the slice thickness that highdicom 0.28 wants, and leaves out itself over radiographs."""
    for group in dataset.get("SharedFunctionalGroupsSequence", ()):
        for measures in group.get("PixelMeasuresSequence", ()):
            if "SliceThickness" not in measures:
                measures.SliceThickness = 1
    return dataset


def _segment_numbers(file: hd.seg.Segmentation, path: Path, segments: Sequence[str]) -> dict[int, int]:
    """The label of each Segment Number."""
    if file.segmentation_type == hd.seg.SegmentationTypeValues.FRACTIONAL:
        raise DataError(f"{path} is a fractional segmentation; write a binary one, with a threshold that you chose")
    if not segments:
        return {int(number): int(number) for number in file.segment_numbers}
    names = {int(number): str(file.get_segment_description(number).segment_label) for number in file.segment_numbers}
    unknown = sorted(set(names.values()) - set(segments))
    if unknown:
        raise MaskLabelError(f"{path} has the segments {', '.join(unknown)}; declared are {', '.join(segments)}")
    return {number: list(segments).index(name) + 1 for number, name in names.items()}


def _check_sources(file: hd.seg.Segmentation, path: Path, source: Source) -> None:
    """What marks other images than these would count as an empty mask, silently."""
    marked = {str(uids[2]) for uids in file.get_source_image_uids()}
    absent = marked - set(source.sop_instance_uids)
    if absent:
        raise MaskSizeError(
            f"{path} refers to {len(absent)} of {len(marked)} instances that its image or series lacks, such as "
            f"{min(absent)}"
        )
