"""Another package reads from now on, or the former one again: proved first, chosen at one stroke, never unnoticed.

A package is put in force by one row of the ledger. Before that it has its receipts on this device, and the cases that
must not regress have been replayed on it. The worker looks at the ledger between two images and goes on with what is
in force; until its process answers, the former package reads.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from appliance import installed, proof, receipts, regression, signature
from appliance.backend import Progress
from appliance.config import Config
from appliance.errors import ApplianceError, PackageError
from appliance.health import is_running
from appliance.package import Package
from appliance.package_store import Choice, Kind, PackageStore
from appliance.proof import Trial
from appliance.regression import Replayed
from appliance.store import Store
from appliance.way_back import refuse_fixed, way_back

log = logging.getLogger("scanside.switching")

_POLL_SECONDS = 0.1
_LONGEST_SECONDS = 120.0


@dataclass(frozen=True)
class Ready:
    """A package that may be put in force: it has its receipts, and what must not regress has been replayed on it."""

    opened: Package
    former: Package | None
    trials: tuple[Trial, ...]
    choice: Choice
    cases: Replayed


@dataclass(frozen=True)
class Switched:
    """What was put in force.

    ``served``: whether an appliance runs that reads with it already, after ``seconds``.
    """

    choice: Choice
    cases: Replayed
    served: bool
    seconds: float


def switch(
    config: Config,
    opened: Package,
    by: str,
    why: str,
    progress: Progress,
    override: str = "",
) -> Switched:
    """Have a package read the images of its model, once it has proved itself; errors as of `prepare`.

    Raises
    ------
    ApplianceError
        The appliance went back to the former one.
    """
    return put_in_force(config, prepare(config, opened, by, why, progress, override))


def prepare(
    config: Config,
    opened: Package,
    by: str,
    why: str,
    progress: Progress,
    override: str = "",
    kind: Kind = "switch",
) -> Ready:
    """All that comes before a package is put in force; the one that reads goes on.

    Parameters
    ----------
    by, why
        Who says so, and the reason; both are kept.
    override
        Why it shall read although a case regresses that must not; '' where it shall not.

    Raises
    ------
    PackageError
        It reads already, or does another task than the one that does.
    BackendError
        No backend has a receipt for it.
    ApplianceError
        A case regressed.
    """
    refuse_fixed(config)
    store = PackageStore(config.ledger_path)
    model = opened.manifest.id
    chosen = store.in_force().get(model)
    try:
        former = reading(config, model)
    except PackageError as error:  # what can't be read any more is to be replaced all the same
        log.warning("what reads now can't be opened: %s", error)
        former = None
    former_sha256 = chosen["sha256"] if chosen is not None else former.sha256 if former is not None else ""
    fell_back = chosen is not None and chosen["kind"] == "fallback"
    if former is not None and former.sha256 == opened.sha256 and not fell_back:  # that, a person may confirm
        raise PackageError(f"{opened} is in force already")
    if former is not None and former.manifest.task != opened.manifest.task:
        raise PackageError(
            f"{opened} does {opened.manifest.task}, and {former} does {former.manifest.task}",
            hint="a model of another task needs an id of its own",
        )
    opened = installed.keep(config, store, opened, by)
    tried = opened, trials = proved(config, opened, progress)
    cases = regression.replay(config, tried, store.cases(model))
    if cases.lost and not override:
        lost = "; ".join(f"image {each.instance_id}: {each.how}" for each in cases.lost)
        raise ApplianceError(
            f"{opened} is not put in force, since it loses cases that must not regress: {lost}",
            hint="look at them; to switch all the same, give the reason with --override",
        )
    if former is not None:
        installed.keep(config, store, former, by)  # so that there is a way back, whatever an update brings
    choice = Choice(
        model,
        opened.manifest.version,
        opened.sha256,
        former_sha256,
        kind,
        by,
        why,
        msgspec.to_builtins(cases),
        override if cases.lost else "",
    )
    return Ready(opened, former, trials, choice, cases)


def rollback(config: Config, model: str, by: str, why: str, progress: Progress) -> Switched:
    """Have the package read again that read before the latest switch; one step, without replaying cases.

    Raises
    ------
    ConfigError, PackageError
        There is no way back; see `way_back`.
    BackendError
        No backend has a receipt for the former package.
    """
    latest, former = way_back(config, model)
    if former is not None:
        proved(config, former, progress)
    version = former.manifest.version if former is not None else ""
    choice = Choice(model, version, latest["former"], latest["sha256"], "rollback", by, why)
    return _chosen(config, choice, Replayed(0))


def reading(config: Config, model: str) -> Package | None:
    """The package of a model that is in force, None where there is none; raises `PackageError` where one is damaged."""
    for opened, problem in installed.with_damaged(config):
        if opened.manifest.id == model:
            if problem is not None:
                raise problem
            return opened
    return None


def proved(config: Config, opened: Package, progress: Progress) -> tuple[Package, tuple[Trial, ...]]:
    """With its receipts of since last night, or new ones; raises `BackendError` where no backend has any."""
    key, _ = signature.load_or_create_private_key(config.key_path)
    known = receipts.known(Store(config.ledger_path), key)
    since = proof.last_night(datetime.now().astimezone(), config.inference.receipts_at)
    trials = receipts.prove_now(config, opened, config.inference.backend, progress, known, since)
    proof.ranked(trials)
    return opened, tuple(trials)


def put_in_force(config: Config, ready: Ready) -> Switched:
    """By one row of the ledger; where an appliance runs, wait until it reads with it.

    Raises
    ------
    PackageError
        Somebody else has chosen meanwhile.
    ApplianceError
        The appliance can't serve it, and went back to the former one.
    """
    return _chosen(config, ready.choice, ready.cases)


def _chosen(config: Config, choice: Choice, cases: Replayed) -> Switched:
    store = PackageStore(config.ledger_path)
    begin, number = time.monotonic(), store.choose(choice)
    while is_running(config) and time.monotonic() - begin < _LONGEST_SECONDS:
        latest = store.in_force()[choice.model]
        if latest["id"] != number and latest["kind"] == "fallback":
            raise ApplianceError(f"the appliance goes on with what read before. {latest['why']}")
        if _serves(Store(config.ledger_path, read_only=True).components(), choice):
            return Switched(choice, cases, True, time.monotonic() - begin)
        time.sleep(_POLL_SECONDS)
    return Switched(choice, cases, False, time.monotonic() - begin)


def _serves(components: dict[str, Any], choice: Choice) -> bool:
    serving = [each["sha256"] for each in components.get("inference", {}).get("serves", ()) if "sha256" in each]
    return choice.sha256 in serving if choice.sha256 else choice.former not in serving
