"""The declared steps from stored pixels to a network's input. The only copy: training imports it.

A package's manifest lists steps by name with their parameters; nothing else may touch the pixels between
`appliance.image` and the network, so that training, calibration and the device see the same numbers. Steps that move
pixels can be undone: `restore` brings what a network says of each of them back to the grid of the source.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from PIL import Image as PillowImage

from appliance.errors import PackageError

Spacing = tuple[float, ...]  # millimeters between neighbors along each axis of an array


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A step's name, a key of `STEPS`, and its keyword parameters."""

    name: str
    parameters: dict[str, Any] = {}


def resize(pixels: np.ndarray, *, rows: int, columns: int) -> np.ndarray:
    """Resize to ``(rows, columns)`` with a bilinear filter widened by the scale (no aliasing).

    The aspect ratio is not kept: a model that was trained on squashed images gets squashed images, and the
    original size can't reach it.
    """
    if pixels.shape == (rows, columns):
        return pixels.astype(np.float32, copy=False)
    image = PillowImage.fromarray(np.ascontiguousarray(pixels, dtype=np.float32))
    return np.asarray(image.resize((columns, rows), PillowImage.Resampling.BILINEAR, reducing_gap=3.0))


def percentile_stretch(pixels: np.ndarray, *, low: float, high: float) -> np.ndarray:
    """Map the ``low`` and ``high`` percentiles of this image to 0 and 1, and clip there.

    A flat image becomes all 0.
    """
    bottom, top = np.percentile(pixels, [low, high])
    if top <= bottom:
        return np.zeros_like(pixels, dtype=np.float32)
    return np.clip((pixels - bottom) / (top - bottom), 0.0, 1.0).astype(np.float32)


def window(pixels: np.ndarray, *, center: float, width: float) -> np.ndarray:
    """Map a window of modality values, Hounsfield units for instance, to 0 to 1, and clip there (PS3.3 C.11.2.1.2)."""
    low = center - width / 2.0
    return np.clip((pixels - low) / width, 0.0, 1.0).astype(np.float32)


def resample(pixels: np.ndarray, *, millimeters: float, spacing: Spacing) -> np.ndarray:
    """Bring an image or a volume to the same spacing along each axis; linear, widened by the scale (no aliasing)."""
    for axis, size in enumerate(_resampled(pixels.shape, spacing, millimeters)):
        pixels = _stretch(pixels, axis, size)
    return pixels


def pad_or_crop(pixels: np.ndarray, *, size: Sequence[int]) -> np.ndarray:
    """Bring each axis to its size about the middle: 0 where there is nothing, cut where there is too much."""
    for axis, wanted in enumerate(size):
        pixels = _fit(pixels, axis, wanted)
    return pixels.astype(np.float32, copy=False)


def pad_to_aspect(pixels: np.ndarray, *, rows: int, columns: int) -> np.ndarray:
    """Pad an image about the middle, with its own darkest value, until its sides are as ``rows`` to ``columns``.

    Before `resize`, which squashes, it keeps the shapes as they are.
    """
    for axis, size in enumerate(_of_aspect(pixels.shape, rows, columns)):
        pixels = _fit(pixels, axis, size, fill=float(pixels.min()))
    return pixels


def normalize(pixels: np.ndarray, *, mean: float, std: float) -> np.ndarray:
    """Subtract the training set's mean and divide by its standard deviation."""
    return ((pixels - mean) / std).astype(np.float32)


STEPS: dict[str, Callable[..., np.ndarray]] = {
    "resize": resize,
    "resample": resample,
    "pad_or_crop": pad_or_crop,
    "pad_to_aspect": pad_to_aspect,
    "percentile_stretch": percentile_stretch,
    "window": window,
    "normalize": normalize,
}
MOVING = ("resize", "resample", "pad_or_crop", "pad_to_aspect")  # the others change values where they are


def preprocess(pixels: np.ndarray, steps: Sequence[Step], spacing: Spacing | None = None) -> np.ndarray:
    """Run the steps over one image or volume.

    Parameters
    ----------
    pixels
        ``(rows, columns)`` or ``(slices, rows, columns)`` of any real type, brighter meaning more X-ray attenuation
        (MONOCHROME2).
    spacing
        Millimeters along each axis; needed by `resample`.

    Returns
    -------
    float32 ``(1, 1, ...)``: batch, channel, and the size that the steps give.
    """
    for step in steps:
        try:
            function = STEPS[step.name]
        except KeyError:
            raise PackageError(
                f"preprocessing step {step.name!r} is not known here (known: {', '.join(STEPS)})",
                hint="update the appliance: the package was made for a later version",
            ) from None
        extra = {"spacing": spacing} if step.name == "resample" and spacing is not None else {}
        try:
            pixels = function(pixels, **step.parameters, **extra)
        except TypeError as error:
            raise PackageError(f"preprocessing step {step.name!r}: {error}") from error
    return np.ascontiguousarray(pixels, dtype=np.float32)[np.newaxis, np.newaxis]


def restore(
    values: np.ndarray, steps: Sequence[Step], shape: tuple[int, ...], spacing: Spacing | None = None
) -> np.ndarray:
    """Bring what a network gave for each of its pixels back to the grid of the source.

    Parameters
    ----------
    values
        ``(channels, ...)`` on the network's grid, what the steps made of the source.
    shape, spacing
        Of the source, as they went into `preprocess`.

    Returns
    -------
    float32 ``(channels, *shape)``; what a crop cut away is continued from the edge.
    """
    for move in reversed(moves(steps, shape, spacing)):
        for axis, size in enumerate(move.before, start=1):
            values = _stretch(values, axis, size) if move.stretches else _fit(values, axis, size, fill=None)
    return values.astype(np.float32, copy=False)


class Move(NamedTuple):
    """A step that moves pixels: the size of the grid before and after it.

    It either stretches each axis to its new size, or pads or cuts it about the middle.
    """

    stretches: bool
    before: tuple[int, ...]
    after: tuple[int, ...]


def moves(steps: Sequence[Step], shape: tuple[int, ...], spacing: Spacing | None = None) -> list[Move]:
    """What the steps do to the grid of a source of this shape and spacing."""
    found = []
    for step in steps:
        given, before = step.parameters, shape
        if step.name == "resize":
            shape = given["rows"], given["columns"]
        elif step.name == "resample":
            assert spacing is not None  # or `preprocess` would have refused it
            shape = _resampled(shape, spacing, given["millimeters"])
        elif step.name == "pad_or_crop":
            shape = tuple(given["size"])
        elif step.name == "pad_to_aspect":
            shape = _of_aspect(shape, given["rows"], given["columns"])
        else:
            continue
        found.append(Move(step.name in ("resize", "resample"), before, shape))
    return found


def _of_aspect(shape: tuple[int, ...], rows: int, columns: int) -> tuple[int, int]:
    """The smallest size that holds ``shape`` and has sides as ``rows`` to ``columns``, to the pixel."""
    height, width = shape
    return max(height, round(width * rows / columns)), max(width, round(height * columns / rows))


def _resampled(shape: tuple[int, ...], spacing: Spacing, millimeters: float) -> tuple[int, ...]:
    return tuple(max(round(size * each / millimeters), 1) for size, each in zip(shape, spacing, strict=True))


def _fit(values: np.ndarray, axis: int, size: int, fill: float | None = 0.0) -> np.ndarray:
    """Pad, with a value or (None) what lies at the edge, or crop one axis about its middle."""
    have = values.shape[axis]
    if have > size:
        start = (have - size) // 2
        return values.take(range(start, start + size), axis)
    before = (size - have) // 2
    pads = [(0, 0)] * values.ndim
    pads[axis] = before, size - have - before
    return np.pad(values, pads, mode="edge") if fill is None else np.pad(values, pads, constant_values=fill)


def _stretch(values: np.ndarray, axis: int, size: int) -> np.ndarray:
    """Resize one axis with a triangular filter, widened by the scale where it shrinks."""
    have = values.shape[axis]
    if have == size:
        return values
    scale = have / size
    centers = (np.arange(size) + 0.5) * scale - 0.5
    weights = np.maximum(0.0, 1.0 - np.abs(np.arange(have) - centers[:, np.newaxis]) / max(scale, 1.0))
    weights /= weights.sum(axis=1, keepdims=True)
    moved = np.tensordot(values.astype(np.float32, copy=False), weights.astype(np.float32), axes=(axis, 1))
    return np.moveaxis(moved, -1, axis)
