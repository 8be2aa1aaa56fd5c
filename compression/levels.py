"""Gray levels of an image as the stages keep them, on the scale that augmentation and pages have: from 0 to 255.

They are kept as the device has them at that place, in float32, so that what is not augmented gives the network the
device's very input. Only what needs 8 bits rounds them: albumentations, and a page that shows a picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from appliance.preprocess import Step, preprocess


def spread(pixels: np.ndarray, geometry: Sequence[Step], stretched: tuple[float, float] = (0.0, 100.0)) -> np.ndarray:
    """An image after steps that bring it to a size: float32 ``(rows, columns)``.

    Levels of 8 bits stay as they are. Those of more are spread such that 0 to 255 holds what lies between two
    percentiles and an eighth of their range beyond, as far as the image has it; percentile stretching, which is what
    the network's steps begin with, undoes any such scale. What lies further out, such as a marker or a hot pixel, is
    below 0 or above 255: spread with the rest, it would leave that but a few of the levels that `rounded` has.

    Parameters
    ----------
    stretched
        The percentiles that the network's steps stretch between.
    """
    resized = preprocess(pixels, geometry)[0, 0]
    if pixels.dtype == np.uint8:
        return resized
    low, high = _ends(resized, stretched)
    return (resized - low) * (255 / (high - low) if high > low else 0.0)


def rounded(levels: np.ndarray) -> np.ndarray:
    """Levels as uint8, of any shape; those beyond 0 and 255 are black and white."""
    return np.clip(levels + 0.5, 0, 255).astype(np.uint8)


def _ends(image: np.ndarray, stretched: tuple[float, float]) -> tuple[float, float]:
    least, greatest = float(image.min()), float(image.max())
    low, high = (float(each) for each in np.percentile(image, stretched))
    beyond = (high - low) / 8
    return (max(least, low - beyond), min(greatest, high + beyond)) if beyond else (least, greatest)
