"""``scanside bench``: how fast each backend is on this device, as it serves: in its process, through shared memory."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import replace

from appliance import backends, golden
from appliance.backend import Options, cores
from appliance.errors import BackendError
from appliance.inference import InferenceProcess
from appliance.package import Package
from appliance.proof import Trial

_WARM_UP = 10
_DEADLINE_SECONDS = 60.0
_AT_ONCE = 32  # images given together, for the throughput


class Measured(msgspec.Struct, frozen=True):
    """One backend with a number of threads and images in a call.

    Seconds are of one image, without preprocessing: ``latency_p50`` and ``latency_p95`` from giving it to having the
    answer, ``inference_p50`` in the network alone. ``images_per_second`` is with ``lanes`` at once. ``memory_mb`` is
    what the process held at most. Where it could not be measured, ``reason`` says why.
    """

    backend: str
    device: str
    target: str
    threads: int
    lanes: int
    batch: int
    latency_p50: float = 0.0
    latency_p95: float = 0.0
    inference_p50: float = 0.0
    images_per_second: float = 0.0
    memory_mb: int = 0
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        content: dict[str, Any] = msgspec.to_builtins(self)
        return content


def variants(trial: Trial, options: Options) -> list[Options]:
    """How a backend is measured: one thread, all cores on one image, a lane for each core; its batches."""
    if trial.receipt is None:
        return []
    mine = dataclasses.replace(options, device=backends.device(trial.backend), lanes=1, batch=1)
    ways = [(1, 1), (cores(), 1), (1, cores())]
    found = [dataclasses.replace(mine, threads=threads, lanes=lanes) for threads, lanes in ways]
    return [*dict.fromkeys(found), *(dataclasses.replace(mine, batch=batch.size) for batch in trial.receipt.batches)]


def measure(opened: Package, tried: Sequence[Trial], options: Options, seconds: float) -> Iterator[Measured]:
    """Every backend that has a valid receipt, in all its variants, ``seconds`` each."""
    images = [{opened.manifest.input.name: tensor} for tensor in golden.tensors(opened, opened.golden())]
    for trial in tried:
        for variant in variants(trial, options):
            about = Measured(trial.backend, "", trial.target, variant.threads, variant.lanes, variant.batch)
            try:
                process = InferenceProcess(opened, trial.backend, variant)
            except BackendError as error:
                yield replace(about, reason=error.message)
                continue
            started = process.wait_until_started()
            try:
                if started.reason:
                    yield replace(about, reason=started.reason)
                else:
                    yield _measure(process, replace(about, device=started.device), images, seconds)
            except BackendError as error:
                yield replace(about, device=started.device, reason=error.message)
            finally:
                process.close()


def _measure(
    process: InferenceProcess, about: Measured, images: list[dict[str, np.ndarray]], seconds: float
) -> Measured:
    for number in range(_WARM_UP):
        process.run([images[number % len(images)]], _DEADLINE_SECONDS)
    taken: list[float] = []
    inside: list[float] = []
    start = time.perf_counter()
    while time.perf_counter() - start < seconds / 2:
        begin = time.perf_counter()
        (output,) = process.run([images[len(taken) % len(images)]], _DEADLINE_SECONDS)
        taken.append(time.perf_counter() - begin)
        inside.append(output.seconds)
    together = [images[number % len(images)] for number in range(_AT_ONCE)]
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds / 2:
        count += len(process.run(together, _DEADLINE_SECONDS))
    return replace(
        about,
        latency_p50=float(np.percentile(taken, 50)),
        latency_p95=float(np.percentile(taken, 95)),
        inference_p50=float(np.percentile(inside, 50)),
        images_per_second=count / (time.perf_counter() - start),
        memory_mb=process.peak_memory() >> 20,
    )
