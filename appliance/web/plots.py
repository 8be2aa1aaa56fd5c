"""Figures of performance as SVG, drawn on the server: rates by month with their intervals, and reliability.

Each stands beside a table that says the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape

from appliance.measures import Calibration, Estimate
from appliance.web.formats import number
from appliance.web.language import gettext as _

_WIDTH, _HEIGHT = 640, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 10, 26
_SQUARE = 320
_ANCHORS = {0.0: "start", 0.5: "middle", 1.0: "end"}  # so that the ends lie within the picture


def months(title: str, rates: Sequence[tuple[str, Sequence[Estimate | None]]], floor: float | None) -> Markup:
    """Points with their 95 % intervals, a series for each of several estimates, and the floor as a line.

    Parameters
    ----------
    rates
        Name of the month, and the estimate of each series.
    """
    wide, tall = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    lows = [each.low for _, some in rates for each in some if each is not None]
    least = min([*lows, floor if floor is not None else 1.0], default=0.0)
    bottom = 0.5 if least >= 0.5 else 0.0

    def y(value: float) -> float:
        return _TOP + tall * (1.0 - (max(value, bottom) - bottom) / (1.0 - bottom))

    parts = [_begin(title, _WIDTH, _HEIGHT)]
    for share in (bottom, (bottom + 1.0) / 2.0, 1.0):
        parts.append(_line("grid", _LEFT, _WIDTH - _RIGHT, y(share), y(share)))
        parts.append(_words(_LEFT - 6, y(share) + 4, "end", _percent(share)))
    if floor is not None:
        parts.append(_line("floor", _LEFT, _WIDTH - _RIGHT, y(floor), y(floor)))
        parts.append(_words(_WIDTH - _RIGHT, y(floor) - 5, "end", _("floor %(share)s", share=_percent(floor))))
    step = wide / max(len(rates), 1)
    for month, (name, some) in enumerate(rates):
        middle = _LEFT + step * (month + 0.5)
        if month % max(len(rates) // 6, 1) == 0:
            parts.append(_words(middle, _HEIGHT - 8, "middle", name))
        for place, each in enumerate(some):
            if each is not None:
                x = middle + (place - (len(some) - 1) / 2) * min(10.0, step / 3)
                parts.append(_line(f"line-{place}", x, x, y(each.low), y(each.high)))
                parts.append(f'<circle class="dot line-{place}" cx="{x:.1f}" cy="{y(each.value):.1f}" r="4"/>')
    return Markup("".join([*parts, "</svg>"]))  # noqa: S704 (texts are escaped below)


def reliability(title: str, found: Calibration) -> Markup:
    """How often a finding was there against how probable it was said to be; the diagonal is where they agree."""
    size = _SQUARE - _LEFT - _RIGHT

    def x(share: float) -> float:
        return _LEFT + share * size

    def y(share: float) -> float:
        return _TOP + (1.0 - share) * size

    parts = [_begin(title, _SQUARE, _TOP + size + 40)]
    for share in (0.0, 0.5, 1.0):
        parts.append(_line("grid", x(0), x(1), y(share), y(share)))
        parts.append(_words(_LEFT - 6, y(share) + 4, "end", _percent(share)))
        parts.append(_words(x(share), y(0) + 16, _ANCHORS[share], _percent(share)))
    parts.append(_words(x(0.5), y(0) + 33, "middle", _("said")))
    parts.append(_line("floor", x(0), x(1), y(0), y(1)))
    for each in found.bins:
        parts.append(_line("line-0", x(each.said), x(each.said), y(each.seen.low), y(each.seen.high)))
        radius = 3.0 + 4.0 * (each.seen.n / max(one.seen.n for one in found.bins)) ** 0.5
        parts.append(
            f'<circle class="dot line-0" cx="{x(each.said):.1f}" cy="{y(each.seen.value):.1f}" r="{radius:.1f}"/>'
        )
    return Markup("".join([*parts, "</svg>"]))  # noqa: S704 (texts are escaped below)


def _percent(share: float) -> str:
    return f"{number(100 * share)} %"


def _begin(title: str, width: float, height: float) -> str:
    return f'<svg class="chart plot" viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(title)}">'


def _line(name: str, x1: float, x2: float, y1: float, y2: float) -> str:
    return f'<line class="{name}" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"/>'


def _words(x: float, y: float, anchor: str, text: str) -> str:
    return f'<text class="tick" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
