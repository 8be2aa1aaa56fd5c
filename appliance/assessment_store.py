"""What readers say of results: kept for good. A later assessment supersedes an earlier one, and both stay."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import msgspec

from appliance.errors import ApplianceError
from appliance.overview import Overview
from appliance.result import Code, Finding, Segment
from appliance.store import WrittenObject

Subject = Literal["finding", "segment"]
Verdict = Literal["agree", "disagree", "amend"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
# Why a reader does not agree: codes for those who count, words for people. Of findings, of segments, of both.
REASONS: dict[Subject, dict[Verdict, dict[str, str]]] = {
    "finding": {
        "disagree": {
            "not_there": "It is not there",
            "missed": "It is there, and was missed",
            "other_cause": "Something else explains it",
            "image_quality": "The image is not good enough to say",
            "other": "Another reason",
        },
        "amend": {
            "less_sure": "Right, but less sure than it says",
            "more_sure": "Right, but surer than it says",
            "wrong_place": "Right, but the map shows another place",
            "more_to_see": "Right, but there is more to see",
            "other": "Another change",
        },
    },
    "segment": {
        "disagree": {
            "wrong_structure": "It outlines something else",
            "useless": "Too far off to be mended",
            "image_quality": "The image is not good enough to say",
            "other": "Another reason",
        },
        "amend": {
            "too_large": "Too large",
            "too_small": "Too small",
            "part_missing": "A part is missing",
            "part_too_many": "A part does not belong to it",
            "other": "Another change",
        },
    },
}
# Nobody missed what the result says is there, and what it says is not there is not "not there".
_SENSELESS = {"present": "missed", "absent": "not_there"}
LONGEST_COMMENT = 1000

_OBJECT = """
SELECT sop_instance_uid FROM object WHERE instance_id = ? AND of_result
ORDER BY kind <> CASE ? WHEN 'segment' THEN 'segmentation' ELSE 'structured_report' END, sop_class_uid = '', id LIMIT 1
"""
_LATEST = """
SELECT id FROM assessment WHERE instance_id = ? AND subject = ? AND label = ? ORDER BY id DESC LIMIT 1
"""
_INSERT = """
INSERT INTO assessment (instance_id, subject, label, code, said, verdict, reason, comment, person, made_at, package,
                        object_uid, supersedes)
VALUES (:instance_id, :subject, :label, :code, :said, :verdict, :reason, :comment, :person, :made_at, :package,
        :object_uid, :supersedes)
RETURNING id
"""
_COLUMNS = """
SELECT assessment.*, later.id AS superseded_by FROM assessment
LEFT JOIN assessment AS later ON later.supersedes = assessment.id
"""
_WITH_RESULT = """
SELECT assessment.*, later.id AS superseded_by, instance.modality, instance.body_part, instance.ae_title,
       instance.study_instance_uid, instance.sop_instance_uid, instance.accession_number, result.findings,
       result.provenance
FROM assessment LEFT JOIN assessment AS later ON later.supersedes = assessment.id
JOIN instance ON instance.id = assessment.instance_id JOIN result ON result.instance_id = assessment.instance_id
"""
_EXPORT = f"{_WITH_RESULT} WHERE assessment.id > :after ORDER BY assessment.id LIMIT 500"
_OF_IMAGE = f"{_WITH_RESULT} WHERE assessment.instance_id = :id AND later.id IS NULL ORDER BY assessment.id"
_DOCUMENTS = """
SELECT object.sop_instance_uid, person, said FROM assessment_document JOIN object ON object.id = object_id
WHERE instance_id = :id ORDER BY object_id
"""
_AGREEMENT = """
SELECT package, subject, label, said, verdict, reason, count(*) AS n FROM assessment
WHERE made_at >= :since AND made_at < :until
  AND NOT EXISTS (SELECT 1 FROM assessment AS later WHERE later.supersedes = assessment.id)
GROUP BY package, subject, label, said, verdict, reason ORDER BY package, subject, label, said, verdict, reason
"""


@dataclass(frozen=True)
class Filed:
    """A document of one reader's assessments of one result: those with the numbers in ``said``."""

    sop_instance_uid: str
    person: str
    said: tuple[int, ...]


def reasons(subject: Subject, said: str) -> dict[Verdict, dict[str, str]]:
    """Those of `REASONS` that don't contradict what the result said."""
    return {
        verdict: {code: words for code, words in each.items() if code != _SENSELESS.get(said)}
        for verdict, each in REASONS[subject].items()
    }


class Assessments(Overview):
    """Readers' assessments in the ledger."""

    def assess(
        self,
        instance_id: int,
        subject: Subject,
        label: str,
        verdict: Verdict,
        reason: str = "",
        comment: str = "",
        person: str = "",
        to_send: bool = False,
    ) -> int:
        """Keep what a reader says of a finding or a segment; its number. The image counts as reviewed by that.

        Parameters
        ----------
        reason
            Of `reasons`; none of an agreement.
        person
            The account's name; '' where no login is asked for.
        to_send
            Whether a destination is to get it; see `due`.

        Raises
        ------
        ApplianceError
            There is no such result, finding, segment or reason, or the comment is too long.
        """
        row = self.instance(instance_id)
        if row is None or row["provenance"] is None:
            raise ApplianceError(
                f"image {instance_id} has no result", hint="assess the image that stands for its series"
            )
        code, said, made_by = _of_result(row, subject, label)
        if verdict not in VERDICTS or reason not in reasons(subject, said).get(verdict, {"": ""}):
            raise ApplianceError(f"{verdict} with the reason {reason!r} is no assessment of a {subject}: {said}")
        if len(comment) > LONGEST_COMMENT:
            raise ApplianceError(f"the comment has {len(comment)} letters, and {LONGEST_COMMENT} is the most")
        now = time.time()
        with self._transaction() as connection:
            values = {
                "instance_id": instance_id,
                "subject": subject,
                "label": label,
                "code": msgspec.json.encode(code).decode(),
                "said": said,
                "verdict": verdict,
                "reason": reason,
                "comment": comment.strip(),
                "person": person,
                "made_at": now,
                "package": f"{made_by['package']} {made_by['version']}",
                "object_uid": _value(connection.execute(_OBJECT, (instance_id, subject))) or "",
                "supersedes": _value(connection.execute(_LATEST, (instance_id, subject, label))),
            }
            identifier: int = connection.execute(_INSERT, values).fetchone()[0]
            connection.execute(
                "UPDATE instance SET assessed_at = ifnull(assessed_at, :now), reviewed_at = ifnull(reviewed_at, :now) "
                "WHERE id = :id",
                {"now": now, "id": instance_id},
            )
            if to_send:
                connection.execute("INSERT OR REPLACE INTO assessment_due VALUES (?, ?)", (instance_id, now))
            who = f" by {person}" if person else ""
            self._event(connection, instance_id, now, "assessed", f"{label}: {verdict}{who}")
        return identifier

    def of_instance(self, instance_id: int) -> list[dict[str, Any]]:
        """Every assessment of a result, the latest first; ``superseded_by`` is None of those that count."""
        sql = f"{_COLUMNS} WHERE assessment.instance_id = :id ORDER BY assessment.id DESC"
        return [_decoded(row) for row in self._rows(sql, id=instance_id)]

    def latest(self, most: int, before: int, instance_id: int | None = None) -> list[dict[str, Any]]:
        """Assessments with a lower number, of all results or of one, the latest first; else as `of_instance`."""
        sql = f"{_COLUMNS} WHERE assessment.id < :before AND (:of IS NULL OR assessment.instance_id = :of) "
        sql += "ORDER BY assessment.id DESC LIMIT :most"
        return [_decoded(row) for row in self._rows(sql, before=before, of=instance_id, most=most)]

    def export(self) -> Iterator[dict[str, Any]]:
        """Every assessment, the superseded ones too, with what its image is and what the result said."""
        after = 0
        while rows := self._rows(_EXPORT, after=after):
            yield from map(_decoded, rows)
            after = rows[-1]["id"]

    def counting(self, instance_id: int) -> list[dict[str, Any]]:
        """As `export`, of one image, and without the superseded ones."""
        return [_decoded(row) for row in self._rows(_OF_IMAGE, id=instance_id)]

    # --- documents for destinations ---------------------------------------------------------------------------

    def due(self, before: float) -> dict[str, Any] | None:
        """An image of which something is to be sent that was said until then: ``instance_id`` and ``at``."""
        rows = self._rows("SELECT * FROM assessment_due WHERE at <= :before ORDER BY at LIMIT 1", before=before)
        return rows[0] if rows else None

    def postpone(self, due: dict[str, Any], until: float) -> None:
        """What could not be made is tried again."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE assessment_due SET at = ? WHERE instance_id = ? AND at = ?",
                (until, due["instance_id"], due["at"]),
            )

    def documents(self, instance_id: int) -> list[Filed]:
        """What was made of the assessments of an image, the earliest first."""
        return [
            Filed(row["sop_instance_uid"], row["person"], tuple(msgspec.json.decode(row["said"])))
            for row in self._rows(_DOCUMENTS, id=instance_id)
        ]

    def file(
        self,
        due: dict[str, Any],
        made: Sequence[tuple[WrittenObject, Filed]],
        destinations: Sequence[str],
        note: str = "",
    ) -> None:
        """Record documents that lie on disk and what has to be sent where, at one stroke; what was due is done by that.

        Parameters
        ----------
        note
            For the events: why there are none.
        """
        identifier, now = due["instance_id"], time.time()
        with self._transaction() as connection:
            for item, filed in made:
                (object_id,) = connection.execute(
                    "INSERT INTO object (instance_id, kind, sop_class_uid, sop_instance_uid, path, digest, of_result) "
                    "VALUES (?, ?, ?, ?, ?, ?, 0) RETURNING id",
                    (identifier, item.kind, item.sop_class_uid, item.sop_instance_uid, item.path, item.digest),
                ).fetchone()
                connection.execute(
                    "INSERT INTO assessment_document VALUES (?, ?, ?)",
                    (object_id, filed.person, msgspec.json.encode(filed.said).decode()),
                )
                connection.executemany(
                    "INSERT INTO outbox (object_id, destination, next_attempt_at, queued_at) VALUES (?, ?, 0, ?)",
                    [(object_id, destination, now) for destination in destinations],
                )
            if note:
                self._event(connection, identifier, now, "note", note)
            # Where somebody has said more meanwhile, it stays due.
            connection.execute("DELETE FROM assessment_due WHERE instance_id = ? AND at = ?", (identifier, due["at"]))

    def agreement(self, since: float = 0.0, until: float = 1e12) -> list[dict[str, Any]]:
        """How often readers agreed: ``n`` by package, subject, label, what the result said, verdict and reason.

        Of assessments that were made in that time (seconds since 1970) and that no later one supersedes.
        """
        return self._rows(_AGREEMENT, since=since, until=until)


def _of_result(row: dict[str, Any], subject: str, label: str) -> tuple[Code, str, dict[str, Any]]:
    """The code of a finding or a segment of a result, what was said of it, and who said it."""
    if subject == "finding":
        for finding in msgspec.convert(row["findings"], tuple[Finding, ...]):
            if finding.label == label:
                return finding.code, finding.reported_as, row["provenance"]
    elif subject == "segment" and row["outlines"]:
        for segment in msgspec.convert(row["outlines"]["segments"], tuple[Segment, ...]):
            if segment.label == label:
                return segment.type, segment.size, row["outlines"]["provenance"]
    raise ApplianceError(f"the result of image {row['id']} has no {subject} {label!r}")


def _decoded(row: dict[str, Any]) -> dict[str, Any]:
    for key in ("code", "findings", "provenance"):
        if row.get(key) is not None:
            row[key] = msgspec.json.decode(row[key])
    return row


def _value(cursor: sqlite3.Cursor) -> Any:
    found = cursor.fetchone()
    return found[0] if found is not None else None
