"""API tokens: with which systems use the page's interfaces, each for what it may do and as long as it may."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec

from appliance.accounts import RIGHTS, Right, digest
from appliance.errors import AccountError
from appliance.token_store import TokenStore

SCOPES = tuple(sorted(RIGHTS["administrator"] - {"open"}))
_MARK = "scanside_"  # so that scanners of leaked secrets know one
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@ -]{0,63}")
_PERIOD = re.compile(r"([1-9]\d{0,4})([hdw])")
_UNITS = {"h": "hours", "d": "days", "w": "weeks"}
_MINUTE = 60.0


@dataclass(frozen=True)
class Token:
    """A token that counts."""

    name: str
    rights: frozenset[Right]


class Tokens:
    """The tokens of a ledger. Raises `SpoolError`."""

    def __init__(self, ledger: Path, read_only: bool = False) -> None:
        self._store = TokenStore(ledger, read_only)

    def close(self) -> None:
        self._store.close()

    def add(self, name: str, scopes: Iterable[str], lasts: timedelta | None, made_by: str) -> str:
        """The new token's text, which nobody can look up later.

        Raises
        ------
        AccountError
        """
        wanted = sorted(set(scopes))
        if not _NAME.fullmatch(name):
            raise AccountError(f"{name[:64]!r} can't be a token's name", hint="name the system that gets it")
        wrong = [scope for scope in wanted if scope not in SCOPES]
        if wrong or not wanted:
            raise AccountError(
                f"there is no scope {wrong[0][:64]!r}" if wrong else "a token needs a scope",
                hint=f"one or more of {', '.join(SCOPES)}",
            )
        text = f"{_MARK}{secrets.token_urlsafe(32)}"
        expires_at = time.time() + lasts.total_seconds() if lasts is not None else None
        with self._store.together():
            if self._store.named(name) is not None:
                raise AccountError(f"there is a token {name!r} already", hint="revoke it first, or take another name")
            scopes_kept = msgspec.json.encode(wanted).decode()
            self._store.insert_token(name, digest(text), scopes_kept, made_by, expires_at)
        return text

    def of(self, text: str) -> Token | None:
        """The token with this text, where it counts."""
        row, now = self._store.token(digest(text)), time.time()
        if row is None or not _counts(row):
            return None
        if now - (row["used_at"] or 0.0) > _MINUTE:
            self._store.use_token(row["id"], now)
        return _token(row)

    def named(self, name: str, made_before: float) -> Token | None:
        """The one of this name, where it counts and was there by then."""
        row = self._store.named(name)
        return _token(row) if row is not None and _counts(row) and row["made_at"] <= made_before else None

    def revoke(self, name: str) -> None:
        if not self._store.revoke_token(name):
            raise AccountError(f"there is no token {name[:64]!r} that counts", hint="see `scanside tokens list`")

    def rows(self) -> list[dict[str, Any]]:
        """For people: ``scopes`` as a list, and in ``state`` whether it counts."""
        now, found = time.time(), []
        for row in self._store.tokens():
            state = "revoked" if row["revoked_at"] else "expired" if (row["expires_at"] or now) < now else "valid"
            kept = {key: value for key, value in row.items() if key != "digest"}
            found.append({**kept, "scopes": msgspec.json.decode(row["scopes"]), "state": state})
        return found


def _counts(row: dict[str, Any]) -> bool:
    now = time.time()
    return row["revoked_at"] is None and (row["expires_at"] or now) >= now


def _token(row: dict[str, Any]) -> Token:
    return Token(row["name"], frozenset({"open", *msgspec.json.decode(row["scopes"])}))


def period(text: str) -> timedelta | None:
    """Of ``90d``, ``12h``, ``4w``; None for ``never``. Raises `AccountError`."""
    if text == "never":
        return None
    found = _PERIOD.fullmatch(text)
    if found is None:
        raise AccountError(f"{text[:64]!r} is no period", hint="write 90d, 12h, 4w, or never")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})
