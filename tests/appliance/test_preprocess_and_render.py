"""Pixels on their way into the network, and pictures on their way to people."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image as PillowImage

from appliance import interpret, render
from appliance.errors import PackageError
from appliance.image import load
from appliance.preprocess import Step, moves, percentile_stretch, preprocess, resize, restore
from tests.dicom_files import chest_pixels, make_radiograph

STEPS = (
    Step("resize", {"rows": 32, "columns": 32}),
    Step("percentile_stretch", {"low": 1.0, "high": 99.0}),
    Step("normalize", {"mean": 0.5, "std": 0.25}),
)
PIXELS = arrays(
    np.uint16,
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
    elements=st.integers(0, 65535),
)


@given(PIXELS)
def test_any_image_becomes_a_finite_tensor(pixels: np.ndarray) -> None:
    tensor = preprocess(pixels, STEPS)
    assert tensor.shape == (1, 1, 32, 32)
    assert tensor.dtype == np.float32
    assert np.isfinite(tensor).all()
    assert tensor.min() >= -2
    assert tensor.max() <= 2


def test_brightness_and_contrast_of_the_exposure_do_not_reach_the_network() -> None:
    pixels = chest_pixels(200, 180, 12, seed=3).astype(np.float32)
    assert preprocess(pixels * 3.5 + 700, STEPS) == pytest.approx(preprocess(pixels, STEPS), abs=1e-3)


def test_resizing_does_not_alias() -> None:
    stripes = np.tile(np.array([0.0, 1000.0], dtype=np.float32), (512, 256))
    assert resize(stripes, rows=32, columns=32) == pytest.approx(500.0, abs=20)


def test_a_flat_image_stays_flat() -> None:
    assert percentile_stretch(np.full((5, 5), 77.0), low=1.0, high=99.0).max() == 0


def test_an_unknown_step_is_named() -> None:
    with pytest.raises(PackageError, match="sharpen"):
        preprocess(np.zeros((4, 4)), [Step("sharpen", {})])
    with pytest.raises(PackageError, match="resize"):
        preprocess(np.zeros((4, 4)), [Step("resize", {"rows": 3})])


def test_the_display_has_square_pixels_and_a_limited_size(tmp_path: Path) -> None:
    tall = load(make_radiograph(tmp_path / "a.dcm", rows=300, columns=300, PixelSpacing=[0.2, 0.1]))
    assert render.display(tall, 200).shape == (200, 100)


def test_the_display_uses_the_window_of_the_header(tmp_path: Path) -> None:
    pixels = np.array([[0, 1000], [2000, 4095]], dtype=np.uint16)
    image = load(make_radiograph(tmp_path / "a.dcm", pixels=pixels, WindowCenter=1000, WindowWidth=2000))
    assert render.display(image).tolist() == [[0, 128], [255, 255]]


@pytest.mark.parametrize("window", [(9e9, 1), (5, -3), (0, 0)])
def test_a_window_that_shows_nothing_is_left_aside(window: tuple[float, float], tmp_path: Path) -> None:
    path = make_radiograph(tmp_path / "a.dcm", WindowCenter=window[0], WindowWidth=window[1])
    assert np.ptp(render.display(load(path))) > 200


def test_no_evidence_is_transparent_and_evidence_lies_where_it_was_found() -> None:
    assert render.heat(np.zeros((7, 7)), (140, 140))[..., 3].max() == 0
    spot = np.zeros((7, 7), dtype=np.float32)
    spot[1, 5] = 1.0
    alpha = render.heat(spot, (140, 140))[..., 3]
    row, column = np.unravel_index(alpha.argmax(), alpha.shape)
    assert 20 <= row < 40
    assert 100 <= column < 120
    assert alpha.max() < 200  # the anatomy stays visible


def test_a_png_is_read_back() -> None:
    picture = np.arange(60, dtype=np.uint8).reshape(6, 10)
    assert np.array_equal(np.asarray(PillowImage.open(io.BytesIO(render.png(picture)))), picture)


# --- keeping the aspect ---------------------------------------------------------------------------------------------

KEEPING = (Step("pad_to_aspect", {"rows": 48, "columns": 48}), Step("resize", {"rows": 48, "columns": 48}))


def test_a_disk_stays_a_disk_where_the_aspect_is_kept() -> None:
    y, x = np.mgrid[:60, :120]
    disk = 100.0 * ((y - 30) ** 2 + (x - 60) ** 2 < 20**2) + 50.0
    kept = preprocess(disk, KEEPING)[0, 0]
    assert kept.min() == 50.0  # padded with its own darkest value
    tall, wide = ((kept > 100).any(axis=axis).sum() for axis in (1, 0))
    assert tall == pytest.approx(wide, abs=1)
    squashed = preprocess(disk, KEEPING[1:])[0, 0]
    tall, wide = ((squashed > 100).any(axis=axis).sum() for axis in (1, 0))
    assert tall == pytest.approx(2 * wide, abs=2)


@given(shape=st.tuples(st.integers(8, 90), st.integers(8, 90)), seed=st.integers(0, 99))
def test_what_lies_on_a_padded_image_comes_back_to_its_place(shape: tuple[int, int], seed: int) -> None:
    middle = np.random.default_rng(seed).uniform(0.3, 0.7, 2) * shape
    y, x = np.mgrid[: shape[0], : shape[1]]
    blob = np.exp(-((y - middle[0]) ** 2 + (x - middle[1]) ** 2) / (2 * (min(shape) / 5) ** 2))
    back = restore(preprocess(blob, KEEPING)[0], KEEPING, shape)[0]
    assert back.shape == shape
    assert np.abs(np.array(np.unravel_index(back.argmax(), shape)) - middle).max() < 1 + max(shape) / 24
    assert moves(KEEPING, shape)[-1].after == (48, 48)


def test_an_activation_map_is_cut_to_the_image_that_was_padded() -> None:
    """On a wide image, twice as wide as high, the middle half of the map's rows lies on the image."""
    cells = np.zeros((8, 8))
    cells[2:4, :4] = 1.0  # the upper left quarter of the image
    cells[0] = cells[7] = 9.0  # on what was padded
    part = interpret._of_image(cells, KEEPING, (60, 120))
    assert part.shape == (8, 8)
    assert part[1:3, :3] == pytest.approx(np.ones((2, 3)), abs=0.01)
    assert part[5:].max() == pytest.approx(0.0, abs=0.01)
    assert np.array_equal(interpret._of_image(cells, KEEPING, (50, 50)), cells)
    assert np.array_equal(interpret._of_image(cells, KEEPING[1:], (60, 120)), cells)
