"""Packages in service: proved, opened on the best of their backends, or the reason why one is not."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from appliance import installed, interpret, proof
from appliance.config import Config
from appliance.errors import BackendError, PackageError, UnservedError
from appliance.interpret import Source
from appliance.package import Package
from appliance.proof import Trial
from appliance.receipt import Receipt
from appliance.result import Prediction
from appliance.serving import Answer, Server

log = logging.getLogger("scanside.in_service")

Tried = tuple[Package, tuple[Trial, ...]]


@dataclass(frozen=True)
class Engine:
    """A package in service."""

    server: Server
    operating_point: str | None
    trials: tuple[Trial, ...]

    @property
    def package(self) -> Package:
        return self.server.package

    def predict(self, answer: Answer, source: Source) -> Prediction:
        """What an answer means."""
        if self.package.segments:
            return interpret.segments(self.package, answer.outputs, source)
        target, shape = answer.receipt.target, source.pixels.shape
        return interpret.findings(self.package, target, answer.outputs, self.operating_point, shape)


@dataclass(frozen=True)
class Unserved:
    """A package in force that can't be served, and why: what it reads waits."""

    package: Package
    error: BackendError | PackageError
    trials: tuple[Trial, ...] = ()

    def refuse(self) -> UnservedError:
        """What becomes of an image that it reads."""
        return UnservedError(f"{self.package} can't be served: {self.error.message}", self.error.hint)


def try_out(config: Config) -> list[Tried | Unserved]:
    """Each package in force, with what became of the backends that it may be served on; one that is damaged is out of
    service. Raises `PackageError`, `BackendError`.
    """
    return [
        try_one(config, opened) if problem is None else Unserved(opened, problem)
        for opened, problem in installed.with_damaged(config)
    ]


def try_one(config: Config, opened: Package, known: Sequence[Receipt] = (), since: datetime | None = None) -> Tried:
    """What became of the backends that one package may be served on."""
    return opened, tuple(proof.trials(config.inference.backend, opened, proof.options(config), known, since))


def serve(config: Config, opened: Package, trials: tuple[Trial, ...], serving: str | None = None) -> Engine:
    """Put a package in service on the best of its backends.

    Parameters
    ----------
    serving
        The backend that has served it so far.

    Raises
    ------
    PackageError, BackendError
        It can't be served; no process of it is left then.
    """
    receipts = proof.ranked(trials, serving)
    for receipt in receipts if not opened.segments else ():
        opened.target(receipt.target).operating_point(config.models.operating_point)
    server = Server(opened, receipts, proof.options(config), config.inference.deadline_seconds)
    try:
        server.keep_alive()
        proof.warn_of_other_runtime(opened, server.receipt)
    except BaseException:
        server.close()
        raise
    return Engine(server, config.models.operating_point, trials)


def place(config: Config, opened: Package, trials: tuple[Trial, ...], serving: str | None = None) -> Engine | Unserved:
    """A package's place in the pipeline, parameters as of `serve`."""
    try:
        return serve(config, opened, trials, serving)
    except (BackendError, PackageError) as error:
        log.error("%s can't be served: %s", opened, error)
        return Unserved(opened, error, trials)
