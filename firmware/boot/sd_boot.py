"""systemd-boot: an entry file for each slot on the ESP, whose name counts its boots.

``scanside-b+3.conf`` has three boots left; the loader renames it to ``+2-1``, ``+1-2``, ``+0-3`` as it starts it, and
without a counter it is good. What starts is the first in systemd-boot's own order: entries without boots left come
last, then the higher ``version`` comes first, which here counts the installs. ``loader.conf`` names no default, since
a ``default`` pattern also picks entries whose boots are used up (systemd issue 31215).

Where the ESP can't be read, the loader's own word on this start counts: in the EFI variable ``LoaderEntrySelected`` it
names the entry that it chose, and where it has counted a boot, ``LoaderBootCountPath`` says so. A slot that was chosen
by a name without a counter is good; any other that runs is not known to be. Both are asked, since later loaders leave
the counter out of the name.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path

from firmware.boot import SLOTS, TRIES, SlotName, State, other, slot_of
from firmware.durable import Files
from firmware.errors import BrokenError, FirmwareError

_VARIABLES = Path("/sys/firmware/efi/efivars")
_LOADER = "4a67b082-0a4c-41c6-b6c7-440b29bb8c4f"  # vendor of systemd-boot's variables
_NAME = re.compile(r"scanside-[ab](\+\d+(-\d+)?)?\.conf")


@dataclass(frozen=True)
class Entry:
    """One file of ``loader/entries``; ``left`` is None without a counter."""

    path: Path
    slot: SlotName
    left: int | None
    order: int

    @property
    def state(self) -> State:
        if self.left is None:
            return "good"
        return "trial" if self.left else "bad"


class SdBoot:
    """The boot state of an ESP.

    Parameters
    ----------
    esp
        Where it is mounted.
    command_line
        Of the kernel that runs.
    variables
        Where efivarfs is mounted.
    """

    def __init__(self, esp: Path, command_line: str, files: Files | None = None, variables: Path = _VARIABLES) -> None:
        self._esp, self._command_line, self._variables = esp, command_line, variables
        self._entries = esp / "loader" / "entries"
        self._files = files or Files()

    def kernel(self, slot: SlotName) -> Path:
        return self._esp / "EFI" / "scanside" / f"{slot}.efi"

    def current(self) -> SlotName:
        return slot_of(self._command_line)

    def primary(self) -> SlotName | None:
        ranked = self.entries()
        return ranked[0].slot if ranked else None

    def state(self, slot: SlotName) -> State:
        entries = self.entries()
        states = [entry.state for entry in entries if entry.slot == slot]
        if slot == self.current():
            good = states[0] == "good" if states else self._was_chosen_as_good(slot)
            return "good" if good else "trial"  # without boots left, too: its last one is this
        if states:
            return states[0]
        # The slot that runs has an entry on any ESP that can be read.
        return "unknown" if not entries or self._unreadable(slot) else "empty"

    def entries(self) -> list[Entry]:
        """Those that can be read and whose kernel is there, in the loader's order."""
        found = []
        for slot in SLOTS:
            for path in self._named(slot):
                with contextlib.suppress(OSError):  # an ESP that is damaged: those that can be read
                    if entry := self._entry(slot, path):
                        found.append(entry)
        # Where a cut in a rename left two names of one slot, the higher count of boots comes first, as in the loader.
        return sorted(found, key=lambda entry: (entry.left == 0, -entry.order, entry.slot, -(entry.left or 99)))

    def _named(self, slot: SlotName) -> list[Path]:
        """All files of a slot's entry; none where their folder can't be read."""
        with contextlib.suppress(OSError):
            return [path for path in self._entries.glob(f"scanside-{slot}*.conf") if _NAME.fullmatch(path.name)]
        return []

    def _entry(self, slot: SlotName, path: Path) -> Entry | None:
        """None where the loader passes it over: a cut left it empty, or its kernel is not there."""
        text = path.read_text(errors="replace")
        if "\nefi " not in text or not self.kernel(slot).exists():
            return None
        left, order = re.search(r"\+(\d+)", path.name), re.search(r"^version\s+(\d+)\s*$", text, re.MULTILINE)
        return Entry(path, slot, int(left[1]) if left else None, int(order[1]) if order else 0)

    def _unreadable(self, slot: SlotName) -> bool:
        """Whether a file of its entry is there and says nothing: the loader may read it."""
        try:
            for path in self._named(slot):
                self._entry(slot, path)
        except OSError:
            return True
        return False

    def close(self, slot: SlotName) -> None:
        self._refuse_last_good(slot, "written over")
        for entry in self._of(slot):
            self._files.remove(entry)

    def put_kernel(self, slot: SlotName, kernels: Path) -> None:
        if self._of(slot):
            raise FirmwareError(f"slot {slot} can still start; close it before its kernel changes")
        source = kernels / f"{slot}.efi"
        if not source.is_file():
            raise BrokenError(f"the bundle has no kernel for slot {slot} ({source.name})", hint="build it again")
        # The loader never sees a half-written kernel under a name that an entry has: no entry names this slot now.
        self._files.remove(self.kernel(slot))
        self._files.copy(source, self.kernel(slot))

    def try_next(self, slot: SlotName, title: str) -> None:
        if not self.kernel(slot).exists():
            raise BrokenError(
                f"slot {slot} has no kernel on the ESP, so it can't start", hint="install the bundle again"
            )
        if slot != self.primary() or self.state(slot) != "trial":
            for old in self._of(slot):
                self._files.remove(old)
            order = 1 + max((entry.order for entry in self.entries()), default=0)
            lines = (f"title {title}", "sort-key scanside", f"version {order}", f"efi /EFI/scanside/{slot}.efi", "")
            self._files.write(self._entries / f"scanside-{slot}+{TRIES}.conf", "\n".join(lines).encode())

    def mark_good(self, slot: SlotName) -> None:
        self._settle(slot, f"scanside-{slot}.conf")

    def mark_bad(self, slot: SlotName) -> None:
        self._refuse_last_good(slot, "marked bad")
        self._settle(slot, f"scanside-{slot}+0-{TRIES}.conf")

    def discard(self, slot: SlotName) -> None:
        self.close(slot)
        self._files.remove(self.kernel(slot))

    def renew_boots(self) -> None:
        """Nothing: the loader counts no boots of a good slot."""

    def counts(self) -> bool:
        here = self.current()
        if any(entry.left is not None for entry in self.entries() if entry.slot == here):
            return True
        with contextlib.suppress(OSError):
            return self._loader_counted()
        return False

    def _loader_counted(self) -> bool:
        return (self._variables / f"LoaderBootCountPath-{_LOADER}").exists()

    def _was_chosen_as_good(self, slot: SlotName) -> bool:
        """Whether the loader started it by an entry whose name had no counter."""
        try:
            counted = self._loader_counted()
            chosen = (self._variables / f"LoaderEntrySelected-{_LOADER}").read_bytes()
        except OSError:
            return False
        name = chosen[4:].decode("utf-16-le", errors="replace").rstrip("\0")  # behind the variable's attributes
        return not counted and name.lower() == f"scanside-{slot}.conf"

    def _settle(self, slot: SlotName, name: str) -> None:
        paths = self._of(slot)
        if not paths:
            raise FirmwareError(f"slot {slot} has no entry on the ESP", hint="install a bundle into it")
        # Not by a rename: a cut in it may leave the new name with nothing in it, and then this slot would not start.
        target = self._entries / name
        if target != paths[0]:
            self._files.copy(paths[0], target)
        for path in paths:
            if path != target:
                self._files.remove(path)

    def _refuse_last_good(self, slot: SlotName, what: str) -> None:
        state = self.state(slot)
        if state in ("good", "unknown") and self.state(other(slot)) != "good":
            raise FirmwareError(
                f"slot {slot} {'is' if state == 'good' else 'may be'} the only good one and can't be {what}",
                hint=f"slot {other(slot)} has to prove itself first",
            )

    def _of(self, slot: SlotName) -> list[Path]:
        """All files of a slot's entry, the loader's first choice first; with or without a kernel."""
        ranked = [entry.path for entry in self.entries()]
        return sorted(
            self._named(slot), key=lambda path: (ranked.index(path) if path in ranked else len(ranked), path.name)
        )
