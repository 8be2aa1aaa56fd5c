"""The ledger's file: one SQLite database, its versions, its transactions, and its errors in words."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from appliance.errors import DiskFullError, SpoolError

_VERSION = 2
_SCHEMA = Path(__file__).with_name("schema.sql")
_MIGRATIONS = {1: Path(__file__).with_name("schema_1_to_2.sql")}


class Database:
    """One SQLite file in WAL mode, safe to use from several threads and processes.

    A commit is on disk when its transaction ends (``synchronous = FULL``).

    Parameters
    ----------
    path
        Made, with its schema, where there is none; brought to this version's schema where it is older (unless
        ``read_only``).

    Raises
    ------
    SpoolError
        It can't be opened, or a later version of Scanside has written it.
    """

    def __init__(self, path: Path, read_only: bool = False) -> None:
        self.path = path
        self._read_only = read_only
        self._local = threading.local()
        if not read_only:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._create()

    def _create(self) -> None:
        connection = self._connection()
        with self._transaction():
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > _VERSION:
                raise SpoolError(
                    f"the ledger {self.path} is of version {version}, and this Scanside knows no later one than "
                    f"{_VERSION}",
                    hint="run the Scanside that wrote it, or a later one",
                )
            scripts = [_MIGRATIONS[number] for number in range(version, _VERSION)] if version else [_SCHEMA]
            for script in scripts:
                for statement in script.read_text().split(";\n"):
                    connection.execute(statement)

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            uri = f"{self.path.absolute().as_uri()}?mode={'ro' if self._read_only else 'rwc'}"
            connection = sqlite3.connect(uri, uri=True, timeout=20.0, isolation_level=None)
            connection.row_factory = sqlite3.Row
            if not self._read_only:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            self._local.connection = connection
        return connection

    def close(self) -> None:
        """Close this thread's connection."""
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            self._local.connection = None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with _errors_in_words(self.path):
            connection = self._connection()
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def _rows(self, sql: str, **parameters: Any) -> list[dict[str, Any]]:
        with _errors_in_words(self.path):
            return [dict(row) for row in self._connection().execute(sql, parameters)]


@contextmanager
def _errors_in_words(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_FULL:
            raise DiskFullError(f"no room left on the disk for the ledger {path}", hint="free some space") from error
        raise SpoolError(f"the ledger {path} can't be used: {error}") from error
