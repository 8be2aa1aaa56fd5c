"""The declared steps from stored pixels to a network's input. The only copy: training imports it.

A package's manifest lists steps by name with their parameters; nothing else may touch the pixels between
`appliance.image` and the network, so that training, calibration and the device see the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
from PIL import Image as PillowImage

from appliance.errors import PackageError


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


def normalize(pixels: np.ndarray, *, mean: float, std: float) -> np.ndarray:
    """Subtract the training set's mean and divide by its standard deviation."""
    return ((pixels - mean) / std).astype(np.float32)


STEPS: dict[str, Callable[..., np.ndarray]] = {
    "resize": resize,
    "percentile_stretch": percentile_stretch,
    "normalize": normalize,
}


def preprocess(pixels: np.ndarray, steps: Sequence[Step]) -> np.ndarray:
    """Run the steps over one image.

    Parameters
    ----------
    pixels
        ``(rows, columns)`` of any real type, brighter meaning more X-ray attenuation (MONOCHROME2).

    Returns
    -------
    float32 ``(1, 1, rows, columns)``: batch, channel, and the size that the steps give.
    """
    for step in steps:
        try:
            function = STEPS[step.name]
        except KeyError:
            raise PackageError(
                f"preprocessing step {step.name!r} is not known here (known: {', '.join(STEPS)})",
                hint="update the appliance: the package was made for a later version",
            ) from None
        try:
            pixels = function(pixels, **step.parameters)
        except TypeError as error:
            raise PackageError(f"preprocessing step {step.name!r}: {error}") from error
    return np.ascontiguousarray(pixels, dtype=np.float32)[np.newaxis, np.newaxis]
