"""Which disks there are, and which may be written over: rules over what ``lsblk`` says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from firmware import lsblk
from firmware.errors import FirmwareError, RefusedError

_COLUMNS = "NAME,PATH,TYPE,SIZE,RO,RM,HOTPLUG,TRAN,MODEL,SERIAL,FSTYPE,MOUNTPOINTS,LABEL,LOG-SEC"
_SECTOR = 512  # bytes; the image's partition table is in places that firmware finds with these alone
_HOLDERS = {"crypt": "LUKS or another dm-crypt volume", "lvm": "a logical volume", "mpath": "a multipath device"}
_MEMBERS = {
    "LVM2_member": "a member of an LVM volume group", "linux_raid_member": "a member of a RAID", "zfs_member":
    "a member of a ZFS pool", "swap": "swap space", "bcache": "a bcache device", "ceph_bluestore": "a Ceph store",
}  # fmt: skip
_SYS = Path("/sys/block")
_SYSTEM = {"/", "/boot", "/boot/efi", "/efi", "/usr", "/var", "/nix"}


@dataclass(frozen=True)
class Disk:
    """One line of ``list``: a whole disk, or a file that stands for one."""

    path: Path
    size: int
    serial: str = ""
    model: str = ""
    transport: str = ""
    removable: bool = True
    read_only: bool = False
    is_file: bool = False
    uses: tuple[str, ...] = field(default=())
    sector: int = _SECTOR

    def refusals(self, least: int = 0, typed_serial: str | None = None) -> Iterator[tuple[str, str]]:
        """Why it may not be written over, each with what to do; none where it may."""
        for use in self.uses:
            yield use, "take another disk, or free this one first"
        if self.read_only:
            yield "it is read-only", "move the write-protect switch of the card, or take another one"
        if self.size == 0:
            yield "it has no medium", "put one in"
        elif self.size < least:
            yield f"it has {self.size / 1e9:.1f} GB, and the image needs {least / 1e9:.1f} GB", "take a larger one"
        if self.sector != _SECTOR:
            yield (
                f"it has sectors of {self.sector} bytes, and no machine would start the image from it, which is for "
                f"{_SECTOR}",
                f"set the drive to {_SECTOR} bytes (512e; `nvme format --lbaf`, or its maker's tool), or take another "
                "one; an adapter can show other sectors than the machine will: connect the drive as it will be there",
            )
        if not self.removable and (not self.serial or typed_serial != self.serial):
            typed = f"its serial number is {self.serial}, not {typed_serial}" if typed_serial else "it is not removable"
            yield typed, f"if it is the right one: --serial {self.serial}" if self.serial else "it has no serial number"

    def refuse(self, least: int, typed_serial: str | None) -> None:
        """Raise `RefusedError` with all reasons."""
        found = list(self.refusals(least, typed_serial))
        if found:
            whys = ", ".join(why for why, _ in found)
            raise RefusedError(f"{self.path} is not written over: {whys}", hint=found[0][1])


def listed(tree: dict[str, Any] | None = None) -> list[Disk]:
    """All disks, by ``lsblk -J -b`` (or its recorded output, with ``mmc-type`` as the kernel has it)."""
    nodes = _asked() if tree is None else tree["blockdevices"]
    return [_disk(node) for node in nodes if node["type"] in ("disk", "loop", "mmcblk")]


def find(path: Path, tree: dict[str, Any] | None = None, new_file: bool = False) -> Disk:
    """The disk of that path; a regular file stands for a disk of its size.

    Parameters
    ----------
    tree
        A recorded output of ``lsblk -J -b``; None asks this machine.
    new_file
        A file need not be there yet.

    Raises
    ------
    RefusedError
        There is no such disk or file, or it is a partition. Below /dev only a block device counts: what is not plugged
        in would become a file in memory there.
    FirmwareError
        It is a folder or a character device.
    """
    if not path.is_block_device() and tree is None:
        if path.is_char_device() or path.is_dir():
            raise FirmwareError(f"{path} is neither a disk nor a file")
        if path.resolve().is_relative_to("/dev"):
            raise RefusedError(f"there is no disk {path}", hint="plug it in and run the same command again")
        if not path.exists() and not new_file:
            raise RefusedError(
                f"there is no disk or file {path}",
                hint="see `scanside-firmware list`; flash --file makes a file",
            )
        return Disk(path, path.stat().st_size if path.exists() else 0, is_file=True)
    known = path if tree is not None else path.resolve()
    for disk in listed(tree):
        if disk.path == known:
            return disk
    raise RefusedError(
        f"{path} is no whole disk", hint="name the disk, not one of its partitions: scanside-firmware list"
    )


def _asked() -> list[dict[str, Any]]:
    nodes = lsblk.devices("--bytes", "--output", _COLUMNS)
    for node in nodes:
        kind = _SYS / node["name"] / "device" / "type"
        if node["name"].startswith("mmcblk") and kind.exists():
            node["mmc-type"] = kind.read_text().strip()
    return nodes


def _disk(node: dict[str, Any]) -> Disk:
    return Disk(
        Path(node["path"]),
        int(node.get("size") or 0),
        (node.get("serial") or "").strip(),
        (node.get("model") or "").strip(),
        node.get("tran") or "",
        _removable(node),
        bool(node.get("ro")),
        uses=tuple(dict.fromkeys(_uses(node))),
        sector=int(node.get("log-sec") or _SECTOR),
    )


def _removable(node: dict[str, Any]) -> bool:
    if node["name"].startswith("mmcblk"):  # lsblk says of all that they can be plugged in, of soldered eMMC, too
        return node.get("mmc-type") == "SD"
    return bool(node.get("rm") or node.get("hotplug") or node["type"] == "loop")


def _uses(node: dict[str, Any]) -> Iterator[str]:
    for place in filter(None, node.get("mountpoints") or [node.get("mountpoint")]):
        if place == "[SWAP]":
            yield "it is in use as swap space"
        elif place in _SYSTEM:
            yield f"the running system is on it ({place})"
        else:
            yield f"it is mounted on {place}"
    kind = node["type"]
    if kind in _HOLDERS or kind.startswith("raid") or kind == "dm":
        yield f"it is in use by {_HOLDERS.get(kind, 'a RAID' if kind.startswith('raid') else 'device-mapper')}"
    if node.get("fstype") in _MEMBERS:
        yield f"it is {_MEMBERS[node['fstype']]}" if node["fstype"] != "swap" else "it holds swap space"
    for child in node.get("children") or ():
        yield from _uses(child)
