"""Partition labels: a second flashed disk in the machine is found before a partition is written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from firmware import datadisk, update
from firmware.box import Box
from firmware.cli import main
from firmware.errors import RefusedError
from firmware.policy import Offered
from tests.firmware.boxes import BOARD, make_box
from tests.running import CHECKOUT


def disk(path: str, *labels: str | None) -> dict[str, object]:
    children = [{"path": f"{path}p{number}", "partlabel": label} for number, label in enumerate(labels, 1)]
    return {"path": path, "partlabel": None, **({"children": children} if children else {})}


BOX = disk("/dev/nvme0n1", "esp", "root-a", "root-b", "data")


def plugged(monkeypatch: pytest.MonkeyPatch, folder: Path, *disks: dict[str, object]) -> None:
    """As ``lsblk`` tells of these disks."""
    (folder / "lsblk").write_text(f"#!/bin/sh\necho '{json.dumps({'blockdevices': disks})}'\n")
    (folder / "lsblk").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def check(folder: Path) -> Result:
    box = make_box(folder / "box")
    return CliRunner().invoke(main, ["data", "check-labels", "--root", str(box.root)])


@pytest.mark.parametrize(
    "others",
    [
        (),
        (disk("/dev/sda"), disk("/dev/sr0")),
        (disk("/dev/sda", None, "EFI System Partition", "data"),),
        (disk("/dev/sda", "other", "other"),),
    ],
)
def test_other_disks_do_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: tuple[dict[str, object], ...]
) -> None:
    plugged(monkeypatch, tmp_path, BOX, *others)
    done = check(tmp_path)
    assert (done.exit_code, done.output) == (0, "")


@pytest.mark.parametrize("label", ["esp", "root-a", "root-b"])
def test_a_label_on_two_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, label: str) -> None:
    plugged(monkeypatch, tmp_path, BOX, disk("/dev/sda"), disk("/dev/sdb", None, label))
    done = check(tmp_path)
    assert done.exit_code == 1
    assert f"/dev/nvme0n1 and /dev/sdb each have a partition {label}" in done.output
    assert "unplug the disk that is not this box's" in done.output
    assert "unplug the disk that is not this box's" in datadisk.why_closed(Box(tmp_path / "box"))


def test_no_update_while_a_label_is_on_two_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It came after the start."""
    (tmp_path / "rauc").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "rauc").chmod(0o755)
    plugged(monkeypatch, tmp_path, BOX, disk("/dev/sdb", "esp", "root-a", "root-b"))
    box = make_box(tmp_path / "box")
    with pytest.raises(RefusedError, match="/dev/nvme0n1 and /dev/sdb each have a partition root-a"):
        update.write(box, tmp_path / "2.0.0.raucb", Offered("2.0.0", 1, BOARD), lambda percent, what: None)


def test_a_machine_that_can_not_tell_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugged(monkeypatch, tmp_path)
    (tmp_path / "lsblk").write_text("#!/bin/sh\nexit 1\n")
    done = check(tmp_path)
    assert done.exit_code == 1 and "lsblk does not answer" in done.output


def test_nothing_is_mounted_to_be_written_before_the_check() -> None:
    firmware = CHECKOUT / "firmware"
    (esp,) = (line for line in (firmware / "image/files/etc/fstab").read_text().splitlines() if "PARTLABEL=esp" in line)
    assert "x-systemd.requires=scanside-labels.service" in esp
    unit = (firmware / "systemd/scanside-labels.service").read_text()
    assert "\nBefore=scanside-data.service" in unit and "\nRequiredBy=scanside-data.service\n" in unit
