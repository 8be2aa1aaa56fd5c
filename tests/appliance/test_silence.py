"""The alarm for a modality that goes silent: what must always hold, and what is learned from ordinary weeks."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from appliance import silence
from appliance.config import Config, ExpectedHours
from appliance.silence import QUARTER, judge
from appliance.silence_watch import SilenceWatch
from appliance.store import Arrival, Store

DAY, WEEK = 96, 7 * 96
MONDAY = 4 * DAY  # 1970-01-05 was one
# Quarters of a week in which something comes, the same in every week.
WEEKS_PATTERN = st.sets(st.integers(0, WEEK - 1), min_size=1, max_size=40).map(sorted)


def repeated(pattern: list[int], weeks: int) -> list[int]:
    return [MONDAY + week * WEEK + quarter for week in range(weeks) for quarter in pattern]


def office(weeks: int, step: int = 2) -> list[int]:
    """Monday to Friday, 8 to 17 h, every half hour."""
    return repeated([day * DAY + quarter for day in range(5) for quarter in range(32, 68, step)], weeks)


def at(week: int, day: int, hour: float) -> int:
    return MONDAY + week * WEEK + day * DAY + int(hour * 4)


def ask(arrivals: list[int], now: int, since: int = 0) -> silence.Silence | None:
    return judge(arrivals, now, since, weeks=8, least_weeks=3)


@settings(max_examples=60, deadline=None)
@given(pattern=WEEKS_PATTERN, weeks=st.integers(1, 9), later=st.integers(0, WEEK))
def test_who_goes_on_as_ever_never_alarms(pattern: list[int], weeks: int, later: int) -> None:
    arrivals = repeated(pattern, weeks)
    now = min(arrivals[-1] + later, MONDAY + weeks * WEEK + pattern[0] - 1)
    assert ask(arrivals, now) is None


@settings(max_examples=60, deadline=None)
@given(pattern=WEEKS_PATTERN, weeks=st.integers(5, 9), data=st.data())
def test_who_stops_is_noticed_and_stays_noticed_until_it_sends(
    pattern: list[int], weeks: int, data: st.DataObject
) -> None:
    arrivals = repeated(pattern, weeks)
    last = arrivals[-1]
    alarm = ask(arrivals, last + 2 * WEEK)
    assert alarm is not None
    assert alarm.last == last < alarm.raised <= last + 2 * WEEK
    assert ask(arrivals, alarm.raised - 1) is None
    assert ask(arrivals, data.draw(st.integers(alarm.raised, last + silence.GONE))) == alarm
    assert ask([*arrivals, alarm.raised], alarm.raised + 1) is None


@settings(max_examples=40, deadline=None)
@given(pattern=WEEKS_PATTERN, weeks=st.integers(1, 2), later=st.integers(0, 2 * WEEK))
def test_nothing_is_said_before_enough_is_known(pattern: list[int], weeks: int, later: int) -> None:
    arrivals = repeated(pattern, weeks)
    assert ask(arrivals, min(arrivals[-1] + later, arrivals[0] + 3 * WEEK)) is None


@settings(max_examples=40, deadline=None)
@given(arrivals=st.sets(st.integers(0, 8 * WEEK), min_size=1, max_size=60).map(sorted), later=st.integers(0, WEEK),
       shift=st.integers(1, 500))  # fmt: skip
def test_only_the_time_of_the_week_counts(arrivals: list[int], later: int, shift: int) -> None:
    one = ask(arrivals, arrivals[-1] + later)
    moved = ask([each + shift * WEEK for each in arrivals], arrivals[-1] + later + shift * WEEK)
    assert (one is None) == (moved is None)
    if one and moved:
        assert (one.raised + shift * WEEK, one.usual, one.weeks) == (moved.raised, moved.usual, moved.weeks)


def test_an_hour_too_long_in_the_working_day_is_noticed_and_a_weekend_is_not() -> None:
    arrivals = [each for each in office(6) if each <= at(5, 1, 10)]  # stops on a Tuesday at 10
    alarm = ask(arrivals, at(5, 1, 13))
    assert alarm is not None
    assert (alarm.raised - alarm.last) / 4 <= 2.0
    friday = office(6)
    assert ask(friday, at(6, 0, 8)) is None
    monday = ask(friday, at(6, 0, 12))
    assert monday is not None
    assert monday.raised >= at(6, 0, 8)


def test_one_holiday_before_does_not_make_it_blind() -> None:
    arrivals = [each for each in office(8) if not at(4, 1, 0) <= each < at(4, 2, 0)]
    arrivals = [each for each in arrivals if each <= at(7, 1, 10)]
    alarm = ask(arrivals, at(7, 1, 14))
    assert alarm is not None


def test_while_the_device_was_off_nobody_was_silent() -> None:
    arrivals = [each for each in office(6) if each <= at(5, 1, 10)]
    assert ask(arrivals, at(5, 3, 9), since=at(5, 3, 8.75)) is None
    assert ask(arrivals, at(5, 3, 12), since=at(5, 3, 8.75)) is not None


def test_who_has_been_gone_for_weeks_is_not_shown_for_ever() -> None:
    arrivals = office(6)
    assert ask(arrivals, arrivals[-1] + silence.GONE + 1) is None


def test_configured_hours_count_instead() -> None:
    hours = [ExpectedHours(ae_title="CT1", days=("mon", "tue"), begin="08:00", end="12:00", minutes=60)]
    last = at(0, 0, 10)

    def ask_told(now: int) -> silence.Silence | None:
        return judge([last], now, 0, 8, 3, hours, UTC)

    assert datetime.fromtimestamp(last * QUARTER, UTC).strftime("%a %H:%M") == "Mon 10:00"
    assert ask_told(at(0, 0, 11)) is None
    alarm = ask_told(at(0, 0, 11.25))
    assert alarm is not None
    assert alarm.weeks == 0
    last = at(0, 0, 11.75)
    assert ask_told(at(0, 1, 9)) is None, "a night is no silence"
    assert ask_told(at(0, 1, 9.5)) is not None


def test_the_watch_reads_the_ledger_bit_by_bit_and_says_who_is_silent(tmp_path: Path) -> None:
    config = Config(data_dir=str(tmp_path))
    store = Store(config.ledger_path)
    now = time.time() // QUARTER * QUARTER
    number = 0
    for week in range(7):
        for hour in range(1, 10):  # this far back at the same time of the week, but not in the last 9 hours
            number += 1
            when = now - week * 7 * 86400 - hour * 3600 - (9 * 3600 if week == 0 else 0)
            arrival = Arrival(f"1.2.{number}", "1.2", f"{number:064d}", "x", 1, "storage_scp", "CT1", ae_title="CT1")
            identifier = store.receive(arrival).instance_id
            with store._transaction() as connection:
                connection.execute("UPDATE instance SET received_at = ? WHERE id = ?", (when, identifier))
    watch = SilenceWatch(config, store, started_at=now - 8 * 7 * 86400)
    said = watch.look()
    for _ in range(30):
        said = watch.look()
        if said["state"] != "learning":
            break
    assert said["state"] == "silent"
    (alarm,) = said["silent"]
    assert alarm["ae_title"] == "CT1"
    assert alarm["last"] == now - 10 * 3600
    assert alarm["weeks"] >= 3
