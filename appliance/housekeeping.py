"""What the appliance does beside its work: retention and the proof of the ledger, at the start and each night.

One thread, the last to get a core, in the process that receives.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from datetime import datetime

from appliance import proof, recount, retention
from appliance.config import Config
from appliance.custody import Custody
from appliance.errors import ApplianceError

log = logging.getLogger("scanside.housekeeping")

_LOOK_SECONDS = 60.0
_NICE = 19


class Housekeeping:
    """Start it once the parts run; `stop` waits for what it is at."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="housekeeping", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)  # of this thread alone, on Linux
        custody = Custody(self._config.ledger_path)
        done_at = time.time()
        self._round(custody, full=False)
        while not self._stop.wait(_LOOK_SECONDS):
            night = proof.last_night(datetime.now().astimezone(), self._config.retention.at)
            if done_at < night.timestamp():
                done_at = time.time()
                self._round(custody, full=True)
            elif retention.overfull(self._config):
                self._remove(custody)
        custody.close()

    def _round(self, custody: Custody, full: bool) -> None:
        if full:
            self._remove(custody)
        try:
            outcome = recount.recount(self._config, custody, full, self._give_way)
            recount.keep(custody, outcome)
        except _StoppedError:
            return
        except (ApplianceError, OSError) as error:
            log.error("the ledger can't be recounted: %s", error)
            return
        for fault in outcome.faults:
            log.error("recount: %s: %s", fault.where, fault.what)
        log.info("recount (%s): %d files, %d faults", outcome.kind, outcome.files, len(outcome.faults))

    def _give_way(self, *_: int) -> None:
        if self._stop.is_set():
            raise _StoppedError

    def _remove(self, custody: Custody) -> None:
        try:
            retention.remove(self._config, custody)
        except (ApplianceError, OSError) as error:  # a full disk, for one: the next round tries again
            log.error("retention failed: %s", error)


class _StoppedError(Exception):
    """The appliance stops."""
