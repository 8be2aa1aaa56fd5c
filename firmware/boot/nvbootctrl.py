"""NVIDIA Jetson: slots kept by UEFI (Jetson Linux r35 and later, ROOTFS_AB=1), asked by ``nvbootctrl``.

Slot a is 0, slot b is 1. The firmware counts the warm starts of a slot, also of a good one, and leaves it once it
has used them up; ``nvbootctrl verify`` gives the slot that runs its starts back. Which slot may start stands in the
variables ``RootfsStatusSlotA`` and ``RootfsStatusSlotB``, which the tool shows and can't set. NVIDIA's loader takes
kernel and command line from the slot's own root file system. Sources: NVIDIA, "Jetson Linux Developer Guide", chapters
"Update and Redundancy" and "Root File System"; its open firmware (edk2-nvidia, L4TRootfsValidation). Not yet run on
hardware: see firmware/jetson/README.md.
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

_VENDOR = "781e084c-a330-417c-b678-38e696380cb9"
_ATTRIBUTES = 7  # non-volatile, for boot services and the system
_NORMAL, _UNBOOTABLE = 0, 0xFF
_MENU = "boot/extlinux/extlinux.conf"
_APPEND = re.compile(r"^(\s*APPEND\s+).*$", re.MULTILINE)
_ROOT = re.compile(r"(?<!\S)root=\S+")


class NvBootCtrl:
    """The boot state of a Jetson.

    Parameters
    ----------
    notes
        Folder on the data partition, for what the firmware does not keep: which slot was proved good, which is tried,
        which is closed. None while that is not open: no slot that may start is known to be good, and none can be
        changed.
    labels
        Of the slots' partitions.
    root
        Of the system that runs.
    """

    def __init__(
        self,
        notes: Path | None,
        labels: Sequence[str],
        root: Path = Path("/"),
        program: str = "nvbootctrl",
        files: Files | None = None,
    ) -> None:
        self._notes, self._labels, self._root, self._program = notes, labels, root, program
        self._files = files or Files()

    def current(self) -> SlotName:
        return SLOTS[self._number("get-current-slot")]

    def primary(self) -> SlotName | None:
        found = re.search(r"Active rootfs slot:\s*([AB])", self._call("dump-slots-info"))
        return SLOTS["AB".index(found.group(1))] if found else None

    def state(self, slot: SlotName) -> State:
        """As flashed both slots hold the same, and neither was proved: the one that does not run counts as empty."""
        status = self._slots().get(slot)
        if status is None:
            return "empty"
        if status != "normal":
            return "empty" if self._notes is not None and self._closed(slot).exists() else "bad"
        if self._notes is None:
            return "unknown"
        if self._good(slot).exists():
            return "good"
        return "trial" if slot == self.current() or self._tried(slot).exists() else "empty"

    def close(self, slot: SlotName) -> None:
        if slot == self.current():
            raise FirmwareError(f"slot {slot} is the one that runs and can't be written over")
        self._files.write(self._closed(slot), b"")
        self._files.remove(self._good(slot))
        self._files.remove(self._tried(slot))
        self._set_status(slot, _UNBOOTABLE)
        if self.primary() == slot:
            self._call("set-active-boot-slot", str(SLOTS.index(self.current())))

    def put_kernel(self, slot: SlotName, kernels: Path) -> None:
        """Nothing: L4T keeps kernel and initrd of a slot in its root partition."""

    def try_next(self, slot: SlotName, title: str) -> None:  # noqa: ARG002 (the firmware shows no titles)
        if slot != self.current():
            self._let_start_itself(slot)
        self._files.remove(self._good(slot))
        self._files.write(self._tried(slot), b"")
        self._files.remove(self._closed(slot))
        self._set_status(slot, _NORMAL)  # else the firmware would go back at once
        self._call("set-active-boot-slot", str(SLOTS.index(slot)))

    def mark_good(self, slot: SlotName) -> None:
        note = self._good(slot)
        if slot == self.current():  # the tool can only speak for the slot that runs
            self.renew_boots()
        self._files.write(note, b"")
        self._files.remove(self._tried(slot))

    def mark_bad(self, slot: SlotName) -> None:
        self._files.remove(self._good(slot))
        self._files.remove(self._tried(slot))
        self._set_status(slot, _UNBOOTABLE)

    def discard(self, slot: SlotName) -> None:
        self.close(slot)

    def counts(self) -> bool:
        return self.state(self.current()) == "trial"

    def renew_boots(self) -> None:
        self._run(self._program, "verify")

    def _let_start_itself(self, slot: SlotName) -> None:
        """A bundle fits either slot, and holds no command line, which NVIDIA's tool writes as it flashes. So the new
        slot gets that of the one that runs, with its own partition as root.
        """
        device = (self._root / "dev/disk/by-partlabel" / self._labels[SLOTS.index(slot)]).resolve()
        links = sorted((self._root / "dev/disk/by-partuuid").glob("*"))
        found = next((link.name for link in links if link.resolve() == device), None)
        if found is None:
            raise FirmwareError(f"{device}, the partition of slot {slot}, has no unique id (PARTUUID)")
        lines = [match[0] for match in _APPEND.finditer(_read(self._root / _MENU))]
        ours = next((line.strip() for line in lines if _ROOT.search(line)), None)
        if ours is None:
            raise FirmwareError(
                f"/{_MENU} of the system that runs names no root", hint="was it flashed by NVIDIA's tool?"
            )
        arguments = _ROOT.sub(f"root=PARTUUID={found}", ours.split(maxsplit=1)[1])
        with _mounted(device) as root:
            text = _read(root / _MENU)
            changed, count = _APPEND.subn(lambda match: match[1] + arguments, text)
            if not count:
                raise FirmwareError(
                    f"slot {slot} can't start: its /{_MENU} has no command line", hint="install a bundle for a Jetson"
                )
            if changed != text:
                self._files.write(root / _MENU, changed.encode())

    def _set_status(self, slot: SlotName, status: int) -> None:
        path = self._root / "sys/firmware/efi/efivars" / f"RootfsStatusSlot{slot.upper()}-{_VENDOR}"
        if path.exists():
            self._run("chattr", "-i", str(path))  # the kernel guards variables that it does not know
        try:
            path.write_bytes(_ATTRIBUTES.to_bytes(4, "little") + status.to_bytes(4, "little"))
        except OSError as error:
            raise FirmwareError(f"the firmware does not take whether slot {slot} may start: {error}") from error

    def _good(self, slot: SlotName) -> Path:
        return self._note(f"slot-{slot}-good")

    def _tried(self, slot: SlotName) -> Path:
        return self._note(f"slot-{slot}-tried")

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
        return self._run(self._program, "-t", "rootfs", *arguments)

    def _run(self, *command: str) -> str:
        try:
            return _run(*command)
        except FileNotFoundError as error:
            raise FirmwareError(
                f"{command[0]} is not installed", hint="nvbootctrl comes with NVIDIA's package nvidia-l4t-tools"
            ) from error


def _read(menu: Path) -> str:
    return menu.read_text() if menu.exists() else ""


@contextlib.contextmanager
def _mounted(device: Path) -> Iterator[Path]:
    """The folder is never removed with what is in it: where it can't be unmounted, that is the slot."""
    folder = Path(tempfile.mkdtemp())
    try:
        _run("mount", "-o", "nosuid,nodev", str(device), str(folder))
    except FirmwareError:
        folder.rmdir()
        raise
    try:
        yield folder
    finally:
        _run("umount", str(folder))
    folder.rmdir()


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired as error:
        raise FirmwareError(f"`{' '.join(command)}` did not end within 60 s") from error
    if done.returncode:
        raise FirmwareError(f"`{' '.join(command)}` failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout
