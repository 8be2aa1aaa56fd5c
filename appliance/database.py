"""The ledger's file: one SQLite database, its versions, its transactions, and its errors in words."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from appliance.config import Config
from appliance.errors import ApplianceError, DiskFullError, SpoolError

_SCHEMA = Path(__file__).with_name("schema.sql")
# In their order: each brings a ledger to the next version, the first one a ledger of version 1. The schema is what the
# last one makes.
_BUSY_SECONDS = 20.0  # so long a connection waits for another one that writes
_MIGRATIONS = tuple(
    Path(__file__).with_name(name)
    for name in (
        "schema_1_to_2.sql", "schema_2_to_3.sql", "schema_3_to_4.sql", "schema_4_to_5.sql", "schema_5_to_6.sql",
    )
)  # fmt: skip


def existing_ledger(config: Config) -> Path:
    """Its file; raises `ApplianceError` where no appliance has run on that folder."""
    return existing(config.ledger_path, "ledger")


def existing(path: Path, what: str) -> Path:
    """A file of the data folder that an appliance makes as it starts; raises as `existing_ledger` does."""
    if not path.exists():
        raise ApplianceError(
            f"there is no {what} in {path.parent}",
            hint="start the appliance there first, or name its folder with --data",
        )
    return path


class Database:
    """One SQLite file in WAL mode, safe to use from several threads and processes.

    A class of its own schema says so in ``schema`` and ``migrations``, and what it is in ``what``.

    A commit is on disk when its transaction ends (``synchronous = FULL``), unless ``flushed`` is False.

    Parameters
    ----------
    path
        Made, with its schema, where there is none; brought to this version's schema where it is older (unless
        ``read_only``).
    flushed
        If not, commits are not brought to the disk (``synchronous = NORMAL``): every process sees them, and no kill
        takes them away, but a power cut takes the latest ones, down to the last that was flushed by anybody.

    Raises
    ------
    SpoolError
        It can't be opened, or a later version of Scanside has written it.
    """

    what = "ledger"
    schema = _SCHEMA
    migrations = _MIGRATIONS

    def __init__(self, path: Path, read_only: bool = False, flushed: bool = True) -> None:
        self.path = path
        self._version = 1 + len(self.migrations)
        self._read_only, self._flushed = read_only, flushed
        self._local = threading.local()
        if not read_only:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._create()

    def unflushed(self) -> Self:
        """The same file, with commits that are not brought to the disk."""
        return type(self)(self.path, self._read_only, flushed=False)

    def _create(self) -> None:
        with _errors_in_words(self.what, self.path):
            connection = self._connection()
            if connection.execute("PRAGMA user_version").fetchone()[0] == self._version:
                return  # it is opened also while another process holds it
        with self._transaction():
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            self._refuse_later(version)
            if version == self._version:
                return  # nothing is written, so that a ledger on a full disk can be opened
            scripts = self.migrations[version - 1 :] if version else (self.schema,)
            for script in scripts:
                for statement in script.read_text().split(";\n"):
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {self._version}")

    def _refuse_later(self, version: int) -> None:
        if version > self._version:
            raise SpoolError(
                f"the {self.what} {self.path} is of version {version}, and this Scanside knows no later one than "
                f"{self._version}",
                hint="run the Scanside that wrote it, or a later one",
            )

    def _refuse_other_versions(self, connection: sqlite3.Connection) -> None:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        self._refuse_later(version)
        if version < self._version:
            raise SpoolError(
                f"the {self.what} {self.path} is of version {version}, and this Scanside reads version "
                f"{self._version} only",
                hint="start this Scanside once on it with `scanside run`, which brings it up to date",
            )

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            uri = f"{self.path.absolute().as_uri()}?mode={'ro' if self._read_only else 'rwc'}"
            connection = sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)
            connection.row_factory = sqlite3.Row
            if self._read_only:
                self._refuse_other_versions(connection)
            else:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute(f"PRAGMA synchronous = {'FULL' if self._flushed else 'NORMAL'}")
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
    def together(self) -> Iterator[None]:
        """What this thread calls meanwhile is one transaction: all of it, or none, and one fsync."""
        with self._transaction():
            yield

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """What this thread reads meanwhile is of one moment, whatever others write."""
        with _errors_in_words(self.what, self.path):
            connection = self._connection()
            connection.execute("BEGIN")
            try:
                yield
            finally:
                connection.execute("ROLLBACK")

    def flush(self) -> None:
        """Bring to the disk whatever anybody has committed; not for a ledger that is not ``flushed``.

        Raises
        ------
        DiskFullError, SpoolError
        """
        with self._transaction() as connection:
            # A commit that changes nothing would write nothing, and not sync what others have written before it.
            connection.execute(f"PRAGMA user_version = {self._version}")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with _errors_in_words(self.what, self.path):
            connection = self._connection()
            if connection.in_transaction:
                yield connection
                return
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def _rows(self, sql: str, **parameters: Any) -> list[dict[str, Any]]:
        with _errors_in_words(self.what, self.path):
            return [dict(row) for row in self._connection().execute(sql, parameters)]

    @staticmethod
    def _event(connection: sqlite3.Connection, instance_id: int, at: float, what: str, detail: str) -> None:
        connection.execute(
            "INSERT INTO event (instance_id, at, what, detail) VALUES (?, ?, ?, ?)", (instance_id, at, what, detail)
        )


@contextmanager
def _errors_in_words(what: str, path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_FULL:
            raise DiskFullError(f"no room left on the disk for the {what} {path}", hint="free some space") from error
        raise SpoolError(f"the {what} {path} can't be used: {error}") from error
    except sqlite3.DatabaseError as error:
        if type(error) is not sqlite3.DatabaseError:  # a constraint, which is the caller's
            raise
        raise SpoolError(f"the {what} {path} is damaged: {error}", hint="restore it from a copy") from error
