"""What pages and the command line show of drift: one package, its streams over time against what is usual, its alarms.

It reads the ledger and decides nothing.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np

from appliance.config import Drift
from appliance.drift import Outcome
from appliance.drift.cause import Cause
from appliance.drift.decisions import AGAINST, DEPENDENT, OUTCOMES, bins_of, replayed, rests
from appliance.drift.history import percentiles
from appliance.drift.monitor import Limits
from appliance.drift.store import Against, DriftStore, unpack
from appliance.drift.streams import MISSING, STREAMS
from appliance.errors import DriftError
from appliance.package_store import PackageStore


def packages(store: DriftStore) -> list[dict[str, Any]]:
    """Those that were watched: ``package``, ``name``, ``first_at``; in the order of `_watched`."""
    return [{key: row[key] for key in ("package", "name", "first_at")} for row in _watched(store)]


def _watched(store: DriftStore) -> list[dict[str, Any]]:
    """The latest first; before them what somebody has put in force, as after a rollback."""
    choices = PackageStore(store.path, read_only=True)
    in_force = {row["sha256"] for row in choices.in_force().values()}
    choices.close()
    return sorted(store.packages(), key=lambda row: row["package"] not in in_force)


def chosen(store: DriftStore, wanted: str | None) -> dict[str, Any]:
    """The row of a package by its name, its id or the beginning of its SHA-256; the first where nothing is wanted.

    Raises
    ------
    DriftError
    """
    rows = _watched(store)
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
        "studies": store.studies_of_days(package),
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
        watch: dict[str, Any] = {
            "against": against,
            "words": AGAINST[against],
            "watches": False,
            "rests": rests(about, against, row),
            "why": "",
        }
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
