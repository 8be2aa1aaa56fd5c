"""The rows of accounts, of their sessions, and of tries to log in. What they mean says `appliance.accounts`."""

from __future__ import annotations

import time
from typing import Any

from appliance.database import Database

_SESSION = """
SELECT session.begun_at, session.used_at, account.id AS account_id, account.name, account.role
FROM session JOIN account ON account.id = session.account_id
WHERE session.digest = :digest AND account.disabled_at IS NULL
"""
_COUNT_FAILURE = """
INSERT INTO login_failure VALUES (:kind, :subject, 1, :now, 0) ON CONFLICT (kind, subject) DO UPDATE SET
  failures = CASE WHEN last_at < :forgotten THEN 1 ELSE failures + 1 END, last_at = :now
RETURNING failures
"""


class AccountStore(Database):
    # --- accounts ---------------------------------------------------------------------------------------------

    def any_account(self) -> bool:
        return bool(self._rows("SELECT 1 FROM account LIMIT 1"))

    def accounts(self) -> list[dict[str, Any]]:
        """All of them by name, each with its ``sessions`` and since when it is ``locked_until``, 0 where it is not."""
        return self._rows(
            "SELECT account.*, (SELECT count(*) FROM session WHERE account_id = account.id) AS sessions, "
            "ifnull((SELECT locked_until FROM login_failure WHERE kind = 'account' AND subject = lower(account.name)), "
            "0) AS locked_until FROM account ORDER BY account.name"
        )

    def account(self, name: str) -> dict[str, Any] | None:
        rows = self._rows("SELECT * FROM account WHERE name = :name", name=name)
        return rows[0] if rows else None

    def insert_account(self, name: str, role: str, password: str) -> None:
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO account (name, role, password, created_at) VALUES (?, ?, ?, ?)",
                (name, role, password, time.time()),
            )
            connection.execute("DELETE FROM enrolment WHERE name IN (?, '')", (name,))

    def set_role(self, name: str, role: str) -> None:
        with self._transaction() as connection:
            connection.execute("UPDATE account SET role = ? WHERE name = ?", (role, name))

    def set_password(self, name: str, password: str) -> None:
        """Also ends the account's sessions."""
        with self._transaction() as connection:
            connection.execute("UPDATE account SET password = ? WHERE name = ?", (password, name))
            self._end_sessions(name)

    def set_disabled(self, name: str, disabled: bool) -> None:
        """Also ends the account's sessions."""
        with self._transaction() as connection:
            at = time.time() if disabled else None
            connection.execute("UPDATE account SET disabled_at = ? WHERE name = ?", (at, name))
            self._end_sessions(name)

    def other_administrators(self, name: str) -> int:
        """How many accounts but this one may make accounts."""
        sql = "SELECT count(*) AS n FROM account WHERE role = 'administrator' AND disabled_at IS NULL AND name <> :name"
        count: int = self._rows(sql, name=name)[0]["n"]
        return count

    # --- sessions ---------------------------------------------------------------------------------------------

    def begin_session(self, digest: str, account_id: int, address: str) -> None:
        now = time.time()
        with self._transaction() as connection:
            connection.execute("INSERT INTO session VALUES (?, ?, ?, ?, ?)", (digest, account_id, address, now, now))
            connection.execute("UPDATE account SET last_login_at = ? WHERE id = ?", (now, account_id))

    def session(self, digest: str) -> dict[str, Any] | None:
        """With its account's ``name`` and ``role``; None where that may no longer log in."""
        rows = self._rows(_SESSION, digest=digest)
        return rows[0] if rows else None

    def use_session(self, digest: str, now: float) -> None:
        with self._transaction() as connection:
            connection.execute("UPDATE session SET used_at = ? WHERE digest = ?", (now, digest))

    def end_session(self, digest: str) -> None:
        with self._transaction() as connection:
            connection.execute("DELETE FROM session WHERE digest = ?", (digest,))

    def end_old_sessions(self, begun_before: float, used_before: float) -> None:
        with self._transaction() as connection:
            connection.execute("DELETE FROM session WHERE begun_at < ? OR used_at < ?", (begun_before, used_before))

    def _end_sessions(self, name: str) -> None:
        with self._transaction() as connection:
            connection.execute(
                "DELETE FROM session WHERE account_id IN (SELECT id FROM account WHERE name = ?)", (name,)
            )

    # --- tries to log in --------------------------------------------------------------------------------------

    def locked_until(self, kind: str, subject: str) -> float:
        sql = "SELECT locked_until FROM login_failure WHERE kind = :kind AND subject = :subject"
        rows = self._rows(sql, kind=kind, subject=subject)
        return float(rows[0]["locked_until"]) if rows else 0.0

    def count_failure(self, kind: str, subject: str, forgotten: float) -> int:
        """Count one more try; how many there were since then, without a break that began before ``forgotten``."""
        with self._transaction() as connection:
            values = {"kind": kind, "subject": subject, "now": time.time(), "forgotten": forgotten}
            return int(connection.execute(_COUNT_FAILURE, values).fetchone()[0])

    def lock(self, kind: str, subject: str, until: float) -> None:
        with self._transaction() as connection:
            connection.execute(
                "UPDATE login_failure SET locked_until = ? WHERE kind = ? AND subject = ?", (until, kind, subject)
            )

    def uncount_failure(self, kind: str, subject: str) -> None:
        """Take back what the last `count_failure` did: the try was right."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE login_failure SET failures = failures - 1, locked_until = 0 WHERE kind = ? AND subject = ?",
                (kind, subject),
            )

    def forget_failures(self, kind: str, subject: str) -> None:
        with self._transaction() as connection:
            connection.execute("DELETE FROM login_failure WHERE kind = ? AND subject = ?", (kind, subject))

    def prune_failures(self, before: float, most: int) -> None:
        """Forget tries before then, and the oldest of more than ``most``, since whoever guesses chooses the names."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM login_failure WHERE last_at < ?", (before,))
            connection.execute(
                "DELETE FROM login_failure WHERE rowid IN "
                "(SELECT rowid FROM login_failure ORDER BY last_at DESC LIMIT -1 OFFSET ?)",
                (most,),
            )

    # --- codes that make accounts -----------------------------------------------------------------------------

    def set_enrolment(self, name: str, role: str, digest: str, expires_at: float | None) -> None:
        """A code's digest, in the place of an earlier one of that name; '' for the first account."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM enrolment WHERE expires_at < ?", (time.time(),))
            connection.execute("INSERT OR REPLACE INTO enrolment VALUES (?, ?, ?, ?)", (name, role, digest, expires_at))

    def enrolment(self, digest: str) -> dict[str, Any] | None:
        """Whose account a code makes, and with which role; None where it counts no more."""
        sql = "SELECT * FROM enrolment WHERE digest = :digest AND ifnull(expires_at >= :now, 1)"
        rows = self._rows(sql, digest=digest, now=time.time())
        return rows[0] if rows else None

    def invitations(self) -> list[dict[str, Any]]:
        """Who has a code that counts, but no account yet, by name: ``name``, ``role``, ``expires_at``."""
        sql = "SELECT name, role, expires_at FROM enrolment WHERE expires_at >= :now ORDER BY name"
        return self._rows(sql, now=time.time())

    def withdraw(self, name: str) -> bool:
        """Whether there was such an invitation."""
        with self._transaction() as connection:
            return connection.execute("DELETE FROM enrolment WHERE name = ? AND name <> ''", (name,)).rowcount > 0
