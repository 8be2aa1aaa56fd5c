"""Accounts, sessions and tokens: what is kept of secrets, who waits after wrong passwords, and the commands."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
import unicodedata
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from appliance import accounts, tokens
from appliance.accounts import Account, Accounts
from appliance.cli import main
from appliance.config_file import load
from appliance.errors import AccountError, ConfigError, LoginError
from appliance.sessions import Sessions
from appliance.store import Store
from appliance.tokens import Tokens
from tests.appliance.conftest import PASSWORD, account

SCRYPT = accounts._METHOD
pytestmark = pytest.mark.usefixtures("quick_hashes")


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.sqlite3"
    account(path, anna="administrator")
    account(path, joe="clinician")
    return path


@pytest.fixture
def known(ledger: Path) -> Accounts:
    return Accounts(ledger)


class Clock:
    """The time that accounts and sessions go by, moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_800_000_000.0
        monkeypatch.setattr(time, "time", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def tries(known: Accounts, count: int, name: str = "anna", address: str = "192.0.2.1", browser: str = "") -> float:
    """How long the last of so many wrong tries has to wait; 0 where it was looked at."""
    wait = 0.0
    for _ in range(count):
        with pytest.raises(LoginError) as raised:
            known.log_in(name, "wrong", address, browser)
        wait = raised.value.wait
    return wait


# --- passwords -----------------------------------------------------------------------------------------------------


def test_a_password_is_kept_as_scrypt_and_no_secret_in_the_clear(
    known: Accounts, ledger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "_METHOD", SCRYPT)
    known.add("Bob.Smith@ward-3", "viewer", "täglich frische Brötchen")
    assert known.log_in("bob.smith@WARD-3", "täglich frische Brötchen", "192.0.2.1").name == "Bob.Smith@ward-3"
    decomposed = unicodedata.normalize("NFD", "täglich frische Brötchen")
    assert decomposed != "täglich frische Brötchen"
    assert known.log_in("Bob.Smith@ward-3", decomposed, "192.0.2.1")
    row = known.known("bob.smith@ward-3")
    assert row["password"].startswith("scrypt:32768:8:3$")
    secret = Sessions(ledger, 60, 60).begin(Account(1, "anna", "administrator"), "192.0.2.1")
    token = Tokens(ledger).add("system", ["see"], None, "anna")
    code = Accounts(tmp_path / "new.sqlite3").new_code()
    known.store.flush()
    content = b"".join(path.read_bytes() for path in tmp_path.glob("*.sqlite3*"))
    for text in ("frische", secret, token, code, code.replace("-", "")):
        assert text.encode() not in content


@pytest.mark.parametrize(
    ("name", "role", "password", "said"),
    [
        ("x" * 65, "viewer", PASSWORD, "can't be an account's name"),
        ("", "viewer", PASSWORD, "can't be an account's name"),
        ("jane doe", "viewer", PASSWORD, "can't be an account's name"),
        ("jane\n", "viewer", PASSWORD, "can't be an account's name"),
        ("<b>", "viewer", PASSWORD, "can't be an account's name"),
        ("jane", "root", PASSWORD, "no role"),
        ("jane", "viewer", "short", "has 5 letters"),
        ("jane", "viewer", "x" * 257, "has 257 letters"),
        ("jane", "viewer", "abababababab", "easy to guess"),
        ("jane", "viewer", "my name is Jane!", "easy to guess"),
        ("ANNA", "viewer", PASSWORD, "already"),
    ],
)
def test_what_won_t_do_is_said(known: Accounts, name: str, role: Any, password: str, said: str) -> None:
    with pytest.raises(AccountError, match=said):
        known.add(name, role, password)


def test_one_administrator_stays(known: Accounts, tmp_path: Path) -> None:
    for act in (lambda: known.disable("anna"), lambda: known.set_role("anna", "viewer")):
        with pytest.raises(AccountError, match="last administrator"):
            act()
    known.set_role("joe", "administrator")
    known.disable("anna")
    with pytest.raises(AccountError, match="last administrator"):
        known.disable("joe")
    with pytest.raises(AccountError, match="first account must be an administrator"):
        Accounts(tmp_path / "new.sqlite3").add("joe", "viewer", PASSWORD)
    with pytest.raises(LoginError, match="wrong"):
        known.log_in("anna", PASSWORD, "192.0.2.1")


# --- guessing -------------------------------------------------------------------------------------------------------


def test_who_guesses_waits_longer_each_time_also_after_a_restart(known: Accounts, ledger: Path, clock: Clock) -> None:
    assert tries(known, 5) == 0
    waits = []
    for _ in range(12):
        waits.append(tries(Accounts(ledger), 1))  # another process
        assert waits[-1] > 0
        with pytest.raises(LoginError, match="Wait"):
            known.log_in("anna", PASSWORD, "192.0.2.1")
        clock.now += waits[-1] + 0.01
        assert tries(known, 1) == 0
    assert waits[:4] == [5, 10, 20, 40]
    assert waits[-1] == 300, "never for good"
    clock.now += 301
    assert known.log_in("anna", PASSWORD, "192.0.2.1").name == "anna"
    assert tries(known, 4, address="192.0.2.9") == 0, "who was right begins anew"


def test_a_name_that_is_not_there_waits_like_any_other(known: Accounts) -> None:
    assert tries(known, 5, "nobody") == 0
    assert tries(known, 1, "nobody") > 0
    assert known.log_in("anna", PASSWORD, "192.0.2.1")


def test_an_address_that_tries_many_names_waits_and_others_do_not(known: Accounts) -> None:
    for number in range(20):
        tries(known, 1, f"name{number}")
    assert tries(known, 1, "joe") > 0
    assert known.log_in("joe", PASSWORD, "192.0.2.2")


def test_guessing_keeps_nobody_out_of_a_browser_that_they_have_used(known: Accounts) -> None:
    for number in range(10):
        tries(known, 1, address=f"198.51.100.{number}")
    with pytest.raises(LoginError, match="Wait"):
        known.log_in("anna", PASSWORD, "192.0.2.1")
    assert known.log_in("anna", PASSWORD, "192.0.2.1", browser="mark")
    assert tries(known, 5, browser="mark") == 0
    assert tries(known, 1, browser="mark") > 0, "nor may one guess in there without end"


def test_an_administrator_lets_somebody_in_again(known: Accounts) -> None:
    tries(known, 5)
    known.unlock("anna")
    assert known.log_in("anna", PASSWORD, "192.0.2.1")
    tries(known, 5)
    known.set_password("anna", "another long password")
    assert known.log_in("anna", "another long password", "192.0.2.1")


def test_many_right_logins_from_one_address_lock_nobody_out(known: Accounts) -> None:
    for _ in range(30):
        known.log_in("joe", PASSWORD, "192.0.2.1")


def test_guessing_at_once_gains_nothing(known: Accounts, ledger: Path) -> None:
    looked_at = []

    def guess() -> None:
        try:
            Accounts(ledger).log_in("anna", "wrong", "192.0.2.1")
        except LoginError as error:
            looked_at.append(not error.wait)

    threads = [threading.Thread(target=guess) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(looked_at) == 5


def test_names_that_are_tried_do_not_fill_the_ledger(
    known: Accounts, ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "_MOST_FAILURES", 10)
    monkeypatch.setattr(Accounts, "_is_right", lambda *_: False)
    for number in range(30):
        tries(known, 1, f"name{number}" + "x" * 1000, f"192.0.2.{number}")
    connection = sqlite3.connect(ledger)
    assert connection.execute("SELECT count(*), max(length(subject)) FROM login_failure").fetchone() == (10, 64)
    connection.close()


# --- sessions -------------------------------------------------------------------------------------------------------


def test_a_session_ends_by_time(ledger: Path, clock: Clock) -> None:
    of = Sessions(ledger, idle=1800, longest=43200)
    secret = of.begin(Account(1, "anna", "administrator"), "192.0.2.1")
    for _ in range(40):
        clock.now += 900
        assert (of.account(secret, by_person=True) is not None) == (clock.now - 1_800_000_000 <= 43200)
    secret = of.begin(Account(1, "anna", "administrator"), "192.0.2.1")
    for _ in range(29):
        clock.now += 60
        assert of.account(secret, by_person=False)
    clock.now += 120
    assert of.account(secret, by_person=True) is None, "a page that is left open keeps no session alive"


@pytest.mark.parametrize("what", ["password", "disable", "log out", "stranger"])
def test_a_session_ends_with_its_account(known: Accounts, ledger: Path, what: str) -> None:
    of = Sessions(ledger, 1800, 43200)
    secret, other = (of.begin(Account(2, "joe", "clinician"), "192.0.2.1") for _ in range(2))
    if what == "password":
        known.set_password("joe", "another long password")
    elif what == "disable":
        known.disable("joe")
        known.enable("joe")
    elif what == "log out":
        of.end(secret)
        assert of.account(other, by_person=True)
    else:
        secret += "x"
    assert of.account(secret, by_person=True) is None


def test_another_role_counts_at_once(known: Accounts, ledger: Path) -> None:
    of = Sessions(ledger, 1800, 43200)
    secret = of.begin(Account(2, "joe", "clinician"), "192.0.2.1")
    known.set_role("joe", "viewer")
    found = of.account(secret, by_person=True)
    assert found is not None
    assert found.role == "viewer"


# --- tokens ---------------------------------------------------------------------------------------------------------


def test_a_token_counts_until_its_time_or_until_it_is_revoked(ledger: Path, clock: Clock) -> None:
    of = Tokens(ledger)
    text, other = of.add("a", ["see", "send"], timedelta(days=90), "anna"), of.add("b", ["see"], None, "anna")
    found = of.of(text)
    assert found is not None
    assert (found.name, found.rights) == ("a", {"open", "see", "send"})
    assert of.of(text + "x") is None
    clock.now += 90 * 86400 + 1
    assert of.of(text) is None
    assert of.of(other)
    of.revoke("b")
    assert of.of(other) is None
    assert [(row["name"], row["state"], row["used_at"] is not None) for row in of.rows()] == [
        ("a", "expired", True), ("b", "revoked", True),
    ]  # fmt: skip
    with pytest.raises(AccountError, match="no token"):
        of.revoke("b")
    assert of.add("b", ["see"], None, "anna"), "its name is free again"


@pytest.mark.parametrize(
    ("name", "scopes", "said"),
    [("", ["see"], "name"), ("a\nb", ["see"], "name"), ("a", [], "needs a scope"), ("a", ["root"], "no scope"),
     ("a", ["open"], "no scope"), ("taken", ["see"], "already")],
)  # fmt: skip
def test_a_token_that_won_t_do_is_said(ledger: Path, name: str, scopes: list[str], said: str) -> None:
    of = Tokens(ledger)
    of.add("taken", ["see"], None, "anna")
    with pytest.raises(AccountError, match=said):
        of.add(name, scopes, None, "anna")


@pytest.mark.parametrize("text", ["90", "d", "0d", "-1d", "1y", "", "999999d", "90 d"])
def test_a_period_that_is_none_is_said(text: str) -> None:
    with pytest.raises(AccountError, match="90d, 12h, 4w, or never"):
        tokens.period(text)
    assert tokens.period("12h") == timedelta(hours=12)
    assert tokens.period("never") is None


# --- the first account, and commands --------------------------------------------------------------------------------


def test_a_code_makes_one_account(tmp_path: Path) -> None:
    new = Accounts(tmp_path / "ledger.sqlite3")
    old, code = new.new_code(), new.new_code()
    for wrong in (old, "", "AAAA-AAAA-AAAA-AAAA", code[:-1]):
        with pytest.raises(LoginError, match="code is wrong"):
            new.enrol(wrong, "anna", PASSWORD, "192.0.2.1")
    with pytest.raises(AccountError, match="letters"):
        new.enrol(code, "anna", "short", "192.0.2.1")
    assert new.enrol(code.lower().replace("-", " "), "anna", PASSWORD, "192.0.2.1").role == "administrator"
    with pytest.raises(LoginError, match="counts no more"):
        new.enrol(code, "eve", PASSWORD, "192.0.2.1")
    with pytest.raises(AccountError, match="has an account"):
        new.new_code()


def test_who_is_invited_makes_the_account_and_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new = Accounts(tmp_path / "ledger.sqlite3")
    early = new.invite("joe", "clinician")
    with pytest.raises(AccountError, match="first account must be an administrator"):
        new.enrol(early, "joe", PASSWORD, "192.0.2.1")
    first = new.new_code()
    new.enrol(first, "anna", PASSWORD, "192.0.2.1")
    code = new.invite("JOE", "engineer")
    assert [(each["name"], each["role"]) for each in new.store.invitations()] == [("JOE", "engineer")]
    with pytest.raises(LoginError, match="An administrator gives another"):
        new.enrol(early, "joe", PASSWORD, "192.0.2.1")
    with pytest.raises(AccountError, match="for another name"):
        new.enrol(code, "eve", PASSWORD, "192.0.2.1")
    assert new.enrol(code, "joe", PASSWORD, "192.0.2.1").role == "engineer"
    assert new.store.invitations() == []
    for name, role, said in (("joe", "viewer", "an account"), ("a b", "viewer", "name"), ("eve", "king", "no role")):
        with pytest.raises(AccountError, match=said):
            new.invite(name, role)  # type: ignore[arg-type]
    withdrawn, old = new.invite("eve", "viewer"), new.invite("bob", "viewer")
    new.withdraw("eve")
    with pytest.raises(AccountError, match="not invited"):
        new.withdraw("eve")
    with pytest.raises(AccountError, match="not invited"):
        new.withdraw("")
    later = time.time() + 15 * 86400
    monkeypatch.setattr(time, "time", lambda: later)
    for late, name in ((withdrawn, "eve"), (old, "bob")):
        with pytest.raises(LoginError, match="counts no more"):
            new.enrol(late, name, PASSWORD, "192.0.2.1")
    assert new.store.invitations() == []


def test_many_may_enrol_at_one_address(tmp_path: Path) -> None:
    new = Accounts(tmp_path / "ledger.sqlite3")
    new.enrol(new.new_code(), "anna", PASSWORD, "192.0.2.1")
    for number in range(25):
        new.enrol(new.invite(f"reader{number}", "viewer"), f"reader{number}", PASSWORD, "192.0.2.1")
    refusals = []
    for _ in range(21):
        with pytest.raises(LoginError) as refused:
            new.enrol("AAAA", "eve", PASSWORD, "192.0.2.1")
        refusals.append(refused.value.message)
    assert "Too many tries" not in refusals[0]
    assert "Too many tries" in refusals[-1]


def test_without_a_code_nobody_enrols(tmp_path: Path) -> None:
    new = Accounts(tmp_path / "ledger.sqlite3")
    with pytest.raises(LoginError, match="code is wrong"):
        new.enrol("", "eve", PASSWORD, "192.0.2.1")


@pytest.fixture
def call(tmp_path: Path) -> Callable[..., Result]:
    Store(tmp_path / "ledger.sqlite3").close()

    def run(*arguments: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(main, [*arguments, "--data", str(tmp_path)], input=stdin)

    return run


def test_accounts_by_commands(call: Callable[..., Result]) -> None:
    assert len(call("accounts", "enrol").stdout.strip()) == 19
    assert len(call("accounts", "invite", "max", "--role", "viewer").stdout.strip()) == 19
    invited = json.loads(call("accounts", "list", "--json").stdout)
    assert [(each["name"], each["state"]) for each in invited] == [("max", "invited")]
    assert call("accounts", "withdraw", "max").exit_code == 0
    made = call("accounts", "add", "anna", "--role", "administrator", "--password-stdin", stdin=f"{PASSWORD}\n")
    assert made.exit_code == 0, made.stderr
    assert call("accounts", "add", "bob", "--role", "viewer", "--password-stdin", stdin="short\n").exit_code == 1
    refused = call("accounts", "add", "bob", "--role", "viewer")
    assert refused.exit_code == 1
    assert "--password-stdin" in refused.stderr
    call("accounts", "add", "joe", "--role", "viewer", "--password-stdin", stdin=f"{PASSWORD}\n")
    call("accounts", "role", "joe", "engineer")
    call("accounts", "disable", "joe")
    listed = json.loads(call("accounts", "list", "--json").stdout)
    assert [(each["name"], each["role"], each["state"]) for each in listed] == [
        ("anna", "administrator", "enabled"), ("joe", "engineer", "disabled"),
    ]  # fmt: skip
    assert call("accounts", "password", "joe", "--password-stdin", stdin="a new long password\n").exit_code == 0
    assert call("accounts", "enable", "joe").exit_code == 0
    unknown = call("accounts", "unlock", "eve")
    assert (unknown.exit_code, "scanside accounts list" in unknown.stderr) == (1, True)
    assert "anna" in call("accounts", "list").stdout
    assert {each["last_login"] for each in listed} == {None}
    # as in the lists of other commands, such as the audit trail's, so that they can be compared
    assert all(datetime.strptime(each["created"], "%Y-%m-%d %H:%M:%S") for each in listed)


def test_tokens_by_commands(call: Callable[..., Result]) -> None:
    text = call("tokens", "add", "prometheus", "--scope", "see", "--expires", "12h").stdout.strip()
    assert text.startswith("scanside_")
    (listed,) = json.loads(call("tokens", "list", "--json").stdout)
    assert (listed["name"], listed["scopes"], listed["state"]) == ("prometheus", "see", "valid")
    assert text not in call("tokens", "list").stdout
    assert call("tokens", "revoke", "prometheus").exit_code == 0
    assert call("tokens", "add", "x").exit_code == 2
    assert call("tokens", "add", "x", "--scope", "see", "--expires", "soon").exit_code == 1


def test_the_old_login_table_is_an_error_that_says_how_to_go_on(tmp_path: Path) -> None:
    path = tmp_path / "scanside.toml"
    path.write_text('[web.login]\nusername = "x"\npassword_hash = "scrypt:x"\n')
    with pytest.raises(ConfigError, match="accounts are kept in the ledger") as raised:
        load(path)
    assert "scanside accounts add" in str(raised.value.hint)
