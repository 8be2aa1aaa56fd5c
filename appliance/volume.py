"""From the slices of one series to a volume: in geometric order, in one orientation, with its spacing measured.

Nothing is believed that the positions don't say: a missing slice or Slice Thickness that differs from the distance of
the slices would make every volume in milliliters wrong. Coordinates are DICOM's (PS3.3 section C.7.6.2.1.1): x grows to
the patient's left, y to the back, z to the head.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.uid import UID

from appliance import decode, image
from appliance.errors import ImageError
from appliance.image import Image, Reader, numbers, text

FEWEST_SLICES = 3
MAX_VOXELS = 1 << 26  # 256 slices of 512 x 512: the probabilities of all segments must fit the memory, too
_MOST_DEGREES = 10.0  # off an axis of the patient, without a warning
_SAME_DIRECTION = 1e-3  # of a direction cosine
_SAME_MILLIMETERS = 0.01
_SAME_STEP = 0.02  # of the distance between slices; what readers of the Segmentation take for even
_SAME_TIME = 0.01  # of an echo or repetition time, which scanners round and adapt
_SEND_ALL = "send the whole series again"
_AXES = "left-right", "front-back", "foot-head"


@dataclass(frozen=True)
class Volume:
    """The slices of one series, stacked.

    Attributes
    ----------
    pixels
        ``(slices, rows, columns)`` in the canonical orientation, that of an axial series: slices ascend to the head,
        rows to the back, columns to the patient's left.
    spacing
        Millimeters along each of these axes; between slices from their positions, not from Slice Thickness.
    images
        The source images in geometric order, along the normal of their planes; their pixels lie in ``pixels``.
    warnings
        Sentences that the result must carry.
    order, flipped
        Which axis of the stacked images each axis of ``pixels`` is, and which of them run against it.
    directions
        Where each axis of ``pixels`` leads to, ``(3, 3)``: of length 1, in the patient's coordinates.
    """

    pixels: np.ndarray = field(repr=False)
    spacing: tuple[float, float, float]
    images: tuple[Image, ...] = field(repr=False)
    warnings: tuple[str, ...]
    order: tuple[int, int, int]
    flipped: tuple[int, ...]
    directions: np.ndarray = field(repr=False)

    def align(self, grid: np.ndarray) -> np.ndarray:
        """A view with the source's axes of an array that ends in those of ``pixels``.

        Its last axes are ``(len(images), rows, columns)``, in their order.
        """
        lead = grid.ndim - 3
        back = np.flip(grid, tuple(lead + axis for axis in self.flipped))
        return back.transpose(*range(lead), *(lead + np.argsort(self.order)))

    def straighten(self, mask: np.ndarray) -> np.ndarray:
        """The way back of `align`: from the source images to the shape of ``pixels``."""
        return np.flip(mask.transpose(self.order), self.flipped)


@dataclass(frozen=True)
class _Plane:
    """Where one slice lies: the ``position`` of its first pixel in mm, and directions of length 1."""

    uid: str
    position: np.ndarray
    along_row: np.ndarray
    along_column: np.ndarray
    spacing: tuple[float, float]


def load_volume(paths: Sequence[Path], headers: Sequence[Dataset], reader: Reader = image) -> Volume:
    """Decode the slices of one series, in whatever order, and stack them.

    Raises
    ------
    ImageError
        A slice can't be decoded, or as of `stack`.
    """
    _checked(headers)  # before anything is decoded for nothing
    voxels = len(headers) * decode.number(headers[0], "Rows", 0) * decode.number(headers[0], "Columns", 0)
    if voxels > MAX_VOXELS:
        raise ImageError(f"The series of {voxels:,} voxels is larger than any that is read here ({MAX_VOXELS:,}).")
    return stack([_decoded(path, header, reader) for path, header in zip(paths, headers, strict=True)])


def stack(images: Sequence[Image]) -> Volume:
    """Make a volume of the decoded slices of one series.

    Raises
    ------
    ImageError
        They are no volume: too few, of several series, of differing orientation, size, spacing or Frame of Reference,
        of differing contrast, with a gap or two at one position, or without geometry. The UIDs are named.
    """
    planes = _checked([image.header for image in images])
    normal = np.cross(planes[0].along_row, planes[0].along_column)
    places = np.argsort([plane.position @ normal for plane in planes], kind="stable")
    step = _step([planes[place] for place in places], normal)
    stacked = np.stack([images[place].pixels for place in places])
    directions = np.stack([normal, planes[0].along_column, planes[0].along_row])
    # Which of the patient's axes x, y, z each of the source's runs along.
    axes = max(itertools.permutations(range(3)), key=lambda axes: np.abs(directions[range(3), axes]).sum())
    order = axes.index(2), axes.index(1), axes.index(0)
    flipped = tuple(place for place, axis in enumerate(order) if directions[axis, axes[axis]] < 0)
    spacing = step, *planes[0].spacing
    return Volume(
        np.flip(stacked.transpose(order), flipped),
        (spacing[order[0]], spacing[order[1]], spacing[order[2]]),
        # Their pixels are the stack's, or the memory would hold them twice.
        tuple(replace(images[place], pixels=plane) for place, plane in zip(places, stacked, strict=True)),
        (*_oblique(directions, axes), *_acquisitions([image.header for image in images])),
        order,
        flipped,
        directions[list(order)] * np.where(np.isin(range(3), flipped), -1.0, 1.0)[:, None],
    )


def _decoded(path: Path, header: Dataset, reader: Reader) -> Image:
    try:
        return reader.load(path, header)
    except ImageError as error:
        raise type(error)(f"Slice {header.SOPInstanceUID}: {error.message}", hint=error.hint) from error


def _checked(headers: Sequence[Dataset]) -> list[_Plane]:
    """The planes of the slices; raises `ImageError` where they are not of one kind."""
    series = list(dict.fromkeys(text(header, "SeriesInstanceUID") for header in headers))
    if len(series) > 1:
        raise ImageError(f"The slices are of {len(series)} series: {' and '.join(series[:2])}.", hint="send each alone")
    if len(headers) < FEWEST_SLICES:
        raise ImageError(
            f"Series {series[0]} has {len(headers)} slice{'s' if len(headers) > 1 else ''} here; "
            f"a volume needs {FEWEST_SLICES}.",
            hint=_SEND_ALL,
        )
    planes = [_plane(header) for header in headers]
    for keyword, words in (("FrameOfReferenceUID", "Frame of Reference"), ("Rows", "Rows"), ("Columns", "Columns")):
        values = [text(header, keyword) for header in headers]
        _same(planes, values, [value == values[0] for value in values], words)
    spacings = np.array([plane.spacing for plane in planes])
    _same(planes, [f"{rows:g}/{columns:g}" for rows, columns in spacings],
          np.isclose(spacings, spacings[0], rtol=1e-3, atol=0.0).all(axis=1), "Pixel Spacing")  # fmt: skip
    cosines = np.array([np.concatenate([plane.along_row, plane.along_column]) for plane in planes])
    _same(planes, ["/".join(f"{value:g}" for value in each) for each in cosines],
          np.isclose(cosines, cosines[0], rtol=0.0, atol=_SAME_DIRECTION).all(axis=1), "orientation")  # fmt: skip
    _same_contrast(planes, headers)
    return planes


def _same_contrast(planes: Sequence[_Plane], headers: Sequence[Dataset]) -> None:
    """Slices of two echoes or contrast phases may fit together in space, and are no volume all the same."""
    types = [text(header, "ImageType").split("\\") for header in headers]
    compared = max(min(map(len, types)), 3)  # values 1 to 3, and those beyond that all have
    texts = {"Image Type": ["\\".join(each[:compared]) for each in types]}
    for keyword, words in (("PhotometricInterpretation", "Photometric Interpretation"),
                           ("ContrastBolusAgent", "Contrast/Bolus Agent")):  # fmt: skip
        texts[words] = [text(header, keyword) for header in headers]
    for words, values in texts.items():
        _same(planes, [value or "none" for value in values], [value == values[0] for value in values], words)
    for keyword, words in (("EchoTime", "Echo Time"), ("RepetitionTime", "Repetition Time")):
        values = [text(header, keyword) for header in headers]
        _same(planes, [value or "none" for value in values], [_same_time(value, values[0]) for value in values], words)


def _same_time(value: str, other: str) -> bool:
    """Of two values as they are written; where one is no number the words count."""
    try:
        return math.isclose(float(value), float(other), rel_tol=_SAME_TIME)
    except ValueError:
        return value == other


def _same(planes: Sequence[_Plane], said: Sequence[str], same: Iterable[bool], words: str) -> None:
    for plane, value, fits in zip(planes, said, same, strict=True):
        if not fits:
            raise ImageError(
                f"The slices of the series differ in {words}: {said[0]} in {planes[0].uid}, {value} in {plane.uid}.",
                hint="send slices of one acquisition only",
            )


def _plane(header: Dataset) -> _Plane:
    uid = text(header, "SOPInstanceUID")
    position = _numbers(header, uid, "ImagePositionPatient", "Image Position (Patient)", 3)
    orientation = _numbers(header, uid, "ImageOrientationPatient", "Image Orientation (Patient)", 6)
    spacing = _numbers(header, uid, "PixelSpacing", "Pixel Spacing", 2)
    if not UID(text(header, "FrameOfReferenceUID")).is_valid:
        raise _no_geometry(uid, "Frame of Reference UID (0020,0052)")
    along_row, along_column = orientation[:3], orientation[3:]
    gram = [along_row @ along_row, along_column @ along_column, along_row @ along_column]
    if not np.allclose(gram, [1.0, 1.0, 0.0], rtol=0.0, atol=0.01):  # written with few digits they are not quite
        raise ImageError(f"Image Orientation (Patient) of slice {uid} is not made of two orthogonal unit vectors.")
    if not (spacing > 0).all():
        raise ImageError(f"Pixel Spacing of slice {uid} is not above 0.")
    along_row, normal = (each / np.linalg.norm(each) for each in (along_row, np.cross(along_row, along_column)))
    return _Plane(uid, position, along_row, np.cross(normal, along_row), (float(spacing[0]), float(spacing[1])))


def _numbers(header: Dataset, uid: str, keyword: str, words: str, count: int) -> np.ndarray:
    values = numbers(header, keyword, count)
    if values is None:
        raise _no_geometry(uid, words)
    return np.array(values)


def _no_geometry(uid: str, words: str) -> ImageError:
    return ImageError(
        f"Slice {uid} does not say where it lies ({words} is missing or unreadable).",
        hint="export the series from the modality, not from a tool that drops geometry",
    )


def _step(planes: Sequence[_Plane], normal: np.ndarray) -> float:
    """The mean distance of slices that are in order; raises `ImageError` where it is not the same throughout."""
    positions = np.stack([plane.position for plane in planes])
    heights = positions @ normal
    steps = np.diff(heights)
    usual = float(np.median(steps))
    pairs = list(itertools.pairwise(planes))
    for (one, other), distance, height in zip(pairs, steps, heights, strict=False):
        between = f"between {one.uid} and {other.uid}"
        if distance < _SAME_MILLIMETERS:
            raise ImageError(
                f"Two slices lie at the same position, {height:.2f} mm along the normal: {one.uid} and {other.uid}.",
                hint="send one acquisition only",
            )
        if abs(distance - usual) > max(_SAME_STEP * usual, _SAME_MILLIMETERS):
            kind = "There is a gap" if distance > usual else "The slices are not evenly spaced"
            raise ImageError(
                f"{kind}: {distance:.2f} mm {between}, where slices lie {usual:.2f} mm apart.", hint=_SEND_ALL
            )
    aside = positions - positions[0] - np.outer(heights - heights[0], normal)
    drift = np.linalg.norm(aside, axis=1)
    if drift.max() > 0.5 * min(planes[0].spacing):
        raise ImageError(
            f"The slices are not above each other: {planes[int(drift.argmax())].uid} lies {drift.max():.2f} mm aside "
            f"of {planes[0].uid} (a tilted gantry?).",
            hint="send a series without tilt",
        )
    return float(steps.mean())


def _oblique(directions: np.ndarray, axes: Sequence[int]) -> list[str]:
    cosines = np.abs(directions[range(3), axes])
    worst = int(cosines.argmin())
    degrees = float(np.degrees(np.arccos(min(cosines[worst], 1.0))))
    if degrees <= _MOST_DEGREES:
        return []
    return [
        f"The slices lie oblique, {degrees:.0f} degrees off the patient's {_AXES[axes[worst]]} axis; "
        "the model is validated on slices along the axes only."
    ]


def _acquisitions(headers: Sequence[Dataset]) -> list[str]:
    numbers = {number for header in headers if (number := text(header, "AcquisitionNumber"))}
    if len(numbers) < 2:
        return []
    return [
        f"The slices state {len(numbers)} different Acquisition Numbers, and are measured as one volume; "
        "look whether they belong together."
    ]
