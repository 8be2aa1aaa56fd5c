"""Packages that are switched while images come in, and one that reads in shadow, on a running appliance."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from appliance import package
from appliance.shadow.store import ShadowStore
from tests import fake_package
from tests.dicom_files import make_radiograph
from tests.running import RunningAppliance, scanside
from tests.swapping import appliance, swap_under_load

pytestmark = pytest.mark.skipif(not package.bundled("chest-pneumonia"), reason="no model package is bundled")


@pytest.mark.slow
def test_a_switch_and_a_rollback_under_load_lose_nothing_and_a_shadow_is_in_nobodys_way(tmp_path: Path) -> None:
    running = appliance(tmp_path)
    running.start(300)
    try:
        running.wait_ready(300)
        outcome = swap_under_load(running, tmp_path, changes=2, pause=0.2)
        assert outcome.lost == []
        assert outcome.unnamed == []
        assert set(outcome.by_version) == {"1.3.1", "1.4.1"}
        _shadow(running, tmp_path, outcome.sent)
    finally:
        running.stop()


def _shadow(running: RunningAppliance, folder: Path, sent: int) -> None:
    new = fake_package.version(folder / "new", "1.5.0")
    (folder / "new" / "trusted" / "chest-pneumonia.pub").replace(folder / "better" / "trusted" / "newer.pub")
    scanside("shadow", "start", new, "--why", "a test", "--config", running.config_path, check=True)
    first = make_radiograph(folder / "first.dcm", seed=91)
    scanside("send", first, "--to", f"SCANSIDE@127.0.0.1:{running.port}", check=True)
    running.wait_final(sent + 1, 300)
    process = _reads(running, 1)
    os.kill(process, signal.SIGKILL)
    second = make_radiograph(folder / "second.dcm", seed=92)
    scanside("send", second, "--to", f"SCANSIDE@127.0.0.1:{running.port}", check=True)
    rows = running.wait_final(sent + 2, 300)
    assert {row["provenance"]["version"] for row in rows} == {"1.3.1", "1.4.1"}
    assert _reads(running, 2) != process


def _reads(running: RunningAppliance, count: int) -> int:
    """Wait until so many images were read in shadow; the number of the process that did."""
    store = ShadowStore(running.data / "ledger.sqlite3", read_only=True)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        (shadow,) = store.shadows()
        readings = store.readings(shadow["id"])
        if len(readings) >= count and all(row["pairs"] for row in readings):
            assert running.process is not None
            children = psutil.Process(running.process.pid).children()
            return next(each.pid for each in children if "appliance.shadow.runner" in each.cmdline())
        time.sleep(0.1)
    raise AssertionError(f"not read in shadow in time:\n{running.log}")
