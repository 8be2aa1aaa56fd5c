"""The data partition: which one it is, and what becomes of one that a power cut left half made."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from firmware import datadisk
from firmware.box import Box
from firmware.errors import FirmwareError
from tests.firmware.boxes import make_box

DATA = "8F1C0A52-6D3E-4F57-9C0B-5C414E534944"
LINUX = "0fc63daf-8483-4772-8e79-3d69d8477de4"
# A program that is no stand-in says nothing and succeeds; each call is a line of $CALLS.
_PROGRAM = """#!/bin/sh
echo "$(basename "$0") $*" >> "$CALLS"
{body}
"""


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    made = make_box(tmp_path / "box")
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    return made


def program(tmp_path: Path, name: str, body: str = "") -> None:
    path = tmp_path / "bin" / name
    path.write_text(_PROGRAM.format(body=body))
    path.chmod(0o755)


def calls(tmp_path: Path) -> list[str]:
    return (tmp_path / "calls").read_text().splitlines()


def runs_from(box: Box, *nodes: str) -> None:
    """The kernel's tree of block devices, the root first and the disk, or its partition, last."""
    number = box.root.stat().st_dev
    devices = [box.root / "sys/devices" / node for node in nodes]
    for above, below in zip([None, *devices], devices, strict=False):
        below.mkdir(parents=True)
        if above is not None:
            (above / "slaves").mkdir()
            (above / "slaves" / below.name).symlink_to(below)
    if devices[-1].parent.name != "block":
        (devices[-1] / "partition").write_text("2\n")
    link = box.root / f"sys/dev/block/{os.major(number)}:{os.minor(number)}"
    link.parent.mkdir(parents=True)
    link.symlink_to(os.path.relpath(devices[0], link.parent))


def has_partitions(tmp_path: Path, **types: str | None) -> None:
    rows = [{"path": f"/dev/{name}", "parttype": kind} for name, kind in types.items()]
    program(tmp_path, "lsblk", f"echo '{json.dumps({'blockdevices': rows})}'")


@pytest.mark.parametrize(
    ("nodes", "disk"),
    [
        (("virtual/block/dm-0", "pci0000:00/0000:00:1f.2/ata1/host0/block/sda/sda2"), "sda"),
        (("virtual/block/dm-0", "pci0000:00/0000:00:01.0/nvme/nvme0/block/nvme0n1/nvme0n1p2"), "nvme0n1"),
        (("virtual/block/dm-0", "pci0000:00/0000:00:02.0/virtio1/block/vda/vda2"), "vda"),
        (("virtual/block/dm-1", "virtual/block/dm-0", "virtual/block/loop0/loop0p2"), "loop0"),
        (("platform/soc/mmc_host/mmc0/mmc0:0001/block/mmcblk0/mmcblk0p2",), "mmcblk0"),
        (("pci0000:00/0000:00:02.0/virtio1/block/vda",), "vda"),
    ],
)
def test_the_data_partition_is_on_the_disk_that_the_system_runs_from(
    box: Box, tmp_path: Path, nodes: tuple[str, ...], disk: str
) -> None:
    runs_from(box, *nodes)
    has_partitions(tmp_path, **{disk: None, "x2": LINUX, "x4": DATA, "mapped": None})
    assert datadisk.find_partition(box) == Path("/dev/x4")
    assert calls(tmp_path)[-1].endswith(f" /dev/{disk}")


def test_there_is_one_data_partition(box: Box, tmp_path: Path) -> None:
    runs_from(box, "virtual/block/dm-0", "pci0000:00/0000:00:02.0/virtio1/block/vda/vda2")
    has_partitions(tmp_path, vda=None, vda2=LINUX)
    assert datadisk.find_partition(box) is None
    has_partitions(tmp_path, vda=None, vda4=DATA, vda5=DATA)
    with pytest.raises(FirmwareError, match="/dev/vda has several data partitions: /dev/vda4, /dev/vda5"):
        datadisk.open_data(box)


@pytest.mark.parametrize(("tokens", "again"), [({}, True), ({"0": {"type": "systemd-tpm2"}}, False)])
def test_a_data_partition_that_a_cut_left_half_made_is_made_again(
    box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokens: dict[str, object], again: bool
) -> None:
    runs_from(box, "virtual/block/dm-0", "pci0000:00/0000:00:02.0/virtio1/block/vda/vda2")
    has_partitions(tmp_path, vda=None, vda4=DATA)
    monkeypatch.setattr(datadisk, "_TPM", tmp_path)  # there is one
    dump = json.dumps({"keyslots": {"0": {}}, "tokens": tokens})
    program(tmp_path, "cryptsetup", f"[ $1 != luksDump ] || echo '{dump}'")
    program(tmp_path, "blkid", 'case "$*" in */dev/vda4*) echo crypto_LUKS;; *) exit 2;; esac')
    program(tmp_path, "systemd-cryptenroll", "echo recovery-key")
    for name in ("wipefs", "systemd-cryptsetup", "mkfs.ext4"):
        program(tmp_path, name)
    program(tmp_path, "mount", "exit 1")
    with pytest.raises(FirmwareError, match="`mount"):
        datadisk.open_data(box)
    made = [line.split()[0] + " " + line.split()[1] for line in calls(tmp_path)]
    assert made[-2:] == ["mkfs.ext4 -q", "mount -o"]
    assert ("wipefs --all" in made) == ("cryptsetup luksFormat" in made) == again
