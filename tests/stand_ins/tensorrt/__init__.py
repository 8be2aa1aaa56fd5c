"""Stands in for TensorRT's Python API where there is no GPU: the part of it that `appliance.backends.tensorrt` calls.

It computes with ONNX Runtime on the CPU and keeps tensors in the memory of ``libcuda.c``. Names, parameters, properties
and types of results are the real ones (tests/appliance/test_tensorrt_signatures.py holds them against NVIDIA's
bindings); what isn't here raises AttributeError or TypeError. As the real ones do, failures log an error and give None
or False. An engine is readable only by the version, GPU and driver that built it. Its version is the one that
``tensorrt-*.dist-info`` on the path says. What begins with an underscore is for the tests.
"""

from __future__ import annotations

import ctypes
import enum
import functools
import hashlib
import json
import os
import threading
from importlib import metadata
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, numpy_helper

__version__ = metadata.version("tensorrt")
_cuda = ctypes.CDLL("libcuda.so.1")
_cuda.stand_in_room.argtypes = (ctypes.c_uint64,)
_cuda.stand_in_room.restype = ctypes.c_size_t
_cuda.stand_in_is_stream.argtypes = (ctypes.c_void_p,)

# What the builder did: ("build", timings that it had before, flags), ("refused timings",).
_journal: list[tuple[object, ...]] = []
_OPERATORS = {
    *("Add", "AveragePool", "Clip", "Concat", "Conv", "ConvTranspose", "DequantizeLinear", "Flatten", "Gemm"),
    *("GlobalAveragePool", "Identity", "MatMul", "MaxPool", "Mul", "NonZero", "QuantizeLinear", "ReduceMean", "Relu"),
    *("Reshape", "Resize", "Sigmoid"),
}
_ENGINE, _TIMINGS = b"stand-in engine\n", b"stand-in timings\n"


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    INT8 = 2
    INT32 = 3
    BOOL = 4
    UINT8 = 5
    BF16 = 7
    INT64 = 8


class BuilderFlag(enum.Enum):
    TF32 = 7


class TensorIOMode(enum.Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class NetworkDefinitionCreationFlag(enum.Enum):
    STRONGLY_TYPED = 1 if __version__.startswith("10.") else 0

    def __int__(self) -> int:
        return int(self.value)


_NUMPY = {
    DataType.FLOAT: np.float32,
    DataType.HALF: np.float16,
    DataType.INT8: np.int8,
    DataType.INT32: np.int32,
    DataType.BOOL: np.bool_,
    DataType.UINT8: np.uint8,
    DataType.INT64: np.int64,
}
_ONNX = {
    TensorProto.FLOAT: DataType.FLOAT,
    TensorProto.FLOAT16: DataType.HALF,
    TensorProto.INT8: DataType.INT8,
    TensorProto.INT64: DataType.INT64,
    TensorProto.BFLOAT16: DataType.BF16,
}


def nptype(trt_type):
    if trt_type in _NUMPY:
        return _NUMPY[trt_type]
    raise TypeError("Could not resolve TensorRT datatype to an equivalent numpy datatype.")


class ILogger:
    class Severity(enum.IntEnum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4

    INTERNAL_ERROR = Severity.INTERNAL_ERROR
    ERROR = Severity.ERROR
    WARNING = Severity.WARNING
    INFO = Severity.INFO
    VERBOSE = Severity.VERBOSE

    def __init__(self) -> None:
        self._made = True

    def log(self, severity, msg: str) -> None:
        raise RuntimeError('Tried to call pure virtual function "ILogger::log"')


class IProgressMonitor:
    def __init__(self) -> None:
        self._made = True

    def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None:
        raise RuntimeError('Tried to call pure virtual function "IProgressMonitor::phase_start"')

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise RuntimeError('Tried to call pure virtual function "IProgressMonitor::step_complete"')

    def phase_finish(self, phase_name: str) -> None:
        raise RuntimeError('Tried to call pure virtual function "IProgressMonitor::phase_finish"')


class _Object:
    """As an object of the bindings: attributes that it does not have can't be set."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and not isinstance(getattr(type(self), name, None), property):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        object.__setattr__(self, name, value)


def _need(value: Any, kind: type) -> Any:
    """The bindings take nothing else, and a class of Python's only if its base was initialized."""
    if not isinstance(value, kind) or (kind in (ILogger, IProgressMonitor) and not hasattr(value, "_made")):
        raise TypeError(f"incompatible function arguments: {value!r} is no {kind.__name__}")
    return value


def _made_with(logger: ILogger) -> ILogger:
    """As a factory of the library: null where there is no device."""
    _need(logger, ILogger)
    if not _cuda.stand_in_has_context() and _cuda.cuInit(0) != 0:
        logger.log(ILogger.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")
    return logger


def _here() -> str:
    """What an engine is tied to."""
    return json.dumps([__version__, os.environ.get("STAND_IN_GPU"), os.environ.get("STAND_IN_CUDA")])


class Dims(tuple):
    __slots__ = ()


class IHostMemory(_Object):
    """The real one is a buffer of bytes; Python 3.11 lets a class give its bytes only."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __bytes__(self) -> bytes:
        return self._content

    @property
    def nbytes(self) -> int:
        return len(self._content)


class ITensor(_Object):
    def __init__(self, info: onnx.ValueInfoProto) -> None:
        self._info = info

    @property
    def name(self) -> str:
        return self._info.name

    @property
    def shape(self) -> Dims:
        sizes = self._info.type.tensor_type.shape.dim
        return Dims(size.dim_value if size.HasField("dim_value") else -1 for size in sizes)

    @property
    def dtype(self) -> DataType:
        return _ONNX[self._info.type.tensor_type.elem_type]


class INetworkDefinition(_Object):
    def __init__(self, flags: int) -> None:
        self._typed = flags == 1 << int(NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        self._model = onnx.ModelProto()

    @property
    def num_inputs(self) -> int:
        return len(self._model.graph.input)

    @property
    def num_outputs(self) -> int:
        return len(self._model.graph.output)

    def get_input(self, index: int) -> ITensor | None:
        return ITensor(self._model.graph.input[index]) if 0 <= index < self.num_inputs else None


class ParserError(_Object):
    def __init__(self, desc: str, name: str = "", operator: str = "") -> None:
        self._words = (desc, name, operator)

    def desc(self) -> str:
        return self._words[0]

    def node_name(self) -> str:
        return self._words[1]

    def node_operator(self) -> str:
        return self._words[2]


class OnnxParser(_Object):
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network = _need(network, INetworkDefinition)
        self._logger = _need(logger, ILogger)
        self._errors: list[ParserError] = []

    def parse(self, model: bytes, path: str | None = None) -> bool:
        parsed = onnx.ModelProto()
        try:
            parsed.ParseFromString(bytes(memoryview(model)))
        except Exception:  # noqa: BLE001 (protobuf's own)
            self._fail(ParserError("Failed to parse the ONNX model."))
            return False
        if not parsed.graph.output:
            self._fail(ParserError("The model has no graph."))
        constants = {tensor.name: tensor for tensor in parsed.graph.initializer}
        for node in parsed.graph.node:
            if node.op_type not in _OPERATORS:
                self._fail(ParserError("Plugin not found, are the plugin name correct?", node.name, node.op_type))
            if node.op_type in ("QuantizeLinear", "DequantizeLinear") and not _symmetric(constants[node.input[2]]):
                self._fail(ParserError("TensorRT only supports symmetric quantization.", node.name, node.op_type))
        self._network._model = parsed
        return not self._errors

    def _fail(self, error: ParserError) -> None:
        self._errors.append(error)
        self._logger.log(ILogger.ERROR, f"ModelImporter.cpp: While parsing node {error.node_name()}: {error.desc()}")

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]


def _symmetric(zero_point: TensorProto) -> bool:
    return zero_point.data_type == TensorProto.INT8 and not numpy_helper.to_array(zero_point).any()


class IOptimizationProfile(_Object):
    def __init__(self) -> None:
        self._shapes: dict[str, Dims] = {}

    def set_shape(self, input: str, min: Dims, opt: Dims, max: Dims) -> None:  # noqa: A002 (its own names)
        if not tuple(min) == tuple(opt) == tuple(max) or -1 in tuple(min):
            raise ValueError("Shape provided for min, opt and max is inconsistent")
        self._shapes[input] = Dims(min)


class ITimingCache(_Object):
    def __init__(self, content: bytes) -> None:
        self._content = content

    def serialize(self) -> IHostMemory:
        return IHostMemory(self._content)


class IBuilderConfig(_Object):
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger
        self._flags = {BuilderFlag.TF32}
        self._monitor: IProgressMonitor | None = None
        self._profiles: list[IOptimizationProfile] = []
        self._timings: ITimingCache | None = None

    @property
    def progress_monitor(self) -> IProgressMonitor:
        return self._monitor

    @progress_monitor.setter
    def progress_monitor(self, monitor: IProgressMonitor) -> None:
        self._monitor = _need(monitor, IProgressMonitor)

    def clear_flag(self, flag: BuilderFlag) -> None:
        self._flags.discard(_need(flag, BuilderFlag))

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profiles.append(_need(profile, IOptimizationProfile))
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        content = bytes(memoryview(serialized_timing_cache))
        return ITimingCache(content or _TIMINGS + _here().encode() + b"\n")

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        whole = _need(cache, ITimingCache)._content.startswith(_TIMINGS + _here().encode() + b"\n")
        if not whole and not ignore_mismatch:
            _journal.append(("refused timings",))
            self._logger.log(ILogger.ERROR, "The timing cache was made on another device.")
            return False
        self._timings = cache
        return True


class Builder(_Object):
    def __init__(self, logger: ILogger) -> None:
        self._logger = _made_with(logger)

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        return INetworkDefinition(flags)

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig(self._logger)

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None:
        model = network._model
        shapes = {name: shape for profile in config._profiles for name, shape in profile._shapes.items()}
        fault = _fault(network, shapes)
        if fault or not _walk(config.progress_monitor, len(model.graph.node)):
            self._logger.log(ILogger.ERROR, fault or "Error Code 10: the build was cancelled")
            return None
        if config._timings is not None:
            _journal.append(("build", config._timings._content.count(b"\n") - 2, config._flags))
            config._timings._content += hashlib.sha256(model.SerializeToString()).hexdigest().encode() + b"\n"
        head = json.dumps({"here": _here(), "shapes": shapes}).encode()
        return IHostMemory(_ENGINE + head + b"\n" + model.SerializeToString())


def _fault(network: INetworkDefinition, shapes: dict[str, Dims]) -> str | None:
    if not _cuda.stand_in_has_context():
        return "invalid device context"
    if not network._typed:
        return "implicit precisions: the network is not strongly typed"
    for number in range(network.num_inputs):
        given = network.get_input(number)
        if -1 in given.shape and given.name not in shapes:
            return f"Error Code 4: {given.name} has dynamic dimensions, but no optimization profile has been defined."
    return None


def _walk(monitor: IProgressMonitor | None, nodes: int) -> bool:
    """Report as a build does: phases in phases, the inner ones from another thread."""
    if monitor is None:
        return True
    go_on = [True]

    def inner(name: str, parent: str, steps: int) -> None:
        monitor.phase_start(name, parent, steps)
        for step in range(steps):
            go_on[0] = go_on[0] and monitor.step_complete(name, step)
        monitor.phase_finish(name)

    monitor.phase_start("Building Engine", None, 2)
    for step, name in enumerate(("Optimizing", "Timing graph nodes")):
        thread = threading.Thread(target=inner, args=(name, "Building Engine", nodes))
        thread.start()
        thread.join()
        go_on[0] = go_on[0] and monitor.step_complete("Building Engine", step)
    monitor.phase_finish("Building Engine")
    return go_on[0]


class Runtime(_Object):
    def __init__(self, logger: ILogger) -> None:
        self._logger = _made_with(logger)

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        kind, _, rest = bytes(memoryview(serialized_engine)).partition(b"\n")
        head, _, model = rest.partition(b"\n")
        if kind + b"\n" != _ENGINE or json.loads(head)["here"] != _here():
            self._logger.log(ILogger.ERROR, "The engine plan file is not compatible with this version of TensorRT")
            return None
        return ICudaEngine(model, json.loads(head)["shapes"], self._logger)


class ICudaEngine(_Object):
    def __init__(self, model: bytes, shapes: dict[str, list[int]], logger: ILogger) -> None:
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 1
        settings.log_severity_level = 4
        settings.add_session_config_entry("session.x64quantprecision", "1")  # as exact as a GPU, on every processor
        parsed = onnx.ModelProto.FromString(model)
        self._session = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
        self._inputs = {info.name: ITensor(info) for info in parsed.graph.input}
        self._outputs = {info.name: ITensor(info) for info in parsed.graph.output}
        self._shapes = shapes
        self._logger = logger

    @functools.cached_property
    def _tensors(self) -> dict[str, ITensor]:
        return {**self._inputs, **self._outputs}

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return self._tensors[name].dtype

    def get_tensor_shape(self, name: str) -> Dims:
        return self._tensors[name].shape

    def create_execution_context(self) -> IExecutionContext | None:
        if os.environ.get("STAND_IN_NO_CONTEXT"):
            self._logger.log(ILogger.ERROR, "CUDA out of memory (create_execution_context)")
            return None
        return IExecutionContext(self)


class IExecutionContext(_Object):
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self._given: dict[str, Dims] = {}
        self._addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._given[name] = Dims(shape)
        return list(shape) == self._engine._shapes.get(name, list(self._engine.get_tensor_shape(name)))

    def get_tensor_shape(self, name: str) -> Dims:
        """Of outputs it is known only where the batch, the only size that may be open, is."""
        shape = self._given.get(name, self._engine.get_tensor_shape(name))
        if shape and shape[0] == -1 and self._given and name in self._engine._outputs:
            return Dims((next(iter(self._given.values()))[0], *shape[1:]))
        return shape

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return name in self._engine._tensors

    def execute_async_v3(self, stream_handle: int) -> bool:
        fault = self._fault(stream_handle)
        if fault:
            self._engine._logger.log(ILogger.ERROR, fault)
            return False
        outputs = self._engine._session.run(None, {name: self._view(name).copy() for name in self._engine._inputs})
        for name, value in zip(self._engine._outputs, outputs, strict=True):
            self._view(name)[...] = value
        return True

    def _fault(self, stream: int) -> str | None:
        if os.environ.get("STAND_IN_FAILS"):
            return "IExecutionContext::enqueueV3: Error Code 1: Cuda Runtime (misaligned address)"
        if not _cuda.stand_in_has_context() or not _cuda.stand_in_is_stream(stream):
            return "invalid resource handle"
        for name in self._engine._tensors:
            size = int(np.prod(self.get_tensor_shape(name))) * nptype(self._engine.get_tensor_dtype(name))().itemsize
            if _cuda.stand_in_room(self._addresses.get(name, 0)) < size:
                return f"Address is not set, or too small, for tensor {name}"
        return None

    def _view(self, name: str) -> np.ndarray:
        """The tensor where it lies on the device."""
        shape, dtype = self.get_tensor_shape(name), np.dtype(nptype(self._engine.get_tensor_dtype(name)))
        size = int(np.prod(shape)) * dtype.itemsize
        memory = (ctypes.c_char * size).from_address(self._addresses[name])
        return np.frombuffer(memory, dtype).reshape(shape)
