"""What people see of a training: a bar with the time left, a line for each epoch, TensorBoard's curves, faults."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import summary
from tqdm import tqdm

FOLDER = "tensorboard"


class _Curves:
    """One file that TensorBoard reads, written by this thread, so that what goes wrong is raised here: `OSError`.

    torch's own writer writes in a thread, which prints a traceback where the disk is full.
    """

    def __init__(self, path: Path, done: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("wb")
        self._records = RecordWriter(self._file)
        self._write(Event(file_version="brain.Event:2"))
        # What a killed process wrote after its last checkpoint comes anew.
        self._write(Event(step=done, session_log=SessionLog(status=SessionLog.START)))

    def scalar(self, name: str, value: float, number: int) -> None:
        self._write(Event(step=number, summary=summary.scalar(name, value)))

    def text(self, name: str, text: str, number: int) -> None:
        self._write(Event(step=number, summary=summary.text(name, text)))

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())


class Journal:
    """One training's; silent where ``speaks`` is false, as in every process of a group but the first.

    Parameters
    ----------
    folder
        Of the checkpoint; curves go to its folder ``tensorboard``, below the name of the checkpoint.
    steps, done
        Of the whole training, and how many of them an earlier process did.
    bar
        Its place, where several run at once.
    """

    def __init__(self, checkpoint: Path, name: str, steps: int, done: int, bar: int, speaks: bool) -> None:
        self._name, self._speaks = name, speaks
        # Over the whole training, validation included: what is left is then left until the end, not of one epoch.
        self._bar = tqdm(
            total=steps, initial=done, desc=name, unit="step", position=bar, leave=False, smoothing=0.0,
            disable=not speaks,
        )  # fmt: skip
        folder = checkpoint.parent / FOLDER / checkpoint.stem
        self._path = folder / f"events.out.tfevents.{time.time():.3f}.{os.getpid()}"
        self._curves: _Curves | None = None
        if speaks:
            with self._while_it_can_be_written():
                self._curves = _Curves(self._path, done)

    @contextmanager
    def _while_it_can_be_written(self) -> Iterator[None]:
        """Curves are only looked at: where there is no room for them, no hours of training are given up."""
        try:
            yield
        except OSError as error:
            if self._curves:
                with suppress(OSError):
                    self._curves.close()
            self._curves = None
            self.say(f": {self._path} can't be written: {error.strerror}; no more curves, the training goes on")

    def say(self, text: str) -> None:
        if self._speaks:
            tqdm.write(f"{self._name}{text}")

    def begin(self, epoch: str, done: int) -> None:
        """An epoch begins, anew after a step back."""
        self._bar.n = done
        self._bar.set_description(f"{self._name}, {epoch}")

    def step(self, number: int, losses: list[float], learning_rate: float, norm: float) -> None:
        self._bar.update()
        self._bar.set_postfix(loss=f"{sum(losses[-20:]) / max(len(losses[-20:]), 1):.3f}", refresh=False)
        if losses:
            self._draw(
                {
                    "training/loss": losses[-1],
                    "training/learning rate": learning_rate,
                    "training/norm of the gradient": norm,
                },
                number,
            )

    def epoch(self, entry: dict[str, Any], number: int) -> None:
        """An entry of the log, at a step."""
        validation = {"validation/score": entry.get("score"), "validation/loss": entry.get("validation_loss")}
        recall = {f"recall/{name}": value for name, value in entry.get("recall", {}).items()}
        self._draw({name: value for name, value in (validation | recall).items() if value is not None}, number)
        with self._while_it_can_be_written():
            if self._curves:
                self._curves.flush()

    def fault(self, text: str, number: int) -> None:
        self.say(f", {text}")
        with self._while_it_can_be_written():
            if self._curves:
                self._curves.text("faults", text, number)

    def close(self) -> None:
        self._bar.close()
        with self._while_it_can_be_written():
            if self._curves:
                self._curves.close()

    def _draw(self, values: dict[str, float], number: int) -> None:
        with self._while_it_can_be_written():
            if self._curves:
                for name, value in values.items():
                    self._curves.scalar(name, value, number)
