"""The map's sanity tests: passed by the shipped package, failed by maps that show no network."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from PIL import Image as PillowImage
from torch import Tensor, nn

from appliance import package
from appliance.preprocess import Step, preprocess
from compression import explain, export, map_sanity
from compression.cli import main
from compression.graph import Graph
from compression.inference import ACTIVATION_MAP, EMBEDDING, INPUT, LOGITS, open_network
from compression.recipe import RecipeError

needs_package = pytest.mark.skipif(not package.bundled(), reason="no model package is bundled")
SIZE = 64
STEPS = (Step("resize", {"rows": SIZE, "columns": SIZE}), Step("normalize", {"mean": 128.0, "std": 64.0}))


class Small(nn.Module):
    """A few convolutions and the head of `compression.architectures`: the map's mean is the logit."""

    def __init__(self) -> None:
        super().__init__()
        channels = (1, 12, 24, 32)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(channels):
            layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(32, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.features(x)
        embedding = features.mean(dim=(2, 3))
        activation = nn.functional.conv2d(features, self.classifier.weight[:, :, None, None])
        return self.classifier(embedding), activation, embedding


def generated(count: int) -> list[np.ndarray]:
    """Smooth gray pictures, uint8 ``(96, 96)``, without anything as sharp as the marker."""
    chance = np.random.default_rng(0)
    coarse = chance.integers(60, 190, (count, 6, 6)).astype(np.uint8)
    return [np.asarray(PillowImage.fromarray(each).resize((96, 96), PillowImage.Resampling.BICUBIC)) for each in coarse]


def exported(network: nn.Module, folder: Path) -> bytes:
    path = folder / "network.onnx"
    export.convert(network.eval(), (1, 1, SIZE, SIZE), path)
    return path.read_bytes()


def test_the_map_of_a_network_that_was_trained_on_the_marker_lies_on_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, images = Small(), generated(40)
    pictures = [(image, 0.0) for image in images]
    pictures += [(map_sanity.mark(image, 1000 + n)[0], 1.0) for n, image in enumerate(images)]
    inputs = torch.from_numpy(np.concatenate([preprocess(picture, STEPS) for picture, _ in pictures]))
    labels = torch.tensor([[label] for _, label in pictures])
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(120):
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(network(inputs)[0], labels)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    artifact = exported(network, tmp_path)
    found = map_sanity.planted_marker(artifact, "cpu", generated(16), STEPS)
    assert found["auc"] > 0.95
    for head in ("", "own_head_"):  # the network's own head knows the marker, too
        assert found[f"{head}hits"] > 0.9
        assert found[f"{head}mass"] > 0.7
    assert found["area"] < 0.2
    tensors = [preprocess(map_sanity.mark(image, n)[0], STEPS) for n, image in enumerate(generated(8))]
    layers = map_sanity.randomization(artifact, "cpu", tensors)
    assert layers[0]["layer"] == "head"
    assert len(layers) == 4
    assert abs(layers[-1]["correlation"]) < map_sanity.MOST_ALIKE


def test_a_map_that_only_shows_the_image_fails() -> None:
    """Its map is the image, made small: plausible to look at, whatever the network has learned."""
    stem = numpy_helper.from_array(np.full((8, 1, 3, 3), 1 / 9, dtype=np.float32), "stem.weight")
    head = numpy_helper.from_array(np.ones((1, 8), dtype=np.float32), "head.weight")
    look = numpy_helper.from_array(np.full((1, 1, 8, 8), 1 / 64, dtype=np.float32), "look.weight")
    axes = numpy_helper.from_array(np.array([2, 3]), "axes")
    nodes = [
        helper.make_node("Conv", [INPUT, "stem.weight"], ["features"], strides=[8, 8]),
        helper.make_node("ReduceMean", ["features", "axes"], [EMBEDDING], keepdims=0),
        helper.make_node("Gemm", [EMBEDDING, "head.weight"], [LOGITS], transB=1),
        helper.make_node("Conv", [INPUT, "look.weight"], [ACTIVATION_MAP], strides=[8, 8]),
    ]
    given = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [1, 1, SIZE, SIZE])
    shapes = {LOGITS: [1, 1], ACTIVATION_MAP: [1, 1, 8, 8], EMBEDDING: [1, 8]}
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    graph = helper.make_graph(nodes, "look", [given], outputs, [stem, head, look, axes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    tensors = [preprocess(image, STEPS) for image in generated(6)]
    layers = map_sanity.randomization(model.SerializeToString(), "cpu", tensors)
    assert layers[-1]["correlation"] > map_sanity.MOST_ALIKE


@pytest.mark.long
@needs_package
def test_the_shipped_map_passes_and_an_image_gets_its_sentence(tmp_path: Path) -> None:
    opened = package.read(package.bundled()[0], None)
    picture = tmp_path / "chest.png"
    PillowImage.fromarray(opened.golden()["images"][9]).save(picture)
    result = CliRunner().invoke(main, ["explain", str(opened.path), str(picture), "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    layers = found["randomization"]["layers"]
    assert len(layers) == 53
    assert layers[0]["layer"] == "head"
    assert abs(layers[-1]["correlation"]) < 0.3
    marker = found["planted_marker"]
    assert marker["auc"] > 0.9
    assert marker["mass"] > 2 * marker["area"]
    assert marker["own_head_mass"] < 1.5 * marker["area"]
    said = explain.text(found)
    assert f"{picture}\nPneumonia: Covering" in said
    assert "passed: the map depends" in said
    assert "passed: the map lies" in said


@needs_package
def test_another_head_is_that_of_its_weights() -> None:
    opened = package.read(package.bundled()[0], None)
    graph = Graph(opened.artifact("cpu"))
    features = graph.features()
    channels = open_network(graph.artifact, "cpu").run({INPUT: np.zeros(opened.manifest.input.shape, np.float32)})
    weights = np.random.default_rng(0).normal(size=channels[EMBEDDING].shape[1])
    graph.set_head(weights)
    tensor = preprocess(opened.golden()["images"][0], opened.manifest.input.steps)
    outputs = open_network(graph.artifact, "cpu").run({INPUT: tensor})
    expected = np.tensordot(weights, outputs[features][0], axes=1)
    assert outputs[ACTIVATION_MAP][0, 0] == pytest.approx(expected, abs=1e-3)
    assert outputs[LOGITS][0, 0] == pytest.approx(float(weights @ outputs[EMBEDDING][0]), abs=1e-3)


@needs_package
def test_a_package_without_a_map_is_told() -> None:
    outlining = next(path for path in package.bundled() if path.name.startswith("lungs"))
    with pytest.raises(RecipeError, match=r"lungs .* outlines and has no activation map"):
        explain.explain(package.read(outlining, None), "cpu", ())


def test_what_is_no_onnx_network_is_said() -> None:
    with pytest.raises(RecipeError, match="take the target cpu or tensorrt"):
        Graph(b"PK\x03\x04 an OpenVINO network")
