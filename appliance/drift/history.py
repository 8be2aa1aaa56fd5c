"""The course of drift for charts: every stream against what is usual, scanners, what the bets were worth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import msgspec
import numpy as np

from appliance.drift import change_point
from appliance.drift.decisions import DEPENDENT, bins_of
from appliance.drift.store import Against, DriftStore, unpack
from appliance.drift.streams import GROUPS, INDEX, MISSING, MOST_BINS, STREAMS, Categories, Stream

_COLUMNS = 60  # of a chart, at the most: several days become one
_FEW_DAYS = 6  # with fewer, columns are of studies instead
_LATEST = 200  # studies that PSI and KS compare
_CHECKED = 500  # studies that the test of independence looks at
_MOST_NAMES = 5
_AGAINST: tuple[Against, ...] = ("validated", "site")


@dataclass(frozen=True)
class Column:
    """Some days, or some studies: its beginning in words, and counts ``(streams, bins)``."""

    begin: date  # a datetime where it is a part of a day
    counts: np.ndarray


@dataclass(frozen=True)
class History:
    """The latest days: rows of the ledger, and their counts ``(days, streams, bins)``."""

    rows: list[dict[str, Any]]
    counts: np.ndarray


@dataclass(frozen=True)
class Line:
    """One stream for a chart: of a number 10th, 50th and 90th percentile as bins, of a category shares by name.

    ``begins``: the day of each column, or a datetime within it. ``usual`` is the same of the reference; NaN where a
    column has no value.
    """

    stream: Stream
    begins: tuple[date, ...]
    band: np.ndarray | None
    usual: np.ndarray | None
    shares: dict[str, np.ndarray]
    usual_shares: dict[str, float]
    missing: float
    psi: float | None
    ks: float | None
    independent: float | None
    left_out: bool


def history(store: DriftStore, about: dict[str, Any], days: int) -> History:
    rows = store.days(about["package"], days)
    counts = [unpack(row["counts"]) for row in rows]
    return History(rows, np.stack(counts) if counts else np.zeros((0, len(STREAMS), MOST_BINS), np.int64))


def lines(store: DriftStore, about: dict[str, Any], past: History) -> dict[str, list[Line]]:
    """Every stream in which anything was seen, by its group's title."""
    studies = store.studies(about["package"], 0, _CHECKED)
    latest = bins_of(studies)
    columns = _columns(past, studies)
    site = unpack(about["baseline"]) if about["baseline"] is not None else None
    validated = unpack(about["reference"])
    score = change_point.ranks(latest, about["seed"]) if len(latest) >= change_point.LEAST else None
    left_out: dict[str, float] = msgspec.json.decode(about["dependent"])
    categories = store.categories()
    now = np.zeros_like(validated)
    for study in latest[-_LATEST:]:
        now[np.arange(len(STREAMS)), study] += 1
    found: dict[str, list[Line]] = {title: [] for title in GROUPS.values()}
    whole = np.stack([column.counts for column in columns]) if columns else np.zeros((0, *validated.shape), np.int64)
    begins = tuple(column.begin for column in columns)
    for number, stream in enumerate(STREAMS):
        own = whole[:, number]
        usual = site[number] if site is not None else validated[number]
        if not own[:, 1:].any() and not usual[1:].any():
            continue
        found[GROUPS[stream.group]].append(
            _line(
                stream, begins, own, usual, now[number], categories,
                None if score is None or stream.quiet else change_point.autocorrelation(score[:, number]),
                left_out.get(stream.name, 1.0) < DEPENDENT,
            )
        )  # fmt: skip
    return {title: each for title, each in found.items() if each}


def _line(
    stream: Stream,
    begins: tuple[date, ...],
    own: np.ndarray,
    usual: np.ndarray,
    now: np.ndarray,
    categories: Categories,
    independent: float | None,
    left_out: bool,
) -> Line:
    number, total = INDEX[stream.name], int(own.sum())
    compared = bool(usual.sum() and now.sum())
    shares: dict[str, np.ndarray] = {}
    usual_shares: dict[str, float] = {}
    if not stream.numeric:
        most = [int(each) for each in np.argsort(-(own.sum(axis=0) + usual)) if (own[:, each].any() or usual[each])]
        for each in most[:_MOST_NAMES]:
            name = categories.name(stream.name, each)
            with np.errstate(divide="ignore", invalid="ignore"):
                shares[name] = own[:, each] / own.sum(axis=1)
            usual_shares[name] = float(usual[each] / usual.sum()) if usual.sum() else math.nan
    return Line(
        stream=stream,
        begins=begins,
        band=percentiles(own) if stream.numeric else None,
        usual=percentiles(usual[None])[0] if stream.numeric and usual[1:].any() else None,
        shares=shares,
        usual_shares=usual_shares,
        missing=float(own[:, MISSING].sum() / total) if total else 0.0,
        psi=change_point.stability_index(number, usual, now) if compared else None,
        ks=change_point.kolmogorov_smirnov(number, usual, now) if compared else None,
        independent=independent,
        left_out=left_out,
    )


def percentiles(counts: np.ndarray) -> np.ndarray:
    """``(columns, bins)`` -> ``(columns, 3)``: the bins of the 10th, 50th and 90th percentile; NaN without values."""
    known = counts.astype(float)
    known[:, MISSING] = 0
    total = known.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = known.cumsum(axis=1) / total
    found = np.stack([(share < each).sum(axis=1) for each in (0.1, 0.5, 0.9)], axis=1).astype(float)
    found[total[:, 0] == 0] = math.nan
    return found


def _columns(past: History, studies: Sequence[dict[str, Any]]) -> list[Column]:
    rows = past.rows
    if len(rows) < _FEW_DAYS and studies:
        size = max(-(-len(studies) // _COLUMNS), 10)
        found = []
        for begin in range(0, len(studies), size):
            part = studies[begin : begin + size]
            counts = np.zeros((len(STREAMS), MOST_BINS), np.int64)
            for study in bins_of(part):
                counts[np.arange(len(STREAMS)), study] += 1
            found.append(Column(datetime.fromtimestamp(part[0]["at"]), counts))
        return found
    size = max(-(-len(rows) // _COLUMNS), 1)
    return [
        Column(date.fromisoformat(rows[begin]["day"]), past.counts[begin : begin + size].sum(axis=0))
        for begin in range(0, len(rows), size)
    ]


def scanners(store: DriftStore, past: History) -> list[tuple[str, int]]:
    """How many studies came from each scanner, most first."""
    categories, counts = store.categories(), past.counts[:, INDEX["scanner"]].sum(axis=0)
    order = [int(each) for each in np.argsort(-counts) if counts[each]]
    return [(categories.name("scanner", each), int(counts[each])) for each in order]


def course(past: History) -> tuple[list[date], dict[Against, list[float]]]:
    """Days, and the highest mean martingale of each (natural logarithm; NaN where nothing watched)."""
    days = [date.fromisoformat(row["day"]) for row in past.rows]
    found: dict[Against, list[float]] = {
        against: [math.nan if row[against] is None else float(row[against]) for row in past.rows]
        for against in _AGAINST
    }
    return days, found
