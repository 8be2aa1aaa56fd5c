"""EfficientNet-B0 (Tan & Le, ICML 2019) for one gray channel, layers named as torchvision names them.

Without stochastic depth: an exported graph has none, and at this depth it gives little.
"""

from __future__ import annotations

from typing import Self

from torch import Tensor, nn

from compression.architectures.classifier import Classifier

# Expansion, kernel, stride of the first, channels, repeats: table 1 of the paper.
_STAGES = (
    (1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3), (6, 5, 2, 192, 4), (6, 3, 1, 320, 1),
)  # fmt: skip
_STEM, _EMBEDDING = 32, 1280
_SQUEEZE = 4  # the squeezed channels are a quarter of the block's input


def _convolution(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, activation: bool = True
) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, nn.SiLU()) if activation else nn.Sequential(*layers)


class _SqueezeExcitation(nn.Module):
    """Weighs each channel by what all channels are in the mean (Hu et al., CVPR 2018)."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.activation, self.scale = nn.SiLU(), nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = self.scale(self.fc2(self.activation(self.fc1(x.mean((2, 3), keepdim=True)))))
        return x * weight


class _MBConv(nn.Module):
    def __init__(self, inputs: int, expansion: int, kernel: int, stride: int, outputs: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        layers: list[nn.Module] = [_convolution(inputs, hidden, 1)] if expansion > 1 else []
        layers += [
            _convolution(hidden, hidden, kernel, stride, groups=hidden),
            _SqueezeExcitation(hidden, max(1, inputs // _SQUEEZE)),
            _convolution(hidden, outputs, 1, activation=False),
        ]
        self.block = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return x + y if self.residual else y


class EfficientNetB0(Classifier):
    FIRST = "features.0.0.weight"

    def __init__(self, findings: int, dropout: float) -> None:
        layers: list[nn.Module] = [_convolution(1, _STEM, 3, 2)]
        inputs = _STEM
        for expansion, kernel, stride, outputs, repeats in _STAGES:
            blocks = []
            for number in range(repeats):
                blocks.append(_MBConv(inputs, expansion, kernel, stride if number == 0 else 1, outputs))
                inputs = outputs
            layers.append(nn.Sequential(*blocks))
        layers.append(_convolution(inputs, _EMBEDDING, 1))
        super().__init__(findings, dropout, nn.Sequential(*layers), _EMBEDDING)

    @classmethod
    def unpruned(cls, findings: int, dropout: float) -> Self:
        return cls(findings, dropout)
