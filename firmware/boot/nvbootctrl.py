"""NVIDIA Jetson: slots kept in UEFI variables, changed by ``nvbootctrl`` (L4T r35 and later, ROOTFS_AB=1).

Slot a is 0, slot b is 1. The firmware counts the boots of a slot by itself and leaves one that used them up; how many
are left stands in ``retry_count``. Not yet run on hardware: see firmware/jetson/README.md.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from firmware.boot import SLOTS, SlotName, State
from firmware.durable import Files
from firmware.errors import FirmwareError


class NvBootCtrl:
    """The boot state of a Jetson.

    Parameters
    ----------
    notes
        Folder on the data partition, for what the firmware does not keep: which slot was proved good. None while that
        is not open: no slot that may start is known to be good, and none can be changed.
    """

    def __init__(self, notes: Path | None, program: str = "nvbootctrl", files: Files | None = None) -> None:
        self._notes, self._program = notes, program
        self._files = files or Files()

    def current(self) -> SlotName:
        return SLOTS[self._number("get-current-slot")]

    def primary(self) -> SlotName | None:
        found = re.search(r"Active rootfs slot:\s*([AB])", self._call("dump-slots-info"))
        return SLOTS["AB".index(found.group(1))] if found else None

    def state(self, slot: SlotName) -> State:
        status = self._slots().get(slot)
        if status is None:
            return "empty"
        if status != "normal":
            return "bad"
        if self._notes is None:
            return "unknown"
        if self._closed(slot).exists():
            return "empty"
        return "good" if self._good(slot).exists() else "trial"

    def close(self, slot: SlotName) -> None:
        if slot == self.current():
            raise FirmwareError(f"slot {slot} is the one that runs and can't be written over")
        self._files.write(self._closed(slot), b"")
        self._files.remove(self._good(slot))
        if self.primary() == slot:
            self._call("set-active-boot-slot", str(SLOTS.index(self.current())))

    def put_kernel(self, slot: SlotName, kernels: Path) -> None:
        """Nothing: L4T keeps kernel and initrd of a slot in its root partition."""

    def try_next(self, slot: SlotName, title: str) -> None:  # noqa: ARG002 (the firmware shows no titles)
        self._files.remove(self._good(slot))
        self._files.remove(self._closed(slot))
        self._call("set-active-boot-slot", str(SLOTS.index(slot)))

    def mark_good(self, slot: SlotName) -> None:
        note = self._good(slot)
        if slot == self.current():  # the tool can only speak for the slot that runs
            self._call("mark-boot-successful")
        self._files.write(note, b"")

    def mark_bad(self, slot: SlotName) -> None:
        self._files.remove(self._good(slot))
        self._call("set-slot-as-unbootable", str(SLOTS.index(slot)))

    def discard(self, slot: SlotName) -> None:
        self.close(slot)
        self.mark_bad(slot)

    def counts(self) -> bool:
        return self.state(self.current()) == "trial"

    def _good(self, slot: SlotName) -> Path:
        return self._note(f"slot-{slot}-good")

    def _closed(self, slot: SlotName) -> Path:
        return self._note(f"slot-{slot}-closed")

    def _note(self, name: str) -> Path:
        if self._notes is None:
            raise FirmwareError(
                "the data partition is not open, and what is known of the slots lies there",
                hint="scanside-firmware data status",
            )
        return self._notes / name

    def _slots(self) -> dict[SlotName, str]:
        rows = re.findall(r"slot:\s*(\d),.*?status:\s*(\w+)", self._call("dump-slots-info"))
        return {SLOTS[int(number)]: status for number, status in rows}

    def _number(self, command: str) -> int:
        said = self._call(command).strip()
        if said not in ("0", "1"):
            raise FirmwareError(f"`{self._program} {command}` said {said!r} instead of 0 or 1")
        return int(said)

    def _call(self, *arguments: str) -> str:
        try:
            done = subprocess.run(
                [self._program, "-t", "rootfs", *arguments], capture_output=True, text=True, timeout=60, check=False
            )
        except FileNotFoundError as error:
            raise FirmwareError(
                f"{self._program} is not installed", hint="it comes with NVIDIA's package nvidia-l4t-tools"
            ) from error
        if done.returncode:
            raise FirmwareError(
                f"`{self._program} {' '.join(arguments)}` failed: {(done.stderr or done.stdout).strip()}"
            )
        return done.stdout
