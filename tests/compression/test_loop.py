"""The training loop: goes on to the bit after any end, never learns from a loss that is none, and says what it did."""

from __future__ import annotations

import json
import math
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from compression import checkpoint, loop, precision
from compression.recipe import RecipeError
from compression.spikes import IN_A_ROW, Watch
from tests.compression.tiny_training import Task, die, images, network
from tests.running import CHECKOUT

STEPS = 8  # of an epoch


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """Ctrl-C is heard, also where these tests run in the background of a shell, which has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def settings(**given: Any) -> loop.Settings:
    return loop.Settings(**{"epochs": 4, "batch": 8, "learning_rate": 3e-3, **given})


def fit(folder: Path, task: Task | None = None, **given: Any) -> tuple[nn.Module, list[dict[str, Any]]]:
    torch.set_num_threads(1)
    return loop.fit(task or Task(), network(), settings(**given), folder / "tiny.checkpoint", "tiny")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_it_learns_and_keeps_its_best_weights(tmp_path: Path) -> None:
    tuned, log = fit(tmp_path, epochs=12)
    assert [entry["epoch"] for entry in log] == list(range(1, 13))
    assert log[-1]["loss"] < 0.7 * log[0]["loss"]
    assert Task().validate(tuned).score == pytest.approx(max(entry["score"] for entry in log), abs=1e-4)
    assert not tuned.training


@pytest.mark.parametrize("call", [STEPS, 2 * STEPS + 3, 4 * STEPS])
@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_at_the_next_step_and_the_rest_is_the_same(
    by: signal.Signals, call: int, tmp_path: Path
) -> None:
    (tmp_path / "whole").mkdir()
    handler = signal.getsignal(signal.SIGTERM)
    whole, log = fit(tmp_path / "whole")
    with pytest.raises(checkpoint.StoppedError, match=rf"{by.name} in epoch .*the same command again"):
        fit(tmp_path, Task(at=die(call, by)))
    task = Task()
    tuned, again = fit(tmp_path, task)
    assert task.calls == 4 * STEPS - call
    assert same(tuned.state_dict(), whole.state_dict())
    assert again == log
    assert signal.getsignal(signal.SIGTERM) == handler


def test_after_sigkill_the_resumed_training_is_the_same_to_the_bit(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.compression.tiny_training", str(tmp_path)]
    killed = subprocess.run([*command, json.dumps({"kill_at": 2 * STEPS + 5})], cwd=CHECKOUT, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert checkpoint.read(tmp_path / "tiny.checkpoint")["epoch"] == 2
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "epoch 3 of 4: loss" in done.stdout
    assert "epoch 2 of 4: loss" not in done.stdout
    (tmp_path / "whole").mkdir()
    whole, log = fit(tmp_path / "whole", amp="off")
    assert same(torch.load(tmp_path / "tiny.pt", weights_only=True), whole.state_dict())
    assert json.loads((tmp_path / "tiny.json").read_text()) == log


@pytest.mark.parametrize(("epochs", "kept"), [(20, 3), (21, 0), (26, 5)])
def test_long_trainings_save_after_each_fifth_epoch_and_short_ones_after_each(
    epochs: int, kept: int, tmp_path: Path
) -> None:
    """What is lost when a process dies without warning in the fourth epoch, or in the seventh."""
    task = Task()

    def at(call: int) -> float:
        if call == (7 if epochs == 26 else 4) * STEPS:
            raise MemoryError
        return 1.0

    task.at = at
    with pytest.raises(MemoryError):
        fit(tmp_path, task, epochs=epochs)
    path = tmp_path / "tiny.checkpoint"
    assert (checkpoint.read(path)["epoch"] if path.exists() else 0) == kept


def test_a_full_disk_is_named_and_the_checkpoint_before_is_whole(tmp_path: Path) -> None:
    task, path = Task(), tmp_path / "tiny.checkpoint"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def full() -> None:
        if path.exists():
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size // 2, before[1]))

    task.validated = full
    try:
        with pytest.raises(RecipeError, match=r"can't be written: File too large.*the one before is as it was") as said:
            fit(tmp_path, task)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(path) in str(said.value)
    assert "Make room" in str(said.value)
    assert checkpoint.read(path)["epoch"] == 1
    assert not list(tmp_path.glob("*.tmp"))
    (tmp_path / "whole").mkdir()
    assert same(fit(tmp_path)[0].state_dict(), fit(tmp_path / "whole")[0].state_dict())


@pytest.mark.parametrize("damage", ["cut", "another version", "no checkpoint"])
def test_a_checkpoint_that_is_none_is_named(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "tiny.checkpoint"
    fit(tmp_path, epochs=1)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-2000])
    elif damage == "another version":
        torch.save({"epoch": 1}, path)
    else:
        path.write_text("nothing")
    with pytest.raises(RecipeError, match=r"tiny\.checkpoint .*remove it"):
        fit(tmp_path)


def among(*numbers: int, factor: float = math.nan) -> Callable[[int], float]:
    return lambda call: factor if call in numbers else 1.0


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_a_step_whose_loss_is_no_number_is_skipped_and_counted(
    factor: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned, log = fit(tmp_path, Task(at=among(1, STEPS + 3, STEPS + 4, factor=factor)))
    events = [event for entry in log for event in entry.get("events", [])]
    assert [(event["epoch"], event["step"], event["done"]) for event in events] == [
        (1, 1, "step skipped"), (2, 3, "step skipped"), (2, 4, "step skipped"),
    ]  # fmt: skip
    assert all(torch.isfinite(each).all() for each in tuned.state_dict().values())
    said = capsys.readouterr().out
    assert f"epoch 2, step 3: the loss is {factor}" in said
    assert "3 steps were skipped and not learned from" in said


def test_a_gradient_that_is_no_number_is_not_learned_from(tmp_path: Path) -> None:
    task = Task()
    whole = task.loss

    def loss(network: nn.Module, batch: Any) -> torch.Tensor:
        value = whole(network, batch)
        # The root of 0 has a finite value and no derivative.
        return value + torch.sqrt(value * 0.0) if task.calls == 10 else value

    task.loss = loss  # type: ignore[method-assign]
    tuned, log = fit(tmp_path, task)
    (event,) = log[1]["events"]
    assert "gradient is nan" in event["fault"]
    assert all(torch.isfinite(each).all() for each in tuned.state_dict().values())


def test_a_skipped_step_leaves_nothing_in_batch_normalization(tmp_path: Path) -> None:
    pixels, labels = images()
    pixels[5] = math.nan
    torch.manual_seed(1)
    tiny = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 6 * 6, 1))
    task = Task(training=(pixels, labels))
    tuned, log = loop.fit(task, tiny, settings(learning_rate=0.02), tmp_path / "tiny.checkpoint", "tiny")
    assert [len(entry["events"]) for entry in log] == [1] * 4
    assert all(bool(value.isfinite().all()) for value in tuned.state_dict().values())
    assert log[-1]["score"] > 0.7


def test_a_signal_that_comes_twice_at_once_is_one_and_what_is_ignored_stays_so() -> None:
    with checkpoint.watched() as signals:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)  # the parent's, to each of its children
        assert signals.name == "SIGINT"
        time.sleep(1.1)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with checkpoint.watched() as signals:
            signal.raise_signal(signal.SIGINT)
            assert not signals.name
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_loss_that_jumps_is_skipped_but_a_hard_batch_is_not() -> None:
    watch = Watch(10.0)
    for _ in range(20):
        assert not watch.fault(50.0)  # nothing to compare with yet
        watch.learned(0.7)
    for _ in range(100):
        watch.learned(0.01)
    assert not watch.fault(0.6)  # 60 times the usual, but like that of a network that has learned nothing
    assert "jumped to 9" in watch.fault(9.0)


def test_a_spike_stands_in_the_log(tmp_path: Path) -> None:
    _, log = fit(tmp_path, Task(at=among(30, factor=1000.0)))
    assert "the loss jumped to" in log[3]["events"][0]["fault"]


def test_after_faults_in_a_row_it_goes_back_with_half_the_learning_rate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = Task(at=among(*range(STEPS + 3, STEPS + 3 + IN_A_ROW)))
    _, log = fit(tmp_path, task, schedule="constant")
    assert task.calls == 4 * STEPS + 2 + IN_A_ROW  # the second epoch anew
    assert len(log) == 4
    assert [event["done"].split()[0] for event in log[1]["events"]] == ["step"] * IN_A_ROW + ["went"]
    assert checkpoint.read(tmp_path / "tiny.checkpoint")["optimizer"]["param_groups"][0]["lr"] == 1.5e-3
    assert "learning rate looks too high" in capsys.readouterr().out


def test_before_the_first_checkpoint_it_goes_back_to_the_beginning(tmp_path: Path) -> None:
    _, log = fit(tmp_path, Task(at=among(*range(2, 2 + IN_A_ROW))))
    (tmp_path / "whole").mkdir()
    _, plain = fit(tmp_path / "whole", learning_rate=1.5e-3)
    assert [entry["loss"] for entry in log] == [entry["loss"] for entry in plain]
    assert len(log[0]["events"]) == IN_A_ROW + 1


def test_the_second_time_it_stops(tmp_path: Path) -> None:
    task = Task(at=lambda call: math.nan if call > STEPS + 2 else 1.0)
    with pytest.raises(RecipeError, match=r"epoch 2, step 5: 5 steps in a row.*the loss is nan.*train.learning_rate"):
        fit(tmp_path, task)
    assert task.calls == STEPS + 2 + 2 * IN_A_ROW


def test_it_ends_early_where_validation_gains_nothing(tmp_path: Path) -> None:
    task = Task()
    scores = iter([0.5, 0.7, 0.6, 0.7, 0.6, 0.6, 0.6])
    task.validate = lambda _: next(scores)  # type: ignore[method-assign,assignment,return-value]
    _, log = fit(tmp_path, task, epochs=7, patience=3)
    assert len(log) == 6  # three after the second, and the one that shows it
    assert checkpoint.read(tmp_path / "tiny.checkpoint")["best_epoch"] == 2


def test_a_validation_that_gives_no_number_stops_it(tmp_path: Path) -> None:
    task = Task(validation=(torch.full((4, 1, 8, 8), math.nan), torch.zeros(4)))
    with pytest.raises(RecipeError, match=r"epoch 1 of 4: validation gives .*nan"):
        fit(tmp_path, task)


def test_passes_that_add_up_are_one_larger_batch(tmp_path: Path) -> None:
    (tmp_path / "large").mkdir()
    results = [
        loop.fit(
            Task(size, noise=0.0), network(0.0), settings(batch=size, accumulate=16 // size, amp="off"),
            folder / "tiny.checkpoint", "tiny",
        )[0].state_dict()
        for size, folder in ((8, tmp_path), (16, tmp_path / "large"))
    ]  # fmt: skip
    for key, value in results[0].items():
        assert torch.allclose(value, results[1][key], atol=1e-6)


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "constant"])
def test_schedules_resume_too(schedule: str, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole, _ = fit(tmp_path / "whole", schedule=schedule, keep="last")
    with pytest.raises(checkpoint.StoppedError):
        fit(tmp_path, Task(at=die(13, signal.SIGTERM)), schedule=schedule, keep="last")
    assert same(fit(tmp_path, schedule=schedule, keep="last")[0].state_dict(), whole.state_dict())


def test_fewer_images_than_a_batch_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="fewer training images than one batch"):
        loop.fit(Task(128), network(), settings(batch=128), tmp_path / "tiny.checkpoint", "tiny")


def test_curves_and_faults_are_in_tensorboard(tmp_path: Path) -> None:
    fit(tmp_path, Task(at=among(5)))
    events = EventAccumulator(str(tmp_path / "tensorboard" / "tiny"))
    events.Reload()
    names = {"training/loss", "training/learning rate", "validation/score", "validation/loss", "recall/0", "recall/1"}
    assert names <= set(events.Tags()["scalars"])
    assert len(events.Scalars("validation/score")) == 4
    assert events.Tags()["tensors"]  # the text


def test_a_disk_too_full_for_curves_ends_no_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "whole").mkdir()
    whole, log = fit(tmp_path / "whole", epochs=21)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def at(call: int) -> float:
        if call == STEPS + 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        return 1.0

    task = Task(at=at)  # full after the first epoch, which leaves no checkpoint, and not from the second on

    def full() -> None:
        if task.calls == STEPS:
            resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))

    task.validated = full
    capsys.readouterr()
    try:
        tuned, found = fit(tmp_path, task, epochs=21)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert found == log
    assert same(tuned.state_dict(), whole.state_dict())
    said = "".join(capsys.readouterr())
    assert said.count("can't be written: File too large; no more curves, the training goes on") == 1
    assert str(tmp_path / "tensorboard" / "tiny" / "events.out.tfevents.") in said
    assert "Traceback" not in said


def test_a_folder_of_curves_that_can_t_be_made_ends_no_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tensorboard").touch()
    _, log = fit(tmp_path, Task(at=among(5)))
    assert len(log) == 4
    assert capsys.readouterr().out.count("no more curves") == 1


def test_mixed_precision_only_where_the_hardware_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for has, kind in (
        ({}, None),
        ({"avx512_bf16": True, "cpu_name": "Intel Xeon"}, None),  # has it, and is slower in it
        ({"avx512_bf16": True, "cpu_name": "AMD EPYC"}, torch.bfloat16),
        ({"amx_bf16": True, "cpu_name": "Intel Xeon"}, torch.bfloat16),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: {"avx512_f": True, **has})
        assert precision.choose("auto", cpu).kind is kind
        assert precision.choose("off", cpu).kind is None
    # Emulated where the CPU has none, but the same code: it learns in bfloat16, too.
    tuned, log = fit(tmp_path, epochs=8)
    assert log[-1]["loss"] < log[0]["loss"]
    assert next(tuned.parameters()).dtype is torch.float32
