"""MobileNetV2 (Sandler et al., CVPR 2018) for one gray channel, with its class activation map as an output."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from compression.recipe import RecipeError

# Expansion, channels, repeats, stride of the first: table 2 of the paper.
_BLOCKS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
_FEATURES = 1280


def _convolution(inputs: int, outputs: int, kernel: int, stride: int, groups: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups), nn.ReLU6())


class _InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        layers: list[nn.Module] = [] if expansion == 1 else [_convolution(inputs, hidden, 1, 1, 1)]
        layers += [_convolution(hidden, hidden, 3, stride, hidden), nn.Conv2d(hidden, outputs, 1)]
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


class MobileNetV2(nn.Module):
    """Width 1.0, batch normalization folded into weights and biases, named as torchvision names its layers.

    ``forward``: float32 ``(batch, 1, rows, columns)`` to logits ``(batch, findings)``, activation map ``(batch,
    findings, rows / 32, columns / 32)`` in units of the logit (bias excluded), embedding ``(batch, 1280)``.
    """

    def __init__(self, findings: int, dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = [_convolution(1, 32, 3, 2, 1)]
        channels = 32
        for expansion, outputs, repeats, stride in _BLOCKS:
            for number in range(repeats):
                layers.append(_InvertedResidual(channels, outputs, stride if number == 0 else 1, expansion))
                channels = outputs
        layers.append(_convolution(channels, _FEATURES, 1, 1, 1))
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(_FEATURES, findings)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.features(x)
        embedding = features.mean((2, 3))
        # Two separate paths: logits as the mean of the map came out constant on an int8 runtime.
        logits = self.classifier(self.dropout(embedding))
        activation_map = functional.conv2d(features, self.classifier.weight[:, :, None, None])
        return logits, activation_map, embedding

    def load_imagenet(self, path: Path) -> None:
        """Take over the features' weights from an npz with torchvision's names; RGB is summed to the one channel."""
        try:
            with np.load(path) as arrays:
                weights = {
                    name: arrays[name].astype(np.float32) for name in arrays.files if name.startswith("features")
                }
        except OSError as error:
            raise RecipeError(f"the initial weights {path} can't be read: {error}; is --weights right?") from error
        first = "features.0.0.weight"
        weights[first] = weights[first].sum(axis=1, keepdims=True)
        state = self.state_dict()
        missing = {name for name in state if name.startswith("features")} ^ set(weights)
        if missing:
            raise RecipeError(f"{path} is not of MobileNetV2 1.0: {sorted(missing)[:3]}")
        self.load_state_dict({**state, **{name: torch.from_numpy(value) for name, value in weights.items()}})
