"""Bombs and damaged files at the front door of a running appliance, and the proof that nothing of them is lost."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from tests import hostile_files
from tests.dicom_files import make_radiograph
from tests.peers import wait_until
from tests.running import RunningAppliance, scanside

pytestmark = pytest.mark.long


@pytest.fixture
def appliance(tmp_path: Path) -> RunningAppliance:
    running = RunningAppliance(tmp_path, "[drop_folder]\nsettle_seconds = 0.3\nincomplete_seconds = 1.0\n")
    yield running
    running.stop()


def _with_own_uid(content: bytes, number: int) -> bytes:
    """Another SOP Instance UID of the same length, or all but the first file would be conflicts and never be read."""
    at = content.find(b"\x08\0\x18\0UI")
    if at < 0:
        return content
    end = at + 8 + int.from_bytes(content[at + 6 : at + 8], "little")
    uid = content[at + 8 : end].rstrip(b"\0")
    return content.replace(uid, uid[:-3] + f"{100 + number}".encode()) if len(uid) > 10 else content


def test_every_hostile_file_comes_to_an_end_and_the_ledger_adds_up(appliance: RunningAppliance, tmp_path: Path) -> None:
    chance = random.Random(7)
    made = tmp_path / "made"
    made.mkdir()
    originals = [path.read_bytes() for path in hostile_files.sources(made)]
    for number in range(20):
        (made / f"damaged-{number}.dcm").write_bytes(hostile_files.mutated(chance.choice(originals), chance))
    bombs = list(hostile_files.bombs(made))
    (made / "plain.dcm").unlink()
    for number, path in enumerate(sorted(made.iterdir())):
        path.write_bytes(_with_own_uid(path.read_bytes(), number))
    good = make_radiograph(tmp_path / "good.dcm")
    appliance.start()
    drop = appliance.data / "drop"
    shutil.copytree(made, drop / "hostile")
    shutil.copy(good, drop / "good.dcm")
    # What is cut off is reported and left; the rest is taken.
    whole = [drop / "hostile" / path.name for path in bombs] + [drop / "good.dcm"]
    wait_until(lambda: not any(path.exists() for path in whole), "everything whole was taken", 60)
    store = appliance.store()
    count = sum(store.counts().values())
    store.close()
    assert count > len(bombs)
    rows = appliance.wait_final(count, timeout=150)
    by_file = {Path(row["sender"]).name: row for row in rows}
    assert by_file["good.dcm"]["state"] == "delivered"
    assert {row["state"] for row in rows} <= {"delivered", "rejected", "quarantined"}
    assert all(row["reason"] for row in rows if row["state"] != "delivered")
    assert by_file["nested.dcm"]["state"] == by_file["rle.dcm"]["state"] == "quarantined"
    assert "the worker stopped" not in appliance.log
    wait_until(lambda: appliance.status()["recount"], "the recount at the start")
    verified = scanside("ledger", "verify", "--config", appliance.config_path)
    assert verified.returncode == 0, verified.stdout
    number = str(by_file["nested.dcm"]["id"])
    scanside("quarantine", "retry", number, "--config", appliance.config_path, check=True)
    states = [row["state"] for row in rows]
    counts = {state: states.count(state) for state in set(states)}
    wait_until(lambda: appliance.status()["counts"]["quarantined"] == counts["quarantined"], "set aside again")
    assert scanside("ledger", "verify", "--quick", "--config", appliance.config_path).returncode == 0
