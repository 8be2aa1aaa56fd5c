"""MobileNetV2 (Sandler et al., CVPR 2018) for one gray channel, with its class activation map as an output."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from torch import Tensor, nn

from compression.architectures.classifier import Classifier

# Expansion, channels, repeats, stride of the first: table 2 of the paper.
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class Widths(msgspec.Struct, frozen=True):
    """Channels of each layer, which pruning changes: of the stem, of each block (hidden, output), of the embedding."""

    stem: int
    blocks: tuple[tuple[int, int], ...]
    embedding: int


def _unpruned() -> Widths:
    inputs, blocks = 32, []
    for expansion, outputs, repeats, _ in _STAGES:
        for _ in range(repeats):
            blocks.append((inputs * expansion, outputs))
            inputs = outputs
    return Widths(32, tuple(blocks), 1280)


UNPRUNED = _unpruned()


def _convolution(inputs: int, outputs: int, kernel: int, stride: int, groups: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups), nn.ReLU6())


class _InvertedResidual(nn.Module):
    def __init__(self, inputs: int, hidden: int, outputs: int, stride: int, expand: bool, residual: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = [_convolution(inputs, hidden, 1, 1, 1)] if expand else []
        layers += [_convolution(hidden, hidden, 3, stride, hidden), nn.Conv2d(hidden, outputs, 1)]
        self.conv = nn.Sequential(*layers)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


class MobileNetV2(Classifier):
    """Batch normalization folded into weights and biases, layers named as torchvision names them."""

    FIRST = "features.0.0.weight"
    FOLDED = True

    def __init__(self, findings: int, dropout: float, widths: Widths = UNPRUNED) -> None:
        layers: list[nn.Module] = [_convolution(1, widths.stem, 3, 2, 1)]
        channels, blocks = widths.stem, iter(widths.blocks)
        for expansion, _, repeats, stride in _STAGES:
            for number in range(repeats):
                hidden, outputs = next(blocks)
                first = number == 0
                layers.append(
                    _InvertedResidual(channels, hidden, outputs, stride if first else 1, expansion > 1, not first)
                )
                channels = outputs
        layers.append(_convolution(channels, widths.embedding, 1, 1, 1))
        super().__init__(findings, dropout, nn.Sequential(*layers), widths.embedding)

    @classmethod
    def unpruned(cls, findings: int, dropout: float) -> MobileNetV2:
        return cls(findings, dropout)

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], dropout: float) -> MobileNetV2:
        """A network with the weights of a state dict, and as wide as these are."""
        widths = Widths(
            stem=len(state["features.0.0.weight"]),
            blocks=tuple(
                (len(state[_last(state, number, 2)]), len(state[_last(state, number, 1)]))
                for number in range(1, len(UNPRUNED.blocks) + 1)
            ),
            embedding=len(state[f"features.{len(UNPRUNED.blocks) + 1}.0.weight"]),
        )
        network = cls(len(state["classifier.weight"]), dropout, widths)
        network.load_state_dict(dict(state))
        return network

    def initialize(self) -> None:
        """He's weights; the projections smaller, since without batch normalization each sum would grow.

        A residual branch begins at a variance of one over their number (Zhang, Dauphin & Ma, ICLR 2019, go further).
        """
        super().initialize()
        blocks = [layer for layer in self.features if isinstance(layer, _InvertedResidual)]
        residual = sum(block.residual for block in blocks)
        for block in blocks:
            projection = block.conv[-1]
            share = 1 / residual if block.residual else 1.0
            nn.init.normal_(projection.weight, std=(share / projection.in_channels) ** 0.5)


def _last(state: Mapping[str, Tensor], block: int, place: int) -> str:
    """The name of a block's weights, counted from its end: 1 is the projection, 2 the depthwise convolution."""
    names = sorted(name for name in state if name.startswith(f"features.{block}.conv.") and name.endswith(".weight"))
    return names[-place]
