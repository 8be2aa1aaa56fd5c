"""Sessions of browsers: begun by a login, ended by a log-out, by time, or with the account that they belong to."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

from appliance.account_store import AccountStore
from appliance.accounts import Account, digest

_MINUTE = 60.0


class Sessions:
    """Sessions of a ledger; the browser alone knows their secrets. Raises `SpoolError`.

    Parameters
    ----------
    idle, longest
        Seconds until one ends: without anything that a person did, and at the latest.
    """

    def __init__(self, ledger: Path, idle: float, longest: float) -> None:
        self._store = AccountStore(ledger)
        self._use = self._store.unflushed()  # a power cut may take the last minutes of it
        self._idle, self._longest = idle, longest

    def begin(self, account: Account, address: str) -> str:
        """The new session's secret, which no other one has had."""
        secret, now = secrets.token_urlsafe(32), time.time()
        with self._store.together():
            self._store.end_old_sessions(now - self._longest, now - self._idle)
            self._store.begin_session(digest(secret), account.id, address)
        return secret

    def account(self, secret: str, by_person: bool) -> Account | None:
        """Whose session it is, with the role that they have now; None where it has ended.

        Parameters
        ----------
        by_person
            Whether somebody did something, rather than a page that is left open.
        """
        now, key = time.time(), digest(secret)
        row = self._store.session(key)
        if row is None or now - row["begun_at"] > self._longest or now - row["used_at"] > self._idle:
            return None
        if by_person and now - row["used_at"] > min(_MINUTE, self._idle / 2):
            self._use.use_session(key, now)
        return Account.of(row)

    def end(self, secret: str) -> None:
        self._store.end_session(digest(secret))
