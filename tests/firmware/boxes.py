"""A box as a folder, systemd-boot as it chooses and counts, and a power cut between any two steps."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from firmware.box import Box
from firmware.durable import Files

BOARD = "scanside-generic"


class PowerCut(BaseException):
    """No handler of the code under test may run on, as none does in a power cut."""


class DyingFiles(Files):
    """Dies before step number ``alive``; a file that is being written then is left half beside its name."""

    def __init__(self, alive: int) -> None:
        self.left = alive

    def _step(self) -> None:
        if self.left == 0:
            raise PowerCut
        self.left -= 1

    def write(self, path: Path, content: bytes, mode: int = 0o666) -> None:
        if self.left == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(f".{path.name}.part").write_bytes(content[: len(content) // 2])
        self._step()
        super().write(path, content, mode)

    def copy(self, source: Path, path: Path) -> None:
        if self.left == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(f".{path.name}.part").write_bytes(source.read_bytes()[:3])
        self._step()
        super().copy(source, path)

    def rename(self, old: Path, new: Path) -> None:
        self._step()
        super().rename(old, new)

    def exchange(self, one: Path, other: Path) -> None:
        self._step()
        super().exchange(one, other)

    def remove(self, path: Path) -> None:
        self._step()
        super().remove(path)


class DoublingFiles(DyingFiles):
    """The same, on a FAT whose rename is cut in its middle: both names are left."""

    def rename(self, old: Path, new: Path) -> None:
        if self.left == 0 and not old.name.startswith("."):
            new.write_bytes(old.read_bytes())
        super().rename(old, new)


class EmptyingFiles(DyingFiles):
    """The same, on a FAT whose rename is cut after the new name: the file's size and place would come next."""

    def rename(self, old: Path, new: Path) -> None:
        if self.left == 0:
            old.unlink()
            new.write_bytes(b"")
        super().rename(old, new)


def every_cut(
    prepare: Callable[[], Path], act: Callable[[Path, Files], None], kind: type[DyingFiles]
) -> Iterator[Path]:
    """The ESP after ``act`` was cut before its first, second, ... step, and at last after it was whole."""
    for alive in range(100):
        esp = prepare()
        try:
            act(esp, kind(alive))
        except PowerCut:
            yield esp
        else:
            assert alive > 0, "nothing was done"
            yield esp
            return
    raise AssertionError("it never ends")


_ENTRY = re.compile(r"scanside-([ab])(?:\+(\d+)(?:-(\d+))?)?\.conf")


def loader_boots(esp: Path) -> str | None:
    """What systemd-boot 257 does: rank, count, start. The slot that it starts, whose kernel is whole; None for none.

    Written from its sources (boot.c: ``boot_entry_compare``, ``config_select_default_entry``,
    ``boot_entry_parse_tries``, ``boot_entry_bump_counters``), apart from the code under test.
    """
    entries = []
    for path in sorted((esp / "loader" / "entries").glob("*.conf")):
        values = dict(line.split(maxsplit=1) for line in path.read_text().splitlines() if line)
        match = _ENTRY.fullmatch(path.name)
        if not match or "efi" not in values or not (esp / values["efi"].lstrip("/")).exists():
            continue
        left = int(match[2]) if match[2] else -1
        entries.append((left == 0, -int(values["version"]), path, left, int(match[3] or 0), values["efi"], match[1]))
    if not entries:
        return None
    _, _, path, left, done, kernel, slot = sorted(entries, key=lambda entry: entry[:3])[0]
    if left > 0:
        path.rename(path.with_name(f"scanside-{slot}+{left - 1}-{done + 1}.conf"))
    content = (esp / kernel.lstrip("/")).read_text()
    assert content.endswith("|whole"), f"slot {slot} starts half a kernel: {content!r}"
    return slot


def kernels(folder: Path, version: str) -> Path:
    """A bundle's kernels."""
    folder.mkdir(parents=True, exist_ok=True)
    for slot in ("a", "b"):
        (folder / f"{slot}.efi").write_text(f"{slot} {version}|whole")
    return folder


def make_esp(esp: Path, version: str = "1.0.0") -> Path:
    """As flashed: slot a is good, slot b is empty."""
    kernels(esp / "EFI" / "scanside", version)
    (esp / "EFI" / "scanside" / "b.efi").unlink()
    (esp / "loader" / "entries").mkdir(parents=True)
    (esp / "loader" / "entries" / "scanside-a.conf").write_text(
        "title Scanside\nsort-key scanside\nversion 1\nefi /EFI/scanside/a.efi\n"
    )
    return esp


def make_box(root: Path, runs: str = "a", version: str = "1.0.0", epoch: int = 1) -> Box:
    """A box as flashed and started; ``boot_box`` starts it again."""
    make_esp(root / "efi")
    box = Box(root)
    start(box, runs, version, epoch)
    box.data.mkdir(parents=True)
    box.configuration.parent.mkdir(parents=True)
    box.configuration.write_text(f'data_dir = "{box.data}"\n[storage_scp]\nhost = "127.0.0.1"\nport = 0\n')
    shutil.copy(box.configuration, root / "usr" / "lib" / "scanside" / "default.toml")
    box.identity_file.write_text("5eedb0c5\n")
    box.trust.mkdir(parents=True)
    return box


def loader_chose(box: Box, entry: str, counted: str = "") -> None:
    """systemd-boot's own word on this start, in EFI variables: attributes, then UTF-16."""
    variables = box.root / "sys" / "firmware" / "efi" / "efivars"
    variables.mkdir(parents=True, exist_ok=True)
    for name, value in (("LoaderEntrySelected", entry), ("LoaderBootCountPath", counted)):
        if value:
            content = b"\6\0\0\0" + f"{value}\0".encode("utf-16-le")
            (variables / f"{name}-4a67b082-0a4c-41c6-b6c7-440b29bb8c4f").write_bytes(content)


def start(box: Box, slot: str, version: str, epoch: int = 1) -> None:
    """The system of a slot runs."""
    (box.root / "proc").mkdir(exist_ok=True)
    (box.root / "proc" / "cmdline").write_text(f"quiet rauc.slot={slot} roothash=0\n")
    image = {"version": version, "epoch": epoch, "board": "generic", "compatible": BOARD, "boot": "sd-boot",
             "slots": ["root-a", "root-b"],
             "built_at": 1_700_000_000}  # fmt: skip
    path = box.root / "usr" / "lib" / "scanside" / "image.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(image))
