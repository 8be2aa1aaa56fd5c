"""Which of the two slots starts next, and how sure we are of each.

A slot is ``good`` (a health check passed in it), on ``trial`` (installed; a few boots are left to prove itself),
``bad`` (its boots are used up, or its check failed), ``empty``, or ``unknown`` (what says so can't be read). Whatever
happens in the middle of a change, a slot that was good and was not the one being changed stays what starts, in full.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, Protocol, get_args

from firmware.errors import FirmwareError, RefusedError

SlotName = Literal["a", "b"]
State = Literal["good", "trial", "bad", "empty", "unknown"]
SLOTS: tuple[SlotName, ...] = get_args(SlotName)
TRIES = 3  # boots that a new slot has to prove itself


class BootBackend(Protocol):
    """How one kind of board keeps its boot state."""

    def current(self) -> SlotName:
        """The slot that runs."""

    def primary(self) -> SlotName | None:
        """The slot that starts next."""

    def state(self, slot: SlotName) -> State:
        """How sure we are of it. The slot that runs is good only where that is known."""

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

    def discard(self, slot: SlotName) -> None:
        """Nothing may start it any more."""

    def renew_boots(self) -> None:
        """The slot that runs has all its boots again, where those of a good one are counted, too."""

    def counts(self) -> bool:
        """Whether this start is known to be counted, so that the slot is left once it has used up its boots."""


def other(slot: SlotName) -> SlotName:
    return "b" if slot == "a" else "a"


def on_trial(boot: BootBackend) -> bool:
    """Whether the system that runs is left unless it proves itself.

    It is not known to be good, and the other slot may start. Where that one is known not to, none comes after this one.
    """
    here = boot.current()
    return boot.state(here) != "good" and boot.state(other(here)) not in ("bad", "empty")


def refuse_on_trial(boot: BootBackend) -> None:
    """Nothing that the earlier system would meet may change while it may come back.

    Raises
    ------
    RefusedError
        The system that runs has not proved itself yet.
    """
    if on_trial(boot):
        raise RefusedError(
            f"slot {boot.current()} runs on trial, and the system of the other slot may come back",
            hint="wait until `scanside-firmware update status` says good",
        )


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
