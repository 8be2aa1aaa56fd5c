"""Networks in QDQ form: what quantizers leave undone in the ONNX graphs that they write."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from compression.recipe import RecipeError


def fold_weights(model: onnx.ModelProto) -> None:
    """Store weights as the int8 numbers that their QuantizeLinear would give, a quarter of the size."""
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    kept, folded = [], {}
    for node in graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] in constants:
            weights, scale = (numpy_helper.to_array(constants[name]) for name in node.input[:2])
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
            if scale.ndim == 1:
                scale = scale.reshape([-1 if place == axis else 1 for place in range(weights.ndim)])
            numbers = np.clip(np.rint(weights / scale), -128, 127).astype(np.int8)
            folded[node.input[0]] = numpy_helper.from_array(numbers, node.output[0])
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    used = {name for node in kept for name in node.input}
    constants = {name: tensor for name, tensor in constants.items() if name in used}
    del graph.initializer[:]
    graph.initializer.extend([*constants.values(), *folded.values()])


def drop_clips(model: onnx.ModelProto) -> None:
    """Take out each Clip between QuantizeLinear and DequantizeLinear that spans the whole type, as PT2E leaves them.

    A QuantizeLinear saturates by itself, and no runtime fuses what stands between the two. Raises `RecipeError` where a
    Clip is narrower, since taking it out would change the network.
    """
    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    quantizers = {node.output[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    instead, kept = {}, []
    for node in graph.node:
        if node.op_type == "Clip" and node.input[0] in quantizers:
            limits = [constants[name] for name in node.input[1:]]
            whole = np.iinfo(limits[0].dtype)
            if [int(limit) for limit in limits] != [whole.min, whole.max]:
                raise RecipeError(f"{node.name} clips to {limits}, less than its type holds")
            instead[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    for node in kept:
        for place, name in enumerate(node.input):
            node.input[place] = instead.get(name, name)
    del graph.node[:]
    graph.node.extend(kept)
