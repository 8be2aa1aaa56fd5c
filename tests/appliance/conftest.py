"""What the tests of single parts share."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.security import generate_password_hash
from werkzeug.test import TestResponse

from appliance import accounts, file_head
from appliance.account_store import AccountStore
from appliance.accounts import Role
from appliance.ingest import Intake
from appliance.spool import LANDING, Spool, SpooledFile
from appliance.store import Admission, Store


@pytest.fixture(autouse=True, scope="module")
def _let_go() -> Iterator[None]:
    """Pages that tests make hold ledgers open until they are collected, and one process runs thousands of tests."""
    yield
    gc.collect()


@dataclass
class Box:
    """Spool, ledger and intake on one folder, without a worker."""

    folder: Path
    reserve: int = 0
    arrived: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.spool = Spool(self.folder / "spool", self.reserve)
        self.store = Store(self.folder / "ledger.sqlite3")
        self.intake = Intake(self.spool, self.store, self.arrived.set)

    def rows(self) -> list[dict[str, Any]]:
        """Every instance, oldest first."""
        return sorted(self.store.worklist(limit=10_000), key=lambda row: row["id"])

    def files(self) -> list[Path]:
        """Every file in the spool, under whatever name, but for empty slots and those of files with a final name."""
        return [path for path in self.spool.root.rglob("*") if path.is_file() and not self._has_landed(path)]

    @staticmethod
    def _has_landed(path: Path) -> bool:
        try:
            return path.parent.name == LANDING and (path.stat().st_size == 0 or file_head.read(path) is not None)
        except FileNotFoundError:
            return True


def put(place: Spool | Intake, head: bytes, body: bytes) -> SpooledFile:
    """A file made of a head (preamble and file meta information) and a data set that comes in one piece."""
    incoming = place.begin(head)
    incoming.write(body)
    return incoming.keep()


def take(intake: Intake, head: bytes, body: bytes, **arrival: Any) -> Admission:
    """The same file, acknowledged; ``arrival``: as of `Intake.admit`."""
    return intake.admit(put(intake, head, body), **arrival)


def browser(app: Flask) -> FlaskClient:
    """A client that says, as browsers do, from which page it sends."""
    client = app.test_client()
    client.environ_base["HTTP_ORIGIN"] = "http://localhost"
    return client


PASSWORD = "correct horse battery"
_HASH = generate_password_hash(PASSWORD, "pbkdf2:sha256:1")  # quick, since tests make many


def account(ledger: Path, **roles: Role) -> None:
    """Accounts with `PASSWORD`, by name, on a ledger that is there or made; any role, even of the first one."""
    store = AccountStore(ledger)
    with store.together():
        for name, role in roles.items():
            store.insert_account(name, role, _HASH)
    store.close()


def log_in(client: FlaskClient, name: str, password: str = PASSWORD) -> TestResponse:
    return client.post("/login", data={"username": name, "password": password})


@pytest.fixture
def quick_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passwords that are hashed in no time."""
    monkeypatch.setattr(accounts, "_METHOD", "pbkdf2:sha256:1")
    monkeypatch.setattr(accounts, "_nobody", [])


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path / "box")
