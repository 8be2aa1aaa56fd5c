"""What has changed, in words: which streams, since when, for whom, and which studies show it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec
import numpy as np

from appliance.drift.change_point import change_point
from appliance.drift.streams import INDEX, MISSING, OTHER, STREAMS, Categories

_MOST_STREAMS = 5
_LEAST_EVIDENCE = 1.0  # of the natural logarithm of a stream's martingale
_EXAMPLES = 5
_AGES = (1.0, 6.0, 18.0, 40.0, 65.0)
_GROUPS = ("scanner", "detector", "view", "sex")
_ALMOST_ALL, _FEW = 0.8, 0.5


class Moved(msgspec.Struct, frozen=True):
    """One stream: the values that became more frequent, their share of the studies before and since, and for whom."""

    stream: str
    words: str
    since: float
    before: float
    now: float
    evidence: float
    examples: tuple[int, ...]


class Cause(msgspec.Struct, frozen=True):
    """Streams with the strongest evidence first; ``since`` is that of the first (seconds since 1970)."""

    moved: tuple[Moved, ...]
    since: float
    studies: int

    @property
    def words(self) -> str:
        return self.moved[0].words if self.moved else "no single stream stands out"

    @property
    def examples(self) -> tuple[int, ...]:
        return self.moved[0].examples if self.moved else ()


def find(
    evidence: np.ndarray,
    bins: np.ndarray,
    times: Sequence[float],
    instances: Sequence[int],
    reference: np.ndarray,
    categories: Categories,
) -> Cause:
    """From the studies since a watch began.

    Parameters
    ----------
    evidence
        ``(streams,)``: what decides which streams are named.
    bins
        int ``(studies, streams)``.
    times, instances
        When each study was read, and the image that stands for it.
    reference
        int ``(streams, bins)``: counts of what is usual.
    """
    order = np.argsort(-evidence)
    chosen = [int(each) for each in order[:_MOST_STREAMS] if evidence[each] >= _LEAST_EVIDENCE] or [int(order[0])]
    found = [_moved(each, float(evidence[each]), bins, times, instances, reference, categories) for each in chosen]
    return Cause(tuple(found), found[0].since, len(bins))


def _moved(
    stream: int,
    evidence: float,
    bins: np.ndarray,
    times: Sequence[float],
    instances: Sequence[int],
    reference: np.ndarray,
    categories: Categories,
) -> Moved:
    own = bins[:, stream]
    start = change_point(stream, own, reference[stream])
    usual = reference[stream] + np.bincount(own[:start], minlength=len(reference[stream]))
    words, inside = _most_risen(stream, usual, np.bincount(own[start:], minlength=len(usual)), categories)
    before, now = float(usual[inside].sum() / max(usual.sum(), 1)), float(inside[own[start:]].mean())
    showing = start + np.flatnonzero(inside[own[start:]])
    whom = _for_whom(bins[start:], inside[own[start:]], categories, STREAMS[stream].name)
    said = f"{words}: {_percent(now)} of studies since {moment(times[start])}, {_percent(before)} before{whom}"
    examples = tuple(int(instances[each]) for each in showing[::-1][:_EXAMPLES])
    return Moved(STREAMS[stream].name, said, times[start], before, now, evidence, examples)


def _most_risen(stream: int, usual: np.ndarray, now: np.ndarray, categories: Categories) -> tuple[str, np.ndarray]:
    """The set of values, bool ``(bins,)``, whose share has risen most surely, and its words."""
    candidates = list(_sets(stream, usual, now, categories))
    return max(candidates, key=lambda each: _gain(usual, now, each[1]))


def _gain(usual: np.ndarray, now: np.ndarray, inside: np.ndarray) -> float:
    """The logarithm of the likelihood ratio of a share that rose; below 0 where it fell."""
    count, total = float(now[inside].sum()), float(now.sum())
    before = (float(usual[inside].sum()) + 0.5) / (float(usual.sum()) + 1)
    share = count / total
    if share <= before:
        return share - before
    gain = count * math.log(share / before)
    return gain + ((total - count) * math.log((1 - share) / (1 - before)) if share < 1 else 0.0)


def _sets(stream: int, usual: np.ndarray, now: np.ndarray, categories: Categories) -> Iterable[tuple[str, np.ndarray]]:
    what = STREAMS[stream]
    every = np.arange(len(usual))
    yield f"{what.title} not stated", every == MISSING
    if not what.numeric:
        for number in np.flatnonzero(now).tolist():
            if number != MISSING:
                name = categories.name(what.name, number) if number != OTHER else "one never seen before"
                yield f"{what.title} {name}", every == number
        return
    for cut in _cuts(stream, usual):
        number = what.bin(cut)
        text = f"{what.title} {{}} {cut:.3g}{f' {what.unit}' if what.unit else ''}"
        if what.name == "age":
            text = f"age {{}} {cut:.0f}"
        yield text.format("below"), (every < number) & (every != MISSING)
        yield text.format("from" if what.name == "age" else "above"), every >= number


def _cuts(stream: int, usual: np.ndarray) -> list[float]:
    """Round ages, or edges of bins near the reference's percentiles."""
    what = STREAMS[stream]
    if what.name == "age":
        return list(_AGES)
    known = usual.astype(float).copy()
    known[MISSING] = 0
    if not known.any():
        return [what.middle(what.bins // 2)]
    share = np.cumsum(known) / known.sum()
    numbers = {int(np.searchsorted(share, each)) for each in (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)}
    edges = {what.low(number) for number in numbers} | {what.low(min(number + 1, what.bins - 1)) for number in numbers}
    return sorted(edge for edge in edges if math.isfinite(edge))


def _for_whom(bins: np.ndarray, inside: np.ndarray, categories: Categories, stream: str) -> str:
    """Where almost all of the studies that show it share something that few others do."""
    count = int(inside.sum())
    if count < 3:
        return ""
    for name in _GROUPS:
        own = bins[:, INDEX[name]]
        number = int(np.bincount(own[inside]).argmax())
        those = float((own[inside] == number).mean())
        others = float((own[~inside] == number).mean()) if (~inside).any() else 1.0
        if name != stream and number != MISSING and those >= _ALMOST_ALL and others <= _FEW:
            title = STREAMS[INDEX[name]].title.lower()
            return (
                f"; {int((own[inside] == number).sum())} of these {count} with {title} {categories.name(name, number)}"
            )
    ages = bins[:, INDEX["age"]]
    for low, high in zip((0.0, *_AGES), (*_AGES, math.inf), strict=True) if stream != "age" else ():
        edges = STREAMS[INDEX["age"]].bin(low), STREAMS[INDEX["age"]].bin(high) if high < math.inf else 10_000
        group = (ages >= edges[0]) & (ages < edges[1]) & (ages != MISSING)
        others = float(group[~inside].mean()) if (~inside).any() else 1.0
        if group[inside].mean() >= _ALMOST_ALL and others <= _FEW:
            upper = f" to {high:.0f}" if high < math.inf else " or more"
            return f"; {int(group[inside].sum())} of these {count} are of age {low:.0f}{upper}"
    return ""


def _percent(share: float) -> str:
    if 0 < share < 0.001:
        return "less than 0.1 %"
    return f"{100 * share:.1f} %" if share < 0.1 else f"{100 * share:.0f} %"


def moment(at: float) -> str:
    """For people, by this device's clock: "Tuesday 24 Nov 2026, 10:15"."""
    return datetime.fromtimestamp(at).strftime("%A %-d %b %Y, %H:%M")
