"""The worker: claims what was received, has it read, and brings the result to disk. One process, one pipeline.

It also gathers images of volumes into their series, and starts those that are complete, and makes the documents of what
readers said.

It runs apart from the receiving process, and opens no received file itself: that is for `appliance.sandbox`.
"""

from __future__ import annotations

import hashlib
import logging
import os
import select
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from pydicom import Dataset

from appliance import completeness, image, pipeline, reading_order, schedule, writer
from appliance.assessment_delivery import AssessmentDelivery
from appliance.audit import Trail
from appliance.config import Config
from appliance.drift.store import DriftStore
from appliance.drift.watch import Watch
from appliance.errors import (
    ApplianceError,
    BackendError,
    DiskFullError,
    ImageError,
    InputError,
    NotServedError,
    QuarantineError,
    SandboxError,
    SpoolError,
    UnservedError,
)
from appliance.inference import InferenceProcess
from appliance.pipeline import Pipeline, Prepared, Stopwatch
from appliance.readiness import Readiness
from appliance.result import Prediction
from appliance.safe_mode import SafeMode
from appliance.sandbox import Sandbox
from appliance.spool import Spool, write_durably
from appliance.store import MOST_CRASHES, LeaseLostError, Store, WrittenObject, claimant

log = logging.getLogger("scanside.worker")

_IDLE_SECONDS = 2.0
_RETRY_SECONDS = 5.0
_NOT_WRITTEN_SECONDS = 30.0
_WRITING_SECONDS = 5.0  # of a lease, for the results of an image


def main(config: Config, descriptor: int) -> None:
    """Run until the parent closes its end of the socket or sends SIGTERM."""
    with socket.socket(fileno=descriptor) as parent:
        parent.setblocking(False)
        Worker(config, parent).run()


def _packages(reading: pipeline.Reading) -> tuple[str, ...]:
    """SHA-256 of those that have a part in a reading."""
    drawn_by = reading.prediction.segmented_by
    return tuple(made.package_sha256 for made in (reading.provenance, drawn_by) if made is not None)


class _AskedToStopError(BaseException):
    """Passes every handler of what may fail."""


@dataclass(frozen=True)
class _Begun:
    """An image that is ready for the network; ``until`` (of `time.monotonic`) there must be an answer."""

    claim: dict[str, Any]
    prepared: Prepared
    stopwatch: Stopwatch
    until: float


class Worker:
    """Claims and reads instances one after another.

    Parameters
    ----------
    parent
        The worker sleeps until a byte comes, and sends one back when there is something to deliver.
    """

    def __init__(self, config: Config, parent: socket.socket) -> None:
        self._config = config
        self._parent = parent
        self._store = Store(config.ledger_path)
        self._spool = Spool(config.spool_path)
        self._sandbox = Sandbox(config.sandbox)
        self._readiness = Readiness(config, self._store)
        self._drift = Watch(config, DriftStore(config.ledger_path))
        self._safe_mode = SafeMode(config, Trail(config.audit_path, config.key_path))
        self._assessments = AssessmentDelivery(config)
        self._owner = claimant(os.getpid())
        self._stopping = self._holds_nothing = False
        self._usual_seconds: float | None = None  # of one image that is read by itself, in all, the latest ones most

    def _stop(self, *_: object) -> None:
        self._stopping = True
        if self._holds_nothing:
            raise _AskedToStopError

    def run(self) -> None:
        """Until the parent closes its end of the socket or sends SIGTERM, which this process answers from here on."""
        signal.signal(signal.SIGTERM, self._stop)
        self._sandbox.start()
        try:
            self._work()
        except _AskedToStopError:
            log.info("asked to stop while packages are proved: that begins anew at the next start")
        finally:
            self._readiness.close()
            self._sandbox.close()

    def _work(self) -> None:
        while not self._stopping:
            pause = _IDLE_SECONDS
            try:
                opened = self._look_after()
                pause = self._start_series()
                claim = opened and self._claim()
                if opened is not None and claim:
                    self._process(opened, claim)
                if self._assessments.look():
                    self._tell_parent()
                if claim:
                    continue
            except SpoolError as error:
                self._wait_for_the_ledger(error)
            self._sleep(pause)

    def _look_after(self) -> Pipeline | None:
        """As of `Readiness`, which may take minutes where packages are proved; whoever asks to stop waits for none."""
        self._holds_nothing = True
        try:
            return self._readiness.look_after()
        finally:
            self._holds_nothing = False

    def _start_series(self) -> float:
        """Put those series into the queue that are complete, or have been quiet; seconds until another may be."""
        for series in self._store.to_judge():
            judged = completeness.judge(
                series.slices,
                series.transfers,
                series.last_arrival,
                time.time(),
                self._config.series.quiet_seconds,
                series.performed,
            )
            if isinstance(judged, completeness.Waiting):
                self._store.postpone_series(series, judged.reason, judged.look_again_at)
            elif self._store.start_series(series, judged.reason, judged.missing):
                log.info("instance %d: a series of %d images: %s", series.lead_id, series.images, judged.reason)
        look_at = self._store.next_look_at()
        return _IDLE_SECONDS if look_at is None else min(max(look_at - time.time(), 0.0), _IDLE_SECONDS)

    def _claim(self) -> dict[str, Any] | None:
        return self._store.claim(self._owner, self._config.inference.lease_seconds)

    def _wait_for_the_ledger(self, error: SpoolError) -> None:
        """What it can't be told now it is told later: all that this worker holds is given back, without blame."""
        log.error("reading waits: %s", error)
        while not self._stopping:
            self._sleep(_RETRY_SECONDS)
            try:
                self._store.release_held(self._owner, f"Waiting: {error}")
            except SpoolError:
                continue
            return

    def _process(self, opened: Pipeline, claim: dict[str, Any]) -> None:
        """Read an image; with it others that wait, where the receipt shows that reading several at once gains."""
        group = [begun] if (begun := self._begin(opened, claim)) else []
        deadline = time.monotonic() + self._config.inference.gathering_seconds
        while group and len(group) < self._group_size(group[0]) and time.monotonic() < deadline:
            another = self._claim()
            if another is None:
                break
            if another["crashes"]:  # one that killed before is read alone, or the others would share its blame
                self._store.release(another["id"], self._owner, "", 0.0)
                break
            if begun := self._begin(opened, another):
                if begun.prepared.engine is not group[0].prepared.engine:
                    self._store.release(another["id"], self._owner, "", 0.0)
                    break
                group.append(begun)
        if len(group) > 1 and not opened.infer_ahead([each.prepared for each in group]):
            for each in group[1:]:
                self._store.release(each.claim["id"], self._owner, "", 0.0)
            del group[1:]
        for each in group:
            self._end(opened, each)

    def _group_size(self, first: _Begun) -> int:
        alone = first.claim["priority"] == "stat" or first.claim["crashes"] or first.claim["lead_id"] is not None
        if self._usual_seconds is None or alone:
            return 1
        return first.prepared.engine.server.group(self._usual_seconds)

    def _begin(self, opened: Pipeline, claim: dict[str, Any]) -> _Begun | None:
        """header -> route -> decode -> preprocess; None where it ended there, or waits for the rest of its series."""
        identifier, paths = claim["id"], [self._spool.path(file) for file in claim["files"]]
        until = time.monotonic() + self._config.inference.lease_seconds - _WRITING_SECONDS
        stopwatch = Stopwatch()
        with self._recorded(identifier), stopwatch("total"):
            if claim["removed"]:
                raise ImageError(
                    f"Retention has removed {claim['removed']} of the {len(paths)} images of its series.",
                    hint="send the whole series again",
                )
            headers = [self._sandbox.read_header(path) for path in paths]
            if claim["lead_id"] is None and not self._is_next(opened, claim, headers[0]):
                return None
            known = self._store.cautions(identifier) if claim["lead_id"] is not None else ()
            return _Begun(claim, opened.prepare(paths, headers, stopwatch, self._sandbox, known), stopwatch, until)
        return None

    def _is_next(self, opened: Pipeline, claim: dict[str, Any], header: Dataset) -> bool:
        """Describe an instance, give it its place in the queue or in its series.

        False where it is not to be read now: it waits behind another one, or for the rest of its series.
        """
        in_series = not writer.missing(header) and opened.reads_series(header)
        if claim["triaged"] and not in_series:
            return True
        settings = self._config.scheduling
        sent = claim["priority"] if claim["source"] == "storage_scp" else None
        texts_of = partial(image.requested, header)
        priority = schedule.decide(settings.rules, claim["ae_title"], sent, texts_of)
        asked = schedule.decide((), claim["ae_title"], sent, texts_of)
        patience = schedule.patience(priority, settings.ageing_seconds)
        claim["priority"] = priority
        described = image.describe(header)
        if not in_series:
            return self._store.triage(claim["id"], self._owner, described, priority, patience, asked)
        self._store.park(
            claim["id"],
            self._owner,
            described,
            image.text(header, "SeriesInstanceUID"),
            image.place_in_series(header),
            priority,
            patience,
            self._config.series.quiet_seconds,
            asked,
        )
        return False

    def _end(self, opened: Pipeline, begun: _Begun) -> None:
        """infer -> write -> ledger; then, with the image at its end whatever happens, what only watches."""
        read: tuple[pipeline.Reading, float] | None = None
        with self._recorded(begun.claim["id"]):
            read = self._answer(opened, begun)
        if read is not None:
            self._observe(begun, *read)

    def _answer(self, opened: Pipeline, begun: _Begun) -> tuple[pipeline.Reading, float]:
        """The reading, written or withheld, and how many seconds it took."""
        identifier, stopwatch, started = begun.claim["id"], begun.stopwatch, time.monotonic()
        with stopwatch("total"):
            reading = opened.infer(
                begun.prepared,
                stopwatch,
                begun.until,
                tries=max(MOST_CRASHES - begun.claim["crashes"], 1),
                on_stop=partial(self._count_crash, identifier),
            )
            mode = self._safe_mode.of(identifier, _packages(reading), reading.prediction)
            if mode.level == "withheld":
                self._withhold(identifier, mode.reason)
                return reading, time.monotonic() - started
            if mode.level != "none":
                said, made = mode.marked(reading.prediction, reading.provenance)
                reading = replace(reading, prediction=said, provenance=made)
            unmade = pipeline.unmade(reading, self._config)
            reading = pipeline.warned(reading, unmade)
            with stopwatch("write"):
                objects = self._write(identifier, reading)
        self._finish(identifier, reading, stopwatch, objects, unmade)
        total = stopwatch.seconds["total"]
        if begun.claim["lead_id"] is None:
            usual = self._usual_seconds
            self._usual_seconds = total if usual is None else 0.9 * usual + 0.1 * total
        log.info("instance %d: result in %.3f s", identifier, total)
        self._tell_parent()
        return reading, total

    def _observe(self, begun: _Begun, reading: pipeline.Reading, seconds: float) -> None:
        """For drift; an alarm that this raises is in force for the next image."""
        read_by, target = begun.prepared.engine.package, reading.provenance.target
        self._drift.observe(read_by, target, begun.claim["id"], reading.source, reading.prediction, seconds)
        try:
            self._safe_mode.look()
        except Exception:  # the result is out; `appliance.safety_watch` looks again within seconds
            log.exception("safe mode can't be looked after")

    def _withhold(self, identifier: int, reason: str) -> None:
        """Nothing of a result stays, not even what an earlier try, before safe mode, has left on the disk."""
        for folder in (self._config.results_path / f"{identifier:08d}", self._config.previews_path / str(identifier)):
            shutil.rmtree(folder, ignore_errors=True)
        self._store.withhold(identifier, self._owner, reason)
        log.warning("instance %d: its result is withheld (safe mode)", identifier)

    @contextmanager
    def _recorded(self, identifier: int) -> Iterator[None]:
        """Whatever ends an image becomes its state in the ledger, with the reason."""
        try:
            yield
        except QuarantineError as error:
            log.error("instance %d is quarantined, its row says why", identifier)  # errors may quote headers
            self._store.quarantine(identifier, self._owner, str(error))
        except InputError as error:
            log.info("instance %d is turned away, its row says why", identifier)
            self._store.reject(identifier, self._owner, str(error))
        except DiskFullError as error:
            log.error("instance %d waits: %s", identifier, error)
            self._store.release(identifier, self._owner, f"Waiting: {error}", _RETRY_SECONDS)
        except LeaseLostError as error:
            log.warning("%s; its result is dropped", error)
        except UnservedError as error:  # its row says why, the log when the package went out of service
            log.info("instance %d waits for its package", identifier)
            self._store.hold(identifier, self._owner, f"Waiting: {error}")
        except (NotServedError, SandboxError) as error:  # it is not the image's fault
            log.error("instance %d waits: %s", identifier, error)
            self._store.release(identifier, self._owner, f"Waiting: {error}", _RETRY_SECONDS)
        except BackendError as error:
            log.error("instance %d gets no answer: %s", identifier, error)
            self._give_up(identifier, error)
        except SpoolError as error:
            # A file that can't be read or written may be this image's alone, so the others go on. Where it is the
            # ledger's trouble, it does not take this either, and that ends here: see `_wait_for_the_ledger`.
            log.error("instance %d waits: %s", identifier, error)
            self._store.release(identifier, self._owner, f"Waiting: {error}", _NOT_WRITTEN_SECONDS)
        except ApplianceError as error:
            log.error("instance %d failed (%s), its row says why", identifier, type(error).__name__)
            self._store.fail(identifier, self._owner, str(error))
        except Exception as error:  # one input's surprise must neither stop the others nor go unrecorded
            log.exception("instance %d is quarantined", identifier)
            reason = (
                f"The appliance failed on this image ({type(error).__name__}). Report it with its row {identifier}."
            )
            self._store.quarantine(identifier, self._owner, reason)

    def _finish(
        self,
        identifier: int,
        reading: pipeline.Reading,
        stopwatch: Stopwatch,
        objects: list[WrittenObject],
        unmade: list[str],
    ) -> None:
        tier = reading_order.tier(reading.prediction.findings)
        self._store.finish(
            identifier,
            self._owner,
            {
                "findings": msgspec.to_builtins(reading.prediction.findings),
                "outlines": msgspec.to_builtins(reading.outlines),
                "warnings": reading.prediction.warnings,
                "provenance": reading.provenance.to_dict(),
                "seconds": stopwatch.seconds,
                "urgent": reading.prediction.urgent,
            },
            objects,
            self._outbox(objects, reading.prediction),
            "the answer to the same pixels was taken again" if reading.reused else "",
            tier,
            reading_order.raised_to(tier, self._config.worklist),
            unmade,
        )

    def _count_crash(self, identifier: int, reason: str) -> None:
        try:
            self._store.count_crash(identifier, self._owner, reason)
        except SpoolError as error:  # the next try is worth more than the count
            log.error("instance %d: that it stopped the inference process is not recorded: %s", identifier, error)

    def _give_up(self, identifier: int, error: BackendError) -> None:
        """No backend gave an answer; an image that stopped the process that reads them is not to do so again."""
        row = self._store.instance(identifier) or {}
        if row.get("crashes", 0) < MOST_CRASHES:
            self._store.fail(identifier, self._owner, f"No backend gave an answer: {error}")
            return
        reason = f"It stopped the process that reads images {row['crashes']} times. {error}"
        self._store.quarantine(identifier, self._owner, reason)

    def _write(self, identifier: int, reading: pipeline.Reading) -> list[WrittenObject]:
        """The results, then the page's pictures, durably; doing it again after a crash replaces the same files."""
        objects = []
        for file in pipeline.write_results(reading, self._config):
            name = Path(f"{identifier:08d}") / f"{file.kind}.{file.suffix}"
            write_durably(self._config.results_path / name, file.content)
            digest = hashlib.sha256(file.content).hexdigest()
            objects.append(WrittenObject(file.kind, file.sop_class_uid, file.uid, str(name), digest))
        for file_name, content in pipeline.previews(reading).items():
            write_durably(self._config.previews_path / str(identifier) / file_name, content)
        return objects

    def _outbox(self, objects: list[WrittenObject], prediction: Prediction) -> list[tuple[str, str]]:
        return [
            (item.kind, destination.name)
            for destination in self._config.destinations
            for item in objects
            if destination.wants(item.kind, prediction.positive, prediction.urgent)
        ]

    def _sleep(self, seconds: float) -> None:
        """Until there may be work, or an inference process has ended."""
        watched: list[socket.socket | InferenceProcess] = [self._parent, *self._readiness.processes()]
        readable, _, _ = select.select(watched, [], [], seconds)
        if self._parent in readable and not self._parent.recv(4096):
            self._stopping = True  # the parent closed its end

    def _tell_parent(self) -> None:
        try:
            self._parent.send(b".")
        except BlockingIOError:
            pass  # it has not read the earlier ones, so it will look anyway
        except BrokenPipeError:
            self._stopping = True
