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
from pathlib import Path

import msgspec
import numpy as np

from appliance import backends
from appliance.backend import Backend, BackendModule, Options
from appliance.errors import BackendError, ReceiptError
from appliance.package import Package, Target
from appliance.preprocess import preprocess

log = logging.getLogger("scanside.receipt")

# Flags that decide how int8 is computed on x86 and ARM.
_TELLING_FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8", "asimd", "asimddp", "i8mm", "sve")

BATCHES = (4, 8)
MAP_TOLERANCE = 0.2  # largest difference of an activation map, as a share of its scale: 0 to 1 is what is drawn
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
    that the backend can be opened with.
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

    @property
    def identifier(self) -> str:
        return hashlib.sha256(self.to_json()).hexdigest()[:16]

    def summary(self) -> str:
        return (
            f"{self.count} golden vectors on {self.device}, largest difference of a probability {self.max_abs_dp:.1g}, "
            f"{self.latency_p50 * 1000:.2f} ms an image"
        )

    def to_json(self) -> bytes:
        return msgspec.json.encode(self, order="deterministic")


def prove(package: Package, module: BackendModule, backend: Backend, options: Options) -> Receipt:
    """Replay the golden vectors of a package on a backend that was opened with ``options``, one image at a time.

    Raises
    ------
    ReceiptError
        A probability or an activation map differs by more than is allowed, a decision flips, or an output is missing,
        has another shape, or is no number.
    """
    target, golden = package.target(module.TARGET), package.golden()
    tensors = [preprocess(image, package.manifest.input.steps) for image in golden["images"]]
    spec = package.manifest.outputs
    expected_maps = golden[f"{module.TARGET}/activation_map"]
    answers, seconds = [], []
    for tensor in tensors:
        outputs, taken = _timed(package, backend, tensor)
        _check_outputs(package, outputs, (1, *expected_maps.shape[1:]), backend.name)
        answers.append(outputs)
        seconds.append(taken)
    while len(seconds) < _FEWEST_TIMES and sum(seconds) < _LONGEST_SECONDS:
        seconds.append(_timed(package, backend, tensors[len(seconds) % len(tensors)])[1])
    max_dp, flips = _difference(
        target, np.stack([each[spec.logits][0] for each in answers]), golden[f"{module.TARGET}/logits"]
    )
    maps = np.stack([each[spec.activation_map][0] for each in answers])
    max_dmap = float(np.abs(maps - expected_maps).max()) / target.activation_map_scale
    count, tolerance = len(tensors), package.manifest.golden.probability_tolerance
    # `not <=` also catches NaN.
    if flips or not max_dp <= tolerance or not max_dmap <= MAP_TOLERANCE:
        raise ReceiptError(
            f"{backend.name} on {backend.device} does not reproduce {package}: largest difference of a probability "
            f"{max_dp:.4f} (allowed {tolerance:.4f}), {flips} of {count} decisions differ, largest difference of an "
            f"activation map {max_dmap:.3f} of its scale (allowed {MAP_TOLERANCE})",
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
        count=count,
        max_abs_dp=max_dp,
        flips=flips,
        max_abs_dmap=max_dmap,
        latency_p50=float(np.percentile(seconds[_WARM_UP:] or seconds, 50)),
        latency_p95=float(np.percentile(seconds[_WARM_UP:] or seconds, 95)),
        made_at=datetime.now().astimezone().isoformat(timespec="seconds"),
        threads=options.threads,
        batches=tuple(_batches(package, module, options, tensors, answers)),
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
    golden = package.golden()
    outputs, _ = _timed(package, backend, preprocess(golden["images"][0], package.manifest.input.steps))
    _check_outputs(package, outputs, golden[f"{module.TARGET}/activation_map"][:1].shape, backend.name)
    given, wanted = outputs[package.manifest.outputs.logits], golden[f"{module.TARGET}/logits"][:1]
    max_dp, flips = _difference(package.target(module.TARGET), given, wanted)
    if flips or not max_dp <= package.manifest.golden.probability_tolerance:
        raise ReceiptError(
            f"{backend.name} on {backend.device} does not reproduce a golden vector of {package}: "
            f"the probability differs by {max_dp:.4f}",
            hint="run `scanside receipt`",
        )
    return {name: value.shape[1:] for name, value in outputs.items()}


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
    logits, activation_map = package.manifest.outputs.logits, package.manifest.outputs.activation_map
    _check_outputs(package, outputs, (size, *answers[0][activation_map].shape[1:]), backend.name)
    alone = np.concatenate([answers[number % len(answers)][logits] for number in range(size)])
    max_dp, flips = _difference(package.target(module.TARGET), outputs[logits], alone)
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


def _difference(target: Target, given: np.ndarray, wanted: np.ndarray) -> tuple[float, int]:
    """The largest difference of a calibrated probability, and how many decisions differ."""
    got = calibrated(given, target.temperature, target.bias)
    expected = calibrated(wanted, target.temperature, target.bias)
    threshold = target.operating_point().threshold
    return float(np.abs(got - expected).max()), int(((got >= threshold) != (expected >= threshold)).sum())


def _check_outputs(package: Package, outputs: dict[str, np.ndarray], map_shape: tuple[int, ...], name: str) -> None:
    """``map_shape`` is that of a whole batch; raises `ReceiptError`."""
    manifest, batch = package.manifest, map_shape[0]
    wanted = {
        manifest.outputs.logits: (batch, len(manifest.findings)),
        manifest.outputs.activation_map: map_shape,
        manifest.outputs.embedding: (batch, None),
    }
    for output, shape in wanted.items():
        given = outputs.get(output)
        if given is None:
            raise ReceiptError(f"{name} gives no output {output!r} of {package} (it gives {', '.join(outputs)})")
        fits = given.ndim == len(shape) and all(
            want in (None, have) for want, have in zip(shape, given.shape, strict=True)
        )
        if not fits:
            raise ReceiptError(f"{name} gives {output!r} of {package} the shape {given.shape}, not {shape}")
        if not np.isfinite(given).all():
            raise ReceiptError(f"{name} gives values in {output!r} of {package} that are no numbers")


def calibrated(logits: np.ndarray, temperature: float, bias: float = 0.0) -> np.ndarray:
    """Calibrated probabilities: the logistic function of ``logits / temperature + bias`` (Platt, 1999)."""
    # The hyperbolic tangent is the same curve and can't overflow.
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * (logits.astype(np.float64) / temperature + bias)))


def _cpu_info(key: str) -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    except OSError:  # not Linux, or no /proc
        return ""
    return ""


def versions(module: BackendModule, device: str) -> dict[str, str]:
    """The versions of what computes, the driver's among them."""
    return {**module.versions(device), "python": platform.python_version(), "numpy": np.__version__}


def processor() -> tuple[str, tuple[str, ...]]:
    """Its name, and which of the instructions it has that int8 is computed with."""
    present = set((_cpu_info("flags") or _cpu_info("Features")).split())
    name = _cpu_info("model name") or platform.processor() or platform.machine()
    return name, tuple(flag for flag in _TELLING_FLAGS if flag in present)
