"""A training of a second, for tests of the loop: ``python -m tests.compression.tiny_training FOLDER [OPTIONS]``."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from compression import distributed, loop, sampling
from compression.distributed import SINGLE, Group

IMAGES, SIDE = 64, 8


def images(count: int = IMAGES, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noise float32 ``(count, 1, 8, 8)``, brighter in the middle where the label, float32 ``(count,)``, is 1."""
    chance = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    pixels = chance.normal(size=(count, 1, SIDE, SIDE)).astype(np.float32)
    pixels[labels == 1, :, 2:6, 2:6] += 0.7
    return torch.from_numpy(pixels), torch.from_numpy(labels.astype(np.float32))


def network(dropout: float = 0.2, seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    layers = nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(dropout), nn.Linear(8 * 6 * 6, 1)
    return nn.Sequential(*layers)


class Task:
    """Telling bright middles.

    ``at``: called with the number of each call of `loss`, from 1 on; what it returns multiplies that loss.
    """

    measure = "validation accuracy"
    ignored = "Class {name} is ignored: {value:.0%} of it is found, of others up to {best:.0%}."

    def __init__(
        self, batch: int = 8, group: Group = SINGLE, at: Callable[[int], float] = lambda _: 1.0,
        training: tuple[Tensor, Tensor] | None = None, validation: tuple[Tensor, Tensor] | None = None,
        noise: float = 0.1,
    ) -> None:  # fmt: skip
        self.training, self.validation = training or images(), validation or images(seed=9)
        self.batch, self.group, self.at, self.noise, self.calls = batch, group, at, noise, 0
        self.validated: Callable[[], object] = lambda: None

    def steps(self) -> int:
        return sampling.steps(len(self.training[1]), self.batch, self.group)

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        chance = np.random.default_rng(epoch)
        for chosen in sampling.batches(sampling.order(len(self.training[1]), epoch), self.batch, self.group):
            changed = self.training[0][chosen]
            changed = changed + self.noise * torch.from_numpy(chance.normal(size=changed.shape).astype(np.float32))
            yield changed, self.training[1][chosen]

    def loss(self, network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        self.calls += 1
        factor = self.at(self.calls)
        return functional.binary_cross_entropy_with_logits(network(batch[0])[:, 0], batch[1]) * factor

    @torch.no_grad()
    def validate(self, network: nn.Module) -> loop.Validation:
        self.validated()
        network.eval()
        logits, labels = network(self.validation[0])[:, 0], self.validation[1]
        right = (logits > 0) == (labels > 0.5)
        return loop.Validation(
            float(right.float().mean()),
            float(functional.binary_cross_entropy_with_logits(logits, labels)),
            {str(each): float(right[labels == each].float().mean()) for each in (0, 1)},
        )


def die(number: int, by: signal.Signals) -> Callable[[int], float]:
    """For ``at``: a signal to this process in one call."""

    def at(call: int) -> float:
        if call == number:
            signal.raise_signal(by)
        return 1.0

    return at


def main(folder: Path, batch: int = 8, accumulate: int = 1, kill_at: int = 0, faulty: int = 0) -> None:
    """Train in one process or, by torchrun, in several, without chance where the number of processes would change it.

    ``kill_at``: the call in which SIGKILL ends it. ``faulty``: the call in which the last process's loss is none.
    """
    torch.set_num_threads(1)
    with distributed.start() as group:
        at = die(kill_at, signal.SIGKILL)
        if faulty and group.rank == group.size - 1:
            at = lambda call: float("nan") if call == faulty else 1.0  # noqa: E731
        plain = bool(group.size > 1 or accumulate > 1 or batch != 8)
        task = Task(batch, group, at, noise=0.0 if plain else 0.1)
        # What bfloat16 rounds off depends on the size of the batch.
        settings = loop.Settings(epochs=4, batch=batch, learning_rate=3e-3, accumulate=accumulate, amp="off")
        tuned, log = loop.fit(
            task, network(0.0 if plain else 0.2), settings, folder / "tiny.checkpoint", "tiny", group=group
        )
        if group.main:
            torch.save(tuned.state_dict(), folder / "tiny.pt")
            (folder / "tiny.json").write_text(json.dumps(log))


if __name__ == "__main__":
    main(Path(sys.argv[1]), **json.loads(sys.argv[2] if len(sys.argv) > 2 else "{}"))
