"""Where a training stands, on disk: whole or not at all, whatever kills the process; and stopping on a signal."""

from __future__ import annotations

import io
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from compression import durable
from compression.recipe import RecipeError

VERSION = 1
_TWICE_SECONDS = 1.0  # a signal to a whole group of processes comes again from the parent


class StoppedError(RecipeError):
    """A signal ended the training, after a checkpoint."""


def write(path: Path, state: dict[str, Any]) -> None:
    """Replace a checkpoint by a new one; as `save`."""
    save(path, {"version": VERSION, **state}, "the checkpoint")


def save(path: Path, state: dict[str, Any], what: str = "the network") -> None:
    """Write what torch keeps, as `compression.durable` does.

    Raises
    ------
    RecipeError
        The file can't be written, on a full disk for instance; the one before is as it was.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    try:
        durable.write(path, buffer.getbuffer())
    except OSError as error:
        size, free = buffer.getbuffer().nbytes / 1e6, shutil.disk_usage(path.parent).free / 1e6
        before = "the one before is as it was" if path.exists() else "there was none before"
        raise RecipeError(
            f"{what} {path} can't be written: {error.strerror}; it has {size:.1f} MB, {free:.1f} MB are free, "
            f"{before}. Make room there and run the same command again: training goes on from the last checkpoint"
        ) from error


def read(path: Path) -> dict[str, Any]:
    """A checkpoint as it was written; raises `RecipeError` where it is damaged or another version's."""
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
    except Exception as error:
        raise RecipeError(
            f"the checkpoint {path} is damaged ({str(error).splitlines()[0]}); remove it, and this training begins anew"
        ) from error
    if state.get("version") != VERSION:
        raise RecipeError(
            f"the checkpoint {path} was written by another version of this program; remove it, and this training "
            "begins anew"
        )
    return state


def chance(device: torch.device) -> list[Tensor]:
    """Where torch's generators are, the CPU's and the GPU's."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def set_chance(device: torch.device, states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)


class Signals:
    """Which signal asked to stop, if one did."""

    def __init__(self) -> None:
        self.name = ""
        self._at = 0.0

    def take(self, number: int, _: FrameType | None) -> None:
        if self.name and time.monotonic() - self._at > _TWICE_SECONDS:  # the second one is meant at once
            raise KeyboardInterrupt
        if not self.name:
            self.name, self._at = signal.Signals(number).name, time.monotonic()


@contextmanager
def watched() -> Iterator[Signals]:
    """SIGTERM and Ctrl-C only leave a note while this lasts; a second one ends the process as usual.

    What this process ignores it goes on to ignore.
    """
    signals = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield signals  # where Python lets no handler be set
        return
    before = {
        number: signal.signal(number, signals.take)
        for number in (signal.SIGTERM, signal.SIGINT)
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def ending() -> Iterator[None]:
    """SIGTERM raises `StoppedError` while this lasts: for a process whose children learn, to tell them."""

    def raised(*_: object) -> None:
        raise StoppedError("stopped by SIGTERM; run the same command again to go on")

    before = signal.signal(signal.SIGTERM, raised)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
