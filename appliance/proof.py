"""Which backend serves: each proves itself in a process of its own, and the fastest with a valid receipt is taken.

Of its own, because a broken driver or a missing instruction ends a process in ways that no exception handler sees; so
it becomes a reason, not a crash. ``python -m appliance.proof`` is such a process.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from appliance import backends, package, process, receipt
from appliance.backend import BackendModule
from appliance.errors import ApplianceError, BackendError
from appliance.package import Package
from appliance.receipt import Receipt

DEADLINE_SECONDS = 120.0
MOST_AGE = timedelta(hours=24)
_LAST_LINES = 3
_CLEARLY = 1.3  # times slower than the fastest: less is noise


class _Answer(msgspec.Struct, frozen=True):
    """What the process says: a receipt, or why there is none."""

    receipt: Receipt | None = None
    reason: str = ""


@dataclass(frozen=True)
class Trial:
    """One backend on one package: its receipt, or the reason why it can't serve."""

    backend: str
    target: str
    receipt: Receipt | None
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON would have it, the receipt with its id."""
        receipt = self.receipt and {"id": self.receipt.identifier, **msgspec.to_builtins(self.receipt)}
        return {"backend": self.backend, "target": self.target, "reason": self.reason, "receipt": receipt}


def trials(
    name: str, opened: Package, threads: int, known: Sequence[Receipt] = (), deadline: float = DEADLINE_SECONDS
) -> Iterator[Trial]:
    """Try the backend of that name, or with ``auto`` all of them.

    Parameters
    ----------
    known
        Receipts of earlier; one that is less than a day old and of this very package, backend, version and processor
        counts as it is.
    deadline
        Seconds after which a backend that has not answered is given up.
    """
    for each in backends.NAMES if name == "auto" else (name,):
        module = backends.module(each)
        reason = unusable(module, opened)
        if reason is not None:
            yield Trial(each, module.TARGET, None, reason)
            continue
        valid = next((old for old in known if is_valid(old, opened, module, threads)), None)
        answer = _Answer(valid) if valid is not None else _prove_apart(each, opened, threads, deadline)
        yield Trial(each, module.TARGET, answer.receipt, answer.reason)


def unusable(module: BackendModule, opened: Package) -> str | None:
    """Why a backend can't even be tried on a package here, or None if it can."""
    reason = module.probe()
    if reason is None and module.TARGET not in opened.manifest.targets:
        return f"{opened} has no artifact for target {module.TARGET}"
    return reason


def is_valid(proof: Receipt, opened: Package, module: BackendModule, threads: int) -> bool:
    """Whether a receipt still stands for this package, backend and processor, and is recent."""
    made_at = datetime.fromisoformat(proof.made_at)
    return (
        (proof.package_sha256, proof.backend, proof.threads) == (opened.sha256, module.NAME, threads)
        and proof.artifact_sha256 == opened.artifact_sha256(module.TARGET)
        and proof.versions == receipt.versions(module)
        and (proof.cpu, proof.cpu_flags) == receipt.processor()
        and timedelta(0) <= datetime.now().astimezone() - made_at < MOST_AGE
    )


def fastest(tried: Sequence[Trial], serving: str | None = None) -> Receipt:
    """The receipt of the backend that is to serve.

    One that is ``serving`` stays unless another is clearly faster: each has thresholds of its own, and noise in a
    nightly replay must not swap them. Raises `BackendError` with each one's reason where there is no valid receipt.
    """
    valid = [trial.receipt for trial in tried if trial.receipt is not None]
    if not valid:
        reasons = "; ".join(f"{trial.backend}: {trial.reason}" for trial in tried)
        raise BackendError(f"no inference backend can be used: {reasons}", hint="run `scanside doctor`")
    best = min(valid, key=lambda proof: proof.latency_p50)
    stays = (each for each in valid if each.backend == serving and each.latency_p50 <= _CLEARLY * best.latency_p50)
    return next(stays, best)


def _prove_apart(name: str, opened: Package, threads: int, deadline: float) -> _Answer:
    """Have another process replay the golden vectors; whatever becomes of it is an answer."""
    command = [
        sys.executable, "-m", "appliance.proof", str(os.getpid()), name, str(opened.path), opened.sha256, str(threads),
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, timeout=deadline, check=False)
    except subprocess.TimeoutExpired:
        return _Answer(reason=f"it gave no answer within {deadline:.0f} s")
    if done.returncode == 0:
        return msgspec.json.decode(done.stdout, type=_Answer)
    said = " ".join(done.stderr.decode(errors="replace").split("\n")[-_LAST_LINES - 1 :]).strip()
    if done.returncode < 0:
        return _Answer(reason=f"its process was ended by {signal.Signals(-done.returncode).name} {said}".strip())
    return _Answer(reason=f"its process ended with exit code {done.returncode}: {said}")


def _main() -> None:
    parent, name, path, sha256, threads = sys.argv[1:]
    process.die_with_parent(int(parent))
    # Runtimes print what they like; the answer keeps standard output to itself.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        opened = package.read(Path(path), None)  # its signature was checked by who asks
        if opened.sha256 != sha256:
            raise BackendError(f"{path} was changed meanwhile")
        module = backends.module(name)
        backend = module.open(opened.artifact(module.TARGET), threads=int(threads))
        answer = _Answer(receipt.prove(opened, module, backend, int(threads)))
    except ApplianceError as error:
        answer = _Answer(reason=str(error))
    with answers:
        answers.write(msgspec.json.encode(answer))


if __name__ == "__main__":
    _main()
