"""Learning rates over a training, and averaged weights."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.optim import Optimizer, lr_scheduler

Schedule = Literal["one_cycle", "cosine", "constant"]
_RATES = ("lr", "initial_lr", "max_lr", "min_lr")


def schedule(kind: Schedule, optimizer: Optimizer, learning_rate: float, steps: int) -> lr_scheduler.LRScheduler:
    match kind:
        case "one_cycle":
            return lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
        case "cosine":
            return lr_scheduler.CosineAnnealingLR(optimizer, steps)
        case "constant":
            return lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)


def halve(optimizer: Optimizer, schedule: lr_scheduler.LRScheduler) -> None:
    """Half of every learning rate from now on."""
    for group in optimizer.param_groups:
        group |= {key: group[key] / 2 for key in _RATES if key in group}
    schedule.base_lrs = [rate / 2 for rate in schedule.base_lrs]


@torch.no_grad()
def move(average: nn.Module, network: nn.Module, step: int, decay: float) -> None:
    """Exponential moving average, faster during the first steps; normalization statistics are taken as they are."""
    weight = 1.0 - min(decay, (1 + step) / (10 + step))
    for mean, value in zip(average.parameters(), network.parameters(), strict=True):
        mean.lerp_(value, weight)
    for mean, value in zip(average.buffers(), network.buffers(), strict=True):
        mean.copy_(value)
