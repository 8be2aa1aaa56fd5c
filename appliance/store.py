"""The ledger: every instance that was acknowledged, its state, its result, and what still has to be sent.

Each call is one transaction; a commit is on disk when the call returns. `appliance.series_store` has what concerns
images that are read together, `appliance.outbox_store` what goes out, `appliance.overview` what the pages and the
command line ask.
States::

    received -> claimed -> written -> delivered      (delivered at once where there is nothing to send)
       ^           |-> rejected | failed | quarantined | withheld
       |-----------'  released: the lease ran out, the disk was full, others go first
       '------------- rejected | failed: the same was sent again

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

from appliance import reading_order
from appliance.config import Priority
from appliance.errors import LeaseLostError
from appliance.outbox_store import LONGEST_DELAY, OutboxStore
from appliance.overview import FINAL_STATES, MOST_CRASHES, STATES
from appliance.reading_order import Tier
from appliance.series_store import OPEN_TRANSFER, OTHER_OF_UID, SENT_AGAIN_READ_AGAIN, in_conflict

__all__ = [
    "FINAL_STATES",
    "MOST_CRASHES",
    "STATES",
    "Admission",
    "Arrival",
    "LeaseLostError",
    "Store",
    "WrittenObject",
    "claimant",
]

_INSERT_INSTANCE = """
INSERT INTO instance (sop_instance_uid, sop_class_uid, digest, file, size, source, sender, received_at, state, reason,
                      finished_at, ae_title, priority, due_at, transfer_id)
VALUES (:sop_instance_uid, :sop_class_uid, :digest, :file, :size, :source, :sender, :now, :state, :reason,
        :finished_at, :ae_title, :priority, :now, nullif(:transfer_id, ''))
"""
_SAME = """
SELECT id, digest FROM instance
WHERE digest = :digest
   OR (sop_instance_uid = :sop_instance_uid AND sop_instance_uid <> ''
       AND state NOT IN ('rejected', 'failed', 'quarantined'))
ORDER BY digest <> :digest
"""
_TAKE_AGAIN = """
UPDATE instance SET state = 'received', reason = '', not_before = 0, finished_at = NULL, reviewed_at = NULL,
                    received_at = :now, source = :source, sender = :sender, ae_title = :ae_title,
                    transfer_id = nullif(:transfer_id, '')
WHERE id = :id
"""
# Its first two terms are the index's own, or SQLite could not use that. The index holds open instances only.
_WAITING = """
SELECT id FROM instance INDEXED BY instance_queue
WHERE state IN ('received', 'claimed') AND parked = 0
  AND ((state = 'received' AND not_before <= :now) OR (state = 'claimed' AND lease_until < :now))
"""
_CLAIM = f"""
UPDATE instance SET state = 'claimed', reason = '', claimed_by = :owner, lease_until = :lease_until
WHERE id = ({_WAITING} ORDER BY due_at, id LIMIT 1)
RETURNING *
"""  # noqa: S608 (of this file)
# The latest of what was turned away for the UID that an instance had which is now turned away itself.
_KEPT_OUT = """
SELECT id FROM instance WHERE sop_instance_uid = :uid AND sop_instance_uid <> '' AND id <> :id
  AND state = 'quarantined' AND reason = :reason AND image_removed_at IS NULL
ORDER BY id DESC LIMIT 1
"""
_TURNED_AWAY = ("rejected", "failed", "quarantined")
_HOLD_SECONDS = 3600.0  # and then it is looked at again, whatever was said
_LET_GO = """
UPDATE instance INDEXED BY instance_queue SET not_before = 0
WHERE state IN ('received', 'claimed') AND parked = 0 AND state = 'received' AND not_before > :now
"""
_GOES_BEFORE = f"{_WAITING} AND (due_at, id) < (:due_at, :id) LIMIT 1"


@dataclass(frozen=True)
class Arrival:
    """A file that lies in the spool and asks for its row.

    ``source`` is ``storage_scp``, ``stow``, ``upload`` or ``drop_folder``; ``sender`` says who or which file, for the
    technician; ``ae_title`` and ``priority`` are what a C-STORE request came with; ``transfer_id`` names the
    association, the request, or the batch of dropped files, that it belongs to; ``received_at`` is when it came
    (seconds since 1970), None for now.
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
    transfer_id: str = ""
    received_at: float | None = None


@dataclass(frozen=True)
class Admission:
    """The row of an arrival: new, a repetition of the same, or in conflict with an earlier one of the same UID."""

    instance_id: int
    outcome: str


@dataclass(frozen=True)
class WrittenObject:
    """A result object on disk; ``path`` is below the results folder, ``digest`` the SHA-256 of the file."""

    kind: str
    sop_class_uid: str
    sop_instance_uid: str
    path: str
    digest: str = ""


def claimant(pid: int) -> str:
    """The name under which the worker with this process id claims work."""
    return f"worker-{pid}"


class Store(OutboxStore):
    """The ledger on its database; see `appliance.database.Database` for how it is opened."""

    # --- in ---------------------------------------------------------------------------------------------------

    def receive(self, arrival: Arrival) -> Admission:
        """Give an arrival its row; when this returns, the instance may be acknowledged.

        The same data set gets no second row. One that was rejected, or failed, is read again, with its series where it
        is read in one; its outcome is ``new``.

        Another data set under the UID of one that has or may get a result is quarantined, since a result must belong
        to one image only; one that was turned away, cut off for instance, may be sent again whole. It is read, too,
        where it had come before that was known.

        Raises
        ------
        DiskFullError, SpoolError
            The instance must not be acknowledged then.
        """
        now = time.time() if arrival.received_at is None else arrival.received_at
        with self._transaction() as connection:
            same = connection.execute(_SAME, vars(arrival)).fetchone()
            if same is not None and same["digest"] == arrival.digest:
                # Its file is in the spool again, even where retention had taken it; of another sender's head, maybe.
                connection.execute(
                    "UPDATE instance SET copies = copies + 1, size = ?, image_removed_at = NULL WHERE id = ?",
                    (arrival.size, same["id"]),
                )
                self._event(connection, same["id"], now, "sent again", arrival.sender)
                again = self._take_again(connection, same["id"], arrival, now)
                return Admission(same["id"], "new" if again else "duplicate")
            conflict = same is not None
            reason = in_conflict(arrival.sop_instance_uid) if conflict else ""
            if arrival.transfer_id:
                connection.execute(OPEN_TRANSFER, {**vars(arrival), "now": now})
            cursor = connection.execute(
                _INSERT_INSTANCE,
                {
                    **vars(arrival),
                    "now": now,
                    "state": "quarantined" if conflict else "received",
                    "reason": reason,
                    "finished_at": now if conflict else None,
                },
            )
            identifier = int(cursor.lastrowid or 0)
            self._event(connection, identifier, now, "received", arrival.sender)
            if conflict:
                self._event(connection, identifier, now, "quarantined", reason)
            return Admission(identifier, "conflict" if conflict else "new")

    def _take_again(self, connection: sqlite3.Connection, instance_id: int, arrival: Arrival, now: float) -> bool:
        """Put an image into the queue that was turned away and has come again; whether it is."""
        row = connection.execute("SELECT * FROM instance WHERE id = ?", (instance_id,)).fetchone()
        values = {**vars(arrival), "now": now, "id": instance_id, "uid": row["sop_instance_uid"]}
        if row["state"] not in SENT_AGAIN_READ_AGAIN or connection.execute(OTHER_OF_UID, values).fetchone():
            return False
        if row["lead_id"] is None:  # its header may say something else by another transfer syntax, or to other packages
            connection.execute(
                "UPDATE instance SET triaged = 0, priority = :priority, due_at = :now WHERE id = :id", values
            )
        elif not self._gather_again(connection, instance_id, row["lead_id"], now, bool(arrival.transfer_id)):
            return False
        if arrival.transfer_id:
            connection.execute(OPEN_TRANSFER, values)
        connection.execute(_TAKE_AGAIN, values)
        self._event(connection, instance_id, now, "retried", "since it was sent again")
        return True

    def turned_away(self, digest: str) -> bool:
        """Whether the instance with a data set was rejected, or failed, so that it is read again if it comes again."""
        rows = self._rows("SELECT state FROM instance WHERE digest = :digest", digest=digest)
        return bool(rows) and rows[0]["state"] in SENT_AGAIN_READ_AGAIN

    def readmit(self, arrival: Arrival) -> bool:
        """As `receive`, of a file whose row a power cut may have taken; whether its place is in the spool.

        Nothing changes where the row is there, unless what it came to has ended before the file came.
        """
        with self._transaction() as connection:
            sql = "SELECT state, finished_at, image_removed_at FROM instance WHERE digest = ?"
            row = connection.execute(sql, (arrival.digest,)).fetchone()
            came_again = (
                row is not None
                and row["state"] in SENT_AGAIN_READ_AGAIN
                and arrival.received_at is not None
                and row["finished_at"] < arrival.received_at
            )
            if row is None or came_again:
                self.receive(arrival)
            return row is None or came_again or row["image_removed_at"] is None

    def note_size(self, digest: str, size: int) -> None:
        """Record how many bytes the file with a data set has now: another head was before it."""
        with self._transaction() as connection:
            connection.execute("UPDATE instance SET size = ? WHERE digest = ?", (size, digest))

    # --- work -------------------------------------------------------------------------------------------------

    def claim(self, owner: str, lease_seconds: float) -> dict[str, Any] | None:
        """The instance that is due first of those that wait, leased to ``owner``; None where nothing waits.

        One that is not ``triaged`` must be, with `triage` or `park`, before it is read. ``files`` are all that are to
        be read for it: where it leads a series (``lead_id``), those of the whole series, which is claimed with it.
        ``removed`` is how many of them retention has removed.
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
            read = [dict(row)]
            if row["lead_id"] is not None:
                self._claim_followers(connection, row)
                read = self.members(row["id"])
            removed = sum(each["image_removed_at"] is not None for each in read)
            return {**dict(row), "files": [each["file"] for each in read], "removed": removed}

    def triage(
        self,
        instance_id: int,
        owner: str,
        attributes: dict[str, str],
        priority: Priority,
        patience_seconds: float,
        asked: Priority = "low",
    ) -> bool:
        """Put a claimed instance in its place in the queue, once its header is read.

        Parameters
        ----------
        attributes
            What the data set says of itself: columns ``study_instance_uid`` to ``institution``.
        patience_seconds
            It is due so long after it was received.
        asked
            What its sender asked for, where a rule has decided otherwise: those who read go by the more urgent one.

        Returns
        -------
        Whether the claim stands. If not, the instance waits again, since another one goes before it.

        Raises
        ------
        QuarantineError
            Another instance has its UID.
        LeaseLostError
        """
        now = time.time()
        with self._transaction() as connection:
            row = self._describe(connection, instance_id, owner, attributes, priority, patience_seconds, asked)
            self._make_findable(connection, instance_id)
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
        """Give a claim back: it is tried again after ``delay`` seconds (60 at most); ``reason`` says why it waits."""
        now = time.time()
        not_before = now + min(delay, LONGEST_DELAY) if delay else 0.0
        with self._transaction() as connection:
            self._end_claim(connection, instance_id, owner, "received", reason, now, not_before)

    def hold(self, instance_id: int, owner: str, reason: str) -> None:
        """Give a claim back until `let_go`: what reads it is out of service, so that trying it again would be vain."""
        now = time.time()
        with self._transaction() as connection:
            self._end_claim(connection, instance_id, owner, "received", reason, now, now + _HOLD_SECONDS)

    def let_go(self) -> None:
        """Have all that waits be looked at now: what reads has changed."""
        with self._transaction() as connection:
            connection.execute(_LET_GO, {"now": time.time()})

    def release_all(self, reason: str) -> int:
        """Give back every claim of processes that are gone, at the start of the only appliance on this folder.

        What is held is looked at anew, too.
        """
        self.let_go()
        return self._release_claims("claimed_by IS NOT NULL", {}, reason, crashed=False)

    def release_held(self, owner: str, reason: str) -> int:
        """Give back all that ``owner`` holds, without blame."""
        return self._release_claims("claimed_by = :owner", {"owner": owner}, reason, crashed=False)

    def release_crashed(self, owner: str) -> int:
        """Give back what ``owner``, a process that died over it, held.

        An instance that did this `MOST_CRASHES` times ends as quarantined.
        """
        return self._release_claims("claimed_by = :owner", {"owner": owner}, "its reader stopped", crashed=True)

    def _release_claims(self, where: str, parameters: dict[str, Any], reason: str, crashed: bool) -> int:
        now = time.time()
        with self._transaction() as connection:
            rows = connection.execute(
                f"SELECT id, crashes FROM instance WHERE state = 'claimed' AND parked = 0 AND {where}",  # noqa: S608
                parameters,
            )
            claims = rows.fetchall()
            for row in claims:
                crashes = row["crashes"] + crashed
                given_up = crashes >= MOST_CRASHES
                state = "quarantined" if given_up else "received"
                why = (
                    f"Reading it stopped the reader {crashes} times; it is kept in the spool and not tried again."
                    if given_up
                    else reason
                )
                connection.execute(
                    "UPDATE instance SET state = ?, reason = ?, crashes = ?, claimed_by = NULL, lease_until = NULL, "
                    "finished_at = ? WHERE id = ?",
                    (state, why if given_up else "", crashes, now if given_up else None, row["id"]),
                )
                self._take_along(connection, row["id"], "claimed", now)
                self._event(connection, row["id"], now, "quarantined" if given_up else "released", why)
                if given_up:
                    self._give_way(connection, row["id"], now)
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

    def leases(self, owner: str) -> list[tuple[int, float]]:
        """What ``owner`` holds: each instance, of a series its lead, and until when by a clock that may be set."""
        sql = (
            "SELECT id, lease_until FROM instance WHERE state = 'claimed' AND claimed_by = :owner "
            "AND (lead_id IS NULL OR lead_id = id)"
        )
        return [(row["id"], row["lease_until"]) for row in self._rows(sql, owner=owner)]

    def reject(self, instance_id: int, owner: str, reason: str) -> None:
        self._finish(instance_id, owner, "rejected", reason)

    def fail(self, instance_id: int, owner: str, reason: str) -> None:
        self._finish(instance_id, owner, "failed", reason)

    def quarantine(self, instance_id: int, owner: str, reason: str) -> None:
        """Set an instance aside whose reading exceeds a limit or breaks what reads it; `appliance.custody` retries."""
        self._finish(instance_id, owner, "quarantined", reason)

    def withhold(self, instance_id: int, owner: str, reason: str) -> None:
        """Let nothing of a result leave this device: there is none then. `appliance.custody` releases it."""
        self._finish(instance_id, owner, "withheld", reason)

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
        tier: Tier = "low",
        raised_to: Priority = "low",
        unmade: Sequence[str] = (),
    ) -> None:
        """Record a result whose objects lie on disk, and what has to be sent where, at one stroke.

        Parameters
        ----------
        result
            ``findings``, ``warnings``, ``provenance``, ``seconds``, where there are any ``outlines`` (builtins, stored
            as JSON), and ``urgent``.
        outbox
            ``(kind, destination)`` pairs.
        note
            For the events: what was unusual.
        tier, raised_to
            By which its image is read earlier than it would be otherwise; see `appliance.reading_order`.
        unmade
            Why a message that somebody waits for was not made of it, a sentence for each.
        """
        now = time.time()
        with self._transaction() as connection:
            self._end_claim(connection, instance_id, owner, "written" if outbox else "delivered", "", now)
            if note:
                self._event(connection, instance_id, now, "note", note)
            for reason in unmade:
                self._event(connection, instance_id, now, "unmade", reason)
            connection.execute(
                "INSERT INTO result VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    instance_id,
                    *(
                        msgspec.json.encode(result[key]).decode()
                        for key in ("findings", "warnings", "provenance", "seconds")
                    ),
                    int(result["urgent"]),
                    now,
                    msgspec.json.encode(result.get("outlines")).decode(),
                ),
            )
            self._supersede(connection, instance_id, now)
            (before,) = connection.execute("SELECT reading_rank FROM instance WHERE id = ?", (instance_id,)).fetchone()
            connection.execute(
                "UPDATE instance SET reading_rank = ?, outcome = ? WHERE id = ?",
                (reading_order.raised(before, tier, raised_to), _outcome(result), instance_id),
            )
            for item in objects:
                cursor = connection.execute(
                    "INSERT INTO object (instance_id, kind, sop_class_uid, sop_instance_uid, path, digest) "
                    "VALUES (?, ?, ?, ?, ?, ?)",
                    (instance_id, item.kind, item.sop_class_uid, item.sop_instance_uid, item.path, item.digest),
                )
                connection.executemany(
                    "INSERT INTO outbox (object_id, destination, next_attempt_at, queued_at) VALUES (?, ?, 0, ?)",
                    [(cursor.lastrowid, destination, now) for kind, destination in outbox if kind == item.kind],
                )
            self._drop_overtaken_of_series(connection, instance_id, now)

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
        self._take_along(connection, instance_id, "claimed", now)
        if state in _TURNED_AWAY:
            self._give_way(connection, instance_id, now)

    def _give_way(self, connection: sqlite3.Connection, instance_id: int, now: float) -> None:
        """Read what came under the UID of one that is turned away, while that waited: it may be the same one, whole."""
        (uid,) = connection.execute("SELECT sop_instance_uid FROM instance WHERE id = ?", (instance_id,)).fetchone()
        values = {"id": instance_id, "uid": uid, "reason": in_conflict(uid)}
        row = connection.execute(_KEPT_OUT, values).fetchone()
        if row is None or connection.execute(OTHER_OF_UID, values).fetchone():
            return
        connection.execute(
            "UPDATE instance SET state = 'received', reason = '', finished_at = NULL WHERE id = ?", (row["id"],)
        )
        why = f"since image {instance_id}, which had its UID, was turned away"
        self._event(connection, row["id"], now, "retried", why)


def _outcome(result: dict[str, Any]) -> str:
    """What a result is found by in the worklist: the most urgent of its findings."""
    findings = result["findings"]
    if result["urgent"]:
        return "urgent"
    if any(each["positive"] for each in findings):
        return "positive"
    if any(each.get("unsure") for each in findings):
        return "indeterminate"
    return "negative" if findings else "outlined"
