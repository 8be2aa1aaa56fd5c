"""Which of the two slots starts next, and how sure we are of each.

A slot is ``good`` (a health check passed in it), on ``trial`` (installed; a few boots are left to prove itself),
``bad`` (its boots are used up, or its check failed) or ``empty``. Whatever happens in the middle of a change, a slot
that was good and was not the one being changed stays what starts, in full.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, Protocol, get_args

from firmware.errors import FirmwareError

SlotName = Literal["a", "b"]
State = Literal["good", "trial", "bad", "empty"]
SLOTS: tuple[SlotName, ...] = get_args(SlotName)
TRIES = 3  # boots that a new slot has to prove itself


class BootBackend(Protocol):
    """How one kind of board keeps its boot state."""

    def current(self) -> SlotName:
        """The slot that runs."""

    def primary(self) -> SlotName | None:
        """The slot that starts next."""

    def state(self, slot: SlotName) -> State:
        """How sure we are of it."""

    def close(self, slot: SlotName) -> None:
        """It must not start from here on, since it is about to be written."""

    def put_kernel(self, slot: SlotName, kernels: Path) -> None:
        """Take from a folder what starts this slot, where the board keeps that apart from the slot."""

    def try_next(self, slot: SlotName, title: str) -> None:
        """It starts next, on trial."""

    def mark_good(self, slot: SlotName) -> None:
        """It has proved itself."""

    def mark_bad(self, slot: SlotName) -> None:
        """It has failed."""


def other(slot: SlotName) -> SlotName:
    return "b" if slot == "a" else "a"


def named(text: str) -> SlotName:
    """The slot of that name, in upper or lower case."""
    for slot in SLOTS:
        if text.lower() == slot:
            return slot
    raise FirmwareError(f"there is no slot {text!r}", hint="it is a or b")


def slot_of(command_line: str) -> SlotName:
    """The slot that a kernel's command line names with ``rauc.slot=``."""
    found = re.search(r"(?:^|\s)rauc\.slot=([ab])(?:\s|$)", command_line)
    if not found:
        raise FirmwareError(
            "this system was not started from a slot: its kernel command line has no rauc.slot=",
            hint="run this on a box that was flashed with a Scanside image",
        )
    return named(found.group(1))
