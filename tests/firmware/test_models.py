"""Models that are brought to a box: which one is in force then, and which are turned away."""

from __future__ import annotations

import json
import os
import re
import shutil
import tracemalloc
from pathlib import Path

import pytest

from appliance import package
from appliance.store import Store
from firmware import health, models, provisioning
from firmware.box import Box
from firmware.errors import FirmwareError, RefusedError
from tests import fake_package
from tests.firmware.commissioning import site


@pytest.mark.long
def test_a_model_takes_the_place_of_its_own_id_alone(box: Box, publisher: Path, tmp_path: Path) -> None:
    better = fake_package.version(tmp_path / "better", "1.4.1")
    shutil.copytree(better.parent / "trusted", box.trust / "models")
    provisioning.apply(box, site(tmp_path / "1", publisher, 1))
    Store(box.data / "ledger.sqlite3").close()  # as the appliance makes it
    bundled = {str(package.read(path, None)) for path in package.bundled()}
    assert reads(box) == bundled
    assert models.install(box, better) == "chest-pneumonia 1.4.1 is in force"
    expected = {each for each in bundled if not each.startswith("chest-pneumonia")} | {"chest-pneumonia 1.4.1"}
    assert reads(box) == expected
    assert models.install(box, better) == "chest-pneumonia 1.4.1 is in force already"
    provisioning.apply(box, site(tmp_path / "2", publisher, 2, "SECOND"))
    assert reads(box) == expected
    where = ("--config", str(box.configuration))
    assert not health.scanside(("models", "rollback", "chest-pneumonia", "--why", "false alarms", *where)).returncode
    assert "another one was chosen since" in models.install(box, better)  # a stick that is still there at a restart
    assert reads(box) == bundled and not list(box.incoming.iterdir())


@pytest.mark.long
def test_a_stick_that_stays_in_switches_no_model_back(box: Box, tmp_path: Path) -> None:
    Store(box.data / "ledger.sqlite3").close()
    text = box.configuration.read_text()
    box.configuration.write_text(f'{text}[models]\ntrusted_keys = ["{box.trust / "models"}"]\n')
    (box.trust / "models").mkdir()
    stick, page = tmp_path / "stick", tmp_path / "page"
    for version, folder in (("1.9.0", stick), ("1.10.0", stick), ("1.11.0", page)):
        made = fake_package.version(tmp_path / version, version)
        shutil.copy(next((made.parent / "trusted").iterdir()), box.trust / "models" / f"{version}.pub")
        folder.mkdir(exist_ok=True)
        shutil.copy(made, folder / f"chest-{version}.scanside")
    (stick / "a-broken-one.scanside").write_bytes(b"half")

    def start() -> list[str]:
        brought, said = models.Packages(box, stick), []
        for path in brought.paths:
            try:
                said.append(brought.install(path))
            except RefusedError as error:
                said.append(error.message)
        return said

    broken, higher, lower = start()
    assert "is not a model package" in broken and higher == "chest-pneumonia 1.10.0 is in force"
    assert lower == "passed over: chest-1.10.0.scanside beside it is chest-pneumonia 1.10.0, which is higher"
    assert start()[1] == "chest-pneumonia 1.10.0 is in force already"
    assert models.install(box, page / "chest-1.11.0.scanside") == "chest-pneumonia 1.11.0 is in force"
    assert "1.10.0 read here before, and another one was chosen since, which stays" in start()[1]
    assert "chest-pneumonia 1.11.0" in reads(box)
    come_along = tmp_path / package.bundled("chest-pneumonia")[0].name  # which nobody has chosen here
    shutil.copy(package.bundled("chest-pneumonia")[0], come_along)
    assert "another one was chosen since" in models.install(box, come_along)


def reads(box: Box) -> set[str]:
    done = health.scanside(("models", "list", "--json", "--config", str(box.configuration)))
    return {f"{row['model']} {row['version']}" for row in json.loads(done.stdout) if row["reads"]}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_what_the_appliance_makes_for_root_is_its_own_users(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65533)
    done = health.scanside((), program="id", owner=tmp_path)
    assert re.findall(r"=(\d+)", done.stdout) == ["65534", "65533", "65533"], done


def test_models_that_are_turned_away(box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store(box.data / "ledger.sqlite3").close()
    before = reads(box)
    with pytest.raises(RefusedError, match=r"chest-pneumonia.scanside is not taken: .* does not trust"):
        models.install(box, fake_package.version(tmp_path / "foreign", "1.4.1"))
    damaged = tmp_path / "damaged.scanside"
    content = bytearray(package.bundled()[0].read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(RefusedError, match="is not taken"):
        models.install(box, damaged)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 30, 1 << 30, 9 << 20))
    with pytest.raises(FirmwareError, match="the data partition only 9 MiB left"):
        models.install(box, damaged)
    assert reads(box) == before


def test_a_large_file_under_the_name_of_a_model(box: Box, tmp_path: Path) -> None:
    """Root does not hold it in memory; where the appliance has none left, a sentence says so."""
    program = Path(shutil.which("scanside") or "")
    program.write_text('#!/bin/sh\n[ "$2" = list ] && echo "[]"\n[ "$2" != install ] || kill -9 $$\n')
    large = tmp_path / "large.scanside"
    with large.open("wb") as file:
        file.truncate(64 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(RefusedError, match="looking at it was ended, as where memory runs out"):
            models.install(box, large)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
