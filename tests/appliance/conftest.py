"""What the tests of single parts share."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from appliance.ingest import Intake
from appliance.spool import Spool
from appliance.store import Store


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
        """Every file in the spool, under whatever name."""
        return [path for path in self.spool.root.rglob("*") if path.is_file()]


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path / "box")
