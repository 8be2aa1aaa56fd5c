"""The ledger of Modality Performed Procedure Steps: what modalities say that they have made."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import msgspec

from appliance.database import Database

MOST_STEPS = 5000  # a busy department has 1,500 a day; older ones are forgotten each night

_LOOK_AGAIN = """
UPDATE series SET look_again_at = 0
WHERE started_at IS NULL AND series_instance_uid IN (SELECT value FROM json_each(:series))
"""


class StepStore(Database):
    def create(self, sop_instance_uid: str, ae_title: str, images: Mapping[str, Sequence[str]]) -> str:
        """Record a step that is IN PROGRESS: ``""``, or ``duplicate``, or ``full`` where there are too many.

        Parameters
        ----------
        images
            Series Instance UID -> SOP Instance UIDs, as far as they are known.

        Raises
        ------
        DiskFullError, SpoolError
        """
        with self._transaction() as connection:
            if connection.execute("SELECT count(*) FROM performed_step").fetchone()[0] >= MOST_STEPS:
                return "full"
            cursor = connection.execute(
                "INSERT OR IGNORE INTO performed_step VALUES (?, 'IN PROGRESS', ?, ?)",
                (sop_instance_uid, ae_title, time.time()),
            )
            if cursor.rowcount != 1:
                return "duplicate"
            self._set_images(sop_instance_uid, images)
            return ""

    def update(self, sop_instance_uid: str, status: str, images: Mapping[str, Sequence[str]] | None) -> str:
        """Change a step: ``""``, or ``unknown``, or ``ended`` where it is COMPLETED or DISCONTINUED already.

        Parameters
        ----------
        status
            '' where it stays as it is.
        images
            All of them; None where they stay as they are.

        Raises
        ------
        DiskFullError, SpoolError
        """
        with self._transaction() as connection:
            row = connection.execute(
                "SELECT status FROM performed_step WHERE sop_instance_uid = ?", (sop_instance_uid,)
            ).fetchone()
            if row is None:
                return "unknown"
            if row["status"] != "IN PROGRESS":
                return "ended"
            connection.execute(
                "UPDATE performed_step SET status = ?, changed_at = ? WHERE sop_instance_uid = ?",
                (status or row["status"], time.time(), sop_instance_uid),
            )
            if images is not None:
                connection.execute("DELETE FROM performed_series WHERE step_uid = ?", (sop_instance_uid,))
                self._set_images(sop_instance_uid, images)
            rows = connection.execute(
                "SELECT series_instance_uid FROM performed_series WHERE step_uid = ?", (sop_instance_uid,)
            ).fetchall()
            series = msgspec.json.encode([each["series_instance_uid"] for each in rows]).decode()
            connection.execute(_LOOK_AGAIN, {"series": series})
            return ""

    def _set_images(self, sop_instance_uid: str, images: Mapping[str, Sequence[str]]) -> None:
        with self._transaction() as connection:
            connection.executemany(
                "INSERT INTO performed_series VALUES (?, ?, ?)",
                [(sop_instance_uid, series, msgspec.json.encode(uids).decode()) for series, uids in images.items()],
            )
