"""Blinded reader studies in the ledger: their cases, each reader's order, and what each reader answered.

The second module that knows its tables, and its own only. Each call is one transaction, and an answer is on disk when
the call returns.
"""

from __future__ import annotations

import random
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from appliance.database import Database
from appliance.errors import ReaderStudyError

SCALES = (5, 7)
MOST_REPEATED = 0.3  # repeats come from the first third of a reader's order and go behind its middle
_LONGEST_NAME = 40
_CODE_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"  # none that is taken for another

_STUDIES = """
SELECT reader_study.*, (SELECT count(*) FROM reader_case WHERE reader_study_id = reader_study.id) AS cases
FROM reader_study ORDER BY id
"""
_READERS = """
SELECT reader.*, count(*) AS readings, count(reading.answered_at) AS answered
FROM reader JOIN reading ON reading.reader_id = reader.id
WHERE reader.reader_study_id = :study GROUP BY reader.id ORDER BY reader.id
"""
_READING = """
SELECT reading.*, reader_case.picture FROM reading JOIN reader_case ON reader_case.id = reading.case_id
WHERE reading.reader_id = :reader AND reading.place = :place
"""
_ANSWERS = """
SELECT reader_case.image, reader.name AS reader, reader.finished_at, reading.*
FROM reading JOIN reader ON reader.id = reading.reader_id JOIN reader_case ON reader_case.id = reading.case_id
WHERE reader.reader_study_id = :study AND reading.answered_at IS NOT NULL
ORDER BY reader.id, reading.place
"""
_LOOK = """
UPDATE reading SET seconds = seconds + :seconds
WHERE id = :reading AND (SELECT finished_at FROM reader WHERE id = reading.reader_id) IS NULL
"""
_ANSWER = """
UPDATE reading SET present = :present, rating = :rating, seconds = seconds + :seconds, answered_at = :now
WHERE id = :reading AND (SELECT finished_at FROM reader WHERE id = reading.reader_id) IS NULL
"""


@dataclass(frozen=True)
class Case:
    """One image of a study: its name, its picture below the reader studies' folder, what the model said of it."""

    image: str
    picture: str
    score: float | None = None
    threshold: float | None = None


class ReaderStudies(Database):
    """The reader studies of one ledger."""

    def create(self, name: str, finding: str, scale: int, repeated: float, cases: Sequence[Case]) -> None:
        """Keep a new study; raises `ReaderStudyError` where there is one of that name."""
        with self._transaction() as connection:
            if connection.execute("SELECT 1 FROM reader_study WHERE name = ?", (name,)).fetchone():
                raise ReaderStudyError(f"there is a reader study {name!r} already", hint="give this one another name")
            cursor = connection.execute(
                "INSERT INTO reader_study (name, finding, scale, repeated, created_at) VALUES (?, ?, ?, ?, ?)",
                (name, finding, scale, repeated, time.time()),
            )
            connection.executemany(
                "INSERT INTO reader_case (reader_study_id, image, picture, score, threshold) VALUES (?, ?, ?, ?, ?)",
                [(cursor.lastrowid, case.image, case.picture, case.score, case.threshold) for case in cases],
            )

    def studies(self) -> list[dict[str, Any]]:
        """Every study with the number of its ``cases``."""
        return self._rows(_STUDIES)

    def study(self, name: str) -> dict[str, Any]:
        """One of `studies`; raises `ReaderStudyError` where there is none of that name."""
        for each in self.studies():
            if each["name"] == name:
                return each
        raise ReaderStudyError(f"there is no reader study {name!r}", hint="scanside study list shows them")

    def cases(self, study_id: int) -> list[dict[str, Any]]:
        return self._rows("SELECT * FROM reader_case WHERE reader_study_id = :study ORDER BY id", study=study_id)

    def readers(self, study_id: int) -> list[dict[str, Any]]:
        """Every reader, with how many ``readings`` there are to do and how many are ``answered``."""
        return self._rows(_READERS, study=study_id)

    def answers(self, study_id: int) -> list[dict[str, Any]]:
        """Every answer with its ``image`` and ``reader``, in the order in which each reader saw them."""
        return self._rows(_ANSWERS, study=study_id)

    # --- a reader ---------------------------------------------------------------------------------------------------

    def enter(self, study: dict[str, Any], name: str, code: str) -> int:
        """A reader begins, with an order drawn for them, or goes on with the ``code`` that they were given.

        Returns
        -------
        The number of the reader.

        Raises
        ------
        ReaderStudyError
            The name can't be one, or has begun and the code is not its own.
        """
        name = " ".join(name.split())
        if not 0 < len(name) <= _LONGEST_NAME:
            raise ReaderStudyError(f"A name or pseudonym has 1 to {_LONGEST_NAME} letters.")
        if name[0] in "=+-@":  # a spreadsheet would take the exported name for a formula
            raise ReaderStudyError("A name or pseudonym begins with a letter or a digit.")
        with self._transaction() as connection:
            row = connection.execute(
                "SELECT id, code FROM reader WHERE reader_study_id = ? AND name = ?", (study["id"], name)
            ).fetchone()
            if row is not None:
                if not secrets.compare_digest(row["code"].encode(), code.strip().upper().encode()):
                    raise ReaderStudyError(
                        f"{name} has begun to read already. To go on, enter the code that was shown then."
                    )
                return int(row["id"])
            made = "".join(secrets.choice(_CODE_LETTERS) for _ in range(6))
            cursor = connection.execute(
                "INSERT INTO reader (reader_study_id, name, code, started_at) VALUES (?, ?, ?, ?)",
                (study["id"], name, made, time.time()),
            )
            rows = connection.execute("SELECT id FROM reader_case WHERE reader_study_id = ?", (study["id"],))
            connection.executemany(
                "INSERT INTO reading (reader_id, case_id, place, repetition) VALUES (?, ?, ?, ?)",
                [
                    (cursor.lastrowid, case_id, place, repetition)
                    for place, (case_id, repetition) in enumerate(_order([row["id"] for row in rows], study), start=1)
                ],
            )
            return int(cursor.lastrowid or 0)

    def reader(self, study_id: int, reader_id: int) -> dict[str, Any] | None:
        """One of `readers`."""
        return next((row for row in self.readers(study_id) if row["id"] == reader_id), None)

    def next_place(self, reader_id: int) -> int | None:
        """The first place in a reader's order that has no answer; None where all have."""
        row = self._rows(
            "SELECT min(place) AS place FROM reading WHERE reader_id = :reader AND answered_at IS NULL",
            reader=reader_id,
        )[0]
        place: int | None = row["place"]
        return place

    def reading(self, reader_id: int, place: int) -> dict[str, Any] | None:
        """What a reader sees at a place, and what they have answered so far; None where there is no such place."""
        rows = self._rows(_READING, reader=reader_id, place=place)
        return rows[0] if rows else None

    def look(self, reading_id: int, seconds: float) -> None:
        """Count the time that an image was looked at without an answer."""
        with self._transaction() as connection:
            connection.execute(_LOOK, {"reading": reading_id, "seconds": seconds})

    def answer(self, reading_id: int, present: bool | None, rating: int | None, seconds: float) -> None:
        """Keep an answer; both None: can't judge. Raises `ReaderStudyError` where the reader has finished."""
        with self._transaction() as connection:
            cursor = connection.execute(
                _ANSWER,
                {
                    "reading": reading_id,
                    "present": None if present is None else int(present),
                    "rating": rating,
                    "seconds": seconds,
                    "now": time.time(),
                },
            )
            if cursor.rowcount != 1:
                raise ReaderStudyError("This reader has finished: answers can't be changed any more.")

    def finish(self, reader_id: int) -> None:
        """Close a reader's answers for good; raises `ReaderStudyError` while some are missing."""
        with self._transaction() as connection:
            row = connection.execute(
                "SELECT count(*) - count(answered_at) AS missing FROM reading WHERE reader_id = ?", (reader_id,)
            ).fetchone()
            if row["missing"]:
                raise ReaderStudyError(f"{row['missing']} images have no answer yet.")
            connection.execute(
                "UPDATE reader SET finished_at = ? WHERE id = ? AND finished_at IS NULL", (time.time(), reader_id)
            )


def check_name(name: str) -> None:
    """A study's name is part of an address; raises `ReaderStudyError`."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}", name):
        raise ReaderStudyError(
            f"{name!r} can't be the name of a reader study", hint="use small letters, digits and hyphens, 40 at most"
        )


def _order(cases: Sequence[int], study: dict[str, Any]) -> list[tuple[int, int]]:
    """``(case, repetition)`` in random order, no repeat nearer to its first showing than a sixth of the cases."""
    chance = random.SystemRandom()
    first = chance.sample(cases, len(cases))
    count = round(study["repeated"] * len(cases))
    again = chance.sample(first[: max(len(first) // 3, count)], count)
    middle = len(first) // 2
    late = [(case, 0) for case in first[middle:]] + [(case, 1) for case in again]
    chance.shuffle(late)
    return [*((case, 0) for case in first[:middle]), *late]
