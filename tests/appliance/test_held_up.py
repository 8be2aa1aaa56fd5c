"""An image whose results can't be written keeps no other back, and is told of."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from appliance import problems
from appliance.cli import main
from appliance.health import health
from appliance.machine import Clock
from tests.appliance.test_safe_mode import Device


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
