"""Charts of drift, drawn on the server: no script, and each says in words what it shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date

import numpy as np
from markupsafe import Markup

from appliance.drift.history import Line
from appliance.drift.streams import Stream
from appliance.web import formats, svg
from appliance.web.formats import in_figures
from appliance.web.language import gettext as _
from appliance.web.recorded import told

_WIDTH, _HEIGHT = 320, 120
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 6, 8, 18
_MOST_DECADES = 6  # of the capital that a chart shows


def line(what: Line) -> Markup:
    """A stream over time: a number's median and 10 % to 90 % with those of the reference, a category's shares."""
    if what.band is not None:
        return _number(what, what.band)
    return _category(what)


def number_text(stream: Stream, place: float) -> str:
    """The value at a bin, rounded for people."""
    if math.isnan(place):
        return _("none")
    value = stream.middle(min(max(round(place), 1), stream.bins - 1))
    return formats.number(value) if abs(value) >= 1000 else in_figures(f"{value:.3g}")


def _number(what: Line, band: np.ndarray) -> Markup:
    stream, usual = what.stream, what.usual
    known = band[~np.isnan(band).any(axis=1)]
    ends = np.concatenate([known.ravel(), [] if usual is None else usual])
    if not len(ends):
        return _empty(_("%(stream)s: never stated", stream=told(stream.title)))
    low, high = float(ends.min()) - 1, float(ends.max()) + 1
    parts = [_grid([(place, number_text(stream, place)) for place in (high, (low + high) / 2, low)], low, high)]
    if usual is not None:
        top, bottom = _y(usual[2] + 0.5, low, high), _y(usual[0] - 0.5, low, high)
        parts.append(
            f'<rect class="usual" x="{_LEFT}" y="{top:.1f}" width="{_WIDTH - _LEFT - _RIGHT}" '
            f'height="{max(bottom - top, 1):.1f}"/>'
        )
        parts.append(
            _path([(_LEFT, _y(usual[1], low, high)), (_WIDTH - _RIGHT, _y(usual[1], low, high))], "usual-line")
        )
    places = [_x(number, len(band)) for number in range(len(band))]
    for run in _runs(~np.isnan(band).any(axis=1)):
        upper = [(places[each], _y(band[each, 2] + 0.5, low, high)) for each in run]
        lower = [(places[each], _y(band[each, 0] - 0.5, low, high)) for each in reversed(run)]
        if len(run) == 1:
            upper = [(upper[0][0] - 2, upper[0][1]), (upper[0][0] + 2, upper[0][1])]
            lower = [(lower[0][0] + 2, lower[0][1]), (lower[0][0] - 2, lower[0][1])]
        parts.append(f'<path class="band" d="{_points([*upper, *lower])}Z"/>')
        parts.append(_path([(places[each], _y(band[each, 1], low, high)) for each in run], "value"))
    return _figure(parts, what.begins, _number_words(what, band))


def _number_words(what: Line, band: np.ndarray) -> str:
    stream, usual = what.stream, what.usual
    known = np.flatnonzero(~np.isnan(band).any(axis=1))
    unit = f" {told(stream.unit)}" if stream.unit else ""
    said = f"{told(stream.title)}: "
    if len(known):
        first, last = int(known[0]), int(known[-1])
        value, later = number_text(stream, band[first, 1]) + unit, number_text(stream, band[last, 1])
        said += _("median %(value)s on %(day)s", value=value, day=formats.day_or_moment(what.begins[first]))
        if last > first:
            said += _(", %(value)s on %(day)s", value=later, day=formats.day_or_moment(what.begins[last]))
    else:
        said += _("not stated")
    if usual is not None:
        middle, low, high = (number_text(stream, usual[each]) for each in (1, 0, 2))
        said += _("; usual %(middle)s, 80 %% of studies from %(low)s to %(high)s", middle=middle, low=low, high=high)
    return said


def _category(what: Line) -> Markup:
    parts = [_grid([(1.0, "100 %"), (0.5, "50 %"), (0.0, "0 %")], 0.0, 1.0)]
    for number, (name, shares) in enumerate(what.shares.items()):
        usual = what.usual_shares.get(name, math.nan)
        if not math.isnan(usual):
            level = _y(usual, 0.0, 1.0)
            parts.append(_path([(_LEFT, level), (_WIDTH - _RIGHT, level)], f"usual-line c{number}"))
        for run in _runs(~np.isnan(shares)):
            points = [(_x(each, len(shares)), _y(float(shares[each]), 0.0, 1.0)) for each in run]
            parts.append(_path(points, f"value c{number}"))
    last = {name: _percent(float(shares[-1])) for name, shares in what.shares.items() if len(shares)}
    none = _("none")
    words = "; ".join(
        f"{told(name)} {last.get(name, none)}"
        + ("" if math.isnan(usual) else _(", usual %(share)s", share=_percent(usual)))
        for name in what.shares
        for usual in (what.usual_shares.get(name, math.nan),)
    )
    title = told(what.stream.title)
    said = _("%(stream)s, latest share of studies: %(words)s", stream=title, words=words)
    return _figure(parts, what.begins, said)


def capital(days: Sequence[date], worth: Sequence[float], alarm: float, title: str) -> Markup:
    """The capital of the bets by day, on a logarithmic scale, with the line at which an alarm is raised.

    Parameters
    ----------
    worth, alarm
        Natural logarithms.
    """
    values = np.array(worth) / math.log(10)
    limit = alarm / math.log(10)
    known = values[~np.isnan(values)]
    if not len(known):
        return _empty(_("%(title)s: nothing was watched", title=title))
    high = max(limit + 0.5, min(float(known.max()), limit + _MOST_DECADES))
    low = min(-1.0, max(float(known.min()), -_MOST_DECADES))
    shown = np.clip(values, low, high)
    ticks = [(limit, formats.number(10**limit)), (0.0, "1"), (low, in_figures(f"{10**low:.2g}"))]
    parts = [_grid(ticks, low, high)]
    level = _y(limit, low, high)
    parts.append(_path([(_LEFT, level), (_WIDTH - _RIGHT, level)], "limit"))
    parts += [
        _path([(_x(each, len(values)), _y(float(shown[each]), low, high)) for each in run], "value")
        for run in _runs(~np.isnan(values))
    ]
    highest, latest = times(float(known.max())), times(float(known[-1]))
    words = _(
        "%(title)s: highest capital %(highest)s, latest %(latest)s; alarm at %(limit)s",
        title=title, highest=highest, latest=latest, limit=formats.number(10**limit),
    )  # fmt: skip
    return _figure(parts, days, words)


def times(power: float) -> str:
    """A capital whose common logarithm this is, for people."""
    return (
        in_figures(f"{10**power:,.3g}") if abs(power) < 6 else _("10 to the power of %(power)s", power=f"{power:.0f}")
    )


def _percent(share: float) -> str:
    return _("none") if math.isnan(share) else f"{100 * share:.0f} %"


def _x(number: int, count: int) -> float:
    room = _WIDTH - _LEFT - _RIGHT
    return _LEFT + room / 2 if count == 1 else _LEFT + 2 + number * (room - 4) / (count - 1)


def _y(value: float, low: float, high: float) -> float:
    return _HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _BOTTOM - _TOP)


def _runs(known: np.ndarray) -> list[list[int]]:
    """Neighbors that have values."""
    runs: list[list[int]] = []
    for number in np.flatnonzero(known).tolist():
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return runs


def _points(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _path(points: Sequence[tuple[float, float]], kind: str) -> str:
    if len(points) == 1:
        (x, y), = points  # fmt: skip
        return svg.dot(kind, x, y, 2)
    return f'<path class="{kind}" d="{_points(points)}"/>'


def _grid(ticks: Sequence[tuple[float, str]], low: float, high: float) -> str:
    found = []
    for value, text in ticks:
        y = _y(value, low, high)
        found.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
        found.append(svg.tick(_LEFT - 4, y + 3, "end", text))
    return "".join(found)


def _figure(parts: Sequence[str], begins: Sequence[date], words: str) -> Markup:
    ends, labels = [], [formats.day_or_moment(each) for each in (*begins[:1], *begins[1:][-1:])]
    if labels:
        ends.append(svg.tick(_LEFT, _HEIGHT - 4, "start", labels[0]))
    if len(labels) > 1:
        ends.append(svg.tick(_WIDTH - _RIGHT, _HEIGHT - 4, "end", labels[-1]))
    return svg.picture([*parts, *ends], words, _WIDTH, _HEIGHT)


def _empty(words: str) -> Markup:
    return Markup('<p class="hint">{}</p>').format(words)
