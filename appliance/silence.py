"""Has a modality that usually sends gone silent? Learned from when it sent in the weeks before, or told by hours.

Pure: it sees quarters of an hour in which something came, never a clock or the ledger. What is usual at a time is how
long the silence was at the same time of other weeks; weekends, nights and lunch need no rule that way. How far beyond
that a silence must go depends on how far it went before: one who sends a few times a day is given more than one who
sends every minute. An alarm stays until the modality sends again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, time, tzinfo
from itertools import pairwise

from appliance.config import ExpectedHours

QUARTER = 900  # seconds
_DAY, _WEEK = 96, 7 * 96  # quarters
# As far beside the same time of the week it is looked, too: work does not begin to the minute, and clocks are changed.
_BESIDE = 6
_MARGIN, _TIMES = 4, 1.5  # a silence counts once it is longer than usual by both, at the least
_BEYOND = 1.5  # and by so many times as much as those of the past were
_FORGIVING_WEEKS = 5  # of so many, one may have been a holiday, or this device was off
GONE = 4 * _WEEK  # who was silent for so long has gone
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@dataclass(frozen=True)
class Silence:
    """An alarm. Times are quarters since 1970, durations are quarters.

    Attributes
    ----------
    last, raised
        When something came last, and when that became too long ago.
    usual
        The longest silence that is usual at that time.
    weeks
        From so many weeks this was learned; 0 where hours were configured.
    """

    last: int
    raised: int
    usual: float
    weeks: int


def judge(
    arrivals: Sequence[int],
    now: int,
    listening_since: int,
    weeks: int,
    least_weeks: int,
    expected: Sequence[ExpectedHours] = (),
    zone: tzinfo | None = None,
) -> Silence | None:
    """Whether a modality is silent for longer than usual.

    Parameters
    ----------
    arrivals
        Quarters in which something came, in ascending order, each once; at least one.
    now, listening_since
        Quarters; before the latter nothing could be received.
    weeks, least_weeks
        How far back it is looked, and from how many weeks on anything is said.
    expected
        Hours in which it must send: where there are any, nothing is learned.
    zone
        Of these hours; None for this device's.
    """
    last = arrivals[-1]
    if now - last > GONE:
        return None
    begin = max(last, listening_since)
    margin = 0.0 if expected else _margin(arrivals, weeks, least_weeks)
    for at in range(begin + 1, now + 1):
        learned = 0
        if expected:
            usual = _told(expected, at, begin, zone)
        else:
            usual, learned = _usual(arrivals, at, weeks, least_weeks)
        if usual is not None and at - begin > (max(usual * _TIMES, usual + margin) if learned else usual):
            return Silence(last, at, usual, learned)
    return None


def _margin(arrivals: Sequence[int], weeks: int, least_weeks: int) -> float:
    """By how much a silence must be longer than usual, so that those of the past would have made few alarms."""
    beyond = []
    for start, end in pairwise(arrivals):
        if end - start > _MARGIN:
            usual, _ = _usual(arrivals, end, weeks, least_weeks, before_only=False)
            if usual is not None and end - start > usual + _MARGIN:
                beyond.append(end - start - usual)
    borne = int(arrivals[-1] - arrivals[0] >= _FORGIVING_WEEKS * _WEEK)
    beyond.sort(reverse=True)
    return max(_MARGIN, _BEYOND * beyond[borne] if len(beyond) > borne else 0.0)


def _usual(
    arrivals: Sequence[int], at: int, weeks: int, least_weeks: int, before_only: bool = True
) -> tuple[int | None, int]:
    """The longest silence that is usual at this time of the week, None where too little is known; of how many weeks."""
    found = []
    for week in range(-weeks, 0 if before_only else weeks + 1):
        then = at + week * _WEEK
        if week and arrivals[0] <= then - _BESIDE and then + _BESIDE < (at if week < 0 else arrivals[-1]):
            found.append(_longest(arrivals, then - _BESIDE, then + _BESIDE))
    if len(found) < least_weeks:
        return None, len(found)
    found.sort()
    return found[-2 if len(found) >= _FORGIVING_WEEKS else -1], len(found)


def _longest(arrivals: Sequence[int], begin: int, end: int) -> int:
    """The longest silence that could be seen at some moment from ``begin`` to ``end``; something came before."""
    first, after = bisect_right(arrivals, begin), bisect_right(arrivals, end)
    ends = [*arrivals[first:after], end]
    starts = arrivals[first - 1 : after]
    return max(stop - start for start, stop in zip(starts, ends, strict=True))


def _told(expected: Sequence[ExpectedHours], at: int, silent_since: int, zone: tzinfo | None) -> int | None:
    """The longest silence that is allowed at this time, None out of hours."""
    moment = datetime.fromtimestamp(at * QUARTER, zone)
    limits = []
    for hours in expected:
        begin, end = (time.fromisoformat(text) for text in (hours.begin, hours.end))
        if _DAYS[moment.weekday()] not in hours.days or not begin <= moment.time() < end:
            continue
        opened = datetime.combine(moment.date(), begin, moment.tzinfo).timestamp() / QUARTER
        # A silence counts from the beginning of the hours, at the earliest.
        limits.append(-(-hours.minutes * 60 // QUARTER) + max(round(opened) - silent_since, 0))
    return min(limits, default=None)
