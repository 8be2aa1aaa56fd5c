"""Exports of the audit trail that keep its proof: a file of its rows, one JSON object a line.

The chain goes on from one file to the next and into the trail, so that what retention has removed can still be verified
by whoever has the files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from appliance.audit_store import AuditStore
from appliance.errors import ApplianceError
from appliance.spool import stream_durably


class _Row(msgspec.Struct, frozen=True):
    number: int
    previous: str
    content: str


@dataclass(frozen=True)
class Export:
    """A file of records ``first`` to ``last``; ``previous``: what the first one holds of the one before it."""

    path: Path
    first: int
    last: int
    previous: str

    @classmethod
    def open(cls, path: Path) -> Export:
        """Raises `ApplianceError` where it is none."""
        rows = _rows(path)
        first = next(rows, None)
        if first is None:
            raise ApplianceError(f"{path} holds no record")
        last = first
        for each in rows:
            last = each
        return cls(path, first.number, last.number, first.previous)

    def rows(self) -> Iterator[dict[str, Any]]:
        """As `AuditStore.records` has them."""
        return map(msgspec.structs.asdict, _rows(self.path))


def write(store: AuditStore, path: Path) -> tuple[int, int]:
    """Write all that the trail holds to a new file, and remember that it is there; the first and the last number.

    Raises
    ------
    ApplianceError
        There is such a file, or no record.
    SpoolError
        It can't be written.
    """
    if path.exists():
        raise ApplianceError(
            f"{path} is there already", hint="it may hold records that are nowhere else: name another file"
        )
    numbers: list[int] = []

    def lines() -> Iterator[bytes]:
        for row in store.records():
            numbers[:] = [numbers[0] if numbers else row["number"], row["number"]]
            yield msgspec.json.encode(row) + b"\n"

    with store.snapshot():
        stream_durably(path, lines())
    if not numbers:
        path.unlink()
        raise ApplianceError("the audit trail holds no record")
    first, last = numbers
    store.set_elsewhere("file", last)
    return first, last


def _rows(path: Path) -> Iterator[_Row]:
    decoder = msgspec.json.Decoder(_Row)
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield decoder.decode(line)
                except msgspec.DecodeError as error:
                    raise ApplianceError(
                        f"{path}, line {number}, is no record of an audit trail",
                        hint="`scanside audit export --format chain` writes such files",
                    ) from error
    except OSError as error:
        raise ApplianceError(f"{path} can't be read: {error.strerror}") from error
