"""NVIDIA Jetson: slots kept in UEFI variables, changed by ``nvbootctrl`` (L4T r35 and later, ROOTFS_AB=1).

Slot a is 0, slot b is 1. The firmware counts the boots of a slot by itself and leaves one that used them up; how many
are left stands in ``retry_count``. Its loader takes kernel and command line from the slot's own root file system, which
has to name itself there. Not yet run on hardware: see firmware/jetson/README.md.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from firmware.boot import SLOTS, SlotName, State
from firmware.durable import Files
from firmware.errors import FirmwareError

_MENU = "boot/extlinux/extlinux.conf"
_ROOT = re.compile(r"^(\s*APPEND\s(?:.*\s)?root=)\S+", re.MULTILINE)


class NvBootCtrl:
    """The boot state of a Jetson.

    Parameters
    ----------
    notes
        Folder on the data partition, for what the firmware does not keep: which slot was proved good. None while that
        is not open: no slot that may start is known to be good, and none can be changed.
    labels
        Of the slots' partitions.
    disks
        Where udev has its links to partitions.
    """

    def __init__(
        self,
        notes: Path | None,
        labels: Sequence[str],
        program: str = "nvbootctrl",
        files: Files | None = None,
        disks: Path = Path("/dev/disk"),
    ) -> None:
        self._notes, self._labels, self._program, self._disks = notes, labels, program, disks
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
        if slot != self.current():
            self._let_name_itself(slot)
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

    def _let_name_itself(self, slot: SlotName) -> None:
        """A bundle fits either slot, so the root on its kernel's command line may be that of the other one."""
        device = (self._disks / "by-partlabel" / self._labels[SLOTS.index(slot)]).resolve()
        links = sorted((self._disks / "by-partuuid").glob("*"))
        found = next((link.name for link in links if link.resolve() == device), None)
        if found is None:
            raise FirmwareError(f"{device}, the partition of slot {slot}, has no unique id (PARTUUID)")
        with _mounted(device) as root:
            menu = root / _MENU
            text = menu.read_text() if menu.exists() else ""
            changed, count = _ROOT.subn(rf"\g<1>PARTUUID={found}", text)
            if not count:
                raise FirmwareError(
                    f"slot {slot} can't start: its /{_MENU} names no root", hint="install a bundle for a Jetson"
                )
            if changed != text:
                self._files.write(menu, changed.encode())

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


@contextlib.contextmanager
def _mounted(device: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        _mount("mount", "-o", "nosuid,nodev", str(device), folder)
        try:
            yield Path(folder)
        finally:
            _mount("umount", folder)


def _mount(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise FirmwareError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
