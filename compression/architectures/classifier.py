"""What all networks here have in common: their head, their class activation map, and how they are built again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from compression.architectures import weights


class Classifier(nn.Module):
    """Features, their mean, one linear layer (class activation map: Zhou et al., CVPR 2016).

    ``forward``: float32 ``(batch, 1, rows, columns)`` to logits ``(batch, findings)``, activation map ``(batch,
    findings, rows / 32, columns / 32)`` in units of the logit (bias excluded), embedding ``(batch, features)``.

    Attributes
    ----------
    FIRST
        Name of the first convolution, whose color channels are summed when weights are loaded.
    FOLDED
        Whether batch normalization is folded into the convolutions before it; it then has no layers of its own.
    features
        All layers before the mean, named below it as torchvision names them.
    """

    FIRST: ClassVar[str]
    FOLDED: ClassVar[bool] = False
    features: nn.Sequential

    def __init__(self, findings: int, dropout: float, features: nn.Sequential, width: int) -> None:
        super().__init__()
        self.features = features
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(width, findings)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.features(x)
        embedding = features.mean((2, 3))
        # Two separate paths: logits as the mean of the map came out constant on an int8 runtime.
        logits = self.classifier(self.dropout(embedding))
        activation_map = functional.conv2d(features, self.classifier.weight[:, :, None, None])
        return logits, activation_map, embedding

    @classmethod
    def unpruned(cls, findings: int, dropout: float) -> Self:
        """A network of full width."""
        raise NotImplementedError

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], dropout: float) -> Self:
        """A network with the weights of a state dict, and as wide as these are: pruning changes widths only."""
        with torch.device("meta"):  # shapes without memory, since most of them change
            network = cls.unpruned(len(state["classifier.weight"]), dropout)
        for name, layer in network.named_modules():
            if f"{name}.weight" in state:
                _fit(layer, state[f"{name}.weight"].shape)
        network = network.to_empty(device="cpu")
        network.load_state_dict(dict(state))
        return network

    def initialize(self) -> None:
        """Draw weights for training from scratch (He et al., ICCV 2015)."""
        for layer in self.features.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def load_imagenet(self, path: Path) -> None:
        """Take over the features' weights from a local file with torchvision's names; RGB is summed to one channel.

        Raises
        ------
        RecipeError
            Where the file can't be read or is of another network.
        """
        wanted = self.state_dict()
        given = weights.read(path)
        found = weights.of_features({self.renamed(name): value for name, value in given.items()})
        if self.FOLDED:
            found = weights.folded(found)
        weights.check(path, type(self).__name__, found, wanted, self.FIRST)
        self.load_state_dict({**wanted, **weights.one_channel(found, self.FIRST)})

    @staticmethod
    def renamed(name: str) -> str:
        """A layer's name where an older file spells it differently."""
        return name


def _fit(layer: nn.Module, shape: torch.Size) -> None:
    """Give a layer the shape of its weights: what it says of its channels, and its tensors, still without content."""
    if isinstance(layer, nn.Conv2d):
        depthwise = layer.groups > 1
        layer.out_channels, layer.groups = shape[0], shape[0] if depthwise else 1
        layer.in_channels = shape[1] * layer.groups
    elif isinstance(layer, nn.BatchNorm2d):
        layer.num_features = shape[0]
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = shape[0], shape[1]
    meta = torch.device("meta")
    layer.weight = nn.Parameter(torch.empty(shape, device=meta))
    if getattr(layer, "bias", None) is not None:
        layer.bias = nn.Parameter(torch.empty(shape[0], device=meta))
    for name, buffer in layer.named_buffers(recurse=False):
        if buffer.ndim:  # running mean and variance; the count of batches has no channels
            layer.register_buffer(name, torch.empty(shape[0], device=meta))
