"""U-Net (Ronneberger et al., MICCAI 2015; in 3D Çiçek et al., MICCAI 2016) for one gray channel.

MONAI's U-Nets can't be made again from the widths that pruning leaves; this one can.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import torch
from torch import Tensor, nn


class Widths(msgspec.Struct, frozen=True):
    """Channels of the two convolutions of each block: going down, the last being the bottom, then going up."""

    down: tuple[tuple[int, int], ...]
    up: tuple[tuple[int, int], ...]


def unpruned(width: int, levels: int) -> Widths:
    """``width`` channels at full size, twice as many after each halving."""
    sizes = [width * 2**level for level in range(levels)]
    return Widths(tuple((size, size) for size in sizes), tuple((size, size) for size in sizes[-2::-1]))


class UNet(nn.Module):
    """Two convolutions with batch normalization at each size, halved by max pooling, doubled by repeating.

    ``forward``: float32 ``(batch, 1, [slices,] rows, columns)``, each a multiple of two to the power of ``levels - 1``,
    to logits ``(batch, 1 + segments, ...)`` of the same size and an embedding ``(batch, features)``, the mean over the
    bottom.
    """

    def __init__(self, dimensions: int, segments: int, dropout: float, widths: Widths) -> None:
        super().__init__()
        self._kinds = _Kinds(dimensions)
        inputs, skips = 1, []
        self.down = nn.ModuleList()
        for block in widths.down:
            self.down.append(self._block(inputs, block))
            inputs = block[1]
            skips.append(inputs)
        skips.pop()
        self.up = nn.ModuleList()
        for block in widths.up:
            self.up.append(self._block(inputs + skips.pop(), block))
            inputs = block[1]
        self.pool = self._kinds.pool(2)
        self.enlarge = nn.Upsample(scale_factor=2, mode="nearest")
        self.dropout = nn.Dropout(dropout)
        self.head = self._kinds.convolution(inputs, 1 + segments, 1)

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], dropout: float) -> UNet:
        """A network with the weights of a state dict, and as wide as these are."""

        def blocks(way: str) -> tuple[tuple[int, int], ...]:
            count = len({name.split(".")[1] for name in state if name.startswith(f"{way}.")})
            return tuple(
                (len(state[f"{way}.{number}.0.weight"]), len(state[f"{way}.{number}.3.weight"]))
                for number in range(count)
            )

        head = state["head.weight"]
        network = cls(head.ndim - 2, len(head) - 1, dropout, Widths(blocks("down"), blocks("up")))
        network.load_state_dict(dict(state))
        return network

    def _block(self, inputs: int, block: tuple[int, int]) -> nn.Sequential:
        layers: list[nn.Module] = []
        for outputs in block:
            layers += [
                self._kinds.convolution(inputs, outputs, 3, padding=1, bias=False),
                self._kinds.normalization(outputs),
                nn.ReLU(inplace=True),
            ]
            inputs = outputs
        return nn.Sequential(*layers)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        skips = []
        for number, block in enumerate(self.down):
            x = block(self.pool(x) if number else x)
            skips.append(x)
        embedding = skips.pop().flatten(2).mean(2)
        x = self.dropout(x)
        for block in self.up:
            x = block(torch.cat([self.enlarge(x), skips.pop()], dim=1))
        return self.head(x), embedding


class _Kinds:
    """Layers for images or for volumes."""

    def __init__(self, dimensions: int) -> None:
        self.convolution: Any = {2: nn.Conv2d, 3: nn.Conv3d}[dimensions]
        self.normalization: Any = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dimensions]
        self.pool: Any = {2: nn.MaxPool2d, 3: nn.MaxPool3d}[dimensions]
