"""How the device was over time: figures of a period, from a minute to a day, that can be put together.

Pure: `appliance.history_store` keeps them, `appliance.sampler` makes them. Nothing in them is of a patient.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec

# How long periods are, and how many of each length are kept: two days of minutes, two months of hours, ten years.
KEPT = {60: 2 * 1440, 3600: 62 * 24, 86400: 3660}
# Upper ends of the buckets of what monitoring reads; see `Histogram`.
BOUNDS = (0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0)
_RATIO = 1.1  # of a fine bucket's ends: a percentile is at most 5 % off
_SHORTEST = 1e-4

Seconds = dict[int, int]
"""Fine bucket -> how many lie in it; sparse. Bucket n ends at ``_RATIO ** n`` seconds."""


class Model(msgspec.Struct, frozen=True):
    """``reading``: from its first byte that is decoded to its results on disk; ``turnaround``: since it came."""

    reading: Seconds = {}
    turnaround: Seconds = {}


class Gauge(msgspec.Struct, frozen=True, array_like=True):
    mean: float
    most: float


class Period(msgspec.Struct, frozen=True):
    """What happened in a period, and how the machine was.

    Attributes
    ----------
    minutes
        From how many samples it is made.
    models
        Package and version -> how long its results took.
    received, results, rejected, failed, quarantined, withheld
        Instances; of a series, ``results`` counts one.
    sent
        Destination -> objects that it took.
    queue, waiting
        Instances that wait to be read; objects that wait to be sent.
    cpu_percent, memory_bytes, appliance_bytes, celsius
        Of the machine; what the appliance itself holds; None where there is no sensor.
    disk_free
        Bytes, at the end of the period.
    throttled
        Share of its minutes in which the machine ran slower than it can.
    """

    minutes: int = 0
    models: dict[str, Model] = {}
    received: int = 0
    results: int = 0
    rejected: int = 0
    failed: int = 0
    quarantined: int = 0
    withheld: int = 0
    sent: dict[str, int] = {}
    queue: Gauge = Gauge(0.0, 0.0)
    waiting: Gauge = Gauge(0.0, 0.0)
    cpu_percent: Gauge = Gauge(0.0, 0.0)
    memory_bytes: Gauge = Gauge(0.0, 0.0)
    appliance_bytes: Gauge = Gauge(0.0, 0.0)
    celsius: Gauge | None = None
    disk_free: int = 0
    throttled: float = 0.0


class Histogram(msgspec.Struct):
    """Counts in the buckets of `BOUNDS` and one beyond, not cumulated, and the sum of what was counted."""

    counts: list[int] = msgspec.field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    total: float = 0.0

    def add(self, seconds: float) -> None:
        self.counts[next((n for n, bound in enumerate(BOUNDS) if seconds <= bound), len(BOUNDS))] += 1
        self.total += seconds


class Totals(msgspec.Struct):
    """Counts that only ever grow, since this ledger's history began; the keys as of `Period`."""

    received: dict[str, int] = msgspec.field(default_factory=dict)  # by source
    repeated: int = 0
    ended: dict[str, int] = msgspec.field(default_factory=dict)  # by result, rejected, failed, quarantined, withheld
    crashes: int = 0
    sent: dict[str, int] = msgspec.field(default_factory=dict)  # by destination, as the two below
    committed: dict[str, int] = msgspec.field(default_factory=dict)
    undelivered: dict[str, int] = msgspec.field(default_factory=dict)
    reading: dict[str, Histogram] = msgspec.field(default_factory=dict)  # by package and version
    turnaround: dict[str, Histogram] = msgspec.field(default_factory=dict)


def bucket(seconds: float) -> int:
    return math.ceil(math.log(max(seconds, _SHORTEST)) / math.log(_RATIO) - 1e-9)


def percentile(found: Seconds, share: float) -> float | None:
    """Seconds below which this share lies, from the middle of its bucket; None of nothing."""
    count = sum(found.values())
    if not count:
        return None
    rank, seen = share * count, 0
    for number in sorted(found):
        seen += found[number]
        if seen >= rank:
            break
    return float(_RATIO ** (number - 0.5))


def together(found: Iterable[Seconds]) -> Seconds:
    total: Seconds = {}
    for each in found:
        for number, count in each.items():
            total[number] = total.get(number, 0) + count
    return total


def merge(first: Period, second: Period) -> Period:
    """Both as one, where the second follows the first."""
    minutes = first.minutes + second.minutes

    def mean(one: float, other: float) -> float:
        return (one * first.minutes + other * second.minutes) / minutes if minutes else 0.0

    def gauge(one: Gauge, other: Gauge) -> Gauge:
        return Gauge(round(mean(one.mean, other.mean), 3), max(one.most, other.most))

    def heat() -> Gauge | None:
        if first.celsius is None or second.celsius is None:
            return second.celsius or first.celsius
        return gauge(first.celsius, second.celsius)

    models = {
        name: Model(together(each.reading for each in of_model), together(each.turnaround for each in of_model))
        for name in {**first.models, **second.models}
        for of_model in [[period.models[name] for period in (first, second) if name in period.models]]
    }
    return Period(
        minutes=minutes,
        models=models,
        received=first.received + second.received,
        results=first.results + second.results,
        rejected=first.rejected + second.rejected,
        failed=first.failed + second.failed,
        quarantined=first.quarantined + second.quarantined,
        withheld=first.withheld + second.withheld,
        sent=together_by_name(first.sent, second.sent),
        queue=gauge(first.queue, second.queue),
        waiting=gauge(first.waiting, second.waiting),
        cpu_percent=gauge(first.cpu_percent, second.cpu_percent),
        memory_bytes=gauge(first.memory_bytes, second.memory_bytes),
        appliance_bytes=gauge(first.appliance_bytes, second.appliance_bytes),
        celsius=heat(),
        disk_free=second.disk_free,
        throttled=round(mean(first.throttled, second.throttled), 4),
    )


def together_by_name(first: dict[str, int], second: dict[str, int]) -> dict[str, int]:
    return {name: first.get(name, 0) + second.get(name, 0) for name in {**first, **second}}


def days_left(hours: Sequence[tuple[float, Period]]) -> float | None:
    """Until the disk is full at the rate of these periods (when each began, in their order).

    None where that can't be told: less than six hours of them, or the disk does not get fuller.
    """
    if len(hours) < 6:
        return None
    times = [at / 86400 for at, _ in hours]
    free = [float(period.disk_free) for _, period in hours]
    middle, average = sum(times) / len(times), sum(free) / len(free)
    spread = sum((at - middle) ** 2 for at in times)
    slope = sum((at - middle) * (value - average) for at, value in zip(times, free, strict=True)) / spread
    # Less than a thousandth of what is free in a day is noise.
    return free[-1] / -slope if -slope > free[-1] / 1000 else None
