"""Pictures for people: the image or a plane of a volume as a viewer shows it, heat maps and outlines over it."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image as PillowImage
from pydicom import Dataset
from pydicom.multival import MultiValue

from appliance.image import Image
from appliance.result import Segment
from appliance.volume import Volume

# Evidence 0 to 1 -> color: dark red over orange to pale yellow, which stands out from gray at every brightness.
_ANCHORS = np.array([0.0, 0.35, 0.7, 1.0])
_COLORS = np.array([[120, 10, 60], [205, 50, 40], [250, 150, 30], [255, 245, 160]], dtype=np.float64)
_STRONGEST_ALPHA = 160.0
_LEAST_CONTRAST = 0.25  # of a window, that the pixels of a volume must span
_LINES_PER_SIDE = 320  # thickness of an outline, as a share of the longer side


def display(image: Image, longest: int = 1024, shortest: int = 1) -> np.ndarray:
    """The image for a person: uint8 ``(rows, columns)``, MONOCHROME2, square pixels.

    Its longer side has ``longest`` pixels at most; a smaller image is enlarged to ``shortest``. The first window of the
    header is applied where there is one (PS3.3 C.11.2.1.2), else the 1st to 99th percentile.
    """
    enlarge = max(squared(image.pixels.shape, image.pixel_shape, longest)) < shortest
    small = square(image.pixels, image.pixel_shape, shortest if enlarge else longest, enlarge)
    return gray(small, window(image.header, image.pixels) or percentiles(small))


def square(pixels: np.ndarray, pixel_shape: tuple[float, float], longest: int, enlarge: bool = False) -> np.ndarray:
    """Pixels made square: float32 ``(rows, columns)``, at most ``longest`` a side, or with ``enlarge`` just that."""
    rows, columns = squared(pixels.shape, pixel_shape, longest, enlarge)
    picture = PillowImage.fromarray(np.ascontiguousarray(pixels, dtype=np.float32))
    return np.asarray(picture.resize((columns, rows), PillowImage.Resampling.BILINEAR, reducing_gap=2.0))


def squared(
    shape: tuple[int, ...], pixel_shape: tuple[float, float], longest: int, enlarge: bool = False
) -> tuple[int, int]:
    """The rows and columns that `square` makes of an image's."""
    rows, columns = shape
    tall = rows * pixel_shape[0] / pixel_shape[1]
    scale = longest / max(tall, columns)
    scale = scale if enlarge else min(scale, 1.0)
    return max(round(tall * scale), 1), max(round(columns * scale), 1)


def gray(pixels: np.ndarray, levels: tuple[float, float]) -> np.ndarray:
    """uint8 of any shape: the lower level is black, the upper one white."""
    bottom, top = levels
    if top <= bottom:
        return np.zeros(pixels.shape, dtype=np.uint8)
    return np.clip((pixels - bottom) / (top - bottom) * 255.0 + 0.5, 0, 255).astype(np.uint8)


def percentiles(pixels: np.ndarray) -> tuple[float, float]:
    """Black and white where nothing states them: the 1st and the 99th percentile."""
    bottom, top = np.percentile(pixels, [1.0, 99.0])
    return float(bottom), float(top)


def window(header: Dataset, pixels: np.ndarray) -> tuple[float, float] | None:
    """Lower and upper end of the header's first window, None where it has none that shows the pixels."""
    if str(header.get("PhotometricInterpretation")) == "MONOCHROME1":
        return None  # its window counts from the other end than the inverted pixels
    try:
        center, width = (_first(header.get(keyword)) for keyword in ("WindowCenter", "WindowWidth"))
    except (TypeError, ValueError):
        return None
    low, high = center - width / 2, center + width / 2
    shown = float(pixels.max()) > low and float(pixels.min()) < high
    return (low, high) if width > 1 and shown else None


def _first(value: object) -> float:
    return float(value[0] if isinstance(value, MultiValue) else value)  # type: ignore[arg-type]


PLANES = "Axial", "Coronal", "Sagittal"


def plane(stack: np.ndarray, axis: int, place: int) -> np.ndarray:
    """One plane of a volume in the canonical orientation as a person expects it: front or head up.

    ``axis``: 0 axial, 1 coronal, 2 sagittal, as in `PLANES`.
    """
    cut = stack.take(place, axis)
    return cut if axis == 0 else cut[::-1]


def plane_spacing(volume: Volume, axis: int) -> tuple[float, float]:
    """Millimeters between the rows and between the columns of `plane`."""
    first, second = (spacing for place, spacing in enumerate(volume.spacing) if place != axis)
    return first, second


def levels(volume: Volume) -> tuple[float, float]:
    """Black and white of a whole volume: the header's window, unless all of it would be one shade there."""
    measured = percentiles(volume.pixels)
    stated = window(volume.images[len(volume.images) // 2].header, volume.pixels)
    if stated is None or measured[1] - measured[0] < _LEAST_CONTRAST * (stated[1] - stated[0]):
        return measured
    return stated


def outline(mask: np.ndarray, segments: Sequence[Segment], shape: tuple[int, int]) -> np.ndarray:
    """An overlay, RGBA uint8 ``shape + (4,)``: a line along the inner edge of each segment, in its color.

    Parameters
    ----------
    mask
        ``(rows, columns)``: the numbers of the segments, from 1 on.
    """
    overlay = np.zeros((*shape, 4), dtype=np.uint8)
    thickness = max(round(max(shape) / _LINES_PER_SIDE), 1)
    for number, segment in enumerate(segments, start=1):
        if not (mask == number).any():
            continue
        part = PillowImage.fromarray((mask == number).view(np.uint8) * np.uint8(255))
        fine = part.resize(shape[::-1], PillowImage.Resampling.BILINEAR, reducing_gap=2.0)
        inside = np.asarray(fine) >= 128
        core = inside
        for _ in range(thickness):
            core = _eroded(core)
        overlay[inside & ~core] = *segment.color, 255
    return overlay


def _eroded(inside: np.ndarray) -> np.ndarray:
    """Without the pixels that have a neighbor outside, or the end of the picture, on one of four sides."""
    padded = np.pad(inside, 1)
    neighbors = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.asarray(inside & neighbors)


def heat(activation_map: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """An overlay, RGBA uint8 ``shape + (4,)``, of evidence in [0, 1] on a coarse grid; no evidence is transparent."""
    index = (finer(activation_map, shape) * 255).astype(np.uint8)
    steps = np.linspace(0, 1, 256)
    table = np.empty((256, 4), dtype=np.uint8)
    for channel in range(3):
        table[:, channel] = np.interp(steps, _ANCHORS, _COLORS[:, channel])
    table[:, 3] = visible(steps) * _STRONGEST_ALPHA  # at its strongest the anatomy stays visible
    return table.view(np.uint32)[index].view(np.uint8)  # four bytes at once, which is much faster


def finer(activation_map: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Evidence in [0, 1] on a coarse grid, float32 ``shape``."""
    rows, columns = shape[:2]
    coarse = PillowImage.fromarray(np.ascontiguousarray(activation_map, dtype=np.float32))
    return np.clip(np.asarray(coarse.resize((columns, rows), PillowImage.Resampling.BICUBIC)), 0.0, 1.0)


def visible(evidence: np.ndarray) -> np.ndarray:
    """How strongly evidence in [0, 1] is drawn, in [0, 1]: what is below one tenth is not shown."""
    return np.clip((evidence - 0.1) / 0.9, 0.0, 1.0)


def blend(picture: np.ndarray, overlay: np.ndarray, opacity: float = 1.0) -> np.ndarray:
    """A gray or RGB picture under an RGBA overlay of the same size: RGB uint8 ``(rows, columns, 3)``."""
    over = PillowImage.fromarray(overlay)
    mixed = PillowImage.fromarray(picture).convert("RGB")
    mixed.paste(over.convert("RGB"), mask=over.getchannel("A").point(lambda alpha: round(alpha * opacity)))
    return np.asarray(mixed)


def png(picture: np.ndarray) -> bytes:
    """A gray, RGB or RGBA picture as PNG, compressed for speed."""
    buffer = io.BytesIO()
    PillowImage.fromarray(picture).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()
