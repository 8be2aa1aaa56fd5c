"""What it takes to read images: receipts that are valid, networks that are compiled, processes that live.

The worker asks for the pipeline before each image; here it is kept, replaced, and told of on the page.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import msgspec

from appliance import backends, in_service, installed, proof, receipts, signature, writer
from appliance.config import Config
from appliance.engine_cache import EngineCache
from appliance.errors import ApplianceError, BackendError, ConfigError, PackageError, SpoolError
from appliance.in_service import Engine, Tried, Unserved
from appliance.inference import InferenceProcess
from appliance.package import Package
from appliance.package_store import Choice, PackageStore
from appliance.pipeline import Pipeline
from appliance.preparation import Preparation
from appliance.proof import Trial
from appliance.serving import Server
from appliance.store import Store

log = logging.getLogger("scanside.readiness")

_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 5.0, 60.0  # where nothing can be read
# A package that can't be served is tried again after so long, and so many times as long as its try took: the others
# don't read meanwhile.
_AGAIN_SECONDS, _AGAIN_TIMES = 60.0, 100.0
_HEARTBEAT_SECONDS = 5.0


class Readiness:
    """Keeps a pipeline on the backends that have proved themselves.

    Attributes
    ----------
    pipeline
        None while nothing can be read; the page says why.
    """

    def __init__(self, config: Config, store: Store) -> None:
        self.pipeline: Pipeline | None = None
        self._config = config
        self._store = store
        self._key, _ = signature.load_or_create_private_key(config.key_path)
        self._packages = PackageStore(config.ledger_path)
        self._as_chosen = 0  # the latest choice of packages that the pipeline goes by
        self._tried: list[Tried] = []
        self._proved_at: datetime | None = None
        self._reason = ""
        self._retry_at = 0.0
        self._retry_seconds = _FIRST_RETRY_SECONDS
        self._changed = False  # what is in service, since the images that wait were told
        self._not_before: dict[str, float] = {}  # package (SHA-256) -> when it may be tried again, once it failed
        self._preparations: dict[tuple[str, str], Preparation] = {}  # by package and backend
        self._not_compiled: dict[tuple[str, str], str] = {}  # why
        self._stops: Counter[str] = Counter(store.components().get("inference", {}).get("stops", {}))
        self._last_stop = ""
        self._said: dict[str, dict[str, Any]] = {}
        self._said_at: dict[str, float] = {}

    def look_after(self) -> Pipeline | None:
        """The pipeline, after whatever is due: proving the backends anew, starting a process that ended.

        Quick where nothing is due. None where nothing can be read for now.
        """
        due = self._due()
        if due is None and self.pipeline is not None:
            due = self._keep_alive(self.pipeline)
        if due is None and self.pipeline is not None:
            if self._packages.latest_choice() != self._as_chosen:
                self._exchange(self.pipeline)
            else:
                compiling = {sha256 for sha256, _ in self._preparations}
                for out in self.pipeline.unserved:
                    if self._is_due(out.package) and out.package.sha256 not in compiling:
                        self._try_again(self.pipeline, out)
                        break  # an image may be read before the next one
        if due is not None:
            why, since = due
            log.info("the backends prove themselves: %s", why)
            self._prove(since)
        if self._changed:
            self._store.let_go()
            self._changed = False
        self.say()
        return self.pipeline

    def _keep_alive(self, serving: Pipeline) -> tuple[str, datetime] | None:
        """See that each package is served; one that can't be any more keeps back its own images only.

        As of `_due`, where none is left.
        """
        for engine in serving.engines:
            try:
                engine.server.keep_alive()
                for name in engine.server.unprepared:
                    self._compile(engine.package, name)
            except BackendError as error:
                if len(serving.engines) == 1:
                    return str(error), _now()
                log.error("%s can't be served any more: %s", engine.package, error)
                self._not_before.setdefault(engine.package.sha256, 0.0)  # at once, unless it was so lately
                out = Unserved(engine.package, error, engine.trials)
                self._go_on(serving, [out if each is engine else each for each in serving.places])
        return None

    def _due(self) -> tuple[str, datetime] | None:
        """Why the backends are to prove themselves now, and since when a receipt counts; None where nothing is due."""
        night = proof.last_night(_now(), self._config.inference.receipts_at)
        if self._proved_at is None:
            return "the appliance starts", night
        if self._config.receipt_request_path.exists():
            self._config.receipt_request_path.unlink(missing_ok=True)
            self._not_compiled.clear()
            self._not_before.clear()
            return "somebody asks for it", _now()
        if self._proved_at < night:
            self._not_compiled.clear()
            self._not_before.clear()
            return "a night has passed", night
        for key, preparation in tuple(self._preparations.items()):
            if preparation.wait(0):
                del self._preparations[key]
                # Once is enough until the next night, or one that can't be kept would be compiled for ever.
                self._not_compiled[key] = preparation.step.failed or "what was compiled has gone again"
                if preparation.step.failed:
                    log.error("the network of %s can't be compiled: %s", preparation.backend, preparation.step.failed)
                    continue
                if self.pipeline is not None and key[0] in (each.package.sha256 for each in self.pipeline.unserved):
                    self._not_before[key[0]] = 0.0
                    continue
                return f"the network of {preparation.backend} has been compiled", night
        if self.pipeline is None and time.monotonic() >= self._retry_at:
            return "none could be used so far", _now()
        if self.pipeline is None and self._packages.latest_choice() != self._as_chosen:
            return "other packages are to read", night
        return None

    def _prove(self, since: datetime) -> None:
        """Try every backend that has no valid receipt, and put the best of each package in service.

        What can't be served, and is not to be tried again yet, is left out of service.
        """
        engines, unserved = (self.pipeline.engines, self.pipeline.unserved) if self.pipeline is not None else ((), ())
        serving = {engine.package.sha256: engine.server.backend for engine in engines}
        left = {each.package.sha256: each for each in unserved if not self._is_due(each.package)}
        self._close_pipeline()  # it would disturb the measuring
        self._reason = ""
        self._say_worker("starting")
        self._proved_at, self._tried = _now(), []
        self._as_chosen = self._packages.latest_choice()
        try:
            tried: list[Tried | Unserved] = []
            seconds: dict[str, float] = {}
            for opened, problem in installed.with_damaged(self._config):
                begin, out = time.monotonic(), left.get(opened.sha256)
                if problem is not None:
                    out = Unserved(opened, problem)
                self._tried.append((opened, out.trials if out is not None else self._try(opened, since)))
                tried.append(out or self._tried[-1])
                seconds[opened.sha256] = time.monotonic() - begin
            device_uid = writer.derived_uid(signature.key_id(self._key.public_key()))
            self.pipeline = Pipeline.open(self._config, tried, device_uid, serving)
            EngineCache(self._config.engines_path).prune()
        except (PackageError, BackendError, ConfigError) as error:
            if self._fall_back():
                self._prove(since)
                return
            log.error("no results until this is mended: %s", error)
            self._reason = str(error)
            self._not_before.clear()  # there is nobody to take the reading from
            self._retry_at = time.monotonic() + self._retry_seconds
            self._retry_seconds = min(2 * self._retry_seconds, _LONGEST_RETRY_SECONDS)
        else:
            self._retry_seconds, self._changed = _FIRST_RETRY_SECONDS, True
            for engine in self.pipeline.engines:
                self._not_before.pop(engine.package.sha256, None)
            for out in self.pipeline.unserved:
                if out.package.sha256 not in left:
                    self._postpone(out, seconds[out.package.sha256])

    def _postpone(self, out: Unserved, seconds: float) -> None:
        """Have another package read instead, where one may, or try it again when that takes little of the reading.

        Parameters
        ----------
        seconds
            What trying it took.
        """
        begin = time.monotonic()
        self._fall_back((out.package.sha256,))  # and `_exchange` puts in service what was chosen
        seconds += time.monotonic() - begin
        pause = max(_AGAIN_SECONDS, _AGAIN_TIMES * seconds)
        self._not_before[out.package.sha256] = time.monotonic() + pause
        log.error("what %s reads waits; it is tried again in %.0f s", out.package, pause)

    def _is_due(self, opened: Package) -> bool:
        """Whether a package that can't be served may be tried again."""
        return time.monotonic() >= self._not_before.get(opened.sha256, 0.0)

    def _try_again(self, serving: Pipeline, waiting: Unserved) -> None:
        """Put in service what could not be served, between two images, once it can; the others go on."""
        begin = time.monotonic()
        log.info("%s is tried again", waiting.package)
        found = self._place(waiting)
        opened = found.package
        self._go_on(serving, [found if each is waiting else each for each in serving.places])
        if isinstance(found, Unserved):
            self._postpone(found, time.monotonic() - begin)
        else:
            self._changed = True
            # Should it fail again, it is not proved anew at once for ever.
            self._not_before[opened.sha256] = time.monotonic() + _AGAIN_TIMES * (time.monotonic() - begin)

    def _place(self, waiting: Unserved) -> Engine | Unserved:
        """What is in force of a model whose package can't be served, opened and proved anew."""
        model = waiting.package.manifest.id
        try:
            found = {opened.manifest.id: (opened, why) for opened, why in installed.with_damaged(self._config)}
        except PackageError as error:
            log.error("%s can't be tried: %s", waiting.package, error)
            return waiting
        opened, problem = found.get(model, (waiting.package, waiting.error))
        if problem is not None:
            return Unserved(opened, problem)
        return in_service.place(self._config, opened, self._try(opened, _now()))

    def _go_on(self, serving: Pipeline, places: Sequence[Engine | Unserved]) -> None:
        """With these, between two images."""
        for each in serving.engines:
            if each not in places:
                self._stops += Counter(each.server.stops)
        serving.exchange(places)
        self._tried = [(each.package, each.trials) for each in places]

    def _fall_back(self, packages: Sequence[str] | None = None) -> bool:
        """Of each model whose package in force can't be served, have what read before read again; whether any was.

        Where nothing else of a model can be served either, its package stays in force, and images wait for it.

        Parameters
        ----------
        packages
            Only those (SHA-256); None for all.
        """
        changed = False
        for choice in installed.in_force(self._config).values():
            if not choice["sha256"] or (packages is not None and choice["sha256"] not in packages):
                continue
            try:
                self._serve(installed.chosen_one(self._config, choice)).server.close()
            except SpoolError:
                raise  # the ledger's trouble, not the package's
            except ApplianceError as error:
                waits = any(sha256 == choice["sha256"] for sha256, _ in self._preparations)
                if not waits and (instead := self._instead_of(choice)) is not None:
                    self._take_back(choice, instead, error)
                    changed = True
        return changed

    def _instead_of(self, choice: dict[str, Any]) -> Package | None:
        """The first that can be served of what may read where a package in force can't."""
        for opened in installed.instead_of(self._config, choice):
            try:
                self._serve(opened).server.close()
            except SpoolError:
                raise
            except ApplianceError as error:
                log.error("%s can't read instead of %s: %s", opened, choice["version"], error)
            else:
                return opened
        return None

    def _exchange(self, serving: Pipeline) -> None:
        """Put in service what was chosen meanwhile, between two images; the others go on.

        The former package reads until the new one's process answers. One that can't be served is taken back, by a
        choice that says so: what the ledger names is always what reads. What merely can't be served yet stays in force.
        """
        latest, places = self._packages.latest_choice(), list(serving.places)
        opened: list[Engine] = []
        try:
            for model, choice in installed.in_force(self._config).items():
                former = next((each for each in places if each.package.manifest.id == model), None)
                if choice["sha256"] == (former.package.sha256 if former is not None else ""):
                    continue
                try:
                    new = [self._serve(installed.chosen_one(self._config, choice))] if choice["sha256"] else []
                except SpoolError:
                    raise  # the ledger's trouble, not the package's
                except ApplianceError as error:
                    latest = self._take_back(choice, former.package if former is not None else None, error)
                    continue
                opened += new
                place = places.index(former) if former is not None else len(places)
                places[place : place + (former is not None)] = new
                log.info("%s is read by %s from here on", model, f"version {choice['version']}" if new else "nothing")
        except BaseException:
            for each in opened:
                each.server.close()
            raise
        self._go_on(serving, places)
        self._as_chosen, self._changed = latest, True

    def _take_back(self, choice: dict[str, Any], instead: Package | None, error: ApplianceError) -> int:
        """Choose what reads instead of what can't; the choice's number, -1 where another one was made meanwhile."""
        log.error("%s %s can't read, and what read before does: %s", choice["model"], choice["version"], error)
        sha256, version = ("", "") if instead is None else (instead.sha256, instead.manifest.version)
        why = f"{choice['version']} can't be served: {error}"
        back = Choice(choice["model"], version, sha256, choice["sha256"], "fallback", "", why)
        try:
            return self._packages.choose(back)
        except PackageError:
            return -1

    def _serve(self, opened: Package) -> Engine:
        since = proof.last_night(_now(), self._config.inference.receipts_at)
        return in_service.serve(self._config, opened, self._try(opened, since))

    def _try(self, opened: Package, since: datetime) -> tuple[Trial, ...]:
        """Its backends without a valid receipt; what has to be compiled first is begun."""
        known = receipts.known(self._store, self._key)
        _, trials = in_service.try_one(self._config, opened, known, since)
        receipts.keep(self._store, self._key, trials, known)
        for trial in trials:
            if trial.unprepared:
                self._compile(opened, trial.backend)
        return trials

    def _compile(self, opened: Package, name: str) -> None:
        """In the background, once until the next night or until somebody asks for receipts."""
        key = opened.sha256, name
        if key not in self._preparations and key not in self._not_compiled:
            options = replace(proof.options(self._config), device=backends.device(name))
            self._preparations[key] = Preparation(opened, name, options)

    def processes(self) -> list[InferenceProcess]:
        """To wait on with select(2): one that becomes readable has ended."""
        engines = self.pipeline.engines if self.pipeline is not None else ()
        return [process for engine in engines if (process := engine.server.process) is not None]

    def close(self) -> None:
        self._close_pipeline()
        for preparation in self._preparations.values():
            preparation.stop()

    def _close_pipeline(self) -> None:
        if self.pipeline is not None:
            self._stops = self._all_stops()
            self.pipeline.close()
            self.pipeline = None

    # --- what the page is told --------------------------------------------------------------------------------

    def say(self) -> None:
        """Write how the worker and its inference are, when it changes and from time to time."""
        servers = [engine.server for engine in self.pipeline.engines] if self.pipeline is not None else []
        if servers:
            first, *beside = map(_in_words, servers)
            unserved = self.pipeline.unserved if self.pipeline is not None else ()
            told = [{"package": str(out.package), "model": out.package.manifest.id, "reason": str(out.error)}
                    for out in unserved]  # fmt: skip
            self._say_worker("ready", **first, beside=beside, unserved=told)
        else:
            self._say_worker("waiting")
        self._last_stop = next((each.last_stop for each in servers if each.last_stop), self._last_stop)
        serves = [
            {
                "package": str(each.package),
                "sha256": each.package.sha256,
                "backend": each.backend,
                "pid": each.process.pid if each.process is not None else None,
                "batch": each.batch,
            }
            for each in servers
        ]
        self._say_if_new(
            "inference",
            {
                "state": "ready" if servers else "waiting",
                "serves": serves,
                "stops": dict(self._all_stops()),
                "last_stop": self._last_stop,
            },
            {
                "latency_p50": [each.latency_p50 for each in servers],
                "reused": self.pipeline.reused if self.pipeline is not None else 0,
            },
        )

    def _say_worker(self, state: str, **content: Any) -> None:
        proved_at = self._proved_at.timestamp() if self._proved_at else None
        said = {"state": state, "reason": self._reason, "pid": os.getpid(), "proved_at": proved_at, **content}
        self._say_if_new("worker", {**said, "trials": list(self._trials_in_words())})

    def _trials_in_words(self) -> Iterator[dict[str, Any]]:
        engines = self.pipeline.engines if self.pipeline is not None else ()
        dropped = {engine.package.sha256: engine.server.dropped for engine in engines}
        serving = {(engine.package.sha256, engine.server.backend) for engine in engines}
        out = {each.package.sha256: each.error.message for each in (self.pipeline.unserved if self.pipeline else ())}
        for opened, trials in self._tried:
            for trial in trials:
                key = opened.sha256, trial.backend
                reason = dropped.get(opened.sha256, {}).get(trial.backend) or trial.reason
                if trial.unprepared or not trial.receipt:
                    reason = self._not_compiled.get(key) or reason
                reason = reason or out.get(opened.sha256, "")
                progress = None
                if key in self._preparations:
                    step = self._preparations[key].step
                    progress = round(step.share, 2)
                    reason = f"its network is being compiled on this device: {step.share:.0%}, {step.what}"
                yield {
                    "package": str(opened),
                    "backend": trial.backend,
                    "target": trial.target,
                    "reason": reason,
                    "seconds": trial.receipt.latency_p50 if trial.receipt and not reason else None,
                    "progress": progress,
                    "receipt": trial.receipt and trial.receipt.identifier,
                    "min_dice": (trial.receipt and trial.receipt.min_dice) or None,
                    "serves": key in serving,
                }

    def _all_stops(self) -> Counter[str]:
        current = self.pipeline.engines if self.pipeline is not None else ()
        return sum((Counter(engine.server.stops) for engine in current), self._stops)

    def _say_if_new(self, part: str, content: dict[str, Any], figures: dict[str, Any] | None = None) -> None:
        """Figures alone are not worth a commit for every image: they are told with the next heartbeat."""
        now = time.monotonic()
        if content != self._said.get(part) or now - self._said_at[part] > _HEARTBEAT_SECONDS:
            self._store.set_component(part, {**content, **(figures or {})})
            self._said[part], self._said_at[part] = content, now


def _in_words(server: Server) -> dict[str, Any]:
    """What serves, and why it may."""
    manifest, receipt = server.package.manifest, server.receipt
    return {
        "package": {
            "id": manifest.id,
            "version": manifest.version,
            "title": manifest.title,
            "sha256": server.package.sha256,
            "signed_by": server.package.signed_by,
        },
        "backend": receipt.backend,
        "device": receipt.device,
        "receipt": {"id": receipt.identifier, **msgspec.to_builtins(receipt)},
    }


def _now() -> datetime:
    """To the second, as receipts are dated."""
    return datetime.now().astimezone().replace(microsecond=0)
