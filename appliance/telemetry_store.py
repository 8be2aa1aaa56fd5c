"""What telemetry counts in the ledger: readings of a week by something, each with how many patients it comes from.

A reading is an image that was read by itself, or a whole series.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from appliance.database import Database

_READING = "(instance.lead_id IS NULL OR instance.lead_id = instance.id)"
# Images without a patient's ID count as of one patient, so that a cell is never shown for more than there are.
_PATIENT = "instance.issuer_of_patient_id || char(0) || instance.patient_id"
_COUNTS = f"count(*) AS readings, count(DISTINCT {_PATIENT}) AS patients"
_AGE = """
CASE WHEN patient_age GLOB '[0-9][0-9][0-9][DWM]' THEN '0-17'
     WHEN patient_age NOT GLOB '[0-9][0-9][0-9]Y' THEN 'unstated'
     WHEN substr(patient_age, 1, 3) < '018' THEN '0-17' WHEN substr(patient_age, 1, 3) < '040' THEN '18-39'
     WHEN substr(patient_age, 1, 3) < '065' THEN '40-64' ELSE '65+' END
"""
_MODALITY = """
CASE WHEN modality IN ('CR', 'DX', 'CT', 'MR', 'MG', 'US', 'PT', 'NM', 'XA', 'RF') THEN modality ELSE 'other' END
"""
_CELLS = {
    "state": "instance.state",
    "outcome": "CASE instance.outcome WHEN '' THEN 'none' ELSE instance.outcome END",
    "age": _AGE,
    "modality": _MODALITY,
    "package": "ifnull(json_extract(result.provenance, '$.package_sha256'), 'none')",
}
_TABLE = """
SELECT {cell} AS cell, {counts} FROM instance LEFT JOIN result ON result.instance_id = instance.id
WHERE {reading} AND instance.received_at >= :since AND instance.received_at < :until GROUP BY cell
"""
_ASSESSED = f"""
SELECT package, label, said || '/' || verdict AS cell, {_COUNTS}
FROM assessment JOIN instance ON instance.id = assessment.instance_id
WHERE subject = 'finding' AND assessment.made_at >= :since AND assessment.made_at < :until
  AND NOT EXISTS (SELECT 1 FROM assessment AS later WHERE later.supersedes = assessment.id)
GROUP BY package, label, cell
"""  # noqa: S608 (of this file)
_SECONDS = f"""
SELECT json_extract(result.provenance, '$.package_sha256') AS package,
       json_extract(result.seconds, '$.total') AS seconds, {_PATIENT} AS patient
FROM result JOIN instance ON instance.id = result.instance_id
WHERE {_READING} AND result.made_at >= :since AND result.made_at < :until
  AND json_extract(result.seconds, '$.total') IS NOT NULL
"""  # noqa: S608 (of this file)
_ALARMS = """
SELECT package, against, kind, count(*) AS n FROM drift_alarm
WHERE raised_at >= :since AND raised_at < :until GROUP BY package, against, kind
"""


@dataclass(frozen=True)
class Cell:
    """So many readings, of so many patients."""

    readings: int
    patients: int


class TelemetryStore(Database):
    """Counts of a time, which is given in seconds since 1970."""

    def tables(self, since: float, until: float) -> dict[str, dict[str, Cell]]:
        """What was received then: by what -> its value -> how many."""
        found = {}
        for name, cell in _CELLS.items():
            sql = _TABLE.format(cell=cell, counts=_COUNTS, reading=_READING)
            rows = self._rows(sql, since=since, until=until)
            found[name] = {row["cell"]: Cell(row["readings"], row["patients"]) for row in rows}
        return found

    def assessed(self, since: float, until: float) -> dict[tuple[str, str], dict[str, Cell]]:
        """What readers said then: package and finding -> what the result said / their verdict -> how many."""
        found: dict[tuple[str, str], dict[str, Cell]] = {}
        for row in self._rows(_ASSESSED, since=since, until=until):
            cells = found.setdefault((row["package"], row["label"]), {})
            cells[row["cell"]] = Cell(row["readings"], row["patients"])
        return found

    def seconds(self, since: float, until: float) -> dict[str, tuple[list[float], int]]:
        """SHA-256 of a package -> how long each of its readings then took, and of how many patients they were."""
        taken: dict[str, list[float]] = {}
        patients: dict[str, set[str]] = {}
        for row in self._rows(_SECONDS, since=since, until=until):
            taken.setdefault(row["package"], []).append(float(row["seconds"]))
            patients.setdefault(row["package"], set()).add(row["patient"])
        return {package: (seconds, len(patients[package])) for package, seconds in taken.items()}

    def alarms(self, since: float, until: float) -> list[dict[str, Any]]:
        """Drift alarms that were raised then, by package, reference and kind."""
        return self._rows(_ALARMS, since=since, until=until)
