"""The verdict on the system that runs: what it does, an ESP that fails, and what waits until it is there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from firmware import handover, health, provisioning, signing, stick, trial, update
from firmware.box import Box
from firmware.durable import Files
from firmware.errors import RefusedError
from tests.firmware.boxes import loader_boots, loader_chose, start
from tests.firmware.updating import BROKEN, FINE, command, judged, needs_rauc, on_trial, raise_


def test_a_system_that_was_good_is_not_left_for_a_check_that_fails_today(box: Box) -> None:
    assert update.confirm(box, lambda: BROKEN) == "degraded"
    assert loader_boots(box.esp) == "a"
    assert box.history()[-1] == {"at": box.history()[-1]["at"], "event": "degraded", "slot": "a",
                                 "why": ["receipt: none yet"]}  # fmt: skip


def test_a_system_that_fails_is_left_although_data_can_not_be_written(box: Box) -> None:
    on_trial(box)
    (box.firmware_data / "history.jsonl").mkdir(parents=True)
    assert update.confirm(box, lambda: BROKEN) == "failed"
    assert loader_boots(box.esp) == "a"


def test_two_slots_that_did_not_prove_themselves_end_in_words_or_in_a_good_one(
    box: Box, systemctl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = on_trial(box)
    (entries / "scanside-b+2-1.conf").rename(entries / "scanside-b+0-3.conf")
    (entries / "scanside-a.conf").rename(entries / "scanside-a+0-3.conf")
    said = judged(box, BROKEN, monkeypatch)
    assert "neither slot has proved itself" in said and "this system is degraded" in said
    assert systemctl.read_text() == ""  # it would only come again
    assert not handover.take(box, box.root, print, by_hand=True).waits  # what mends it can be brought
    assert "no whole bundle" in command(box, "install", box.root / "proc" / "cmdline")
    assert "this system is good" in judged(box, FINE, monkeypatch)
    assert loader_boots(box.esp) == "b"


def test_a_check_that_can_not_run_sends_only_a_system_on_trial_back(
    box: Box, systemctl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "wait_until_fit", raise_(RuntimeError("nobody foresaw this")))
    assert command(box, "confirm").startswith("1") and systemctl.read_text() == ""
    on_trial(box)
    assert "nobody foresaw this" in command(box, "confirm")
    assert systemctl.read_text() == "reboot\n"


# --- an ESP that fails ---


@pytest.mark.parametrize("findings", [FINE, BROKEN])
def test_a_system_on_trial_without_its_esp_starts_again(
    box: Box, systemctl: Path, monkeypatch: pytest.MonkeyPatch, findings: list[health.Finding]
) -> None:
    """The loader, which can write to it, has counted the start."""
    on_trial(box)
    loader_chose(box, "scanside-b+3.conf", counted="\\loader\\entries\\scanside-b+2-1.conf")
    shutil.rmtree(box.esp / "loader")
    assert "slot b  trial  runs" in (said := command(box, "status")) and "slot a  unknown" in said
    said = judged(box, findings, monkeypatch)
    assert "this system is on trial and can't be judged: slot b has" in said and "this system is failed" in said
    assert systemctl.read_text() == "reboot\n"


@pytest.mark.parametrize("findings", [FINE, BROKEN])
@pytest.mark.parametrize("what", ["empty", "unreadable"])
def test_a_good_system_without_its_esp_goes_on(
    box: Box, systemctl: Path, monkeypatch: pytest.MonkeyPatch, findings: list[health.Finding], what: str
) -> None:
    loader_chose(box, "scanside-a.conf")
    if what == "empty":
        shutil.rmtree(box.esp)
    else:
        monkeypatch.setattr(Path, "read_text", unreadable(box.esp))
    said = judged(box, findings, monkeypatch)
    assert f"this system is {'good' if findings is FINE else 'degraded'}" in said
    assert systemctl.read_text() == "" and "slot a  good   runs" in command(box, "status")


@pytest.mark.parametrize("findings", [FINE, BROKEN])
def test_a_system_of_which_nothing_says_that_its_start_was_counted_goes_on(
    box: Box, systemctl: Path, monkeypatch: pytest.MonkeyPatch, findings: list[health.Finding]
) -> None:
    """Neither the ESP nor the EFI variables can be read: a good one would start again for ever."""
    shutil.rmtree(box.esp)
    said = judged(box, findings, monkeypatch)
    assert "the network stays closed: slot a has no entry" in said and "this system is degraded" in said
    assert systemctl.read_text() == "" and box.history()[-1]["event"] == "degraded"


def test_a_slot_that_can_not_be_read_is_not_written_over_by_a_system_on_trial(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = on_trial(box)
    before = (box.esp / "EFI/scanside/a.efi").read_text()
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_text", unreadable(entries / "scanside-a.conf"))
        assert "slot a  unknown" in command(box, "status")
        assert "runs on trial" in command(box, "before-install")
    assert (box.esp / "EFI/scanside/a.efi").read_text() == before
    assert loader_boots(box.esp) == "b"


def unreadable(folder: Path) -> object:
    read = Path.read_text

    def read_text(path: Path, *arguments: object, **how: object) -> str:
        if path.is_relative_to(folder):
            raise OSError(5, "Input/output error", str(path))
        return read(path, *arguments, **how)  # type: ignore[arg-type]

    return read_text


@pytest.mark.parametrize("findings", [FINE, BROKEN])
def test_a_system_on_trial_that_can_not_write_its_verdict_starts_again(
    box: Box, systemctl: Path, monkeypatch: pytest.MonkeyPatch, findings: list[health.Finding]
) -> None:
    on_trial(box)
    monkeypatch.setattr(Files, "copy", raise_(OSError(30, "Read-only file system")))
    assert "Read-only file system" in judged(box, findings, monkeypatch)
    assert systemctl.read_text() == "reboot\n" and box.history()[-1]["event"] == "failed"
    assert [loader_boots(box.esp) for _ in range(3)] == ["b", "b", "a"]


# --- what waits while a system is on trial ---


@needs_rauc
@pytest.mark.parametrize("proves_itself", [True, False])
def test_a_stick_with_an_update_and_a_configuration_that_only_the_update_reads(
    box: Box, second: Path, publisher: Path, systemctl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    proves_itself: bool,
) -> None:  # fmt: skip
    """The earlier system never meets it: neither on a fall-back, nor where the update stays."""
    shutil.copy(publisher / "site.pub", box.trust)
    box.configuration.with_name("box-id").write_text("5eedb0c5\n")
    labels = {"sda1": "ESP", "sdb1": "SCANSIDE", "sdc": "SCANSIDE", "dm-0": None}
    rows = [{"kname": name, "label": label} for name, label in labels.items()]
    program = systemctl.with_name("lsblk")
    program.write_text(f"#!/bin/sh\necho '{json.dumps({'blockdevices': rows})}'\n")
    program.chmod(0o755)
    program = systemctl.with_name("scanside")
    program.write_text(
        '#!/bin/sh\n[ "$1" = conformance ] && grep -q new_key "$3" && '
        f"! grep -q '\"2.0.0\"' {box.root}/usr/lib/scanside/image.json && "
        "{ echo 'scanside: web.new_key is not known' >&2; exit 1; }\nexit 0\n"
    )
    program.chmod(0o755)
    folder = tmp_path / "stick"
    folder.mkdir()
    shutil.copy(second, folder)
    (folder / "site.toml").write_text('[site]\nname = "x"\nversion = 2\n[appliance.web]\nnew_key = 1\n')
    signing.sign_file(folder / "site.toml", publisher / "site.key", provisioning.PURPOSE)
    restarts: list[bool] = []
    loaded: list[Box] = []
    before = box.configuration.read_text()

    def plugged() -> list[str]:
        return stick.take(box, folder, restart=lambda: restarts.append(True), reload=loaded.append)

    update.confirm(box, lambda: FINE)
    said = plugged()
    assert "web.new_key is not known" in said[0] and "is installed; the box starts again" in said[1] and restarts
    assert loader_boots(box.esp) == "b"
    start(box, "b", "2.0.0")
    trial.prepare(box)
    in_force = box.configuration.with_name("in-force.json")
    in_force.write_text('{"number": 3, "again": false}')
    loaded.clear()
    assert [line.partition(",")[0] for line in plugged()[:2]] == [
        "site.toml: waits until this system",
        "2.0.0-1-scanside-generic.raucb: waits until this system",
    ]
    assert "waits until this system" in (folder / "scanside-5eedb0c5" / "what-happened.txt").read_text()
    assert box.configuration.read_text() == before and not loaded
    in_force.unlink()
    with pytest.raises(RefusedError, match="runs on trial"):  # nor by hand
        provisioning.apply(box, folder / "site.toml")
    judged(box, FINE if proves_itself else BROKEN, monkeypatch)
    if proves_itself:
        units = "scanside-inbox.path scanside-stick@sdb1.service scanside-stick@sdc.service"
        assert systemctl.read_text() == f"start --no-block {units}\n"
        assert plugged()[0] == "site.toml: configuration 1 is in place" and loaded == [box]
        assert "new_key" in box.configuration.read_text()
        assert judged(box, FINE, monkeypatch) and len(systemctl.read_text().splitlines()) == 1
    else:
        assert systemctl.read_text() == "reboot\n"
        assert loader_boots(box.esp) == "a"
        start(box, "a", "1.0.0")
        trial.prepare(box)
        said = plugged()
        assert "web.new_key is not known" in said[0] and "did not prove itself" in said[1]
        assert box.configuration.read_text() == before and not loaded
