"""The ledger of what goes out: each result to each of its destinations, until that has it.

States of a row of ``outbox``::

    waiting -> sent -> committed          (sent is the end where the destination commits nothing)
       ^  |      |
       |  '------'-> undelivered          after a configured time; by hand it waits again
       '---------'  the destination does not have it any more

A message of an earlier reading of a series goes to no destination that gets, or has, one of a later reading: its
receiver would put the old values in the place of the new ones. Its row goes, and an event says why.

An instance is ``written`` until nothing of its result is open, then ``delivered``; what readers say of it goes the same
way, and changes nothing of that. A row of ``lane`` is there while a
destination fails as such, whatever waits for it.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from appliance.config import MESSAGE_OF
from appliance.overview import READINGS_OF_SERIES
from appliance.series_store import SeriesStore

_ITEM = """
SELECT outbox.*, object.path, object.kind, object.sop_class_uid, object.sop_instance_uid, object.instance_id,
       instance.reading_rank
FROM outbox JOIN object ON object.id = outbox.object_id JOIN instance ON instance.id = object.instance_id
"""
_DUE = f"""
{_ITEM} WHERE outbox.destination = :destination AND outbox.state = 'waiting' AND outbox.next_attempt_at <= :now
ORDER BY CASE WHEN :probe THEN outbox.attempts ELSE 0 END, instance.reading_rank, outbox.id LIMIT :limit
"""
_MORE_URGENT = """
SELECT 1 FROM outbox JOIN object ON object.id = outbox.object_id JOIN instance ON instance.id = object.instance_id
WHERE outbox.destination = :destination AND outbox.state = 'waiting' AND outbox.next_attempt_at <= :now
AND instance.reading_rank < :rank LIMIT 1
"""
_TO_ASK = f"""
{_ITEM} WHERE outbox.destination = :destination AND outbox.state = 'sent' AND outbox.to_commit = 1
AND outbox.next_attempt_at <= :now ORDER BY outbox.next_attempt_at LIMIT :limit
"""
_NEXT = """
SELECT min(at) AS at FROM (
  SELECT min(next_attempt_at) AS at FROM outbox WHERE destination = :destination AND state = 'waiting'
  UNION ALL
  SELECT min(next_attempt_at) FROM outbox WHERE destination = :destination AND state = 'sent' AND to_commit = 1)
"""
_OPEN = "(state IN ('waiting', 'undelivered') OR (state = 'sent' AND to_commit = 1))"
_OPEN_ITEM = _OPEN.replace("state", "outbox.state")  # where other tables have such a column, too
_GIVE_UP = """
UPDATE outbox SET state = 'undelivered',
  last_error = CASE WHEN state = 'sent' THEN 'it was sent, but not committed' WHEN last_error = '' THEN :why
               ELSE last_error END
WHERE destination = :destination AND queued_at <= :before AND (:due OR next_attempt_at > :now)
AND (state = 'waiting' OR (state = 'sent' AND to_commit = 1))
RETURNING object_id, last_error
"""
_UNDELIVERED = f"""
{_ITEM.replace("FROM outbox", "FROM outbox INDEXED BY outbox_undelivered")} WHERE outbox.state = 'undelivered'
ORDER BY outbox.id LIMIT :limit
"""
_UNMADE = """
SELECT event.instance_id, event.detail
FROM event INDEXED BY event_unmade JOIN instance ON instance.id = event.instance_id
WHERE event.what = 'unmade' AND event.at >= :since AND instance.reviewed_at IS NULL ORDER BY event.at DESC LIMIT 1000
"""
LONGEST_DELAY = 60.0  # seconds until an image whose reading failed for a while is read again
# Of a row of `outbox`. DICOM objects have UIDs of their own, and none takes another's place.
_OVERTAKEN = f"""
EXISTS (SELECT 1 {READINGS_OF_SERIES} AND each.lead_id > this.lead_id
        JOIN object AS own ON own.instance_id = this.lead_id
        JOIN object AS later ON later.instance_id = each.lead_id AND later.kind = own.kind
        JOIN outbox AS instead ON instead.object_id = later.id AND instead.destination = outbox.destination
        WHERE own.id = outbox.object_id AND own.kind IN {tuple(MESSAGE_OF.values())})
"""
_DROP_OVERTAKEN = f"""
DELETE FROM outbox WHERE object_id IN (SELECT value FROM json_each(?)) AND state IN ('waiting', 'undelivered')
  AND {_OVERTAKEN} RETURNING object_id, destination
"""  # noqa: S608 (of this file)
_MESSAGES_OF_SERIES = f"""
SELECT object.id {READINGS_OF_SERIES} JOIN object ON object.instance_id = each.lead_id
WHERE this.lead_id = ? AND object.kind IN {tuple(MESSAGE_OF.values())}
"""
_BRING_FORWARD = (
    "UPDATE outbox SET next_attempt_at = :now + :retry WHERE state = 'waiting' AND next_attempt_at > :now + :retry",
    """UPDATE outbox SET next_attempt_at = :now + :commitment * (1 << min(max(asked - 1, 0), 10))
    WHERE state = 'sent' AND to_commit = 1
    AND next_attempt_at > :now + max(:retry, :commitment * (1 << min(max(asked - 1, 0), 10)))""",
    "UPDATE outbox SET queued_at = :now WHERE queued_at > :now AND state IN ('waiting', 'sent')",
    "UPDATE lane SET next_probe_at = :now + :probe WHERE next_probe_at > :now + :probe",
    "UPDATE instance SET not_before = :now + :delay WHERE state = 'received' AND not_before > :now + :delay",
    "UPDATE instance SET lease_until = :now + :lease WHERE state = 'claimed' AND lease_until > :now + :lease",
    "UPDATE instance SET received_at = :now WHERE lead_id IS NOT NULL AND received_at > :now",
    "UPDATE series SET look_again_at = :now + :quiet WHERE started_at IS NULL AND look_again_at > :now + :quiet",
    "UPDATE assessment_due SET at = :now + :retry WHERE at > :now + :retry",
)
_OF_OBJECT = "SELECT instance_id, kind, of_result FROM object WHERE id = ?"
_OF_REPORT = """
SELECT outbox.id, outbox.object_id, outbox.attempts
FROM commitment_item JOIN outbox ON outbox.id = commitment_item.outbox_id JOIN object ON object.id = outbox.object_id
WHERE commitment_item.transaction_uid = ? AND object.sop_instance_uid = ?
"""


class OutboxStore(SeriesStore):
    # --- sending --------------------------------------------------------------------------------------------------

    def due(self, destination: str, limit: int = 100, probe: bool = False) -> list[dict[str, Any]]:
        """Items of a destination whose time has come, with their object's columns: those first that are read first.

        For a ``probe``, those that were tried least, so that one that no destination survives does not come up again
        and again.
        """
        return self._rows(_DUE, destination=destination, now=time.time(), limit=limit, probe=probe)

    def more_urgent(self, destination: str, rank: int) -> bool:
        """Whether something is due to a destination that is to be read before what has this reading rank."""
        return bool(self._rows(_MORE_URGENT, destination=destination, now=time.time(), rank=rank))

    def next_due_at(self, destination: str) -> float | None:
        """When something is to be tried or asked of a destination (seconds since 1970), None if nothing is."""
        at: float | None = self._rows(_NEXT, destination=destination)[0]["at"]
        return at

    def sent(self, outbox_id: int, to_commit: bool = False) -> None:
        """Record that a destination took an object, which may have been set aside meanwhile.

        With ``to_commit`` it is delivered once the destination has committed it.
        """
        now = time.time()
        with self._transaction() as connection:
            row = connection.execute(
                "UPDATE outbox SET state = 'sent', attempts = attempts + 1, last_error = '', sent_at = ?, "
                "next_attempt_at = 0, to_commit = ?, asked = 0 WHERE id = ? AND state IN ('waiting', 'undelivered') "
                "RETURNING object_id, destination",
                (now, to_commit, outbox_id),
            ).fetchone()
            if row is not None:
                self._tell(connection, row["object_id"], now, "sent", f"to {row['destination']}")

    def retry(self, outbox_ids: Sequence[int], error: str, next_attempt_at: float) -> None:
        """Record a failed attempt to send some items, and when to try them again."""
        with self._transaction() as connection:
            connection.executemany(
                "UPDATE outbox SET attempts = attempts + 1, last_error = ?, next_attempt_at = ? "
                "WHERE id = ? AND state = 'waiting'",
                [(error, next_attempt_at, outbox_id) for outbox_id in outbox_ids],
            )

    def _tell(self, connection: sqlite3.Connection, object_id: int, now: float, what: str, detail: str) -> None:
        """Add an event of an object, and deliver its instance where nothing of its result is open any more."""
        item = connection.execute(_OF_OBJECT, (object_id,)).fetchone()
        identifier = item["instance_id"]
        self._event(connection, identifier, now, what, f"{item['kind']} {detail}")
        is_open = connection.execute(
            "SELECT 1 FROM object JOIN outbox ON outbox.object_id = object.id "  # noqa: S608 (of this file)
            f"WHERE object.instance_id = ? AND of_result AND {_OPEN} LIMIT 1",
            (identifier,),
        ).fetchone()
        if is_open is None:
            cursor = connection.execute(
                "UPDATE instance SET state = 'delivered', finished_at = ? WHERE id = ? AND state = 'written'",
                (now, identifier),
            )
            if cursor.rowcount:
                self._event(connection, identifier, now, "delivered", "")
                self._take_along(connection, identifier, "written", now)

    def _drop_overtaken(self, connection: sqlite3.Connection, object_ids: Iterable[int], now: float) -> None:
        """Send none of these messages to where one of a later reading of its series goes or has gone."""
        dropped = connection.execute(_DROP_OVERTAKEN, (msgspec.json.encode(list(object_ids)).decode(),)).fetchall()
        for row in dropped:
            detail = f"is not sent to {row['destination']}, which is to have that of a later reading of its series"
            self._tell(connection, row["object_id"], now, "note", detail)

    def _drop_overtaken_of_series(self, connection: sqlite3.Connection, lead_id: int, now: float) -> None:
        found = connection.execute(_MESSAGES_OF_SERIES, (lead_id,)).fetchall()
        self._drop_overtaken(connection, [row["id"] for row in found], now)

    # --- a destination as such ------------------------------------------------------------------------------------

    def lane(self, destination: str) -> dict[str, Any] | None:
        """How a destination fails (``failures``, ``since``, ``next_probe_at``, ``last_error``); None while it works."""
        rows = self._rows("SELECT * FROM lane WHERE destination = :destination", destination=destination)
        return rows[0] if rows else None

    def lane_failed(self, destination: str, error: str, next_probe_at: float) -> None:
        """Record that a destination has failed once more, and when it is probed."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO lane VALUES (?, 1, ?, ?, ?) ON CONFLICT (destination) DO UPDATE SET "
                "failures = failures + 1, next_probe_at = excluded.next_probe_at, last_error = excluded.last_error",
                (destination, time.time(), next_probe_at, error),
            )

    def lane_works(self, destination: str) -> None:
        with self._transaction() as connection:
            connection.execute("DELETE FROM lane WHERE destination = ?", (destination,))

    # --- storage commitment ---------------------------------------------------------------------------------------

    def to_ask(self, destination: str, limit: int = 500) -> list[dict[str, Any]]:
        """Items that were sent and whose commitment is to be asked for now."""
        return self._rows(_TO_ASK, destination=destination, now=time.time(), limit=limit)

    def ask(self, transaction_uid: str, destination: str, items: Sequence[dict[str, Any]], ask_again_at: float) -> None:
        """Record that the commitment of items is asked for; do so before it is, since the answer may come at once."""
        with self._transaction() as connection:
            connection.execute("INSERT INTO commitment VALUES (?, ?, ?)", (transaction_uid, destination, time.time()))
            for item in items:
                cursor = connection.execute(
                    "UPDATE outbox SET asked = asked + 1, next_attempt_at = ? WHERE id = ? AND state = 'sent'",
                    (ask_again_at, item["id"]),
                )
                if cursor.rowcount:
                    connection.execute("INSERT INTO commitment_item VALUES (?, ?)", (transaction_uid, item["id"]))

    def not_asked(self, outbox_ids: Sequence[int], error: str, ask_again_at: float) -> None:
        """Record that the commitment of items could not be asked for, and when to ask again."""
        with self._transaction() as connection:
            connection.executemany(
                "UPDATE outbox SET last_error = ?, next_attempt_at = ? WHERE id = ? AND state = 'sent'",
                [(error, ask_again_at, outbox_id) for outbox_id in outbox_ids],
            )

    def reported(
        self,
        transaction_uid: str,
        committed: Iterable[str],
        failed: Iterable[tuple[str, str]],
        pause: Callable[[int], float],
    ) -> tuple[str, int, int] | None:
        """Record what a destination has reported of SOP Instance UIDs.

        It is believed of what this transaction has asked for, unless that was sent anew since; whether it was given up
        meanwhile makes no difference.

        Parameters
        ----------
        failed
            With the reason of each.
        pause
            Seconds until an item is sent again, of how many attempts there were.

        Returns
        -------
        The destination, how many objects it has committed, and how many are sent again; None where nobody has asked
        under this Transaction UID.
        """
        now = time.time()
        with self._transaction() as connection:
            asked = connection.execute(
                "SELECT destination FROM commitment WHERE transaction_uid = ?", (transaction_uid,)
            ).fetchone()
            if asked is None:
                return None
            destination, kept, lost = asked["destination"], 0, 0
            for uid in committed:
                of_sent = f"{_OF_REPORT} AND outbox.state IN ('sent', 'undelivered')"
                for row in connection.execute(of_sent, (transaction_uid, uid)).fetchall():
                    connection.execute(
                        "UPDATE outbox SET state = 'committed', to_commit = 1, committed_at = ?, last_error = '' "
                        "WHERE id = ?",
                        (now, row["id"]),
                    )
                    self._tell(connection, row["object_id"], now, "committed", f"by {destination}")
                    kept += 1
            for uid, reason in failed:
                of_sent = f"{_OF_REPORT} AND outbox.state = 'sent'"
                for row in connection.execute(of_sent, (transaction_uid, uid)).fetchall():
                    connection.execute(
                        "UPDATE outbox SET state = 'waiting', last_error = ?, next_attempt_at = ? WHERE id = ?",
                        (reason, now + pause(row["attempts"]), row["id"]),
                    )
                    connection.execute("DELETE FROM commitment_item WHERE outbox_id = ?", (row["id"],))
                    self._tell(connection, row["object_id"], now, "lost", f"by {destination}: {reason}")
                    lost += 1
            return destination, kept, lost

    def settle_without_commitment(self, destination: str) -> int:
        """Take what was sent to a destination as delivered, since it is no longer asked to commit; how many items."""
        now = time.time()
        with self._transaction() as connection:
            rows = connection.execute(
                "UPDATE outbox SET to_commit = 0 WHERE destination = ? AND state = 'sent' AND to_commit = 1 "
                "RETURNING object_id",
                (destination,),
            ).fetchall()
            for row in rows:
                self._tell(
                    connection, row["object_id"], now, "note", f"to {destination}: its commitment is not awaited"
                )
            return len(rows)

    def forget_commitments(self, before: float) -> None:
        """Forget what was asked before then; answers that come later count no more."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM commitment WHERE asked_at < ?", (before,))

    # --- a clock that was set -------------------------------------------------------------------------------------

    def bring_forward(
        self, longest_retry: float, longest_probe: float, commitment: float, lease: float, quiet: float
    ) -> int:
        """Let nothing wait longer than it ever does: until a time that this device's clock believed before it was set.

        Parameters
        ----------
        longest_retry, longest_probe, commitment, lease, quiet
            The longest pauses in seconds, as `appliance.config` has them: of an item, of a destination's probe, before
            the commitment is asked for a second time (it doubles), of a claim, and of a series.

        Returns
        -------
        How many rows that were.
        """
        now = time.time()
        pauses = {"now": now, "retry": longest_retry, "probe": longest_probe, "commitment": commitment}
        with self._transaction() as connection:
            return sum(
                connection.execute(
                    statement, {**pauses, "lease": lease, "quiet": quiet, "delay": LONGEST_DELAY}
                ).rowcount
                for statement in _BRING_FORWARD
            )

    def put_off(self, step: float) -> None:
        """Count no waiting time for ``step`` seconds that the clock was set ahead: nothing is given up for those."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE outbox SET queued_at = min(queued_at + :step, :now) "
                "WHERE state = 'waiting' OR (state = 'sent' AND to_commit = 1)",
                {"step": step, "now": time.time()},
            )

    # --- giving up, and starting anew by hand ---------------------------------------------------------------------

    def give_up(self, destination: str, before: float, why: str, due: bool = True) -> int:
        """Set aside what waits since before then; how many items.

        ``why`` where nothing else tells. ``due``: also what would be tried or asked for now.
        """
        now = time.time()
        with self._transaction() as connection:
            values = {"destination": destination, "before": before, "why": why, "due": due, "now": now}
            rows = connection.execute(_GIVE_UP, values).fetchall()
            for row in rows:
                self._tell(connection, row["object_id"], now, "undelivered", f"to {destination}: {row['last_error']}")
            return len(rows)

    def undelivered(self, limit: int = 1000) -> list[dict[str, Any]]:
        """Items that are set aside, the oldest first, with their object's columns."""
        return self._rows(_UNDELIVERED, limit=limit)

    def unmade(self, since: float) -> dict[str, Any]:
        """``count`` (at most 1000) of the images nobody has reviewed since then whose result lacks a message, and the
        latest ``reason``."""
        rows = self._rows(_UNMADE, since=since)
        return {"count": len({row["instance_id"] for row in rows}), "reason": rows[0]["detail"] if rows else ""}

    def send_undelivered(self, destination: str | None = None, outbox_ids: Sequence[int] | None = None) -> int:
        """Let items wait again that were set aside, of a destination or by their numbers, None for all; how many.

        Not a message of which the destination is to have one of a later reading.
        """
        where, values = "state = 'undelivered'", _selection(destination, outbox_ids)
        return self._send_again(where, values, "retried")

    def send_delivered(self, destination: str, since: float) -> int:
        """Send again what a destination had before, and has lost: what was sent since then; how many items.

        Not what retention has removed, nor a message of which it is to have one of a later reading.
        """
        where = (
            "state IN ('sent', 'committed') AND sent_at >= :since AND object_id IN (SELECT object.id FROM object "
            "JOIN instance ON instance.id = object.instance_id WHERE result_removed_at IS NULL)"
        )
        return self._send_again(where, {**_selection(destination, None), "since": since}, "sent again")

    def move(self, old: str, new: str, carries: Callable[[str], bool]) -> tuple[int, list[str]]:
        """Give another destination what is open for one that is no longer there.

        What the new one is to get anyway, or has, is not doubled.

        Parameters
        ----------
        carries
            Whether the new one can be sent a kind; what it can't stays.

        Returns
        -------
        How many items were moved, and the kinds of those that stay.
        """
        now = time.time()
        with self._transaction() as connection:
            waiting = connection.execute(f"{_ITEM} WHERE outbox.destination = ? AND {_OPEN_ITEM}", (old,)).fetchall()
            rows = [row for row in waiting if carries(row["kind"])]
            for row in rows:
                connection.execute("DELETE FROM outbox WHERE id = ?", (row["id"],))
                connection.execute(
                    "INSERT INTO outbox (object_id, destination, next_attempt_at, queued_at) VALUES (?, ?, 0, ?) "
                    "ON CONFLICT DO NOTHING",
                    (row["object_id"], new, now),
                )
                self._tell(connection, row["object_id"], now, "note", f"goes to {new} instead of {old}, by hand")
            self._drop_overtaken(connection, [row["object_id"] for row in rows], now)
            return len(rows), [row["kind"] for row in waiting if not carries(row["kind"])]

    def _send_again(self, where: str, values: dict[str, Any], what: str) -> int:
        now = time.time()
        with self._transaction() as connection:
            rows = connection.execute(
                "UPDATE outbox SET state = 'waiting', attempts = 0, next_attempt_at = 0, queued_at = :now, "  # noqa: S608
                f"last_error = '', committed_at = NULL WHERE {where} AND NOT {_OVERTAKEN} AND (:destination IS NULL "
                "OR destination = :destination) AND (:ids IS NULL OR id IN (SELECT value FROM json_each(:ids))) "
                "RETURNING id, object_id, destination",
                {**values, "now": now},
            ).fetchall()
            for row in rows:
                connection.execute("DELETE FROM commitment_item WHERE outbox_id = ?", (row["id"],))
                item = connection.execute(_OF_OBJECT, (row["object_id"],)).fetchone()
                identifier = item["instance_id"]
                if item["of_result"]:
                    connection.execute(
                        "UPDATE instance SET state = 'written', finished_at = NULL "
                        "WHERE id = ? AND state = 'delivered'",
                        (identifier,),
                    )
                    self._take_along(connection, identifier, "delivered", now)
                detail = f"by hand: {item['kind']} to {row['destination']}"
                self._event(connection, identifier, now, what, detail)
            connection.executemany(
                "UPDATE lane SET next_probe_at = 0 WHERE destination = ?",
                [(name,) for name in {row["destination"] for row in rows}],
            )
            return len(rows)


def _selection(destination: str | None, outbox_ids: Sequence[int] | None) -> dict[str, Any]:
    ids = None if outbox_ids is None else msgspec.json.encode(list(outbox_ids)).decode()
    return {"destination": destination, "ids": ids}
