"""What the appliance does beside its work: retention, the proof of the ledger and of the audit trail; at the start and
each night.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
_LATE_SECONDS = 2 * 86400.0  # without a recount that was finished: each night makes one
_PARTS = {
    "recount": "the ledger can't be recounted",
    "audit": "the audit trail can't be verified or pruned",
    "retention": "retention failed",
    "kept": "what retention keeps can't be counted",
}


class Housekeeping(Beside):
    def __init__(self, config: Config, trail: Trail | None = None) -> None:
        super().__init__("housekeeping")
        self.trail: dict[str, Any] = {"faults": 0, "kept": ""}  # what the last look found; why old records stay
        self.kept = {"images": 0, "bytes": 0, "rejected": 0}  # what retention may not remove before it is reviewed
        self._config, self._trail = config, trail
        self._obstacles = dict.fromkeys(_PARTS, "")
        self._recounted_at = time.monotonic()  # or started: what an earlier run has left says nothing of this one

    def obstacles(self) -> dict[str, str]:
        """What is in the way of each part (of ``recount``, ``audit``, ``retention``, ``kept``) since it last went well;
        empty where nothing is."""
        found = dict(self._obstacles)
        if not found["recount"] and time.monotonic() - self._recounted_at > _LATE_SECONDS:
            found["recount"] = "no recount has ended for two days"
        return found

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

    @contextmanager
    def _trying(self, part: str) -> Iterator[None]:
        """What is in the way is logged and said; the next round tries again."""
        try:
            yield
        except (ApplianceError, OSError) as error:
            log.error("%s: %s", _PARTS[part], error)
            self._obstacles[part] = str(error)
        else:
            self._obstacles[part] = ""

    def _round(self, custody: Custody, full: bool) -> None:
        if full:
            self._remove(custody)
        self._look_after_trail(full)
        with suppress(_StoppedError), self._trying("recount"):
            outcome = recount.recount(self._config, custody, full, self._give_way)
            for fault in outcome.faults:
                log.error("recount: %s: %s", fault.where, fault.what)
            log.info("recount (%s): %d files, %d faults", outcome.kind, outcome.files, len(outcome.faults))
            recount.keep(custody, outcome)
            self._recounted_at = time.monotonic()

    def _look_after_trail(self, full: bool) -> None:
        """Say where the trail is not what was written (`scanside audit verify`); of one that is, remove what may go."""
        if self._trail is None:
            return
        with self._trying("audit"):
            outcome = audit_proof.verify(self._config.audit_path, self._config.key_path)
            self.trail["faults"] = len(outcome.faults)
            for fault in outcome.faults:
                log.error("audit trail: %s", fault)
            if full and not outcome.faults:
                self.trail["kept"] = audit_retention.remove(self._config, self._trail).kept

    def _give_way(self, *_: int) -> None:
        if self.stopping.is_set():
            raise _StoppedError

    def _remove(self, custody: Custody) -> None:
        with self._trying("retention"):  # a full disk, for one, is in the way
            removed = retention.remove(self._config, custody)
            if removed and self._trail is not None:
                images = tuple(sorted({each.instance_id for each in removed})[:_MOST_NAMED])
                detail = f"{len(removed)} images or results removed"
                self._trail.append(Record(time.time(), "act", "retention", detail=detail, images=images))

    def _look_at_kept(self, custody: Custody) -> None:
        with self._trying("kept"):
            self.kept = retention.kept(self._config, custody)


class _StoppedError(Exception):
    """The appliance stops."""
