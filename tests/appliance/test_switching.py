"""Another package reads from now on, and the former one again: through the command line and the ledger."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from appliance import package
from appliance.config import Retention
from appliance.custody import Custody
from appliance.package_store import Choice, PackageStore
from appliance.readiness import Readiness
from appliance.retention import due
from appliance.store import Store
from tests import fake_package
from tests.device import MODEL, Device
from tests.dicom_files import make_radiograph

pytestmark = pytest.mark.skipif(not package.bundled("chest-pneumonia"), reason="no model package is bundled")


@pytest.fixture
def device(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Device:
    return Device(tmp_path, capfd)


def test_a_version_is_installed_switched_to_and_rolled_back(device: Device) -> None:
    better = fake_package.version(device.folder / "better", "1.4.1")
    said = device.call("models", "install", better)
    assert "signed by trusted key" in said
    assert device.reads() == [str(fake_package.bundled())]
    device.call("models", "switch", MODEL, "1.4.1", "--by", "Jo", "--why", "newer")
    better.unlink()  # what is installed stands for itself
    assert device.reads() == [f"{MODEL} 1.4.1"]
    listed = json.loads(device.call("models", "list", "--json"))
    assert [(row["version"], row["reads"]) for row in listed] == [("1.3.1", False), ("1.4.1", True)]
    (choice,) = device.history()
    assert (choice["kind"], choice["chosen_by"], choice["why"]) == ("switch", "Jo", "newer")
    device.call("models", "rollback", MODEL, "--why", "not good")
    assert device.reads() == [str(fake_package.bundled())]
    refused = device.call("models", "rollback", MODEL, "--why", "again", code=1)
    assert "rollback already" in refused
    assert [row["kind"] for row in device.history()] == ["rollback", "switch"]


@pytest.mark.long
def test_the_former_package_stays_when_an_update_takes_it_away(device: Device) -> None:
    device.call("models", "install", fake_package.version(device.folder / "better", "1.4.1"))
    device.call("models", "switch", MODEL, "1.4.1", "--why", "newer")
    newest = fake_package.version(device.folder / "worse", "1.5.0")
    device.path.write_text(device.path.read_text().replace(str(fake_package.BUNDLED[0]), str(newest)))
    assert device.reads() == [f"{MODEL} 1.4.1"]
    device.call("models", "rollback", MODEL, "--why", "not good")
    assert device.reads() == [str(fake_package.bundled())]


def test_an_untrusted_or_damaged_package_is_not_installed(device: Device, tmp_path: Path) -> None:
    foreign = fake_package.version(tmp_path / "foreign", "1.4.1")
    assert "does not trust" in device.call("models", "install", foreign, code=1)
    better = fake_package.version(device.folder / "better", "1.4.1")
    content = bytearray(better.read_bytes())
    content[len(content) // 2] ^= 1
    better.write_bytes(content)
    assert "damaged" in device.call("models", "install", better, code=1)
    assert not list(device.config.packages_path.glob("*")) if device.config.packages_path.exists() else True


def test_a_version_is_installed_once_with_one_content(device: Device) -> None:
    device.call("models", "install", fake_package.version(device.folder / "better", "1.4.1"))
    other = fake_package.version(device.folder / "worse", "1.4.1", bias=1.0)
    assert "version of its own" in device.call("models", "install", other, code=1)


def test_a_package_without_a_receipt_is_not_put_in_force(device: Device) -> None:
    only_other = fake_package.version(device.folder / "better", "1.4.1", keep=("openvino",))
    device.call("models", "install", only_other)
    refused = device.call("models", "switch", MODEL, "1.4.1", "--why", "newer", code=1)
    assert "no inference backend can be used" in refused
    assert device.reads() == [str(fake_package.bundled())]
    assert device.history() == []


@pytest.mark.long
def test_a_regression_refuses_the_switch_unless_overridden_with_a_reason(device: Device, tmp_path: Path) -> None:
    numbers = device.read(*(make_radiograph(tmp_path / f"{seed}.dcm", seed=seed) for seed in range(3)))
    for number in numbers:  # so that what is expected does not depend on how sure the network is of noise
        device.assess(number, present=True)
    device.call("models", "cases", "add", *map(str, numbers), "--why", "known pneumonias")
    assert "present" in device.call("models", "cases", "list")
    device.call("models", "install", fake_package.version(device.folder / "worse", "1.4.1", bias=-50.0))
    refused = device.call("models", "switch", MODEL, "1.4.1", "--why", "newer", code=1)
    assert f"image {numbers[0]}" in refused
    assert device.history() == []
    device.call("models", "switch", MODEL, "1.4.1", "--why", "newer", "--override", "they were wrong")
    (choice,) = device.history()
    assert choice["overridden"] == "they were wrong"
    assert [each["instance_id"] for each in choice["cases"]["lost"]] == numbers
    device.call("models", "install", fake_package.version(device.folder / "better", "1.3.2", bias=50.0))
    assert "3 of 3" in device.call("models", "switch", MODEL, "1.3.2", "--why", "newer")


@pytest.mark.long
def test_a_case_whose_image_is_gone_counts_as_lost_and_retention_spares_it(device: Device, tmp_path: Path) -> None:
    (number,) = device.read(make_radiograph(tmp_path / "a.dcm"))
    custody = Custody(device.config.ledger_path)
    custody.review(number)
    settings = Retention(images_days=1e-9)
    old = type(device.config)(data_dir=device.config.data_dir, retention=settings)
    assert [each.instance_id for each in due(old, custody) if each.kind == "image"] == [number]
    device.assess(number, present=True)
    device.call("models", "cases", "add", str(number), "--why", "known")
    assert [each for each in due(old, custody) if each.kind == "image"] == []
    for path in device.config.spool_path.rglob("*.dcm"):
        path.unlink()
    device.call("models", "install", fake_package.version(device.folder / "better", "1.4.1"))
    refused = device.call("models", "switch", MODEL, "1.4.1", "--why", "newer", code=1)
    assert "can't be replayed" in refused


def test_a_choice_can_be_neither_changed_nor_removed(device: Device) -> None:
    device.call("models", "install", fake_package.version(device.folder / "better", "1.4.1"))
    device.call("models", "switch", MODEL, "1.4.1", "--why", "newer")
    with sqlite3.connect(device.config.ledger_path) as connection:
        for sql in ("UPDATE package_choice SET chosen_by = 'x'", "DELETE FROM package_choice"):
            with pytest.raises(sqlite3.IntegrityError):
                connection.execute(sql)


def test_the_configuration_can_decide_alone(device: Device) -> None:
    device.call("models", "install", fake_package.version(device.folder / "better", "1.4.1"))
    device.call("models", "switch", MODEL, "1.4.1", "--why", "newer")
    device.path.write_text(device.path.read_text().replace("[models]", "[models]\nswitches = false"))
    assert device.reads() == [str(fake_package.bundled())]
    refused = device.call("models", "rollback", MODEL, "--why", "x", code=1)
    assert "models.switches" in refused


@pytest.mark.long
def test_the_worker_goes_on_with_what_is_chosen_and_takes_back_what_it_cannot_serve(device: Device) -> None:
    config = device.config
    readiness = Readiness(config, Store(config.ledger_path))
    try:
        before = readiness.look_after()
        assert before is not None
        former = before.engines[0]
        device.call("models", "install", fake_package.version(device.folder / "better", "1.4.1"))
        device.call("models", "switch", MODEL, "1.4.1", "--why", "newer")
        after = readiness.look_after()
        assert after is before  # nothing else was interrupted
        assert [str(each.package) for each in after.engines] == [f"{MODEL} 1.4.1"]
        assert former.server.process is None or not former.server.process.is_alive()
        device.call("models", "install", fake_package.version(device.folder / "worse", "1.3.2"))
        device.call("models", "switch", MODEL, "1.3.2", "--why", "newest")
        for path in config.packages_path.glob("*1.3.2*"):
            path.write_bytes(b"broken")
        again = readiness.look_after()
        assert again is not None
        assert [str(each.package) for each in again.engines] == [f"{MODEL} 1.4.1"]
        assert device.history()[0]["kind"] == "fallback"
        assert "can't be served" in device.history()[0]["why"]
        assert device.reads() == [f"{MODEL} 1.4.1"]
        device.call("models", "switch", MODEL, "1.3.1", "--why", "back by name")
        last = readiness.look_after()
        assert last is not None
        assert [str(each.package) for each in last.engines] == [str(fake_package.bundled())]
    finally:
        readiness.close()


def _start(device: Device) -> list[str]:
    """What reads after a start of the worker."""
    readiness = Readiness(device.config, Store(device.config.ledger_path))
    try:
        opened = readiness.look_after()
        return [str(each.package) for each in opened.engines] if opened is not None else []
    finally:
        readiness.close()


def test_at_the_start_what_has_no_receipt_is_taken_back(device: Device) -> None:
    device.call("models", "install", fake_package.version(device.folder / "better", "1.4.1", keep=("openvino",)))
    store = PackageStore(device.config.ledger_path)
    (row,) = store.installed()
    store.choose(Choice(MODEL, "1.4.1", row["sha256"], fake_package.bundled().sha256, "switch", "Jo", "elsewhere"))
    assert _start(device) == [str(fake_package.bundled())] == device.reads()
    latest = device.history()[0]
    assert (latest["kind"], latest["version"]) == ("fallback", "1.3.1")
    assert "no inference backend can be used" in latest["why"]


@pytest.mark.long
def test_what_was_rolled_back_does_not_read_instead_of_what_can_not(device: Device) -> None:
    for folder, version in (("better", "1.4.1"), ("worse", "1.3.2")):
        device.call("models", "install", fake_package.version(device.folder / folder, version))
    device.call("models", "switch", MODEL, "1.4.1", "--why", "newer")
    device.call("models", "rollback", MODEL, "--why", "not good")
    device.call("models", "switch", MODEL, "1.3.2", "--why", "newest")
    for path in device.config.packages_path.glob("*1.3.2*"):
        path.unlink()
    assert _start(device) == [str(fake_package.bundled())]
    assert _start(device) == [str(fake_package.bundled())]
    assert [row["kind"] for row in device.history()] == ["fallback", "switch", "rollback", "switch"]  # once


@pytest.mark.long
def test_a_damaged_package_that_does_not_read_is_in_nobodys_way(device: Device) -> None:
    configured = device.folder / f"{MODEL}-1.3.1.scanside"
    configured.write_bytes(fake_package.BUNDLED[0].read_bytes())
    device.path.write_text(device.path.read_text().replace(str(fake_package.BUNDLED[0]), str(configured)))
    device.call("models", "install", fake_package.version(device.folder / "better", "1.4.1"))
    device.call("models", "switch", MODEL, "1.4.1", "--why", "newer")
    configured.write_bytes(b"broken")
    assert _start(device) == [f"{MODEL} 1.4.1"]
    assert len(device.history()) == 1
    assert "1.4.1" in device.call("models", "list")
    device.call("models", "rollback", MODEL, "--why", "its copy is still here")
    assert device.reads() == [str(fake_package.bundled())]
