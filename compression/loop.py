"""The training loop that all tasks share: resumable to the bit after any kill, best or last weights kept."""

from __future__ import annotations

import copy
import math
import warnings
from contextlib import closing, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compression import checkpoint, diagnosis, distributed, optimization, precision
from compression.distributed import SINGLE, Group
from compression.journal import Journal
from compression.recipe import RecipeError
from compression.spikes import IN_A_ROW, Watch
from compression.task import Settings, Task, Validation

__all__ = ["Settings", "Task", "Validation", "fit"]

# In a run of so few epochs each is a large share, and a kill shall cost none: it saves after each.
_SHORT = 20
# What a checkpoint holds of a training, besides where its generators and its watch are.
_VALUES = ("epoch", "number", "losses", "log", "events", "best", "best_score", "best_epoch", "in_a_row", "halved")
_PARTS = ("network", "average", "optimizer", "schedule", "scaler")


def fit(
    task: Task, network: nn.Module, settings: Settings, path: Path, name: str, bar: int = 0, group: Group = SINGLE
) -> tuple[nn.Module, list[dict[str, Any]]]:
    """Train, or go on from the checkpoint ``path``.

    Returns
    -------
    The network with the best or the last averaged weights, on the CPU and in evaluation mode, and one entry for each
    epoch: epoch, loss, score; where known validation_loss and recall; where there were some, events.

    Raises
    ------
    RecipeError
        Losses are no numbers any more, the checkpoint can't be written or read, or a signal asked to stop.
    """
    if task.steps() == 0:
        raise RecipeError(f"{name}: there are fewer training images than one batch, {settings.batch} x {group.size}")
    with checkpoint.watched() as signals:
        training = _Training(task, network, settings, path, name, group, signals)
        with closing(Journal(path, name, training.steps(), training.done(), bar, group.main)) as journal:
            return training.run(journal)


class _Training:
    """A training on its way; all that a checkpoint holds is in its attributes."""

    def __init__(
        self, task: Task, network: nn.Module, settings: Settings, path: Path, name: str, group: Group,
        signals: checkpoint.Signals,
    ) -> None:  # fmt: skip
        self._task, self._settings, self._path, self._name, self._group = task, settings, path, name, group
        self._signals, self._device = signals, group.device()
        self._precision = precision.choose(settings.amp, self._device)
        self._scaler = self._precision.scaler()
        self._network = network.to(self._device)
        self._in_epoch = math.ceil(task.steps() / settings.accumulate)
        self._optimizer = torch.optim.AdamW(
            network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self._schedule = optimization.schedule(settings.schedule, self._optimizer, settings.learning_rate, self.steps())
        self._shared = group.shared(network, self._device)
        self._average = copy.deepcopy(network)
        self._watch = Watch(settings.spike)
        self._epoch, self._number = 0, 0
        self._losses: list[float] = []
        self._log: list[dict[str, Any]] = []
        self._events: list[dict[str, Any]] = []
        self._best: dict[str, Tensor] = {}
        self._best_score, self._best_epoch = -math.inf, 0
        self._in_a_row, self._halved, self._stopping, self._norm = 0, False, False, 0.0
        if group.rank:  # other dropout than the first process's
            torch.manual_seed(torch.initial_seed() + group.rank)
        self._begun: dict[str, Any] | None = None
        if group.agree(path.exists()):
            self._restore(checkpoint.read(path))
        else:
            self._begun = copy.deepcopy(self._state())

    def steps(self) -> int:
        """Of the optimizer, in all epochs."""
        return self._settings.epochs * self._in_epoch

    def done(self) -> int:
        return self._epoch * self._in_epoch + self._number

    def _which(self) -> str:
        return f"epoch {self._epoch + 1} of {self._settings.epochs}"

    def run(self, journal: Journal) -> tuple[nn.Module, list[dict[str, Any]]]:
        if self._precision.kind is not None:
            journal.say(f": {self._precision.why}")
        while self._goes_on():
            journal.begin(self._which(), self.done())
            if self._learn(journal):
                self._end_epoch(journal)
        if self._signals.name:
            self._stop()
        if self._settings.keep == "best":
            self._average.load_state_dict(self._best)
        task = self._task
        for sentence in diagnosis.sentences(self._log, self._settings.epochs, task.measure, task.ignored):
            journal.say(f": {sentence}")
        return self._average.cpu().eval(), self._log

    def _goes_on(self) -> bool:
        without = self._epoch - self._best_epoch
        return self._epoch < self._settings.epochs and without <= self._settings.patience

    def _learn(self, journal: Journal) -> bool:
        """The steps of the epoch that are left; false where it went back to an earlier one."""
        self._network.train()
        size = self._settings.accumulate
        # What was done before a kill is drawn again and thrown away: augmentation is then where it was.
        batches = islice(self._task.batches(self._epoch), self._number * size, None)
        while passes := list(islice(batches, size)):
            number = self.done()
            fault = self._step(passes)
            self._number += 1
            journal.step(number, self._losses, self._optimizer.param_groups[0]["lr"], self._norm)
            with warnings.catch_warnings():
                # A skipped step counts, too, even the very first, of which torch warns.
                warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
                self._schedule.step()
            self._in_a_row = self._in_a_row + 1 if fault else 0
            if fault:
                self._note(journal, fault, "step skipped")
            if self._in_a_row == IN_A_ROW:
                self._go_back(journal)
                return False
            if self._stopping:
                self._stop()
        return True

    def _step(self, passes: list[Any]) -> str:
        """One step of the optimizer; what was wrong, where nothing was learned, else nothing."""
        before = [buffer.clone() for buffer in self._network.buffers()]
        fault = self._try(passes)
        if fault:  # what batch normalization counted on the way is no number either
            with torch.no_grad():
                for buffer, value in zip(self._network.buffers(), before, strict=True):
                    buffer.copy_(value)
        return fault

    def _try(self, passes: list[Any]) -> str:
        self._optimizer.zero_grad()
        losses = []
        for number, batch in enumerate(passes, start=1):
            with nullcontext() if number == len(passes) else self._group.unsynchronized(self._shared):
                with self._precision.cast():
                    loss = self._task.loss(self._shared, distributed.moved(batch, self._device))
                # Judged before gradients are shared, so that all processes skip or none.
                value, stopping = self._group.mean(loss.item(), float(bool(self._signals.name)))
                self._stopping = self._stopping or stopping > 0
                if fault := self._watch.fault(value):
                    return fault
                self._scaler.scale(loss / len(passes)).backward()
            losses.append(value)
        self._scaler.unscale_(self._optimizer)
        self._norm = float(nn.utils.clip_grad_norm_(self._network.parameters(), self._settings.clip or math.inf))
        if not math.isfinite(self._norm) and not self._scaler.is_enabled():  # float16's scaler looks for itself
            return f"the norm of the gradient is {self._norm}"
        self._scaler.step(self._optimizer)
        self._scaler.update()
        optimization.move(self._average, self._network, self.done(), self._settings.average_decay)
        self._losses.append(float(np.mean(losses)))
        self._watch.learned(self._losses[-1])
        return ""

    def _end_epoch(self, journal: Journal) -> None:
        found = self._group.agree(self._task.validate(self._average) if self._group.main else 0.0)
        if not isinstance(found, Validation):
            found = Validation(found)
        if not all(math.isfinite(value) for value in (found.score, found.loss or 0.0)):
            raise RecipeError(f"{self._name}, {self._which()}: validation gives {found}; look for broken images in it")
        loss = float(np.mean(self._losses)) if self._losses else math.nan
        entry: dict[str, Any] = {"epoch": self._epoch + 1, "loss": round(loss, 4) if self._losses else None,
                                 "score": round(found.score, 4)}  # fmt: skip
        if found.loss is not None:
            entry["validation_loss"] = round(found.loss, 4)
        if found.recall:
            entry["recall"] = {name: round(value, 4) for name, value in found.recall.items()}
        if self._events:
            entry["events"] = self._events
        self._log.append(entry)
        journal.say(f", {self._which()}: loss {loss:.4f}, {self._task.measure} {found.score:.4f}")
        journal.epoch(entry, self.done())
        if found.score > self._best_score:
            self._best = {key: value.clone() for key, value in self._average.state_dict().items()}
            self._best_score, self._best_epoch = found.score, self._epoch + 1
        self._epoch, self._number, self._losses, self._events = self._epoch + 1, 0, [], []
        every = 1 if self._settings.epochs <= _SHORT else self._settings.checkpoint_every
        if self._epoch % every == 0 or not self._goes_on():
            self._save()

    def _note(self, journal: Journal, fault: str, then: str) -> None:
        self._events.append({"epoch": self._epoch + 1, "step": self._number, "fault": fault, "done": then})
        journal.fault(f"epoch {self._epoch + 1}, step {self._number}: {fault}; {then}", self.done())

    def _go_back(self, journal: Journal) -> None:
        """To the last checkpoint, or the beginning, with half the learning rate; the second time it is over."""
        fault = f"{IN_A_ROW} steps in a row were skipped"
        if self._halved:
            raise RecipeError(
                f"{self._name}, epoch {self._epoch + 1}, step {self._number}: {fault}, after half the learning rate, "
                f"too; the last: {self._events[-1]['fault']}. Lower train.learning_rate, or look for broken images "
                "with check-data"
            )
        self._note(journal, fault, "went back to the last checkpoint with half the learning rate")
        events = [event for entry in self._log for event in entry.get("events", [])] + self._events
        self._restore(self._begun if self._begun is not None else checkpoint.read(self._path))
        kept = [event for entry in self._log for event in entry.get("events", [])]
        self._events, self._halved, self._in_a_row = events[len(kept) :], True, 0
        optimization.halve(self._optimizer, self._schedule)

    def _stop(self) -> None:
        self._save()
        raise checkpoint.StoppedError(
            f"{self._name}: stopped by {self._signals.name or 'a signal'} in epoch {self._epoch + 1} after "
            f"{self._number} steps; {self._path} holds where it stands. Run the same command again to go on"
        )

    def _save(self) -> None:
        state = self._state()
        if self._group.main:
            checkpoint.write(self._path, state)
        self._begun = None

    def _state(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, f"_{name}") for name in _VALUES},
            **{name: getattr(self, f"_{name}").state_dict() for name in _PARTS},
            "watch": self._watch.state(),
            "chance": self._group.gather(checkpoint.chance(self._device)),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        state = copy.deepcopy(state)
        if len(state["chance"]) != self._group.size:
            raise RecipeError(
                f"{self._path} is of a training in {len(state['chance'])} processes, not {self._group.size}; use as "
                "many, or remove it, and this training begins anew"
            )
        for name in _VALUES:
            setattr(self, f"_{name}", state[name])
        for name in _PARTS:
            getattr(self, f"_{name}").load_state_dict(state[name])
        self._watch = Watch(self._settings.spike, **state["watch"])
        checkpoint.set_chance(self._device, state["chance"][self._group.rank])
