"""ResNet-18 and ResNet-50 (He et al., CVPR 2016) for one gray channel, layers named as torchvision names them."""

from __future__ import annotations

from collections import OrderedDict
from typing import ClassVar, Self

from torch import Tensor, nn

from compression.architectures.classifier import Classifier

_CHANNELS = (64, 128, 256, 512)  # of the four stages: table 1 of the paper


class _Basic(nn.Module):
    """Two 3x3 convolutions beside a skip."""

    EXPANSION: ClassVar[int] = 1

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.downsample = _downsample(inputs, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class _Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 beside a skip; the stride is the 3x3's, as torchvision has it (ResNet v1.5)."""

    EXPANSION: ClassVar[int] = 4

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, channels * self.EXPANSION, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels * self.EXPANSION)
        self.relu = nn.ReLU()
        self.downsample = _downsample(inputs, channels * self.EXPANSION, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


def _downsample(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """The skip where shapes change: a 1x1 convolution (option B of the paper)."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class _ResNet(Classifier):
    FIRST = "features.conv1.weight"
    BLOCK: ClassVar[type[_Basic] | type[_Bottleneck]]
    REPEATS: ClassVar[tuple[int, ...]]

    def __init__(self, findings: int, dropout: float) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv1=nn.Conv2d(1, 64, 7, 2, 3, bias=False),
            bn1=nn.BatchNorm2d(64),
            relu=nn.ReLU(),
            maxpool=nn.MaxPool2d(3, 2, 1),
        )
        inputs = 64
        for stage, (channels, repeats) in enumerate(zip(_CHANNELS, self.REPEATS, strict=True)):
            blocks = []
            for number in range(repeats):
                blocks.append(self.BLOCK(inputs, channels, 2 if stage and not number else 1))
                inputs = channels * self.BLOCK.EXPANSION
            layers[f"layer{stage + 1}"] = nn.Sequential(*blocks)
        super().__init__(findings, dropout, nn.Sequential(layers), inputs)

    @classmethod
    def unpruned(cls, findings: int, dropout: float) -> Self:
        return cls(findings, dropout)


class ResNet18(_ResNet):
    BLOCK = _Basic
    REPEATS = (2, 2, 2, 2)


class ResNet50(_ResNet):
    BLOCK = _Bottleneck
    REPEATS = (3, 4, 6, 3)
