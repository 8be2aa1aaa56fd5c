"""Image files of any kind that a data set may be made of, decoded at their full depth.

DICOM goes through `appliance.image`, so that training sees what the device sees: after the modality LUT, with
MONOCHROME1 inverted and padding filled.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from PIL import Image as PillowImage
from pydicom import Dataset

from appliance import image
from appliance.errors import ImageError, SpoolError
from compression.problems import DataError

NIFTI = (".nii", ".nii.gz")
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
# What a broken file makes Pillow, nibabel and zlib raise.
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, TypeError, PillowImage.DecompressionBombError,
              ImageFileError, zlib.error)  # fmt: skip
_SAME_MILLIMETERS = 0.01
_SAME_DIRECTION = 1e-3
# Positions are rounded in many files: steps between slices that differ by less than this are one spacing.
_SPACING_TOLERANCE = 0.02


@dataclass(frozen=True)
class Source:
    """One decoded image or volume, in the order of its file.

    Attributes
    ----------
    pixels
        Image: ``(rows, columns)``. Volume: ``(columns, rows, slices)``, as NIfTI counts.
    affine
        Of a volume: float ``(4, 4)``, from voxel indices to millimeters, RAS; None of an image.
    spacing
        Of an image: millimeters between rows and between columns, None where that is not stated.
    bits
        Stored bits of a pixel.
    sop_instance_uids
        Of DICOM, in the order of the slices.
    """

    pixels: np.ndarray
    affine: np.ndarray | None = None
    spacing: tuple[float, float] | None = None
    bits: int = 8
    sop_instance_uids: tuple[str, ...] = ()


def is_nifti(path: Path) -> bool:
    return path.name.lower().endswith(NIFTI)


def read(paths: Sequence[Path]) -> Source:
    """Decode one case: a picture, a NIfTI volume, a DICOM image, or the slices of a DICOM series in any order.

    Raises
    ------
    DataError
        Naming the file that can't be decoded, or saying why slices are not one stack.
    """
    if len(paths) > 1:
        return _series(paths)
    (path,) = paths
    if is_nifti(path):
        return _nifti(path)
    return _picture(path) if path.suffix.lower() in PICTURES else _dicom(path)


def to_ras(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A volume with its axes turned to point right, anterior and superior as nearly as they can, and its affine."""
    turned = nibabel.as_closest_canonical(nibabel.Nifti1Image(array, affine, dtype=array.dtype))
    return np.asarray(turned.dataobj), turned.affine


def gray(picture: PillowImage.Image) -> np.ndarray:
    """Gray levels ``(rows, columns)`` at the picture's depth: uint8, or as stored where it has more than 8 bits.

    Pillow's own conversion to 8 bits cuts 16-bit levels off at 255. Raises `ValueError` for several pages, and for
    levels that are no numbers.
    """
    check_one_page(picture)
    if picture.mode.startswith(("I", "F")):
        deep = np.asarray(picture)
        if not np.isfinite(deep).all():
            raise ValueError("it holds values that are no numbers")
        return deep
    return np.asarray(picture.convert("L"))


def check_one_page(picture: PillowImage.Image) -> None:
    """Raise `ValueError` where a file holds several pictures, of which Pillow gives the first."""
    if (pages := getattr(picture, "n_frames", 1)) > 1:
        raise ValueError(f"it has {pages} pages; give each image a file of its own")


def _picture(path: Path) -> Source:
    try:
        with PillowImage.open(path) as picture:
            pixels = gray(picture)
    except UNREADABLE as error:
        raise DataError(f"{path} can't be decoded: {error}") from error
    return Source(pixels, bits=8 * pixels.dtype.itemsize)


def _nifti(path: Path) -> Source:
    try:
        check_to_its_end(path)
        volume = nibabel.load(path)
        if len(volume.shape) != 3:
            raise DataError(f"{path} has {len(volume.shape)} axes; a volume has 3")
        pixels = np.asarray(volume.dataobj)
    except UNREADABLE as error:
        raise DataError(f"{path} can't be decoded: {error}") from error
    if not np.isfinite(pixels).all():
        raise DataError(f"{path} holds values that are no numbers")
    if pixels.dtype == np.float64:  # made by the file's scale factors; no scanner measures so finely
        pixels = pixels.astype(np.float32)
    return Source(pixels, volume.affine, bits=8 * pixels.dtype.itemsize)


def check_to_its_end(path: Path) -> None:
    """Raise one of `UNREADABLE` where a ``.nii.gz`` is damaged.

    nibabel stops reading where the voxels end, before the checksum of what was compressed.
    """
    if not path.name.lower().endswith(".gz"):
        return
    with gzip.open(path) as file:
        while file.read(1 << 20):
            pass


def _load(path: Path) -> image.Image:
    try:
        return image.load(path)
    except (ImageError, SpoolError) as error:
        raise DataError(f"{path} can't be decoded: {error}") from error


def _dicom(path: Path) -> Source:
    loaded = _load(path)
    bits = int(loaded.header.BitsStored)
    return Source(loaded.pixels, None, loaded.spacing, bits, (loaded.sop_instance_uid,))


# --- a DICOM series -------------------------------------------------------------------------------------------------


def _series(paths: Sequence[Path]) -> Source:
    """Slices sorted by their position along the normal of the stack (PS3.3 section C.7.6.2.1.1)."""
    slices = [_load(path) for path in paths]
    first = paths[0].parent
    directions, origins = _geometry(slices, first)
    normal = np.cross(directions[:3], directions[3:])
    positions = origins @ normal
    order = np.argsort(positions, kind="stable")
    steps = np.diff(positions[order])
    if (steps < _SAME_MILLIMETERS).any():
        raise DataError(f"the series in {first} has two slices at one position; is it several acquisitions?")
    usual = float(np.median(steps))
    if (np.abs(steps - usual) > max(_SPACING_TOLERANCE * usual, _SAME_MILLIMETERS)).any():
        raise DataError(
            f"the series in {first} has slices {steps.min():.2f} to {steps.max():.2f} mm apart: one is missing, or it "
            "is no even stack; fetch the series again"
        )
    shapes = {each.pixels.shape for each in slices}
    spacings = {each.spacing for each in slices}
    if len(shapes) > 1 or len(spacings) > 1 or None in spacings:
        raise DataError(f"the slices of the series in {first} differ in size or pixel spacing, or state none")
    rows, columns = next(each for each in spacings if each)
    affine = np.eye(4)
    affine[:3, 0] = directions[:3] * columns
    affine[:3, 1] = directions[3:] * rows
    affine[:3, 2] = (origins[order[-1]] - origins[order[0]]) / (len(slices) - 1)
    affine[:3, 3] = origins[order[0]]
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # DICOM counts to the left and the back, NIfTI against both
    stack = np.stack([slices[index].pixels for index in order])
    return Source(
        np.ascontiguousarray(_narrow(stack).transpose(2, 1, 0)),
        affine,
        bits=max(int(each.header.BitsStored) for each in slices),
        sop_instance_uids=tuple(slices[index].sop_instance_uid for index in order),
    )


def _geometry(slices: Sequence[image.Image], folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The direction of rows and columns ``(6,)`` that all share, and each slice's origin ``(slices, 3)``."""
    directions = np.array([_numbers(each.header, "ImageOrientationPatient", 6, folder) for each in slices])
    origins = np.array([_numbers(each.header, "ImagePositionPatient", 3, folder) for each in slices])
    if (np.abs(directions - directions[0]) > _SAME_DIRECTION).any():
        raise DataError(f"the slices of the series in {folder} lie in several directions; is a localizer among them?")
    return directions[0], origins


def _numbers(header: Dataset, keyword: str, count: int, folder: Path) -> list[float]:
    try:
        values = [float(value) for value in image.text(header, keyword).split("\\")]
    except ValueError:
        values = []
    if len(values) != count or not np.isfinite(values).all():
        raise DataError(f"a slice of the series in {folder} states no {keyword}, so that its place is not known")
    return values


def _narrow(stack: np.ndarray) -> np.ndarray:
    """Whole numbers as int16 where they fit, anything else as float32."""
    if (stack == np.rint(stack)).all():
        limits = np.iinfo(np.int16)
        return stack.astype(np.int16 if limits.min <= stack.min() and stack.max() <= limits.max else np.int32)
    return stack.astype(np.float32)
