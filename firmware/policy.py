"""Which bundle a box takes: for its board, not older than what it has proved, and at a time that can be right.

A bundle has a version and an *epoch*. The epoch rises with a release that closes a hole: an older epoch is never taken
again, whoever asks. An older version of the same epoch is taken where a person asks for it at the box.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from firmware.errors import FirmwareError, RefusedError

MOVE_CLOCK = (
    "configure a time server, or bring a service token that is signed now on a stick: it moves the clock forward"
)
_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)(?:-([0-9A-Za-z.]+))?")


@dataclass(frozen=True)
class Release:
    """What is compared: ``1.2.0`` of epoch 1."""

    version: str
    epoch: int

    def key(self) -> tuple[int, tuple[int, int, int], bool, tuple[tuple[int, int, str], ...]]:
        """Semantic Versioning's order within an epoch; a pre-release comes before its release."""
        match = _VERSION.fullmatch(self.version)
        if not match:
            raise FirmwareError(f"{self.version!r} is not a version", hint="versions are like 1.2.0 or 1.2.0-rc.1")
        major, minor, patch, before = match.groups()
        parts = tuple((0, int(each), "") if each.isdigit() else (1, 0, each) for each in (before or "").split("."))
        return self.epoch, (int(major), int(minor), int(patch)), before is None, parts

    def is_of(self, line: Mapping[str, Any]) -> bool:
        """Whether a line of the history tells of it; one that an earlier version wrote names no epoch."""
        return line.get("version") == self.version and line.get("epoch", self.epoch) == self.epoch

    def __str__(self) -> str:
        return f"{self.version} (epoch {self.epoch})"


@dataclass(frozen=True)
class Offered(Release):
    """A bundle's release and the board that it is for, as ``compatible`` says it."""

    compatible: str


def check(offered: Offered, board: str, floor: Release, allow_older: bool = False) -> None:
    """Whether a box may take it.

    Parameters
    ----------
    board
        The box's own ``compatible``.
    floor
        The highest release that this box has proved good.

    Raises
    ------
    RefusedError
        In a sentence that says why, and what to do.
    """
    if offered.compatible != board:
        raise RefusedError(
            f"this bundle is for {offered.compatible}, and this box is {board}", hint=f"take the bundle for {board}"
        )
    if offered.epoch < floor.epoch:
        raise RefusedError(
            f"{offered} is older than a security release that ran here, {floor}",
            hint="take a bundle of this epoch or a later one; no option allows this",
        )
    if offered.key() < floor.key() and not allow_older:
        raise RefusedError(
            f"{offered} is older than {floor}, which ran here",
            hint="take a newer bundle, or ask for the older one at the box with --allow-older",
        )


def check_clock(built_at: float, now: float | None = None) -> None:
    """A clock before the system's own date is wrong, and certificates judged by it would be, too.

    Parameters
    ----------
    built_at
        The date of the system that runs, which is that of its sources' last commit; seconds since 1970 UTC.
    """
    now = time.time() if now is None else now
    if now < built_at:
        raise RefusedError(
            f"the clock says {time.strftime('%Y-%m-%d', time.gmtime(now))}, before this system's own date "
            f"({time.strftime('%Y-%m-%d', time.gmtime(built_at))})",
            hint=MOVE_CLOCK,
        )
