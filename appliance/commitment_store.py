"""The ledger of storage commitment: which peers asked, and have not been told yet."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from appliance.database import Database

MOST_OWED, MOST_OWED_TO_ONE = 500, 100  # a request has 1 MiB at the most
REMEMBERED_SECONDS = 7 * 86400.0  # so long a report that was given up is shown

_OWE = """
INSERT INTO owed_report (ae_title, host, transaction_uid, wanted, asked_at, next_attempt_at)
VALUES (:ae_title, :host, :transaction_uid, :wanted, :now, :next_attempt_at)
ON CONFLICT DO UPDATE SET wanted = excluded.wanted, asked_at = excluded.asked_at, attempts = 0,
  next_attempt_at = excluded.next_attempt_at, last_error = '', given_up_at = NULL
RETURNING *
"""
_OWED = "SELECT coalesce(sum(host = :host), 0) AS to_one, count(*) AS total FROM owed_report WHERE given_up_at IS NULL"
_DUE = """
SELECT * FROM owed_report
WHERE given_up_at IS NULL AND next_attempt_at <= :now AND ae_title = :ae_title AND host = :host ORDER BY id
"""
_AHEAD = "SELECT 1 FROM owed_report WHERE next_attempt_at > :latest OR asked_at > :now LIMIT 1"
_BRING_FORWARD = """
UPDATE owed_report SET next_attempt_at = min(next_attempt_at, :latest), asked_at = min(asked_at, :now)
"""
_PEERS = """
SELECT ae_title, host, sum(given_up_at IS NULL) AS waiting, sum(given_up_at IS NOT NULL) AS given_up,
       min(asked_at) AS asked_at, max(last_error) AS last_error,
       min(next_attempt_at) FILTER (WHERE given_up_at IS NULL) AS next_attempt_at
FROM owed_report GROUP BY ae_title, host ORDER BY ae_title, host
"""


@dataclass(frozen=True)
class Owed:
    """A report that a peer is to get; ``wanted`` are SOP Class and SOP Instance UIDs."""

    id: int
    ae_title: str
    host: str
    transaction_uid: str
    wanted: tuple[tuple[str, str], ...]
    attempts: int


class CommitmentStore(Database):
    def owe(
        self,
        ae_title: str,
        host: str,
        transaction_uid: str,
        wanted: Sequence[tuple[str, str]],
        next_attempt_at: float,
    ) -> Owed | None:
        """Record a request; when this returns, it may be answered with Success. None where too many wait.

        One that a peer sends again takes the place of the first.

        Raises
        ------
        DiskFullError, SpoolError
        """
        with self._transaction() as connection:
            owed = connection.execute(_OWED, {"host": host}).fetchone()
            if owed["to_one"] >= MOST_OWED_TO_ONE or owed["total"] >= MOST_OWED:
                return None
            values = {
                "ae_title": ae_title, "host": host, "transaction_uid": transaction_uid,
                "wanted": msgspec.json.encode(wanted).decode(), "now": time.time(), "next_attempt_at": next_attempt_at,
            }  # fmt: skip
            return _owed(dict(connection.execute(_OWE, values).fetchone()))

    def due(self, ae_title: str, host: str) -> list[Owed]:
        """The reports to one peer whose turn has come, the oldest first."""
        return [_owed(row) for row in self._rows(_DUE, ae_title=ae_title, host=host, now=time.time())]

    def told(self, owed: Owed) -> None:
        """The peer has taken a report: that it took none for long is no longer worth a word."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM owed_report WHERE id = ?", (owed.id,))
            connection.execute(
                "DELETE FROM owed_report WHERE ae_title = ? AND host = ? AND given_up_at IS NOT NULL",
                (owed.ae_title, owed.host),
            )

    def postpone(self, owed: Sequence[Owed], error: str, next_attempt_at: float) -> None:
        """Record a failed attempt, and when to try again."""
        with self._transaction() as connection:
            connection.executemany(
                "UPDATE owed_report SET attempts = attempts + 1, last_error = ?, next_attempt_at = ? WHERE id = ?",
                [(error, next_attempt_at, each.id) for each in owed],
            )

    def give_up(self, seconds: float) -> list[dict[str, Any]]:
        """Give up what has waited for so long, forget what was given up long ago; the rows of what is given up now."""
        now = time.time()
        if not self._rows("SELECT 1 FROM owed_report LIMIT 1"):
            return []
        with self._transaction() as connection:
            connection.execute("DELETE FROM owed_report WHERE given_up_at < ?", (now - REMEMBERED_SECONDS,))
            return [
                dict(row)
                for row in connection.execute(
                    "UPDATE owed_report SET given_up_at = ? WHERE given_up_at IS NULL AND asked_at <= ? "
                    "RETURNING ae_title, host",
                    (now, now - seconds),
                )
            ]

    def bring_forward(self, longest: float) -> None:
        """Let no report wait longer than ``longest`` seconds, nor be given up late, where the clock was set back."""
        values = {"now": time.time(), "latest": time.time() + longest}
        if self._rows(_AHEAD, **values):
            with self._transaction() as connection:
                connection.execute(_BRING_FORWARD, values)

    def peers(self) -> list[dict[str, Any]]:
        """For each peer that is owed something: how many reports are ``waiting`` and ``given_up``, since when it asks
        (``asked_at``), ``last_error``, and ``next_attempt_at``, None where nothing waits (both seconds since 1970).
        """
        return self._rows(_PEERS)


def _owed(row: dict[str, Any]) -> Owed:
    return Owed(
        row["id"],
        row["ae_title"],
        row["host"],
        row["transaction_uid"],
        msgspec.json.decode(row["wanted"], type=tuple[tuple[str, str], ...]),
        row["attempts"],
    )
