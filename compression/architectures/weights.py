"""Initial weights from a local file: npz, safetensors or a torch state dict; nothing in it is executed."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from compression.recipe import RecipeError

_HEADS = ("classifier.", "fc.")
_FEATURES = "features."
_EPSILON = 1e-5  # of torchvision's batch normalization
SUFFIXES = (".npz", ".safetensors", ".pt", ".pth")


def read(path: Path) -> dict[str, Tensor]:
    """Tensors of a file by name, float32; raises `RecipeError`."""
    if path.suffix not in SUFFIXES:
        raise RecipeError(f"the initial weights {path} are none of {', '.join(SUFFIXES)}: convert the file")
    try:
        tensors = _tensors(path)
    except FileNotFoundError as error:
        raise RecipeError(f"the initial weights {path} are not there; is --weights right?") from error
    except Exception as error:  # what a damaged file makes three libraries raise is not written down anywhere
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise RecipeError(
            f"the initial weights {path} can't be read, are damaged or hold more than tensors ({said}); fetch the file "
            "again, or save a plain state dict"
        ) from error
    named = all(isinstance(name, str) and isinstance(value, Tensor) for name, value in tensors.items())
    if not tensors or not named:
        raise RecipeError(f"the initial weights {path} are no plain state dict; save network.state_dict()")
    tensors = {name: value.float() for name, value in tensors.items()}
    broken = [name for name, value in tensors.items() if not value.isfinite().all()]
    if broken:
        raise RecipeError(
            f"the initial weights {path} are damaged: {broken[0]} holds values that are no numbers; fetch the file "
            "again"
        )
    return tensors


def _tensors(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".npz":
        with path.open("rb") as file, np.load(file) as arrays:  # numpy leaves a damaged one open
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return dict(load_file(path))
    if zipfile.is_zipfile(path):  # of which torch looks at no checksum; older files have none
        with zipfile.ZipFile(path) as archive:
            if changed := archive.testzip():
                raise ValueError(f"{changed} is not what was written")
    return dict(torch.load(path, weights_only=True, map_location="cpu"))


def of_features(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the head and the counts of batches, every name below ``features``."""
    return {
        name if name.startswith(_FEATURES) else f"{_FEATURES}{name}": value
        for name, value in tensors.items()
        if not name.startswith(_HEADS) and not name.endswith("num_batches_tracked")
    }


def folded(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each batch normalization folded into the convolution that stands one place before it; folded ones stay so.

    What is of another network stays as it is; `check` names it.
    """
    found = dict(tensors)
    for name in tensors:
        normalization, ending, _ = name.rpartition(".running_var")
        parent, _, place = normalization.rpartition(".")
        convolution = f"{parent}.{int(place) - 1}" if ending and place.isdecimal() else ""
        parts = [f"{normalization}.{each}" for each in ("running_mean", "running_var", "weight", "bias")]
        width = found[f"{convolution}.weight"].shape[:1] if f"{convolution}.weight" in found else None
        if all(part in found and found[part].shape == width for part in parts):
            mean, variance, gain, shift = (found.pop(part) for part in parts)
            scale = gain / torch.sqrt(variance + _EPSILON)
            found[f"{convolution}.weight"] = found[f"{convolution}.weight"] * scale[:, None, None, None]
            found[f"{convolution}.bias"] = shift - mean * scale
    return found


def one_channel(tensors: Mapping[str, Tensor], first: str) -> dict[str, Tensor]:
    """The first convolution for gray images: a gray image is one with three equal channels."""
    return {**tensors, first: tensors[first].sum(dim=1, keepdim=True)}


def check(path: Path, network: str, given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], first: str) -> None:
    """Raise `RecipeError` where names or shapes are not those of the network's features."""
    names = {name for name in wanted if name.startswith(_FEATURES) and not name.endswith("num_batches_tracked")}
    apart = sorted(names ^ set(given))
    if not apart:
        apart = sorted(name for name in names if _shape(given, name, first) != _shape(wanted, name, first))
    if apart:
        raise RecipeError(
            f"{path} is not of {network}: {len(apart)} layers differ, {', '.join(apart[:3])}; "
            "does train.network name the network of train.weights?"
        )


def _shape(tensors: Mapping[str, Tensor], name: str, first: str) -> tuple[int, ...]:
    """Of a layer's tensor; of the first convolution, whatever the number of its channels."""
    shape = tuple(tensors[name].shape)
    return (shape[0], *shape[2:]) if name == first and len(shape) > 1 else shape
