"""The boot state on a fake ESP: whatever is cut wherever, a whole system that was good, or the new one, starts."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware import update
from firmware.boot import SLOTS, TRIES, BootBackend
from firmware.boot.sd_boot import SdBoot
from firmware.box import Box
from firmware.durable import Files
from firmware.errors import FirmwareError
from tests.firmware.boxes import (
    DoublingFiles,
    DyingFiles,
    EmptyingFiles,
    PowerCut,
    every_cut,
    kernels,
    loader_boots,
    make_box,
    make_esp,
    start,
)


def sd_boot(esp: Path, runs: str = "a", files: Files | None = None) -> SdBoot:
    return SdBoot(esp, f"root=x rauc.slot={runs}", files)


def install(esp: Path, files: Files, runs: str = "a") -> None:
    """What an update does to the ESP; the root is written between the second and the third."""
    boot, target = sd_boot(esp, runs, files), "b" if runs == "a" else "a"
    boot.close(target)
    boot.put_kernel(target, kernels(esp.parent / "bundle", "2.0.0"))
    boot.try_next(target, "Scanside 2.0.0")


def fresh(tmp_path: Path) -> Callable[[], Path]:
    numbers = itertools.count()
    return lambda: make_esp(tmp_path / str(next(numbers)) / "esp")


def test_an_update_that_proves_itself_stays(tmp_path: Path) -> None:
    esp = make_esp(tmp_path / "esp")
    assert loader_boots(esp) == "a"
    install(esp, Files())
    assert sd_boot(esp).state("b") == "trial"
    assert loader_boots(esp) == "b"
    sd_boot(esp, "b").mark_good("b")
    assert [loader_boots(esp) for _ in range(5)] == ["b"] * 5
    install(esp, Files(), runs="b")
    assert loader_boots(esp) == "a"  # the next one goes into the first slot again


def test_an_update_that_never_answers_is_left_after_its_tries(tmp_path: Path) -> None:
    esp = make_esp(tmp_path / "esp")
    install(esp, Files())
    assert [loader_boots(esp) for _ in range(TRIES + 3)] == ["b"] * TRIES + ["a"] * 3
    assert sd_boot(esp).state("b") == "bad"
    assert sd_boot(esp).primary() == "a"


def test_an_update_that_fails_its_check_is_left_at_once(tmp_path: Path) -> None:
    esp = make_esp(tmp_path / "esp")
    install(esp, Files())
    assert loader_boots(esp) == "b"
    sd_boot(esp, "b").mark_bad("b")
    assert [loader_boots(esp) for _ in range(3)] == ["a"] * 3


@pytest.mark.parametrize("kind", [DyingFiles, DoublingFiles, EmptyingFiles])
def test_a_power_cut_at_any_step_of_an_install(tmp_path: Path, kind: type[DyingFiles]) -> None:
    cuts = 0
    for esp in every_cut(fresh(tmp_path), install, kind):
        cuts += 1
        assert loader_boots(shutil.copytree(esp, esp.parent / "look")) in ("a", "b")
        install(esp, Files())  # it is done again, and nothing stands in its way
        assert loader_boots(esp) == "b"
    assert cuts > 4


@pytest.mark.parametrize("kind", [DyingFiles, DoublingFiles, EmptyingFiles])
def test_a_power_cut_at_any_step_over_an_older_system(tmp_path: Path, kind: type[DyingFiles]) -> None:
    """Both slots are good, b runs; a's kernel is replaced. What starts is b until a is whole and new."""
    numbers = itertools.count()

    def both() -> Path:
        esp = make_esp(tmp_path / str(next(numbers)) / "esp")
        install(esp, Files())
        sd_boot(esp, "b").mark_good("b")
        return esp

    for esp in every_cut(both, lambda esp, files: install(esp, files, "b"), kind):
        started = loader_boots(esp)
        assert started in ("a", "b")
        if started == "a":
            assert "2.0.0" in sd_boot(esp).kernel("a").read_text()


@pytest.mark.parametrize("kind", [DyingFiles, DoublingFiles, EmptyingFiles])
@pytest.mark.parametrize("verdict", ["good", "bad"])
def test_a_power_cut_at_any_step_of_the_verdict(tmp_path: Path, kind: type[DyingFiles], verdict: str) -> None:
    numbers = itertools.count()

    def tried() -> Path:
        esp = make_esp(tmp_path / str(next(numbers)) / "esp")
        install(esp, Files())
        assert loader_boots(esp) == "b"
        return esp

    def settle(esp: Path, files: Files) -> None:
        boot = sd_boot(esp, "b", files)
        (boot.mark_good if verdict == "good" else boot.mark_bad)("b")

    for esp in every_cut(tried, settle, kind):
        assert loader_boots(esp) in ("a", "b")
        if sd_boot(esp).state("b") != "bad":
            settle(esp, Files())
        assert loader_boots(esp) == ("b" if verdict == "good" else "a")


@pytest.mark.parametrize("kind", [DyingFiles, DoublingFiles, EmptyingFiles])
def test_a_power_cut_at_any_step_of_discarding_the_earlier_system(tmp_path: Path, kind: type[DyingFiles]) -> None:
    numbers = itertools.count()

    def both_good() -> Path:
        esp = make_esp(tmp_path / str(next(numbers)) / "esp")
        install(esp, Files())
        sd_boot(esp, "b").mark_good("b")
        return esp

    for esp in every_cut(both_good, lambda esp, files: sd_boot(esp, "b", files).discard("a"), kind):
        assert loader_boots(esp) == "b"
        sd_boot(esp, "b").discard("a")
        assert sd_boot(esp, "b").state("a") == "empty" and not sd_boot(esp).kernel("a").exists()


class _DyingBox(Box):
    """Its boot state dies after some steps."""

    alive = 0

    def boot(self) -> BootBackend:
        return SdBoot(self.esp, (self.root / "proc/cmdline").read_text(), DyingFiles(self.alive))


_ACTS = ["install", "boot", "good", "bad", "roll back"]


@settings(max_examples=60, deadline=None)
@given(acts=st.lists(st.tuples(st.sampled_from(_ACTS), st.integers(0, 8)), max_size=12))
def test_no_sequence_of_acts_and_cuts_leaves_a_box_that_does_not_start(
    tmp_path_factory: pytest.TempPathFactory, acts: list[tuple[str, int]]
) -> None:
    """Each act may be cut before its nth step. At any time the loader finds a whole kernel, and one slot is good."""
    box = _DyingBox(make_box(tmp_path_factory.mktemp("box") / "box").root)
    esp = box.esp
    for slot in SLOTS:
        box.raise_floor(slot, None)  # so that a person may go back
    runs = loader_boots(esp)
    for act, alive in acts:
        assert runs is not None
        start(box, runs, "1.0.0")
        object.__setattr__(box, "alive", alive)
        boot = box.boot()
        try:
            if act == "install" and boot.state(boot.current()) == "good":
                install(esp, DyingFiles(alive), runs)
            elif act == "good":
                boot.mark_good(boot.current())
            elif act == "bad" and boot.state(boot.current()) == "trial":
                boot.mark_bad(boot.current())
            elif act == "roll back":
                update.roll_back(box)
        except (FirmwareError, PowerCut):
            runs = loader_boots(esp)
        if act == "boot":
            runs = loader_boots(esp)
        assert runs is not None
        assert "good" in [sd_boot(esp, runs).state(slot) for slot in SLOTS]


def test_the_last_good_slot_is_kept(tmp_path: Path) -> None:
    esp = make_esp(tmp_path / "esp")
    for act in (SdBoot.close, SdBoot.mark_bad):
        with pytest.raises(FirmwareError, match="only good one"):
            act(sd_boot(esp), "a")
    assert loader_boots(esp) == "a"


@pytest.mark.parametrize("good", [True, False])
def test_a_slot_whose_entry_can_not_be_read_may_be_the_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, good: bool
) -> None:
    esp = make_esp(tmp_path / "esp")
    install(esp, Files())
    assert loader_boots(esp) == "b"
    if good:
        sd_boot(esp, "b").mark_good("b")
    read = Path.read_text

    def read_text(path: Path, *arguments: str | None, **how: str | None) -> str:
        if path.name == "scanside-a.conf":
            raise OSError(5, "Input/output error", str(path))
        return read(path, *arguments, **how)

    monkeypatch.setattr(Path, "read_text", read_text)
    boot = sd_boot(esp, "b")
    assert (boot.state("a"), boot.state("b")) == ("unknown", "good" if good else "trial")
    if good:
        install(esp, Files(), runs="b")
        assert loader_boots(esp) == "a"
    else:
        with pytest.raises(FirmwareError, match="may be the only good one"):
            boot.close("a")
        assert (esp / "loader/entries/scanside-a.conf").exists()


def test_a_slot_without_a_kernel_is_never_tried(tmp_path: Path) -> None:
    esp = make_esp(tmp_path / "esp")
    with pytest.raises(FirmwareError, match="no kernel"):
        sd_boot(esp).try_next("b", "x")
    assert loader_boots(esp) == "a"


def test_a_machine_that_no_slot_was_started_from(tmp_path: Path) -> None:
    with pytest.raises(FirmwareError, match=r"no rauc\.slot="):
        SdBoot(tmp_path, "root=/dev/sda1").current()
