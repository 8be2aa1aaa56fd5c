"""Random changes that albumentations does not have: what another scanner, or another patient, would show."""

from __future__ import annotations

from typing import Any

import albumentations
import cv2
import numpy as np
from albumentations.core.type_definitions import Targets


class BlackLevel(albumentations.ImageOnlyTransform):
    """Subtract a random level up to ``limit`` (of 255) and stretch the rest: a scanner's cut-off at the dark end."""

    def __init__(self, limit: float = 50, p: float = 0.5) -> None:
        super().__init__(p=p)
        self.limit = limit

    def apply(self, img: np.ndarray, level: float = 0.0, **_: Any) -> np.ndarray:
        return np.clip((img.astype(np.float32) - level) * (255.0 / (255.0 - level)), 0, 255).astype(np.uint8)

    def get_params(self) -> dict[str, Any]:
        return {"level": self.py_random.uniform(0, self.limit)}


class AbdomenBelow(albumentations.DualTransform):
    """Squeeze a chest into the upper part of the image, and let something like an abdomen follow below it.

    Images of adults often go on far below the diaphragm, where those of some sets of children end, and bowel gas looks
    like lung. What follows goes on from the lowest rows, with noise of many sizes and with dark bubbles; a mask is
    empty there. ``share``: how much of the rows it takes, from and to.
    """

    _targets = (Targets.IMAGE, Targets.MASK)
    _SIZES = (1.5, 5.0, 14.0, 40.0)  # of the noise, in 256ths of the columns
    _MOST_BUBBLES, _SEAM = 9, 0.04

    def __init__(self, share: tuple[float, float] = (0.1, 0.45), p: float = 0.5) -> None:
        super().__init__(p=p)
        self.share = share

    def get_params(self) -> dict[str, Any]:
        return {"share": self.py_random.uniform(*self.share), "seed": self.py_random.getrandbits(32)}

    def apply(self, img: np.ndarray, share: float = 0.0, seed: int = 0, **_: Any) -> np.ndarray:
        rows, columns = img.shape[:2]
        kept = rows - round(rows * share)
        chest = cv2.resize(img, (columns, kept), interpolation=cv2.INTER_AREA).astype(np.float32)
        seam = max(round(rows * self._SEAM), 1)
        below = self._abdomen(chest[-seam:], (rows - kept + seam, columns), np.random.default_rng(seed))
        fade = np.linspace(0.0, 1.0, seam, dtype=np.float32)[:, None]
        joint = (1.0 - fade) * chest[-seam:] + fade * below[:seam]
        return np.clip(np.concatenate([chest[:-seam], joint, below[seam:]]) + 0.5, 0, 255).astype(np.uint8)

    def apply_to_mask(self, mask: np.ndarray, share: float = 0.0, **_: Any) -> np.ndarray:
        rows, columns = mask.shape[:2]
        kept = rows - round(rows * share)
        chest = cv2.resize(mask, (columns, kept), interpolation=cv2.INTER_NEAREST)
        return np.concatenate([chest, np.zeros((rows - kept, columns), mask.dtype)])

    def _abdomen(self, edge: np.ndarray, shape: tuple[int, int], chance: np.random.Generator) -> np.ndarray:
        rows, columns = shape
        unit = columns / 256.0
        along = cv2.GaussianBlur(edge.mean(axis=0, keepdims=True), (0, 0), 8.0 * unit)
        # Toward one brightness of soft tissue, but dark beside the body, as it is above.
        depth = np.linspace(0.0, chance.uniform(0.2, 1.0), rows, dtype=np.float32)[:, None]
        made = (1.0 - depth) * along + depth * np.minimum(along + 40.0, chance.uniform(90.0, 240.0))
        for size in self._SIZES:
            noise = chance.standard_normal(shape, dtype=np.float32)
            smooth = cv2.GaussianBlur(noise, (0, 0), size * unit)
            made += chance.uniform(0.0, 18.0) * smooth / max(float(smooth.std()), 1e-6)
        bubbles = np.zeros(shape, np.float32)
        for _ in range(chance.integers(0, self._MOST_BUBBLES)):
            center = (int(chance.integers(columns)), int(chance.integers(rows // 6, rows)))
            axes = (int(chance.uniform(3, 26) * unit) + 1, int(chance.uniform(3, 16) * unit) + 1)
            cv2.ellipse(bubbles, center, axes, chance.uniform(0, 180), 0, 360, chance.uniform(15.0, 80.0), -1)
        return np.asarray(made - cv2.GaussianBlur(bubbles, (0, 0), chance.uniform(1.0, 3.0) * unit))
