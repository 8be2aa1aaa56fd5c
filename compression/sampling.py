"""Which images an epoch shows, in which order, and which of several processes sees which."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from compression.distributed import SINGLE, Group

Sampling = Literal["uniform", "balanced"]


def shares(*columns: Sequence[object] | np.ndarray) -> np.ndarray:
    """How often each image is drawn, so that each combination of the columns' values comes up equally often.

    With labels alone, classes are balanced; with labels and sites, knowing the site tells nothing of the label.

    Returns
    -------
    float64 ``(count,)``, of sum 1.
    """
    _, group = np.unique(
        np.array([[str(value) for value in column] for column in columns]), axis=1, return_inverse=True
    )
    counts = np.bincount(group.ravel())
    return np.asarray(1.0 / (counts[group.ravel()] * len(counts)))


def order(count: int, seed: int, drawn: np.ndarray | None = None) -> np.ndarray:
    """The images of an epoch, ``(count,)``: each once; or by shares as `shares` makes them, with replacement."""
    chance = np.random.default_rng(seed)
    return chance.permutation(count) if drawn is None else chance.choice(count, size=count, p=drawn)


def steps(count: int, batch: int, group: Group = SINGLE) -> int:
    """Batches in an epoch for each process; the last images, too few for one, wait for another epoch."""
    return count // (batch * group.size)


def batches(drawn: np.ndarray, batch: int, group: Group = SINGLE) -> Iterator[np.ndarray]:
    """This process's part, ``(batch,)``, of each of the group's batches, ``(batch x processes,)``."""
    for number in range(steps(len(drawn), batch, group)):
        begin = (number * group.size + group.rank) * batch
        yield drawn[begin : begin + batch]
