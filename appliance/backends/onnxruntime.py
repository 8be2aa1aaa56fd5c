"""ONNX Runtime on the CPU: the backend that is always there."""

from __future__ import annotations

from importlib import metadata, util

import numpy as np

from appliance.errors import BackendError

NAME = "onnxruntime"
TARGET = "cpu"
_PROVIDER = "CPUExecutionProvider"


def probe() -> str | None:
    if util.find_spec("onnxruntime") is None:
        return "the package onnxruntime is not installed"
    return None


def versions() -> dict[str, str]:
    return {"onnxruntime": metadata.version("onnxruntime")}


class OnnxRuntimeBackend:
    """One inference session; see `appliance.backend.Backend`."""

    name = NAME

    def __init__(self, artifact: bytes, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # A worker that waits for the next study must not keep a core busy.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(artifact, options, providers=[_PROVIDER])
        except Exception as error:  # the runtime raises a dozen types that share no base class
            raise BackendError(f"ONNX Runtime can't open the network: {error}") from error
        self._outputs = [output.name for output in self._session.get_outputs()]
        self.device = self._session.get_providers()[0].removesuffix("ExecutionProvider")

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            return dict(zip(self._outputs, self._session.run(None, inputs), strict=True))
        except Exception as error:  # as above
            raise BackendError(f"ONNX Runtime can't run the network: {error}") from error

    def close(self) -> None:
        del self._session


def open(artifact: bytes, *, threads: int = 1) -> OnnxRuntimeBackend:  # noqa: A001 (the protocol's name)
    return OnnxRuntimeBackend(artifact, threads)
