"""What is between a float network and a verdict: QDQ graphs, rounding in training, the rules of choosing."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from appliance.package import Conformal
from compression import choose, gate, quantize
from compression.architectures.mobilenet_v2 import MobileNetV2, Widths
from compression.calibrate import Calibration
from compression.quantize import aware
from compression.quantize.qdq import drop_clips, fold_weights
from compression.recipe import GateRecipe, RecipeError
from compression.statistics import map_correlation

LIMITS = GateRecipe(flips=0.02, p99_probability=0.25, map_correlation=0.95, auc_loss=0.005, calibration_error=0.03)
COSTS = {"flips": 0.01, "p99_probability": 0.1, "map_correlation": 0.99, "auc_loss": 0.001}
CALIBRATION = Calibration(1.0, 0.0, 1.0, (), Conformal(0.9, 0.5, 0.5), 0.05, 0.01, ())


def qdq_graph(low: int, high: int) -> onnx.ModelProto:
    """Weights -> QuantizeLinear -> Clip -> DequantizeLinear -> Conv, as PT2E writes it."""
    weights = np.random.default_rng(0).normal(size=(4, 1, 3, 3)).astype(np.float32)
    constants = {
        "weights": weights,
        "scale": (np.abs(weights).max(axis=(1, 2, 3)) / 127).astype(np.float32),
        "zero": np.zeros(4, dtype=np.int8),
        "low": np.array(low, dtype=np.int8),
        "high": np.array(high, dtype=np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["weights", "scale", "zero"], ["quantized"], axis=0),
        helper.make_node("Clip", ["quantized", "low", "high"], ["clipped"]),
        helper.make_node("DequantizeLinear", ["clipped", "scale", "zero"], ["restored"], axis=0),
        helper.make_node("Conv", ["image", "restored"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 8, 8])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 4, 6, 6])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_folded_weights_give_the_same_answers_in_a_quarter_of_the_bytes() -> None:
    import onnxruntime

    image = np.random.default_rng(1).normal(size=(1, 1, 8, 8)).astype(np.float32)

    def run(model: onnx.ModelProto) -> np.ndarray:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, {"image": image})[0])

    model = qdq_graph(-128, 127)
    before = run(model)
    drop_clips(model)
    fold_weights(model)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["DequantizeLinear", "Conv"]
    assert {tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) == 4} == {TensorProto.INT8}
    np.testing.assert_allclose(run(model), before, atol=1e-6)


def test_a_clip_that_changes_the_network_is_not_dropped() -> None:
    with pytest.raises(RecipeError, match="less than its type holds"):
        drop_clips(qdq_graph(-64, 63))


def test_an_operator_that_a_target_cannot_quantize_is_named() -> None:
    model = qdq_graph(-128, 127)
    model.graph.node.append(helper.make_node("Erf", ["out"], ["gelu"], name="block_3"))
    faults = quantize.unquantizable(model, ["openvino", "tensorrt"])
    assert [fault for fault in faults if "openvino can't quantize Erf (block_3)" in fault]
    assert [fault for fault in faults if "tensorrt can't quantize Erf (block_3)" in fault]


def small_network() -> MobileNetV2:
    torch.manual_seed(0)
    widths = Widths(16, tuple((32 if number else 16, 16) for number in range(17)), 32)
    return MobileNetV2(1, 0.0, widths).eval()


@torch.no_grad()
def test_training_sees_int8_and_leaves_a_float_network() -> None:
    network = small_network()
    images = [np.random.default_rng(seed).normal(size=(1, 1, 64, 64)).astype(np.float32) for seed in range(4)]
    before = [network(torch.from_numpy(image))[1] for image in images]
    aware.observe(network, images)
    rounded = [network(torch.from_numpy(image))[1] for image in images]
    after = [aware.plain(network).eval()(torch.from_numpy(image))[1] for image in images]
    for one, other, plain in zip(before, rounded, after, strict=True):
        assert torch.equal(one, plain)
        assert not torch.equal(one, other)
        assert (one - other).abs().max() < 0.2 * one.abs().max()


def test_gradients_pass_the_rounding() -> None:
    network = small_network()
    images = [np.random.default_rng(0).normal(size=(1, 1, 64, 64)).astype(np.float32)]
    aware.observe(network, images)
    network(torch.from_numpy(images[0]))[0].sum().backward()
    gradients = [value.grad for name, value in network.named_parameters() if "weight" in name]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)
    assert sum(float(gradient.abs().sum()) for gradient in gradients if gradient is not None) > 0


def verdict(producer: str, milliseconds: float, broken: tuple[str, ...] = (), **costs: float) -> gate.Verdict:
    return gate.Verdict(
        target="cpu",
        producer=producer,
        artifact=producer,
        bytes=1,
        milliseconds=milliseconds,
        costs={**COSTS, **costs},
        broken=broken,
        calibration=CALIBRATION,
    )


def decided(*verdicts: gate.Verdict, target: str = "cpu") -> tuple[str, str]:
    shipped, reason = gate.decide(target, {each.producer: each for each in verdicts})
    return shipped.producer, reason


def test_the_faster_of_two_good_candidates_ships() -> None:
    assert decided(verdict("float", 3.0), verdict("a", 2.0), verdict("b", 1.0))[0] == "b"


def test_where_two_are_about_as_fast_the_one_with_fewer_flips_ships() -> None:
    assert decided(verdict("float", 3.0), verdict("a", 1.1, flips=0.001), verdict("b", 1.0))[0] == "a"


def test_a_faster_one_that_breaks_a_limit_does_not_ship() -> None:
    assert decided(verdict("float", 3.0), verdict("a", 2.0), verdict("b", 1.0, ("flips 0.5 against 0.02",)))[0] == "a"


def test_int8_that_is_no_faster_does_not_ship() -> None:
    producer, reason = decided(verdict("float", 1.0), verdict("a", 1.2))
    assert producer == "float"
    assert "no faster" in reason
    with pytest.raises(RecipeError, match="float is faster than int8, but flips"):
        decided(verdict("float", 1.0, ("flips 0.5",)), verdict("a", 1.2))


def test_where_nothing_passes_the_build_stops_with_the_figure() -> None:
    with pytest.raises(RecipeError, match=r"target cpu: no int8 candidate passes the gate \(a: flips 0.5"):
        decided(verdict("float", 1.0), verdict("a", 0.5, ("flips 0.5 against 0.02 allowed",)))


@pytest.mark.parametrize(
    ("name", "value"),
    [("flips", 0.021), ("p99_probability", 0.3), ("map_correlation", 0.94), ("auc_loss", 0.006), ("auc_loss", np.nan)],
)
def test_each_limit_is_named_when_it_breaks(name: str, value: float) -> None:
    assert gate.broken(LIMITS, COSTS, 0.01) == ()
    (fault,) = gate.broken(LIMITS, {**COSTS, name: value}, 0.01)
    assert fault.startswith(f"{name} {value} against")
    (fault,) = gate.broken(LIMITS, COSTS, 0.04)
    assert "calibration_error 0.04" in fault


def test_a_map_that_became_flat_is_no_longer_the_map_that_it_was() -> None:
    maps = np.random.default_rng(0).random((4, 7, 7))
    flat = maps * np.array([1, 0, 0, 0])[:, None, None]
    assert map_correlation(maps, maps) == pytest.approx(1.0)
    assert map_correlation(maps, flat) == 0.0
    assert map_correlation(flat, flat) == pytest.approx(1.0)


def row(
    name: str, parameters: int, auc: float, flips: float = 0.0, correlation: float = 1.0, difference: float = 0.0
) -> dict[str, object]:
    return {
        "name": name,
        "parameters": parameters,
        "auc": [auc, auc - 0.01, auc + 0.01],
        "flips": flips,
        "p99_probability": difference,
        "map_correlation": correlation,
    }


@pytest.mark.parametrize(
    ("smallest", "chosen"),
    [
        (row("small", 1, 0.98), "small"),
        (row("small", 1, 0.97), "middle"),  # below the best one's interval
        (row("small", 1, 0.99, flips=0.03), "middle"),
        (row("small", 1, 0.99, correlation=0.9), "middle"),
        (row("small", 1, 0.99, difference=0.3), "middle"),
    ],
)
def test_the_smallest_network_that_still_answers_like_the_unpruned_one_goes_on(
    smallest: dict[str, object], chosen: str
) -> None:
    rows = choose.choose([row("unpruned", 10, 0.985), row("middle", 5, 0.986), smallest], LIMITS)
    assert [each["name"] for each in rows if each["chosen"]] == [chosen]


def test_where_pruning_costs_too_much_the_unpruned_network_goes_on() -> None:
    rows = choose.choose([row("unpruned", 10, 0.9), row("small", 1, 0.9, flips=0.5)], LIMITS)
    assert [each["chosen"] for each in rows] == [True, False]


def test_of_too_few_patients_only_a_network_that_is_no_worse_goes_on() -> None:
    rows = [row("unpruned", 10, 0.985), row("middle", 5, 0.985), row("small", 1, 0.984)]
    untold = [{**each, "auc": [each["auc"][0], None, None]} for each in rows]  # type: ignore[index]
    assert [each["name"] for each in choose.choose(untold, LIMITS) if each["chosen"]] == ["middle"]
    assert [each["name"] for each in choose.choose(rows, LIMITS) if each["chosen"]] == ["small"]
