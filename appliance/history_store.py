"""The device's history in the ledger: periods of `appliance.history`, and totals that only ever grow.

What happened is read off the events. The number of the last one that was counted is kept with the totals, in the same
transaction, so that each counts exactly once, across restarts, too.
"""

from __future__ import annotations

import sqlite3
from typing import Any

import msgspec

from appliance import history
from appliance.database import Database
from appliance.history import Histogram, Model, Period, Totals

_MOST_EVENTS = 5000  # that are counted at one stroke
# An instance's result is made at the very moment of the event that tells of it; later ones tell of its delivery.
_EVENTS = """
SELECT event.id, event.what, event.detail, instance.source, result.made_at - instance.received_at AS turnaround,
       json_extract(result.seconds, '$.total') AS reading, json_extract(result.provenance, '$.package') AS package,
       json_extract(result.provenance, '$.version') AS version
FROM event JOIN instance ON instance.id = event.instance_id
LEFT JOIN result ON result.instance_id = event.instance_id AND result.made_at = event.at
WHERE event.id > :after ORDER BY event.id LIMIT :limit
"""
_TABLES = "SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY name"
_KEEP = "INSERT OR REPLACE INTO history VALUES (?, ?, ?)"


class HistoryStore(Database):
    def count(self, sample: Period, at: float) -> Period:
        """Count what has happened since the last time, and keep it with a sample of the machine.

        Parameters
        ----------
        sample
            How the machine is; what happened is filled in here.
        at
            Seconds since 1970.

        Returns
        -------
        The sample with what happened.
        """
        with self._transaction() as connection:
            event_id, totals = self._mark(connection)
            while True:
                rows = connection.execute(_EVENTS, {"after": event_id, "limit": _MOST_EVENTS}).fetchall()
                for row in rows:
                    sample = _counted(sample, totals, dict(row))
                    event_id = row["id"]
                if len(rows) < _MOST_EVENTS:
                    break
            connection.execute("UPDATE history_mark SET event_id = ?, content = ?", (event_id, _json(totals)))
            for seconds, kept in history.KEPT.items():
                begin = int(at // seconds * seconds)
                before = connection.execute(
                    "SELECT content FROM history WHERE seconds = ? AND at = ?", (seconds, begin)
                ).fetchone()
                period = history.merge(_period(before["content"]), sample) if before else sample
                connection.execute(_KEEP, (seconds, begin, _json(period)))
                connection.execute(
                    "DELETE FROM history WHERE seconds = ? AND at < ?", (seconds, begin - kept * seconds)
                )
        return sample

    def periods(self, seconds: int, since: float) -> list[tuple[int, Period]]:
        """When each period of this length began, and what it holds; those that ended after ``since``."""
        rows = self._rows(
            "SELECT at, content FROM history WHERE seconds = :seconds AND at > :since ORDER BY at",
            seconds=seconds,
            since=since - seconds,
        )
        return [(row["at"], _period(row["content"])) for row in rows]

    def totals(self) -> Totals:
        """As of this moment. Writes nothing; exact unless more than 5000 events have come since the last sample."""
        mark = self._rows("SELECT event_id, content FROM history_mark")[0]
        totals = msgspec.json.decode(mark["content"], type=Totals)
        for row in self._rows(_EVENTS, after=mark["event_id"], limit=_MOST_EVENTS):
            _counted(Period(), totals, row)
        return totals

    def tables(self) -> dict[str, dict[str, Any]]:
        """Each table of the ledger: its ``schema``, and how many ``rows`` it has."""
        found = self._rows(_TABLES)
        return {
            row["name"]: {
                "schema": row["sql"],
                "rows": self._rows(f'SELECT count(*) AS n FROM "{row["name"]}"')[0]["n"],  # noqa: S608 (of this file)
            }
            for row in found
        }

    def sqlite_version(self) -> str:
        return str(self._rows("SELECT sqlite_version() AS version")[0]["version"])

    @staticmethod
    def _mark(connection: sqlite3.Connection) -> tuple[int, Totals]:
        row = connection.execute("SELECT event_id, content FROM history_mark").fetchone()
        return row["event_id"], msgspec.json.decode(row["content"], type=Totals)


def _counted(sample: Period, totals: Totals, event: dict[str, Any]) -> Period:
    """The sample with one event more; the totals are changed."""
    what, detail = event["what"], event["detail"]
    if what == "received":
        _one_more(totals.received, event["source"])
        return msgspec.structs.replace(sample, received=sample.received + 1)
    if what == "sent again" and not detail.startswith("by hand"):
        totals.repeated += 1
    elif what == "crash":
        totals.crashes += 1
    elif what in ("rejected", "failed", "quarantined", "withheld"):
        _one_more(totals.ended, what)
        return msgspec.structs.replace(sample, **{what: getattr(sample, what) + 1})
    elif what in ("written", "delivered") and event["package"]:
        return _with_result(sample, totals, event)
    elif what == "sent":
        _one_more(totals.sent, detail.partition(" to ")[2])
        destination = detail.partition(" to ")[2]
        return msgspec.structs.replace(sample, sent=history.together_by_name(sample.sent, {destination: 1}))
    elif what == "committed":
        _one_more(totals.committed, detail.partition(" by ")[2])
    elif what == "undelivered":
        _one_more(totals.undelivered, detail.partition(" to ")[2].partition(": ")[0])
    return sample


def _with_result(sample: Period, totals: Totals, event: dict[str, Any]) -> Period:
    name = f"{event['package']} {event['version']}"
    reading, turnaround = float(event["reading"] or 0.0), max(float(event["turnaround"]), 0.0)
    _one_more(totals.ended, "result")
    totals.reading.setdefault(name, Histogram()).add(reading)
    totals.turnaround.setdefault(name, Histogram()).add(turnaround)
    model = sample.models.get(name, Model())
    model = Model(
        history.together([model.reading, {history.bucket(reading): 1}]),
        history.together([model.turnaround, {history.bucket(turnaround): 1}]),
    )
    return msgspec.structs.replace(sample, results=sample.results + 1, models={**sample.models, name: model})


def _one_more(counts: dict[str, int], name: str) -> None:
    counts[name] = counts.get(name, 0) + 1


def _json(value: Period | Totals) -> str:
    return msgspec.json.encode(value).decode()


def _period(content: str) -> Period:
    return msgspec.json.decode(content, type=Period)
