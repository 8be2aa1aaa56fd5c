"""Bundles: which are taken, and that what is installed is what was judged."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path

import pytest

from firmware import bundle, handover, keys, trial, update
from firmware.box import Box
from firmware.errors import FirmwareError, RefusedError
from firmware.incoming import alone, own_copy
from firmware.policy import Offered, Release, check, check_clock
from tests.firmware.boxes import BOARD, loader_boots, start
from tests.firmware.updating import BROKEN, FINE, command, ledger, ledger_is, make_bundle, needs_rauc, on_trial


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


def test_a_system_on_trial_takes_no_update(box: Box, tmp_path: Path) -> None:
    on_trial(box)
    assert "runs on trial" in command(box, "install", tmp_path / "any.raucb")


# --- on the way in ---


@needs_rauc
def test_an_install_that_breaks_off_changes_nothing(box: Box, second: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_RAUC_FAILS", "1")
    said = command(box, "install", second)
    assert said.startswith("1") and "No space left" in said and "slot a still starts" in said
    assert loader_boots(box.esp) == "a"
    monkeypatch.delenv("FAKE_RAUC_FAILS")
    assert "is installed" in command(box, "install", second)


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
    with alone(box), own_copy(box, tmp_path / "better.scanside") as mine:
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
