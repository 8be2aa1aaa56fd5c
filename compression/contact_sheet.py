"""The contact sheet: training images beside augmented copies of them, and how far each copy is from its original.

It shows patients' images: it stays in the work folder, for those who may see them.
"""

from __future__ import annotations

import base64
import html
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw
from tqdm import tqdm

from appliance.preprocess import preprocess
from compression import augment, augment_policy, clipping, data, distortion, levels
from compression.distortion import Distortion
from compression.page import document, table
from compression.recipe import Recipe, RecipeError

if TYPE_CHECKING:
    from compression.build import Build

NAME = "contact-sheet.html"
_SEED = 5
_SHOWN, _COPIES = 8, 4
_MEASURED = 24  # images that each transform is measured on, alone
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #16212a; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; } th, td { text-align: left; padding: .25rem .8rem;
border-bottom: 1px solid #d5dde1; font-variant-numeric: tabular-nums; } th { color: #50606a; font-size: .9em; }
.row { display: grid; grid-template-columns: repeat(5, 1fr); gap: .6rem; margin-bottom: 1rem; }
figure { margin: 0; } img { width: 100%; } figcaption { color: #50606a; font-size: .75em; overflow-wrap: anywhere; }
.bad { color: #b3361b; font-weight: 600; }
"""


@dataclass(frozen=True)
class Row:
    """An image and its copies, uint8 ``(rows, columns)`` each, with what each copy is against it."""

    file: str
    original: np.ndarray
    clipped: tuple[float, float]
    copies: list[np.ndarray]
    measured: list[Distortion]


@dataclass(frozen=True)
class Sheet:
    """What is shown, and the figures as plain values: of all transforms together, and of each alone."""

    title: str
    rows: list[Row]
    report: dict[str, Any]


def make(recipe: Recipe, files: list[str], pixels: np.ndarray, shown: int = _SHOWN, copies: int = _COPIES) -> Sheet:
    """Augment some training images as training does, and measure the copies.

    Parameters
    ----------
    files, pixels
        Names, and ``(images, rows, columns)`` in the network's size, as `compression.levels` has them.
    shown, copies
        How many images are shown, and how many copies of each.

    Raises
    ------
    RecipeError
        For what the policy refuses.
    """
    steps = recipe.input.steps()[:-1]
    together = augment.compose(recipe.augment, recipe.augment_policy, _SEED)
    rows, eight_bits = [], levels.rounded(pixels)
    for number, image in enumerate(tqdm(eight_bits, desc="augmenting", unit="image")):
        made = [distortion.copy(together, image) for _ in range(copies)]
        clipped = clipping.ends(preprocess(pixels[number], steps))
        rows.append(Row(files[number], image, clipped, [one for one, _ in made], [each for _, each in made]))
    alone = {}
    for place, step in enumerate(recipe.augment, start=1):
        transform = augment.make(step)
        transform.p = 1.0
        single = augment.Augmentation([transform], seed=_SEED)
        measured = [distortion.copy(single, image)[1] for image in eight_bits[:_MEASURED]]
        alone[f"{place}. {step.name}"] = distortion.summary(measured)
    report = {
        "together": distortion.summary([each for row in rows for each in row.measured]),
        "alone": alone,
        "clipping": clipping.summary(files, np.array([row.clipped for row in rows])),
        "exceptions": augment_policy.exceptions(recipe.augment_policy),
    }
    return Sheet(f"{recipe.package.id}: training images and their augmented copies", rows[:shown], report)


def of_recipe(recipe: Recipe, data_root: Path, shown: int, copies: int) -> Sheet:
    """The sheet of a recipe's training set; raises `RecipeError` where its images can't be read."""
    folder = data_root / recipe.data.train
    listed = data.training_rows(folder)
    chance = np.random.default_rng(recipe.data.seed)
    chosen = [listed[index] for index in chance.permutation(len(listed))[: max(shown, _MEASURED)]]
    pixels = np.stack([data.decode_to(folder / row["file"], recipe.input) for row in chosen])
    return make(recipe, [row["file"] for row in chosen], pixels, shown, copies)


def of_build(build: Build) -> Sheet:
    """The sheet of a build's training images."""
    training = data.load(build, "train")
    chosen = np.sort(np.random.default_rng(build.recipe.data.seed).permutation(len(training))[:_MEASURED])
    return make(build.recipe, [f"training image {index}" for index in chosen], training.pixels[chosen])


def write(sheet: Sheet, path: Path) -> Path:
    """Write the sheet, as a page or as one picture by the path's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".html":
        path.write_text(_page(sheet))
    elif path.suffix == ".png":
        _picture(sheet).save(path)
    else:
        raise RecipeError(f"{path}: a contact sheet is a page (.html) or a picture (.png)")
    return path


def warnings(sheet: Sheet) -> list[str]:
    """What destroys too much: of all transforms together, and of each alone."""
    found = [f"all together: {each}" for each in sheet.report["together"]["warnings"]]
    for name, one in sheet.report["alone"].items():
        found += [f"{name}: {each}" for each in one["warnings"]]
    return found


def _page(sheet: Sheet) -> str:
    parts = [f"<h1>{html.escape(sheet.title)}</h1>"]
    parts += [f"<p class='bad'>{html.escape(each)}</p>" for each in sheet.report["exceptions"] + warnings(sheet)]
    for row in sheet.rows:
        lower, upper = row.clipped
        figures = [figure(row.original, f"{row.file}; {lower:.1%} black, {upper:.1%} white after preprocessing")]
        figures += [figure(one, distortion.in_words(each)) for one, each in zip(row.copies, row.measured, strict=True)]
        parts.append(f"<div class='row'>{''.join(figures)}</div>")
    names = list(sheet.report["together"]["percentiles"])
    parts += [
        "<h2>How far copies are from their originals</h2>",
        f"<p>Median [5 %, 95 %] of {sheet.report['together']['copies']} copies; each transform alone on every image."
        f" {html.escape(clipping.in_words(sheet.report['clipping']))}.</p>",
        table(
            ("", *names),
            [
                (name, *(f"{found['percentiles'][each][1]:.2f} [{found['percentiles'][each][0]:.2f}, "
                         f"{found['percentiles'][each][2]:.2f}]" for each in names))
                for name, found in {"all together": sheet.report["together"], **sheet.report["alone"]}.items()
            ],
        ),
        "<h2>Limits</h2>",
        table(
            ("figure", "from", "to", "beyond it"),
            [(each.figure, f"{each.low:g}", f"{each.high:g}", each.reason) for each in distortion.LIMITS],
        ),
    ]  # fmt: skip
    return document(sheet.title, STYLE, parts)


def figure(image: np.ndarray, caption: str) -> str:
    """An image, uint8 ``(rows, columns)`` or with a last axis of RGB, in the page itself."""
    buffer = io.BytesIO()
    PillowImage.fromarray(image).save(buffer, format="PNG")
    coded = base64.b64encode(buffer.getvalue()).decode()
    return (
        f"<figure><img src='data:image/png;base64,{coded}' alt=''><figcaption>{html.escape(caption)}</figcaption>"
        "</figure>"
    )


def _picture(sheet: Sheet) -> PillowImage.Image:
    """All rows below one another, captions below each image."""
    rows, columns = sheet.rows[0].original.shape
    caption, gap = 42, 6
    count = 1 + max(len(row.copies) for row in sheet.rows)
    whole = PillowImage.new("L", (count * (columns + gap), len(sheet.rows) * (rows + caption)), 255)
    draw = ImageDraw.Draw(whole)
    for number, row in enumerate(sheet.rows):
        texts = [row.file, *(distortion.in_words(each) for each in row.measured)]
        for place, (image, text) in enumerate(zip((row.original, *row.copies), texts, strict=True)):
            left, top = place * (columns + gap), number * (rows + caption)
            whole.paste(PillowImage.fromarray(image), (left, top))
            letters = max(columns // 6, 1)  # of the built-in font in a line
            lines = [text[at : at + letters] for at in range(0, len(text), letters)][:3]
            draw.multiline_text((left, top + rows), "\n".join(lines), fill=0, spacing=1)
    return whole
