"""A site's records: one row for each instance that was received, as CSV or JSON lines."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Literal, TextIO

import msgspec

from appliance.custody import Custody

_UID = re.compile(r"\b\d+(?:\.\d+){3,}\b")
# In this order; `PATIENT` follows where it is asked for. UIDs and dates lead back to a patient (PS3.15 annex E).
COLUMNS = (
    "number", "received_at", "finished_at", "state", "reason", "source", "priority", "copies", "bytes", "sha256",
    "modality", "body_part", "view", "package", "version", "backend", "receipt", "findings", "sent_to", "reviewed_at",
    "image_removed_at", "result_removed_at",
)  # fmt: skip
PATIENT = (
    "sender", "ae_title", "sop_instance_uid", "sop_class_uid", "study_instance_uid", "patient_id", "patient_name",
    "patient_sex", "patient_age", "acquired_at", "institution",
)  # fmt: skip
_MOMENTS = ("received_at", "finished_at", "reviewed_at", "image_removed_at", "result_removed_at")


def export(custody: Custody, to: TextIO, form: Literal["csv", "jsonl"], patient: bool = False) -> int:
    """Write all rows; how many. Without ``patient``, nothing in them says whom they are of."""
    columns = COLUMNS + (PATIENT if patient else ())
    writer = csv.DictWriter(to, columns, extrasaction="ignore") if form == "csv" else None
    if writer:
        writer.writeheader()
    count = 0
    for row in _rows(custody, patient):
        if writer:
            writer.writerow(row)
        else:
            to.write(json.dumps({column: row[column] for column in columns}) + "\n")
        count += 1
    return count


def _rows(custody: Custody, patient: bool) -> Iterator[dict[str, Any]]:
    for row in custody.export():
        made = msgspec.json.decode(row["provenance"]) if row["provenance"] else {}
        findings = msgspec.json.decode(row["findings"]) if row["findings"] else []
        said = [
            f"{each['label']} {each['probability']:.4f} {'positive' if each['positive'] else 'negative'}"
            for each in findings
        ]
        yield {
            **row,
            **{name: _iso(row[name]) for name in _MOMENTS},
            "number": row["id"],
            "bytes": row["size"],
            "sha256": row["digest"],
            "reason": row["reason"] if patient else without_uids(row["reason"]),
            "package": made.get("package", ""),
            "version": made.get("version", ""),
            "backend": made.get("backend", ""),
            "receipt": made.get("receipt", ""),
            "findings": "; ".join(said),
            "sent_to": row["sent_to"] or "",
        }


def without_uids(text: str) -> str:
    return _UID.sub("(UID)", text)


def _iso(seconds: float | None) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds") if seconds else ""
