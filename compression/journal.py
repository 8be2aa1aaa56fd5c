"""What people see of a training: a bar with the time left, a line for each epoch, TensorBoard's curves, faults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

FOLDER = "tensorboard"


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
        # What a killed process wrote after its last checkpoint comes anew.
        self._writer = SummaryWriter(str(folder), purge_step=done) if speaks else None

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
        if self._writer and losses:
            self._writer.add_scalar("training/loss", losses[-1], number)
            self._writer.add_scalar("training/learning rate", learning_rate, number)
            self._writer.add_scalar("training/norm of the gradient", norm, number)

    def epoch(self, entry: dict[str, Any], number: int) -> None:
        """An entry of the log, at a step."""
        if self._writer is None:
            return
        for key in ("score", "validation_loss"):
            if key in entry:
                self._writer.add_scalar(f"validation/{key.replace('validation_', '')}", entry[key], number)
        for name, value in entry.get("recall", {}).items():
            self._writer.add_scalar(f"recall/{name}", value, number)
        self._writer.flush()

    def fault(self, text: str, number: int) -> None:
        self.say(f", {text}")
        if self._writer:
            self._writer.add_text("faults", text, number)

    def close(self) -> None:
        self._bar.close()
        if self._writer:
            self._writer.close()
