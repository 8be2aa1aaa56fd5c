"""The edge of a region of pixels as closed lines, simple enough to send."""

from __future__ import annotations

import numpy as np

_MOST_POINTS = 4000  # of one line: Graphic Data of an explicit VR holds 16,383 numbers (PS3.5 section 7.1.2)


def contours(inside: np.ndarray, tolerance: float) -> list[np.ndarray]:
    """The edges of a region, outer ones and those of its holes.

    Parameters
    ----------
    inside
        bool ``(rows, columns)``. Regions that touch only at a corner are apart.
    tolerance
        Pixels that a line may lie off the edge.

    Returns
    -------
    For each edge, from the longest on: float64 ``(points, 2)``, column and row, where 0, 0 is the upper left corner of
    the first pixel and a pixel is 1 wide; the last point is the first one again. What is too small to make a triangle
    within the tolerance is left out.
    """
    rows, columns = np.nonzero(inside.any(axis=1))[0], np.nonzero(inside.any(axis=0))[0]
    if not len(rows):
        return []
    top, left = rows[0], columns[0]
    part = inside[top : rows[-1] + 1, left : columns[-1] + 1]
    lines = []
    for line in _edges(part):
        simple = simplified(line, tolerance)
        if len(simple) > 3:
            lines.append(simple + np.array([left, top]))
    return sorted(lines, key=len, reverse=True)


def _edges(inside: np.ndarray) -> list[np.ndarray]:
    """Closed lines along the pixels' sides, with the region to their right; each corner of a pixel is a point."""
    padded = np.pad(inside, 1)
    width = inside.shape[1] + 1  # corners of pixels are numbered along the rows
    following: dict[int, list[int]] = {}
    # A side between two pixels of which one is inside: along a row from left to right where that is the lower one, and
    # down a column where it is the left one; else the other way.
    for here, there, step in (
        (padded[1:, 1:-1], padded[:-1, 1:-1], 1),
        (padded[1:-1, :-1], padded[1:-1, 1:], width),
    ):
        row, column = np.nonzero(here != there)
        begin = row * width + column
        backward = ~here[row, column]
        ends = np.where(backward, begin, begin + step).tolist()
        for one, other in zip(np.where(backward, begin + step, begin).tolist(), ends, strict=True):
            following.setdefault(one, []).append(other)
    lines = []
    for first in list(following):
        while following[first]:
            line, step = [first], 0
            while True:
                ways = following[line[-1]]
                # Where two lines cross, the one goes on to the right: around the pixel that it came along.
                way = _right_of(step, width) + line[-1]
                place = ways.index(way) if len(ways) > 1 and way in ways else 0
                step = ways[place] - line[-1]
                line.append(ways.pop(place))
                if line[-1] == first:
                    break
            lines.append(np.stack([np.array(line) % width, np.array(line) // width], axis=1).astype(float))
    return lines


def _right_of(step: int, width: int) -> int:
    """The step to the right of one: right, down, left, up."""
    return {1: width, width: -1, -1: -width, -width: 1}.get(step, 0)


def simplified(line: np.ndarray, tolerance: float) -> np.ndarray:
    """A closed line with fewer points, no other being farther from it than ``tolerance`` (Douglas and Peucker)."""
    while True:
        farthest = int(np.argmax(((line - line[0]) ** 2).sum(axis=1)))
        kept = np.zeros(len(line), bool)
        kept[[0, farthest, len(line) - 1]] = True
        pieces = [(0, farthest), (farthest, len(line) - 1)]
        while pieces:
            first, last = pieces.pop()
            if last - first < 2:
                continue
            along = line[last] - line[first]
            length = float(np.hypot(*along))
            apart = line[first + 1 : last] - line[first]
            if length > 0:
                distances = np.abs(along[0] * apart[:, 1] - along[1] * apart[:, 0]) / length
            else:
                distances = np.hypot(apart[:, 0], apart[:, 1])
            place = int(np.argmax(distances))
            if distances[place] > tolerance:
                middle = first + 1 + place
                kept[middle] = True
                pieces += [(first, middle), (middle, last)]
        if kept.sum() <= _MOST_POINTS:
            return np.asarray(line[kept])
        tolerance *= 2
