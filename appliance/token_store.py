"""The rows of API tokens. What they mean says `appliance.tokens`."""

from __future__ import annotations

import time
from typing import Any

from appliance.database import Database


class TokenStore(Database):
    def insert_token(self, name: str, digest: str, scopes: str, made_by: str, expires_at: float | None) -> None:
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO token (name, digest, scopes, made_by, made_at, expires_at) VALUES (?, ?, ?, ?, ?, ?)",
                (name, digest, scopes, made_by, time.time(), expires_at),
            )

    def token(self, digest: str) -> dict[str, Any] | None:
        """The one with this digest, whether or not it still counts."""
        rows = self._rows("SELECT * FROM token WHERE digest = :digest", digest=digest)
        return rows[0] if rows else None

    def named(self, name: str) -> dict[str, Any] | None:
        """The one of this name that is not revoked."""
        rows = self._rows("SELECT * FROM token WHERE name = :name AND revoked_at IS NULL", name=name)
        return rows[0] if rows else None

    def tokens(self) -> list[dict[str, Any]]:
        """All of them, those that are revoked last."""
        return self._rows("SELECT * FROM token ORDER BY revoked_at IS NOT NULL, name, id")

    def use_token(self, token_id: int, now: float) -> None:
        with self._transaction() as connection:
            connection.execute("UPDATE token SET used_at = ? WHERE id = ?", (now, token_id))

    def revoke_token(self, name: str) -> bool:
        """Whether there was one that counted."""
        with self._transaction() as connection:
            cursor = connection.execute(
                "UPDATE token SET revoked_at = ? WHERE name = ? AND revoked_at IS NULL", (time.time(), name)
            )
            return cursor.rowcount > 0
