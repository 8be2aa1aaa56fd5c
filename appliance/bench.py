"""``scanside bench``: how fast each backend is on this device, for who commissions it.

Each is measured in a process of its own (``python -m appliance.bench``), so that memory is its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from appliance import backends, package, process
from appliance.package import Package
from appliance.preprocess import preprocess
from appliance.proof import Trial

_WARM_UP = 10


class Measured(msgspec.Struct, frozen=True):
    """One backend with a number of threads: seconds of one image, without preprocessing, and MB of its process."""

    backend: str
    device: str
    target: str
    threads: int
    latency_p50: float
    latency_p95: float
    images_per_second: float
    memory_mb: int

    def to_dict(self) -> dict[str, Any]:
        content: dict[str, Any] = msgspec.to_builtins(self)
        return content


def measure(opened: Package, tried: Sequence[Trial], seconds: float) -> Iterator[Measured]:
    """Every backend that has a valid receipt, with one thread and with all cores."""
    cores = len(os.sched_getaffinity(0))
    for trial in tried:
        if trial.receipt is not None:
            for threads in sorted({1, cores}):
                command = [sys.executable, "-m", "appliance.bench", str(os.getpid()), trial.backend, str(opened.path),
                           str(threads), str(seconds)]  # fmt: skip
                done = subprocess.run(command, capture_output=True, check=True)
                yield msgspec.json.decode(done.stdout.splitlines()[-1], type=Measured)


def _main() -> None:
    process.die_with_parent(int(sys.argv[1]))
    name, path, threads, wanted = sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])
    opened, module = package.read(path, None), backends.module(name)
    backend = module.open(opened.artifact(module.TARGET), threads=threads)
    manifest = opened.manifest
    inputs = [{manifest.input.name: preprocess(image, manifest.input.steps)} for image in opened.golden()["images"]]
    for number in range(_WARM_UP):
        backend.run(inputs[number % len(inputs)])
    taken: list[float] = []
    start = time.perf_counter()
    while time.perf_counter() - start < wanted:
        begin = time.perf_counter()
        backend.run(inputs[len(taken) % len(inputs)])
        taken.append(time.perf_counter() - begin)
    measured = Measured(
        backend=name,
        device=backend.device,
        target=module.TARGET,
        threads=threads,
        latency_p50=float(np.percentile(taken, 50)),
        latency_p95=float(np.percentile(taken, 95)),
        images_per_second=len(taken) / sum(taken),
        memory_mb=_peak_memory_mb(),
    )
    print(msgspec.json.encode(measured).decode())


def _peak_memory_mb() -> int:
    """VmHWM of proc(5): what this process has held at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    _main()
