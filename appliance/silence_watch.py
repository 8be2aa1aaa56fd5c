"""Keeps an eye on who sends: reads arrivals from the ledger bit by bit, and asks `appliance.silence`."""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from typing import Any

from appliance import silence
from appliance.config import Config
from appliance.silence import QUARTER
from appliance.store import Store

log = logging.getLogger("scanside.silence")

_JUDGE_SECONDS = 60.0
_STEP = 7 * 96  # quarters that are read from the ledger at once, so that nothing else waits long


class SilenceWatch:
    """Call `look` every few seconds.

    Parameters
    ----------
    started_at
        Seconds since 1970; before that nothing could be received.
    """

    def __init__(self, config: Config, store: Store, started_at: float) -> None:
        self._settings, self._store = config.silence, store
        self._listening_since = int(started_at // QUARTER)
        self._kept = self._settings.weeks * _STEP + silence.GONE
        self._read_until = self._listening_since - self._kept
        self._arrivals: dict[str, list[int]] = {}
        self._judged_at = 0.0
        self._said: dict[str, Any] = {"state": "learning", "silent": [], "modalities": 0}

    def look(self) -> dict[str, Any]:
        """What is known at the moment, for the page: ``state`` (learning, ready, silent); ``silent``: for each modality
        its ``ae_title``, ``last`` and ``since`` (seconds since 1970: when something came last, and since when that is
        too long ago), ``usual_seconds`` and the ``weeks`` from which they were learned; how many ``modalities`` sent.

        Raises
        ------
        SpoolError
            The ledger can't be read.
        """
        now = int(time.time() // QUARTER)
        if self._read_until < now - 1:
            until = min(self._read_until + _STEP, now)
            self._read(self._read_until, until)
            self._read_until = until
            return self._said
        if time.monotonic() - self._judged_at < _JUDGE_SECONDS:
            return self._said
        self._judged_at = time.monotonic()
        self._read(self._read_until, now + 1)  # the quarter that has not ended is read again next time
        self._read_until = now
        self._judge(now)
        return self._said

    def _read(self, begin: int, end: int) -> None:
        for ae_title, quarter in self._store.arrivals(begin * QUARTER, end * QUARTER):
            quarters = self._arrivals.setdefault(ae_title, [])
            if not quarters or quarter > quarters[-1]:
                quarters.append(quarter)

    def _judge(self, now: int) -> None:
        found = []
        for ae_title, quarters in sorted(self._arrivals.items()):
            del quarters[: min(bisect_left(quarters, now - self._kept), len(quarters) - 1)]
            alarm = silence.judge(
                quarters,
                now,
                self._listening_since,
                self._settings.weeks,
                self._settings.least_weeks,
                [each for each in self._settings.expected if each.ae_title == ae_title],
            )
            if alarm is not None:
                found.append(
                    {
                        "ae_title": ae_title,
                        "last": alarm.last * QUARTER,
                        "since": alarm.raised * QUARTER,
                        "usual_seconds": alarm.usual * QUARTER,
                        "weeks": alarm.weeks,
                    }
                )
        before = {each["ae_title"] for each in self._said["silent"]}
        for each in found:
            if each["ae_title"] not in before:
                log.warning("%s has gone silent", each["ae_title"])
        state = "silent" if found else "ready"
        self._said = {"state": state, "silent": found, "modalities": len(self._arrivals)}
