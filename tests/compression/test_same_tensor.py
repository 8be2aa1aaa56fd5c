"""The same picture gives the same input tensor, whether training reads its file or the device its DICOM wrapping."""

from __future__ import annotations

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
from appliance.preprocess import preprocess
from compression.data import decode
from tests.dicom_files import chest_pixels, make_radiograph
from tests.running import CHECKOUT

pytestmark = pytest.mark.skipif(not package.bundled("chest-pneumonia"), reason="no model package is bundled")
DATA = CHECKOUT.parent / "shared" / "data" / "chest-kermany" / "test"


def pictures(folder: Path) -> list[Path]:
    """Radiographs of the data set where it is beside the checkout, and generated ones."""
    found = sorted(DATA.glob("*/*"))[::60]
    for seed, shape in enumerate([(224, 224), (320, 259), (700, 900)]):
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


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_within_one_gray_level(wrapping: str, tmp_path: Path) -> None:
    opened = package.read(package.bundled("chest-pneumonia")[0], None)
    steps = opened.manifest.input.steps
    # One of the 256 gray levels of the files, in units of the tensor: the last step divides by the deviation.
    level = 1 / 255 / float(next(step for step in steps if step.name == "normalize").parameters["std"])
    for number, picture in enumerate(pictures(tmp_path)):
        attributes = dict(WRAPPINGS[wrapping])
        bits, inverted = attributes["bits"], attributes.get("photometric") == "MONOCHROME1"
        eight = decode(picture)
        stored = np.round(eight.astype(np.float64) * ((2**bits - 1) / 255))
        stored = (2**bits - 1 - stored if inverted else stored).astype(np.uint8 if bits == 8 else np.uint16)
        attributes.setdefault("transfer_syntax", ExplicitVRLittleEndian)
        file = make_radiograph(tmp_path / f"{wrapping}-{number}.dcm", pixels=stored, seed=number, **attributes)
        trained, given = preprocess(eight, steps), preprocess(load(file).pixels, steps)
        assert given.shape == trained.shape
        assert np.abs(given - trained).max() <= level, picture.name
