"""Charts of performance, drawn on the server: rates by month with their intervals, and reliability.

Each stands beside a table that says the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from appliance.measures import Calibration, Estimate
from appliance.web import svg
from appliance.web.formats import number
from appliance.web.language import gettext as _

_WIDTH, _HEIGHT = 640, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 10, 26
_SQUARE = 320
_KIND = "chart plot"
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

    parts = []
    for share in (bottom, (bottom + 1.0) / 2.0, 1.0):
        parts.append(svg.line("grid", _LEFT, _WIDTH - _RIGHT, y(share), y(share)))
        parts.append(svg.tick(_LEFT - 6, y(share) + 4, "end", _percent(share)))
    if floor is not None:
        parts.append(svg.line("floor", _LEFT, _WIDTH - _RIGHT, y(floor), y(floor)))
        parts.append(svg.tick(_WIDTH - _RIGHT, y(floor) - 5, "end", _("floor %(share)s", share=_percent(floor))))
    step = wide / max(len(rates), 1)
    for month, (name, some) in enumerate(rates):
        middle = _LEFT + step * (month + 0.5)
        if month % max(len(rates) // 6, 1) == 0:
            parts.append(svg.tick(middle, _HEIGHT - 8, "middle", name))
        for place, each in enumerate(some):
            if each is not None:
                x = middle + (place - (len(some) - 1) / 2) * min(10.0, step / 3)
                parts.append(svg.line(f"line-{place}", x, x, y(each.low), y(each.high)))
                parts.append(svg.dot(f"dot line-{place}", x, y(each.value), 4))
    return svg.picture(parts, title, _WIDTH, _HEIGHT, _KIND)


def reliability(title: str, found: Calibration) -> Markup:
    """How often a finding was there against how probable it was said to be; the diagonal is where they agree."""
    size = _SQUARE - _LEFT - _RIGHT

    def x(share: float) -> float:
        return _LEFT + share * size

    def y(share: float) -> float:
        return _TOP + (1.0 - share) * size

    parts = []
    for share in (0.0, 0.5, 1.0):
        parts.append(svg.line("grid", x(0), x(1), y(share), y(share)))
        parts.append(svg.tick(_LEFT - 6, y(share) + 4, "end", _percent(share)))
        parts.append(svg.tick(x(share), y(0) + 16, _ANCHORS[share], _percent(share)))
    parts.append(svg.tick(x(0.5), y(0) + 33, "middle", _("said")))
    parts.append(svg.line("floor", x(0), x(1), y(0), y(1)))
    for each in found.bins:
        parts.append(svg.line("line-0", x(each.said), x(each.said), y(each.seen.low), y(each.seen.high)))
        radius = 3.0 + 4.0 * (each.seen.n / max(one.seen.n for one in found.bins)) ** 0.5
        parts.append(svg.dot("dot line-0", x(each.said), y(each.seen.value), radius))
    return svg.picture(parts, title, _SQUARE, _TOP + size + 40, _KIND)


def _percent(share: float) -> str:
    return f"{number(100 * share)} %"
