"""Labels: those of a box's own partitions, each on one disk alone, and that of its sticks.

The kernel's command line, fstab and RAUC know root, ESP and slots by label, which every flashed disk has. With a second
one in the machine it would be chance whose partition is mounted, and which slot an update goes into.
"""

from __future__ import annotations

from collections.abc import Iterable

from firmware import lsblk
from firmware.errors import RefusedError

DATA_TYPE = "8f1c0a52-6d3e-4f57-9c0b-5c414e534944"  # of the data partition, as in 50-data.conf


def check(labels: Iterable[str]) -> None:
    """Whether each label is on one disk at most.

    Raises
    ------
    RefusedError
        One is on several.
    """
    disks: dict[str, set[str]] = {}
    for disk in lsblk.devices("--output=PATH,PARTLABEL"):
        for partition in disk.get("children", ()):
            disks.setdefault(partition["partlabel"], set()).add(disk["path"])
    for label in labels:
        if len(found := sorted(disks.get(label, ()))) > 1:
            raise RefusedError(
                f"{' and '.join(found)} each have a partition {label}, and this box can't tell which is its own",
                hint="unplug the disk that is not this box's, and start the box again",
            )


def sticks() -> list[str]:
    """The kernel's name of each block device whose file system has the label SCANSIDE, such as ``sdb1``.

    Raises
    ------
    FirmwareError
        lsblk does not answer.
    """
    rows = lsblk.devices("--list", "--output=KNAME,LABEL")
    return sorted(row["kname"] for row in rows if row["label"] == "SCANSIDE")
