"""What the ledger tells the pages and the command line: of instances, of series, and how the parts say they are."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from appliance.database import Database

# All readings (`each`) of the series that a reading (`this`) is of; what follows narrows both.
READINGS_OF_SERIES = """
FROM series AS this
JOIN series AS each ON each.series_instance_uid = this.series_instance_uid
     AND each.study_instance_uid = this.study_instance_uid AND each.patient_id = this.patient_id
"""
FINAL_STATES = ("delivered", "rejected", "failed", "quarantined", "withheld")
STATES = ("received", "claimed", "written", *FINAL_STATES)
MOST_CRASHES = 2  # so often an image may stop a process that reads it

# A series is one row, its lead's.
SHOWN = """
SELECT instance.*, result.findings, result.outlines, result.warnings, result.provenance, result.seconds, result.urgent,
       result.made_at, series.images, series.why, series.started_at, series.superseded_by,
       instance.state = 'written' AND EXISTS (SELECT 1 FROM object JOIN outbox ON outbox.object_id = object.id
         WHERE object.instance_id = instance.id AND of_result AND outbox.state = 'undelivered') AS undelivered,
       (SELECT group_concat(verdict) FROM assessment WHERE assessment.instance_id = instance.id AND NOT EXISTS
         (SELECT 1 FROM assessment AS later WHERE later.supersedes = assessment.id)) AS verdicts
FROM instance LEFT JOIN result ON result.instance_id = instance.id LEFT JOIN series ON series.lead_id = instance.lead_id
"""
# Those that are to be read before the others, until somebody has seen them. What is skipped is skipped in an index,
# since rows are long; the conditions are word for word those of the indexes.
_IS_FIRST = "(lead_id IS NULL OR lead_id = id) AND reading_rank < 5 AND reviewed_at IS NULL"
_IS_LATER = "(lead_id IS NULL OR lead_id = id) AND (reading_rank >= 5 OR reviewed_at IS NOT NULL)"
_READ_FIRST = f"""
{SHOWN} WHERE instance.id IN (
  SELECT id FROM instance INDEXED BY instance_read_first WHERE {_IS_FIRST}
  ORDER BY reading_rank, id DESC LIMIT :limit OFFSET :offset)
"""  # noqa: S608 (of this file)
_READ_LATER = f"""
{SHOWN} WHERE instance.id IN (
  SELECT id FROM instance INDEXED BY instance_read_later WHERE {_IS_LATER}
  ORDER BY id DESC LIMIT :limit OFFSET :offset)
ORDER BY instance.id DESC
"""  # noqa: S608 (of this file)
_GATHERED = """
SELECT series.lead_id, series.images, series.why, series.look_again_at, instance.modality, instance.body_part,
       instance.received_at
FROM series JOIN instance ON instance.id = series.lead_id WHERE series.started_at IS NULL ORDER BY series.lead_id
"""
_UNSEEN_IN_QUARANTINE = """
SELECT count(*) AS n FROM instance INDEXED BY instance_in_quarantine
JOIN instance AS lead ON lead.id = ifnull(instance.lead_id, instance.id)
WHERE instance.state = 'quarantined' AND lead.reviewed_at IS NULL
"""
_HELD_UP = """
SELECT count(*) AS count, coalesce(max(reason), '') AS reason FROM instance INDEXED BY instance_queue
WHERE state IN ('received', 'claimed') AND parked = 0 AND state = 'received' AND reason LIKE 'Waiting: %'
"""
# What failed last has its next attempt last, so it is the first of the index's end that has an error.
_DESTINATIONS = """
SELECT destination, coalesce(sum(n) FILTER (WHERE state = 'waiting'), 0) AS waiting,
       coalesce(sum(n) FILTER (WHERE state IN ('sent', 'committed')), 0) AS sent,
       coalesce(sum(n) FILTER (WHERE state = 'committed'), 0) AS committed,
       (SELECT count(*) FROM outbox INDEXED BY outbox_to_commit WHERE outbox.destination = outbox_tally.destination
        AND state = 'sent' AND to_commit = 1) AS to_commit,
       coalesce(sum(n) FILTER (WHERE state = 'undelivered'), 0) AS undelivered,
       coalesce(lane.last_error,
                (SELECT last_error FROM outbox WHERE outbox.destination = outbox_tally.destination
                 AND state = 'waiting' ORDER BY next_attempt_at DESC LIMIT 1), '') AS last_error,
       coalesce(lane.next_probe_at,
                (SELECT min(next_attempt_at) FROM outbox WHERE outbox.destination = outbox_tally.destination
                 AND state = 'waiting')) AS next_attempt_at,
       coalesce(lane.since,
                (SELECT since FROM (SELECT min(queued_at) AS since FROM outbox
                                    WHERE outbox.destination = outbox_tally.destination
                                    AND state = 'waiting' AND attempts >= 3)
                 WHERE since > coalesce((SELECT max(sent_at) FROM outbox
                                         WHERE outbox.destination = outbox_tally.destination
                                         AND sent_at IS NOT NULL), 0))) AS failing_since,
       coalesce(lane.failures, 0) AS failures
FROM outbox_tally LEFT JOIN lane USING (destination) GROUP BY destination ORDER BY destination
"""
_KEPT = """
SELECT instance.sop_instance_uid, sop_class_uid, file, size
FROM json_each(:uids) AS wanted JOIN instance ON instance.sop_instance_uid = wanted.value
"""
_ARRIVALS = """
SELECT DISTINCT ae_title, CAST(received_at / 900 AS INTEGER) AS quarter FROM instance
WHERE received_at >= :begin AND received_at < :end AND ae_title <> '' ORDER BY quarter
"""
_RECEIPTS = """
SELECT id, made_at, content, signature
FROM (SELECT *, row_number() OVER (PARTITION BY json_extract(content, '$.package_sha256'),
                                   json_extract(content, '$.backend') ORDER BY made_at DESC) AS place FROM receipt)
WHERE place = 1 ORDER BY made_at DESC
"""


class Overview(Database):
    # --- what the pages and the command line show ---------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """Instances by state, every state named."""
        found = {row["name"]: row["n"] for row in self._rows("SELECT name, n FROM tally")}
        return {state: found[state] for state in STATES}

    def instance(self, instance_id: int) -> dict[str, Any] | None:
        """One row of the ledger with its result's columns (JSON decoded; None where there is no result).

        Of an image of a series: ``images`` (how many the series has), ``why`` it was started or what it waits for,
        ``started_at`` (None while it waits), and ``superseded_by``, the lead of the reading whose result took the place
        of its own. ``undelivered``: whether a result of it is set aside, since a destination did not take it.
        ``verdicts``: those that count of what readers said of it, joined by commas, None where they said nothing.
        """
        rows = self._rows(f"{SHOWN} WHERE instance.id = :id", id=instance_id)
        return decoded(rows[0]) if rows else None

    def worklist(self, limit: int = 50, offset: int = 0) -> list[dict[str, Any]]:
        """Rows as of `instance`, one for each series: by `appliance.reading_order`, then the last that came first.

        For commands; the page has `appliance.worklist_store`.

        One that somebody has seen (``reviewed_at``) stands among the others.
        """
        first = self._rows(_READ_FIRST, limit=limit, offset=offset)
        first.sort(key=lambda row: (row["reading_rank"], -row["id"]))
        before = self._rows(f"SELECT count(*) AS n FROM instance INDEXED BY instance_read_first WHERE {_IS_FIRST}")  # noqa: S608
        others = self._rows(_READ_LATER, limit=limit - len(first), offset=max(offset - before[0]["n"], 0))
        return [decoded(row) for row in [*first, *others]]

    def gathered(self) -> list[dict[str, Any]]:
        """Series that wait to be complete, the oldest first; nothing of a patient."""
        return self._rows(_GATHERED)

    def superseded(self, lead_id: int) -> list[int]:
        """The leads of the readings whose results a later one of the same series took the place of."""
        rows = self._rows("SELECT lead_id FROM series WHERE superseded_by = :lead_id ORDER BY lead_id", lead_id=lead_id)
        return [row["lead_id"] for row in rows]

    def kept(self, sop_instance_uids: list[str]) -> dict[str, list[tuple[str, str, int]]]:
        """SOP Instance UID -> SOP Class UID, file below the spool and its size, of each instance received under it."""
        found: dict[str, list[tuple[str, str, int]]] = {}
        for row in self._rows(_KEPT, uids=msgspec.json.encode(sop_instance_uids).decode()):
            found.setdefault(row["sop_instance_uid"], []).append((row["sop_class_uid"], row["file"], row["size"]))
        return found

    def arrivals(self, begin: float, end: float) -> list[tuple[str, int]]:
        """Calling AE titles, and the quarters of an hour (since 1970) in which they sent something, in their order."""
        return [(row["ae_title"], row["quarter"]) for row in self._rows(_ARRIVALS, begin=begin, end=end)]

    def change_mark(self) -> str:
        """A text that is another one whenever the worklist may have changed."""
        row = self._rows("SELECT coalesce(max(id), 0) AS n FROM event")[0]
        return f"{row['n']}"

    def events(self, instance_id: int) -> list[dict[str, Any]]:
        return self._rows("SELECT at, what, detail FROM event WHERE instance_id = :id ORDER BY id", id=instance_id)

    def objects(self, instance_id: int) -> list[dict[str, Any]]:
        """Of its result; not what was made of what readers said."""
        return self._rows("SELECT * FROM object WHERE instance_id = :id AND of_result ORDER BY id", id=instance_id)

    def deliveries(self, instance_id: int) -> list[dict[str, Any]]:
        return self._rows(
            "SELECT outbox.*, object.kind, lane.last_error AS lane_error, lane.next_probe_at FROM outbox "
            "JOIN object ON object.id = outbox.object_id LEFT JOIN lane USING (destination) "
            "WHERE object.instance_id = :id ORDER BY outbox.id",
            id=instance_id,
        )

    def destinations(self) -> list[dict[str, Any]]:
        """Per destination: how many results are in each state, why they wait, and until when.

        ``sent`` with those ``committed``; ``to_commit``: sent, and not committed yet. ``failing_since`` is None while
        the destination takes something. It fails as such, ``failures`` times so far; or there are none of those, it has
        refused three times what waits since then, and has taken nothing else.
        """
        return self._rows(_DESTINATIONS)

    def held_up(self) -> dict[str, Any]:
        """Images whose reading could not be finished and is tried again: their ``count``, and the ``reason`` of one."""
        return self._rows(_HELD_UP)[0]

    def unseen_in_quarantine(self) -> int:
        """How many quarantined images nobody has marked as reviewed; of a series, its lead is."""
        return int(self._rows(_UNSEEN_IN_QUARANTINE)[0]["n"])

    def undelivered_count(self) -> int:
        """How many results are set aside, since a destination did not take them."""
        return int(self._rows("SELECT coalesce(sum(n), 0) AS n FROM outbox_tally WHERE state = 'undelivered'")[0]["n"])

    # --- receipts and components ---------------------------------------------------------------------------------

    def add_receipt(self, identifier: str, content: str, signature: str) -> None:
        with self._transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO receipt VALUES (?, ?, ?, ?)", (identifier, time.time(), content, signature)
            )

    def receipts(self) -> list[dict[str, Any]]:
        """The latest receipt of each backend on each package, newest first."""
        return self._rows(_RECEIPTS)

    def set_component(self, name: str, content: dict[str, Any]) -> None:
        """Say how a running part is; the page shows the latest word of each."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO component VALUES (?, ?, ?)",
                (name, msgspec.json.encode(content).decode(), time.time()),
            )

    def components(self) -> dict[str, dict[str, Any]]:
        """name -> what it last said, with ``updated_at``."""
        return {
            row["name"]: {**msgspec.json.decode(row["content"]), "updated_at": row["updated_at"]}
            for row in self._rows("SELECT * FROM component")
        }


def decoded(row: dict[str, Any]) -> dict[str, Any]:
    for key in ("findings", "outlines", "warnings", "provenance", "seconds"):
        if row.get(key) is not None:
            row[key] = msgspec.json.decode(row[key])
    return row
