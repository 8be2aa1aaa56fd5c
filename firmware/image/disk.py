"""The disk as it is flashed: ESP, root-A, an empty root-B; the data partition is made at the first start."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

from firmware.errors import FirmwareError
from firmware.image.chroot import call, inside
from firmware.secure_boot import VARIABLES

MIB = 1 << 20
ESP = 512 * MIB
SLOT = 1024 * MIB
LEAST_DISK = 4_000_000_000  # what is sold as 4 GB; 1.3 GB of it are left for data
_FIRST = MIB
_SIZE = _FIRST + ESP + 2 * SLOT + MIB  # the last for the table's backup; data begins in it, so it is flashed whole
_LINUX = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
_ENTRY = "title Scanside {version}\nsort-key scanside\nversion 1\nefi /EFI/scanside/a.efi\n"
# No key shows the menu. A machine without Secure Boot keys takes ours, after 15 s in which any key stops it.
_LOADER = "timeout menu-disabled\neditor no\nauto-entries no\nauto-firmware no\nsecure-boot-enroll force\n"
_KEYS = "loader/keys/auto"


def make(tree: Path, work: Path, root: Path, loader: Path, keys: Path, version: str, date: int) -> Path:
    """A sparse raw image; ``keys`` has the files for Secure Boot, ``date`` (SOURCE_DATE_EPOCH) is its time."""
    raw = work / "disk.img"
    with raw.open("wb") as file:
        file.truncate(_SIZE)
    table = [
        "label: gpt",
        f"label-id: {_uuid(version, 'disk')}",
        f"start={_FIRST // 512}, size={ESP // 512}, type=U, name=esp, uuid={_uuid(version, 'esp')}",
        f"size={SLOT // 512}, type={_LINUX}, name=root-a, uuid={_uuid(version, 'root-a')}",
        f"size={SLOT // 512}, type={_LINUX}, name=root-b, uuid={_uuid(version, 'root-b')}",
    ]
    inside(tree, "sfdisk", "--quiet", raw, data="\n".join(table) + "\n")
    found = json.loads(inside(tree, "sfdisk", "--json", raw))["partitiontable"]["partitions"]
    if [each["name"] for each in found] != ["esp", "root-a", "root-b"]:
        raise FirmwareError("the partition table was not written")
    esp = _esp(tree, work, loader, keys, version, date)
    _put(esp, raw, found[0]["start"] * 512)
    _put(root, raw, found[1]["start"] * 512)
    return raw


def _esp(tree: Path, work: Path, loader: Path, keys: Path, version: str, date: int) -> Path:
    esp = work / "esp.img"
    with esp.open("wb") as file:
        file.truncate(ESP)
    inside(tree, "mkfs.vfat", "-F", "32", "-n", "ESP", "-i", _uuid(version, "fat")[:8], "--invariant", esp)
    (work / "loader.conf").write_text(_LOADER)
    (work / "entry.conf").write_text(_ENTRY.format(version=version))
    folders = ("::/EFI", "::/EFI/BOOT", "::/EFI/scanside", "::/loader", "::/loader/entries", "::/loader/keys",
               f"::/{_KEYS}")  # fmt: skip
    inside(tree, "mmd", "-i", esp, *folders, epoch=date)
    for source, target in ((loader, "EFI/BOOT/BOOTX64.EFI"), (work / "a.efi", "EFI/scanside/a.efi"),
                           (work / "loader.conf", "loader/loader.conf"),
                           (work / "entry.conf", "loader/entries/scanside-a.conf"),
                           *((keys / f"{name}.auth", f"{_KEYS}/{name}.auth") for name in VARIABLES)):  # fmt: skip
        inside(tree, "mcopy", "-i", esp, source, f"::/{target}", epoch=date)
    return esp


def _put(source: Path, raw: Path, offset: int) -> None:
    call("dd", f"if={source}", f"of={raw}", "bs=1M", f"seek={offset // MIB}", "conv=notrunc,sparse", "status=none")


def _uuid(version: str, what: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"scanside/{version}/{what}"))
