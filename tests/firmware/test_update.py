"""Updates on a box that is a folder: what is taken, what proves itself, what falls back, and the ledger through it."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from firmware import bundle, handover, health, keys, provisioning, signing, stick, trial, update
from firmware.box import Box
from firmware.cli import main
from firmware.durable import Files
from firmware.errors import FirmwareError, RefusedError
from firmware.incoming import own_copy
from firmware.policy import Offered, Release, check, check_clock
from tests.firmware.boxes import BOARD, DyingFiles, PowerCut, loader_boots, loader_chose, make_box, start

RAUC = shutil.which("rauc")
needs_rauc = pytest.mark.skipif(
    RAUC is None or shutil.which("mksquashfs") is None, reason="Debian packages rauc and squashfs-tools"
)
FINE = [health.Finding("service", ok=True, detail="runs")]
BROKEN = [health.Finding("receipt", ok=False, detail="none yet"), *FINE]


@pytest.fixture(scope="session")
def publisher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    keys.make(folder)
    return folder


def make_bundle(folder: Path, keys_: Path, version: str = "2.0.0", epoch: int = 1, board: str = BOARD) -> Path:
    content = folder / f"content-{version}"
    content.mkdir(parents=True)
    (content / "root.img").write_bytes(os.urandom(700_000))
    for slot in ("a", "b"):
        (content / f"{slot}.efi").write_text(f"{slot} {version}|whole")
    target = folder / f"{version}-{epoch}-{board}.raucb"
    bundle.make(content, Offered(version, epoch, board), keys_, target)
    return target


@pytest.fixture(scope="session")
def second(publisher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if RAUC is None:
        pytest.skip("Debian package rauc")
    return make_bundle(tmp_path_factory.mktemp("bundle"), publisher)


@pytest.fixture
def box(tmp_path: Path, publisher: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    made = make_box(tmp_path / "box")
    shutil.copy(publisher / "update-ca.pem", made.trust)
    stand_ins = Path(__file__).parent / "stand_ins"
    monkeypatch.setenv("PATH", f"{stand_ins}:{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("REAL_RAUC", RAUC or "")
    monkeypatch.setenv("FAKE_BOX", str(made.root))
    content = tmp_path / "mounted"
    content.mkdir()
    for slot in ("a", "b"):
        (content / f"{slot}.efi").write_text(f"{slot} 2.0.0|whole")
    monkeypatch.setenv("RAUC_BUNDLE_MOUNT_POINT", str(content))
    return made


def command(box: Box, *arguments: str | Path) -> str:
    done = CliRunner().invoke(main, ["update", *map(str, arguments), "--root", str(box.root)])
    return f"{done.exit_code} {done.output}"


def ledger(box: Box, version: int, rows: int) -> None:
    """As an appliance leaves it: WAL, not closed."""
    with sqlite3.connect(box.data / "ledger.sqlite3") as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE IF NOT EXISTS instances (uid TEXT)")
        connection.executemany("INSERT INTO instances VALUES (?)", [(f"1.2.{n}",) for n in range(rows)])
        connection.execute(f"PRAGMA user_version = {version}")
    connection.close()


def ledger_is(box: Box) -> tuple[int, int]:
    connection = sqlite3.connect(box.data / "ledger.sqlite3")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    count = connection.execute("SELECT count(*) FROM instances").fetchone()[0]
    connection.close()
    return version, count


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What systemctl was asked for, a line each."""
    program, asked = tmp_path / "system" / "systemctl", tmp_path / "system" / "asked"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    program.chmod(0o755)
    asked.touch()
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return asked


def judged(box: Box, findings: list[health.Finding], monkeypatch: pytest.MonkeyPatch) -> str:
    """``update confirm``, as the box calls it after each start."""
    with monkeypatch.context() as patched:
        patched.setattr(health, "wait_until_fit", lambda look, seconds, say: findings)
        patched.setattr(time, "sleep", lambda seconds: None)
        return command(box, "confirm")


def on_trial(box: Box) -> Path:
    """Version 2.0.0 runs in slot b for the first time; the folder of the loader's entries."""
    entries = box.esp / "loader" / "entries"
    (box.esp / "EFI/scanside/b.efi").write_text("b 2.0.0|whole")
    (entries / "scanside-b+2-1.conf").write_text("version 2\nefi /EFI/scanside/b.efi\n")
    start(box, "b", "2.0.0")
    return entries


# --- the whole way ---


@needs_rauc
def test_an_update_is_installed_tried_and_kept(box: Box, second: Path) -> None:
    ledger(box, 5, 3)
    assert update.confirm(box, lambda: FINE) == "good"
    assert "is installed" in command(box, "install", second)
    assert loader_boots(box.esp) == "b"
    start(box, "b", "2.0.0")
    assert "kept aside" in trial.prepare(box)
    ledger(box, 6, 1)  # the new version brings it to its own schema
    assert update.confirm(box, lambda: FINE) == "good"
    assert trial.prepare(box) == ""
    assert ledger_is(box) == (6, 4)
    assert box.floor() == Release("2.0.0", 1)
    said = command(box, "status")
    assert "slot b  good   runs, starts next" in said, said
    assert [line["event"] for line in box.history()] == ["installed", "good"]


@needs_rauc
def test_an_update_that_fails_its_check_falls_back_with_its_ledger(
    box: Box, second: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger(box, 5, 3)
    command(box, "install", second)
    assert loader_boots(box.esp) == "b"
    start(box, "b", "2.0.0")
    trial.prepare(box)
    ledger(box, 6, 1)
    said: list[str] = []
    with monkeypatch.context() as patched:
        patched.setattr(health, "wait_until_fit", lambda look, seconds, say: BROKEN)
        patched.setattr(time, "sleep", lambda seconds: said.append(f"{seconds:g} s to read it"))
        patched.setattr(update, "restart", lambda: said.append("restart"))
        patched.setattr(click, "echo", said.append)
        command(box, "confirm")
    assert said[-3:] == ["this system is failed", "2 s to read it", "restart"]
    assert loader_boots(box.esp) == "a"
    start(box, "a", "1.0.0")
    assert "did not prove itself" in trial.prepare(box)
    assert ledger_is(box) == (5, 3)
    assert trial.prepare(box) == ""
    assert box.history()[-1]["event"] == "fell_back"
    assert update.confirm(box, lambda: FINE) == "good"
    assert "slot b  bad" in command(box, "status")


@needs_rauc
def test_an_update_that_hangs_falls_back_with_its_ledger(box: Box, second: Path) -> None:
    """It never gets as far as its check; the loader counts."""
    ledger(box, 5, 3)
    command(box, "install", second)
    for _ in range(3):
        assert loader_boots(box.esp) == "b"
        start(box, "b", "2.0.0")
        trial.prepare(box)
        ledger(box, 6, 1)
    assert loader_boots(box.esp) == "a"
    start(box, "a", "1.0.0")
    trial.prepare(box)
    assert ledger_is(box) == (5, 3)


@needs_rauc
def test_an_update_that_hangs_is_not_tried_again_from_a_stick_that_is_still_there(box: Box, second: Path) -> None:
    def brought() -> str:
        (said,) = handover.take(box, second.parent, print, by_hand=True).said
        return said

    assert "is installed" in brought()
    for _ in range(3):
        assert loader_boots(box.esp) == "b"
        start(box, "b", "2.0.0")
    assert loader_boots(box.esp) == "a"
    start(box, "a", "1.0.0")
    assert "was tried here and used up its starts; take a later bundle, or try this one again" in brought()
    assert loader_boots(box.esp) == "a"
    assert "is installed" in command(box, "install", second)  # who stands at the box may


@needs_rauc
def test_a_security_release_of_the_same_version_is_another_release(box: Box, publisher: Path, tmp_path: Path) -> None:
    """Debian's updates alone: the appliance is as it was, and only the epoch rises."""
    folder = tmp_path / "stick"
    make_bundle(folder, publisher, "1.0.0", epoch=2)
    shutil.rmtree(folder / "content-1.0.0")

    def brought() -> str:
        (said,) = handover.take(box, folder, print, by_hand=True).said
        return said

    box.remember("failed", slot="b", version="1.0.0", epoch=1, why=["receipt: none yet"])
    assert "1.0.0 (epoch 2) is installed" in brought()
    assert loader_boots(box.esp) == "b"
    start(box, "b", "1.0.0", epoch=2)
    assert update.confirm(box, lambda: BROKEN) == "failed"
    assert box.history()[-1]["epoch"] == 2
    start(box, "a", "1.0.0", epoch=1)
    assert "1.0.0 (epoch 2) was tried here and did not prove itself: ['receipt: none yet']; take a later" in brought()
    start(box, "a", "1.0.0", epoch=2)
    assert "1.0.0 (epoch 2) runs already" in brought()


@needs_rauc
def test_a_failure_that_an_earlier_version_noted_counts_for_its_version(box: Box, second: Path) -> None:
    box.remember("failed", slot="b", version="2.0.0", why=["receipt: none yet"])
    assert "was tried here and did not prove itself" in handover.take(box, second.parent, print, by_hand=True).said[0]


@needs_rauc
def test_an_install_that_breaks_off_changes_nothing(box: Box, second: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_RAUC_FAILS", "1")
    said = command(box, "install", second)
    assert said.startswith("1") and "No space left" in said and "slot a still starts" in said
    assert loader_boots(box.esp) == "a"
    monkeypatch.delenv("FAKE_RAUC_FAILS")
    assert "is installed" in command(box, "install", second)


@needs_rauc
def test_a_person_goes_back(box: Box, second: Path) -> None:
    update.confirm(box, lambda: FINE)
    command(box, "install", second)
    loader_boots(box.esp)
    start(box, "b", "2.0.0")
    update.confirm(box, lambda: FINE)
    assert "starts next" in command(box, "roll-back")
    assert loader_boots(box.esp) == "a"


@needs_rauc
@pytest.mark.parametrize("known", [True, False])
def test_a_person_does_not_go_back_to_an_earlier_epoch(box: Box, second: Path, known: bool) -> None:
    if known:
        update.confirm(box, lambda: FINE)
    command(box, "install", second)
    loader_boots(box.esp)
    start(box, "b", "2.0.0", epoch=2 if known else 1)
    box.boot().mark_good("b")
    box.raise_floor("b", None)  # a cut comes before the earlier system is discarded
    assert f"slot a is of {'epoch 1' if known else 'an unknown epoch'}" in command(box, "roll-back")
    assert update.confirm(box, lambda: FINE) == "good"
    assert [path.name for path in (box.esp / "loader" / "entries").iterdir()] == ["scanside-b.conf"]
    assert [path.name for path in (box.esp / "EFI" / "scanside").iterdir()] == ["b.efi"]
    assert "slot a is empty" in command(box, "roll-back")
    assert loader_boots(box.esp) == "b"


@needs_rauc
def test_an_update_of_the_same_epoch_keeps_the_way_back(box: Box, second: Path) -> None:
    update.confirm(box, lambda: FINE)
    command(box, "install", second)
    assert update.confirm(box, lambda: FINE) == "good"  # what is to be tried next stays, too
    assert loader_boots(box.esp) == "b"
    start(box, "b", "2.0.0")
    update.confirm(box, lambda: FINE)
    assert box.boot().state("a") == "good"


def good_in_b(box: Box) -> None:
    """Both slots proved themselves, b runs."""
    update.confirm(box, lambda: FINE)
    on_trial(box)
    trial.prepare(box)


@pytest.mark.parametrize("schema", [5, 6])
def test_a_person_does_not_go_back_to_a_system_that_refuses_the_ledger(box: Box, schema: int) -> None:
    ledger(box, 5, 3)
    good_in_b(box)
    ledger(box, schema, 1)
    update.confirm(box, lambda: FINE)
    said = command(box, "roll-back")
    if schema == 5:
        assert "starts next" in said
    else:
        assert "was good with a ledger of version 5, and this box's is of version 6 by now" in said
    assert loader_boots(box.esp) == ("a" if schema == 5 else "b")


def test_a_person_goes_back_from_a_system_on_trial(box: Box, systemctl: Path) -> None:
    """The good one stays good, and has its ledger again."""
    ledger(box, 5, 3)
    good_in_b(box)
    ledger(box, 6, 1)
    assert "given up" in command(box, "roll-back")
    assert systemctl.read_text() == "reboot\n"
    assert [loader_boots(box.esp) for _ in range(5)] == ["a"] * 5
    start(box, "a", "1.0.0")
    assert box.boot().state("a") == "good" and box.boot().state("b") == "bad"
    assert "did not prove itself" in trial.prepare(box)
    assert ledger_is(box) == (5, 3)


def test_the_ledger_comes_back_although_the_system_that_comes_after_is_on_trial_itself(box: Box) -> None:
    ledger(box, 5, 3)
    entries = on_trial(box)
    trial.prepare(box)
    ledger(box, 6, 1)
    (entries / "scanside-b+2-1.conf").rename(entries / "scanside-b+0-3.conf")
    (entries / "scanside-a.conf").rename(entries / "scanside-a+2-1.conf")
    start(box, "a", "1.0.0")
    assert "did not prove itself" in trial.prepare(box)
    assert ledger_is(box) == (5, 3)
    assert update.confirm(box, lambda: FINE) == "good"
    assert trial.prepare(box) == "" and ledger_is(box) == (5, 3)


def test_a_ledger_that_was_kept_for_a_system_that_is_good_never_comes_back(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cut came before it was removed; images were acknowledged since, then a person goes back."""
    ledger(box, 5, 3)
    good_in_b(box)
    with monkeypatch.context() as patched, pytest.raises(PowerCut):
        patched.setattr(trial, "forget", raise_(PowerCut()))
        update.confirm(box, lambda: FINE)
    ledger(box, 5, 4)
    box.raise_floor("b", 5)
    assert "starts next" in command(box, "roll-back")
    assert loader_boots(box.esp) == "a"
    start(box, "a", "1.0.0")
    assert trial.prepare(box) == "the ledger is kept aside until this system has proved itself"
    assert ledger_is(box) == (5, 7)
    box.boot().mark_bad("a")
    start(box, "b", "2.0.0")
    trial.prepare(box)
    assert ledger_is(box) == (5, 7)


def raise_(error: BaseException) -> object:
    def act(*_: object, **__: object) -> None:
        raise error

    return act


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


def test_a_check_that_can_not_run_sends_only_a_system_on_trial_back(
    box: Box, systemctl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "wait_until_fit", raise_(RuntimeError("nobody foresaw this")))
    assert command(box, "confirm").startswith("1") and systemctl.read_text() == ""
    on_trial(box)
    assert "nobody foresaw this" in command(box, "confirm")
    assert systemctl.read_text() == "reboot\n"


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


@needs_rauc
def test_what_is_installed_is_what_was_judged(
    box: Box, second: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stick that answers otherwise the second time."""
    stick, judged = tmp_path / "stick.raucb", update.judge
    shutil.copy(second, stick)

    def judge(box: Box, path: Path, allow_older: bool = False) -> Offered:
        offered = judged(box, path, allow_older)
        stick.write_bytes(b"evil")
        return offered

    monkeypatch.setattr(update, "judge", judge)
    monkeypatch.setenv("FAKE_RAUC_READS", str(tmp_path / "read"))
    assert "is installed" in command(box, "install", stick)
    assert (tmp_path / "read").read_bytes() == second.read_bytes()
    assert not list(box.incoming.iterdir())


@needs_rauc
def test_two_sticks_at_once_do_not_change_what_the_other_brought(
    box: Box, second: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sticks, judged, said = [tmp_path / name / "new.raucb" for name in ("one", "two")], update.judge, []
    for each in sticks:
        each.parent.mkdir()
    shutil.copy(second, sticks[0])
    sticks[1].write_bytes(b"evil")

    def bring_the_other() -> None:
        try:
            update.install(box, sticks[1], lambda percent, what: None)
        except FirmwareError as error:
            said.append(error.message)

    other = threading.Thread(target=bring_the_other)

    def judge(box: Box, path: Path, allow_older: bool = False) -> Offered:
        offered = judged(box, path, allow_older)
        if not other.ident:
            other.start()
            other.join(timeout=2)
        return offered

    monkeypatch.setattr(update, "judge", judge)
    monkeypatch.setenv("FAKE_RAUC_READS", str(tmp_path / "read"))
    assert "is installed" in command(box, "install", sticks[0])
    assert (tmp_path / "read").read_bytes() == second.read_bytes()
    other.join()
    assert "no whole bundle" in said[0] and not list(box.incoming.iterdir())


def test_what_is_taken_can_be_read_by_the_appliance_and_held_up_by_root_alone(box: Box, tmp_path: Path) -> None:
    (tmp_path / "better.scanside").touch()
    with own_copy(box, tmp_path / "better.scanside") as mine:
        assert mine.parent.stat().st_mode & 0o777 == 0o755
        (lock,) = box.runtime.glob("*.lock")
        assert lock.stat().st_mode & 0o777 == 0o600


@needs_rauc
def test_an_update_without_room_says_so(box: Box, second: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 30, 1 << 30, 9 << 20))
    assert "the data partition only 9 MiB left" in command(box, "install", second)
    assert loader_boots(box.esp) == "a"


def test_what_a_cut_left_of_a_copy_goes_at_the_next_start(box: Box) -> None:
    (box.incoming / "update").mkdir(parents=True)
    (box.incoming / "update" / "half.raucb").touch()
    inbox, elsewhere = box.data / "inbox", box.root / "elsewhere"
    for folder in (inbox, elsewhere):
        folder.mkdir()
        for name in (".2.0.0.raucb.part", "2.0.0.raucb.part", "whole.raucb"):
            (folder / name).touch()
    trial.prepare(box)
    assert not box.incoming.exists()
    assert [path.name for path in inbox.iterdir()] == ["whole.raucb"]
    shutil.rmtree(inbox)
    inbox.symlink_to(elsewhere)
    trial.prepare(box)
    assert len(list(elsewhere.iterdir())) == 3


def test_nothing_to_go_back_to(box: Box) -> None:
    assert "nothing to go back to" in command(box, "roll-back")


def test_a_system_on_trial_takes_no_update(box: Box, tmp_path: Path) -> None:
    on_trial(box)
    assert "runs on trial" in command(box, "install", tmp_path / "any.raucb")


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


def test_what_a_power_cut_left_in_the_landing_survives_a_fall_back(box: Box) -> None:
    """The new system gives it a row in its own ledger, and takes the slot away; the earlier ledger has no row of it."""
    slot, other = box.data / "spool" / "landing" / "slot.part", box.data / "spool" / "landing" / "later.part"
    slot.parent.mkdir(parents=True)
    slot.write_bytes(b"acknowledged")
    ledger(box, 5, 3)
    entries = on_trial(box)
    trial.prepare(box)
    slot.unlink()
    other.write_bytes(b"")  # one that the new system made ahead of time
    (entries / "scanside-b+2-1.conf").rename(entries / "scanside-b+0-3.conf")
    start(box, "a", "1.0.0")
    trial.prepare(box)
    assert slot.read_bytes() == b"acknowledged" and other.exists() and slot.stat().st_nlink == 1


@pytest.mark.parametrize("cut", ["half", "mark"])
def test_a_power_cut_while_the_ledger_is_kept_or_brought_back(box: Box, cut: str) -> None:
    ledger(box, 5, 3)
    entries = on_trial(box)
    kept = box.firmware_data / "before-trial"
    if cut == "half":  # no mark: it is made again
        kept.mkdir(parents=True)
        (kept / "ledger.sqlite3").write_bytes(b"half")
    trial.prepare(box)
    ledger(box, 6, 9)
    if cut == "mark":  # the next boot on trial must not keep the later ledger instead
        trial.prepare(box)
    (entries / "scanside-b+2-1.conf").rename(entries / "scanside-b+0-3.conf")
    start(box, "a", "1.0.0")
    trial.prepare(box)
    assert ledger_is(box) == (5, 3)


@pytest.mark.parametrize("kept_by", ["this version", "an earlier version"])
def test_the_ledger_comes_back_without_room_and_as_the_appliances_own(box: Box, kept_by: str) -> None:
    ledger(box, 5, 3)
    if os.geteuid() == 0:
        os.chown(box.data, 65534, 65533)
    entries = on_trial(box)
    trial.prepare(box)
    if kept_by == "an earlier version":
        (box.firmware_data / "before-trial" / "ledger.sqlite3").chmod(0o644)
    ledger(box, 6, 9)
    (entries / "scanside-b+2-1.conf").rename(entries / "scanside-b+0-3.conf")
    start(box, "a", "1.0.0")
    with no_room():
        trial.prepare(box)
    there = (box.data / "ledger.sqlite3").stat()
    assert ledger_is(box) == (5, 3) and there.st_mode & 0o777 == 0o600
    assert (there.st_uid, there.st_gid) == (box.data.stat().st_uid, box.data.stat().st_gid)


@contextmanager
def no_room() -> Iterator[None]:
    """No file can grow."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def test_a_ledger_that_can_not_be_kept_aside_is_said_in_a_sentence(box: Box) -> None:
    ledger(box, 5, 3)
    on_trial(box)
    with no_room():
        done = CliRunner().invoke(main, ["update", "prepare-start", "--root", str(box.root)])
    assert done.exit_code == 1 and "the ledger can't be kept aside: " in done.output, done.output


def test_a_power_cut_at_any_step_of_bringing_the_ledger_back(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """The later ledger's log is still there, and must not be read into the one that comes back."""
    ledger(box, 5, 3)
    entries = on_trial(box)
    trial.prepare(box)
    ledger(box, 6, 9)
    for ending in ("-wal", "-shm"):
        (box.data / f"ledger.sqlite3{ending}").write_bytes(b"of the later ledger")
    (entries / "scanside-b+2-1.conf").rename(entries / "scanside-b+0-3.conf")
    start(box, "a", "1.0.0")
    shutil.copytree(box.root, whole := box.root.with_name("whole"), symlinks=True)
    for alive in range(20):
        shutil.rmtree(box.root)
        shutil.copytree(whole, box.root, symlinks=True)
        files = DyingFiles(alive)
        try:
            with monkeypatch.context() as patched:
                patched.setattr(trial, "Files", lambda files=files: files)
                trial.prepare(box)
        except PowerCut:
            trial.prepare(box)
            assert not list(box.data.glob("ledger.sqlite3-*")) and ledger_is(box) == (5, 3)
        else:
            assert alive == 5, "the log's three files, the rename, the mark"
            break


# --- what is taken ---


@needs_rauc
def test_bundles_that_are_turned_away(box: Box, second: Path, publisher: Path, tmp_path: Path) -> None:
    before = sorted((path.name, path.read_bytes()) for path in box.esp.rglob("*") if path.is_file())
    content = bytearray(second.read_bytes())
    content[len(content) // 2] ^= 1
    tampered = tmp_path / "tampered.raucb"
    tampered.write_bytes(content)
    half = tmp_path / "half.raucb"
    half.write_bytes(second.read_bytes()[: len(content) // 2])
    empty = tmp_path / "empty.raucb"
    empty.touch()
    keys.make(tmp_path / "stranger")
    foreign = make_bundle(tmp_path / "1", tmp_path / "stranger")
    other_board = make_bundle(tmp_path / "2", publisher, board="scanside-jetson-orin")
    older = make_bundle(tmp_path / "3", publisher, "0.9.0")
    older_epoch = make_bundle(tmp_path / "4", publisher, "3.0.0", epoch=0)
    for path, word in (
        (tampered, "changed after it was signed"),
        (half, "no whole bundle"),
        (empty, "no whole bundle"),
        (foreign, "was not signed for this box"),
        (other_board, "is for scanside-jetson-orin, and this box is scanside-generic"),
        (older, "older than 1.0.0 (epoch 1), which ran here"),
        (older_epoch, "older than a security release"),
        (tmp_path / "not-there.raucb", "there is no bundle"),
    ):
        said = command(box, "install", path)
        assert said.startswith("1 ") and word in said, said
        assert box.history()[-1]["event"] == "refused"
    after = sorted((path.name, path.read_bytes()) for path in box.esp.rglob("*") if path.is_file())
    assert before == after
    assert "and for this box" in command(box, "check", older, "--allow-older")
    assert "older than a security release" in command(box, "check", older_epoch, "--allow-older")


@needs_rauc
def test_a_certificate_that_ran_out(box: Box, publisher: Path, tmp_path: Path) -> None:
    import time

    mine = shutil.copytree(publisher, tmp_path / "keys")
    keys.sign_release(mine, "short-lived", 4 / 86400)
    path = make_bundle(tmp_path, mine)
    time.sleep(4)
    with pytest.raises(RefusedError, match=r"does not count now.*signed anew") as caught:
        bundle.verify(path, box.trust / "update-ca.pem")
    assert "clock" in caught.value.hint


def test_a_clock_at_1970(box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = json.loads((box.root / "usr/lib/scanside/image.json").read_text())
    (box.root / "usr/lib/scanside/image.json").write_text(json.dumps({**image, "built_at": 9e9}))
    assert "it moves the clock forward" in command(box, "install", tmp_path / "any.raucb")
    with pytest.raises(RefusedError, match="1970-01-01"):
        check_clock(1.7e9, now=60.0)


def test_versions_in_their_order() -> None:
    order = ["0.9.9", "1.0.0-alpha", "1.0.0-rc.2", "1.0.0-rc.10", "1.0.0", "1.0.1", "1.10.0", "2.0.0"]
    ranked = sorted((Release(version, 1) for version in reversed(order)), key=Release.key)
    assert [each.version for each in ranked] == order
    assert Release("0.0.1", 2).key() > Release("9.9.9", 1).key()
    with pytest.raises(FirmwareError, match="is not a version"):
        Release("1.0", 1).key()


@pytest.mark.parametrize("version", ["1.0.0", "1.0.1"])
def test_the_same_and_later_versions_are_taken(version: str) -> None:
    check(Offered(version, 1, BOARD), BOARD, Release("1.0.0", 1))


def test_a_factory_reset_does_not_lower_the_floor_below_the_image(box: Box) -> None:
    start(box, "a", "3.0.0", epoch=2)
    shutil.rmtree(box.firmware_data, ignore_errors=True)
    assert box.floor() == Release("3.0.0", 2)
    box.firmware_data.mkdir(parents=True)
    (box.firmware_data / "state.json").write_text("torn{")
    assert box.floor() == Release("3.0.0", 2)


def test_keys_never_in_a_repository(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    with pytest.raises(FirmwareError, match="lies in the repository"):
        keys.make(tmp_path / "sub" / "keys")


def test_keys_are_secret_and_kept(publisher: Path) -> None:
    for path in publisher.glob("*.key"):
        assert path.stat().st_mode & 0o077 == 0, path
    assert keys.make(publisher) == []
