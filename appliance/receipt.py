"""The receipt: proof that a backend, on this very device, gives the answers that the package promises.

int8 arithmetic differs between CPUs and runtimes, so before a backend serves it replays the package's golden
vectors, preprocessing included. Without a valid receipt there are no results.
"""

from __future__ import annotations

import hashlib
import logging
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from appliance import backends, golden
from appliance.backend import Backend, BackendModule, Options
from appliance.errors import BackendError, ReceiptError
from appliance.package import Package
from appliance.processor import processor

log = logging.getLogger("scanside.receipt")

BATCHES = (4, 8)
_FEWEST_TIMES, _LONGEST_SECONDS, _WARM_UP, _BATCH_TIMES = 64, 1.0, 3, 8


class Batch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``size`` images in one call, and the ``seconds`` for each of them."""

    size: int
    seconds: float


class Receipt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was replayed, on what, and how far it was off.

    ``max_abs_dp`` is the largest difference of a calibrated probability, ``flips`` the number of decisions at the
    default operating point that differ, ``max_abs_dmap`` the largest difference of an activation map as a share
    of its scale; latencies in seconds for one image on ``threads`` threads, without preprocessing. ``batches``: those
    that the backend can be opened with. ``min_dice``, of a segmentation only: the smallest Dice coefficient between a
    segment as it is drawn here and as the package promises.
    """

    package: str
    version: str
    package_sha256: str
    artifact_sha256: str
    target: str
    backend: str
    device: str
    cpu: str
    cpu_flags: tuple[str, ...]
    versions: dict[str, str]
    count: int
    max_abs_dp: float
    flips: int
    max_abs_dmap: float
    latency_p50: float
    latency_p95: float
    made_at: str
    threads: int = 1
    batches: tuple[Batch, ...] = ()
    min_dice: float | UnsetType = UNSET  # left out of the JSON then, so that older receipts keep their identifiers

    @property
    def identifier(self) -> str:
        return hashlib.sha256(self.to_json()).hexdigest()[:16]

    def summary(self) -> str:
        agrees = (
            f"largest difference of a probability {self.max_abs_dp:.1g}"
            if self.min_dice is UNSET
            else f"smallest Dice coefficient of a segment {self.min_dice:.4f}"
        )
        return f"{self.count} golden vectors on {self.device}, {agrees}, {self.latency_p50 * 1000:.2f} ms an image"

    def to_json(self) -> bytes:
        return msgspec.json.encode(self, order="deterministic")


def prove(package: Package, module: BackendModule, backend: Backend, options: Options) -> Receipt:
    """Replay the golden vectors of a package on a backend that was opened with ``options``, one image at a time.

    Raises
    ------
    ReceiptError
        A probability or an activation map differs by more than is allowed, a decision flips, a segment is drawn
        otherwise, or an output is missing, has another shape, or is no number.
    """
    vectors = package.golden()
    tensors = golden.tensors(package, vectors)
    answers, seconds = [], []
    for tensor in tensors:
        outputs, taken = _timed(package, backend, tensor)
        _check_shapes(package, module, backend, vectors, outputs, 1)
        answers.append(outputs)
        seconds.append(taken)
    while len(seconds) < _FEWEST_TIMES and sum(seconds) < _LONGEST_SECONDS:
        seconds.append(_timed(package, backend, tensors[len(seconds) % len(tensors)])[1])
    found = golden.agreement(package, module.TARGET, vectors, answers)
    if objection := found.objection(package, len(tensors)):
        raise ReceiptError(
            f"{backend.name} on {backend.device} does not reproduce {package}: {objection}",
            hint="use another backend, or a package that was built for this device",
        )
    cpu, cpu_flags = processor()
    return Receipt(
        package=package.manifest.id,
        version=package.manifest.version,
        package_sha256=package.sha256,
        artifact_sha256=package.artifact_sha256(module.TARGET),
        target=module.TARGET,
        backend=backend.name,
        device=backend.device,
        cpu=cpu,
        cpu_flags=cpu_flags,
        versions=versions(module, options.device),
        count=len(tensors),
        max_abs_dp=found.max_abs_dp,
        flips=found.flips,
        max_abs_dmap=found.max_abs_dmap,
        latency_p50=float(np.percentile(seconds[_WARM_UP:] or seconds, 50)),
        latency_p95=float(np.percentile(seconds[_WARM_UP:] or seconds, 95)),
        made_at=datetime.now().astimezone().isoformat(timespec="seconds"),
        threads=options.threads,
        batches=() if package.segments else tuple(_batches(package, module, options, tensors, answers)),
        min_dice=UNSET if found.min_dice is None else found.min_dice,
    )


def check(package: Package, module: BackendModule, backend: Backend) -> dict[str, tuple[int, ...]]:
    """Replay one golden vector, to see that a backend which has its receipt still works.

    Returns
    -------
    Output name -> shape for one image, without the batch axis.

    Raises
    ------
    ReceiptError
    """
    vectors = package.golden()
    first = {**vectors, "images": vectors["images"][:1]}
    outputs, _ = _timed(package, backend, golden.tensors(package, first)[0])
    _check_shapes(package, module, backend, vectors, outputs, 1)
    if objection := golden.agreement(package, module.TARGET, vectors, [outputs]).objection(package, 1):
        raise ReceiptError(
            f"{backend.name} on {backend.device} does not reproduce a golden vector of {package}: {objection}",
            hint="run `scanside receipt`",
        )
    return {name: value.shape[1:] for name, value in outputs.items()}


def _check_shapes(
    package: Package,
    module: BackendModule,
    backend: Backend,
    vectors: dict[str, np.ndarray],
    outputs: dict[str, np.ndarray],
    batch: int,
) -> None:
    try:
        golden.check_shapes(package, module.TARGET, vectors, outputs, batch)
    except ReceiptError as error:
        raise ReceiptError(f"{backend.name}: {error.message}") from error


def _batches(
    package: Package,
    module: BackendModule,
    options: Options,
    tensors: Sequence[np.ndarray],
    answers: Sequence[dict[str, np.ndarray]],
) -> Iterator[Batch]:
    """Of those sizes that the backend takes, and answers as it does one by one."""
    for size in BATCHES:
        artifact, batched = package.artifact(module.TARGET), replace(options, batch=size)
        preparing = backends.preparing(module)
        if preparing is not None and not preparing.is_prepared(artifact, batched):
            continue
        try:
            backend = module.open(artifact, batched)
            yield _batch(package, module, backend, size, tensors, answers)
            backend.close()
        except BackendError as error:
            log.info("%s takes no batches of %d: %s", module.NAME, size, error)


def _batch(
    package: Package,
    module: BackendModule,
    backend: Backend,
    size: int,
    tensors: Sequence[np.ndarray],
    answers: Sequence[dict[str, np.ndarray]],
) -> Batch:
    """Raises `ReceiptError` where a batch gets other answers than its images alone."""
    batch = np.concatenate([tensors[number % len(tensors)] for number in range(size)])
    outputs, first = _timed(package, backend, batch)
    _check_shapes(package, module, backend, package.golden(), outputs, size)
    logits = package.manifest.outputs.logits
    alone = np.concatenate([answers[number % len(answers)][logits] for number in range(size)])
    max_dp, flips = golden.difference(package.target(module.TARGET), outputs[logits], alone)
    if flips or not max_dp <= package.manifest.golden.probability_tolerance:
        raise ReceiptError(f"{backend.name} gives images other answers in a batch of {size}")
    seconds = [first]
    while len(seconds) < _BATCH_TIMES and sum(seconds) < _LONGEST_SECONDS:
        seconds.append(_timed(package, backend, batch)[1])
    return Batch(size, float(np.median(seconds[1:] or seconds)) / size)


def _timed(package: Package, backend: Backend, tensor: np.ndarray) -> tuple[dict[str, np.ndarray], float]:
    start = time.perf_counter()
    outputs = backend.run({package.manifest.input.name: tensor})
    return outputs, time.perf_counter() - start


def versions(module: BackendModule, device: str) -> dict[str, str]:
    """The versions of what computes, the driver's among them."""
    return {**module.versions(device), "python": platform.python_version(), "numpy": np.__version__}
