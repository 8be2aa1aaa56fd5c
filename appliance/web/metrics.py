"""What Prometheus reads at ``/metrics``: as of this moment, made anew for each reading, and nothing of a patient.

Labels are what the configuration or the code names: destinations, backends, packages, states. None is of an image, so
that there are as many time series in a year as on the first day.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from flask import Blueprint, Response, request
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily as Counter
from prometheus_client.core import GaugeMetricFamily as Gauge
from prometheus_client.core import HistogramMetricFamily as HistogramMetric
from prometheus_client.core import InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder

from appliance.config import Config
from appliance.history import BOUNDS, Histogram, Totals
from appliance.history_store import HistoryStore
from appliance.store import Store
from appliance.web import here, metrics_judging
from appliance.web.device_state import DeviceState, device_state
from appliance.web.rights import needs

blueprint = Blueprint("metrics", __name__)


@blueprint.get("/metrics")
@needs("see")
def metrics() -> Response:
    config = here.config()
    store = here.store()
    registry = CollectorRegistry()
    registry.register(_Collector(config, store))
    encode, mimetype = choose_encoder(request.headers.get("Accept", ""))
    return Response(encode(registry), content_type=mimetype)


class _Collector:
    def __init__(self, config: Config, store: Store) -> None:
        self._config, self._store = config, store

    def describe(self) -> list[Metric]:
        """Nothing: it would collect to find out."""
        return []

    def collect(self) -> Iterator[Metric]:
        state = device_state(self._config, self._store)
        kept = HistoryStore(self._config.ledger_path, read_only=True)
        try:
            totals = kept.totals()
        finally:
            kept.close()
        yield from _machine(state)
        yield from _parts(state)
        yield from _backends(state)
        yield from _instances(state.health, totals)
        yield from metrics_judging.collect(self._config, state.health)
        yield from _times(totals)
        yield from self._deliveries(state.health, totals)

    def _deliveries(self, health: dict[str, Any], totals: Totals) -> Iterator[Metric]:
        """Of the configured destinations, and of others that something still waits for."""
        rows = {row["destination"]: row for row in health["destinations"]}
        names = {each.name for each in self._config.destinations}
        names |= {name for name, row in rows.items() if row["waiting"] or row["undelivered"]}
        objects = Gauge(
            "scanside_delivery_objects", "Result objects by destination and state.", labels=("destination", "state")
        )
        failing = Gauge(
            "scanside_destination_failing_seconds",
            "Since when a destination takes nothing; 0 while it works.",
            labels=("destination",),
        )
        counted = [
            (
                Counter("scanside_deliveries_sent", "Objects that a destination took.", labels=("destination",)),
                totals.sent,
            ),
            (
                Counter("scanside_deliveries_committed", "Objects that it has committed.", labels=("destination",)),
                totals.committed,
            ),
            (
                Counter("scanside_deliveries_given_up", "Objects that were set aside.", labels=("destination",)),
                totals.undelivered,
            ),
        ]
        for name in sorted(names):
            row = rows.get(name, {})
            for state in ("waiting", "to_commit", "undelivered"):
                objects.add_metric((name, state), row.get(state, 0))
            since = row.get("failing_since")
            failing.add_metric((name,), time.time() - since if since else 0)
            for family, counts in counted:
                family.add_metric((name,), counts.get(name, 0))
        yield objects
        yield failing
        yield from (family for family, _ in counted)


def _machine(state: DeviceState) -> Iterator[Metric]:
    found = state.health
    yield InfoMetricFamily("scanside_build", "The software that runs.", value={"version": found["version"]})
    yield Gauge("scanside_up", "Whether the appliance runs (the page alone may).", value=found["running"])
    yield Gauge("scanside_cpu_ratio", "Load of the processor, from 0 to 1.", value=found["cpu_percent"] / 100)
    yield Gauge("scanside_memory_total_bytes", "Memory of the machine.", value=found["memory"]["total"])
    yield Gauge("scanside_memory_available_bytes", "Memory that is free.", value=found["memory"]["available"])
    yield Gauge("scanside_memory_appliance_bytes", "Memory of all processes.", value=found["memory"]["appliance"])
    yield Gauge("scanside_disk_total_bytes", "Size of the disk of the data folder.", value=found["disk"]["total"])
    yield Gauge("scanside_disk_free_bytes", "What is free of it.", value=found["disk"]["free"])
    if state.disk_days_left is not None:
        yield Gauge(
            "scanside_disk_days_left", "Until it is full, at the rate of the last week.", value=state.disk_days_left
        )
    if found["temperature_celsius"] is not None:
        yield Gauge("scanside_temperature_celsius", "The hottest sensor.", value=found["temperature_celsius"])
    if found["throttling"]["now"] is not None:
        yield Gauge(
            "scanside_throttling", "Whether the machine runs slower than it can.", value=found["throttling"]["now"]
        )
    if state.clock.synchronized is not None:
        yield Gauge(
            "scanside_clock_synchronized",
            "Whether a time server keeps the clock right.",
            value=state.clock.synchronized,
        )
    expiring = [each.expires_at for each in state.credentials if each.expires_at is not None]
    if expiring:
        yield Gauge(
            "scanside_certificate_expires_timestamp_seconds", "When the first certificate expires.", value=min(expiring)
        )


def _parts(state: DeviceState) -> Iterator[Metric]:
    parts = Gauge("scanside_part_age_seconds", "Since a part said last how it is.", labels=("part",))
    for name, part in sorted(state.health["components"].items()):
        parts.add_metric((name,), part["age_seconds"])
    yield parts
    problems = Gauge("scanside_problems", "What is wrong, as the device page lists it.", labels=("severity",))
    for severity in ("alarm", "caution"):
        problems.add_metric((severity,), sum(each.severity == severity for each in state.problems))
    yield problems
    silent = state.health["components"].get("silence", {}).get("silent", ())
    yield Gauge("scanside_modalities_silent", "Modalities that usually send and do not.", value=len(silent))


def _backends(state: DeviceState) -> Iterator[Metric]:
    worker, inference = (state.health["components"].get(name, {}) for name in ("worker", "inference"))
    yield Gauge(
        "scanside_packages_unserved",
        "Packages in force that can't be served while others are; what they read waits.",
        value=len(worker.get("unserved", ())),
    )
    yield Gauge("scanside_reading_ready", "Whether images are read.", value=worker.get("state") == "ready")
    serves = Gauge("scanside_backend_serves", "Whether a backend serves a package.", labels=("backend", "package"))
    proved = Gauge("scanside_backend_proved", "Whether it has a valid receipt.", labels=("backend", "package"))
    latency = Gauge(
        "scanside_backend_receipt_seconds", "Time of one image in its receipt.", labels=("backend", "package")
    )
    for trial in worker.get("trials", ()):
        labels = trial["backend"], trial["package"]
        serves.add_metric(labels, trial["serves"])
        proved.add_metric(labels, trial["seconds"] is not None)
        if trial["seconds"] is not None:
            latency.add_metric(labels, trial["seconds"])
    yield from (serves, proved, latency)
    yield Gauge(
        "scanside_receipts_proved_timestamp_seconds",
        "When the backends proved themselves.",
        value=worker.get("proved_at") or 0,
    )
    stops = Counter("scanside_inference_restarts", "How often a backend's process was replaced.", labels=("backend",))
    for name, count in sorted(inference.get("stops", {}).items()):
        stops.add_metric((name,), count)
    yield stops


def _instances(health: dict[str, Any], totals: Totals) -> Iterator[Metric]:
    states = Gauge("scanside_instances", "Instances in the ledger by state.", labels=("state",))
    for name, count in health["counts"].items():
        states.add_metric((name,), count)
    yield states
    yield Gauge(
        "scanside_queue_length",
        "Instances that wait or are being read.",
        value=health["counts"]["received"] + health["counts"]["claimed"],
    )
    yield Gauge("scanside_series_gathering", "Series that wait to be complete.", value=len(health["series"]))
    received = Counter(
        "scanside_instances_received", "Instances that came in, by the way they came.", labels=("source",)
    )
    for source in ("storage_scp", "stow", "upload", "drop_folder"):
        received.add_metric((source,), totals.received.get(source, 0))
    yield received
    yield Counter("scanside_instances_repeated", "Instances that were sent again.", value=totals.repeated)
    ended = Counter(
        "scanside_instances_ended", "What came of instances; of a series, result counts one.", labels=("outcome",)
    )
    for outcome in ("result", "rejected", "failed", "quarantined", "withheld"):
        ended.add_metric((outcome,), totals.ended.get(outcome, 0))
    yield ended
    yield Counter(
        "scanside_reading_crashes", "How often an image stopped the process that read it.", value=totals.crashes
    )
    recount = health["recount"]
    if recount:
        yield Gauge(
            "scanside_recount_faults", "Faults of the latest proof of the ledger.", value=recount["fault_count"]
        )
        yield Gauge("scanside_recount_timestamp_seconds", "When it was made.", value=recount["at"])


def _times(totals: Totals) -> Iterator[Metric]:
    for name, what, found in (
        ("scanside_reading_seconds", "From the first byte decoded to the results on disk.", totals.reading),
        ("scanside_turnaround_seconds", "From an image's arrival to its results on disk.", totals.turnaround),
    ):
        family = HistogramMetric(name, what, labels=("package",))
        for package, histogram in sorted(found.items()):
            family.add_metric((package,), list(_cumulated(histogram)), histogram.total)
        yield family


def _cumulated(histogram: Histogram) -> Iterator[tuple[str, float]]:
    count = 0
    for bound, each in zip((*map(str, BOUNDS), "+Inf"), histogram.counts, strict=True):
        count += each
        yield bound, count
