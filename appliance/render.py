"""Pictures for people: the image as a viewer shows it, and the heat map over it."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image as PillowImage
from pydicom.multival import MultiValue

from appliance.image import Image

# Evidence 0 to 1 -> color: dark red over orange to pale yellow, which stands out from gray at every brightness.
_ANCHORS = np.array([0.0, 0.35, 0.7, 1.0])
_COLORS = np.array([[120, 10, 60], [205, 50, 40], [250, 150, 30], [255, 245, 160]], dtype=np.float64)
_STRONGEST_ALPHA = 160.0


def display(image: Image, longest: int = 1024) -> np.ndarray:
    """The image for a person: uint8 ``(rows, columns)``, MONOCHROME2, square pixels, at most ``longest`` a side.

    The first window of the header is applied where there is one (PS3.3 C.11.2.1.2), else the 1st to 99th percentile.
    """
    rows, columns = image.pixels.shape
    tall = rows * (image.spacing[0] / image.spacing[1] if image.spacing else 1.0)
    scale = min(longest / max(tall, columns), 1.0)
    size = max(round(columns * scale), 1), max(round(tall * scale), 1)
    picture = PillowImage.fromarray(np.ascontiguousarray(image.pixels, dtype=np.float32))
    small = np.asarray(picture.resize(size, PillowImage.Resampling.BILINEAR, reducing_gap=2.0))
    bottom, top = _window(image) or np.percentile(small, [1.0, 99.0])
    if top <= bottom:
        return np.zeros(small.shape, dtype=np.uint8)
    return np.clip((small - bottom) / (top - bottom) * 255.0 + 0.5, 0, 255).astype(np.uint8)


def _window(image: Image) -> tuple[float, float] | None:
    """Lower and upper end of the header's first window, None where it has none that shows the image."""
    header = image.header
    if str(header.get("PhotometricInterpretation")) == "MONOCHROME1":
        return None  # its window counts from the other end than the inverted pixels
    try:
        center, width = (_first(header.get(keyword)) for keyword in ("WindowCenter", "WindowWidth"))
    except (TypeError, ValueError):
        return None
    low, high = center - width / 2, center + width / 2
    shown = float(image.pixels.max()) > low and float(image.pixels.min()) < high
    return (low, high) if width > 1 and shown else None


def _first(value: object) -> float:
    return float(value[0] if isinstance(value, MultiValue) else value)  # type: ignore[arg-type]


def heat(activation_map: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """An overlay, RGBA uint8 ``shape + (4,)``, of evidence in [0, 1] on a coarse grid; no evidence is transparent."""
    rows, columns = shape[:2]
    coarse = PillowImage.fromarray(np.ascontiguousarray(activation_map, dtype=np.float32))
    fine = np.clip(np.asarray(coarse.resize((columns, rows), PillowImage.Resampling.BICUBIC)), 0.0, 1.0)
    table = np.stack([np.interp(np.linspace(0, 1, 256), _ANCHORS, _COLORS[:, channel]) for channel in range(3)], axis=1)
    index = (fine * 255).astype(np.uint8)
    overlay = np.empty((rows, columns, 4), dtype=np.uint8)
    overlay[..., :3] = table.astype(np.uint8)[index]
    # What is below one tenth is not shown; at its strongest the anatomy stays visible.
    overlay[..., 3] = np.clip((fine - 0.1) / 0.9, 0.0, 1.0) * _STRONGEST_ALPHA
    return overlay


def blend(picture: np.ndarray, overlay: np.ndarray, opacity: float = 1.0) -> np.ndarray:
    """A gray picture ``(rows, columns)`` under an RGBA overlay of the same size: RGB uint8 ``(rows, columns, 3)``."""
    alpha = overlay[..., 3:].astype(np.float32) * (opacity / 255.0)
    mixed = picture[..., np.newaxis] * (1.0 - alpha) + overlay[..., :3] * alpha
    return (mixed + 0.5).astype(np.uint8)


def png(picture: np.ndarray) -> bytes:
    """A gray, RGB or RGBA picture as PNG, compressed for speed."""
    buffer = io.BytesIO()
    PillowImage.fromarray(picture).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()
