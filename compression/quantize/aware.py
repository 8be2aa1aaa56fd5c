"""Quantization-aware fine-tuning: the last resort for a target whose post-training candidates fail the gate.

The network learns while weights and activations are rounded as int8 rounds them, and gradients pass straight through
(Jacob et al., CVPR 2018); its teacher is the unpruned network. A float network comes out, with weights that bear
rounding better, and each target's own producer quantizes it as any other.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from compression import checkpoint, export, train
from compression.architectures import Classifier
from compression.export import Source
from compression.quantize.static import Calibration

if TYPE_CHECKING:
    from compression.build import Build

PRODUCER = "after quantization-aware fine-tuning"


def retrained(build: Build, source: Source, folder: Path, calibration: Calibration) -> Source:
    """The network after fine-tuning, as ONNX and in torch; made once for all targets, and resumable."""
    folder.mkdir(exist_ok=True)
    done = folder / "network.pt"
    if not done.exists():
        recipe = build.recipe
        torch.manual_seed(recipe.data.seed + 1000)  # whatever ran before in this process
        rounded = copy.deepcopy(source.network)
        observe(rounded, calibration.inputs)
        tuning = train.Tuning(
            "quantization-aware",
            recipe.quantize.aware_epochs,
            recipe.quantize.aware_learning_rate,
            recipe.data.seed + 1000,
            train.Teacher(train.load(build), recipe.prune.distillation, recipe.prune.map_distillation),
        )
        tuned, _ = train.fit(build, rounded, tuning, folder / "checkpoint.pt")
        checkpoint.save(done, plain(tuned).state_dict())
    state = torch.load(done, weights_only=True)
    network = type(source.network).from_state(state, build.recipe.train.dropout).eval()
    return export.write(build, network, folder / "float.onnx")


def observe(network: Classifier, inputs: Sequence[np.ndarray]) -> None:
    """Measure what range each layer's input has, and round inputs and weights of each layer from now on."""
    layers = [layer for layer in network.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    rounders = {layer: _Rounder() for layer in layers}
    handles = [layer.register_forward_pre_hook(rounder.watch) for layer, rounder in rounders.items()]
    network.eval()
    with torch.no_grad():
        for each in inputs:
            network(torch.from_numpy(each))
    for handle in handles:
        handle.remove()
    for layer, rounder in rounders.items():
        layer.register_forward_pre_hook(rounder)
        parametrize.register_parametrization(layer, "weight", _RoundedWeights())


def plain(network: Classifier) -> Classifier:
    """The float network below the rounding."""
    state = {
        name.replace("parametrizations.weight.original", "weight"): each for name, each in network.state_dict().items()
    }
    return type(network).from_state(state, 0.0)


class _Rounder:
    """Rounds a layer's input to U8 steps over the range that was watched."""

    def __init__(self) -> None:
        self._low, self._high = 0.0, 0.0

    def watch(self, _: nn.Module, given: tuple[Tensor, ...]) -> None:
        self._low, self._high = min(self._low, float(given[0].min())), max(self._high, float(given[0].max()))

    def __call__(self, _: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        scale = max(self._high - self._low, 1e-6) / 255
        return (torch.fake_quantize_per_tensor_affine(given[0], scale, round(-self._low / scale), 0, 255), *given[1:])


class _RoundedWeights(nn.Module):
    """Rounds weights to symmetric S8 steps, each output channel (axis 0) with its own scale."""

    def forward(self, weights: Tensor) -> Tensor:
        scale = (weights.detach().abs().flatten(1).amax(dim=1) / 127).clamp_min(1e-8)
        return torch.fake_quantize_per_channel_affine(weights, scale, torch.zeros_like(scale), 0, -128, 127)
