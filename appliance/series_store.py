"""The ledger of series: their images wait together, are read as one job, and end together.

An image of a volume is *parked* once its header is read: it leaves the queue and waits in its series. The first one is
the series' *lead*: it stands for the series in the queue, holds its lease, counts its crashes and carries its result;
the others, its followers, end in the state that it ends in, with a reference to it. An image that comes while a series
waits joins it. One that comes later is the lead of another reading, of all images, whose result supersedes the earlier
one; nothing that had ended changes.

States of a row of ``series``: gathered (``started_at`` is NULL), started, and with a result that was superseded.
"""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from appliance import completeness, reading_order
from appliance.completeness import ARRIVING, Performed, Slice, Transfer
from appliance.config import Priority
from appliance.errors import LeaseLostError, QuarantineError
from appliance.overview import FINAL_STATES, READINGS_OF_SERIES, Overview

_SOON_SECONDS = 20.0  # what comes later, without end perhaps, holds nothing up
_DESCRIBED = (
    "sop_instance_uid", "sop_class_uid", "study_instance_uid", "patient_id", "patient_name", "patient_sex",
    "patient_age", "modality", "body_part", "view", "acquired_at", "institution", "accession_number",
    "issuer_of_patient_id", "series_instance_uid",
)  # fmt: skip

SENT_AGAIN_READ_AGAIN = ("rejected", "failed")  # what is quarantined is dangerous, and for people to say
OTHER_OF_UID = """
SELECT 1 FROM instance WHERE sop_instance_uid = :uid AND sop_instance_uid <> '' AND id <> :id
  AND state NOT IN ('rejected', 'failed', 'quarantined')
"""
OPEN_TRANSFER = "INSERT OR IGNORE INTO transfer (id, source, opened_at) VALUES (:transfer_id, :source, :now)"
# What shares its UIDs but not its patient is never read together with it.
_LATEST_OF_SERIES = """
SELECT series.*, lead.state AS lead_state, lead.due_at AS lead_due_at
FROM series JOIN instance AS lead ON lead.id = series.lead_id
WHERE series.series_instance_uid = :series_instance_uid AND series.study_instance_uid = :study_instance_uid
  AND series.patient_id = :patient_id
ORDER BY series.lead_id DESC LIMIT 1
"""
_INSERT_SERIES = """
INSERT INTO series (lead_id, series_instance_uid, study_instance_uid, patient_id, images, why, look_again_at)
VALUES (:id, :series_instance_uid, :study_instance_uid, :patient_id, :images, :why, :look_again_at)
"""
_JOIN_SERIES = """
UPDATE series SET images = images + 1, started_at = NULL, why = :why, look_again_at = :look_again_at
WHERE lead_id = :lead_id
"""
_PARK_LEAD_AGAIN = """
UPDATE instance SET parked = 1, not_before = 0, reason = '',
                    priority = CASE WHEN :due_at < due_at THEN :priority ELSE priority END,
                    due_at = min(due_at, :due_at), reading_rank = min(reading_rank, :reading_rank)
WHERE id = :lead_id
"""
# Once: a second time would be counted twice.
_MAKE_FINDABLE = """
INSERT INTO instance_named (rowid, patient_name)
SELECT id, patient_name FROM instance
WHERE id = :id AND patient_name <> '' AND NOT EXISTS (SELECT 1 FROM instance_named_docsize WHERE id = :id)
"""
_PARK = """
UPDATE instance SET state = 'received', claimed_by = NULL, lease_until = NULL, parked = 1, lead_id = :lead_id,
                    place = :place
WHERE id = :id
"""
# It counts: it is of all images that the earlier ones are of.
_LATEST_READING = f"""
SELECT lead.id, lead.state, lead.sop_instance_uid {READINGS_OF_SERIES}
JOIN instance AS lead ON lead.id = each.lead_id
WHERE this.lead_id = :lead_id ORDER BY each.lead_id DESC LIMIT 1
"""
_LEAD_AGAIN = """
UPDATE instance SET state = 'received', parked = 1, reason = '', not_before = 0, due_at = :now, finished_at = NULL,
                    reviewed_at = NULL
WHERE id = :id
"""
# With their lead those that were turned away with it, unless the same image came again whole.
_CLAIM_FOLLOWERS = """
UPDATE instance SET state = 'claimed', claimed_by = :claimed_by, lease_until = :lease_until, reason = '',
                    finished_at = NULL, reviewed_at = NULL
WHERE lead_id = :id AND id <> :id AND (state IN ('received', 'claimed') OR (state IN ('rejected', 'failed')
  AND NOT EXISTS (SELECT 1 FROM instance AS other WHERE other.sop_instance_uid = instance.sop_instance_uid
                  AND other.sop_instance_uid <> '' AND other.id <> instance.id
                  AND (other.id > instance.id OR other.state NOT IN ('rejected', 'failed', 'quarantined')))))
"""
# A reading is of all images that were there when it was started, those of earlier readings too.
_OF_SERIES = f"""
{READINGS_OF_SERIES} AND each.lead_id <= this.lead_id
JOIN instance ON instance.lead_id = each.lead_id
LEFT JOIN transfer ON transfer.id = instance.transfer_id
WHERE this.lead_id = :lead_id
"""
_MEMBERS = f"SELECT instance.* {_OF_SERIES} ORDER BY instance.id"
# What names the series and is not read with it; and what came with it, and nobody knows of which series it is. What was
# sent again whole is not missing.
_NOT_AMONG = "sop_instance_uid NOT IN (SELECT value FROM json_each(:here))"
_APART = f"""
SELECT count(DISTINCT sop_instance_uid) AS images FROM instance INDEXED BY instance_apart_from_series
WHERE lead_id IS NULL AND series_instance_uid <> '' AND series_instance_uid = :series_instance_uid AND {_NOT_AMONG}
"""  # noqa: S608
_UNREAD_BESIDE = f"""
SELECT count(DISTINCT sop_instance_uid) AS images FROM instance INDEXED BY instance_unread_of_transfer
WHERE state IN ('rejected', 'quarantined') AND study_instance_uid = '' AND series_instance_uid = ''
  AND transfer_id IN (SELECT value FROM json_each(:transfers)) AND sop_class_uid = :sop_class_uid
  AND sop_instance_uid <> '' AND {_NOT_AMONG}
"""  # noqa: S608
_LATEST_SIGN = f"SELECT max(max(received_at), coalesce(max(ended_at), 0)) AS at {_OF_SERIES}"
_EARLIER = """
superseded_by IS NULL AND lead_id < :lead_id
  AND (series_instance_uid, study_instance_uid, patient_id)
      = (SELECT series_instance_uid, study_instance_uid, patient_id FROM series WHERE lead_id = :lead_id)
"""
_SUPERSEDE = f"UPDATE series SET superseded_by = :lead_id WHERE {_EARLIER}"  # noqa: S608 (of this file)
_SUPERSEDED = f"""
SELECT series.images FROM series JOIN result ON result.instance_id = series.lead_id WHERE {_EARLIER} ORDER BY lead_id
"""  # noqa: S608
_UNREAD = """
SELECT 1 FROM instance INDEXED BY instance_unread
WHERE state IN ('received', 'claimed') AND triaged = 0 AND received_at <= :until AND not_before <= :now LIMIT 1
"""
# The latest, should several steps claim the series.
_PERFORMED = """
SELECT status, json_array_length(images) AS images,
       (SELECT count(*) FROM json_each(images) AS named
        WHERE NOT EXISTS (SELECT 1 FROM instance WHERE sop_instance_uid = named.value)) AS missing
FROM performed_series JOIN performed_step ON performed_step.sop_instance_uid = step_uid
WHERE series_instance_uid = :series_instance_uid ORDER BY changed_at DESC LIMIT 1
"""
_TRANSFERS = "SELECT transfer.* FROM json_each(:ids) AS wanted JOIN transfer ON transfer.id = wanted.value"


def in_conflict(sop_instance_uid: str) -> str:
    """Why an instance is quarantined whose UID another one has."""
    return (
        f"The SOP Instance UID {sop_instance_uid} was received before with other content. "
        "The sender must give a changed image a UID of its own."
    )


@dataclass(frozen=True)
class Gathered:
    """A series that waits, with the evidence that `appliance.completeness.judge` takes."""

    lead_id: int
    images: int
    why: str
    slices: tuple[Slice, ...]
    transfers: tuple[Transfer, ...]
    last_arrival: float
    performed: Performed | None


class SeriesStore(Overview):
    """What the ledger does with images that are read together."""

    # --- associations and batches -----------------------------------------------------------------------------

    def end_transfer(self, transfer_id: str, ending: str) -> None:
        """Record that an association was ``released`` or ``aborted``, or that a batch of files has ended.

        The series that it brought images of are judged anew. Nothing is recorded of one that brought nothing.
        """
        now = time.time()
        with self._transaction() as connection:
            connection.execute(
                "UPDATE transfer SET ended_at = ?, ending = ? WHERE id = ? AND ended_at IS NULL",
                (now, ending, transfer_id),
            )
            connection.execute(
                "UPDATE series SET look_again_at = 0 WHERE started_at IS NULL AND lead_id IN "
                "(SELECT lead_id FROM instance WHERE transfer_id = ? AND state IN ('received', 'claimed'))",
                (transfer_id,),
            )

    def abort_open_transfers(self, sources: Sequence[str] | None = None) -> None:
        """Record that whatever was open has broken off, by its process's end; of these sources, None for all."""
        for row in self._rows("SELECT id, source FROM transfer INDEXED BY transfer_open WHERE ended_at IS NULL"):
            if sources is None or row["source"] in sources:
                self.end_transfer(row["id"], "aborted")

    # --- gathering --------------------------------------------------------------------------------------------

    def park(
        self,
        instance_id: int,
        owner: str,
        attributes: dict[str, str],
        series_instance_uid: str,
        place: Slice,
        priority: Priority,
        patience_seconds: float,
        quiet_seconds: float,
        asked: Priority = "low",
    ) -> int:
        """Put a claimed instance into its series, once its header is read; the series' lead.

        The claim ends. The series is due as the most urgent of its images is.

        Parameters
        ----------
        attributes, priority, patience_seconds, asked
            As `appliance.store.Store.triage` takes them.
        quiet_seconds
            The series is judged after so long without a new image, and sooner where what brings it ends.

        Raises
        ------
        QuarantineError
            Another instance has its UID.
        LeaseLostError
        """
        now = time.time()
        with self._transaction() as connection:
            row = self._describe(connection, instance_id, owner, attributes, priority, patience_seconds, asked)
            arriving = connection.execute(
                "SELECT 1 FROM transfer WHERE id = ? AND ended_at IS NULL", (row["transfer_id"],)
            ).fetchone()
            values = {
                "id": instance_id,
                "series_instance_uid": series_instance_uid,
                "study_instance_uid": row["study_instance_uid"],
                "patient_id": row["patient_id"],
                "due_at": row["due_at"],
                "priority": priority,
                "reading_rank": row["reading_rank"],
                "place": msgspec.json.encode(place).decode(),
                "why": ARRIVING,
                "look_again_at": row["received_at"] + quiet_seconds if arriving else 0.0,
            }
            found = connection.execute(_LATEST_OF_SERIES, values).fetchone()
            if found is not None and found["lead_state"] == "received":
                values["lead_id"] = found["lead_id"]
                connection.execute(_JOIN_SERIES, values)
                connection.execute(_PARK_LEAD_AGAIN, values)
            else:
                values["lead_id"] = instance_id
                values["images"] = 1 + (found["images"] if found is not None else 0)
                connection.execute(_INSERT_SERIES, values)
            connection.execute(_PARK, values)
            if values["lead_id"] == instance_id:
                self._make_findable(connection, instance_id)
            self._event(connection, instance_id, now, "gathered", f"in the series of image {values['lead_id']}")
            return int(values["lead_id"])

    def _gather_again(
        self, connection: sqlite3.Connection, instance_id: int, lead_id: int, now: float, arriving: bool
    ) -> bool:
        """Put an image that was turned away and has come again into the latest reading of its series; whether it is.

        That reading waits for the others that come again with it, so that all of them are read once.
        """
        latest = connection.execute(_LATEST_READING, {"lead_id": lead_id}).fetchone()
        lead = {"id": latest["id"], "uid": latest["sop_instance_uid"], "now": now}
        if latest["state"] not in ("received", *SENT_AGAIN_READ_AGAIN):
            return False
        if latest["state"] != "received":
            if connection.execute(OTHER_OF_UID, lead).fetchone():
                return False
            if latest["id"] != instance_id:
                self._event(connection, latest["id"], now, "retried", "with an image of its series that was sent again")
        connection.execute(_LEAD_AGAIN, lead)
        connection.execute(
            "UPDATE series SET started_at = NULL, why = ?, look_again_at = ? WHERE lead_id = ?",
            (ARRIVING, now + _SOON_SECONDS if arriving else 0.0, latest["id"]),
        )
        connection.execute("UPDATE instance SET parked = 1, lead_id = ? WHERE id = ?", (latest["id"], instance_id))
        return True

    @staticmethod
    def _make_findable(connection: sqlite3.Connection, instance_id: int) -> None:
        """By its patient's name, in `appliance.worklist_store`."""
        connection.execute(_MAKE_FINDABLE, {"id": instance_id})

    def _describe(
        self,
        connection: sqlite3.Connection,
        instance_id: int,
        owner: str,
        attributes: dict[str, str],
        priority: Priority,
        patience_seconds: float,
        asked: Priority,
    ) -> sqlite3.Row:
        """Write what a header says into the row of a claimed instance; the row."""
        values = {name: attributes[name] for name in _DESCRIBED if name in attributes}
        assignments = "".join(f", {name} = :{name}" for name in values)
        reading_rank = reading_order.rank(reading_order.most_urgent((priority, asked)))
        row = connection.execute(  # the names are of our own list
            "UPDATE instance SET priority = :priority, due_at = received_at + :patience, triaged = 1, "  # noqa: S608
            f"reading_rank = :reading_rank{assignments} "
            "WHERE id = :id AND state = 'claimed' AND claimed_by = :owner RETURNING *",
            {
                **values,
                "priority": priority,
                "reading_rank": reading_rank,
                "patience": patience_seconds,
                "id": instance_id,
                "owner": owner,
            },
        ).fetchone()
        if row is None:
            raise LeaseLostError(f"the lease of instance {instance_id} was lost by {owner}")
        # What a C-STORE request called it by another UID than it has was not in conflict until now.
        if connection.execute(OTHER_OF_UID, {"id": instance_id, "uid": row["sop_instance_uid"]}).fetchone():
            raise QuarantineError(in_conflict(row["sop_instance_uid"]))
        found: sqlite3.Row = row
        return found

    def to_judge(self) -> list[Gathered]:
        """Series that wait and whose time to be judged has come.

        Not before the header of everything has been read that may be of them: that was received before their last
        sender's end, or soon after it.
        """
        now = time.time()
        due = self._rows("SELECT * FROM series WHERE started_at IS NULL AND look_again_at <= :now", now=now)
        found = []
        for series in due:
            until = self._rows(_LATEST_SIGN, lead_id=series["lead_id"])[0]["at"]
            if self._rows(_UNREAD, until=until + _SOON_SECONDS, now=now):
                continue
            members = self.members(series["lead_id"])
            found.append(
                Gathered(
                    series["lead_id"],
                    series["images"],
                    series["why"],
                    tuple(msgspec.json.decode(each["place"], type=Slice) for each in members),
                    self._transfers(members),
                    max(each["received_at"] for each in members),
                    self._performed(series["series_instance_uid"]),
                )
            )
        return found

    def _transfers(self, members: Iterable[dict[str, Any]]) -> tuple[Transfer, ...]:
        images = Counter(each["transfer_id"] for each in members if each["transfer_id"])
        rows = self._rows(_TRANSFERS, ids=msgspec.json.encode(list(images)).decode())
        return tuple(
            Transfer(row["source"], row["opened_at"], row["ended_at"], row["ending"], images[row["id"]]) for row in rows
        )

    def _performed(self, series_instance_uid: str) -> Performed | None:
        rows = self._rows(_PERFORMED, series_instance_uid=series_instance_uid)
        return Performed(**rows[0]) if rows else None

    def start_series(self, series: Gathered, why: str, missing: str = "") -> bool:
        """Put a series into the queue, unless another image has joined it since it was looked at; whether it was.

        ``missing`` as of `appliance.completeness.Ready`.
        """
        now = time.time()
        with self._transaction() as connection:
            cursor = connection.execute(
                "UPDATE series SET started_at = ?, why = ?, missing = ?, images = ? "
                "WHERE lead_id = ? AND started_at IS NULL AND images = ?",
                (now, why, missing, len(series.slices), series.lead_id, series.images),
            )
            if cursor.rowcount == 1:
                connection.execute("UPDATE instance SET parked = 0 WHERE id = ?", (series.lead_id,))
                self._event(connection, series.lead_id, now, "started", why)
            return cursor.rowcount == 1

    def postpone_series(self, series: Gathered, why: str, look_again_at: float) -> None:
        """Let a series wait, and say for what; events tell of it where that is something else than before."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE series SET why = ?, look_again_at = ? WHERE lead_id = ? AND started_at IS NULL AND images = ?",
                (why, look_again_at, series.lead_id, series.images),
            )
            if why != series.why:
                self._event(connection, series.lead_id, time.time(), "waiting", why)

    def next_look_at(self) -> float | None:
        """When a waiting series is to be judged next (seconds since 1970), None where none waits."""
        at: float | None = self._rows("SELECT min(look_again_at) AS at FROM series WHERE started_at IS NULL")[0]["at"]
        return at

    # --- read as one ------------------------------------------------------------------------------------------

    def members(self, lead_id: int) -> list[dict[str, Any]]:
        """The rows of all images that a reading is of, in the order in which they came; empty where it is no series'.

        Where an image was turned away and sent again whole, under its UID, the later one counts.
        """
        rows = self._rows(_MEMBERS, lead_id=lead_id)
        return list({row["sop_instance_uid"] or row["digest"]: row for row in rows}.values())

    def cautions(self, lead_id: int) -> tuple[str, ...]:
        """What the result of a series must say: what may be missing in it, and what it takes the place of."""
        (series,) = self._rows("SELECT * FROM series WHERE lead_id = :lead_id", lead_id=lead_id)
        members = self.members(lead_id)
        asked = {
            "series_instance_uid": series["series_instance_uid"],
            "sop_class_uid": members[0]["sop_class_uid"],
            "here": msgspec.json.encode([each["sop_instance_uid"] for each in members]).decode(),
            "transfers": msgspec.json.encode(list({each["transfer_id"] for each in members})).decode(),
        }
        apart, unread = (self._rows(query, **asked)[0]["images"] for query in (_APART, _UNREAD_BESIDE))
        earlier = self._rows(_SUPERSEDED, lead_id=lead_id)
        return completeness.warnings(series["missing"], apart, unread, earlier[-1]["images"] if earlier else None)

    def _claim_followers(self, connection: sqlite3.Connection, lead: sqlite3.Row) -> None:
        connection.execute(_CLAIM_FOLLOWERS, {key: lead[key] for key in ("id", "claimed_by", "lease_until")})

    def _take_along(self, connection: sqlite3.Connection, lead_id: int, came_from: str, now: float) -> None:
        """Bring the followers to where their lead has come to, from the state that they were in with it."""
        lead = connection.execute(
            "SELECT state, reason, crashes, finished_at FROM instance WHERE id = ? AND lead_id = id", (lead_id,)
        ).fetchone()
        if lead is None:
            return  # it is read by itself
        final = lead["state"] in FINAL_STATES
        reason = f"Read as part of a series, with image {lead_id}." if lead["state"] != "received" else ""
        rows = connection.execute(
            "UPDATE instance SET state = ?, reason = ?, crashes = CASE WHEN ? THEN ? ELSE crashes END, "
            "claimed_by = NULL, lease_until = NULL, finished_at = ? "
            "WHERE lead_id = ? AND id <> ? AND state = ? RETURNING id",
            (
                lead["state"],
                f"{reason} {lead['reason']}".strip(),
                final,
                lead["crashes"],
                lead["finished_at"],
                lead_id,
                lead_id,
                came_from,
            ),
        ).fetchall()
        if final:
            for row in rows:
                self._event(connection, row["id"], now, lead["state"], reason)

    def _supersede(self, connection: sqlite3.Connection, lead_id: int, now: float) -> None:
        """Mark the earlier readings of the series whose reading has just given a result."""
        connection.execute(_SUPERSEDE, {"lead_id": lead_id})
        for row in connection.execute("SELECT lead_id FROM series WHERE superseded_by = ?", (lead_id,)).fetchall():
            self._event(connection, row["lead_id"], now, "superseded", f"by the result of image {lead_id}")
