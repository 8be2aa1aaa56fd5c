"""The device's history: what happened counts once, periods are put together, and it stays small."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance import history
from appliance.history import Gauge, Period
from appliance.history_store import HistoryStore
from appliance.sampler import Sampler
from tests.appliance.test_web import Box


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def test_what_happened_counts_exactly_once_and_across_restarts(box: Box) -> None:
    kept = HistoryStore(box.config.ledger_path)
    box.add(1, 0.9)
    box.add(2, reason="No.")
    first = kept.count(Period(minutes=1), 1000.0)
    assert (first.received, first.results, first.rejected) == (2, 1, 1)
    assert list(first.models) == ["chest-pneumonia 1.0.0"]
    again = HistoryStore(box.config.ledger_path)
    assert again.count(Period(minutes=1), 1060.0).received == 0
    box.add(3, 0.1)
    totals = again.totals()  # what came since the last sample is there, too, and not kept
    assert totals.received == {"storage_scp": 3}
    assert totals.ended == {"result": 2, "rejected": 1}
    assert sum(totals.reading["chest-pneumonia 1.0.0"].counts) == 2
    assert again.count(Period(minutes=1), 1120.0).results == 1
    assert again.totals() == totals


def test_hours_and_days_are_put_together_as_minutes_come(box: Box) -> None:
    kept = HistoryStore(box.config.ledger_path)
    for minute in range(90):
        if minute in (3, 70):
            box.add(minute, 0.9)
        kept.count(Period(minutes=1, cpu_percent=Gauge(minute, minute), disk_free=1000 - minute), minute * 60.0)
    assert len(kept.periods(60, 0.0)) == 90
    hours = kept.periods(3600, 0.0)
    assert [(at, period.minutes, period.results) for at, period in hours] == [(0, 60, 1), (3600, 30, 1)]
    assert hours[0][1].cpu_percent == Gauge(29.5, 59.0)
    assert hours[1][1].disk_free == 911
    ((_, day),) = kept.periods(86400, 0.0)
    assert (day.minutes, day.received) == (90, 2)


def test_old_periods_go(box: Box) -> None:
    kept = HistoryStore(box.config.ledger_path)
    for day in range(0, 200, 10):
        kept.count(Period(minutes=1), day * 86400.0)
    assert [len(kept.periods(seconds, 0.0)) for seconds in history.KEPT] == [1, 7, 20]


def test_a_series_counts_as_one_result_and_a_delivery_for_its_destination(box: Box) -> None:
    kept = HistoryStore(box.config.ledger_path)
    identifier = box.add(1, 0.9)
    connection = sqlite3.connect(box.config.ledger_path)
    for what, detail in (
        ("sent", "structured_report to pacs to the left"),
        ("committed", "structured_report by pacs"),
        ("undelivered", "structured_report to ris: AE: refused"),
        ("sent again", "SCANNER at 127.0.0.1"),
        ("crash", "SIGSEGV"),
        ("delivered", ""),
    ):
        connection.execute("INSERT INTO event VALUES (NULL, ?, 1e9, ?, ?)", (identifier, what, detail))
    connection.commit()
    connection.close()
    period = kept.count(Period(minutes=1), 60.0)
    assert period.results == 1
    assert period.sent == {"pacs to the left": 1}
    totals = kept.totals()
    assert (totals.committed, totals.undelivered) == ({"pacs": 1}, {"ris": 1})
    assert (totals.repeated, totals.crashes) == (1, 1)


def test_a_sample_of_this_machine(box: Box) -> None:
    sample = Sampler(box.config).sample(box.store)
    assert sample.minutes == 1
    assert sample.memory_bytes.mean > 0
    assert sample.disk_free > 0


@given(st.lists(st.floats(0.001, 1000.0), min_size=1, max_size=200), st.sampled_from([0.5, 0.95, 0.99]))
def test_percentiles_are_at_most_five_percent_off(seconds: list[float], share: float) -> None:
    found = history.together({history.bucket(each): 1} for each in seconds)
    told = history.percentile(found, share)
    rank = next(value for n, value in enumerate(sorted(seconds), 1) if n >= share * len(seconds))
    assert told is not None
    assert 0.95 <= told / rank <= 1.05


@given(st.lists(st.integers(0, 100), min_size=2, max_size=8))
def test_merging_is_the_same_in_any_grouping(values: list[int]) -> None:
    periods = [
        Period(minutes=1, received=value, queue=Gauge(value, value), sent={"a": value}, disk_free=value)
        for value in values
    ]
    left = periods[0]
    for each in periods[1:]:
        left = history.merge(left, each)
    right = periods[-1]
    for each in reversed(periods[:-1]):
        right = history.merge(each, right)
    assert (left.minutes, left.received, left.sent, left.disk_free) == (
        len(values), sum(values), {"a": sum(values)}, values[-1],
    )  # fmt: skip
    assert left.queue.mean == pytest.approx(right.queue.mean, abs=0.01)
    assert left.queue.most == right.queue.most == max(values)


def test_the_days_until_the_disk_is_full() -> None:
    def hours(*free: int) -> list[tuple[float, Period]]:
        return [(hour * 3600.0, Period(disk_free=each)) for hour, each in enumerate(free)]

    assert history.days_left(hours(*(24_000 - 1000 * hour for hour in range(12)))) == pytest.approx(13 / 24)
    assert history.days_left(hours(*(24_000 for _ in range(12)))) is None
    assert history.days_left(hours(*(1000 * hour for hour in range(1, 12)))) is None
    assert history.days_left(hours(3, 2, 1)) is None
