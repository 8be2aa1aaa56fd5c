"""What is said of a training: of logs made by hand, and of two real ones that go wrong by construction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compression import diagnosis, loop, train
from compression.segmentation import train as segmented
from tests.compression.tiny_training import Task, images, network


def log(losses: list[float], scores: list[float], validation: list[float] | None = None, **last: Any) -> list[Any]:
    entries: list[dict[str, Any]] = [
        {"epoch": number, "loss": loss, "score": score}
        for number, (loss, score) in enumerate(zip(losses, scores, strict=True), start=1)
    ]
    for entry, value in zip(entries, validation or [], strict=False):
        entry["validation_loss"] = value
    entries[-1] |= last
    return entries


SKIPPED = {"epoch": 2, "step": 12, "fault": "the loss is nan", "done": "step skipped"}
BACK = {
    "epoch": 2,
    "step": 16,
    "fault": "5 steps in a row were skipped",
    "done": "went back to the last checkpoint with half the learning rate",
}
FALLING = [0.7, 0.5, 0.35, 0.25, 0.18, 0.12]
RISING = [0.6, 0.7, 0.78, 0.84, 0.88, 0.91]


@pytest.mark.parametrize(
    ("entries", "epochs", "word"),
    [
        (log([0.7, 0.69, 0.69, 0.69], [0.5, 0.52, 0.51, 0.5]), 4, "Underfit"),
        (log(FALLING, [0.8] * 6, [0.6, 0.5, 0.45, 0.5, 0.6, 0.7]), 6, "Overfit since epoch 4"),
        (log(FALLING, [0.7, 0.8, 0.85, 0.84, 0.8, 0.75]), 6, "Overfit since epoch 4"),
        (log(FALLING, RISING), 6, "Still improving at the end: Dice gained 0.070"),
        (log(FALLING, [0.8, 0.9, 0.9, 0.9, 0.901, 0.9]), 6, "Plateau since epoch 2"),
        (log(FALLING, [0.8, 0.9, 0.9, 0.9, 0.901, 0.9]), 9, "it ended 3 epochs early"),
        (
            log([0.7, 0.3, 0.8, 0.3, 0.7, 0.4], RISING),
            6,
            "learning rate looks too high: the training loss rose",
        ),
        (log(FALLING, RISING, events=[SKIPPED] * 2), 6, "2 steps were skipped and not learned from; the first in"),
        (log(FALLING, RISING, events=[SKIPPED] * 5 + [BACK]), 6, "looks too high: it had to be halved"),
        (log(FALLING, RISING, events=[SKIPPED] * 5 + [BACK]), 6, "In epoch 2, 5 steps in a row were skipped: it went"),
        (log(FALLING, RISING, recall={"tumor": 0.05, "liver": 0.98}), 6, "Class tumor is ignored: 5% of it"),
    ],
)
def test_it_is_said(entries: list[dict[str, Any]], epochs: int, word: str) -> None:
    said = " ".join(diagnosis.sentences(entries, epochs, "Dice", Task.ignored))
    assert word in said
    assert said.startswith(f"The loss went from {entries[0]['loss']:.3g} to {entries[-1]['loss']:.3g}")


def test_what_is_found_too_little_of_is_said_in_the_words_of_the_task() -> None:
    """A segment has a Dice coefficient, and its recipe none of a classification's keys."""
    entries = log(FALLING, RISING, recall={"tumor": 0.2, "liver": 0.9})
    of_classes, of_segments = (
        diagnosis.sentences(entries, 6, task.measure, task.ignored)[1] for task in (train.Task, segmented.Task)
    )
    assert of_classes.startswith("Class tumor is ignored: 20% of it is found, of others up to 90%. Try sampling =")
    assert of_segments.startswith("Segment tumor is hardly drawn: its Dice coefficient is 0.20, that of others up to")
    for key in ("sampling", "loss =", "missed_cost", "found"):
        assert key not in of_segments


def test_of_a_good_training_nothing_bad_is_said() -> None:
    good = log(FALLING, [0.8, 0.9, 0.93, 0.95, 0.951, 0.954], [0.5, 0.4, 0.35, 0.3, 0.29, 0.3])
    assert len(diagnosis.sentences(good, 6, "AUC", Task.ignored)) == 1
    assert diagnosis.sentences([{"epoch": 1, "loss": None, "score": 0.5}], 1, "AUC", Task.ignored) == [
        "Not one step was learned from."
    ]


def test_a_real_training_that_learns_noise_by_heart_is_overfit(tmp_path: Path) -> None:
    chance = torch.Generator().manual_seed(4)
    pixels, _ = images(16)
    training = pixels, torch.randint(0, 2, (16,), generator=chance).float()
    settings = loop.Settings(epochs=15, batch=8, learning_rate=2e-2, schedule="constant", average_decay=0.5)
    task = Task(training=training, noise=0.0)
    _, entries = loop.fit(task, network(dropout=0.0), settings, tmp_path / "tiny.checkpoint", "tiny")
    assert "Overfit since epoch" in " ".join(diagnosis.sentences(entries, 15, task.measure, task.ignored))


def test_a_real_training_that_hardly_moves_is_underfit(tmp_path: Path) -> None:
    settings = loop.Settings(epochs=5, batch=8, learning_rate=1e-6)
    _, entries = loop.fit(Task(), network(), settings, tmp_path / "tiny.checkpoint", "tiny")
    assert "Underfit" in " ".join(diagnosis.sentences(entries, 5, "accuracy", Task.ignored))


def test_a_pruning_that_takes_nothing_out_is_told() -> None:
    whole, smaller = (nn.Conv2d(1, channels, 3) for channels in (12, 10))
    assert diagnosis.of_pruning("pruned-0.10", whole, smaller, 2) == []
    (said,) = diagnosis.of_pruning("pruned-0.10", whole, whole, 8)
    assert said.startswith("warning: pruned-0.10 has lost no channel") and "less than 8 channels" in said
