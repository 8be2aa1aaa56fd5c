"""What pages and the command line show of drift: one package, its streams over time against what is usual, its alarms.

It reads the ledger and decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import msgspec
import numpy as np

from appliance.config import Drift
from appliance.drift import change_point
from appliance.drift.cause import Cause
from appliance.drift.decisions import DEPENDENT, OUTCOMES, bins_of, replayed
from appliance.drift.monitor import Limits
from appliance.drift.store import Against, DriftStore, Outcome, unpack
from appliance.drift.streams import GROUPS, INDEX, MISSING, MOST_BINS, STREAMS, Categories, Stream
from appliance.errors import DriftError

_COLUMNS = 60  # of a chart, at the most: several days become one
_FEW_DAYS = 6  # with fewer, columns are of studies instead
_LATEST = 200  # studies that PSI and KS compare
_CHECKED = 500  # studies that the test of independence looks at
_MOST_NAMES = 5
AGAINST: dict[Against, str] = {"validated": "what the model was validated on", "site": "this site's baseline"}


@dataclass(frozen=True)
class Column:
    """Some days, or some studies: its beginning in words, and counts ``(streams, bins)``."""

    label: str
    counts: np.ndarray


@dataclass(frozen=True)
class History:
    """The latest days: rows of the ledger, and their counts ``(days, streams, bins)``."""

    rows: list[dict[str, Any]]
    counts: np.ndarray


@dataclass(frozen=True)
class Line:
    """One stream for a chart: of a number 10th, 50th and 90th percentile as bins, of a category shares by name.

    ``usual`` is the same of the reference; NaN where a column has no value.
    """

    stream: Stream
    labels: tuple[str, ...]
    band: np.ndarray | None
    usual: np.ndarray | None
    shares: dict[str, np.ndarray]
    usual_shares: dict[str, float]
    missing: float
    usual_missing: float
    psi: float | None
    ks: float | None
    independent: float | None
    left_out: bool


def packages(store: DriftStore) -> list[dict[str, Any]]:
    """Those that were watched, the latest first: ``package``, ``name``, ``first_at``."""
    return [{key: row[key] for key in ("package", "name", "first_at")} for row in store.packages()]


def chosen(store: DriftStore, wanted: str | None) -> dict[str, Any]:
    """The row of a package by its name, its id or the beginning of its SHA-256; the latest where nothing is wanted.

    Raises
    ------
    DriftError
    """
    rows = store.packages()
    if not rows:
        raise DriftError("no study was watched for drift yet", hint="the first one that is read begins it")
    for row in rows:
        if not wanted or row["package"].startswith(wanted) or wanted in (row["name"], row["name"].split()[0]):
            return row
    raise DriftError(f"no package {wanted!r} was watched; there are: {', '.join(row['name'] for row in rows)}")


def status(store: DriftStore, settings: Drift, about: dict[str, Any]) -> dict[str, Any]:
    """How a package is watched at the moment, for people and as JSON."""
    limits = Limits(settings.alpha, settings.run_length)
    package = about["package"]
    found: dict[str, Any] = {
        "package": about["name"],
        "since": about["first_at"],
        "studies": sum(row["studies"] for row in store.days(package, 100_000)),
        "alpha": settings.alpha,
        "alarm_at": round(1 / settings.alpha),
        "run_length": settings.run_length,
        "baseline": _baseline(store, settings, about),
        "watches": [],
        "alarms": [alarm(row) for row in store.alarms(only_open=True) if row["package"] == package],
    }
    rows = store.monitors(package)
    for against in AGAINST:
        row = rows.get(against)
        watch: dict[str, Any] = {"against": against, "words": AGAINST[against], "watches": False, "why": ""}
        if row is None or row["state"] is None:
            watch["why"] = _why_not(against, about, row)
        else:
            monitor = replayed(store, package, row, 2**62)
            signals = monitor.signals()
            watch.update(
                watches=True,
                studies=monitor.studies,
                evidence=signals.evidence,
                times=math.exp(min(signals.evidence, 700)),
                warning=math.exp(min(signals.warning, 700)),
                confidence=signals.confidence,
                confidence_at=limits.confidence,
                streams={
                    stream.name: round(float(each), 3)
                    for stream, each, weight in zip(STREAMS, monitor.evidence(), monitor.weights, strict=True)
                    if weight > 0
                },
            )
        found["watches"].append(watch)
    return found


def _why_not(against: Against, about: dict[str, Any], row: dict[str, Any] | None) -> str:
    if against == "validated" and not unpack(about["reference"]).any():
        return "the package has no reference"
    if against == "site" and about["accepted_at"] is None:
        return "the baseline is still learned"
    return "it rests since an alarm was acknowledged" if row is not None else "it has not begun"


def _baseline(store: DriftStore, settings: Drift, about: dict[str, Any]) -> dict[str, Any]:
    dependent: dict[str, float] = msgspec.json.decode(about["dependent"])
    learned = store.number_of_studies(about["package"], about["began_after"]) if about["accepted_at"] is None else 0
    return {
        "accepted": about["accepted_at"] is not None,
        "accepted_at": about["accepted_at"],
        "accepted_by": about["accepted_by"],
        "studies": about["studies"] or learned,
        "of": settings.baseline_studies,
        "left_out": sorted(name for name, p in dependent.items() if p < DEPENDENT),
    }


def alarm(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the ledger's, with its cause and what may follow."""
    found = msgspec.json.decode(row["cause"], type=Cause)
    outcomes: list[Outcome] = ["watch", "rest"] if row["against"] == "validated" else ["watch", "baseline", "rest"]
    return {
        **{key: value for key, value in row.items() if key not in ("cause", "package")},
        "kind_words": KINDS[row["kind"]],
        "against_words": AGAINST[row["against"]],
        "words": found.words,
        "moved": [msgspec.to_builtins(each) for each in found.moved],
        "examples": list(found.examples),
        "studies": found.studies,
        "outcomes": {outcome: OUTCOMES[outcome] for outcome in outcomes},
        "outcome_words": OUTCOMES.get(row["outcome"], ""),
    }


KINDS = {"alarm": "Alarm", "warning": "Early warning", "confidence": "Confidence has fallen"}


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
    labels = tuple(column.label for column in columns)
    for number, stream in enumerate(STREAMS):
        own = whole[:, number]
        usual = site[number] if site is not None else validated[number]
        if not own[:, 1:].any() and not usual[1:].any():
            continue
        found[GROUPS[stream.group]].append(
            _line(
                stream, labels, own, usual, now[number], categories,
                None if score is None or stream.quiet else change_point.autocorrelation(score[:, number]),
                left_out.get(stream.name, 1.0) < DEPENDENT,
            )
        )  # fmt: skip
    return {title: each for title, each in found.items() if each}


def _line(
    stream: Stream,
    labels: tuple[str, ...],
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
        labels=labels,
        band=percentiles(own) if stream.numeric else None,
        usual=percentiles(usual[None])[0] if stream.numeric and usual[1:].any() else None,
        shares=shares,
        usual_shares=usual_shares,
        missing=float(own[:, MISSING].sum() / total) if total else 0.0,
        usual_missing=float(usual[MISSING] / usual.sum()) if usual.sum() else math.nan,
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
            found.append(Column(datetime.fromtimestamp(part[0]["at"]).strftime("%-d %b, %H:%M"), counts))
        return found
    size = max(-(-len(rows) // _COLUMNS), 1)
    return [
        Column(
            date.fromisoformat(rows[begin]["day"]).strftime("%-d %b %Y"),
            past.counts[begin : begin + size].sum(axis=0),
        )
        for begin in range(0, len(rows), size)
    ]


def scanners(store: DriftStore, past: History) -> list[tuple[str, int]]:
    """How many studies came from each scanner, most first."""
    categories, counts = store.categories(), past.counts[:, INDEX["scanner"]].sum(axis=0)
    order = [int(each) for each in np.argsort(-counts) if counts[each]]
    return [(categories.name("scanner", each), int(counts[each])) for each in order]


def course(past: History) -> tuple[list[str], dict[Against, list[float]]]:
    """Days in words, and the highest mean martingale of each (natural logarithm; NaN where nothing watched)."""
    labels = [date.fromisoformat(row["day"]).strftime("%-d %b %Y") for row in past.rows]
    worth: dict[Against, list[float]] = {
        against: [math.nan if row[against] is None else float(row[against]) for row in past.rows] for against in AGAINST
    }
    return labels, worth


def usual(store: DriftStore, about: dict[str, Any]) -> list[dict[str, Any]]:
    """The site's baseline by stream, in words; of the studies so far while it is learned."""
    dependent: dict[str, float] = msgspec.json.decode(about["dependent"])
    if about["baseline"] is not None:
        counts = unpack(about["baseline"])
    else:
        counts = np.zeros_like(unpack(about["reference"]))
        for study in bins_of(store.studies(about["package"], about["began_after"])):
            counts[np.arange(len(STREAMS)), study] += 1
    categories, found = store.categories(), []
    for number, stream in enumerate(STREAMS):
        row, total = counts[number], max(int(counts[number].sum()), 1)
        if not row[1:].any():
            continue
        if stream.numeric:
            low, middle, high = (stream.middle(round(each)) for each in percentiles(row[None])[0])
            words = f"{middle:.3g} ({low:.3g} to {high:.3g}){f' {stream.unit}' if stream.unit else ''}"
        else:
            most = [int(each) for each in np.argsort(-row)[:3] if row[each]]
            words = ", ".join(f"{categories.name(stream.name, each)} {row[each] / total:.0%}" for each in most)
        p = dependent.get(stream.name)
        test = "not tested" if p is None else "no, raises no alarm" if p < DEPENDENT else "yes"
        found.append(
            {
                "stream": stream.name,
                "title": stream.title,
                "usual": words,
                "missing": float(row[MISSING] / total),
                "independent": f"raises no alarm: {stream.quiet}" if stream.quiet else test,
            }
        )
    return found


def exported(store: DriftStore, about: dict[str, Any], days: int) -> dict[str, Any]:
    """Counts of every day, stream and value that occurred; of numbers by the lower edge of their bin."""
    categories = store.categories()

    def named(number: int, row: np.ndarray) -> dict[str, int]:
        stream = STREAMS[number]
        return {
            "" if each == MISSING else f"{stream.low(each):.6g}" if stream.numeric else categories.name(
                stream.name, each
            ): int(row[each])
            for each in np.flatnonzero(row).tolist()
        }  # fmt: skip

    def counted(counts: np.ndarray) -> dict[str, dict[str, int]]:
        return {stream.name: named(number, counts[number]) for number, stream in enumerate(STREAMS)}

    return {
        "package": about["name"],
        "package_sha256": about["package"],
        "baseline": counted(unpack(about["baseline"])) if about["baseline"] is not None else None,
        "days": [
            {
                "day": row["day"],
                "studies": row["studies"],
                "evidence": {against: row[against] for against in AGAINST},
                "counts": counted(unpack(row["counts"])),
            }
            for row in store.days(about["package"], days)
        ],
    }
