"""The data partition and a stick: who gets the recovery key, and what a stick can do where data does not open."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from firmware import datadisk, provisioning, service, stick
from firmware.box import Box
from firmware.durable import Files
from firmware.errors import FirmwareError
from tests.firmware.boxes import PowerCut, loader_chose
from tests.firmware.commissioning import RECOVERY_KEY, certify, site, waits


def test_the_first_stick_of_commissioning_gets_the_recovery_key(
    box: Box, publisher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits(box)
    folder, key = tmp_path / "stick", tmp_path / "stick" / "scanside-5eedb0c5" / "recovery-key.txt"
    site(folder, publisher).write_text("[site]")  # not what was signed
    (folder / "certificate.pem").write_bytes(certify(provisioning.request(box, "ai1")))
    stick.take(box, folder, restart=pytest.fail, reload=lambda _: None)
    assert not key.exists(), "anybody's stick got it"

    site(folder, publisher)
    with monkeypatch.context() as patched:
        patched.setattr(
            datadisk, "handed_over", lambda _: pytest.fail("it is on no stick yet") if not key.exists() else cut()
        )
        with pytest.raises(PowerCut):
            stick.take(box, folder, restart=pytest.fail, reload=lambda _: None)
    assert datadisk.recovery_key(box) == RECOVERY_KEY  # noted as handed over too late rather than too early
    heard = stick.take(box, folder, restart=pytest.fail, reload=lambda _: None)
    assert "the recovery key lies in scanside-5eedb0c5: keep it apart from the box; it is handed over once" in heard
    assert f"5eedb0c5:\n\n{RECOVERY_KEY}\n" in key.read_text() and "apart from the\nbox" in key.read_text()
    key.unlink()
    stick.take(box, folder, restart=pytest.fail, reload=lambda _: None)
    assert not key.exists() and not datadisk.recovery_key(box)


def cut() -> None:
    raise PowerCut


def test_a_stick_that_can_not_be_written_does_not_count_as_handed_over(
    box: Box, publisher: Path, tmp_path: Path
) -> None:
    waits(box)
    folder = tmp_path / "stick"
    site(folder, publisher)
    (folder / "scanside-5eedb0c5").write_text("in the way")
    said = stick.take(box, folder, restart=pytest.fail, reload=lambda _: None)
    assert said[-2].startswith("the stick can't be written")
    assert datadisk.recovery_key(box) == RECOVERY_KEY


# --- where data does not open ---


@pytest.fixture
def closed(box: Box) -> Box:
    """Its data partition did not open at this start."""
    Files().write(box.notes / "box-id", b"5eedb0c5\n")
    shutil.rmtree(box.root / "data")
    Files().write(box.runtime / "data.json", b'{"failed": "the TPM does not open the data partition"}')
    return box


def test_a_stick_says_why_data_does_not_open_and_takes_nothing_else(
    closed: Box, publisher: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "stick"
    site(folder, publisher)
    (folder / "update.raucb").write_bytes(b"no bundle")
    said = stick.take(closed, folder, restart=pytest.fail, reload=pytest.fail)
    assert said[0] == "the data partition did not open: the TPM does not open the data partition"
    assert said[1] == "service.token for box 5eedb0c5 on a stick opens a shell, in which factory-reset works, too"
    assert not any("site.toml" in line or "raucb" in line for line in said)
    answer = folder / "scanside-5eedb0c5"
    assert said[0] in (answer / "what-happened.txt").read_text()
    assert (answer / "journal.txt").exists() and not (answer / "request.csr").exists()


def test_a_stick_invites_nothing_where_a_second_disk_keeps_data_closed(closed: Box, tmp_path: Path) -> None:
    """The ESP is not mounted then, either, so no token is known to be this box's."""
    shutil.rmtree(closed.esp)
    loader_chose(closed, "scanside-a.conf")
    (tmp_path / "stick").mkdir()
    Files().write(closed.runtime / "data.json", b'{"failed": "two disks (unplug one)"}')
    said = stick.take(closed, tmp_path / "stick", restart=pytest.fail, reload=pytest.fail)
    assert said == [
        "the data partition did not open: two disks (unplug one)",
        "what happened lies on the stick in scanside-without-identity, with logs",
    ]


def test_a_recovery_key_on_a_stick_starts_the_box_again(
    closed: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "stick"
    folder.mkdir()
    (folder / "recovery-key.txt").write_text(RECOVERY_KEY)
    given, restarted = [], []
    monkeypatch.setattr(datadisk, "recover", lambda box, text: given.append((box, text)) or "the TPM opens it")
    said = stick.take(closed, folder, restart=lambda: restarted.append(True), reload=pytest.fail)
    assert "recovery-key.txt: the TPM opens it" in said and given == [(closed, RECOVERY_KEY)] and restarted == [True]

    def refused(*_: object) -> str:
        raise FirmwareError("another box's")

    monkeypatch.setattr(datadisk, "recover", refused)
    said = stick.take(closed, folder, restart=pytest.fail, reload=pytest.fail)
    assert "recovery-key.txt: REFUSED: another box's" in said


def test_a_service_token_opens_a_shell_where_data_does_not_open(closed: Box, publisher: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stick"
    folder.mkdir()
    program = tmp_path / "bin" / "systemd-run"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/shell\n")
    program.chmod(0o755)
    (closed.root / "data").write_text("the root is read-only")
    (folder / "service.token").write_text(service.make("other", 4, publisher / "site.key", "x"))
    said = stick.take(closed, folder, restart=pytest.fail, reload=pytest.fail)
    assert "service.token: REFUSED: the service token is for box other, and this is 5eedb0c5" in said
    assert not (tmp_path / "shell").exists()
    (folder / "service.token").write_text(service.make("5eedb0c5", 4, publisher / "site.key", "A. Engineer"))
    said = stick.take(closed, folder, restart=pytest.fail, reload=pytest.fail)
    assert any(line.startswith("service.token: service mode for A. Engineer") for line in said)
    assert (tmp_path / "shell").exists()
