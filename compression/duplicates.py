"""Images that are the same, or nearly: equal pixels, and copies that were resized, compressed or brightened.

Radiographs of different people look alike, so the usual 64-bit perceptual hashes call many of them copies. What tells
them apart is fine structure. The descriptor is therefore the discrete cosine transform of a small copy, its gray
levels replaced by their ranks (any rising gray curve gives the same), with each coefficient weighted by its frequency,
which flattens the spectrum that all radiographs share. The distance is 1 - the cosine of two descriptors.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image as PillowImage
from scipy import fft
from tqdm import tqdm

# Between what was measured on chest-kermany and chest-nih, 6,012 radiographs of 3,408 patients: 95 % of the copies
# through JPEG 30, half the resolution, gamma 0.7 or 1.5, a crop of 2 %, a turn by 1 degree, or several of these lie
# within 0.10, and all 1,103 images of lungs-kermany, which chest-kermany has at another size and aspect, within 0.07;
# the closest two of different patients lie at 0.17. Crops of 4 % (0.21) can't be told from them.
# `margins` and `nearest_other_patient` measure both on the data set at hand.
LIMIT = 0.12
_SIDE, _COEFFICIENTS, _LOWEST = 64, 24, 3
_BLOCK = 1024  # images compared at once with all others


@dataclass(frozen=True)
class Pair:
    """Two images, by index, and their distance: 0 for copies, about 1 for images that share nothing."""

    one: int
    other: int
    distance: float


def digest(pixels: np.ndarray) -> str:
    """SHA-256 of decoded pixels with their shape and type, so that file format and metadata don't matter."""
    hashed = hashlib.sha256(f"{pixels.shape} {pixels.dtype.str}".encode())
    hashed.update(np.ascontiguousarray(pixels).tobytes())
    return hashed.hexdigest()


def exact(digests: Sequence[str]) -> list[list[int]]:
    """Groups of two or more images with equal digests, as indices."""
    groups: dict[str, list[int]] = {}
    for index, value in enumerate(digests):
        groups.setdefault(value, []).append(index)
    return [group for group in groups.values() if len(group) > 1]


@dataclass(frozen=True)
class Contradiction:
    """Equal pictures that can't all be right, as groups of indices: what is wrong with them, and what to do."""

    what: str
    hint: str
    groups: list[list[int]]


def contradictions(digests: Sequence[str], splits: Sequence[str], labels: Sequence[str]) -> list[Contradiction]:
    """What must stop a training: the same picture in two splits, or with two labels. Those that are, if any."""
    found = []
    for what, hint, differ in (
        ("the same picture in two splits", "keep one of them", splits),
        ("the same picture with two labels", "settle the label", labels),
    ):
        groups = [group for group in exact(digests) if len({differ[index] for index in group}) > 1]
        if groups:
            found.append(Contradiction(what, hint, groups))
    return found


def descriptor(image: np.ndarray) -> np.ndarray:
    """What near copies share, of one uint8 image: float32 ``(576,)`` of length 1, or zeros of a constant image."""
    small = np.asarray(PillowImage.fromarray(image).resize((_SIDE, _SIDE), PillowImage.Resampling.BOX))
    histogram = np.bincount(small.ravel(), minlength=256)
    ranks = (np.cumsum(histogram) - histogram / 2).astype(np.float32)[small]
    down, across = np.mgrid[:_COEFFICIENTS, :_COEFFICIENTS]
    frequency = np.hypot(down, across)
    wave = fft.dctn(ranks, norm="ortho")[:_COEFFICIENTS, :_COEFFICIENTS] * frequency
    wave[frequency < _LOWEST] = 0
    length = np.linalg.norm(wave)
    flat: np.ndarray = (wave / length if small.min() < small.max() else np.zeros_like(wave)).ravel().astype(np.float32)
    return flat


def descriptors(small: np.ndarray) -> np.ndarray:
    """Descriptors of images ``(count, rows, columns)``: float32 ``(count, 576)``."""
    return np.stack([descriptor(image) for image in tqdm(small, desc="describing", unit="image")])


def near(described: np.ndarray, limit: float = LIMIT) -> list[Pair]:
    """All pairs closer than ``limit``, closest first; those with equal pixels are among them.

    Compares each with each, in blocks: ``count**2 * 576`` multiplications, seconds for 10,000 images.
    """
    pairs = []
    for start in tqdm(range(0, len(described), _BLOCK), desc="comparing", unit="block"):
        distance = 1 - described[start : start + _BLOCK] @ described.T
        for one, other in np.argwhere(distance < limit):
            if start + one < other:
                pairs.append(Pair(int(start + one), int(other), round(max(float(distance[one, other]), 0.0), 4)))
    return sorted(pairs, key=lambda pair: pair.distance)


def nearest_other_patient(described: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """Distance from each image to the closest one of another patient, float ``(count,)``; 1 where there is none."""
    _, number = np.unique(patients, return_inverse=True)
    found = np.ones(len(described))
    for start in range(0, len(described), _BLOCK):
        likeness = described[start : start + _BLOCK] @ described.T
        likeness[number[start : start + _BLOCK, None] == number[None]] = 0.0
        found[start : start + _BLOCK] = np.clip(1 - likeness.max(axis=1), 0, None)
    return found


def margins(small: np.ndarray, described: np.ndarray, count: int = 100) -> dict[str, list[float]]:
    """How far copies made on purpose lie from their originals here: name -> 50th, 95th, 100th percentile.

    ``count`` images, evenly spread over the data set, are taken.
    """
    chosen = np.unique(np.linspace(0, len(small) - 1, min(count, len(small))).astype(int))
    found = {}
    for name, copy in _COPIES.items():
        distances = [1 - float(described[index] @ descriptor(copy(small[index]))) for index in chosen]
        found[name] = [round(max(float(value), 0.0), 4) for value in np.percentile(distances, [50, 95, 100])]
    return found


def _jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    PillowImage.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(PillowImage.open(buffer))


def _scaled(image: np.ndarray, share: float) -> np.ndarray:
    side = image.shape[0]
    small = PillowImage.fromarray(image).resize((int(side * share),) * 2, PillowImage.Resampling.BILINEAR)
    return np.asarray(small.resize((side, side), PillowImage.Resampling.BILINEAR))


def _gamma(image: np.ndarray, exponent: float) -> np.ndarray:
    return (255 * (image / 255.0) ** exponent).astype(np.uint8)


def _cropped(image: np.ndarray, share: float) -> np.ndarray:
    side = image.shape[0]
    edge = side * share / 2
    picture = PillowImage.fromarray(image)
    return np.asarray(
        picture.resize((side, side), PillowImage.Resampling.BILINEAR, box=(edge, edge, side - edge, side - edge))
    )


def _turned(image: np.ndarray, degrees: float) -> np.ndarray:
    return np.asarray(PillowImage.fromarray(image).rotate(degrees, PillowImage.Resampling.BILINEAR))


_COPIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "JPEG, quality 30": lambda image: _jpeg(image, 30),
    "half the resolution": lambda image: _scaled(image, 0.5),
    "gamma 0.7": lambda image: _gamma(image, 0.7),
    "gamma 1.5": lambda image: _gamma(image, 1.5),
    "2 % cropped": lambda image: _cropped(image, 0.02),
    "4 % cropped": lambda image: _cropped(image, 0.04),
    "turned by 1 degree": lambda image: _turned(image, 1.0),
    "resolution, crop, gamma, JPEG": lambda image: _jpeg(_gamma(_scaled(_cropped(image, 0.02), 0.5), 0.8), 50),
}
