"""Which backends may serve: each proves itself in a process of its own, and the fastest with a valid receipt is first.

Of its own, because a broken driver or a missing instruction ends a process in ways that no exception handler sees; so
it becomes a reason, not a crash.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, time, timedelta
from typing import Any

import msgspec

from appliance import backends, inference, receipt
from appliance.backend import Options, cores
from appliance.config import Config
from appliance.errors import BackendError, ConfigError
from appliance.inference import InferenceProcess, Started
from appliance.package import Package
from appliance.processor import processor
from appliance.receipt import Receipt

_CLEARLY = 1.3  # times slower than the fastest: less is noise
log = logging.getLogger("scanside.proof")

_SLOWER = 4.0  # times slower than one that has proved itself: more is not worth waiting for
_PATIENCE_SECONDS = 15.0  # images wait meanwhile, and are to be read within 30 s
_MOST_THREADS = 8  # more gain nothing on images of this size


@dataclass(frozen=True)
class Trial:
    """One backend on one package: its receipt, or the reason why it can't serve.

    ``unprepared``: its network must be compiled on this device first, which takes minutes.
    """

    backend: str
    target: str
    receipt: Receipt | None
    reason: str
    unprepared: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As JSON would have it, the receipt with its id."""
        receipt = self.receipt and {"id": self.receipt.identifier, **msgspec.to_builtins(self.receipt)}
        return {"backend": self.backend, "target": self.target, "reason": self.reason, "receipt": receipt}


def check_backend(config: Config) -> None:
    """Whether there is one of the configured name; raises `BackendError`."""
    if config.inference.backend != "auto":
        backends.module(config.inference.backend)


def options(config: Config) -> Options:
    """How networks are opened here, but for the device.

    Raises
    ------
    BackendError, ConfigError
        There is no backend of the configured name, or there are fewer cores than threads.
    """
    check_backend(config)
    present, wanted = cores(), config.inference.threads
    if wanted > present:
        raise ConfigError(
            f"inference.threads = {wanted}, but the appliance may use {present} cores only",
            hint="threads that share a core make each other wait: set it to 0, which takes what fits",
        )
    threads = wanted or max(min(present - 1, _MOST_THREADS), 1)
    return Options(threads=threads, lanes=present // threads, cache=config.engines_path)


def trials(
    name: str,
    opened: Package,
    options: Options,
    known: Sequence[Receipt] = (),
    since: datetime | None = None,
    deadline: float = inference.START_SECONDS,
) -> Iterator[Trial]:
    """Try the backend of that name, or with ``auto`` all of them.

    Parameters
    ----------
    known
        Receipts of earlier; one of this very package, backend, version, driver and processor counts as it is.
    since
        Older receipts don't count.
    deadline
        Seconds after which a backend that has not answered is given up; fewer where images could be read without it.
    """
    proved: Receipt | None = None
    for each in backends.names() if name == "auto" else (name,):
        target = backends.module(each).TARGET
        reason = unusable(each, opened)
        if reason is not None:
            yield Trial(each, target, None, reason)
            continue
        mine = replace(options, device=backends.device(each), batch=1)
        valid = next((old for old in known if is_valid(old, opened, each, mine, since)), None)
        patience = min(deadline, _patience(proved)) if proved else deadline
        answer = Started(receipt=valid) if valid is not None else _prove(each, opened, mine, patience)
        proved = proved or answer.receipt
        yield Trial(each, target, answer.receipt, answer.reason, answer.unprepared)


def _patience(proved: Receipt) -> float:
    """Seconds for another backend; a network that is slow on one that has proved itself gets longer."""
    return max(_PATIENCE_SECONDS, _SLOWER * proved.count * proved.latency_p95)


def _prove(name: str, opened: Package, options: Options, deadline: float) -> Started:
    try:
        process = InferenceProcess(opened, name, options, prove=True)
    except BackendError as error:
        return Started(reason=str(error))
    try:
        return process.wait_until_started(deadline)
    finally:
        process.close()


def unusable(name: str, opened: Package) -> str | None:
    """Why a backend can't even be tried on a package here, or None if it can."""
    reason, target = backends.missing(name), backends.module(name).TARGET
    if reason is None and target not in opened.manifest.targets:
        return f"{opened} has no artifact for target {target}"
    return reason


def is_valid(proof: Receipt, opened: Package, name: str, options: Options, since: datetime | None = None) -> bool:
    """Whether a receipt still stands for this package, backend, driver and processor, and is recent."""
    module, made_at = backends.module(name), datetime.fromisoformat(proof.made_at)
    return (
        (proof.package_sha256, proof.backend, proof.threads) == (opened.sha256, name, options.threads)
        and proof.artifact_sha256 == opened.artifact_sha256(module.TARGET)
        and proof.versions == receipt.versions(module, options.device)
        and (proof.cpu, proof.cpu_flags) == processor()
        and (since is None or since <= made_at)
        and made_at <= datetime.now().astimezone() + timedelta(minutes=5)
    )


def last_night(now: datetime, at: str) -> datetime:
    """The latest moment up to ``now`` at which the clock showed ``at`` (HH:MM): older receipts are replaced."""
    today = datetime.combine(now.date(), time.fromisoformat(at), now.tzinfo)
    return today if today <= now else today - timedelta(days=1)


def ranked(tried: Sequence[Trial], serving: str | None = None) -> list[Receipt]:
    """The valid receipts, first that of the backend that is to serve, then the others by speed.

    One that is ``serving`` stays unless another is clearly faster: each has thresholds of its own, and noise in a
    nightly replay must not swap them. Raises `BackendError` with each one's reason where there is no valid receipt.
    """
    valid = sorted((trial.receipt for trial in tried if trial.receipt is not None), key=lambda proof: proof.latency_p50)
    if not valid:
        reasons = "; ".join(f"{trial.backend}: {trial.reason}" for trial in tried)
        raise BackendError(f"no inference backend can be used: {reasons}", hint="run `scanside doctor`")
    stays = [each for each in valid if each.backend == serving and each.latency_p50 <= _CLEARLY * valid[0].latency_p50]
    return [*stays, *(each for each in valid if each not in stays)]


def warn_of_other_runtime(opened: Package, receipt: Receipt) -> None:
    """The thresholds belong to the runtime that they were chosen on; the golden vectors have held on this one, too."""
    if opened.segments:
        return
    calibrated_with = opened.target(receipt.target).calibrated_with
    module = backends.module(receipt.backend)
    here = ", ".join(f"{name} {version}" for name, version in module.versions(module.DEVICES[0]).items())
    if here not in calibrated_with:
        log.warning("%s was calibrated with %s, this is %s", opened, calibrated_with, here)
