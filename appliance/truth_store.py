"""What findings turned out to be, in the ledger: imported diagnoses, what readers said, and retraining tickets.

Diagnoses are kept as they came, whether or not their study is known: it may come later.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from appliance.database import Database
from appliance.errors import DiagnosisError

Form = Literal["csv", "hl7", "fhir"]
Measure = Literal["sensitivity", "specificity"]

# Each diagnosis with the results that it is about, once for each; ``instance_id`` is NULL where there is none.
_MATCHED = """
SELECT diagnosis.id, study_instance_uid, accession_number, finding, present, corrected, diagnosed_at,
       known_at AS at, found.instance_id
FROM diagnosis LEFT JOIN (
  SELECT diagnosis.id AS diagnosis_id, instance.id AS instance_id FROM diagnosis
  JOIN instance INDEXED BY instance_by_study ON instance.study_instance_uid = diagnosis.study_instance_uid
  WHERE diagnosis.study_instance_uid <> '' AND instance.study_instance_uid <> '' AND instance.outcome <> ''
  UNION ALL
  SELECT diagnosis.id, instance.id FROM diagnosis
  JOIN instance INDEXED BY instance_by_accession
    ON instance.accession_number = diagnosis.accession_number COLLATE NOCASE
  WHERE diagnosis.study_instance_uid = '' AND diagnosis.accession_number <> '' AND instance.accession_number <> ''
    AND instance.outcome <> ''
) AS found ON found.diagnosis_id = diagnosis.id
ORDER BY diagnosis.id
"""
_ASSESSED = """
SELECT instance_id, label, said, verdict, reason, made_at AS at FROM assessment WHERE subject = 'finding'
AND NOT EXISTS (SELECT 1 FROM assessment AS later WHERE later.supersedes = assessment.id) ORDER BY id
"""
_RESULTS = """
SELECT instance.id, instance.study_instance_uid, instance.patient_id, instance.issuer_of_patient_id, ae_title,
       patient_sex, patient_age, view, made_at, findings,
       json_extract(provenance, '$.package_sha256') AS package,
       json_extract(provenance, '$.package') || ' ' || json_extract(provenance, '$.version') AS name
FROM json_each(:ids) AS wanted JOIN instance ON instance.id = wanted.value
JOIN result ON result.instance_id = instance.id LEFT JOIN series ON series.lead_id = instance.lead_id
WHERE series.superseded_by IS NULL AND (instance.lead_id IS NULL OR instance.lead_id = instance.id)
"""
_OF_STUDIES = """
SELECT value AS id FROM json_each(:ids) UNION
SELECT other.id FROM json_each(:ids) AS wanted JOIN instance ON instance.id = wanted.value
JOIN instance AS other INDEXED BY instance_by_study ON other.study_instance_uid = instance.study_instance_uid
WHERE other.study_instance_uid <> '' AND other.outcome <> ''
"""
# Studies since then, by what was said of each finding: of how many the truth is not known.
_SAID = """
SELECT package, label, sum(positive) AS positive, count(*) AS studies FROM (
  SELECT json_extract(provenance, '$.package_sha256') AS package, json_extract(value, '$.label') AS label,
         max(json_extract(value, '$.positive')) AS positive
  FROM instance INDEXED BY instance_by_time JOIN result ON result.instance_id = instance.id, json_each(findings)
  WHERE received_at >= :since GROUP BY ifnull(nullif(study_instance_uid, ''), instance.id), 1, 2)
GROUP BY package, label
"""


@dataclass(frozen=True)
class Diagnosis:
    """What somebody says of a finding in a study, which is known by its UID, or else by its accession number.

    ``corrected``: it takes the place of what was said before. ``diagnosed_at``: seconds since 1970, None where that is
    not stated. ``where`` in the file it stands is for errors.
    """

    study_instance_uid: str
    accession_number: str
    finding: str
    present: bool
    corrected: bool = False
    diagnosed_at: float | None = None
    where: str = ""

    @property
    def digest(self) -> bytes:
        said = (self.study_instance_uid, self.accession_number, self.finding, self.present, self.corrected,
                self.diagnosed_at)  # fmt: skip
        return hashlib.sha256(msgspec.json.encode(said)).digest()


class TruthStore(Database):
    """On a ledger."""

    def add(
        self, form: Form, by: str, diagnoses: Iterable[Diagnosis], faulty: int, others: int = 0, not_final: int = 0
    ) -> dict[str, Any]:
        """Keep a file's diagnoses, all or none; the row of the import. What is there already is a repetition and counts
        once."""
        with self._transaction() as connection:
            cursor = connection.execute(
                "INSERT INTO diagnosis_import (at, by, form, others, not_final, faulty) VALUES (?, ?, ?, ?, ?, ?)",
                (time.time(), by, form, others, not_final, faulty),
            )
            self._keep(connection, cursor.lastrowid, diagnoses)
            return dict(
                connection.execute("SELECT * FROM diagnosis_import WHERE id = ?", (cursor.lastrowid,)).fetchone()
            )

    def add_message(
        self, sender: str, diagnoses: Iterable[Diagnosis], faulty: int, others: int = 0, not_final: int = 0
    ) -> int:
        """Keep an HL7 message's diagnoses, all or none; how many are new. It is counted with all that this sender has
        brought today, so that no number of messages makes many rows."""
        now = time.time()
        with self._transaction() as connection:
            number = connection.execute(
                "INSERT INTO diagnosis_import (at, by, form, day, messages, others, not_final, faulty) "
                "VALUES (?, ?, 'hl7', ?, 1, ?, ?, ?) ON CONFLICT (by, day) WHERE day <> '' DO UPDATE SET "
                "at = excluded.at, messages = messages + 1, others = others + excluded.others, "
                "not_final = not_final + excluded.not_final, faulty = faulty + excluded.faulty RETURNING id",
                (now, sender, time.strftime("%Y-%m-%d", time.localtime(now)), others, not_final, faulty),
            ).fetchone()["id"]
            return self._keep(connection, number, diagnoses)

    @staticmethod
    def _keep(connection: sqlite3.Connection, number: int | None, diagnoses: Iterable[Diagnosis]) -> int:
        taken, repeated, now = 0, 0, time.time()
        for each in diagnoses:
            done = connection.execute(
                "INSERT INTO diagnosis (digest, import_id, known_at, study_instance_uid, accession_number, finding, "
                "present, corrected, diagnosed_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (each.digest, number, now, each.study_instance_uid, each.accession_number, each.finding,
                 int(each.present), int(each.corrected), each.diagnosed_at),
            ).rowcount  # fmt: skip
            taken, repeated = taken + (done == 1), repeated + (done == 0)
        connection.execute(
            "UPDATE diagnosis_import SET taken = taken + ?, repeated = repeated + ? WHERE id = ?",
            (taken, repeated, number),
        )
        return taken

    def counted(self) -> dict[str, int]:
        """Of all imports ever: ``taken``, ``repeated``, ``others``, ``not_final``, ``faulty``."""
        (row,) = self._rows(
            "SELECT ifnull(sum(taken), 0) AS taken, ifnull(sum(repeated), 0) AS repeated, ifnull(sum(others), 0) AS "
            "others, ifnull(sum(not_final), 0) AS not_final, ifnull(sum(faulty), 0) AS faulty FROM diagnosis_import"
        )
        return row

    def of_senders(self, since: float) -> list[dict[str, Any]]:
        """What HL7 senders have brought since then, by day and sender, the latest first."""
        return self._rows(
            "SELECT * FROM diagnosis_import WHERE day <> '' AND at >= :since ORDER BY at DESC", since=since
        )

    def imports(self, most: int = 20) -> list[dict[str, Any]]:
        """The latest first: a file each, or what a sender has brought by HL7 on a day."""
        return self._rows("SELECT * FROM diagnosis_import ORDER BY at DESC LIMIT :most", most=most)

    def mark(self) -> str:
        """Another text whenever there is a new diagnosis, assessment or ticket, or one was closed."""
        (row,) = self._rows(
            "SELECT (SELECT ifnull(max(id), 0) FROM assessment) || ' ' || (SELECT ifnull(max(id), 0) FROM diagnosis) "
            "|| ' ' || (SELECT count(*) + count(closed_at) FROM retraining_ticket) AS mark"
        )
        return str(row["mark"])

    def matched(self) -> list[dict[str, Any]]:
        """Every diagnosis in the order in which they came, a row for each result in its study; see `_MATCHED`."""
        return self._rows(_MATCHED)

    def assessed(self) -> list[dict[str, Any]]:
        """What readers said of findings and nobody has said otherwise since."""
        return self._rows(_ASSESSED)

    def of_studies(self, instances: Iterable[int]) -> set[int]:
        """These, and all others of their studies that have a result."""
        given = msgspec.json.encode(sorted(set(instances))).decode()
        return {row["id"] for row in self._rows(_OF_STUDIES, ids=given)}

    def results(self, instances: Iterable[int]) -> list[dict[str, Any]]:
        """Results that no later one of the same series took the place of, with JSON ``findings`` decoded."""
        rows = self._rows(_RESULTS, ids=msgspec.json.encode(sorted(set(instances))).decode())
        for row in rows:
            row["findings"] = msgspec.json.decode(row["findings"])
        return rows

    def said(self, since: float) -> dict[tuple[str, str], tuple[int, int]]:
        """(package, finding) -> studies since then in which it was said to be present, and all."""
        return {
            (row["package"], row["label"]): (int(row["positive"] or 0), row["studies"])
            for row in self._rows(_SAID, since=since)
        }

    # --- tickets --------------------------------------------------------------------------------------------------

    def open_ticket(self, package: str, name: str, finding: str, measure: Measure, evidence: bytes) -> int | None:
        """The number of a new ticket; None where there is an open one of the same."""
        with self._transaction() as connection:
            cursor = connection.execute(
                "INSERT INTO retraining_ticket (package, name, finding, measure, opened_at, evidence) "
                "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (package, name, finding, measure, time.time(), evidence.decode()),
            )
            return int(cursor.lastrowid or 0) if cursor.rowcount == 1 else None

    def close_ticket(self, number: int, by: str, why: str) -> dict[str, Any]:
        """Somebody has decided about a ticket; the test begins anew with what is learned from then on.

        Raises
        ------
        DiagnosisError
            Nobody is named, no reason is given, or there is no such open ticket.
        """
        if not by.strip() or not why.strip():
            raise DiagnosisError("say who closes the ticket, and what was decided")
        with self._transaction() as connection:
            done = connection.execute(
                "UPDATE retraining_ticket SET closed_at = ?, closed_by = ?, why = ? WHERE id = ? AND closed_at IS NULL",
                (time.time(), by.strip(), why.strip(), number),
            ).rowcount
            ticket = self.ticket(number)
            if ticket is None or not done:
                raise DiagnosisError(f"there is no open retraining ticket {number}")
            return ticket

    def ticket(self, number: int) -> dict[str, Any] | None:
        return next(iter(self._rows("SELECT * FROM retraining_ticket WHERE id = :id", id=number)), None)

    def tickets(self, only_open: bool = False, most: int = 100) -> list[dict[str, Any]]:
        """The latest first; ``evidence`` is JSON."""
        where = "WHERE closed_at IS NULL" if only_open else ""
        return self._rows(f"SELECT * FROM retraining_ticket {where} ORDER BY id DESC LIMIT :most", most=most)  # noqa: S608
