"""MobileNetV2 (Sandler et al., CVPR 2018) for one gray channel, with its class activation map as an output."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from compression.recipe import RecipeError

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


class MobileNetV2(nn.Module):
    """Batch normalization folded into weights and biases, layers named as torchvision names them.

    ``forward``: float32 ``(batch, 1, rows, columns)`` to logits ``(batch, findings)``, activation map ``(batch,
    findings, rows / 32, columns / 32)`` in units of the logit (bias excluded), embedding ``(batch, features)``.
    """

    def __init__(self, findings: int, dropout: float, widths: Widths = UNPRUNED) -> None:
        super().__init__()
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
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(widths.embedding, findings)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

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


def _last(state: Mapping[str, Tensor], block: int, place: int) -> str:
    """The name of a block's weights, counted from its end: 1 is the projection, 2 the depthwise convolution."""
    names = sorted(name for name in state if name.startswith(f"features.{block}.conv.") and name.endswith(".weight"))
    return names[-place]
