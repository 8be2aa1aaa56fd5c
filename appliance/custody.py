"""What the ledger keeps and lets go: quarantine, what people have seen, what retention removes, and its own proof.

Nothing here is part of reading an image; `appliance.store` has that.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from appliance.errors import ApplianceError
from appliance.overview import READINGS_OF_SERIES, Overview

# A later reading of its series that was not turned away has all images of this one: it counts instead.
_LATER_READING = f"""
SELECT each.lead_id {READINGS_OF_SERIES} AND each.lead_id > this.lead_id
JOIN instance AS reader ON reader.id = each.lead_id AND reader.state NOT IN ('rejected', 'failed', 'quarantined')
WHERE this.lead_id = {{lead}} ORDER BY each.lead_id DESC LIMIT 1
"""
_WITHHELD = f"""
SELECT * FROM instance INDEXED BY instance_withheld
WHERE state = 'withheld' AND (lead_id IS NULL OR lead_id = id)
  AND NOT EXISTS ({_LATER_READING.format(lead="instance.lead_id")})
ORDER BY id LIMIT :limit
"""  # noqa: S608 (of this file)
_TURNED_AWAY = ("rejected", "failed", "quarantined")
# An image may go once nobody waits for anything of it: its results have arrived wherever they are to go, or somebody
# has seen what came of it. A series goes as its lead does, whole. What asks for review stays until that.
_LEAD = "JOIN instance AS lead ON lead.id = ifnull(instance.lead_id, instance.id)"
_MAY_GO = """
(lead.reviewed_at IS NOT NULL
 OR (lead.state = 'delivered' AND EXISTS (SELECT 1 FROM object JOIN outbox ON outbox.object_id = object.id
                                          WHERE object.instance_id = lead.id)
     AND NOT EXISTS (SELECT 1 FROM result WHERE result.instance_id = lead.id
                     AND json_extract(result.provenance, '$.safe_mode') = 'review')))
AND lead.finished_at IS NOT NULL AND lead.state <> 'written'
"""
# A reading of the series of an image that is still to come needs it, too.
_TO_BE_READ = f"""
SELECT 1 {READINGS_OF_SERIES}
JOIN instance AS reader ON reader.id = each.lead_id AND reader.state IN ('received', 'claimed')
WHERE this.lead_id = instance.lead_id
"""
_REMOVABLE = {
    "image": f"""
SELECT instance.id, instance.finished_at, instance.file, instance.size
FROM instance INDEXED BY instance_with_image {_LEAD}
WHERE instance.image_removed_at IS NULL AND instance.finished_at <= :before
  AND NOT EXISTS (SELECT 1 FROM regression_case WHERE regression_case.instance_id = lead.id)
  AND NOT EXISTS ({_TO_BE_READ}) AND {_MAY_GO}""",  # noqa: S608 (of this file)
    "result": f"""
SELECT instance.id, instance.finished_at FROM instance INDEXED BY instance_with_result {_LEAD}
WHERE instance.result_removed_at IS NULL AND instance.state = 'delivered' AND instance.finished_at <= :before
  AND EXISTS (SELECT 1 FROM result WHERE result.instance_id = instance.id) AND {_MAY_GO}
  AND NOT EXISTS (SELECT 1 FROM assessment_due WHERE assessment_due.instance_id = instance.id)
  AND NOT EXISTS (SELECT 1 FROM object JOIN outbox ON outbox.object_id = object.id
                  WHERE object.instance_id = instance.id AND NOT of_result
                  AND (outbox.state IN ('waiting', 'undelivered') OR (outbox.state = 'sent' AND to_commit = 1)))""",  # noqa: S608 (of this file)
}
_UNREVIEWED = f"""
SELECT count(*) AS images, ifnull(sum(instance.size), 0) AS bytes, ifnull(sum(lead.state = 'rejected'), 0) AS rejected
FROM instance INDEXED BY instance_with_image {_LEAD}
WHERE instance.image_removed_at IS NULL AND instance.finished_at <= :before AND NOT {_MAY_GO}
  AND NOT EXISTS (SELECT 1 FROM outbox JOIN object ON object.id = outbox.object_id
                  WHERE object.instance_id = lead.id AND outbox.state IN ('waiting', 'undelivered'))
"""  # noqa: S608 (of this file)
_REVIEW_REJECTED = """
UPDATE instance SET reviewed_at = :now
WHERE id IN (SELECT value FROM json_each(:ids)) AND (lead_id IS NULL OR lead_id = id)
  AND state = 'rejected' AND reviewed_at IS NULL AND finished_at <= :before RETURNING id
"""
_NEXT = "AND (instance.finished_at, instance.id) > (:at, :id) ORDER BY instance.finished_at, instance.id LIMIT 100"
_SAME = "AND instance.finished_at = :before AND instance.id = :id"
_PRUNE = """
DELETE FROM transfer WHERE ended_at < :before AND NOT EXISTS
  (SELECT 1 FROM instance WHERE transfer_id = transfer.id AND state IN ('received', 'claimed'))
"""
# Each must find nothing: what it means where it does, and the rows.
_CONTRADICTIONS = {
    "has a state of success, but neither it nor its series has a result": """
        SELECT instance.id FROM instance LEFT JOIN result ON result.instance_id = ifnull(instance.lead_id, instance.id)
        WHERE instance.state IN ('written', 'delivered') AND result.instance_id IS NULL""",
    "has a result, but not the state of one": """
        SELECT id FROM result JOIN instance ON instance.id = result.instance_id
        WHERE state NOT IN ('written', 'delivered')""",
    "counts as delivered, but a result of it is not": """
        SELECT instance.id FROM outbox JOIN object ON object.id = outbox.object_id
        JOIN instance ON instance.id = object.instance_id
        WHERE (outbox.state IN ('waiting', 'undelivered') OR (outbox.state = 'sent' AND outbox.to_commit = 1))
        AND of_result AND instance.state <> 'written'""",
    "has a final state, but not the time or the reason of it": """
        SELECT id FROM instance WHERE state IN ('rejected', 'failed', 'quarantined', 'withheld')
        AND (finished_at IS NULL OR reason = '')""",
    "is another instance under the same SOP Instance UID with a result": """
        SELECT max(id) AS id FROM instance WHERE state IN ('written', 'delivered') AND sop_instance_uid <> ''
        GROUP BY sop_instance_uid HAVING count(*) > 1""",
    "was received, but nothing tells of it": """
        SELECT id FROM instance WHERE NOT EXISTS
          (SELECT 1 FROM event WHERE event.instance_id = instance.id AND event.what = 'received')""",
}
_EXPORT = """
SELECT instance.*, result.findings, result.provenance, result.made_at,
       (SELECT group_concat(DISTINCT outbox.destination) FROM object JOIN outbox ON outbox.object_id = object.id
        WHERE object.instance_id = instance.id AND outbox.state IN ('sent', 'committed')) AS sent_to
FROM instance LEFT JOIN result ON result.instance_id = instance.id
WHERE instance.id > :after ORDER BY instance.id LIMIT 500
"""
_PAGE = 500


class Custody(Overview):
    # --- quarantine -------------------------------------------------------------------------------------------

    def quarantined(self, limit: int = 1000) -> list[dict[str, Any]]:
        """Instances that are set aside, the latest first."""
        sql = "SELECT * FROM instance INDEXED BY instance_in_quarantine WHERE state = 'quarantined' "
        return self._rows(f"{sql} ORDER BY id DESC LIMIT :limit", limit=limit)

    def known(self, instance_id: int) -> dict[str, Any]:
        """A row as of `instance`; raises `ApplianceError` where there is none."""
        row = self.instance(instance_id)
        if row is None:
            raise ApplianceError(f"there is no image number {instance_id}", hint="see `scanside quarantine list`")
        return row

    def retry(self, instance_id: int) -> None:
        """Put an instance that was turned away into the queue again, with its series where it is read in one.

        Raises
        ------
        ApplianceError
            It was not turned away, its file is gone, another instance has its UID now, or a later reading of its series
            has all of its images.
        """
        now = time.time()
        row = self.known(instance_id)
        lead = row["lead_id"] or row["id"]
        if row["state"] not in _TURNED_AWAY:
            raise ApplianceError(f"image {instance_id} was not turned away: it is {row['state']}")
        with self._transaction() as connection:
            self._read_again(connection, lead, row["state"], now, "retried", "by hand")

    def _read_again(
        self, connection: sqlite3.Connection, lead: int, state: str, now: float, what: str, detail: str
    ) -> None:
        """Put what is in a state, by itself or with its series, into the queue."""
        later = connection.execute(_LATER_READING.format(lead="?"), (lead,)).fetchone()
        if later is not None:
            raise ApplianceError(
                f"image {lead} can't be read again: more images of its series came later",
                hint=f"see the result of image {later['lead_id']}, which has all of them",
            )
        rows = connection.execute(
            "SELECT * FROM instance WHERE (id = ? OR lead_id = ?) AND state = ?", (lead, lead, state)
        ).fetchall()
        for each in rows:
            if each["image_removed_at"] is not None:
                raise ApplianceError(f"the file of image {each['id']} was removed after it had been reviewed")
            taken = connection.execute(
                "SELECT id FROM instance WHERE sop_instance_uid = ? AND sop_instance_uid <> '' "
                "AND id <> ? AND state NOT IN ('rejected', 'failed', 'quarantined')",
                (each["sop_instance_uid"], each["id"]),
            ).fetchone()
            if taken is not None:
                raise ApplianceError(
                    f"image {each['id']} can't be read again, since image {taken['id']} came under its UID",
                    hint="a result must belong to one image only",
                )
            connection.execute(
                "UPDATE instance SET state = 'received', reason = '', crashes = 0, not_before = 0, "
                "finished_at = NULL, reviewed_at = NULL WHERE id = ?",
                (each["id"],),
            )
            self._event(connection, each["id"], now, what, detail)

    def withheld(self, limit: int = 1000) -> list[dict[str, Any]]:
        """Instances whose results are withheld, the oldest first; of a series that of its latest reading."""
        return self._rows(_WITHHELD, limit=limit)

    def release(self, instance_id: int, by: str, why: str) -> None:
        """Let an instance whose result is withheld be read again, for a result that asks for review.

        Raises
        ------
        ApplianceError
            It is not withheld, nobody is named, no reason is given, its file is gone, or a later reading of its series
            has all of its images.
        """
        row = self.known(instance_id)
        lead, now = row["lead_id"] or row["id"], time.time()
        if row["state"] != "withheld":
            raise ApplianceError(f"the result of image {instance_id} is not withheld: it is {row['state']}")
        if not by.strip() or not why.strip():
            raise ApplianceError("say who releases it, and why", hint="both stand in the ledger and in the result")
        with self._transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO released VALUES (?, ?, ?, ?)", (lead, now, by.strip(), why.strip())
            )
            self._read_again(connection, lead, "withheld", now, "released", f"by {by.strip()}: {why.strip()}")

    def review(self, instance_id: int) -> None:
        """Record that somebody has seen what came of an instance, so that retention may remove it.

        Raises
        ------
        ApplianceError
            There is no such instance, or nothing has come of it yet.
        """
        row = self.known(instance_id)
        if row["finished_at"] is None:
            raise ApplianceError(f"image {instance_id} has no final state yet: it is {row['state']}")
        now = time.time()
        with self._transaction() as connection:
            connection.execute("UPDATE instance SET reviewed_at = ? WHERE id = ?", (now, row["lead_id"] or instance_id))
            self._event(connection, instance_id, now, "reviewed", "")

    def review_rejected(self, instance_ids: Sequence[int], before: float) -> int:
        """Record that somebody has seen those of some instances that were rejected until then; how many were not yet.

        Parameters
        ----------
        before
            When the list was made that somebody has seen, in seconds since 1970: what is rejected later is not in it.
        """
        now, ids = time.time(), msgspec.json.encode(list(instance_ids)).decode()
        with self._transaction() as connection:
            rows = connection.execute(_REVIEW_REJECTED, {"now": now, "ids": ids, "before": before}).fetchall()
            for row in rows:
                self._event(connection, row["id"], now, "reviewed", "with others that were rejected")
        return len(rows)

    # --- retention --------------------------------------------------------------------------------------------

    def removable(self, kind: str, before: float) -> Iterator[dict[str, Any]]:
        """Instances that have ended until then and whose ``image`` or ``result`` may go, the oldest first.

        Of images with ``file`` and ``size``.
        """
        at, identifier = 0.0, 0
        while rows := self._rows(f"{_REMOVABLE[kind]} {_NEXT}", before=before, at=at, id=identifier):
            yield from rows
            at, identifier = rows[-1]["finished_at"], rows[-1]["id"]

    def unreviewed(self, before: float) -> dict[str, int]:
        """How many ``images`` of how many ``bytes`` have ended until then and stay, though nothing of them waits to be
        sent, since nobody has reviewed them; and how many of them were ``rejected``."""
        return self._rows(_UNREVIEWED, before=before)[0]

    def note_removed(self, kind: str, instance_id: int, finished_at: float, why: str) -> bool:
        """Record that the ``image`` or the ``result`` of an instance is removed; do so before it is.

        Returns
        -------
        Whether it may still go: not where the instance was sent or read again since `removable` has told of it.
        """
        column, now = {"image": "image_removed_at", "result": "result_removed_at"}[kind], time.time()
        with self._transaction() as connection:
            same = {"before": finished_at, "id": instance_id}
            if connection.execute(f"{_REMOVABLE[kind]} {_SAME}", same).fetchone() is None:
                return False
            connection.execute(f"UPDATE instance SET {column} = ? WHERE id = ?", (now, instance_id))  # noqa: S608
            self._event(connection, instance_id, now, "removed", f"its {kind}: {why}")
            return True

    def prune_transfers(self, before: float) -> int:
        """Forget associations and batches that ended before then and of which nothing waits; how many."""
        with self._transaction() as connection:
            return connection.execute(_PRUNE, {"before": before}).rowcount

    def prune_steps(self, before: float) -> int:
        """Forget performed procedure steps that changed last before then; how many."""
        with self._transaction() as connection:
            return connection.execute("DELETE FROM performed_step WHERE changed_at < ?", (before,)).rowcount

    # --- proof ------------------------------------------------------------------------------------------------

    def recount(self) -> tuple[dict[str, int], dict[str, int]]:
        """Instances by state and their ``total``: counted anew, and as the ledger has kept them with each change."""
        with self._transaction() as connection:  # or an image that comes meanwhile would be a fault
            rows = connection.execute("SELECT state, count(*) FROM instance GROUP BY state").fetchall()
            kept = dict(connection.execute("SELECT name, n FROM tally").fetchall())
        counted = dict(rows)
        return {**counted, "total": sum(counted.values())}, kept

    def contradictions(self) -> Iterator[tuple[int, str]]:
        """Instances whose rows don't agree, and how."""
        for what, sql in _CONTRADICTIONS.items():
            for row in self._rows(f"{sql} LIMIT 100"):
                yield row["id"], what

    def damage(self) -> list[str]:
        """What SQLite finds wrong with the file; reads all of it."""
        found = [row["integrity_check"] for row in self._rows("PRAGMA integrity_check(20)")]
        return [each for each in found if each != "ok"]

    def spooled(self, open_only: bool = False) -> Iterator[dict[str, Any]]:
        """The rows of all instances, or of those that wait: id, file, digest, size, image_removed_at."""
        where = "AND state IN ('received', 'claimed')" if open_only else ""
        yield from self._paged(
            f"SELECT id, file, digest, size, image_removed_at FROM instance WHERE id > :after {where}"  # noqa: S608
        )

    def written(self) -> Iterator[dict[str, Any]]:
        """The rows of all result objects: id, instance_id, kind, path, digest, removed."""
        yield from self._paged(
            "SELECT object.id, instance_id, kind, path, object.digest, result_removed_at IS NOT NULL AS removed "
            "FROM object JOIN instance ON instance.id = object.instance_id WHERE object.id > :after"
        )

    def _paged(self, sql: str) -> Iterator[dict[str, Any]]:
        """Row by row in the order of ``id``, without a transaction that stays open."""
        after = 0
        while rows := self._rows(f"{sql} ORDER BY 1 LIMIT {_PAGE}", after=after):
            yield from rows
            after = rows[-1]["id"]

    def has_image(self, file: str) -> bool:
        """Whether a row knows a file of the spool, which is named by its digest."""
        digest = file.rpartition("/")[2].partition(".")[0]
        sql = "SELECT 1 FROM instance WHERE digest = :digest AND file = :file"
        return bool(self._rows(sql, digest=digest, file=file))

    def has_object(self, path: str) -> bool:
        """Whether a row knows a file of the results folder, which is in a folder by its image's number."""
        folder = path.partition("/")[0]
        sql = "SELECT 1 FROM object WHERE instance_id = :id AND path = :path"
        return folder.isdecimal() and bool(self._rows(sql, id=int(folder), path=path))

    def export(self) -> Iterator[dict[str, Any]]:
        """All instances with what came of them."""
        after = 0
        while rows := self._rows(_EXPORT, after=after):
            yield from rows
            after = rows[-1]["id"]
