"""Charts of the device over time, drawn on the server: no script, and a table for those who can't see them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from appliance.web import svg
from appliance.web.formats import clock

_WIDTH, _HEIGHT = 480, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 8, 12, 24
_MOST_ROWS = 24  # of the table


@dataclass(frozen=True)
class Line:
    """A name and a value for each time, None where there is none."""

    name: str
    values: Sequence[float | None]


@dataclass(frozen=True)
class Chart:
    """Lines over the same times (seconds since 1970, in their order), from 0 on."""

    title: str
    times: Sequence[float]
    lines: Sequence[Line]
    show: Callable[[float], str]
    every: float  # seconds between two times; where there is more, the line is broken

    @property
    def is_empty(self) -> bool:
        return not any(value is not None for line in self.lines for value in line.values)

    @property
    def latest(self) -> str:
        """The last value of each line, in words."""
        return ", ".join(f"{name} {value}".strip() for name, value in self.key if value)

    @property
    def key(self) -> list[tuple[str, str]]:
        """Of each line its name, empty where there is one only, and its last value in words."""
        last = [next((value for value in reversed(line.values) if value is not None), None) for line in self.lines]
        return [
            (line.name if len(self.lines) > 1 else "", "" if value is None else self.show(value))
            for line, value in zip(self.lines, last, strict=True)
        ]

    @property
    def rows(self) -> list[tuple[str, list[str]]]:
        """Some of the times and their values, for a table."""
        step = max(math.ceil(len(self.times) / _MOST_ROWS), 1)
        return [
            (
                clock(self.times[place], True),
                ["" if (v := line.values[place]) is None else self.show(v) for line in self.lines],
            )
            for place in range(0, len(self.times), step)
        ]

    @property
    def picture(self) -> Markup:
        begin, end = self.times[0], max(self.times[-1], self.times[0] + 1)
        top = _nice(max(value for line in self.lines for value in line.values if value is not None))

        def x(at: float) -> float:
            return _LEFT + (at - begin) / (end - begin) * (_WIDTH - _LEFT - _RIGHT)

        def y(value: float) -> float:
            return _HEIGHT - _BOTTOM - value / top * (_HEIGHT - _TOP - _BOTTOM)

        parts = []
        for share in (0.0, 0.5, 1.0):
            height = y(top * share)
            parts.append(svg.line("grid", _LEFT, _WIDTH - _RIGHT, height, height))
            parts.append(svg.tick(_LEFT - 6, height + 4, "end", self.show(top * share)))
        for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
            at = begin + share * (end - begin)
            parts.append(svg.tick(x(at), _HEIGHT - 6, anchor, clock(at, end - begin > 86400)))
        for number, line in enumerate(self.lines):
            for piece in self._pieces(line.values):
                points = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in piece)
                if len(piece) == 1:
                    at, value = piece[0]
                    parts.append(svg.dot(f"dot line-{number}", x(at), y(value), 1.5))
                else:
                    parts.append(f'<polyline class="line-{number}" points="{points}"/>')
        return svg.picture(parts, f"{self.title}: {self.latest}", _WIDTH, _HEIGHT)

    def _pieces(self, values: Sequence[float | None]) -> list[list[tuple[float, float]]]:
        """Runs of points without a gap."""
        pieces: list[list[tuple[float, float]]] = []
        last = -math.inf
        for at, value in zip(self.times, values, strict=True):
            if value is None:
                continue
            if not pieces or at - last > 2.5 * self.every:
                pieces.append([])
            pieces[-1].append((at, value))
            last = at
        return pieces


def _nice(value: float) -> float:
    """The next of 1, 2 and 5 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next((each * power for each in (1, 2, 5, 10) if each * power >= value * 0.999), 10 * power)
