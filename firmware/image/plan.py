"""What is to be built."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from firmware.image.boards import Board
from firmware.image.mirror import SECURITY
from firmware.policy import Offered


@dataclass(frozen=True)
class Plan:
    """One build."""

    project: Path
    board: Board
    version: str
    epoch: int
    keys: Path
    target: Path
    cache: Path
    mirror: str  # of Debian
    date: int  # SOURCE_DATE_EPOCH
    security: str = SECURITY  # the mirror of Debian's security updates; empty: none

    @property
    def offered(self) -> Offered:
        """As which its bundle is offered."""
        return Offered(self.version, self.epoch, self.board.compatible)

    @property
    def bundle(self) -> Path:
        return self.target / f"scanside-{self.board.name}-{self.version}.raucb"
