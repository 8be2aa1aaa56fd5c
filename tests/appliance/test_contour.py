"""Lines along the edges of regions: they hold what they should, and no more than may be sent."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from appliance.contour import contours


def filled(lines: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """The pixels whose centers lie inside, by counting the lines to the left of each."""
    crossed = np.zeros(shape, int)
    rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
    for line in lines:
        for (x0, y0), (x1, y1) in itertools.pairwise(line):
            if y0 != y1:
                reached = (rows - y0) / (y1 - y0)
                crossed += (reached >= 0) & (reached < 1) & (x0 + reached * (x1 - x0) < columns)
    return crossed % 2 == 1


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.booleans()))
def test_what_the_lines_hold_is_the_region(inside: np.ndarray) -> None:
    lines = contours(inside, 0.0)
    np.testing.assert_array_equal(filled(lines, inside.shape), inside)
    for line in lines:
        assert (line[0] == line[-1]).all()
        assert line.min() >= 0
        assert (line.max(axis=0) <= inside.shape[::-1]).all()


def test_regions_that_touch_at_a_corner_are_apart() -> None:
    assert [len(line) for line in contours(np.eye(3, dtype=bool), 0.0)] == [5, 5, 5]
    assert contours(np.zeros((4, 4), bool), 0.0) == []


def test_a_line_of_a_large_image_is_short_and_near_its_edge() -> None:
    y, x = np.mgrid[-1:1:900j, -1:1:700j]
    inside = x**2 + y**2 < 0.5
    (line,) = contours(inside, 1.0)
    assert len(line) < 200
    differing = filled([line], inside.shape) != inside
    assert differing.sum() < 1.5 * np.pi * np.sqrt(0.5) * 800


def test_no_line_is_longer_than_a_value_can_be() -> None:
    comb = np.zeros((6, 4001), bool)
    comb[:, ::2] = True
    comb[3] = True
    (line,) = contours(comb, 0.3)
    assert len(line) <= 4000
