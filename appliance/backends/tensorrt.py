"""TensorRT on an NVIDIA GPU, such as a Jetson's. An artifact is ONNX, whose Q/DQ pairs say what is computed in int8.

An engine is tied to the TensorRT, the driver and the GPU that it was built with, so it is built on the device, which
takes minutes, and kept in ``options.cache``. TensorRT 10 and 11 are called in one way. Sources: NVIDIA, "TensorRT
Python API Reference" and "CUDA Driver API".
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import queue
import re
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from appliance.backend import Options, Progress, installed_version
from appliance.engine_cache import EngineCache
from appliance.errors import BackendError

NAME = "tensorrt"
TARGET = "tensorrt"
DEVICES = ("GPU",)
REQUIRES = "tensorrt"
INSTALL = (
    "on a Jetson it is part of JetPack: apt install python3-libnvinfer, and make the appliance's environment with "
    "python3 -m venv --system-site-packages"
)
_GET_DRIVER = (
    "install NVIDIA's driver (on a Jetson it is part of JetPack) and give the service access to /dev/nvidia* "
    "(on a Jetson: the groups video and render)"
)
DEVICE_FILES = {"GPU": (("/dev/nvidia[0-9]*", "/dev/nvmap", "/dev/dxg"), _GET_DRIVER)}  # a PC's, a Jetson's, WSL's
_OLDEST = 10
# What says which driver this is, and how.
_DRIVERS = {
    "nvidia": (Path("/proc/driver/nvidia/version"), re.compile(r"Kernel Module\D.*?(\d+(?:\.\d+)+)")),
    "jetson_linux": (Path("/etc/nv_tegra_release"), re.compile(r"(R\d+ \(release\), REVISION: [\d.]+)")),
}
_TOLD_STEP = 0.01
_NUMBER, _SIZE, _ADDRESS, _POINTER = ctypes.c_int, ctypes.c_size_t, ctypes.c_uint64, ctypes.c_void_p
# Without these ctypes would cut addresses to 32 bits. The suffix _v2 is the driver's own for its 64-bit calls.
_CUDA = {
    "cuInit": (_NUMBER,),
    "cuGetErrorString": (_NUMBER, _POINTER),
    "cuDriverGetVersion": (_POINTER,),
    "cuDeviceGetCount": (_POINTER,),
    "cuDeviceGet": (_POINTER, _NUMBER),
    "cuDeviceGetName": (_POINTER, _NUMBER, _NUMBER),
    "cuDeviceGetAttribute": (_POINTER, _NUMBER, _NUMBER),
    "cuDevicePrimaryCtxRetain": (_POINTER, _NUMBER),
    "cuDevicePrimaryCtxRelease_v2": (_NUMBER,),
    "cuCtxSetCurrent": (_POINTER,),
    "cuStreamCreate": (_POINTER, _NUMBER),
    "cuStreamSynchronize": (_POINTER,),
    "cuStreamDestroy_v2": (_POINTER,),
    "cuMemAlloc_v2": (_POINTER, _SIZE),
    "cuMemFree_v2": (_ADDRESS,),
    "cuMemcpyHtoDAsync_v2": (_ADDRESS, _POINTER, _SIZE, _POINTER),
    "cuMemcpyDtoHAsync_v2": (_POINTER, _ADDRESS, _SIZE, _POINTER),
}
_COMPUTE_CAPABILITY = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR

log = logging.getLogger("scanside.tensorrt")
# The errors of the call that is under way. TensorRT has one logger for a process, the first that it was given.
_said: deque[str] = deque(maxlen=8)


def probe(device: str) -> str | None:  # noqa: ARG001 (there is but one)
    try:
        _Gpu()  # first of all: without a GPU TensorRT may not fail but crash
    except (OSError, AttributeError, RuntimeError) as error:  # AttributeError: a driver too old to have a call
        return f"there is no GPU that CUDA can use: {error}; {_GET_DRIVER}"
    try:
        import tensorrt as trt
    except (ImportError, OSError) as error:
        return f"TensorRT can't be loaded: {error}; {INSTALL}"
    if int(trt.__version__.partition(".")[0]) < _OLDEST:
        return f"TensorRT {trt.__version__} is too old, {_OLDEST} is needed: {INSTALL}"
    try:
        trt.Runtime(_logger())
    except (TypeError, RuntimeError) as error:
        return f"TensorRT {trt.__version__} does not start: {'; '.join(_said) or error}"
    return None


def versions(device: str) -> dict[str, str]:  # noqa: ARG001
    found = {"tensorrt": installed_version("tensorrt")}
    for name, (path, pattern) in _DRIVERS.items():
        said = pattern.search(path.read_text()) if path.exists() else None
        if said is not None:
            found[name] = said.group(1)
    return found


def is_prepared(artifact: bytes, options: Options) -> bool:
    with _in_words("open"):
        return EngineCache(options.cache).has(*_engine_key(_Gpu(), artifact, options))


def prepare(artifact: bytes, options: Options, progress: Progress) -> None:
    cache = EngineCache(options.cache)
    with _in_words("open"):
        gpu = _Gpu()
        timing_key, engine_key = ("timing", *_platform(gpu)), _engine_key(gpu, artifact, options)
        with gpu.context():
            engine, timing = _build(artifact, options.batch, cache.get(*timing_key) or b"", progress)
        cache.put(timing, *timing_key)
        cache.put(engine, *engine_key)
        if not cache.has(*engine_key):
            raise RuntimeError(f"the engine can't be kept in {options.cache}")


def open(artifact: bytes, options: Options) -> TensorRtBackend:  # noqa: A001 (the protocol's name)
    return TensorRtBackend(artifact, options)


class TensorRtBackend:
    """An engine with an execution context, a stream and buffers for each lane; see `appliance.backend.Backend`."""

    name = NAME

    def __init__(self, artifact: bytes, options: Options) -> None:
        with _in_words("open"), ExitStack() as resources:
            self._gpu = _Gpu()
            resources.enter_context(self._gpu.context())
            self._engine = _engine(EngineCache(options.cache), _engine_key(self._gpu, artifact, options))
            self._lanes: queue.SimpleQueue[_Lane] = queue.SimpleQueue()
            for _ in range(options.lanes):
                self._lanes.put(_Lane(self._gpu, self._engine, options.batch, resources))
            self._lane_count = options.lanes
            self._resources = resources.pop_all()
        self.device = self._gpu.name

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        lane = self._lanes.get()
        try:
            with _in_words("run"):
                self._gpu.use()
                return lane.run(inputs)
        finally:
            self._lanes.put(lane)

    def close(self) -> None:
        with _in_words("close"):
            self._gpu.use()
            for _ in range(self._lane_count):
                self._lanes.get()  # waits for the calls that are under way
            del self._lanes, self._engine
            self._resources.close()


class _Lane:
    """What one call at a time needs. ``resources`` frees what it takes on the device."""

    def __init__(self, gpu: _Gpu, engine: Any, batch: int, resources: ExitStack) -> None:
        import tensorrt as trt

        self._gpu = gpu
        self._context = _must(engine.create_execution_context(), "there is no memory for an execution context")
        self._stream = gpu.stream(resources)
        self._inputs: list[_Tensor] = []
        self._outputs: list[_Tensor] = []
        names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        for name in inputs:
            shape = tuple(engine.get_tensor_shape(name))
            if shape[0] == -1:
                _must(self._context.set_input_shape(name, (batch, *shape[1:])), f"it does not take {batch} images")
        for name in names:
            shape, dtype = tuple(self._context.get_tensor_shape(name)), trt.nptype(engine.get_tensor_dtype(name))
            if -1 in shape:
                raise RuntimeError(f"the shape of {name} depends on the image: {shape}")
            tensor = _Tensor(name, shape, np.dtype(dtype), gpu.memory(np.empty(shape, dtype).nbytes, resources))
            _must(self._context.set_tensor_address(name, tensor.address), f"it refuses the memory for {name}")
            (self._inputs if name in inputs else self._outputs).append(tensor)

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        given = {name: (value.shape, value.dtype) for name, value in inputs.items()}
        expected = {tensor.name: (tensor.shape, tensor.dtype) for tensor in self._inputs}
        if given != expected:
            raise RuntimeError(f"it was given {_in_text(given)}, not {_in_text(expected)}")
        sources = [np.ascontiguousarray(inputs[tensor.name]) for tensor in self._inputs]
        outputs = {tensor.name: np.empty(tensor.shape, tensor.dtype) for tensor in self._outputs}
        try:
            for tensor, source in zip(self._inputs, sources, strict=True):
                self._gpu.upload(source, tensor.address, self._stream)
            _must(self._context.execute_async_v3(self._stream), "the execution failed")
            for tensor in self._outputs:
                self._gpu.download(tensor.address, outputs[tensor.name], self._stream)
        finally:
            self._gpu.wait(self._stream)  # until then neither these arrays nor the lane may be given up
        return outputs


@dataclass(frozen=True)
class _Tensor:
    """An input or output of the network, and where it lies on the device."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    address: int


def _in_text(tensors: dict[str, tuple[tuple[int, ...], np.dtype[Any]]]) -> str:
    return ", ".join(f"{name} {dtype} {shape}" for name, (shape, dtype) in tensors.items()) or "nothing"


def _platform(gpu: _Gpu) -> tuple[object, ...]:
    """What both engines and timings depend on."""
    return (NAME, *sorted(versions(DEVICES[0]).items()), gpu.cuda, gpu.name, gpu.compute_capability)


def _engine_key(gpu: _Gpu, artifact: bytes, options: Options) -> tuple[object, ...]:
    """The batch is the only option that shapes an engine: threads are the CPU's, and lanes share one."""
    return ("engine", *_platform(gpu), hashlib.sha256(artifact).hexdigest(), options.batch)


def _engine(cache: EngineCache, key: tuple[object, ...]) -> Any:
    import tensorrt as trt

    kept = cache.get(*key)
    if kept is None:
        raise RuntimeError("it has not been built on this device yet")
    engine = trt.Runtime(_logger()).deserialize_cuda_engine(kept)
    if engine is None:
        cache.remove(*key)
        raise RuntimeError("the engine that was kept is not one that it can read; it is removed and to be built again")
    return engine


def _build(artifact: bytes, batch: int, kept: bytes, progress: Progress) -> tuple[bytes, bytes]:
    """The engine of a network in ONNX, and the timings of ``kept`` with those that were measured for it."""
    import tensorrt as trt

    progress(0.0, "reading the network")
    monitor = _monitor(progress)
    builder = trt.Builder(_logger())
    # Types are those of the file. TensorRT 11 does nothing else, 10 must be told.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, _logger())  # stays: the network's weights may lie in it
    if not parser.parse(artifact):
        raise RuntimeError(_errors(parser))
    config = builder.create_builder_config()
    config.progress_monitor = monitor
    # What the file has in float32 is not to be rounded to TF32's 10 bits: its calibration was made without.
    config.clear_flag(trt.BuilderFlag.TF32)
    _fix_batch(builder, network, config, batch)
    timings = _timings(config, kept)
    engine = builder.build_serialized_network(network, config)
    if monitor.raised is not None:
        raise monitor.raised
    return bytes(_must(engine, "the engine can't be built")), bytes(timings.serialize())


def _errors(parser: Any) -> str:
    """What the parser does not understand; its log has the same with a dump of the node."""
    _said.clear()
    errors = [parser.get_error(number) for number in range(parser.num_errors)]
    nodes = [" ".join(filter(None, (error.node_operator(), error.node_name()))) for error in errors]
    texts = [": ".join(filter(None, (node, error.desc()))) for node, error in zip(nodes, errors, strict=True)]
    return "; ".join(texts) or "it is no network in ONNX"


def _fix_batch(builder: Any, network: Any, config: Any, batch: int) -> None:
    """Give a batch that the file leaves open its size; raises RuntimeError where it has another one."""
    profile = builder.create_optimization_profile()
    opened = False
    for number in range(network.num_inputs):
        given = network.get_input(number)
        size, *image = given.shape
        if size not in (batch, -1):
            raise RuntimeError(f"it takes {size} images at a time, not {batch}")
        if size == -1:
            profile.set_shape(given.name, *[(batch, *image)] * 3)
            opened = True
    if opened:
        config.add_optimization_profile(profile)


def _timings(config: Any, kept: bytes) -> Any:
    """A timing cache that is attached to the configuration: the kept one, or an empty one where it is refused."""
    for content in (kept, b""):
        timings = config.create_timing_cache(content)
        if timings is not None and config.set_timing_cache(timings, ignore_mismatch=False):
            return timings
    raise RuntimeError("it refuses a timing cache")


def _must(result: Any, failure: str) -> Any:
    """What TensorRT returned, which for a failure is None or False."""
    if result is None or result is False:
        raise RuntimeError(failure)
    return result


@contextmanager
def _in_words(task: str) -> Iterator[None]:
    """Whatever fails is a `BackendError` with what TensorRT said on it."""
    _said.clear()
    try:
        yield
    except Exception as error:  # its own, those of its bindings (TypeError, ValueError, ...) and ctypes'
        reason = ": ".join([str(error), *_said])
        raise BackendError(f"TensorRT can't {task} the network: {reason}") from error


@functools.cache
def _logger() -> Any:
    """The logger of this process, which has to outlive all that is made with it."""
    import tensorrt as trt

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                _said.append(msg)
            elif severity == trt.ILogger.WARNING:
                log.info("TensorRT: %s", msg)

    return Logger()


def _monitor(progress: Progress) -> Any:
    import tensorrt as trt

    class Monitor(trt.IProgressMonitor):
        """Tells how far a build is. A step of a phase may be a phase of its own; threads of TensorRT call this.

        ``raised`` is what came up meanwhile, an interrupt perhaps: it can't pass through TensorRT, so it stops the
        build and is raised after it.
        """

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.raised: BaseException | None = None
            self._lock = threading.Lock()
            self._phases: dict[str, tuple[str | None, int, int]] = {}  # parent, steps, steps that are done
            self._told = 0.0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self._lock:
                self._phases[phase_name] = (parent_phase, num_steps, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                with self._lock:
                    parent, steps, _ = self._phases[phase_name]
                    self._phases[phase_name] = (parent, steps, step + 1)
                    share = self._share(None)
                    if share >= self._told + _TOLD_STEP:
                        self._told = share
                        progress(share, phase_name)
            except BaseException as error:  # noqa: BLE001 (it is raised later)
                self.raised = error
            return self.raised is None

        def phase_finish(self, phase_name: str) -> None:
            with self._lock:
                self._phases.pop(phase_name, None)

        def _share(self, parent: str | None) -> float:
            """Of the step of ``parent`` that is under way; of all for None."""
            phases = [(name, *phase) for name, phase in self._phases.items() if phase[0] == parent]
            shares = [(done + self._share(name)) / steps for name, _, steps, done in phases]
            return min(max(shares, default=0.0), 1.0)

    return Monitor()


class _Gpu:
    """The first GPU, through the CUDA driver. Raises OSError without a driver, RuntimeError for what it refuses.

    Attributes
    ----------
    name, compute_capability
        Of the GPU.
    cuda
        The CUDA version of the driver, 1000 * major + 10 * minor.
    """

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")
        for name, types in _CUDA.items():
            getattr(self._library, name).argtypes = types
        self._call("cuInit", 0)
        if self._get("cuDeviceGetCount", _NUMBER) < 1:
            raise RuntimeError("it counts none")
        self._device = self._get("cuDeviceGet", _NUMBER, 0)
        text = ctypes.c_char * 256
        self.name: str = self._get("cuDeviceGetName", text, ctypes.sizeof(text), self._device).decode()
        self.compute_capability = tuple(
            self._get("cuDeviceGetAttribute", _NUMBER, attribute, self._device) for attribute in _COMPUTE_CAPABILITY
        )
        self.cuda: int = self._get("cuDriverGetVersion", _NUMBER)

    @contextmanager
    def context(self) -> Iterator[None]:
        """Hold the primary context, the one that TensorRT's CUDA runtime uses, current in this thread."""
        self._context = self._get("cuDevicePrimaryCtxRetain", _POINTER, self._device)
        try:
            self.use()
            yield
        finally:
            self._call("cuCtxSetCurrent", None)
            self._call("cuDevicePrimaryCtxRelease_v2", self._device)

    def use(self) -> None:
        """Each thread has a current context of its own."""
        self._call("cuCtxSetCurrent", self._context)

    def stream(self, resources: ExitStack) -> int:
        stream: int = self._get("cuStreamCreate", _POINTER, 0)
        resources.callback(self._call, "cuStreamDestroy_v2", stream)
        return stream

    def memory(self, size: int, resources: ExitStack) -> int:
        """Address of so many bytes on the device."""
        address: int = self._get("cuMemAlloc_v2", _ADDRESS, size)
        resources.callback(self._call, "cuMemFree_v2", address)
        return address

    def upload(self, source: np.ndarray, address: int, stream: int) -> None:
        self._call("cuMemcpyHtoDAsync_v2", address, source.ctypes.data, source.nbytes, stream)

    def download(self, address: int, target: np.ndarray, stream: int) -> None:
        self._call("cuMemcpyDtoHAsync_v2", target.ctypes.data, address, target.nbytes, stream)

    def wait(self, stream: int) -> None:
        self._call("cuStreamSynchronize", stream)

    def _get(self, name: str, kind: Any, *arguments: object) -> Any:
        """What a call writes to where its first argument points."""
        value = kind()
        self._call(name, ctypes.byref(value), *arguments)
        return value.value

    def _call(self, name: str, *arguments: object) -> None:
        code = getattr(self._library, name)(*arguments)
        if code != 0:
            text = ctypes.c_char_p()
            self._library.cuGetErrorString(code, ctypes.byref(text))
            raise RuntimeError(f"{name} gave {code}, {(text.value or b'unknown').decode()}")
