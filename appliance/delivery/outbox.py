"""The outbox: every object reaches every destination, however long that one is down."""

from __future__ import annotations

import logging
import math
import threading
import time
from pathlib import Path

from appliance.audit import Trail
from appliance.config import Config
from appliance.delivery import committer_of, way_to
from appliance.delivery.lane import Lane, backoff
from appliance.errors import SpoolError
from appliance.storage_commitment import CommitmentReport
from appliance.store import Store

log = logging.getLogger("scanside.delivery")

_STOP_SECONDS = 5.0
_LOOK_SECONDS = 10.0
_SET_SECONDS = 1.0  # more than a time server slews a clock between two looks
_SECONDS_PER_HOUR = 3600.0


class Outbox:
    """One lane on one thread for each destination, so that a dead one delays no other.

    What is due, how often it was tried and when it is tried again stand in the ledger, so a restart changes nothing.
    Sending again what a peer already has is harmless: the object has the same SOP Instance UID.
    """

    def __init__(self, config: Config, store: Store, results_folder: Path, trail: Trail | None = None) -> None:
        self._config = config
        self._store = store
        self._stopping = threading.Event()
        self._lanes = {
            each.name: Lane(
                each,
                config,
                store,
                results_folder,
                way_to(each, config),
                committer_of(each, config),
                self._stopping,
                self.take_report,
                trail,
            )
            for each in config.destinations
        }
        self._wakers = {name: threading.Event() for name in self._lanes}
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        threads = [
            threading.Thread(target=self._run, args=(name, lane), name=f"outbox-{name}", daemon=True)
            for name, lane in self._lanes.items()
        ]
        threads.append(threading.Thread(target=self._look_after_the_rest, name="outbox-rest", daemon=True))
        for thread in threads:
            thread.start()
            self._threads.append(thread)

    def wake(self) -> None:
        """There may be something new to send. Never blocks."""
        for waker in self._wakers.values():
            waker.set()

    def stop(self) -> None:
        """Finish the object that is on its way to each destination, but wait for no dead one: the ledger knows all."""
        self._stopping.set()
        self.wake()
        deadline = time.monotonic() + _STOP_SECONDS
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0.0))

    @property
    def asks_for_commitment(self) -> bool:
        return any(each.storage_commitment for each in self._config.destinations)

    def take_report(self, report: CommitmentReport) -> bool:
        """Record what a destination says of its storage commitment, from an association's thread; whether it was asked.

        Raises
        ------
        SpoolError
        """
        given = self._config.delivery
        try:
            outcome = self._store.reported(
                report.transaction_uid,
                report.committed,
                report.failed,
                lambda attempts: backoff(given, attempts - 1, given.longest_retry_seconds),
            )
        finally:
            self._store.close()
        if outcome is None:
            return False
        name, committed, lost = outcome
        log.info("%s has committed %d objects; %d are sent again", name, committed, lost)
        if name in self._lanes:
            self._lanes[name].heard()
        self.wake()
        return True

    def _run(self, name: str, lane: Lane) -> None:
        waker = self._wakers[name]
        begun = False
        while not self._stopping.is_set():
            waker.clear()
            try:
                if not begun:
                    lane.begin()
                    begun = True
                pause = lane.work()
            except SpoolError as error:  # the ledger is on a full disk; what is due stays due
                log.error("%s: %s", name, error)
                pause = self._config.delivery.first_retry_seconds
            except Exception:  # a lane never ends, whatever happens in it
                log.exception("%s: delivery failed and is tried again", name)
                pause = self._config.delivery.first_retry_seconds
            waker.wait(pause)
        lane.close()
        self._store.close()

    def _look_after_the_rest(self) -> None:
        """What no lane sees: that the clock was set, and what has waited for too long."""
        seen = math.inf  # seconds of the wall clock before the monotonic one; it may have been set before the start
        given = self._config.delivery
        patience = min(
            max(given.longest_retry_seconds, given.longest_probe_seconds), given.undelivered_hours * _SECONDS_PER_HOUR
        )
        begun_at = time.monotonic()
        while not self._stopping.is_set():
            try:
                now = time.time()
                ahead = now - time.monotonic()
                if seen - ahead > _SET_SECONDS:
                    self._bring_forward()
                elif ahead - seen > _SET_SECONDS:
                    self._put_off(ahead - seen)
                seen = ahead
                before = now - given.undelivered_hours * _SECONDS_PER_HOUR
                self._give_up_for_others(before)
                if time.monotonic() - begun_at >= patience:  # by then each was tried since the start, if not just now
                    self._give_up(before)
            except SpoolError as error:  # the ledger is on a full disk; what is due stays due
                log.error("what waits is not looked after: %s", error)
            self._stopping.wait(min(_LOOK_SECONDS, given.first_retry_seconds))
        self._store.close()

    def _bring_forward(self) -> None:
        given = self._config.delivery
        count = self._store.bring_forward(
            given.longest_retry_seconds,
            given.longest_probe_seconds,
            given.commitment_seconds,
            self._config.inference.lease_seconds,
            self._config.series.quiet_seconds,
        )
        if count:
            log.warning("the clock was set back: %d that waited for a later time wait no longer than usual", count)
            self.wake()

    def _put_off(self, step: float) -> None:
        log.warning("the clock went ahead by %.0f s at once, which count as no time that deliveries have waited", step)
        self._store.put_off(step)

    def _give_up(self, before: float) -> None:
        """What is due at this moment only where the destination fails: else its turn comes at once."""
        for name in self._lanes:
            failing = self._store.lane(name)
            why = failing["last_error"] if failing else ""
            if count := self._store.give_up(name, before, why, due=failing is not None):
                log.error(
                    "%d objects could not be delivered to %s in %g h and are set aside: `scanside deliveries list` "
                    "shows them, `scanside deliveries retry` sends them",
                    count,
                    name,
                    self._config.delivery.undelivered_hours,
                )

    def _give_up_for_others(self, before: float) -> None:
        """In time, as for any other destination."""
        for name in {row["destination"] for row in self._store.destinations()} - self._lanes.keys():
            if count := self._store.give_up(name, before, "it is not configured"):
                log.error("%d objects for %s, which is not configured, are set aside", count, name)
