"""Shadows in the ledger. The only module that knows their tables."""

from __future__ import annotations

import sqlite3
import time
from typing import Any

import msgspec

from appliance.database import Database
from appliance.errors import ApplianceError

_BEGIN = """
INSERT INTO shadow (model, version, sha256, against, began_at, began_by, why)
VALUES (:model, :version, :sha256, :against, :at, :by, :why) RETURNING id
"""
# By the time at which results were made, since those of series come later than those of images after them.
_NEXT = """
SELECT result.instance_id, result.made_at, result.findings, result.outlines, result.provenance, result.seconds
FROM result JOIN instance ON instance.id = result.instance_id
WHERE result.made_at >= :since AND instance.image_removed_at IS NULL
  AND :against IN (json_extract(result.provenance, '$.package_sha256'),
                   json_extract(result.outlines, '$.provenance.package_sha256'))
  AND NOT EXISTS (SELECT 1 FROM shadow_reading AS known
                  WHERE known.shadow_id = :shadow AND known.instance_id = result.instance_id)
ORDER BY result.made_at LIMIT 1
"""
_PAIRS = """
SELECT instance.id, shadow_reading.instance_id, read_at, failure, pairs,
       instance.patient_id, instance.issuer_of_patient_id, instance.study_instance_uid
FROM shadow_reading JOIN instance ON instance.id = shadow_reading.instance_id
WHERE shadow_id = :shadow ORDER BY shadow_reading.instance_id
"""
_TRUTH = """
SELECT assessment.instance_id, label, said, verdict, reason FROM assessment
JOIN shadow_reading ON shadow_reading.instance_id = assessment.instance_id AND shadow_reading.shadow_id = :shadow
WHERE subject = 'finding' AND NOT EXISTS (SELECT 1 FROM assessment AS later WHERE later.supersedes = assessment.id)
"""
_MARK = """
SELECT shadow.id || ' ' || ifnull(ended_at, '') || ' ' || (SELECT ifnull(max(id), 0) FROM assessment) || ' ' ||
       (SELECT count(pairs) || ' ' || ifnull(max(read_at), 0) FROM shadow_reading WHERE shadow_id = shadow.id) AS mark
FROM shadow ORDER BY id DESC LIMIT 1
"""
_NOT_ENDED = "it stopped the process that read it, or that was stopped meanwhile"


class ShadowStore(Database):
    """What the ledger knows of packages in shadow."""

    def begin(self, model: str, version: str, sha256: str, against: str, by: str, why: str) -> int:
        """Have a package read in shadow; its number. Raises `ApplianceError` where another one does."""
        values = {
            "model": model, "version": version, "sha256": sha256, "against": against, "at": time.time(), "by": by,
            "why": why,
        }  # fmt: skip
        try:
            with self._transaction() as connection:
                number: int = connection.execute(_BEGIN, values).fetchone()[0]
        except sqlite3.IntegrityError:
            raise ApplianceError("a package reads in shadow already", hint="scanside shadow stop") from None
        return number

    def end(self, number: int, by: str, outcome: str) -> None:
        """It reads no longer; what it said stays."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE shadow SET ended_at = ?, ended_by = ?, outcome = ? WHERE id = ? AND ended_at IS NULL",
                (time.time(), by, outcome, number),
            )

    def running(self) -> dict[str, Any] | None:
        return next(iter(self._rows("SELECT * FROM shadow WHERE ended_at IS NULL")), None)

    def shadows(self) -> list[dict[str, Any]]:
        """The latest first, with how many images each has read."""
        return self._rows(
            "SELECT shadow.*, (SELECT count(*) FROM shadow_reading WHERE shadow_id = shadow.id) AS read "
            "FROM shadow ORDER BY id DESC"
        )

    def mark(self) -> str:
        """Another text whenever there is another shadow, more was read in the latest, or a reader has said more; ''
        where there was none."""
        return str(next(iter(self._rows(_MARK)), {"mark": ""})["mark"])

    def anything_waits(self) -> bool:
        """Whether an image waits to be read, or is being read, by the packages in force."""
        rows = self._rows("SELECT sum(n) AS n FROM tally WHERE name IN ('received', 'claimed')")
        return bool(rows[0]["n"])

    def next_result(self, shadow: dict[str, Any]) -> dict[str, Any] | None:
        """The earliest result of the package in force that the shadow has not read, since it began; None: none."""
        sql = "SELECT max(result_made_at) AS at FROM shadow_reading WHERE shadow_id = :shadow"
        latest = self._rows(sql, shadow=shadow["id"])[0]["at"]
        since = max(shadow["began_at"], latest or 0.0)
        row = next(iter(self._rows(_NEXT, since=since, against=shadow["against"], shadow=shadow["id"])), None)
        if row is not None:
            for key in ("findings", "outlines", "provenance", "seconds"):
                row[key] = msgspec.json.decode(row[key])
        return row

    def begin_reading(self, shadow: int, result: dict[str, Any]) -> None:
        """Counted as failed until it has ended, so that an image which ends the process is not read again."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO shadow_reading (shadow_id, instance_id, result_made_at, read_at, failure) "
                "VALUES (?, ?, ?, ?, ?)",
                (shadow, result["instance_id"], result["made_at"], time.time(), _NOT_ENDED),
            )

    def end_reading(self, shadow: int, instance_id: int, failure: str, pairs: Any = None) -> None:
        with self._transaction() as connection:
            connection.execute(
                "UPDATE shadow_reading SET failure = ?, pairs = ?, read_at = ? WHERE shadow_id = ? AND instance_id = ?",
                (failure, msgspec.json.encode(pairs).decode(), time.time(), shadow, instance_id),
            )

    def give_back(self, shadow: int, instance_id: int) -> None:
        """It was not to blame, so it is read again."""
        with self._transaction() as connection:
            connection.execute(
                "DELETE FROM shadow_reading WHERE shadow_id = ? AND instance_id = ?", (shadow, instance_id)
            )

    def readings(self, shadow: int) -> list[dict[str, Any]]:
        """All images that it has read, with who they are of; ``pairs`` is decoded, None where it failed."""
        rows = self._rows(_PAIRS, shadow=shadow)
        return [{**row, "pairs": msgspec.json.decode(row["pairs"])} for row in rows]

    def assessments(self, shadow: int) -> list[dict[str, Any]]:
        """What readers said of findings on those images, the latest word of each."""
        return self._rows(_TRUTH, shadow=shadow)
