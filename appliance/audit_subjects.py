"""Whose data a record of the audit trail is about: looked up in the ledger when somebody needs to know."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import msgspec

from appliance.audit import Record
from appliance.database import Database

_OF_IMAGES = """
SELECT study_instance_uid, patient_id, sop_class_uid, count(*) AS count FROM instance
WHERE id IN (SELECT value FROM json_each(:images)) GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""
_OF_TRANSFER = """
SELECT study_instance_uid, patient_id, sop_class_uid, count(*) AS count FROM instance INDEXED BY instance_by_time
WHERE received_at BETWEEN :begin AND :end AND transfer_id = :transfer GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""
_IMAGE = re.compile(r"\bimage (\d{1,18})\b")
_TRANSFER = re.compile(r"\btransfer ([0-9a-f]{32})\b")
_ROOM_SECONDS = 60.0  # around a transfer, for clocks that are read at different moments


@dataclass
class Subject:
    """One patient: their studies, and of each how many instances of which SOP class."""

    patient_id: str
    studies: dict[str, dict[str, int]] = field(default_factory=dict)


class AuditSubjects(Database):
    """On a ledger."""

    def of(self, record: Record) -> list[Subject]:
        """Each patient once; none where the record is about none, or the ledger no longer knows."""
        images = list(record.images) or [int(number) for number in _IMAGE.findall(record.target)]
        transfer = _TRANSFER.search(record.target)
        rows: list[dict[str, Any]] = []
        if transfer is not None:
            begin, end = (record.since or record.at) - _ROOM_SECONDS, record.at + _ROOM_SECONDS
            rows = self._rows(_OF_TRANSFER, transfer=transfer[1], begin=begin, end=end)
        elif images:
            rows = self._rows(_OF_IMAGES, images=msgspec.json.encode(images).decode())
        found: dict[str, Subject] = {}
        for row in rows:
            subject = found.setdefault(row["patient_id"], Subject(row["patient_id"]))
            subject.studies.setdefault(row["study_instance_uid"], {})[row["sop_class_uid"]] = row["count"]
        return list(found.values())
