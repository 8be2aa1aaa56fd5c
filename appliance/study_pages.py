"""The ledger's instances for other systems: page by page in the order in which they came, and by their UIDs."""

from __future__ import annotations

from typing import Any

from appliance.overview import SHOWN, Overview, decoded

_LEADS = "(lead_id IS NULL OR lead_id = id)"
_LATEST = f"SELECT id FROM instance WHERE {_LEADS} AND id < :before ORDER BY id DESC LIMIT :limit"  # noqa: S608
_IN_STATE = f"""
SELECT id FROM instance INDEXED BY instance_by_state
WHERE state = :state AND {_LEADS} AND id < :before ORDER BY id DESC LIMIT :limit
"""  # noqa: S608 (of this file)
_OF_SOP = "SELECT id FROM instance WHERE sop_instance_uid = :uid AND id < :before ORDER BY id DESC LIMIT :limit"
_OF_STUDY = f"""
SELECT id FROM instance INDEXED BY instance_by_study
WHERE study_instance_uid = :uid AND study_instance_uid <> '' AND {_LEADS} AND id < :before ORDER BY id DESC LIMIT :limit
"""  # noqa: S608 (of this file)


class StudyPages(Overview):
    def latest(self, limit: int, before: int, state: str | None = None) -> list[dict[str, Any]]:
        """Rows as of `Overview.instance`, one for each series, the latest first; ``before`` this number."""
        return self._all(_IN_STATE if state else _LATEST, limit=limit, before=before, state=state)

    def of_uid(self, uid: str, limit: int, before: int, whole_study: bool = False) -> list[dict[str, Any]]:
        """The same of those with this SOP Instance UID or, ``whole_study``, this Study Instance UID."""
        return self._all(_OF_STUDY if whole_study else _OF_SOP, limit=limit, before=before, uid=uid)

    def _all(self, sql: str, **values: Any) -> list[dict[str, Any]]:
        rows = self._rows(f"{SHOWN} WHERE instance.id IN ({sql}) ORDER BY instance.id DESC", **values)
        return [decoded(row) for row in rows]
