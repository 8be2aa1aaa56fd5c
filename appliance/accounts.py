"""Who may log in, and what they may do: names, roles, passwords, and the waits of those who guess.

Passwords are kept as scrypt (RFC 7914) in the form of Werkzeug, which comes with the page: a memory-hard function
without another compiled dependency. N = 2**15, r = 8, p = 3 (32 MiB) is one of the sets that OWASP holds equal.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from werkzeug.security import check_password_hash, generate_password_hash

from appliance.account_store import AccountStore
from appliance.errors import AccountError, LoginError

# open: everybody, before the login; see: results; assess: say whether they are right; operate: look after the device;
# administer: accounts and settings; send: images into it.
Right = Literal["open", "see", "assess", "operate", "administer", "send"]
Role = Literal["viewer", "clinician", "engineer", "administrator"]
ALL_RIGHTS: frozenset[Right] = frozenset(get_args(Right))
RIGHTS: dict[Role, frozenset[Right]] = {
    "viewer": frozenset({"open", "see"}),
    "clinician": frozenset({"open", "see", "assess"}),
    "engineer": frozenset({"open", "see", "operate", "send"}),
    "administrator": ALL_RIGHTS,
}
ROLES: tuple[Role, ...] = get_args(Role)

_METHOD = "scrypt:32768:8:3"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_SHORTEST, _LONGEST = 12, 256  # letters of a password
_FREE_TRIES = {"account": 5, "browser": 5, "address": 20}
_FIRST_WAIT, _LONGEST_WAIT = 5.0, 300.0  # doubled with each further try
_FORGOTTEN = {"account": 86400.0, "browser": 86400.0, "address": 3600.0}  # seconds without a further try
_MOST_FAILURES = 10_000  # rows
_CHECKS_AT_ONCE = 2  # each takes 32 MiB and a core for a while
_CHECK_SECONDS = 5.0
_INVITED_SECONDS = 14 * 86400.0
_CODE_LETTERS = "ABCDEFGHJKMNPQRSTVWXYZ23456789"  # no two of which look alike


@dataclass(frozen=True)
class Account:
    """Somebody who may log in."""

    id: int
    name: str
    role: Role

    @property
    def rights(self) -> frozenset[Right]:
        return RIGHTS[self.role]

    @classmethod
    def of(cls, row: dict[str, Any]) -> Account:
        return cls(row["account_id"] if "account_id" in row else row["id"], row["name"], row["role"])


class Accounts:
    """The accounts of a ledger. Raises `SpoolError` where that can't be read or written."""

    def __init__(self, ledger: Path, read_only: bool = False) -> None:
        self.store = AccountStore(ledger, read_only)
        self._places = threading.BoundedSemaphore(_CHECKS_AT_ONCE)

    def close(self) -> None:
        self.store.close()

    # --- making and changing ----------------------------------------------------------------------------------

    def add(self, name: str, role: Role, password: str) -> None:
        """Make an account; the first one must be an administrator's, since that one makes the others.

        Raises
        ------
        AccountError
        """
        self._check_new(name, role)
        hashed = _hashed(name, password)
        with self.store.together():
            self._check_new(name, role)  # another may have come meanwhile
            if role != "administrator" and not self.store.any_account():
                raise AccountError("the first account must be an administrator's", hint="that one adds all others")
            self.store.insert_account(name, role, hashed)

    def _check_new(self, name: str, role: str) -> None:
        if not _NAME.fullmatch(name):
            raise AccountError(
                f"{name[:64]!r} can't be an account's name",
                hint="use up to 64 letters a-z, digits and . _ @ -, beginning with a letter or a digit",
            )
        _check_role(role)
        if self.store.account(name) is not None:
            raise AccountError(
                f"there is an account {name!r} already",
                hint="a name is never given to somebody else, since the audit trail names it; take another",
            )

    def known(self, name: str) -> dict[str, Any]:
        """An account's row; raises `AccountError`."""
        row = self.store.account(name)
        if row is None:
            raise AccountError(f"there is no account {name[:64]!r}", hint="see `scanside accounts list`")
        return row

    def set_role(self, name: str, role: Role) -> None:
        """Counts from the next request on; raises `AccountError`."""
        _check_role(role)
        with self.store.together():
            if role != "administrator":
                self._keep_one_administrator(self.known(name))
            self.store.set_role(self.known(name)["name"], role)

    def set_password(self, name: str, password: str) -> None:
        """Also ends the account's sessions and what it has to wait; raises `AccountError`."""
        row = self.known(name)
        self.store.set_password(row["name"], _hashed(row["name"], password))
        self.unlock(name)

    def change_password(self, name: str, old: str, new: str) -> None:
        """By its owner; raises `AccountError`, and `LoginError` where the old one is wrong."""
        row = self.known(name)
        if not self._is_right(row["password"], old):
            raise LoginError("the present password is wrong")
        self.set_password(name, new)

    def disable(self, name: str) -> None:
        """Let an account in no more, and end its sessions; raises `AccountError`."""
        with self.store.together():
            row = self.known(name)
            self._keep_one_administrator(row)
            self.store.set_disabled(row["name"], True)

    def enable(self, name: str) -> None:
        self.store.set_disabled(self.known(name)["name"], False)

    def unlock(self, name: str) -> None:
        """Let an account be tried again at once."""
        row = self.known(name)
        for subject in (row["name"].lower(), f"basic {row['name'].lower()}"):
            self.store.forget_failures("account", subject)

    def _keep_one_administrator(self, row: dict[str, Any]) -> None:
        if row["role"] == "administrator" and not self.store.other_administrators(row["name"]):
            raise AccountError(
                f"{row['name']} is the last administrator",
                hint="make another account an administrator first: `scanside accounts role NAME administrator`",
            )

    # --- logging in -------------------------------------------------------------------------------------------

    def log_in(self, name: str, password: str, address: str, browser: str = "", basic: bool = False) -> Account:
        """The account, where name and password are right.

        Whoever is wrong has to wait, longer each time, by the account's name (whether or not there is one) and by the
        address. So that nobody can keep an account's owner out by guessing, a browser in which that account has logged
        in before waits for nobody but itself.

        Parameters
        ----------
        browser
            The mark of such a browser, for this account; '' where it has none.
        basic
            Whether a system asks, by HTTP Basic: its wrong password must not make people wait.

        Raises
        ------
        LoginError
        """
        before = "basic " if basic else ""
        tried = [("account", f"{before}{name[:64].lower()}"), ("address", f"{before}{address}")]
        if browser:
            tried = [("browser", browser)]
        self._count(tried)
        row = self.store.account(name)
        # Checked for a name that is not there, too, so that the time tells nothing.
        right = self._is_right(row["password"] if row else _of_nobody(), password)
        if row is None or not right or row["disabled_at"] is not None:
            raise LoginError("The name or the password is wrong.")
        with self.store.together():
            for kind, subject in tried:
                if kind == "address":
                    self.store.uncount_failure(kind, subject)
                else:
                    self.store.forget_failures(kind, subject)
        return Account.of(row)

    def locked_for(self, kind: str, subject: str) -> float:
        """Seconds; no longer than the longest wait, even where the clock was set back."""
        return min(max(self.store.locked_until(kind, subject) - time.time(), 0.0), _LONGEST_WAIT)

    def _count(self, tried: list[tuple[str, str]]) -> None:
        """Count a try as wrong before it is looked at, so that many at once gain nothing."""
        now = time.time()
        with self.store.together():
            wait = max(self.locked_for(kind, subject) for kind, subject in tried)
            if wait > 0:
                raise LoginError(f"Too many tries. Wait {wait:.0f} s.", wait)
            for kind, subject in tried:
                over = self.store.count_failure(kind, subject, now - _FORGOTTEN[kind]) - _FREE_TRIES[kind]
                if over >= 0:
                    self.store.lock(kind, subject, now + min(_FIRST_WAIT * 2.0 ** min(over, 20), _LONGEST_WAIT))
            self.store.prune_failures(now - max(_FORGOTTEN.values()), _MOST_FAILURES)

    def _is_right(self, hashed: str, password: str) -> bool:
        with self._place():
            return check_password_hash(hashed, _normal(password[: _LONGEST + 1]))

    @contextmanager
    def _place(self) -> Iterator[None]:
        if not self._places.acquire(timeout=_CHECK_SECONDS):
            raise LoginError("Others are logging in at the moment. Try again.", 1.0)
        try:
            yield
        finally:
            self._places.release()

    # --- codes that make accounts -----------------------------------------------------------------------------

    def new_code(self) -> str:
        """A one-time code that makes the first account; an earlier one counts no more.

        Raises
        ------
        AccountError
            There is an account.
        """
        if self.store.any_account():
            raise AccountError("this device has an account already", hint="an administrator adds others")
        return self._code("", "administrator", None)

    def invite(self, name: str, role: Role) -> str:
        """A one-time code, with which somebody makes the account of that name, and nobody else knows the password.

        It counts for 14 days; an earlier one for that name counts no more.

        Raises
        ------
        AccountError
        """
        self._check_new(name, role)
        return self._code(name, role, time.time() + _INVITED_SECONDS)

    def withdraw(self, name: str) -> None:
        """Let the code of an invitation count no more; raises `AccountError`."""
        if not self.store.withdraw(name):
            raise AccountError(f"{name[:64]!r} is not invited", hint="see `scanside accounts list`")

    def enrol(self, code: str, name: str, password: str, address: str) -> Account:
        """Make an account with a code.

        Raises
        ------
        LoginError
            The code is wrong, or counts no more.
        AccountError
            The name or the password won't do; the code still counts.
        """
        self._count([("address", f"enrol {address}")])
        with self.store.together():
            invited = self.store.enrolment(_digest_of_code(code))
            if invited is None:
                whence = "An administrator gives" if self.store.any_account() else "`scanside accounts enrol` prints"
                raise LoginError(f"The code is wrong, or counts no more. {whence} another one.")
            if invited["name"] and invited["name"].lower() != name.lower():
                raise AccountError("the code is for another name", hint="use the one that was given with it")
            self.add(invited["name"] or name, invited["role"], password)
            self.store.uncount_failure("address", f"enrol {address}")
        return Account.of(self.known(name))

    def _code(self, name: str, role: Role, expires_at: float | None) -> str:
        letters = "".join(secrets.choice(_CODE_LETTERS) for _ in range(16))
        self.store.set_enrolment(name, role, _digest_of_code(letters), expires_at)
        return "-".join(letters[at : at + 4] for at in range(0, 16, 4))


def digest(secret: str) -> str:
    """Under which a secret of many random bits is kept."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _digest_of_code(code: str) -> str:
    return digest("".join(letter for letter in code[:64].upper() if letter.isalnum()))


_nobody: list[str] = []


def _of_nobody() -> str:
    """The hash of a password that nobody knows, made once."""
    if not _nobody:
        _nobody.append(generate_password_hash(secrets.token_hex(), _METHOD))
    return _nobody[0]


def _normal(password: str) -> str:
    """The same password typed on another keyboard is the same (RFC 8265 section 4.2)."""
    return unicodedata.normalize("NFC", password)


def _hashed(name: str, password: str) -> str:
    if not _SHORTEST <= len(password) <= _LONGEST:
        raise AccountError(
            f"the password has {len(password)} letters", hint=f"it needs {_SHORTEST} to {_LONGEST}; any will do"
        )
    if len(set(password)) < 5 or name.lower() in password.lower():
        raise AccountError("the password is easy to guess", hint="use several words, and not the account's name")
    return generate_password_hash(_normal(password), _METHOD)


def _check_role(role: str) -> None:
    if role not in RIGHTS:
        raise AccountError(f"there is no role {role!r}", hint=f"one of {', '.join(RIGHTS)}")
