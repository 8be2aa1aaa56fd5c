"""A network's ONNX graph, taken apart: its layers' weights, float or quantized, and another head in its place."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from compression.inference import ACTIVATION_MAP, LOGITS
from compression.recipe import RecipeError

_WEIGHTED = ("Conv", "Gemm", "MatMul")


class Graph:
    """A network that can be changed; `artifact` gives its bytes back.

    Raises
    ------
    RecipeError
        The artifact is no ONNX network.
    """

    def __init__(self, artifact: bytes) -> None:
        try:
            self._model = onnx.load_from_string(artifact)
        except Exception as error:  # protobuf's own type is not part of its interface
            raise RecipeError("the artifact is no ONNX network; take the target cpu or tensorrt") from error
        self._graph = self._model.graph
        self._initializers = {each.name: each for each in self._graph.initializer}
        self._producers = {name: node for node in self._graph.node for name in node.output}

    @property
    def artifact(self) -> bytes:
        data: bytes = self._model.SerializeToString()
        return data

    def layers(self) -> list[list[str]]:
        """The initializers of each layer that has weights, from the input to the output; logits and map are one."""
        found: list[list[str]] = []
        head: list[str] = []
        for node in self._graph.node:
            if node.op_type in _WEIGHTED:
                names = [name for name in map(self._stored, node.input[1:]) if name]
                if self._ends_in(node) in (LOGITS, ACTIVATION_MAP):
                    head += names
                else:
                    found.append(names)
        return [*found, head]

    def values(self, name: str) -> np.ndarray:
        return np.array(numpy_helper.to_array(self._initializers[name]))

    def set_values(self, name: str, values: np.ndarray) -> None:
        """Put other values, of the same type, in an initializer's place."""
        old = self._initializers[name]
        values = values.astype(numpy_helper.to_array(old).dtype, copy=False)
        old.CopyFrom(numpy_helper.from_array(values, name))

    def features(self) -> str:
        """The name of the tensor ``(1, channels, rows, columns)`` that the map is made of, now an output, too."""
        name: str = self._producer_before(ACTIVATION_MAP, "Conv").input[0]
        if all(output.name != name for output in self._graph.output):
            self._graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
        return name

    def set_head(self, weights: np.ndarray) -> None:
        """Give map and logits another head of ``(channels,)`` weights and no bias, in float.

        The map is not quantized any more then, since its range was that of the head before.
        """
        maps, logits = (
            self._producer_before(*pair) for pair in ((ACTIVATION_MAP, "Conv"), (LOGITS, _WEIGHTED))
        )  # fmt: skip
        for node, shape in ((maps, (1, -1, 1, 1)), (logits, (1, -1))):
            name = f"{node.output[0]}_other_head"
            self._graph.initializer.append(numpy_helper.from_array(weights.astype(np.float32).reshape(shape), name))
            node.input[1] = name
            del node.input[2:]
        for node, output in ((maps, ACTIVATION_MAP), (logits, LOGITS)):
            for name in self._chain(output)[:-1]:
                self._graph.node.remove(self._producers[name])
            node.output[0] = output

    def _stored(self, name: str) -> str | None:
        """The initializer behind a weight, through DequantizeLinear where it is quantized."""
        if name in self._initializers:
            return name
        node = self._producers.get(name)
        return node.input[0] if node is not None and node.op_type == "DequantizeLinear" else None

    def _ends_in(self, node: onnx.NodeProto) -> str | None:
        return next((name for name in (LOGITS, ACTIVATION_MAP) if node.output[0] in self._chain(name)), None)

    def _chain(self, output: str) -> list[str]:
        """Tensors from an output back to the layer that computes it, quantization in between."""
        names = [output]
        while self._producers[names[-1]].op_type in ("QuantizeLinear", "DequantizeLinear"):
            names.append(self._producers[names[-1]].input[0])
        return names

    def _producer_before(self, output: str, kinds: str | tuple[str, ...]) -> onnx.NodeProto:
        node = self._producers[self._chain(output)[-1]]
        if node.op_type not in kinds:
            raise RecipeError(f"the network's {output} is made by {node.op_type}, not by {kinds}")
        return node
