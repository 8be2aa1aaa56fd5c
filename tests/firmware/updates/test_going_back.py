"""Back to the earlier system, by itself or by a person's word, and the ledger that it had."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from appliance.audit_store import AuditStore
from appliance.database import Database
from firmware import health, trial, update
from firmware.box import Box
from firmware.cli import main
from firmware.errors import FirmwareError
from tests.firmware.boxes import DyingFiles, PowerCut, loader_boots, start
from tests.firmware.updating import BROKEN, FINE, command, ledger, ledger_is, needs_rauc, on_trial, raise_


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


# --- by a person's word ---


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


def test_nothing_to_go_back_to(box: Box) -> None:
    assert "nothing to go back to" in command(box, "roll-back")


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


# --- the ledger ---


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


@pytest.mark.parametrize("link", ["spool", "spool/landing", "spool/landing/slot.part"])
@pytest.mark.parametrize("laid", ["before", "on trial"])
def test_root_follows_no_link_of_the_appliances_user_to_a_landing(box: Box, link: str, laid: str) -> None:
    """Into the configuration, say, which root alone writes."""
    landing, theirs = box.data / "spool" / "landing", box.configuration.parent / "landing"
    theirs.mkdir()
    (theirs / "theirs.part").write_bytes(b"root's")

    def lay() -> None:
        shutil.rmtree(box.data / link) if (box.data / link).is_dir() else (box.data / link).unlink(missing_ok=True)
        (box.data / link).parent.mkdir(parents=True, exist_ok=True)
        (box.data / link).symlink_to(theirs.parent if link == "spool" else theirs if link == "spool/landing" else "no")

    if laid == "before":
        lay()
    else:
        landing.mkdir(parents=True)
        (landing / "slot.part").write_bytes(b"acknowledged")
    ledger(box, 5, 3)
    entries = on_trial(box)
    trial.prepare(box)
    assert (theirs / "theirs.part").stat().st_nlink == 1
    if laid == "on trial":
        lay()
    (entries / "scanside-b+2-1.conf").rename(entries / "scanside-b+0-3.conf")
    start(box, "a", "1.0.0")
    trial.prepare(box)
    assert [path.name for path in theirs.iterdir()] == ["theirs.part"] and ledger_is(box) == (5, 3)
    if laid == "on trial":
        assert (landing / "slot.part").read_bytes() == b"acknowledged" and not landing.is_symlink()


@pytest.mark.parametrize(("name", "kind"), [("ledger.sqlite3", Database), ("audit.sqlite3", AuditStore)])
def test_an_earlier_appliance_gets_no_database_that_it_refuses(box: Box, name: str, kind: type[Database]) -> None:
    """Each by its own schema. Once the audit trail has a second one, this fails until `firmware.trial` puts it back,
    tells what was done on trial all the same, and `firmware.update.roll_back` compares it, too."""
    latest = 1 + len(kind.migrations)
    before = max(1, latest - 1)

    def open_with(version: int, line: str) -> None:
        with sqlite3.connect(box.data / name) as database:
            database.execute("CREATE TABLE IF NOT EXISTS line (content TEXT)")
            database.execute("INSERT INTO line VALUES (?)", (line,))
            database.execute(f"PRAGMA user_version = {version}")
        database.close()

    open_with(before, "before")
    entries = on_trial(box)
    trial.prepare(box)
    open_with(latest, "on trial")
    (entries / "scanside-b+2-1.conf").rename(entries / "scanside-b+0-3.conf")
    start(box, "a", "1.0.0")
    trial.prepare(box)
    with closing(sqlite3.connect(box.data / name)) as database:
        assert database.execute("PRAGMA user_version").fetchone()[0] == before
        lines = [line for (line,) in database.execute("SELECT content FROM line")]
    assert lines == (["before", "on trial"] if kind is AuditStore else ["before"])


def test_a_ledger_that_is_a_link_is_not_kept_aside(box: Box) -> None:
    """Its user would get what root alone may read."""
    ledger(box, 5, 3)
    (box.data / "ledger.sqlite3").rename(box.root / "of-root.sqlite3")
    (box.data / "ledger.sqlite3").symlink_to(box.root / "of-root.sqlite3")
    on_trial(box)
    with pytest.raises(FirmwareError, match=r"ledger.sqlite3 is a link"):
        trial.prepare(box)


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
