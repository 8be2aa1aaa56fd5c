"""The same picture gives the same input tensor, whether training reads its file or the device its DICOM wrapping."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from appliance import package
from appliance.image import load
from appliance.preprocess import Step, preprocess
from compression import data
from compression.recipe import read as read_recipe
from compression.segmentation import cases
from compression.segmentation.recipe import read as read_segmentation
from tests.dicom_files import chest_pixels, make_radiograph
from tests.running import CHECKOUT

pytestmark = pytest.mark.skipif(not package.bundled("chest-pneumonia"), reason="no model package is bundled")
KERMANY = CHECKOUT.parent / "shared" / "data" / "chest-kermany" / "test"


def pictures(folder: Path) -> list[Path]:
    """Radiographs of the data set, where it is beside the checkout, and generated ones; some have a network's size."""
    found = []
    for original in sorted(KERMANY.glob("*/*"))[::60]:
        found.append(folder / original.name)
        shutil.copy(original, found[-1])
    for seed, shape in enumerate([(224, 224), (256, 256), (320, 259), (700, 900)]):
        path = folder / f"{seed}.png"
        PillowImage.fromarray(chest_pixels(*shape, bits=8, seed=seed)).save(path)
        found.append(path)
    return found


WRAPPINGS: dict[str, dict[str, Any]] = {
    "8 bits": {"bits": 8},
    "10 bits": {"bits": 10},
    "12 bits": {"bits": 12},
    "16 bits": {"bits": 16},
    "MONOCHROME1": {"bits": 12, "photometric": "MONOCHROME1"},
    "rescaled": {"bits": 12, "RescaleSlope": "2.5", "RescaleIntercept": "-1024", "RescaleType": "US"},
    # A window is for the eye: the network sees what the detector saw.
    "a window": {"bits": 12, "WindowCenter": "900", "WindowWidth": "300"},
    "JPEG 2000": {"bits": 12, "transfer_syntax": JPEG2000Lossless},
    "JPEG-LS": {"bits": 16, "transfer_syntax": JPEGLSLossless},
    "RLE": {"bits": 8, "transfer_syntax": RLELossless},
}


# What training makes of the files: its first and its later steps, as the stages part them, without any augmentation.


def learned_from_chest(picture: Path) -> np.ndarray:
    """As stage ``data`` keeps an image, and as every stage after it gives it to a network."""
    recipe = read_recipe(CHECKOUT / "models" / "chest-pneumonia" / "recipe.toml").input
    return preprocess(data.decode_to(picture, recipe), recipe.steps())


def learned_from_lungs(picture: Path) -> np.ndarray:
    recipe = read_segmentation(CHECKOUT / "models" / "lungs" / "recipe.toml").input
    case = cases.Case(picture.name, "mask.png", "patient", -1, "")
    with PillowImage.open(picture) as image:
        PillowImage.new("L", image.size, 255).save(picture.parent / case.mask)
    pixels, _ = cases.prepare(cases.read(picture.parent, case, ["Lungs"]), recipe)
    return preprocess(pixels, recipe.late())


LEARNED: dict[str, Callable[[Path], np.ndarray]] = {"chest-pneumonia": learned_from_chest, "lungs": learned_from_lungs}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("model", LEARNED)
def test_within_one_gray_level(model: str, wrapping: str, tmp_path: Path) -> None:
    """Measured: at most 0.0001 levels at 8 and 16 bits; 0.10 at 12 and 0.29 at 10, which the wrapping rounds."""
    steps = bundled(model)
    for number, picture in enumerate(pictures(tmp_path)):
        attributes = dict(WRAPPINGS[wrapping])
        bits, inverted = attributes["bits"], attributes.get("photometric") == "MONOCHROME1"
        eight = data.decode(picture)
        stored = np.round(eight.astype(np.float64) * ((2**bits - 1) / 255))
        stored = (2**bits - 1 - stored if inverted else stored).astype(np.uint8 if bits == 8 else np.uint16)
        attributes.setdefault("transfer_syntax", ExplicitVRLittleEndian)
        file = make_radiograph(tmp_path / f"{wrapping}-{number}.dcm", pixels=stored, seed=number, **attributes)
        assert apart(LEARNED[model](picture), preprocess(load(file).pixels, steps), steps) <= 1.0, picture.name


@pytest.mark.parametrize("shape", [(224, 224), (256, 256), (301, 280), (700, 900)])
@pytest.mark.parametrize("outlier", ["none", "a marker"])
@pytest.mark.parametrize("model", LEARNED)
def test_a_deep_picture_within_one_gray_level(model: str, outlier: str, shape: tuple[int, int], tmp_path: Path) -> None:
    """The stages keep its 12 bits on a scale of their own. Measured: at most 0.0001 levels."""
    steps, deep = bundled(model), chest_pixels(*shape, bits=12, seed=1).astype(np.uint16)
    if outlier == "a marker":
        deep[:9, :9] = 65_535
    PillowImage.fromarray(deep).save(tmp_path / "deep.png")
    file = make_radiograph(tmp_path / "deep.dcm", pixels=deep, seed=1, bits=16)
    assert apart(LEARNED[model](tmp_path / "deep.png"), preprocess(load(file).pixels, steps), steps) <= 1.0


def bundled(model: str) -> Sequence[Step]:
    """The steps of a model's package."""
    return package.read(package.bundled(model)[0], None).manifest.input.steps


def apart(trained: np.ndarray, given: np.ndarray, steps: Sequence[Step]) -> float:
    """The largest difference, in gray levels of 255 after the stretch: the last step divides by the deviation."""
    assert given.shape == trained.shape
    std = next(step for step in steps if step.name == "normalize").parameters["std"]
    return float(np.abs(given - trained).max()) * 255 * float(std)
