"""OpenVINO on the CPU. An artifact is a zip of the network as IR: ``model.xml`` and ``model.bin``."""

from __future__ import annotations

import io
import zipfile
from importlib import metadata, util

import numpy as np

from appliance.errors import BackendError

NAME = "openvino"
TARGET = "openvino"
XML, BIN = "model.xml", "model.bin"


def probe() -> str | None:
    if util.find_spec("openvino") is None:
        return "the package openvino is not installed (pip install 'scanside[openvino]')"
    return None


def versions() -> dict[str, str]:
    return {"openvino": metadata.version("openvino")}


class OpenVinoBackend:
    """One compiled network; see `appliance.backend.Backend`."""

    name = NAME

    def __init__(self, artifact: bytes, threads: int) -> None:
        import openvino

        try:
            with zipfile.ZipFile(io.BytesIO(artifact)) as archive:
                xml, weights = archive.read(XML), archive.read(BIN)
            core = openvino.Core()
            model = core.read_model(xml, openvino.Tensor(np.frombuffer(weights, dtype=np.uint8)))
            settings = {
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": 1,
                # CPUs with AMX would compute in bfloat16 what is not int8, with other answers than elsewhere.
                "INFERENCE_PRECISION_HINT": "f32",
            }
            compiled = core.compile_model(model, "CPU", settings)
        except Exception as error:  # the runtime raises RuntimeErrors of its own kind, and zipfile several
            raise BackendError(f"OpenVINO can't open the network: {error}") from error
        self._request = compiled.create_infer_request()
        self._outputs = {output.get_any_name(): output for output in compiled.outputs}
        self.device = ", ".join(compiled.get_property("EXECUTION_DEVICES"))

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            results = self._request.infer(inputs)
        except Exception as error:  # as above
            raise BackendError(f"OpenVINO can't run the network: {error}") from error
        return {name: np.array(results[output]) for name, output in self._outputs.items()}

    def close(self) -> None:
        del self._request


def open(artifact: bytes, *, threads: int = 1) -> OpenVinoBackend:  # noqa: A001 (the protocol's name)
    return OpenVinoBackend(artifact, threads)
