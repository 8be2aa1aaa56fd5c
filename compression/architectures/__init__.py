"""The networks that a recipe may name in ``train.network``, one file a family.

Each takes one gray channel and gives logits, activation map and embedding (`classifier.Classifier`). A new one is a
class in a file here, its line in `NETWORKS`, and its name in `recipe.NetworkName`.
"""

from __future__ import annotations

import inspect
from pathlib import Path

from compression.architectures import classifier, weights
from compression.architectures.classifier import Classifier
from compression.architectures.densenet import DenseNet121
from compression.architectures.efficientnet import EfficientNetB0
from compression.architectures.mobilenet_v2 import MobileNetV2
from compression.architectures.resnet import ResNet18, ResNet50

__all__ = ["NETWORKS", "Classifier", "new", "sources"]

NETWORKS: dict[str, type[Classifier]] = {
    "mobilenet_v2": MobileNetV2,
    "resnet18": ResNet18,
    "resnet50": ResNet50,
    "densenet121": DenseNet121,
    "efficientnet_b0": EfficientNetB0,
}


def new(name: str, dropout: float, initial: Path | None) -> Classifier:
    """An unpruned network for one finding.

    Parameters
    ----------
    initial
        A file with weights of the features (`Classifier.load_imagenet`); None draws them at random.

    Raises
    ------
    RecipeError
        Where the file can't be read or is of another network.
    """
    network = NETWORKS[name].unpruned(findings=1, dropout=dropout)
    if initial is None:
        network.initialize()
    else:
        network.load_imagenet(initial)
    return network


def sources(name: str) -> bytes:
    """The source text that shapes a network of this name, for the keys of a build's stages."""
    modules = (classifier, weights, inspect.getmodule(NETWORKS[name]))
    return b"".join(Path(str(inspect.getsourcefile(module))).read_bytes() for module in modules if module)
