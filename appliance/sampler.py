"""What writes the device's history: once a minute, in the process that receives, with the lowest priority."""

from __future__ import annotations

import logging
import os
import shutil
import time

import psutil

from appliance import thermal
from appliance.beside import Beside
from appliance.config import Config
from appliance.errors import ApplianceError
from appliance.health import resident
from appliance.history import Gauge, Period
from appliance.history_store import HistoryStore
from appliance.store import Store

log = logging.getLogger("scanside.history")

_EVERY_SECONDS = 60.0


class Sampler(Beside):
    """What is lost by a power cut is a minute or so of history, and no count."""

    def __init__(self, config: Config) -> None:
        super().__init__("history")
        self._config = config
        self._watch = thermal.Watch()

    def run(self) -> None:
        kept = HistoryStore(self._config.ledger_path, flushed=False)
        store = Store(self._config.ledger_path, read_only=True)
        psutil.cpu_percent()  # the next one tells of the time since this
        try:
            while not self.stopping.wait(_EVERY_SECONDS - time.time() % _EVERY_SECONDS):
                try:
                    kept.count(self.sample(store), time.time() - _EVERY_SECONDS / 2)
                except (ApplianceError, OSError) as error:  # a full disk, for one
                    log.error("this minute of the history is missing: %s", error)
        finally:
            kept.close()
            store.close()

    def sample(self, store: Store) -> Period:
        """How the machine is now."""
        counts, heat = store.counts(), self._watch.read()
        memory, disk = psutil.virtual_memory(), shutil.disk_usage(self._config.data)

        def gauge(value: float) -> Gauge:
            return Gauge(float(value), float(value))

        return Period(
            minutes=1,
            queue=gauge(counts["received"] + counts["claimed"]),
            waiting=gauge(sum(row["waiting"] for row in store.destinations())),
            cpu_percent=gauge(psutil.cpu_percent()),
            memory_bytes=gauge(memory.total - memory.available),
            appliance_bytes=gauge(resident(os.getpid())),
            celsius=None if heat.celsius is None else gauge(heat.celsius),
            disk_free=disk.free,
            throttled=float(bool(heat.throttling)),
        )
