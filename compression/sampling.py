"""Which images an epoch shows, in which order, and which of several processes sees which."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from compression.distributed import SINGLE, Group


def shares(labels: np.ndarray, values: np.ndarray | None = None) -> np.ndarray:
    """How often each image is drawn: each class equally often, and within it each of its values equally often.

    Where each value, a site for instance, has images of every class, knowing it tells nothing of the label; what
    `of_one_class` names tells it still.

    Parameters
    ----------
    labels, values
        ``(count,)``: the class of each image, and what a column says of it; None: classes alone are balanced.

    Returns
    -------
    float64 ``(count,)``, of sum 1.
    """
    drawn = np.empty(len(labels))
    classes = np.unique(labels)
    for each in classes:
        inside = labels == each
        among = np.zeros(inside.sum()) if values is None else values[inside]
        _, group, counts = np.unique(among, return_inverse=True, return_counts=True)
        drawn[inside] = 1.0 / (counts[group] * len(counts) * len(classes))
    return drawn


def of_one_class(labels: np.ndarray, values: np.ndarray) -> list[str]:
    """Values ``(count,)`` of a column, sorted, whose images are all of one class: no draw hides that they tell it."""
    return [str(each) for each in np.unique(values) if len(np.unique(labels[values == each])) == 1]


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
