"""OpenVINO on a CPU, a GPU or an NPU. An artifact is a zip of the network as IR: ``model.xml`` and ``model.bin``."""

from __future__ import annotations

import functools
import hashlib
import io
import queue
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from appliance.backend import Options, Progress, installed_version
from appliance.engine_cache import EngineCache
from appliance.errors import BackendError
from appliance.processor import int8_overflows

NAME = "openvino"
TARGET = "openvino"
DEVICES = ("CPU", "GPU", "NPU")
REQUIRES = "openvino"
INSTALL = "pip install 'scanside[openvino]'"
_GET_DRIVER = {
    "CPU": "",
    "GPU": "install Intel's compute runtime (Debian 12, Ubuntu: intel-opencl-icd), give the service access to /dev/dri",
    "NPU": "install Intel's NPU driver (linux-npu-driver) and give the service access to /dev/accel",
}
DEVICE_FILES = {
    "GPU": (("/dev/dri/renderD*", "/dev/dxg"), _GET_DRIVER["GPU"]),
    "NPU": (("/dev/accel/accel*",), _GET_DRIVER["NPU"]),
}
XML, BIN = "model.xml", "model.bin"
# What is not int8 is computed in this. CPUs with AMX or AVX512-BF16 would take bfloat16, with other answers than
# elsewhere; GPUs and NPUs are made for half precision.
_PRECISION = {"CPU": "f32", "GPU": "f16", "NPU": "f16"}
_KERNEL_DRIVERS = {"GPU": ("i915", "xe"), "NPU": ("intel_vpu",)}


@functools.cache
def _core() -> Any:
    """The one core of this process, which is never freed.

    Each core's CPU plugin puts an alternate signal stack in the place of the one before, and puts that one back when it
    is freed. Freed in the order of their making, two cores leave a stack that is no longer mapped, and the next signal
    with a handler ends the process with a segmentation fault (seen with 2026.4).
    """
    import openvino

    return openvino.Core()


def probe(device: str) -> str | None:
    found = _core().available_devices
    if any(each.partition(".")[0] == device for each in found):
        return None
    return f"OpenVINO finds no {device} here (it finds {', '.join(found) or 'nothing'}): {_GET_DRIVER[device]}"


def versions(device: str) -> dict[str, str]:
    found = {"openvino": installed_version("openvino")}
    for name in _KERNEL_DRIVERS.get(device, ()):
        folder = Path("/sys/module") / name
        if folder.exists():
            # One that comes with the kernel has no version of its own: the kernel's it is.
            own = folder / "version"
            kernel = Path("/proc/sys/kernel/osrelease")
            found[name] = (own if own.exists() else kernel).read_text().strip()
    return found


class OpenVinoBackend:
    """One compiled network with a request for each lane; see `appliance.backend.Backend`."""

    def __init__(self, artifact: bytes, options: Options) -> None:
        self.name = NAME if options.device == DEVICES[0] else f"{NAME}:{options.device}"
        try:
            compiled = _compile(artifact, options)
        except Exception as error:  # the runtime raises RuntimeErrors of its own kind, and zipfile several
            raise BackendError(f"OpenVINO can't open the network: {error}") from error
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(options.lanes):
            self._requests.put(compiled.create_infer_request())
        self._outputs = [(output.get_any_name(), number) for number, output in enumerate(compiled.outputs)]
        self.device = ", ".join(compiled.get_property("EXECUTION_DEVICES"))

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        request = self._requests.get()
        try:
            results = request.infer(inputs, share_inputs=True, share_outputs=True)
            return {name: results[number].copy() for name, number in self._outputs}
        except Exception as error:  # as above
            raise BackendError(f"OpenVINO can't run the network: {error}") from error
        finally:
            self._requests.put(request)

    def close(self) -> None:
        del self._requests


def _compile(artifact: bytes, options: Options) -> Any:
    """The compiled network, from the cache where it lies there whole."""
    import openvino

    core, settings, cache = _core(), _settings(options), EngineCache(options.cache)
    key = _key(core, artifact, options)
    engine = cache.get(*key)
    if engine is not None:
        # An imported network forgets the precision it was compiled for, unless it is told once more.
        return core.import_model(engine, options.device, settings)
    with zipfile.ZipFile(io.BytesIO(artifact)) as archive:
        xml, weights = archive.read(XML), archive.read(BIN)
    model = core.read_model(xml, openvino.Tensor(np.frombuffer(weights, dtype=np.uint8)))
    for given in model.inputs:
        shape = given.get_partial_shape()
        shape[0] = options.batch
        model.reshape({given: shape})
    compiled = core.compile_model(model, options.device, settings)
    if options.cache is not None:
        cache.put(compiled.export_model().getvalue(), *key)
    return compiled


def _settings(options: Options) -> dict[str, Any]:
    settings = {"INFERENCE_PRECISION_HINT": _PRECISION[options.device]}
    overflows = options.device == "CPU" and int8_overflows()
    if options.device != "NPU":  # whose plugin has requests in parallel without them
        settings["NUM_STREAMS"] = "1" if overflows else str(options.lanes)
    if options.device == "CPU":
        settings["INFERENCE_NUM_THREADS"] = str(options.threads * options.lanes)
    if overflows:
        # Values are rounded as int8 has them, and computed with in float32. Of several streams 2026.4 then gives
        # answers that are 0.5 off; one takes the requests of all lanes in turn.
        settings["LP_TRANSFORMS_MODE"] = "NO"
    return settings


def _key(core: Any, artifact: bytes, options: Options) -> tuple[object, ...]:
    """All that a compiled network depends on."""
    return (
        "openvino",
        hashlib.sha256(artifact).hexdigest(),
        core.get_property(options.device, "FULL_DEVICE_NAME"),
        *sorted(versions(options.device).items()),
        *sorted(_settings(options).items()),
        options.batch,
    )


def open(artifact: bytes, options: Options) -> OpenVinoBackend:  # noqa: A001 (the protocol's name)
    return OpenVinoBackend(artifact, options)


def is_prepared(artifact: bytes, options: Options) -> bool:
    """A CPU compiles in a blink; a GPU or an NPU may take a minute."""
    if options.device == "CPU" or options.cache is None:
        return True
    return EngineCache(options.cache).has(*_key(_core(), artifact, options))


def prepare(artifact: bytes, options: Options, progress: Progress) -> None:
    progress(0.0, f"OpenVINO compiles it for the {options.device}, for {options.batch} image(s) in a call")
    OpenVinoBackend(artifact, options)
