"""The seam to inference runtimes: one small protocol, one file in `appliance.backends` for each runtime."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Backend(Protocol):
    """An opened network on one device of one runtime.

    Attributes
    ----------
    name
        The runtime, as in the configuration: ``onnxruntime``, ``openvino``, ...
    device
        What really runs it, read back from the runtime.
    """

    name: str
    device: str

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Output name -> array, for input name -> float32 ``(batch, channel, rows, columns)``.

        Raises `appliance.errors.BackendError`.
        """
        ...

    def close(self) -> None: ...


class BackendModule(Protocol):
    """What each module of `appliance.backends` provides."""

    NAME: str
    TARGET: str

    @staticmethod
    def probe() -> str | None:
        """Why this backend can't be used on this machine, or None if it can."""
        ...

    @staticmethod
    def versions() -> dict[str, str]:
        """The runtime's library versions."""
        ...

    @staticmethod
    def open(artifact: bytes, *, threads: int = 1) -> Backend:
        """Load a network; raises `appliance.errors.BackendError`."""
        ...
