"""What the appliance does beside its work: retention, the proof of the ledger and of the audit trail; at the start and
each night.
"""

from __future__ import annotations

import logging
import time
from datetime import datetime
from typing import Any

from appliance import audit_proof, audit_retention, proof, recount, retention
from appliance.audit import Record, Trail
from appliance.beside import Beside
from appliance.config import Config
from appliance.custody import Custody
from appliance.errors import ApplianceError

log = logging.getLogger("scanside.housekeeping")

_LOOK_SECONDS = 60.0
_MOST_NAMED = 1000  # images in one record of the audit trail


class Housekeeping(Beside):
    def __init__(self, config: Config, trail: Trail | None = None) -> None:
        super().__init__("housekeeping")
        self.trail: dict[str, Any] = {"faults": 0, "kept": ""}  # what the last look found; why old records stay
        self.kept = {"images": 0, "bytes": 0, "rejected": 0}  # what retention may not remove before it is reviewed
        self._config, self._trail = config, trail

    def run(self) -> None:
        custody = Custody(self._config.ledger_path)
        done_at = time.time()
        self._round(custody, full=False)
        self._look_at_kept(custody)
        while not self.stopping.wait(_LOOK_SECONDS):
            night = proof.last_night(datetime.now().astimezone(), self._config.retention.at)
            if done_at < night.timestamp():
                done_at = time.time()
                self._round(custody, full=True)
            elif retention.overfull(self._config):
                self._remove(custody)
            self._look_at_kept(custody)
        custody.close()
        if self._trail is not None:
            self._trail.close()

    def _round(self, custody: Custody, full: bool) -> None:
        if full:
            self._remove(custody)
        self._look_after_trail(full)
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

    def _look_after_trail(self, full: bool) -> None:
        """Say where the trail is not what was written (`scanside audit verify`); of one that is, remove what may go."""
        if self._trail is None:
            return
        try:
            outcome = audit_proof.verify(self._config.audit_path, self._config.key_path)
            self.trail["faults"] = len(outcome.faults)
            if full and not outcome.faults:
                self.trail["kept"] = audit_retention.remove(self._config, self._trail).kept
        except ApplianceError as error:
            log.error("the audit trail can't be verified or pruned: %s", error)
            return
        for fault in outcome.faults:
            log.error("audit trail: %s", fault)

    def _give_way(self, *_: int) -> None:
        if self.stopping.is_set():
            raise _StoppedError

    def _remove(self, custody: Custody) -> None:
        try:
            removed = retention.remove(self._config, custody)
            if removed and self._trail is not None:
                images = tuple(sorted({each.instance_id for each in removed})[:_MOST_NAMED])
                detail = f"{len(removed)} images or results removed"
                self._trail.append(Record(time.time(), "act", "retention", detail=detail, images=images))
        except (ApplianceError, OSError) as error:  # a full disk, for one: the next round tries again
            log.error("retention failed: %s", error)

    def _look_at_kept(self, custody: Custody) -> None:
        try:
            self.kept = retention.kept(self._config, custody)
        except (ApplianceError, OSError) as error:
            log.error("what retention keeps can't be counted: %s", error)


class _StoppedError(Exception):
    """The appliance stops."""
