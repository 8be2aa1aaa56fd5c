"""One package of several that can't be served: its images wait, all others are read, and everybody is told."""

from __future__ import annotations

import json
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from appliance import package
from appliance.send import Destination, send_files
from tests import fake_package
from tests.dicom_files import hippocampus_pixels, make_radiograph, make_series
from tests.running import RunningAppliance, scanside

pytestmark = pytest.mark.skipif(not package.bundled("chest-pneumonia"), reason="no model package is bundled")


def asked(appliance: RunningAppliance, path: str) -> str:
    with urllib.request.urlopen(appliance.url + path, timeout=60) as answer:
        return str(answer.read().decode())


def send(appliance: RunningAppliance, *files: Path) -> None:
    for sent in send_files(files, Destination("SCANSIDE", "127.0.0.1", appliance.port), "TEST", {}, associations=1):
        assert sent.ok, sent.error


def wait_for(appliance: RunningAppliance, modality: str, true: Any, seconds: float = 30.0) -> dict[str, Any]:
    """The only row of a modality in the worklist, once ``true`` holds of it."""
    store, deadline = appliance.store(), time.monotonic() + seconds
    rows: list[dict[str, Any]] = []
    while time.monotonic() < deadline:
        rows = [row for row in store.worklist() if row["modality"] == modality]
        if len(rows) == 1 and true(rows[0]):
            return rows[0]
        time.sleep(0.1)
    raise AssertionError(f"{rows}\n{appliance.log}")


@pytest.mark.slow  # tests/appliance/test_partly_served.py has it without a whole appliance around
def test_what_it_reads_waits_the_rest_is_read_and_it_comes_into_service_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCANSIDE_FAKE_BACKEND", "1")
    flag, folder = tmp_path / "broken", tmp_path / "packages"
    flag.touch()
    never = fake_package.lungs(folder / "lungs", smallest_dice=2.0)
    later = fake_package.breakable(
        folder / "hippocampus", fake_package.hippocampus(folder / "like"), crash_file=str(flag)
    )
    paths = [fake_package.make(folder / "chest"), later, never]
    appliance = RunningAppliance(
        tmp_path / "appliance",
        f"[models]\npackages = {[str(path) for path in paths]}\n"
        f"trusted_keys = {[str(path.parent / 'trusted') for path in paths]}\n[series]\nquiet_seconds = 1.0\n",
    )
    appliance.start()
    try:
        # told before any image waits for it
        worker = appliance.wait_ready()["components"]["worker"]
        assert {each["model"] for each in worker["unserved"]} == {"lungs", "hippocampus"}
        status = json.loads(asked(appliance, "api/v1/status"))
        (alarm,) = (each for each in status["problems"] if each["name"] == "unserved_hippocampus")
        assert alarm["severity"] == "alarm"
        assert alarm["what"].startswith("hippocampus 0.0.1 can't be served.")
        assert "SIGSEGV" in alarm["detail"]
        assert {each["package"] for each in status["backends"] if each["serves"]} == {"fake 1.3.1"}
        assert [each["seconds"] for each in status["backends"] if not each["serves"] and each["seconds"]] == []
        assert "scanside_packages_unserved 2.0" in asked(appliance, "metrics")
        said = scanside("status", "--config", appliance.config_path).stdout
        assert "not served  hippocampus 0.0.1, what it reads waits: " in said
        assert "hippocampus 0.0.1 can&#39;t be served." in asked(appliance, "device.fragment")

        send(appliance, make_radiograph(tmp_path / "chest.dcm"))
        series = make_series(tmp_path / "series", hippocampus_pixels(18, 30, 24))
        send(appliance, *series)
        chest = wait_for(appliance, "CR", lambda row: row["state"] == "delivered")
        assert any(each.startswith("The outline of the lungs failed") for each in chest["warnings"])
        waits = wait_for(appliance, "MR", lambda row: row["reason"].startswith("Waiting: "))
        assert (waits["state"], waits["images"]) == ("received", 18)
        assert waits["reason"].startswith("Waiting: hippocampus 0.0.1 can't be served: no inference backend can be")
        assert "SIGSEGV" in waits["reason"]

        flag.unlink()
        assert scanside("receipt", "--config", appliance.config_path).returncode == 1  # the lungs have none
        assert wait_for(appliance, "MR", lambda row: row["state"] == "delivered")["images"] == 18
        status = json.loads(asked(appliance, "api/v1/status"))
        names = [each["name"] for each in status["problems"]]
        assert "unserved_lungs" in names
        assert "unserved_hippocampus" not in names
        assert "held_up" not in names
    finally:
        appliance.stop()
