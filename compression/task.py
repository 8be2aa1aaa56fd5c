"""What the training loop asks of a task, and how a recipe says to learn it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal, Protocol

import msgspec
from msgspec import Meta
from torch import Tensor, nn

from compression import optimization, precision
from compression.recipe import Count, Rate


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a network learns: AdamW (Loshchilov & Hutter, ICLR 2019).

    ``batch`` is that of one process and one pass; ``accumulate`` passes, in each of the processes, make one step.
    ``learning_rate`` is the peak of the ``schedule``: one_cycle (Smith & Topin, 2019), cosine, or constant.
    ``average_decay`` is that of an exponential average of the weights, which is what is validated and kept: its
    ``best`` epoch or its ``last``. ``clip``: the largest norm of a gradient; 0: any. ``patience``: epochs without a
    better validation after which it ends early. ``checkpoint_every``: epochs; up to 20 epochs it is after each.
    ``spike``: see `compression.spikes`. ``amp``: see `compression.precision`.
    """

    epochs: Count
    batch: Count
    learning_rate: Rate = 1e-4
    weight_decay: Annotated[float, Meta(ge=0)] = 0.01
    clip: Annotated[float, Meta(ge=0)] = 1.0
    average_decay: Annotated[float, Meta(ge=0, lt=1)] = 0.99
    patience: Count = 15
    keep: Literal["best", "last"] = "best"
    schedule: optimization.Schedule = "one_cycle"
    accumulate: Count = 1
    checkpoint_every: Count = 5
    spike: Annotated[float, Meta(gt=1)] = 10.0
    amp: precision.Amp = "auto"


class Validation(msgspec.Struct, frozen=True):
    """How good a network is on validation data: more of ``score`` is better.

    ``recall``: what share of each class it finds; of a segment, its Dice coefficient.
    """

    score: float
    loss: float | None = None
    recall: dict[str, float] = {}


class Task(Protocol):
    """What is learned: its batches, its loss, and how good a network is on validation data.

    ``measure``: what the score is called. ``ignored``: what to say and to try where validation's recall of a class
    ``{name}`` is a low ``{value}`` while that of another is up to ``{best}``.
    """

    measure: str
    ignored: str

    def steps(self) -> int:
        """Batches in an epoch, of this process."""

    def batches(self, epoch: int) -> Iterable[Any]:
        """The training batches of one epoch, augmented, the same for the same epoch: chance has a seed of its own."""

    def loss(self, network: nn.Module, batch: Any) -> Tensor:
        """The mean loss over one batch, which lies where the network does."""

    def validate(self, network: nn.Module) -> float | Validation:
        """How good it is on validation data, or its score alone; the network lies where `fit` put it."""
