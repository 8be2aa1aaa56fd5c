"""The ledger: every instance that was acknowledged, its state, its result, and what still has to be sent.

The only module that knows its tables. Each call is one transaction; a commit is on disk when the call returns.
States::

    received -> claimed -> written -> delivered      (delivered at once where there is nothing to send)
       ^           |-> rejected | failed
       '-----------'  released: the lease ran out, the disk was full, others go first

The queue is in the order of ``due_at``. Until an instance is triaged, its header unread, it counts as due when it was
received, the earliest that it can be; so it is triaged before anything goes that it might have to precede.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from appliance.database import Database
from appliance.errors import SpoolError

FINAL_STATES = ("delivered", "rejected", "failed")
STATES = ("received", "claimed", "written", *FINAL_STATES)
MOST_CRASHES = 2  # so often an image may stop a process that reads it
_DESCRIBED = (
    "sop_instance_uid", "sop_class_uid", "study_instance_uid", "patient_id", "patient_name", "patient_sex",
    "patient_age", "modality", "body_part", "view", "acquired_at", "institution",
)  # fmt: skip

_INSERT_INSTANCE = """
INSERT INTO instance (sop_instance_uid, sop_class_uid, digest, file, size, source, sender, received_at, state, reason,
                      finished_at, ae_title, priority, due_at)
VALUES (:sop_instance_uid, :sop_class_uid, :digest, :file, :size, :source, :sender, :now, :state, :reason,
        :finished_at, :ae_title, :priority, :now)
"""
_SAME = """
SELECT id, digest FROM instance
WHERE digest = :digest
   OR (sop_instance_uid = :sop_instance_uid AND sop_instance_uid <> '' AND state NOT IN ('rejected', 'failed'))
ORDER BY digest <> :digest
"""
# Its first term is the index's own, or SQLite could not use that. The index holds open instances only.
_WAITING = """
SELECT id FROM instance INDEXED BY instance_queue
WHERE state IN ('received', 'claimed')
  AND ((state = 'received' AND not_before <= :now) OR (state = 'claimed' AND lease_until < :now))
"""
_CLAIM = f"""
UPDATE instance SET state = 'claimed', reason = '', claimed_by = :owner, lease_until = :lease_until
WHERE id = ({_WAITING} ORDER BY due_at, id LIMIT 1)
RETURNING *
"""  # noqa: S608 (of this file)
_GOES_BEFORE = f"{_WAITING} AND (due_at, id) < (:due_at, :id) LIMIT 1"
_WORKLIST = """
SELECT instance.*, result.findings, result.warnings, result.urgent, result.seconds
FROM instance LEFT JOIN result ON result.instance_id = instance.id
ORDER BY coalesce(result.urgent, 0) DESC, instance.id DESC LIMIT :limit OFFSET :offset
"""
_RECEIPTS = """
SELECT id, made_at, content, signature
FROM (SELECT *, row_number() OVER (PARTITION BY json_extract(content, '$.package_sha256'),
                                   json_extract(content, '$.backend') ORDER BY made_at DESC) AS place FROM receipt)
WHERE place = 1 ORDER BY made_at DESC
"""
_DUE = """
SELECT outbox.*, object.path, object.kind, object.sop_class_uid, object.sop_instance_uid, object.instance_id
FROM outbox JOIN object ON object.id = outbox.object_id
WHERE outbox.destination = :destination AND outbox.state = 'waiting' AND outbox.next_attempt_at <= :now
ORDER BY outbox.id LIMIT :limit
"""


@dataclass(frozen=True)
class Arrival:
    """A file that lies in the spool and asks for its row.

    ``source`` is ``storage_scp`` or ``drop_folder``; ``sender`` says who or which file, for the technician;
    ``ae_title`` and ``priority`` are what a C-STORE request came with.
    """

    sop_instance_uid: str
    sop_class_uid: str
    digest: str
    file: str
    size: int
    source: str
    sender: str
    ae_title: str = ""
    priority: str = "routine"


@dataclass(frozen=True)
class Admission:
    """The row of an arrival: new, a repetition of the same, or in conflict with an earlier one of the same UID."""

    instance_id: int
    outcome: str


@dataclass(frozen=True)
class WrittenObject:
    """A result object on disk; ``path`` is below the results folder."""

    kind: str
    sop_class_uid: str
    sop_instance_uid: str
    path: str


class LeaseLostError(SpoolError):
    """Another process holds this instance now; what was computed for it must be dropped."""


class Store(Database):
    """The ledger on its database; see `appliance.database.Database` for how it is opened."""

    # --- in ---------------------------------------------------------------------------------------------------

    def receive(self, arrival: Arrival) -> Admission:
        """Give an arrival its row; when this returns, the instance may be acknowledged.

        The same data set gets no second row. Another data set under the UID of one that has or may get a result is
        kept and turned away, since a result must belong to one image only; one that was turned away, cut off for
        instance, may be sent again whole.

        Raises
        ------
        DiskFullError, SpoolError
            The instance must not be acknowledged then.
        """
        now = time.time()
        with self._transaction() as connection:
            same = connection.execute(_SAME, vars(arrival)).fetchone()
            if same is not None and same["digest"] == arrival.digest:
                connection.execute("UPDATE instance SET copies = copies + 1 WHERE id = ?", (same["id"],))
                self._event(connection, same["id"], now, "sent again", arrival.sender)
                return Admission(same["id"], "duplicate")
            conflict = same is not None
            reason = ""
            if conflict:
                reason = (
                    f"The SOP Instance UID {arrival.sop_instance_uid} was received before with other content. "
                    "The sender must give a changed image a UID of its own."
                )
            cursor = connection.execute(
                _INSERT_INSTANCE,
                {
                    **vars(arrival),
                    "now": now,
                    "state": "rejected" if conflict else "received",
                    "reason": reason,
                    "finished_at": now if conflict else None,
                },
            )
            identifier = int(cursor.lastrowid or 0)
            self._event(connection, identifier, now, "received", arrival.sender)
            if conflict:
                self._event(connection, identifier, now, "rejected", reason)
            return Admission(identifier, "conflict" if conflict else "new")

    # --- work -------------------------------------------------------------------------------------------------

    def claim(self, owner: str, lease_seconds: float) -> dict[str, Any] | None:
        """The instance that is due first of those that wait, leased to ``owner``; None where nothing waits.

        One that is not ``triaged`` must be, with `triage`, before it is read.
        """
        now = time.time()
        with self._transaction() as connection:
            row = connection.execute(
                _CLAIM, {"owner": owner, "lease_until": now + lease_seconds, "now": now}
            ).fetchone()
            if row is None:
                return None
            if row["triaged"]:
                self._event(connection, row["id"], now, "claimed", owner)
            return dict(row)

    def triage(
        self, instance_id: int, owner: str, attributes: dict[str, str], priority: str, patience_seconds: float
    ) -> bool:
        """Put a claimed instance in its place in the queue, once its header is read.

        Parameters
        ----------
        attributes
            What the data set says of itself: columns ``study_instance_uid`` to ``institution``.
        patience_seconds
            It is due so long after it was received.

        Returns
        -------
        Whether the claim stands. If not, the instance waits again, since another one goes before it.

        Raises
        ------
        LeaseLostError
        """
        now = time.time()
        values = {name: attributes[name] for name in _DESCRIBED if name in attributes}
        assignments = "".join(f", {name} = :{name}" for name in values)
        with self._transaction() as connection:
            row = connection.execute(  # the names are of our own list
                "UPDATE instance SET priority = :priority, due_at = received_at + :patience, triaged = 1"  # noqa: S608
                f"{assignments} WHERE id = :id AND state = 'claimed' AND claimed_by = :owner RETURNING due_at",
                {**values, "priority": priority, "patience": patience_seconds, "id": instance_id, "owner": owner},
            ).fetchone()
            if row is None:
                raise LeaseLostError(f"the lease of instance {instance_id} was lost by {owner}")
            self._event(connection, instance_id, now, "queued", priority)
            place = {"due_at": row["due_at"], "id": instance_id, "now": now}
            stands = connection.execute(_GOES_BEFORE, place).fetchone() is None
            if stands:
                self._event(connection, instance_id, now, "claimed", owner)
            else:
                connection.execute(
                    "UPDATE instance SET state = 'received', claimed_by = NULL, lease_until = NULL WHERE id = ?",
                    (instance_id,),
                )
            return stands

    def release(self, instance_id: int, owner: str, reason: str, delay: float) -> None:
        """Give a claim back: it is tried again after ``delay`` seconds; ``reason`` says why it waits."""
        now = time.time()
        with self._transaction() as connection:
            self._end_claim(connection, instance_id, owner, "received", reason, now, not_before=now + delay)

    def release_all(self, reason: str) -> int:
        """Give back every claim of processes that are gone, at the start of the only appliance on this folder."""
        return self._release_claims("claimed_by IS NOT NULL", {}, reason, crashed=False)

    def release_held(self, owner: str, reason: str) -> int:
        """Give back all that ``owner`` holds, without blame."""
        return self._release_claims("claimed_by = :owner", {"owner": owner}, reason, crashed=False)

    def release_crashed(self, owner: str) -> int:
        """Give back what ``owner``, a process that died over it, held.

        An instance that did this `MOST_CRASHES` times ends as failed.
        """
        return self._release_claims("claimed_by = :owner", {"owner": owner}, "its reader stopped", crashed=True)

    def _release_claims(self, where: str, parameters: dict[str, Any], reason: str, crashed: bool) -> int:
        now = time.time()
        with self._transaction() as connection:
            rows = connection.execute(
                f"SELECT id, crashes FROM instance WHERE state = 'claimed' AND {where}",  # noqa: S608 (of this file)
                parameters,
            )
            claims = rows.fetchall()
            for row in claims:
                crashes = row["crashes"] + crashed
                failed = crashes >= MOST_CRASHES
                state = "failed" if failed else "received"
                why = (
                    f"Reading it stopped the reader {crashes} times; it is kept in the spool and not tried again."
                    if failed
                    else reason
                )
                connection.execute(
                    "UPDATE instance SET state = ?, reason = ?, crashes = ?, claimed_by = NULL, lease_until = NULL, "
                    "finished_at = ? WHERE id = ?",
                    (state, why if failed else "", crashes, now if failed else None, row["id"]),
                )
                self._event(connection, row["id"], now, "failed" if failed else "released", why)
            return len(claims)

    def count_crash(self, instance_id: int, owner: str, detail: str) -> int:
        """Record that a claimed instance stopped the process that reads images; how often it has done so."""
        now = time.time()
        with self._transaction() as connection:
            row = connection.execute(
                "UPDATE instance SET crashes = crashes + 1 WHERE id = ? AND state = 'claimed' AND claimed_by = ? "
                "RETURNING crashes",
                (instance_id, owner),
            ).fetchone()
            if row is None:
                raise LeaseLostError(f"the lease of instance {instance_id} was lost by {owner}")
            self._event(connection, instance_id, now, "crash", detail)
            return int(row["crashes"])

    def overdue(self, owner: str) -> bool:
        """Whether ``owner`` holds a claim whose lease has run out."""
        sql = "SELECT 1 FROM instance WHERE state = 'claimed' AND claimed_by = :owner AND lease_until < :now"
        return bool(self._rows(sql, owner=owner, now=time.time()))

    def reject(self, instance_id: int, owner: str, reason: str) -> None:
        self._finish(instance_id, owner, "rejected", reason)

    def fail(self, instance_id: int, owner: str, reason: str) -> None:
        self._finish(instance_id, owner, "failed", reason)

    def _finish(self, instance_id: int, owner: str, state: str, reason: str) -> None:
        with self._transaction() as connection:
            self._end_claim(connection, instance_id, owner, state, reason, time.time())

    def finish(
        self,
        instance_id: int,
        owner: str,
        result: dict[str, Any],
        objects: Sequence[WrittenObject],
        outbox: Sequence[tuple[str, str]],
        note: str = "",
    ) -> None:
        """Record a result whose objects lie on disk, and what has to be sent where, at one stroke.

        Parameters
        ----------
        result
            ``findings``, ``warnings``, ``provenance``, ``seconds`` (builtins, stored as JSON) and ``urgent``.
        outbox
            ``(kind, destination)`` pairs.
        note
            For the events: what was unusual.
        """
        now = time.time()
        with self._transaction() as connection:
            self._end_claim(connection, instance_id, owner, "written" if outbox else "delivered", "", now)
            if note:
                self._event(connection, instance_id, now, "note", note)
            connection.execute(
                "INSERT INTO result VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    instance_id,
                    *(
                        msgspec.json.encode(result[key]).decode()
                        for key in ("findings", "warnings", "provenance", "seconds")
                    ),
                    int(result["urgent"]),
                    now,
                ),
            )
            for item in objects:
                cursor = connection.execute(
                    "INSERT INTO object (instance_id, kind, sop_class_uid, sop_instance_uid, path) "
                    "VALUES (?, ?, ?, ?, ?)",
                    (instance_id, item.kind, item.sop_class_uid, item.sop_instance_uid, item.path),
                )
                connection.executemany(
                    "INSERT INTO outbox (object_id, destination, next_attempt_at) VALUES (?, ?, ?)",
                    [(cursor.lastrowid, destination, now) for kind, destination in outbox if kind == item.kind],
                )

    def _end_claim(
        self,
        connection: sqlite3.Connection,
        instance_id: int,
        owner: str,
        state: str,
        reason: str,
        now: float,
        not_before: float = 0.0,
    ) -> None:
        cursor = connection.execute(
            "UPDATE instance SET state = ?, reason = ?, not_before = ?, claimed_by = NULL, lease_until = NULL, "
            "finished_at = ? WHERE id = ? AND state = 'claimed' AND claimed_by = ?",
            (state, reason, not_before, now if state in FINAL_STATES else None, instance_id, owner),
        )
        if cursor.rowcount != 1:
            raise LeaseLostError(f"the lease of instance {instance_id} was lost by {owner}")
        self._event(connection, instance_id, now, "released" if state == "received" else state, reason)

    @staticmethod
    def _event(connection: sqlite3.Connection, instance_id: int, at: float, what: str, detail: str) -> None:
        connection.execute(
            "INSERT INTO event (instance_id, at, what, detail) VALUES (?, ?, ?, ?)", (instance_id, at, what, detail)
        )

    # --- out --------------------------------------------------------------------------------------------------

    def due(self, destination: str, limit: int = 500) -> list[dict[str, Any]]:
        """Outbox items of a destination whose time has come, oldest first, with their object's columns."""
        return self._rows(_DUE, destination=destination, now=time.time(), limit=limit)

    def next_due_at(self, destination: str) -> float | None:
        """When the next waiting item of a destination is to be tried (seconds since 1970), None if there is none."""
        row = self._rows(
            "SELECT min(next_attempt_at) AS at FROM outbox WHERE destination = :destination AND state = 'waiting'",
            destination=destination,
        )
        at: float | None = row[0]["at"]
        return at

    def sent(self, outbox_id: int) -> None:
        """Record that a destination took an object; its instance is delivered once nothing of it waits any more."""
        now = time.time()
        with self._transaction() as connection:
            row = connection.execute(
                "UPDATE outbox SET state = 'sent', attempts = attempts + 1, last_error = '', sent_at = ? "
                "WHERE id = ? AND state = 'waiting' RETURNING object_id, destination",
                (now, outbox_id),
            ).fetchone()
            if row is None:
                return
            item = connection.execute(
                "SELECT instance_id, kind FROM object WHERE id = ?", (row["object_id"],)
            ).fetchone()
            identifier = item["instance_id"]
            self._event(connection, identifier, now, "sent", f"{item['kind']} to {row['destination']}")
            left = connection.execute(
                "SELECT count(*) FROM outbox JOIN object ON object.id = outbox.object_id "
                "WHERE object.instance_id = ? AND outbox.state = 'waiting'",
                (identifier,),
            ).fetchone()[0]
            if left == 0:
                connection.execute(
                    "UPDATE instance SET state = 'delivered', finished_at = ? WHERE id = ? AND state = 'written'",
                    (now, identifier),
                )
                self._event(connection, identifier, now, "delivered", "")

    def retry(self, outbox_ids: Sequence[int], error: str, next_attempt_at: float) -> None:
        """Record a failed attempt to send some items, and when to try them again."""
        with self._transaction() as connection:
            connection.executemany(
                "UPDATE outbox SET attempts = attempts + 1, last_error = ?, next_attempt_at = ? WHERE id = ?",
                [(error, next_attempt_at, outbox_id) for outbox_id in outbox_ids],
            )

    # --- what the pages and the command line show ---------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """Instances by state, every state named."""
        found = {
            row["state"]: row["n"] for row in self._rows("SELECT state, count(*) AS n FROM instance GROUP BY state")
        }
        return {state: found.get(state, 0) for state in STATES}

    def instance(self, instance_id: int) -> dict[str, Any] | None:
        """One row of the ledger with its result's columns (JSON decoded; None where there is no result).

        ``quarantined``: it failed because it stopped the process that reads images `MOST_CRASHES` times.
        """
        rows = self._rows(
            "SELECT instance.*, result.findings, result.warnings, result.provenance, result.seconds, result.urgent, "
            "result.made_at FROM instance LEFT JOIN result ON result.instance_id = instance.id WHERE instance.id = :id",
            id=instance_id,
        )
        return _decoded(rows[0]) if rows else None

    def worklist(self, limit: int = 50, offset: int = 0) -> list[dict[str, Any]]:
        """Instances with their findings, urgent ones first, then the latest first."""
        return [_decoded(row) for row in self._rows(_WORKLIST, limit=limit, offset=offset)]

    def change_mark(self) -> str:
        """A text that is another one whenever the worklist may have changed."""
        row = self._rows("SELECT coalesce(max(id), 0) AS n FROM event")[0]
        return f"{row['n']}"

    def events(self, instance_id: int) -> list[dict[str, Any]]:
        return self._rows("SELECT at, what, detail FROM event WHERE instance_id = :id ORDER BY id", id=instance_id)

    def objects(self, instance_id: int) -> list[dict[str, Any]]:
        return self._rows("SELECT * FROM object WHERE instance_id = :id ORDER BY id", id=instance_id)

    def deliveries(self, instance_id: int) -> list[dict[str, Any]]:
        return self._rows(
            "SELECT outbox.*, object.kind FROM outbox JOIN object ON object.id = outbox.object_id "
            "WHERE object.instance_id = :id ORDER BY outbox.id",
            id=instance_id,
        )

    def destinations(self) -> list[dict[str, Any]]:
        """Per destination: items waiting and sent, and the last error of a waiting one."""
        return self._rows(
            "SELECT destination, sum(state = 'waiting') AS waiting, sum(state = 'sent') AS sent, "
            "max(CASE WHEN state = 'waiting' THEN last_error ELSE '' END) AS last_error, "
            "min(CASE WHEN state = 'waiting' THEN next_attempt_at END) AS next_attempt_at "
            "FROM outbox GROUP BY destination ORDER BY destination"
        )

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


def _decoded(row: dict[str, Any]) -> dict[str, Any]:
    for key in ("findings", "warnings", "provenance", "seconds"):
        if row.get(key) is not None:
            row[key] = msgspec.json.decode(row[key])
    row["quarantined"] = row["state"] == "failed" and row["crashes"] >= MOST_CRASHES
    return row
