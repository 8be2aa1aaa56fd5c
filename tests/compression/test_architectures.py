"""Every network that a recipe may name: its outputs, pruned and built again, its weights, its int8 on each runtime."""

from __future__ import annotations

import math
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace
from safetensors.torch import save_file
from torch import Tensor, nn

from compression import architectures, export, optimization, prune, quantize
from compression.architectures import NETWORKS, Classifier
from compression.build import Build
from compression.export import Source
from compression.inference import ACTIVATION_MAP, LOGITS, Network, tensors
from compression.quantize import aware, cpu, openvino, tensorrt
from compression.quantize.static import Calibration
from compression.recipe import NetworkName, RecipeError, read
from tests.compression.test_recipe_and_data import RECIPE
from tests.dicom_files import chest_pixels

SIDE = 64
EMBEDDINGS = {
    "mobilenet_v2": 1280, "resnet18": 512, "resnet50": 2048, "densenet121": 1024, "efficientnet_b0": 1280,
}  # fmt: skip
ALL = [pytest.param(name, marks=pytest.mark.slow) if name != "resnet18" else name for name in NETWORKS]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """A build on small generated images; its training set is there already."""
    recipe = read(RECIPE)
    recipe = replace(recipe, input=replace(recipe.input, rows=SIDE, columns=SIDE))
    made = Build(recipe, RECIPE, tmp_path, tmp_path, tmp_path / "work", Ed25519PrivateKey.generate(), tmp_path)
    for stage in ("data", "quantize"):
        made.folder(stage).mkdir(parents=True)
    labels = np.arange(24) % 2 == 1
    np.savez(made.folder("data") / "train.npz", pixels=pictures(24), labels=labels, patients=np.arange(24).astype(str))
    return made


def pictures(count: int) -> np.ndarray:
    made = [chest_pixels(SIDE, SIDE, 8, seed).astype(np.int32) for seed in range(count)]
    for number, picture in enumerate(made):
        picture[20:40, 10 + number : 24 + number] += 40
    return np.clip(np.stack(made), 0, 255).astype(np.uint8)


def settled(name: str, build: Build) -> Classifier:
    """An untrained network whose batch normalization has seen some images, as after training."""
    torch.manual_seed(0)
    network = architectures.new(name, 0.0, None)
    for place, layer in network.named_modules():
        if place.endswith(
            "bn3"
        ):  # of ResNet-50: its branches start small (Goyal et al., 2017), or noise grows in depth
            nn.init.constant_(layer.weight, 0.2)
    batch = torch.from_numpy(np.concatenate(list(tensors(build, pictures(8)))))
    network.train()
    with torch.no_grad():
        for _ in range(30):
            network(batch)
    nn.init.normal_(network.classifier.weight, std=0.1)
    return network.eval()


@torch.no_grad()
def answers(network: Classifier, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    outputs: tuple[Tensor, Tensor, Tensor] = network(inputs)
    return outputs


def test_recipes_can_name_every_network() -> None:
    assert set(get_args(NetworkName)) == set(NETWORKS)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_gives_logits_a_map_whose_mean_they_are_and_an_embedding(name: str) -> None:
    torch.manual_seed(0)
    network = architectures.new(name, 0.0, None).eval()
    logits, activation_map, embedding = answers(network, torch.randn(2, 1, SIDE, SIDE))
    assert logits.shape == (2, 1)
    assert activation_map.shape == (2, 1, SIDE // 32, SIDE // 32)
    assert embedding.shape == (2, EMBEDDINGS[name])
    torch.testing.assert_close(activation_map.mean((2, 3)) + network.classifier.bias, logits, rtol=1e-3, atol=1e-4)
    assert embedding.std() > 1e-4  # no signal that has died on its way


@pytest.mark.long
@pytest.mark.parametrize("name", ALL)
def test_a_pruned_network_is_built_again_from_its_weights(name: str, build: Build) -> None:
    network = settled(name, build)
    smaller = prune.remove_channels(build, network, 0.5).eval()
    before, after = (sum(each.numel() for each in one.parameters()) for one in (network, smaller))
    assert after < 0.7 * before
    inputs = torch.from_numpy(np.concatenate(list(tensors(build, pictures(2)))))
    again = NETWORKS[name].from_state(smaller.state_dict(), 0.0).eval()
    for one, other in zip(answers(smaller, inputs), answers(again, inputs), strict=True):
        assert torch.equal(one, other)
    assert again.classifier.weight.data_ptr() != smaller.classifier.weight.data_ptr()


@pytest.mark.slow  # half a minute and more each; a whole build covers MobileNetV2
@pytest.mark.parametrize("name", NETWORKS)
def test_int8_answers_like_float_on_every_backend(name: str, build: Build) -> None:
    network = prune.remove_channels(build, settled(name, build), 0.3).eval()
    path = build.folder("quantize") / "float.onnx"
    export.convert(network, (1, 1, SIDE, SIDE), path)
    inputs = list(tensors(build, pictures(24)))
    calibration = Calibration(list(tensors(build, pictures(16))), build.recipe.quantize.method)
    expected = [each.numpy() for each in answers(network, torch.from_numpy(np.concatenate(inputs)))]
    given = Network(path).run(inputs)
    np.testing.assert_allclose(given[LOGITS], expected[0], atol=1e-3 * np.abs(expected[0]).max())
    source = Source(path, network)
    for target in (cpu, openvino, tensorrt):
        made = target.candidates(source, build.folder("quantize"), calibration)
        assert made
        for producer, artifact in made.items():
            int8 = Network(artifact, target.TARGET).run(inputs)
            what = f"{name}, {target.TARGET}, {producer}"
            alike = {
                output: np.corrcoef(expected[place].ravel(), int8[output].ravel())[0, 1]
                for place, output in ((0, LOGITS), (1, ACTIVATION_MAP))
            }
            assert min(alike.values()) > 0.9, f"{what}: {alike}"


def test_every_target_takes_every_operator(build: Build) -> None:
    import onnx

    network = settled("efficientnet_b0", build)
    path = build.work / "float.onnx"
    export.convert(network, (1, 1, SIDE, SIDE), path)
    assert quantize.unquantizable(onnx.load(str(path)), ("cpu", "openvino", "tensorrt")) == []


def test_training_keeps_the_statistics_of_batch_normalization(build: Build) -> None:
    network = settled("resnet18", build)
    fresh = architectures.new("resnet18", 0.0, None)
    optimization.move(fresh, network, 0, 0.99)
    assert torch.equal(fresh.features.bn1.running_var, network.features.bn1.running_var)


def test_rounding_in_training_leaves_a_network_of_the_same_kind(build: Build) -> None:
    network = settled("efficientnet_b0", build)
    inputs = list(tensors(build, pictures(2)))
    before = answers(network, torch.from_numpy(inputs[0]))[1]
    aware.observe(network, inputs)
    plain = aware.plain(network).eval()
    assert type(plain) is NETWORKS["efficientnet_b0"]
    assert torch.equal(answers(plain, torch.from_numpy(inputs[0]))[1], before)


def colored(name: str) -> dict[str, Tensor]:
    """Weights as torchvision stores them: three color channels, a head of its own, no prefix where it has none."""
    network = architectures.new(name, 0.0, None)
    state = {key: value.clone() for key, value in network.state_dict().items() if key.startswith("features")}
    state[network.FIRST] = state[network.FIRST].repeat(1, 3, 1, 1) / 3
    if name.startswith("resnet"):
        state = {key.removeprefix("features."): value for key, value in state.items()}
        state["fc.weight"] = torch.zeros(1000, 512)
    else:
        state["classifier.1.weight"] = torch.zeros(1000, 1280)
    return state


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18", "densenet121", "efficientnet_b0"])
@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pt"])
def test_weights_of_colors_are_summed_to_gray(name: str, suffix: str, tmp_path: Path) -> None:
    state, path = colored(name), tmp_path / f"weights{suffix}"
    if suffix == ".npz":
        np.savez(path, **{key: value.numpy() for key, value in state.items()})
    elif suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    network = architectures.new(name, 0.0, path)
    first = state[network.FIRST if network.FIRST in state else network.FIRST.removeprefix("features.")]
    assert torch.equal(network.state_dict()[network.FIRST], first.sum(1, keepdim=True))


def test_older_names_of_densenet_are_known(tmp_path: Path) -> None:
    import re

    state = {re.sub(r"(denselayer\d+\.)(norm|conv)(\d)", r"\1\2.\3", key): value
             for key, value in colored("densenet121").items()}  # fmt: skip
    torch.save(state, tmp_path / "old.pth")
    network = architectures.new("densenet121", 0.0, tmp_path / "old.pth")
    key = "features.denseblock1.denselayer1.conv2.weight"
    assert torch.equal(network.state_dict()[key], state["features.denseblock1.denselayer1.conv.2.weight"])


def test_batch_normalization_is_folded_into_a_network_that_has_none(tmp_path: Path) -> None:
    """torchvision's MobileNetV2 has it; the folded network answers as convolution and normalization one by one."""
    state = colored("mobilenet_v2")
    convolution, normalization = nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32).eval()
    normalization.load_state_dict(
        {"weight": torch.rand(32) + 0.5, "bias": torch.randn(32), "running_mean": torch.randn(32),
         "running_var": torch.rand(32) + 0.1, "num_batches_tracked": torch.tensor(1)}
    )  # fmt: skip
    state["features.0.0.weight"] = convolution.weight.detach()
    del state["features.0.0.bias"]
    state |= {f"features.0.1.{key}": value for key, value in normalization.state_dict().items()}
    torch.save(state, tmp_path / "unfolded.pt")
    network = architectures.new("mobilenet_v2", 0.0, tmp_path / "unfolded.pt")
    gray = torch.randn(1, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(
            network.features[0][0](gray), normalization(convolution(gray.repeat(1, 3, 1, 1))), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("weights.npz", None, "are not there; is --weights right"),
        ("weights.npz", b"not a file of numpy", "damaged"),
        ("weights.pt", b"not a file of torch", "damaged"),
        ("weights.pt", b"junk", "damaged"),
        ("weights.safetensors", b"not a file of safetensors", "damaged"),
        ("weights.onnx", b"", "convert the file"),
    ],
)
def test_a_wrong_file_of_weights_is_named(name: str, content: bytes | None, word: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(RecipeError, match=rf"{name}.*{word}"):
        architectures.new("resnet18", 0.0, tmp_path / name)


@pytest.mark.parametrize("suffix", ["npz", "pt", "safetensors"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_file_of_weights_is_named_with_what_to_do(suffix: str, damage: str, tmp_path: Path) -> None:
    path, state = tmp_path / f"weights.{suffix}", colored("resnet18")
    if suffix == "npz":
        np.savez(path, **{name: value.numpy() for name, value in state.items()})
    elif suffix == "pt":
        torch.save(state, path)
    else:
        save_file({name: value.contiguous() for name, value in state.items()}, path)
    content = bytearray(path.read_bytes())
    if damage == "flipped":  # the head, the middle and the end, where each form keeps what it is
        for at in (0, 7, len(content) // 2, len(content) - 20, len(content) - 100):
            content[at] ^= 0xFF
    path.write_bytes(content[: len(content) // 3] if damage == "cut" else b"" if damage == "empty" else content)
    with pytest.raises(RecipeError, match=rf"initial weights {path} .*damaged.*fetch the file again"):
        architectures.new("resnet18", 0.0, path)


@pytest.mark.parametrize("suffix", ["npz", "pt"])
def test_one_changed_bit_among_weights_is_noticed_where_there_is_a_checksum(suffix: str, tmp_path: Path) -> None:
    path, state = tmp_path / f"weights.{suffix}", colored("resnet18")
    if suffix == "npz":
        np.savez(path, **{name: value.numpy() for name, value in state.items()})
    else:
        torch.save(state, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=rf"initial weights {path} .*damaged.*fetch the file again"):
        architectures.new("resnet18", 0.0, path)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers_are_refused(value: float, tmp_path: Path) -> None:
    state = colored("resnet18")
    state["conv1.weight"][0, 0, 0, 0] = value
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(RecipeError, match=r"weights.pt are damaged: conv1.weight holds values that are no numbers"):
        architectures.new("resnet18", 0.0, tmp_path / "weights.pt")


@pytest.mark.parametrize("state", [{1: torch.zeros(1)}, {}, {"a": 1}])
def test_what_is_no_state_dict_is_refused(state: dict[object, object], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(RecipeError, match=r"weights.pt are no plain state dict"):
        architectures.new("resnet18", 0.0, tmp_path / "weights.pt")


@pytest.mark.parametrize("network", ["mobilenet_v2", "resnet18"])
def test_a_first_convolution_of_another_form_is_refused(network: str, tmp_path: Path) -> None:
    state = colored(network)
    first = next(iter(state))
    for other in (torch.zeros(()), torch.zeros(4), state[first][..., :2]):
        torch.save({**state, first: other}, tmp_path / "weights.pt")
        with pytest.raises(RecipeError, match=r"weights.pt is not of .*: 1 layers differ"):
            architectures.new(network, 0.0, tmp_path / "weights.pt")


@pytest.mark.parametrize("network", ["densenet121", "mobilenet_v2"])
def test_weights_of_a_resnet_are_refused_by_all_others(network: str, tmp_path: Path) -> None:
    torch.save(colored("resnet18"), tmp_path / "other.pt")
    with pytest.raises(RecipeError, match=r"other.pt is not of"):
        architectures.new(network, 0.0, tmp_path / "other.pt")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(colored("resnet18"), tmp_path / "other.pt")
    with pytest.raises(RecipeError, match=r"other.pt is not of DenseNet121.*train.network"):
        architectures.new("densenet121", 0.0, tmp_path / "other.pt")


def test_weights_that_would_execute_something_are_refused(tmp_path: Path) -> None:
    torch.save({"features": torch.nn.Linear(1, 1)}, tmp_path / "pickled.pt")
    with pytest.raises(RecipeError, match=r"pickled.pt"):
        architectures.new("resnet18", 0.0, tmp_path / "pickled.pt")
