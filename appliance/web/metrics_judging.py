"""What Prometheus reads of trust in results: drift, safe mode, performance against its floor, fallen back packages.

Labels are packages, their findings and the streams of `appliance.drift.streams`; values of streams are not there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from prometheus_client.core import CounterMetricFamily as Counter
from prometheus_client.core import GaugeMetricFamily as Gauge
from prometheus_client.core import Metric

from appliance.config import Config
from appliance.drift.decisions import replayed
from appliance.drift.monitor import Limits
from appliance.drift.store import Against, DriftStore, Kind
from appliance.drift.streams import STREAMS
from appliance.performance import Performance, Report
from appliance.safe_mode import KINDS
from appliance.safe_mode_store import STRENGTHS
from appliance.truth_store import Measure, TruthStore
from appliance.web import performing

_ALWAYS = 2**62


def collect(config: Config, health: dict[str, Any]) -> Iterator[Metric]:
    yield from _safe_mode(health["safe_mode"])
    yield Gauge(
        "scanside_package_fallbacks",
        "Models of which the device itself has put another package in force.",
        value=len(health["fallbacks"]),
    )
    serves = {
        each["sha256"] for each in health["components"].get("inference", {}).get("serves", ()) if "sha256" in each
    }
    drift, truth = DriftStore(config.ledger_path, read_only=True), TruthStore(config.ledger_path, read_only=True)
    try:
        yield from _drift(config, drift, serves)
        yield from _performance(config, performing.measured(truth), serves)
        yield from _diagnoses(truth.counted(), health["diagnoses"])
    finally:
        drift.close()
        truth.close()


def _safe_mode(found: dict[str, Any]) -> Iterator[Metric]:
    """0 where nothing is in force, 1 banner, 2 review, 3 withheld; by what it was entered for."""
    level = Gauge("scanside_safe_mode", "Safe mode: 1 banner, 2 review, 3 withheld; 0 none.", labels=("kind",))
    for kind in KINDS:
        ranks = [STRENGTHS.index(each["level"]) + 1 for each in found["in_force"] if each["kind"] == kind]
        level.add_metric((kind,), max(ranks, default=0))
    yield level
    yield Counter("scanside_safe_mode_entered", "How often safe mode was entered.", value=found["entered"])
    yield Counter("scanside_safe_mode_left", "How often it was left.", value=found["left"])
    yield Gauge("scanside_retraining_tickets", "Open retraining tickets.", value=found["tickets"])


# --- drift ----------------------------------------------------------------------------------------------------------


def _drift(config: Config, store: DriftStore, serves: set[str]) -> Iterator[Metric]:
    """Of packages that serve, and of others with an open alarm: those of years would be more and more."""
    limits, alarms = Limits(config.drift.alpha, config.drift.run_length), store.alarms(most=10_000, only_open=True)
    wanted = serves | {row["package"] for row in alarms}
    packages = [row for row in store.packages() if row["package"] in wanted]
    watched = "package", "against"
    studies = Counter("scanside_drift_studies", "Studies that were watched for drift.", labels=("package",))
    accepted = Gauge("scanside_drift_baseline_accepted", "Whether the site's baseline is learned.", labels=("package",))
    watches = Gauge("scanside_drift_watches", "Whether a package is watched against a reference.", labels=watched)
    evidence = Gauge(
        "scanside_drift_evidence", "Natural logarithm of the mean martingale: an alarm at its limit.", labels=watched
    )
    warning = Gauge(
        "scanside_drift_warning", "Natural logarithm of the e-detector: an early warning at its limit.", labels=watched
    )
    confidence = Gauge("scanside_drift_confidence", "CUSUM of the entropy: reported at its limit.", labels=watched)
    streams = Gauge(
        "scanside_drift_stream_evidence",
        "Natural logarithm of the martingale of a stream.",
        labels=(*watched, "stream"),
    )
    opened = Gauge("scanside_drift_alarms", "Alarms that nobody has acknowledged.", labels=(*watched, "kind"))
    for about in packages:
        name, rows = about["name"], store.monitors(about["package"])
        studies.add_metric((name,), store.studies_of_days(about["package"]))
        accepted.add_metric((name,), about["accepted_at"] is not None)
        for against in get_args(Against):
            row = rows.get(against)
            for kind in get_args(Kind):
                count = sum(
                    (each["package"], each["against"], each["kind"]) == (about["package"], against, kind)
                    for each in alarms
                )
                opened.add_metric((name, against, kind), count)
            watches.add_metric((name, against), row is not None and row["state"] is not None)
            if row is None or row["state"] is None:
                continue
            monitor = replayed(store, about["package"], row, _ALWAYS)
            signals = monitor.signals()
            evidence.add_metric((name, against), signals.evidence)
            confidence.add_metric((name, against), signals.confidence)
            if math.isfinite(signals.warning):
                warning.add_metric((name, against), signals.warning)
            for stream, each, weight in zip(STREAMS, monitor.evidence(), monitor.weights, strict=True):
                if weight > 0:
                    streams.add_metric((name, against, stream.name), float(each))
    yield from (studies, accepted, watches, evidence, warning, confidence, streams, opened)
    yield Gauge("scanside_drift_evidence_limit", "At which an alarm is raised.", value=limits.alarm)
    yield Gauge(
        "scanside_drift_warning_limit", "At which an early warning is raised.", value=math.log(limits.run_length)
    )
    yield Gauge("scanside_drift_confidence_limit", "At which less confidence is reported.", value=limits.confidence)


# --- performance ----------------------------------------------------------------------------------------------------


def _performance(config: Config, found: Performance, serves: set[str]) -> Iterator[Metric]:
    """Rates of at least `telemetry.least_patients` cases of the last year: of fewer, each would tell of somebody."""
    settings, labels = config.performance, ("package", "finding", "measure")
    rate = Gauge("scanside_performance_ratio", "Sensitivity and specificity at this site.", labels=labels)
    low = Gauge("scanside_performance_ratio_low", "The lower end of its 95 % interval.", labels=labels)
    high = Gauge("scanside_performance_ratio_high", "The upper end of its 95 % interval.", labels=labels)
    cases = Gauge("scanside_performance_cases", "Of how many cases.", labels=labels)
    evidence = Gauge(
        "scanside_performance_evidence_ratio", "Evidence that it is below its floor: a ticket at 1.", labels=labels
    )
    for report, measure in _measured(found.reports, serves):
        estimate = getattr(report.figures, measure)
        key = report.name, report.finding, measure
        if estimate is None or estimate.n < config.telemetry.least_patients:
            continue
        for family, value in ((rate, estimate.value), (low, estimate.low), (high, estimate.high), (cases, estimate.n)):
            family.add_metric(key, value)
        test = report.tests.get(measure)
        if test is not None:
            reached = max(test.wealth / test.wealth_limit, test.detector / test.detector_limit, 0.0)
            evidence.add_metric(key, reached)
    floors = Gauge("scanside_performance_floor_ratio", "What a rate must not fall below.", labels=("measure",))
    for measure, floor in (("sensitivity", settings.sensitivity_floor), ("specificity", settings.specificity_floor)):
        if floor > 0.0:
            floors.add_metric((measure,), floor)
    yield from (rate, low, high, cases, evidence, floors)
    if found.latest is not None:
        yield Gauge(
            "scanside_performance_latest_timestamp_seconds", "When the latest truth became known.", value=found.latest
        )


def _diagnoses(counted: dict[str, int], of_a_day: dict[str, int] | None) -> Iterator[Metric]:
    told = Counter(
        "scanside_diagnoses",
        "Statements of imported files and HL7 messages, by what became of them.",
        labels=("outcome",),
    )
    for outcome, count in counted.items():
        told.add_metric((outcome,), count)
    yield told
    if of_a_day is not None:
        yield Gauge("scanside_diagnosis_messages", "HL7 messages with diagnoses, of 24 h.", value=of_a_day["messages"])
        yield Gauge("scanside_diagnosis_messages_refused", "Of them, refused.", value=of_a_day["refused"])


def _measured(reports: Sequence[Report], serves: set[str]) -> Iterator[tuple[Report, Measure]]:
    for report in reports:
        if report.package in serves:
            for measure in get_args(Measure):
                yield report, measure
