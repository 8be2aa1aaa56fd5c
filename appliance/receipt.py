"""The receipt: proof that a backend, on this very device, gives the answers that the package promises.

int8 arithmetic differs between CPUs and runtimes, so before a backend serves it replays the package's golden
vectors, preprocessing included. Without a valid receipt there are no results.
"""

from __future__ import annotations

import hashlib
import platform
import time
from datetime import datetime
from pathlib import Path

import msgspec
import numpy as np

from appliance.backend import Backend, BackendModule
from appliance.errors import ReceiptError
from appliance.package import Package
from appliance.preprocess import preprocess

# Flags that decide how int8 is computed on x86 and ARM.
_TELLING_FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8", "asimd", "asimddp", "i8mm", "sve")


class Receipt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was replayed, on what, and how far it was off.

    ``max_abs_dp`` is the largest difference of a calibrated probability, ``flips`` the number of decisions at the
    default operating point that differ, ``max_abs_dmap`` the largest difference of an activation map as a share
    of its scale; latencies in seconds for one image on ``threads`` threads, without preprocessing.
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


def prove(package: Package, module: BackendModule, backend: Backend, threads: int) -> Receipt:
    """Replay the golden vectors of a package on a backend that was opened with ``threads``.

    Raises
    ------
    ReceiptError
        A probability differs by more than the package's tolerance, or a decision flips, or an output is missing, has
        another shape, or is no number.
    """
    manifest, target = package.manifest, package.target(module.TARGET)
    golden = package.golden()
    cpu, cpu_flags = processor()
    expected_logits = golden[f"{module.TARGET}/logits"]
    expected_maps = golden[f"{module.TARGET}/activation_map"]
    threshold = target.operating_point().threshold
    seconds, max_dp, flips, max_dmap = [], 0.0, 0, 0.0
    for image, logits, activation in zip(golden["images"], expected_logits, expected_maps, strict=True):
        tensor = preprocess(image, manifest.input.steps)
        start = time.perf_counter()
        outputs = backend.run({manifest.input.name: tensor})
        seconds.append(time.perf_counter() - start)
        _check_outputs(package, outputs, activation.shape, backend.name)
        got = calibrated(outputs[manifest.outputs.logits][0], target.temperature, target.bias)
        wanted = calibrated(logits, target.temperature, target.bias)
        max_dp = max(max_dp, float(np.abs(got - wanted).max()))
        flips += int(((got >= threshold) != (wanted >= threshold)).sum())
        difference = np.abs(outputs[manifest.outputs.activation_map][0] - activation).max()
        max_dmap = max(max_dmap, float(difference) / target.activation_map_scale)
    receipt = Receipt(
        package=manifest.id,
        version=manifest.version,
        package_sha256=package.sha256,
        artifact_sha256=package.artifact_sha256(module.TARGET),
        target=module.TARGET,
        backend=backend.name,
        device=backend.device,
        cpu=cpu,
        cpu_flags=cpu_flags,
        versions=versions(module),
        count=len(seconds),
        max_abs_dp=max_dp,
        flips=flips,
        max_abs_dmap=max_dmap,
        latency_p50=float(np.percentile(seconds, 50)),
        latency_p95=float(np.percentile(seconds, 95)),
        made_at=datetime.now().astimezone().isoformat(timespec="seconds"),
        threads=threads,
    )
    tolerance = manifest.golden.probability_tolerance
    # `not <=` also catches NaN.
    if flips or not max_dp <= tolerance:
        raise ReceiptError(
            f"{backend.name} on {backend.device} does not reproduce {package}: largest difference of a probability "
            f"{max_dp:.4f} (allowed {tolerance:.4f}), {flips} of {receipt.count} decisions differ",
            hint="use another backend, or a package that was built for this device",
        )
    return receipt


def _check_outputs(package: Package, outputs: dict[str, np.ndarray], map_shape: tuple[int, ...], name: str) -> None:
    manifest = package.manifest
    findings = len(manifest.findings)
    wanted = {
        manifest.outputs.logits: (1, findings),
        manifest.outputs.activation_map: (1, *map_shape),
        manifest.outputs.embedding: (1, None),
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


def versions(module: BackendModule) -> dict[str, str]:
    """The versions of what computes."""
    return {**module.versions(), "python": platform.python_version(), "numpy": np.__version__}


def processor() -> tuple[str, tuple[str, ...]]:
    """Its name, and which of the instructions it has that int8 is computed with."""
    present = set((_cpu_info("flags") or _cpu_info("Features")).split())
    name = _cpu_info("model name") or platform.processor() or platform.machine()
    return name, tuple(flag for flag in _TELLING_FLAGS if flag in present)
