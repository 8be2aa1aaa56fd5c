"""An image that can't be read from the disk, or whose results can't be written, keeps no other back, and is told of."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from appliance import problems
from appliance.cli import main
from appliance.completeness import Slice
from appliance.health import health
from appliance.machine import Clock
from appliance.store import Arrival
from tests.appliance.test_safe_mode import Device
from tests.dicom_files import make_radiograph


@pytest.mark.long
def test_what_is_in_the_way_of_one_image_is_told_and_the_others_are_read(tmp_path: Path) -> None:
    device = Device(tmp_path)
    try:
        in_the_way = device.config.results_path / "00000001"
        in_the_way.parent.mkdir(parents=True)
        in_the_way.write_bytes(b"a file where a folder should be")
        held = device.read(1)
        assert held["state"] == "received"
        assert held["reason"].startswith("Waiting: ")
        assert str(in_the_way) in held["reason"]
        assert device.read(2)["state"] == "delivered"

        found = {**health(device.config, device.store), "running": True}
        (alarm,) = (each for each in problems.find(found, Clock("", True), [], None) if each.name == "held_up")
        assert alarm.what == "1 image could not be read to the end, and is tried again."
        assert str(in_the_way) in alarm.detail
        said = CliRunner().invoke(main, ["status", "--data", str(device.config.data)]).output
        assert "held up     1 images could not be read to the end" in said
        assert str(in_the_way) in said

        in_the_way.unlink()
        device.store._connection().execute("UPDATE instance SET not_before = 0")
        assert device.work(1)["state"] == "delivered"
        assert health(device.config, device.store)["held_up"] == {"count": 0, "reason": ""}
    finally:
        device.close()


def test_what_the_disk_does_not_give_waits_and_is_no_fault_of_the_image(tmp_path: Path) -> None:
    device = Device(tmp_path)
    try:
        file = device.config.spool_path / "lost.dcm"
        number = device.store.receive(Arrival("1.2.3", "1.2", "d" * 64, file.name, 1, "upload", "x")).instance_id
        row = device.work(number)
        assert row["state"] == "received"
        assert row["reason"].startswith("Waiting: the file lost.dcm can't be read: No such file or directory")
        assert device.read(2)["state"] == "delivered"
        assert health(device.config, device.store)["held_up"]["count"] == 1

        make_radiograph(file)
        device.store._connection().execute("UPDATE instance SET not_before = 0")
        assert device.work(number)["state"] == "delivered"
    finally:
        device.close()


@pytest.mark.long
def test_a_series_of_which_retention_has_removed_images_says_so(tmp_path: Path) -> None:
    device = Device(tmp_path)
    try:
        for number in (1, 2):
            arrival = Arrival(f"1.2.{number}", "1.2", f"{number:064d}", f"{number}.dcm", 1, "upload", "x")
            device.store.receive(arrival)
            device.store.claim("me", 30)
            place = Slice(instance_number=number, position=float(number), normal=(0.0, 0.0, 1.0))
            device.store.park(number, "me", {}, "1.2.3", place, "routine", 0.0, 0.0)
        (series,) = device.store.to_judge()
        device.store.start_series(series, "it is complete")
        device.store._connection().execute("UPDATE instance SET image_removed_at = 1 WHERE id = 2")
        row = device.work(1)
        assert row["state"] == "rejected"
        assert row["reason"] == "Retention has removed 1 of the 2 images of its series. Send the whole series again."
    finally:
        device.close()
