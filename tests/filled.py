"""A ledger that was filled as a worker fills it, and the page alone on it: no processes, no network."""

from __future__ import annotations

import hashlib
import shutil
import threading
from pathlib import Path
from typing import Any

import msgspec
from werkzeug.serving import make_server

from appliance import image, reading_order, writer
from appliance.config import Config
from appliance.pipeline import Pipeline, Stopwatch, previews, write_objects
from appliance.series_store import Gathered
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


def _receive(config: Config, store: Store, path: Path, in_series: bool) -> int:
    """Put a file into the spool and the ledger, and describe it; the row is claimed, or parked in its series."""
    header, digest = image.read_header(path), hashlib.sha256(path.read_bytes()).hexdigest()
    config.spool_path.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, config.spool_path / f"{digest}.dcm")
    sop_class_uid = str(header.SOPClassUID)
    arrival = Arrival(str(header.SOPInstanceUID), sop_class_uid, digest, f"{digest}.dcm", path.stat().st_size,
                      "storage_scp", "SCANNER", ae_title="SCANNER")  # fmt: skip
    identifier = store.receive(arrival).instance_id
    store.claim("worker", 30)
    described = image.describe(header)
    if in_series:
        place = image.place_in_series(header)
        store.park(identifier, "worker", described, str(header.SeriesInstanceUID), place, "routine", 0.0, 1.0)
    else:
        store.triage(identifier, "worker", described, "routine", 0.0)
    return identifier


def fill(config: Config, opened: Pipeline, paths: list[Path]) -> int:
    """Read files and keep what came of it in the ledger; the row."""
    stopwatch = Stopwatch()
    reading = opened.infer(opened.prepare(paths, None, stopwatch), stopwatch)
    store = Store(config.ledger_path)
    for path in paths:
        identifier = _receive(config, store, path, in_series=len(paths) > 1)
    if len(paths) > 1:
        members = tuple(image.place_in_series(each.header) for each in reading.images)
        lead_id = identifier - len(paths) + 1
        store.start_series(Gathered(lead_id, len(paths), "", members, (), 0.0, None), "by hand")
        identifier = store.claim("worker", 30)["id"]  # type: ignore[index]
    objects = []
    for kind, dataset in write_objects(reading, config.results.kinds):
        content, name = writer.to_bytes(dataset), f"{identifier:08d}/{kind}.dcm"
        write_durably(config.results_path / name, content)
        digest = hashlib.sha256(content).hexdigest()
        objects.append(WrittenObject(kind, dataset.SOPClassUID, dataset.SOPInstanceUID, name, digest))
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
