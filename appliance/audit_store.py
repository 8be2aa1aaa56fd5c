"""The rows of the audit trail: a chain, of which each record holds the SHA-256 of the one before.

What retention has removed ends with the anchor, from which the chain goes on. Rows that it covers may still be there:
they count no more, and are not shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from appliance.database import Database

_PAGE = 500
Place = Literal["collector", "file"]
_APPEND = "INSERT INTO record (number, previous, content) VALUES (?, ?, ?)"
_RECORDS = "SELECT * FROM kept WHERE number > :after ORDER BY number LIMIT :count"
_LATEST = "SELECT * FROM kept ORDER BY number DESC LIMIT :limit"
_DROP = """
DELETE FROM record WHERE number IN
  (SELECT number FROM record WHERE number <= (SELECT number FROM anchor) ORDER BY number LIMIT ?)
"""
_HEAD = "INSERT OR REPLACE INTO head (id, number, digest, signature) VALUES (1, ?, ?, ?)"


class AuditStore(Database):
    what = "audit trail"
    schema = Path(__file__).with_name("audit_schema.sql")
    migrations = ()

    def append(
        self,
        contents: Sequence[str],
        first: str,
        digest: Callable[[int, str, str], str],
        sign: Callable[[int, str], str],
    ) -> int:
        """Append records and sign the new head, all or nothing; the last one's number.

        Parameters
        ----------
        first
            What the very first record holds in place of a digest.
        digest
            Of a record's number, the digest before it, and its content.
        """
        with self._transaction() as connection:
            row = connection.execute("SELECT number, digest FROM head").fetchone()
            number, last = (row["number"], row["digest"]) if row else (0, first)
            for content in contents:
                number += 1
                connection.execute(_APPEND, (number, last, content))
                last = digest(number, last, content)
            connection.execute(_HEAD, (number, last, sign(number, last)))
        return int(number)

    def head(self) -> dict[str, Any] | None:
        """``number``, ``digest`` and ``signature``; None while there is no record."""
        rows = self._rows("SELECT number, digest, signature FROM head")
        return rows[0] if rows else None

    def anchor(self) -> dict[str, Any] | None:
        """``number``, ``digest`` and ``signature`` of the last record that was removed; None where none was."""
        rows = self._rows("SELECT number, digest, signature FROM anchor")
        return rows[0] if rows else None

    def records(self, after: int = 0, limit: int | None = None) -> Iterator[dict[str, Any]]:
        """``number``, ``previous`` and ``content``, in their order."""
        left = limit
        while left is None or left > 0:
            count = _PAGE if left is None else min(left, _PAGE)
            rows = self._rows(_RECORDS, after=after, count=count)
            yield from rows
            if len(rows) < count:
                return
            after = rows[-1]["number"]
            left = left - len(rows) if left is not None else None

    def latest(self, limit: int) -> list[dict[str, Any]]:
        """The last ones, the latest first."""
        return self._rows(_LATEST, limit=limit)

    # --- what is elsewhere, and need not stay -----------------------------------------------------------------

    def elsewhere(self, place: Place) -> int:
        """The number of the last record that is there for certain."""
        rows = self._rows("SELECT number FROM elsewhere WHERE place = :place", place=place)
        return int(rows[0]["number"]) if rows else 0

    def set_elsewhere(self, place: Place, number: int) -> None:
        with self._transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO elsewhere VALUES (?, ?)", (place, number))

    def set_anchor(self, number: int, digest: str, signature: str) -> None:
        """Give up the records up to a number, for good; `drop` takes their rows away."""
        with self._transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO anchor VALUES (1, ?, ?, ?)", (number, digest, signature))

    def drop(self, most: int) -> int:
        """Take rows away that were given up, so many at once that nobody waits for long; how many."""
        with self._transaction() as connection:
            return connection.execute(_DROP, (most,)).rowcount
