"""DenseNet-121 (Huang et al., CVPR 2017) for one gray channel, layers named as torchvision names them."""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Self

import torch
from torch import Tensor, nn

from compression.architectures.classifier import Classifier

_GROWTH = 32
_BOTTLENECK = 4  # the 1x1 convolution of a layer has four times the growth
_LAYERS = (6, 12, 24, 16)  # of the four blocks: table 1 of the paper
_STEM = 64


class _Layer(nn.Module):
    """What one layer adds to all that came before it."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(inputs, _BOTTLENECK * _GROWTH, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(_BOTTLENECK * _GROWTH)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(_BOTTLENECK * _GROWTH, _GROWTH, 3, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv1(self.relu1(self.norm1(x)))
        y = self.conv2(self.relu2(self.norm2(y)))
        return torch.cat([x, y], 1)


class DenseNet121(Classifier):
    FIRST = "features.conv0.weight"

    def __init__(self, findings: int, dropout: float) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv0=nn.Conv2d(1, _STEM, 7, 2, 3, bias=False),
            norm0=nn.BatchNorm2d(_STEM),
            relu0=nn.ReLU(),
            pool0=nn.MaxPool2d(3, 2, 1),
        )
        channels = _STEM
        for block, count in enumerate(_LAYERS, start=1):
            dense = OrderedDict((f"denselayer{n + 1}", _Layer(channels + n * _GROWTH)) for n in range(count))
            layers[f"denseblock{block}"] = nn.Sequential(dense)
            channels += count * _GROWTH
            if block < len(_LAYERS):
                layers[f"transition{block}"] = nn.Sequential(
                    OrderedDict(
                        norm=nn.BatchNorm2d(channels),
                        relu=nn.ReLU(),
                        conv=nn.Conv2d(channels, channels // 2, 1, bias=False),
                        pool=nn.AvgPool2d(2, 2),
                    )
                )
                channels //= 2
        layers |= {"norm5": nn.BatchNorm2d(channels), "relu5": nn.ReLU()}
        super().__init__(findings, dropout, nn.Sequential(layers), channels)

    @classmethod
    def unpruned(cls, findings: int, dropout: float) -> Self:
        return cls(findings, dropout)

    @staticmethod
    def renamed(name: str) -> str:
        # The published file is of a time when names could have dots: denselayer1.norm.1 is norm1.
        return re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)", r"\1\2", name)
