"""Safe mode in the ledger: what was entered, why, by whom, and who left it. Nothing of it is removed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Literal, get_args

from appliance.database import Database
from appliance.errors import SafeModeError

Strength = Literal["banner", "review", "withheld"]  # a level that does something; the last one does most
STRENGTHS: tuple[Strength, ...] = get_args(Strength)

_ENTER = """
INSERT INTO safe_mode (package, level, kind, source, why, entered_at, entered_by)
VALUES (:package, :level, :kind, :source, :why, :at, :by) ON CONFLICT DO NOTHING
"""

_ON_THEIR_WAY = """
SELECT count(DISTINCT object.instance_id) AS n
FROM safe_mode INDEXED BY safe_mode_in_force
JOIN outbox ON outbox.destination IN (SELECT destination FROM outbox_tally) AND outbox.state = 'waiting'
JOIN object ON object.id = outbox.object_id AND of_result
JOIN result ON result.instance_id = object.instance_id
WHERE left_at IS NULL AND level = 'withheld' AND made_at < entered_at AND instr(provenance || outlines, package)
"""


@dataclass(frozen=True)
class Entry:
    """Why results are marked or withheld, and who has ended that; see the table of that name.

    ``package``: SHA-256 of the package file, '' of all. ``source``: number of the alarm or ticket, None by hand.
    ``entered_by``: '' for the device itself. ``left_at`` is None while it is in force.
    """

    id: int
    package: str
    level: Strength
    kind: str
    source: int | None
    why: str
    entered_at: float
    entered_by: str
    left_at: float | None
    left_by: str
    left_why: str

    @property
    def rank(self) -> int:
        return STRENGTHS.index(self.level)


class SafeModeStore(Database):
    """On a ledger."""

    def enter(
        self, level: Strength, kind: str, why: str, by: str, package: str = "", source: int | None = None
    ) -> Entry | None:
        """What is in force from now on; None where this alarm or ticket has had its entry."""
        values = {"package": package, "level": level, "kind": kind, "source": source, "why": why, "by": by}
        with self._transaction() as connection:
            cursor = connection.execute(_ENTER, {**values, "at": time.time()})
            return self.entry(int(cursor.lastrowid or 0)) if cursor.rowcount == 1 else None

    def leave(self, number: int, by: str, why: str) -> Entry:
        """It is in force no longer.

        Raises
        ------
        SafeModeError
            Nobody is named, no reason is given, or it is not in force.
        """
        if not by.strip() or not why.strip():
            raise SafeModeError("say who leaves safe mode, and why", hint="both are kept for good")
        with self._transaction() as connection:
            cursor = connection.execute(
                "UPDATE safe_mode SET left_at = ?, left_by = ?, left_why = ? WHERE id = ? AND left_at IS NULL",
                (time.time(), by.strip(), why.strip(), number),
            )
            found = self.entry(number)
            if found is None or cursor.rowcount != 1:
                raise SafeModeError(
                    f"safe mode {number} is not in force"
                    + (f": {found.left_by} has left it" if found is not None else ""),
                    hint="scanside safe-mode show lists what is",
                )
            return found

    def entry(self, number: int) -> Entry | None:
        return next(iter(self._entries("WHERE id = :id", id=number)), None)

    def in_force(self) -> list[Entry]:
        """The strongest first, of the same level the latest first."""
        found = self._entries("INDEXED BY safe_mode_in_force WHERE left_at IS NULL ORDER BY id DESC")
        return sorted(found, key=lambda each: -each.rank)

    def latest(self, most: int = 50) -> list[Entry]:
        """Whether in force or not, the latest first."""
        return self._entries("ORDER BY id DESC LIMIT :most", most=most)

    def known(self) -> set[tuple[str, int]]:
        """Kind and number of every alarm and ticket that has had its entry."""
        return {
            (row["kind"], row["source"])
            for row in self._rows("SELECT kind, source FROM safe_mode WHERE source IS NOT NULL")
        }

    def on_their_way(self) -> int:
        """Results that wait for a destination, made before those of their packages were withheld, as they are now."""
        return int(self._rows(_ON_THEIR_WAY)[0]["n"])

    def changes(self) -> dict[str, int]:
        """How often it was ``entered`` and ``left`` since this ledger began."""
        (row,) = self._rows("SELECT count(*) AS entered, count(left_at) AS left FROM safe_mode")
        return {"entered": row["entered"], "left": row["left"]}

    def released(self, instance_id: int) -> dict[str, Any] | None:
        """``at``, ``by`` and ``why`` of an image whose result is no longer withheld."""
        return next(iter(self._rows("SELECT * FROM released WHERE instance_id = :id", id=instance_id)), None)

    def _entries(self, where: str, **parameters: Any) -> list[Entry]:
        return [Entry(**row) for row in self._rows(f"SELECT * FROM safe_mode {where}", **parameters)]  # noqa: S608 (of this file)
