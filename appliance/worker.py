"""The worker: claims what was received, has it read, and brings the result to disk. One process, one pipeline.

It runs apart from the receiving process, so that an input that breaks a decoder takes nothing else with it.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import time
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydicom import Dataset

from appliance import image, pipeline, proof, schedule, signature, writer
from appliance.config import Config
from appliance.errors import ApplianceError, BackendError, DiskFullError, InputError, PackageError, SignatureError
from appliance.pipeline import Pipeline, Stopwatch
from appliance.receipt import Receipt
from appliance.spool import Spool, write_durably
from appliance.store import LeaseLostError, Store, WrittenObject

log = logging.getLogger("scanside.worker")

_IDLE_SECONDS = 2.0
_HEARTBEAT_SECONDS = 5.0
_RETRY_SECONDS = 5.0


def owner(pid: int) -> str:
    """The name under which the worker with this process id claims work."""
    return f"worker-{pid}"


def main(config: Config, descriptor: int) -> None:
    """Run until the parent closes its end of the socket or sends SIGTERM."""
    with socket.socket(fileno=descriptor) as parent:
        parent.setblocking(False)
        Worker(config, parent).run()


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
        self._owner = owner(os.getpid())
        self._stopping = False
        self._said_at = 0.0
        self._said: dict[str, Any] = {}
        signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def run(self) -> None:
        opened = self._open()
        while opened is not None and not self._stopping:
            if datetime.now().astimezone() - opened.proved_at >= proof.MOST_AGE:
                log.info("the receipts are a day old: every backend proves itself again")
                opened = self._open(opened.engines[0].backend.name)
                continue
            claim = self._store.claim(self._owner, self._config.inference.lease_seconds)
            if claim is not None:
                self._process(opened, claim)
            else:
                self._sleep(_IDLE_SECONDS)
            self._say(**self._said)

    def _open(self, serving: str | None = None) -> Pipeline | None:
        """The pipeline with its receipts; until it can be had, everything received waits, and the page says why."""
        self._say(state="starting", reason="", pid=os.getpid())
        key, _ = signature.load_or_create_private_key(self._config.key_path)
        while not self._stopping:
            try:
                device_uid = writer.derived_uid(signature.key_id(key.public_key()))
                known = self._known_receipts(key)
                opened = Pipeline.open(self._config, device_uid, known, serving)
            except (PackageError, BackendError) as error:
                if self._said.get("reason") != str(error):
                    log.error("no results until this is mended: %s", error)
                self._say(state="waiting", reason=str(error), pid=os.getpid())
                self._sleep(_RETRY_SECONDS)
                continue
            for receipt in (trial.receipt for engine in opened.engines for trial in engine.trials):
                if receipt is not None and receipt not in known:
                    content = receipt.to_json()
                    self._store.add_receipt(receipt.identifier, content.decode(), signature.sign(key, content))
            first = opened.engines[0]
            manifest = first.package.manifest
            self._say(
                state="ready",
                reason="",
                pid=os.getpid(),
                package={
                    "id": manifest.id,
                    "version": manifest.version,
                    "title": manifest.title,
                    "sha256": first.package.sha256,
                    "signed_by": first.package.signed_by,
                },
                backend=first.backend.name,
                device=first.backend.device,
                receipt={"id": first.receipt.identifier, **msgspec.to_builtins(first.receipt)},
                trials=[
                    {
                        "backend": trial.backend,
                        "reason": trial.reason,
                        "seconds": trial.receipt.latency_p50 if trial.receipt else None,
                    }
                    for trial in first.trials
                ],
            )
            self._tell_parent()
            return opened
        return None

    def _known_receipts(self, key: Ed25519PrivateKey) -> list[Receipt]:
        """The receipts in the ledger that this device signed and this version understands."""
        trusted, known = {signature.key_id(key.public_key()): key.public_key()}, []
        for row in self._store.receipts():
            try:
                signature.verify(row["signature"], row["content"].encode(), trusted, f"receipt {row['id']}")
                known.append(msgspec.json.decode(row["content"], type=Receipt))
            except (SignatureError, msgspec.DecodeError) as error:
                log.warning("receipt %s does not count: %s", row["id"], error)
        return known

    def _process(self, opened: Pipeline, claim: dict[str, Any]) -> None:
        identifier = claim["id"]
        start = time.perf_counter()
        try:
            header = image.read_header(self._spool.path(claim["file"]))
            if not claim["triaged"] and not self._triage(claim, header):
                return
            self._read_and_write(opened, claim, header)
        except InputError as error:
            log.info("instance %d is turned away: %s", identifier, error)
            self._store.reject(identifier, self._owner, str(error))
        except DiskFullError as error:
            log.error("instance %d waits: %s", identifier, error)
            self._store.release(identifier, self._owner, f"Waiting: {error}", _RETRY_SECONDS)
        except LeaseLostError as error:
            log.warning("%s; its result is dropped", error)
        except ApplianceError as error:
            log.error("instance %d failed: %s", identifier, error)
            self._store.fail(identifier, self._owner, str(error))
        except Exception as error:  # one input's surprise must neither stop the others nor go unrecorded
            log.exception("instance %d failed", identifier)
            reason = (
                f"The appliance failed on this image ({type(error).__name__}). Report it with its row {identifier}."
            )
            self._store.fail(identifier, self._owner, reason)
        else:
            log.info("instance %d: result in %.3f s", identifier, time.perf_counter() - start)
            self._tell_parent()

    def _triage(self, claim: dict[str, Any], header: Dataset) -> bool:
        """Describe an instance, give it its place in the queue; False where that is behind another that waits."""
        settings = self._config.scheduling
        sent = claim["priority"] if claim["source"] == "storage_scp" else None
        priority = schedule.decide(settings.rules, claim["ae_title"], sent, partial(image.requested, header))
        patience = schedule.patience(priority, settings.ageing_seconds)
        return self._store.triage(claim["id"], self._owner, image.describe(header), priority, patience)

    def _read_and_write(self, opened: Pipeline, claim: dict[str, Any], header: Dataset) -> None:
        """The pipeline: route -> decode -> preprocess -> infer -> write -> ledger."""
        identifier, path = claim["id"], self._spool.path(claim["file"])
        stopwatch = Stopwatch()
        with stopwatch("total"):
            reading = opened.read(path, header, stopwatch)
            with stopwatch("write"):
                objects = self._write(identifier, reading)
        self._store.finish(
            identifier,
            self._owner,
            {
                "findings": msgspec.to_builtins(reading.prediction.findings),
                "warnings": reading.prediction.warnings,
                "provenance": reading.provenance.to_dict(),
                "seconds": stopwatch.seconds,
                "urgent": reading.prediction.urgent,
            },
            objects,
            self._outbox(objects),
        )

    def _write(self, identifier: int, reading: pipeline.Reading) -> list[WrittenObject]:
        """The objects, then the page's pictures, durably; doing it again after a crash replaces the same files."""
        objects = []
        for kind, dataset in pipeline.write_objects(reading, self._config.results.kinds):
            name = Path(f"{identifier:08d}") / f"{kind}.dcm"
            write_durably(self._config.results_path / name, writer.to_bytes(dataset))
            objects.append(WrittenObject(kind, dataset.SOPClassUID, dataset.SOPInstanceUID, str(name)))
        for file_name, content in pipeline.previews(reading).items():
            write_durably(self._config.previews_path / str(identifier) / file_name, content)
        return objects

    def _outbox(self, objects: list[WrittenObject]) -> list[tuple[str, str]]:
        kinds = [item.kind for item in objects]
        return [
            (kind, destination.name)
            for destination in self._config.destinations
            for kind in kinds
            if kind in destination.send
        ]

    def _sleep(self, seconds: float) -> None:
        readable, _, _ = select.select([self._parent], [], [], seconds)
        if readable and not self._parent.recv(4096):
            self._stopping = True  # the parent closed its end

    def _tell_parent(self) -> None:
        try:
            self._parent.send(b".")
        except BlockingIOError:
            pass  # it has not read the earlier ones, so it will look anyway
        except BrokenPipeError:
            self._stopping = True

    def _say(self, **content: Any) -> None:
        """Write how this worker is for the page, when it changes and from time to time."""
        now = time.monotonic()
        if content != self._said or now - self._said_at > _HEARTBEAT_SECONDS:
            self._store.set_component("worker", content)
            self._said, self._said_at = content, now
