"""What people decide about alarms and baselines, and the watches that follow from it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from appliance.drift import Outcome, change_point
from appliance.drift.monitor import Monitor, weights
from appliance.drift.store import Against, DriftStore, unpack
from appliance.drift.streams import STREAMS
from appliance.errors import DriftError

DEPENDENT = 0.001  # a p-value of the test of independence below which a stream is left out
_LEAST_BASELINE = 100
_LEAST_LEFT = 8  # streams, for the site to be watched at all

AGAINST: dict[Against, str] = {"validated": "what the model was validated on", "site": "this site's baseline"}
OUTCOMES: dict[Outcome, str] = {
    "watch": "mended: watch on with the same reference",
    "baseline": "usual from now on: learn the site's baseline anew",
    "rest": "known: no more alarms against this reference",
}


def accept_baseline(store: DriftStore, package: str, by: str) -> int:
    """Take the studies so far as what is usual at this site, and watch against them; how many they are.

    Parameters
    ----------
    by
        Who decided; '' where it has become long enough.

    Raises
    ------
    DriftError
        There are too few, or it was accepted already.
    """
    with store.together():
        about = _known(store, package)
        if about["accepted_at"] is not None:
            raise DriftError(
                f"the baseline of {about['name']} was accepted already",
                hint="scanside drift baseline start learns it anew",
            )
        studies = bins_of(store.studies(package, about["began_after"]))
        if len(studies) < _LEAST_BASELINE:
            raise DriftError(
                f"the baseline of {about['name']} has {len(studies)} studies; it needs {_LEAST_BASELINE} at the least"
            )
        counts = np.zeros_like(unpack(about["reference"]))
        for study in studies:
            counts[np.arange(len(STREAMS)), study] += 1
        scores = change_point.scores(studies, about["seed"])
        dependent = {
            stream.name: round(change_point.autocorrelation(scores[:, number]), 6)
            for number, stream in enumerate(STREAMS)
            if not stream.quiet
        }
        left_out = _left_out(dependent)
        staked = weights(np.ones(len(STREAMS), bool), left_out)
        enough = int((staked > 0).sum()) >= _LEAST_LEFT
        store.set_baseline(package, counts, len(studies), by, dependent)
        store.begin_monitor(package, "site", Monitor(counts, staked, about["seed"] ^ 2).to_bytes() if enough else None)
        names = ", ".join(stream.title.lower() for stream, out in zip(STREAMS, left_out, strict=True) if out)
        store.event(
            by,
            f"{about['name']}: {len(studies)} studies are the site's baseline"
            + (f"; left out, since studies depend on those before them: {names}" if names else "")
            + ("" if enough else "; too few streams are left to watch the site"),
        )
        return len(studies)


def start_baseline(store: DriftStore, package: str, by: str, why: str = "") -> None:
    """Learn anew what is usual at this site, from the next study on."""
    with store.together():
        about = _known(store, package)
        store.forget_baseline(package)
        store.begin_monitor(package, "site", None)
        store.event(by, f"{about['name']}: the site's baseline is learned anew{f' ({why})' if why else ''}")


def acknowledge(store: DriftStore, alarm: int, by: str, why: str, outcome: Outcome) -> None:
    """Say that an alarm was seen and why it was, and what follows.

    Parameters
    ----------
    outcome
        ``watch``: its cause is mended, so after an alarm the watch begins anew with the same reference.
        ``baseline``: it is what is usual from now on, so the site's baseline is learned anew.
        ``rest``: no more alarms against this reference.

    Raises
    ------
    DriftError
        There is no such alarm, or it was acknowledged, or no reason is given.
    """
    if not why.strip():
        raise DriftError("an acknowledgement says why", hint="for instance: new detector since Monday, images are fine")
    with store.together():
        row = store.acknowledge(alarm, by, why.strip(), outcome)
        package, against = row["package"], row["against"]
        about = _known(store, package)
        if outcome == "baseline" and against == "validated":
            raise DriftError(
                "what the model was validated on can't be learned anew here",
                hint="let the watch rest, or begin anew once the cause is mended",
            )
        if outcome == "baseline":
            start_baseline(store, package, by, f"after alarm {alarm}")
        elif outcome == "rest":
            store.begin_monitor(package, against, None)
        elif row["kind"] == "alarm" and (against == "validated" or about["accepted_at"] is not None):
            counts = unpack(about["baseline"] if against == "site" else about["reference"])
            before = store.monitors(package)[against]["state"]
            if before is not None:
                staked = Monitor.from_bytes(before).weights
                store.begin_monitor(package, against, Monitor(counts, staked, secrets.randbits(62)).to_bytes())
        store.event(by, f"alarm {alarm} acknowledged: {why.strip()} ({OUTCOMES[outcome]})")


def resume(store: DriftStore, package: str, against: Against, by: str) -> None:
    """Let a watch begin anew that rests since an alarm was acknowledged.

    Raises
    ------
    DriftError
        It does not rest.
    """
    with store.together():
        about = _known(store, package)
        row = store.monitors(package).get(against)
        if not rests(about, against, row):
            raise DriftError("no watch rests against that", hint="scanside drift status says what is watched")
        counts = unpack(about["baseline"] if against == "site" else about["reference"])
        dependent = msgspec.json.decode(about["dependent"]) if against == "site" else {}
        left_out = _left_out(dependent)
        known = np.asarray(counts.any(axis=1)) if against == "validated" else np.ones(len(STREAMS), bool)
        staked = weights(known, left_out)
        store.begin_monitor(package, against, Monitor(counts, staked, secrets.randbits(62)).to_bytes())
        store.event(by, f"{about['name']} is watched against {AGAINST[against]} again")


def rests(about: Mapping[str, Any], against: Against, row: Mapping[str, Any] | None) -> bool:
    """Whether somebody has let the watch rest whose row this is: a reference is there, and nothing looks at it."""
    there = about["accepted_at"] is not None if against == "site" else unpack(about["reference"]).any()
    return bool(there) and row is not None and row["state"] is None


def _left_out(dependent: Mapping[str, float]) -> np.ndarray:
    """bool ``(streams,)``, by the p-value of each test of independence."""
    return np.array([dependent.get(stream.name, 1.0) < DEPENDENT for stream in STREAMS])


def _known(store: DriftStore, package: str) -> dict[str, Any]:
    about = store.package(package)
    if about is None:
        raise DriftError("no study of this package was watched yet")
    return about


def bins_of(studies: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """int ``(studies, streams)`` of rows of the ledger."""
    if not studies:
        return np.zeros((0, len(STREAMS)), np.int64)
    return np.stack([np.frombuffer(each["bins"], np.uint8) for each in studies]).astype(np.int64)


def replayed(store: DriftStore, package: str, row: Mapping[str, object], until: int) -> Monitor:
    """A watch as it was after the study ``until``: as it was saved, and the studies since."""
    state, after = row["state"], row["after"]
    assert isinstance(state, bytes) and isinstance(after, int)
    monitor = Monitor.from_bytes(state)
    for study in store.studies(package, after):
        if study["id"] <= until:
            monitor.observe(np.frombuffer(study["bins"], np.uint8))
    return monitor
