"""A ledger that was filled as a worker fills it, and the page alone on it: no processes, no network."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import msgspec
from werkzeug.serving import make_server

from appliance import reading_order
from appliance.config import Config
from appliance.pipeline import Pipeline, Stopwatch, previews, write_objects
from appliance.spool import write_durably
from appliance.store import Arrival, Store, WrittenObject
from appliance.web.app import create_app
from tests import fake_package


def models(folder: Path) -> str:
    """A `[models]` table with findings and outlines of chests, and outlines of hippocampi."""
    paths = [fake_package.BUNDLED[0], fake_package.lungs(folder), fake_package.hippocampus(folder)]
    return f"[models]\npackages = {[str(path) for path in paths]}\ntrusted_keys = ['{folder / 'trusted'}']\n"


class Site:
    """The page alone, on a ledger that was filled as a worker fills it; one thread serves it."""

    def __init__(self, config: Config) -> None:
        self._server = make_server("127.0.0.1", 0, create_app(config), threaded=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def fill(config: Config, opened: Pipeline, paths: list[Path]) -> int:
    """Read files and keep what came of it in the ledger; the row."""
    stopwatch = Stopwatch()
    reading = opened.infer(opened.prepare(paths, None, stopwatch), stopwatch)
    store, first = Store(config.ledger_path), reading.images[0]
    digest = f"{first.sop_instance_uid:0>64}"[:64]
    arrival = Arrival(first.sop_instance_uid, first.sop_class_uid, digest, "x.dcm", 1, "storage_scp", "SCANNER")
    identifier = store.receive(arrival).instance_id
    store.claim("worker", 30)
    store.triage(identifier, "worker", {"modality": str(first.header.Modality)}, "routine", 0.0)
    objects = [
        WrittenObject(kind, dataset.SOPClassUID, dataset.SOPInstanceUID, f"{identifier:08d}/{kind}.dcm")
        for kind, dataset in write_objects(reading, config.results.kinds)
    ]
    for name, content in previews(reading).items():
        write_durably(config.previews_path / str(identifier) / name, content)
    result: dict[str, Any] = {
        "findings": msgspec.to_builtins(reading.prediction.findings),
        "outlines": msgspec.to_builtins(reading.outlines),
        "warnings": reading.prediction.warnings,
        "provenance": reading.provenance.to_dict(),
        "seconds": stopwatch.seconds,
        "urgent": reading.prediction.urgent,
    }
    tier = reading_order.tier(reading.prediction.findings)
    store.finish(identifier, "worker", result, objects, [], "", tier, reading_order.raised_to(tier, config.worklist))
    store.close()
    return identifier
