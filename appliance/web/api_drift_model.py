"""What the JSON API answers and takes of drift; otherwise as `appliance.web.api_model`."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from appliance.drift import Outcome
from appliance.drift.store import Against, Kind
from appliance.web.api_model import Answer, Ask, Number


class Baseline(Answer, frozen=True):
    """What is usual at this site, from so many ``studies``; ``left_out``: streams that depend on the study before."""

    accepted: bool
    accepted_at: float | None
    studies: int
    of: int
    left_out: list[str]


class DriftWatch(Answer, frozen=True):
    """Against one reference; ``why`` it is not ``watching``, else None.

    ``evidence``: natural logarithm of what the bets are worth, an alarm at ``Drift.alarm_at``; ``streams``: of each.
    ``warning`` and ``confidence`` have limits of their own, ``Drift.warning_at`` and ``Drift.confidence_at``. None
    where it does not watch.
    """

    against: Against
    watching: bool
    why: str | None
    studies: int | None
    evidence: float | None
    warning: float | None
    confidence: float | None
    streams: dict[str, float]


class MovedStream(Answer, frozen=True):
    """The values that became more frequent, their share of the studies ``before`` and ``now``, in ``words``;
    ``examples``: studies that show it."""

    stream: str
    words: str
    since: float
    before: float
    now: float
    examples: tuple[int, ...]


class DriftAlarm(Answer, frozen=True):
    """``kind``: an alarm, an early warning, or that confidence has fallen; ``studies``: after how many of them."""

    number: Number
    package: str
    kind: Kind
    against: Against
    raised_at: float
    studies: int
    words: str
    moved: list[MovedStream]
    acknowledged_at: float | None
    acknowledged_by: str | None
    acknowledged_why: str | None
    outcome: Outcome | None


class Drift(Answer, frozen=True):
    """Of the package in force, or else of that which was watched last. ``counted``: what is no study of its own;
    ``alarms``: open ones first."""

    package: str
    package_sha256: str
    since: float
    studies: int
    alarm_at: float
    warning_at: float
    confidence_at: float
    baseline: Baseline
    watches: list[DriftWatch]
    alarms: list[DriftAlarm]
    counted: dict[str, int]


class AcknowledgeDrift(Ask, frozen=True):
    """``why`` is kept for good; what follows: watch on, learn the site's ``baseline`` anew, or let the watch ``rest``.
    ``by`` names a person where no login is asked for; else the account or token counts."""

    why: Annotated[str, Meta(min_length=1, max_length=1000)]
    outcome: Outcome = "watch"
    by: Annotated[str, Meta(max_length=64)] = ""


class ResumeDrift(Ask, frozen=True):
    """``by`` names a person where no login is asked for; else the account or token counts."""

    by: Annotated[str, Meta(max_length=64)] = ""
