"""What the worker calls once a result is on disk.

`Watch.observe` never raises: a failure is counted and shown, and touches no result.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
import numpy as np

from appliance.config import Config
from appliance.drift import cause, measure, reference
from appliance.drift.decisions import accept_baseline, bins_of, replayed
from appliance.drift.measure import Space
from appliance.drift.monitor import Limits, Monitor, Signals, weights
from appliance.drift.store import Against, DriftStore, Kind, unpack
from appliance.drift.streams import INDEX, MISSING, STREAMS, VERSION, Categories, Value
from appliance.errors import SpoolError
from appliance.image import Image
from appliance.package import Package
from appliance.result import Prediction
from appliance.volume import Volume

log = logging.getLogger("scanside.drift")

_SAVED_EVERY = 20  # studies: what a restart counts again at the most
_LOOKED_AT = 2000  # studies, of the latest, for a cause
_THINNED_EVERY = 1000  # studies
_JUMP = 60.0  # seconds by which a clock is wrong at the least to be counted


@dataclass
class _Watched:
    """A package in memory."""

    package: str
    space: Space | None
    monitors: dict[Against, Monitor] = field(default_factory=dict)
    changes: dict[Against, int] = field(default_factory=dict)


class Watch:
    """Looks at studies one after another; one process alone does it.

    Parameters
    ----------
    store
        The ledger.
    """

    def __init__(self, config: Config, store: DriftStore) -> None:
        self._settings, self._store = config.drift, store
        self._limits = Limits(config.drift.alpha, config.drift.run_length)
        self._watched: dict[str, _Watched] = {}
        self._categories: Categories | None = None
        self._clock: tuple[float, float] | None = None

    def observe(
        self, opened: Package, target: str, instance: int, source: Image | Volume, said: Prediction, seconds: float
    ) -> None:
        """A study that was read by a package; a further image of one is counted only."""
        if not self._settings.enabled:
            return
        try:
            self._observe(opened, target, instance, source, said, seconds)
        except Exception as error:  # a result must not suffer from what only watches it
            self._watched.clear()
            self._categories = None
            log.exception("instance %d is not watched for drift", instance)
            try:
                self._store.count("failed", f"image {instance}: {type(error).__name__}")
            except SpoolError as failure:
                log.error("that it is not watched is not recorded: %s", failure)

    def _observe(
        self, opened: Package, target: str, instance: int, source: Image | Volume, said: Prediction, seconds: float
    ) -> None:
        first = source.images[0] if isinstance(source, Volume) else source
        uid = str(first.header.get("StudyInstanceUID", ""))
        study = hashlib.sha256(uid.encode()).digest()[:8]
        watched = self._opened(opened, target)
        values = measure.values(source.pixels, first.header, source.spacing, said, watched.space)
        values["seconds"] = seconds
        with self._store.together():
            self._put(opened, watched, study, instance, values)

    def _opened(self, opened: Package, target: str) -> _Watched:
        found = self._watched.get(opened.sha256)
        if found is None:
            arrays = opened.drift()
            where = Space.of_package(arrays, target)
            found = self._watched[opened.sha256] = _Watched(opened.sha256, where)
            if self._store.package(opened.sha256) is None:
                self._begin(opened, target, arrays)
        return found

    def _begin(self, opened: Package, target: str, arrays: Mapping[str, np.ndarray]) -> None:
        """The first study of a package: its reference comes into the ledger."""
        spec = opened.manifest.drift
        usual = reference.from_arrays(arrays, target) if spec is not None and spec.streams == VERSION else None
        counts = (usual or reference.Reference({})).matrix(self._names())
        with self._store.together():
            for stream in STREAMS:
                for name, number in self._names().names(stream.name).items():
                    self._store.add_category(stream.name, name, number)
            seed = secrets.randbits(62)
            self._store.add_package(opened.sha256, str(opened), counts, seed)
            state = None
            if usual is not None:
                staked = weights(usual.streams(), np.zeros(len(STREAMS), bool))
                state = Monitor(counts, staked, seed ^ 1).to_bytes()
            self._store.begin_monitor(opened.sha256, "validated", state)

    def _names(self) -> Categories:
        if self._categories is None:
            self._categories = self._store.categories()
        return self._categories

    def _put(
        self, opened: Package, watched: _Watched, study: bytes, instance: int, values: Mapping[str, Value]
    ) -> None:
        now = self._now()
        bins = self._bins(values)
        number = self._store.add_study(opened.sha256, study, instance, now, bins)
        if number is None:
            self._store.count("further images of a study")
            return
        for name in ("age", "scanner", "hour"):
            if bins[INDEX[name]] == MISSING:
                self._store.count(f"{STREAMS[INDEX[name]].title.lower()} not stated")
        worth: dict[Against, float] = {}
        for against in self._current(watched, number):
            monitor = watched.monitors[against]
            signals = monitor.observe(bins)
            worth[against] = signals.evidence
            said = self._judge(watched, against, monitor, signals, number, now)
            if said or monitor.studies % _SAVED_EVERY == 0:
                self._store.save_monitor(opened.sha256, against, number, monitor.to_bytes())
        self._store.add_to_day(opened.sha256, now, bins, worth)
        self._learn(watched)
        if number % _THINNED_EVERY == 0:
            self._store.thin(self._settings.studies_days)

    def _now(self) -> float:
        """The time of the clock; that it has jumped since the study before is counted, and no more."""
        now, ticked = time.time(), time.clock_gettime(time.CLOCK_BOOTTIME)
        if self._clock is None:  # how long the device was off, nobody knows
            jump = min(now - (self._store.latest_at() or now), 0.0)
        else:
            jump = now - self._clock[0] - (ticked - self._clock[1])
        self._clock = now, ticked
        if abs(jump) >= _JUMP:
            self._store.count("clock went ahead" if jump > 0 else "clock went back", f"by {abs(jump):.0f} s")
        return now

    def _bins(self, values: Mapping[str, Value]) -> np.ndarray:
        found = np.zeros(len(STREAMS), np.int64)
        for index, stream in enumerate(STREAMS):
            value = values.get(stream.name)
            if stream.numeric:
                found[index] = stream.bin(None if isinstance(value, str) else value)
                continue
            found[index], new = self._names().number(stream.name, None if value is None else str(value))
            if new:
                self._store.add_category(stream.name, str(value), int(found[index]))
        return found

    def _current(self, watched: _Watched, number: int) -> list[Against]:
        """Those that watch, as they were after the study before, whoever began them anew."""
        rows = self._store.monitors(watched.package)
        for against, row in rows.items():
            if row["state"] is None:
                watched.monitors.pop(against, None)
            elif against not in watched.monitors or watched.changes[against] != row["changes"]:
                watched.monitors[against] = replayed(self._store, watched.package, row, number - 1)
            watched.changes[against] = row["changes"]
        return sorted(watched.monitors)

    def _judge(
        self, watched: _Watched, against: Against, monitor: Monitor, signals: Signals, number: int, now: float
    ) -> bool:
        """Raise what has become true; whether anything was."""
        reached: list[tuple[Kind, float]] = []
        known: set[Kind]
        if signals.evidence >= self._limits.alarm:
            reached.append(("alarm", signals.evidence))
        if signals.warning >= np.log(self._limits.run_length):
            reached.append(("warning", signals.warning))
        if signals.confidence >= self._limits.confidence:
            reached.append(("confidence", signals.confidence))
        raised = False
        for kind, evidence in reached:
            # An alarm says all that an early warning would.
            known = {"alarm", kind} if kind == "warning" else {kind}
            if not any(self._store.open_alarm(watched.package, against, each) for each in known):
                found = self._cause(watched.package, against, kind, monitor)
                self._store.raise_alarm(
                    watched.package, against, kind, number, now, evidence, msgspec.json.encode(found)
                )
                log.warning("drift %s: %s", kind, ", ".join(each.stream for each in found.moved))
                raised = True
        if any(kind != "alarm" for kind, _ in reached):
            monitor.restart_warnings()
            raised = True
        return raised

    def _cause(self, package: str, against: Against, kind: Kind, monitor: Monitor) -> cause.Cause:
        row, about = self._store.monitors(package)[against], self._store.package(package) or {}
        studies = self._store.studies(package, row["begun"], _LOOKED_AT)
        with np.errstate(divide="ignore"):
            # Without a change an e-detector is on average as high as the studies are many.
            evidence = monitor.evidence() if kind == "alarm" else np.log(monitor.warnings() / max(len(studies), 1))
        evidence = np.where(monitor.weights > 0, evidence, -np.inf)
        if kind == "confidence":
            evidence = np.where(np.arange(len(STREAMS)) == INDEX["entropy"], np.maximum(evidence, 1.0), -np.inf)
        usual = unpack(about["baseline"] if against == "site" else about["reference"])
        return cause.find(
            evidence,
            bins_of(studies),
            [each["at"] for each in studies],
            [each["instance_id"] for each in studies],
            usual,
            self._names(),
        )

    def _learn(self, watched: _Watched) -> None:
        """Take the baseline as it is once it has enough studies."""
        about = self._store.package(watched.package)
        if about is None or about["accepted_at"] is not None:
            return
        if self._store.number_of_studies(watched.package, about["began_after"]) >= self._settings.baseline_studies:
            accept_baseline(self._store, watched.package, "")
