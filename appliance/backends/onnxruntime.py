"""ONNX Runtime on the CPU: the backend that is always there."""

from __future__ import annotations

import numpy as np

from appliance.backend import Options, installed_version
from appliance.errors import BackendError

NAME = "onnxruntime"
TARGET = "cpu"
DEVICES = ("CPU",)
REQUIRES = "onnxruntime"
INSTALL = "it belongs to every installation; install the appliance again"
DEVICE_FILES: dict[str, tuple[tuple[str, ...], str]] = {}
_PROVIDER = "CPUExecutionProvider"


def probe(device: str) -> str | None:  # noqa: ARG001 (there is but one)
    import onnxruntime

    found = onnxruntime.get_available_providers()
    return None if _PROVIDER in found else f"this build of ONNX Runtime has no {_PROVIDER} (it has {', '.join(found)})"


def versions(device: str) -> dict[str, str]:  # noqa: ARG001
    return {"onnxruntime": installed_version("onnxruntime")}


class OnnxRuntimeBackend:
    """One inference session, which takes calls from several threads; see `appliance.backend.Backend`."""

    name = NAME

    def __init__(self, artifact: bytes, options: Options) -> None:
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = options.threads
        settings.inter_op_num_threads = 1
        # A worker that waits for the next study must not keep a core busy.
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Where the processor adds products of int8 in 16 bits, which overflow (`appliance.processor.int8_overflows`),
        # probabilities of the bundled model would move by 0.09. There weights become uint8: exact, but slower.
        settings.add_session_config_entry("session.x64quantprecision", "1")
        settings.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(artifact, settings, providers=[_PROVIDER])
        except Exception as error:  # the runtime raises a dozen types that share no base class
            raise BackendError(f"ONNX Runtime can't open the network: {error}") from error
        for given in self._session.get_inputs():
            if given.shape[0] != options.batch and isinstance(given.shape[0], int):
                raise BackendError(f"ONNX Runtime can't open the network: it takes {given.shape[0]} images at a time")
        self._outputs = [output.name for output in self._session.get_outputs()]
        self.device = self._session.get_providers()[0].removesuffix("ExecutionProvider")

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            return dict(zip(self._outputs, self._session.run(None, inputs), strict=True))
        except Exception as error:  # as above
            raise BackendError(f"ONNX Runtime can't run the network: {error}") from error

    def close(self) -> None:
        del self._session


def open(artifact: bytes, options: Options) -> OnnxRuntimeBackend:  # noqa: A001 (the protocol's name)
    return OnnxRuntimeBackend(artifact, options)
