"""The seam to inference runtimes: one small protocol, one file in `appliance.backends` for each runtime."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Protocol

import numpy as np

_QUOTA = Path("/sys/fs/cgroup/cpu.max")

# Told the share that is done, in [0, 1], and what is being done.
Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Options:
    """How a network is opened.

    Attributes
    ----------
    threads
        Of one inference.
    lanes
        How many calls of `Backend.run` may come at once, from as many threads.
    batch
        Images in one call, which is fixed: shapes are static.
    device
        One of the module's ``DEVICES``.
    cache
        Folder for compiled networks; None compiles each time.
    """

    threads: int = 1
    lanes: int = 1
    batch: int = 1
    device: str = ""
    cache: Path | None = None


class Backend(Protocol):
    """An opened network on one device of one runtime.

    Attributes
    ----------
    name
        As in the configuration: ``onnxruntime``, ``openvino``, ``openvino:GPU``, ...
    device
        What really runs it, read back from the runtime.
    """

    name: str
    device: str

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Output name -> array, for input name -> float32 ``(batch, channel, [slices,] rows, columns)``.

        Inputs are not written to, and what is returned stays as it is. Raises `appliance.errors.BackendError`.
        """
        ...

    def close(self) -> None: ...


class BackendModule(Protocol):
    """What each module of `appliance.backends` provides.

    Attributes
    ----------
    TARGET
        The package's target whose artifact it runs.
    DEVICES
        Kinds of devices that it can be opened on, the usual one first; ``("",)`` where there is but one.
    REQUIRES, INSTALL
        The Python module without which nothing here works, and how to get it.
    DEVICE_FILES
        device -> patterns of files of which the kernel's driver makes one, and how to get that driver.

    One whose compiling takes minutes also has ``is_prepared`` and ``prepare``, see `Preparing`.
    """

    NAME: str
    TARGET: str
    DEVICES: tuple[str, ...]
    REQUIRES: str
    INSTALL: str
    DEVICE_FILES: dict[str, tuple[tuple[str, ...], str]]

    @staticmethod
    def probe(device: str) -> str | None:
        """Why this device can't be used on this machine, and what to do; None if it can.

        May load drivers, so it is called in a process of its own, by `appliance.backends.probe`.
        """
        ...

    @staticmethod
    def versions(device: str) -> dict[str, str]:
        """The versions of the libraries and of the driver that compute, found without loading them."""
        ...

    @staticmethod
    def open(artifact: bytes, options: Options) -> Backend:
        """Load a network; raises `appliance.errors.BackendError`."""
        ...


class Preparing(BackendModule, Protocol):
    """A module whose networks are compiled on the device, in the background, before they can be opened."""

    @staticmethod
    def is_prepared(artifact: bytes, options: Options) -> bool:
        """Whether `open` takes seconds only: the compiled network lies in ``options.cache``."""
        ...

    @staticmethod
    def prepare(artifact: bytes, options: Options, progress: Progress) -> None:
        """Compile into ``options.cache``; raises `appliance.errors.BackendError`."""
        ...


def installed_version(distribution: str) -> str:
    """Of a Python package; "unknown" where it is there under another name, such as a vendor's own build."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "unknown"


def cores() -> int:
    """How many cores this process may use: its affinity, and in a container the quota of its control group."""
    allowed = len(os.sched_getaffinity(0))
    try:
        quota, period = _QUOTA.read_text().split()
    except (OSError, ValueError):
        return allowed
    return allowed if quota == "max" else max(min(allowed, int(quota) // int(period)), 1)
