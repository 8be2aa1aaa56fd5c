"""A series through the front doors: dcmtk sends MR slices, they become one Segmentation, and a late one another."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest

from tests import fake_package
from tests.dicom_files import hippocampus_pixels, make_series
from tests.peers import needs, wait_until
from tests.running import RunningAppliance, scanside

pytestmark = pytest.mark.long


@pytest.fixture
def appliance(tmp_path: Path) -> Iterator[RunningAppliance]:
    path = fake_package.hippocampus(tmp_path / "models")
    running = RunningAppliance(
        tmp_path / "appliance",
        extra=f"[models]\npackages = ['{path}']\ntrusted_keys = ['{tmp_path / 'models' / 'trusted'}']\n"
        "[inference]\nbackend = 'onnxruntime'\n[series]\nquiet_seconds = 3\n",
    )
    running.start()
    running.wait_ready()
    yield running
    running.stop()


@pytest.fixture
def slices(tmp_path: Path) -> list[Path]:
    """From the feet to the head."""
    files = make_series(tmp_path / "series", hippocampus_pixels(30, 40, 36))
    return sorted(files, key=lambda file: float(pydicom.dcmread(file).ImagePositionPatient[2]))


def send(appliance: RunningAppliance, *files: Path) -> None:
    command = [needs("storescu"), "-aec", "SCANSIDE", "127.0.0.1", str(appliance.port), *map(str, files)]
    sent = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert sent.returncode == 0, sent.stderr


def delivered(appliance: RunningAppliance, count: int) -> None:
    store = appliance.store()
    wait_until(lambda: store.counts()["delivered"] == count, f"{count} images are done", 60)
    assert sum(store.counts().values()) == count
    store.close()


def sources(appliance: RunningAppliance, lead: int) -> int:
    """How many images the Segmentation of a reading refers to."""
    found = pydicom.dcmread(appliance.data / "results" / f"{lead:08d}" / "segmentation.dcm")
    return len(found.ReferencedSeriesSequence[0].ReferencedInstanceSequence)


def test_a_series_becomes_one_result_and_says_why_it_started(appliance: RunningAppliance, slices: list[Path]) -> None:
    send(appliance, *slices)
    released = time.time()
    delivered(appliance, 30)
    (row,) = appliance.store().worklist()
    assert row["why"] == "30 slices without a gap, association released"
    assert row["started_at"] - released < 1.0
    assert row["finished_at"] - released < 30.0
    assert sources(appliance, row["id"]) == 30


def test_a_late_slice_makes_a_result_that_supersedes(appliance: RunningAppliance, slices: list[Path]) -> None:
    send(appliance, *slices[:-1])
    delivered(appliance, 29)
    send(appliance, slices[-1])
    delivered(appliance, 30)
    new, old = appliance.store().worklist()
    assert (old["superseded_by"], new["superseded_by"]) == (new["id"], None)
    assert (sources(appliance, old["id"]), sources(appliance, new["id"])) == (29, 30)


def test_a_missing_slice_is_waited_for_said_and_refused(appliance: RunningAppliance, slices: list[Path]) -> None:
    send(appliance, *slices[:11], *slices[12:])
    store = appliance.store()
    wait_until(lambda: any("missing" in row["why"] for row in store.gathered()), "it waits")
    assert "29 images: position " in scanside("status", "--config", appliance.config_path, check=True).stdout
    wait_until(lambda: store.counts()["rejected"] == 29, "it is turned away")
    assert all("gap" in row["reason"] or "missing" in row["reason"] for row in store.members(1))
    store.close()


def test_a_worker_killed_in_the_middle_loses_nothing(appliance: RunningAppliance, slices: list[Path]) -> None:
    worker = appliance.status()["components"]["worker"]["pid"]
    send(appliance, *slices[:15])
    os.kill(worker, 9)
    send(appliance, *slices[15:])
    delivered(appliance, 30)
    assert sources(appliance, appliance.store().worklist()[0]["id"]) == 30
