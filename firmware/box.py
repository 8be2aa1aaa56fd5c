"""Where things are on a box, what its image says of itself, and what it remembers of updates."""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firmware.boot import BootBackend, SlotName
from firmware.boot.nvbootctrl import NvBootCtrl
from firmware.boot.sd_boot import SdBoot
from firmware.durable import Files, flush_folder
from firmware.errors import FirmwareError
from firmware.policy import Release

_MOST_HISTORY = 500  # lines that are read back


@dataclass(frozen=True)
class Box:
    """A box; ``root`` is / on a real one and a folder in tests."""

    root: Path = Path("/")

    @property
    def data(self) -> Path:
        """The appliance's own data folder."""
        return self.root / "data" / "scanside"

    @property
    def firmware_data(self) -> Path:
        """What this package remembers, on the data partition."""
        return self.root / "data" / "firmware"

    @property
    def incoming(self) -> Path:
        """Copies of what is being taken, a folder for each; what a cut left there goes at the next start."""
        return self.firmware_data / "incoming"

    @property
    def configuration(self) -> Path:
        return self.root / "data" / "config" / "scanside.toml"

    @property
    def identity_file(self) -> Path:
        """The box's own identity, made with its data partition."""
        return self.configuration.with_name("box-id")

    @property
    def notes(self) -> Path:
        """What must be known while data is not open, on the ESP: ``box-id``, ``wiping``, ``factory-reset.txt``."""
        return self.esp / "scanside"

    @property
    def trust(self) -> Path:
        """Public keys and authorities that the image trusts: update-ca.pem, release.pub."""
        return self.root / "usr" / "lib" / "scanside" / "trust"

    @property
    def esp(self) -> Path:
        return self.root / "efi"

    @property
    def runtime(self) -> Path:
        return self.root / "run" / "scanside"

    @property
    def report(self) -> Path:
        """What the appliance's page shows of the box; see `firmware.inbox`."""
        return self.runtime / "box.json"

    def data_is_open(self) -> bool:
        """Whether the data partition was opened at this start."""
        return self.identity_file.exists()

    def identity(self) -> str:
        """The box's own, as its console shows it; from the ESP where data is not open.

        Raises
        ------
        FirmwareError
            It has none yet.
        """
        for path in (self.identity_file, self.notes / self.identity_file.name):
            with contextlib.suppress(OSError, ValueError):
                if known := path.read_text().strip():
                    return known
        raise FirmwareError(
            "this box has no identity yet: its data partition was never opened", hint="journalctl -u scanside-data"
        )

    def image(self) -> dict[str, Any]:
        """What the image says of itself: ``version``, ``epoch``, ``board``, ``compatible``, ``boot``, ``slots`` and
        ``built_at``."""
        path = self.root / "usr" / "lib" / "scanside" / "image.json"
        try:
            return dict(json.loads(path.read_text()))
        except (OSError, ValueError) as error:
            raise FirmwareError(
                f"{path} can't be read: {error}", hint="run this on a box that was flashed with a Scanside image"
            ) from error

    def release(self) -> Release:
        image = self.image()
        return Release(image["version"], image["epoch"])

    def slots(self) -> list[str]:
        """The labels of both slots' partitions."""
        return list(self.image()["slots"])

    def boot(self) -> BootBackend:
        """The backend that the image names."""
        if self.image()["boot"] == "nvbootctrl":
            return NvBootCtrl(self.firmware_data if self.data_is_open() else None, self.slots(), self.root)
        command_line = (self.root / "proc" / "cmdline").read_text()
        return SdBoot(self.esp, command_line, variables=self.root / "sys" / "firmware" / "efi" / "efivars")

    def floor(self) -> Release:
        """The highest release that was proved good here; a factory reset leaves at least the image's own."""
        own, kept = self.release(), self._state().get("floor")
        return max(own, Release(kept["version"], kept["epoch"]), key=Release.key) if kept else own

    def raise_floor(self, slot: SlotName, ledger: int | None) -> None:
        """The release that runs in this slot was proved good, with a ledger of this schema."""
        floor, state = self.floor(), self._state()
        state["floor"] = {"version": floor.version, "epoch": floor.epoch}
        state["proved"] = {**state.get("proved", {}), slot: self.release().epoch}
        state["ledgers"] = {**state.get("ledgers", {}), slot: ledger}
        Files().write(self.firmware_data / "state.json", json.dumps(state).encode())

    def proved_epoch(self, slot: SlotName) -> int | None:
        """Of what was last proved good in a slot; None where this data partition has not seen it."""
        return self._state().get("proved", {}).get(slot)

    def proved_ledger(self, slot: SlotName) -> int | None:
        """The schema of the ledger that it had then."""
        return self._state().get("ledgers", {}).get(slot)

    def lower_floor(self, release: Release) -> None:
        """A person at the box asked for an older release; its epoch can't go down with it."""
        state = {**self._state(), "floor": {"version": release.version, "epoch": self.floor().epoch}}
        Files().write(self.firmware_data / "state.json", json.dumps(state).encode())

    def _state(self) -> dict[str, Any]:
        try:
            return dict(json.loads((self.firmware_data / "state.json").read_text()))
        except (OSError, ValueError):  # a first boot, or a data partition that was damaged: the image's own floor holds
            return {}

    def remember(self, event: str, **what: Any) -> None:
        """A line of the history: ``installed``, ``good``, ``failed``, ``fell_back``, ``refused``, ..."""
        self.firmware_data.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"at": round(time.time(), 1), "event": event, **what})
        with (self.firmware_data / "history.jsonl").open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a power cut has torn the last line, which would tear this one, too
                    line = "\n" + line
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        flush_folder(self.firmware_data)

    def remember_if_possible(self, event: str, **what: Any) -> None:
        """`remember`, where what comes next matters more than the line; without it where data can't be written."""
        with contextlib.suppress(OSError):
            self.remember(event, **what)

    def history(self) -> list[dict[str, Any]]:
        """The latest lines; one that a power cut has torn is left out."""
        path = self.firmware_data / "history.jsonl"
        found = []
        for line in path.read_text(errors="replace").splitlines()[-_MOST_HISTORY:] if path.exists() else ():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found
