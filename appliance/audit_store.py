"""The rows of the audit trail: a chain, of which each record holds the SHA-256 of the one before."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from appliance.database import Database

_PAGE = 500
_APPEND = "INSERT INTO record (number, previous, content) VALUES (?, ?, ?)"
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

    def records(self, after: int = 0, limit: int | None = None) -> Iterator[dict[str, Any]]:
        """``number``, ``previous`` and ``content``, in their order."""
        left = limit
        while left is None or left > 0:
            count = _PAGE if left is None else min(left, _PAGE)
            rows = self._rows(
                "SELECT * FROM record WHERE number > :after ORDER BY number LIMIT :count", after=after, count=count
            )
            yield from rows
            if len(rows) < count:
                return
            after = rows[-1]["number"]
            left = left - len(rows) if left is not None else None

    def latest(self, limit: int) -> list[dict[str, Any]]:
        """The last ones, the latest first."""
        return self._rows("SELECT * FROM record ORDER BY number DESC LIMIT :limit", limit=limit)

    def collected(self) -> int:
        """The number of the last record that the collector has for certain."""
        rows = self._rows("SELECT number FROM collector")
        return int(rows[0]["number"]) if rows else 0

    def set_collected(self, number: int) -> None:
        with self._transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO collector VALUES (1, ?)", (number,))
