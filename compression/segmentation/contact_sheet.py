"""The contact sheet of a segmentation: training cases beside augmented copies, outlined as their masks say.

What to look for: does the outline still follow the anatomy, is it still there, and could a scanner have made the copy?
"""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import binary_erosion
from tqdm import tqdm

from compression import augment_policy, levels
from compression.contact_sheet import STYLE, figure
from compression.page import document, table
from compression.recipe import RecipeError
from compression.segmentation import augment, cases
from compression.segmentation.recipe import SegmentationRecipe

_SEED = 5
_SHOWN, _COPIES, _MEASURED = 6, 4, 12
_LOST = 0.05  # of a segment's pixels: a copy that has no more of it shows it no longer
_OFTEN = 0.05


@dataclass(frozen=True)
class Row:
    """A case and its copies, each with the outlines of its mask, uint8 ``(rows, columns, 3)``, and a caption."""

    pictures: list[np.ndarray]
    captions: list[str]


@dataclass(frozen=True)
class Sheet:
    """What is shown, and for each segment how much of it copies show, as plain values."""

    title: str
    rows: list[Row]
    report: dict[str, Any]


def of_recipe(recipe: SegmentationRecipe, data_root: Path, shown: int = _SHOWN, copies: int = _COPIES) -> Sheet:
    """Augment some training cases as training does; raises `RecipeError` where they can't be read."""
    folder, names = data_root / recipe.data.train, [each.label for each in recipe.package.segments]
    listed = cases.of_training(recipe.data, data_root)
    order = np.random.default_rng(recipe.data.seed).permutation(len(listed))[: max(shown, _MEASURED)]
    together = augment.compose(recipe.augment, recipe.augment_policy, len(recipe.input.shape), _SEED)
    colors = [each.color for each in recipe.package.segments]
    rows: list[Row] = []
    kept = []
    for number in tqdm(order, desc="augmenting", unit="case"):
        pixels, labels = cases.prepare(cases.read(folder, listed[number], names), recipe.input)
        made = [together(pixels, labels) for _ in range(copies)]
        shares = np.array([[_share(after, labels, each + 1) for each in range(len(names))] for _, after in made])
        kept.append(shares)
        if len(rows) < shown:
            captions = [", ".join(f"{name} {share:.0%}" for name, share in zip(names, one, strict=True))
                        for one in shares]  # fmt: skip
            pictures = [_outlined(*one, colors) for one in ((pixels, labels), *made)]
            rows.append(Row(pictures, [listed[number].file, *captions]))
    stacked = np.concatenate(kept)
    report = {
        "copies": len(stacked),
        "kept": {
            name: {
                "percentiles": [round(float(each), 3) for each in np.nanpercentile(stacked[:, place], (5, 50, 95))],
                "lost": round(float((stacked[:, place] < _LOST).mean()), 3),
            }
            for place, name in enumerate(names)
        },
        "exceptions": augment_policy.exceptions(recipe.augment_policy),
    }
    return Sheet(f"{recipe.package.id}: training cases and their augmented copies", rows, report)


def warnings(sheet: Sheet) -> list[str]:
    """Segments that copies often show no longer."""
    return [
        f"{name}: {found['lost']:.0%} of the copies show (almost) nothing of it; move, crop or cover less"
        for name, found in sheet.report["kept"].items()
        if found["lost"] > _OFTEN
    ]


def write(sheet: Sheet, path: Path) -> Path:
    """Write the page."""
    if path.suffix != ".html":
        raise RecipeError(f"{path}: the contact sheet of a segmentation is a page (.html)")
    parts = [f"<h1>{html.escape(sheet.title)}</h1>"]
    parts += [f"<p class='bad'>{html.escape(each)}</p>" for each in sheet.report["exceptions"] + warnings(sheet)]
    for row in sheet.rows:
        pairs = zip(row.pictures, row.captions, strict=True)
        parts.append(f"<div class='row'>{''.join(figure(picture, caption) for picture, caption in pairs)}</div>")
    parts += [
        "<h2>How much of a segment copies show</h2>",
        f"<p>Pixels or voxels, the copy's over the original's: of {sheet.report['copies']} copies. Of a volume, the "
        "slice is shown that has most of the mask.</p>",
        table(
            ("segment", "5 %", "median", "95 %", "lost"),
            [
                (name, *(f"{each:.2f}" for each in found["percentiles"]), f"{found['lost']:.1%}")
                for name, found in sheet.report["kept"].items()
            ],
        ),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document(sheet.title, STYLE, parts))
    return path


def _share(after: np.ndarray, before: np.ndarray, number: int) -> float:
    """A segment's pixels in the copy over those in the original; NaN where the original has none."""
    count = int((before == number).sum())
    return float((after == number).sum()) / count if count else float("nan")


def _outlined(pixels: np.ndarray, labels: np.ndarray, colors: list[tuple[int, int, int]]) -> np.ndarray:
    """One slice in gray with the inner edge of each segment in its color."""
    if pixels.ndim == 3:
        most = int((labels > 0).sum(axis=(1, 2)).argmax())
        pixels, labels = pixels[most] * 255.0, labels[most]
    picture = np.stack([levels.rounded(pixels)] * 3, axis=-1)
    for number, color in enumerate(colors, start=1):
        inside = labels == number
        picture[inside & ~binary_erosion(inside)] = color
    return picture
