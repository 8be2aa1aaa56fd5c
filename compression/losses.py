"""Losses of findings and of segments."""

from __future__ import annotations

from typing import Literal

import monai.losses
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

Loss = Literal["bce", "focal"]


def positive_weight(labels: np.ndarray, missed_cost: float = 1.0, shares: np.ndarray | None = None) -> Tensor:
    """How much a positive counts against a negative: inversely proportional to how often each is drawn.

    Parameters
    ----------
    labels
        bool ``(count,)``, both classes among them.
    missed_cost
        How much worse a missed finding is than a false alarm.
    shares
        How often each image is drawn, ``(count,)``, where that is not equally often.
    """
    counts = np.ones(len(labels)) if shares is None else shares * len(labels)
    return torch.tensor(counts[~labels].sum() / counts[labels].sum() * missed_cost)


def of_finding(kind: Loss, logits: Tensor, labels: Tensor, weight: Tensor, gamma: float) -> Tensor:
    """The mean loss over ``(batch,)`` logits and labels of 0 or 1, a positive weighted."""
    if kind == "focal":
        return focal(logits, labels, weight, gamma)
    return functional.binary_cross_entropy_with_logits(logits, labels, pos_weight=weight)


def focal(logits: Tensor, labels: Tensor, weight: Tensor, gamma: float) -> Tensor:
    """Cross-entropy in which what is already right counts less, by ``(1 - p) ** gamma`` (Lin et al., ICCV 2017).

    ``gamma`` of 0 is `binary_cross_entropy_with_logits` with ``pos_weight``; the paper takes 2.
    """
    of_truth = torch.sigmoid(torch.where(labels > 0.5, logits, -logits))
    loss = functional.binary_cross_entropy_with_logits(logits, labels, pos_weight=weight, reduction="none")
    return ((1.0 - of_truth) ** gamma * loss).mean()


def of_segments() -> nn.Module:
    """Dice and cross-entropy of logits ``(batch, segments + 1, ...)`` and labels ``(batch, 1, ...)``, background first.

    The first is about overlap, in which rare segments weigh as much as large ones (Milletari et al., 3DV 2016), the
    other about each voxel.
    """
    return monai.losses.DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)
