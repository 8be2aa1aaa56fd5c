"""Target ``tensorrt``: symmetric S8S8 QDQ, the explicit quantization that TensorRT 10 and 11 build engines from.

The file is the precision contract; the engine is built on the device. Before one goes on, `lint` proves its form:
NVIDIA's developer guide, "Working with Quantized Types", says what fuses and what doesn't.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from onnxruntime.quantization import QuantType
from tqdm import tqdm

from compression.inference import INPUT
from compression.quantize import static
from compression.quantize.qdq import fold_weights
from compression.quantize.static import Calibration
from compression.recipe import RecipeError

if TYPE_CHECKING:
    from compression.export import Source

TARGET = "tensorrt"
PRODUCER = "onnxruntime quantize_static, QDQ, symmetric S8 activations, S8 weights per channel, residual inputs"
_QUANTIZED = ("Conv", "Gemm", "MatMul")
_MAY_READ = (*_QUANTIZED, "ConvTranspose", "Add", "MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean")
# Those, and what fuses into them or stays in float between them.
OPERATORS = frozenset({*_MAY_READ, "Relu", "Clip", "Sigmoid", "Mul", "Concat", "Flatten", "Reshape", "Resize"}) | {
    "BatchNormalization"
}
_OPTIONS = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "DedicatedQDQPair": True,
    "AddQDQPairToWeight": True,
    "QuantizeBias": False,
    "OpTypesToExcludeOutputQuantization": list(_QUANTIZED),
}
float_artifact = static.float_artifact


def candidates(source: Source, folder: Path, calibration: Calibration) -> dict[str, Path]:
    path = static.quantized(
        source,
        folder,
        calibration,
        activation_type=QuantType.QInt8,
        op_types_to_quantize=list(_QUANTIZED),
        extra_options=_OPTIONS,
    )
    model = onnx.load(str(path))
    fold_weights(model)
    quantize_residuals(model, _highest(model, skips_without_scale(model), calibration))
    onnx.checker.check_model(model, full_check=True)
    faults = lint(model)
    if faults:
        raise RecipeError(f"{path} is not in TensorRT's form: {'; '.join(faults[:5])}")
    onnx.save(model, str(path))
    return {PRODUCER: path}


def quantize_residuals(model: onnx.ModelProto, highest: Mapping[str, float]) -> None:
    """Give the skip input of each residual Add a Q/DQ pair, so that convolution, Add and activation fuse into one.

    The tensor that skips also feeds a quantized convolution: its scale is taken. The other input, which comes straight
    from a convolution, stays as it is. Where the skip is a convolution of its own, it gets a scale.

    Parameters
    ----------
    highest
        Largest absolute value of each tensor that `skips_without_scale` names.
    """
    graph = model.graph
    makers = {output: node for node in graph.node for output in node.output}
    scales = _scales(model)
    for name, value in highest.items():
        names = (f"{name}_skip_scale", f"{name}_skip_zero")
        scale = np.array(max(value, 1e-8) / 127, dtype=np.float32)
        graph.initializer.extend(
            [numpy_helper.from_array(scale, names[0]), numpy_helper.from_array(np.int8(0), names[1])]
        )
        scales[name] = names
    nodes = []
    for node in graph.node:
        if node.op_type == "Add":
            branch = [_comes_from_convolution(name, makers) for name in node.input]
            if branch.count(False) == 1 or all(branch):
                skip = _skip(node, branch, scales)
                if skip is not None:
                    nodes += _pair(node, skip, *scales[node.input[skip]])
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def skips_without_scale(model: onnx.ModelProto) -> list[str]:
    """The skips that are convolutions and feed nothing else, as where a ResNet's stage begins: no scale is known."""
    makers = {output: node for node in model.graph.node for output in node.output}
    scales = _scales(model)
    return [
        node.input[1]
        for node in model.graph.node
        if node.op_type == "Add"
        and all(_comes_from_convolution(name, makers) and name not in scales for name in node.input)
    ]


def _highest(model: onnx.ModelProto, names: list[str], calibration: Calibration) -> dict[str, float]:
    """The largest absolute value that each tensor of a network has on the calibration inputs."""
    if not names:
        return {}
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # else they are fused away
    session = onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = np.zeros(len(names))
    for tensor in tqdm(calibration.inputs, desc="ranges of skips", unit="input"):
        found = np.maximum(found, [np.abs(value).max() for value in session.run(names, {INPUT: tensor})])
    return dict(zip(names, found.tolist(), strict=True))


def _scales(model: onnx.ModelProto) -> dict[str, tuple[str, str]]:
    """Scale and zero point of each tensor that is quantized somewhere."""
    return {
        node.input[0]: (node.input[1], node.input[2]) for node in model.graph.node if node.op_type == "QuantizeLinear"
    }


def _skip(node: onnx.NodeProto, branch: list[bool], scales: dict[str, tuple[str, str]]) -> int | None:
    """Which input of an Add is the one that skips: the one that feeds quantized layers, too."""
    known = [number for number, name in enumerate(node.input) if name in scales]
    straight = [number for number in known if not branch[number]]
    return next(iter(straight or known), None)


def _comes_from_convolution(name: str, makers: dict[str, onnx.NodeProto]) -> bool:
    return name in makers and makers[name].op_type == "Conv"


def _pair(node: onnx.NodeProto, place: int, scale: str, zero: str) -> list[onnx.NodeProto]:
    tensor = node.input[place]
    quantized, restored = f"{tensor}_{node.name}_skip_q", f"{tensor}_{node.name}_skip_dq"
    node.input[place] = restored
    return [
        helper.make_node("QuantizeLinear", [tensor, scale, zero], [quantized], name=f"{node.name}_skip_Q"),
        helper.make_node("DequantizeLinear", [quantized, scale, zero], [restored], name=f"{node.name}_skip_DQ"),
    ]


def lint(model: onnx.ModelProto) -> list[str]:
    """What in a QDQ network TensorRT would refuse or leave unfused; empty where it is in form."""
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    faults = []
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            faults += _lint_pair(node, constants, readers)
        if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            faults += _lint_layer(node, constants, makers)
    for node in graph.node:
        if node.op_type == "Add":
            skips = [name for name in node.input if _is(makers.get(name), "DequantizeLinear")]
            straight = [name for name in node.input if _comes_from_convolution(name, makers)]
            if straight and len(skips) != 1 and not any(name in constants for name in node.input):
                faults.append(f"{node.name}: a residual Add with {len(skips)} quantized inputs, not 1")
    return faults


def _is(node: onnx.NodeProto | None, kind: str) -> bool:
    return node is not None and node.op_type == kind


def _lint_pair(
    node: onnx.NodeProto, constants: dict[str, onnx.TensorProto], readers: dict[str, list[onnx.NodeProto]]
) -> list[str]:
    faults = []
    scale = constants.get(node.input[1])
    if scale is None or not (numpy_helper.to_array(scale) > 0).all():
        faults.append(f"{node.name}: its scale is no positive constant")
    if len(node.input) > 2:
        zero = constants.get(node.input[2])
        if zero is None or zero.data_type != onnx.TensorProto.INT8 or numpy_helper.to_array(zero).any():
            faults.append(f"{node.name}: its zero point is not int8 0")
    if node.op_type == "DequantizeLinear":
        faults += [
            f"{node.name}: {reader.op_type} reads it, which gains nothing by it"
            for reader in readers.get(node.output[0], [])
            if reader.op_type not in _MAY_READ
        ]
    return faults


def _lint_layer(
    node: onnx.NodeProto, constants: dict[str, onnx.TensorProto], makers: dict[str, onnx.NodeProto]
) -> list[str]:
    sources = [makers.get(name) for name in node.input[:2]]
    quantized = [_is(source, "DequantizeLinear") for source in sources]
    faults = []
    if any(quantized) and not all(quantized):
        faults.append(f"{node.name}: only one of input and weights is quantized")
    weights = sources[1]
    if all(quantized) and weights is not None:
        scale = constants.get(weights.input[1])
        axis = next((attribute.i for attribute in weights.attribute if attribute.name == "axis"), 1)
        wanted = 1 if node.op_type == "ConvTranspose" else 0
        if node.op_type in ("Conv", "ConvTranspose") and (
            scale is None or numpy_helper.to_array(scale).ndim != 1 or axis != wanted
        ):
            faults.append(f"{node.name}: its weights are not quantized per channel on axis {wanted}")
    if len(node.input) > 2:
        bias = constants.get(node.input[2])
        if bias is None or bias.data_type != onnx.TensorProto.FLOAT:
            faults.append(f"{node.name}: its bias is not float")
    return faults
