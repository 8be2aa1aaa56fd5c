"""The outbox: every object reaches every destination, however long that one is down."""

from __future__ import annotations

import logging
import random
import threading
import time
from pathlib import Path
from typing import Any

from appliance.config import Config, Destination
from appliance.delivery import storage_scu
from appliance.errors import SpoolError
from appliance.store import Store

log = logging.getLogger("scanside.delivery")

_LONGEST_SLEEP = 30.0
_STOP_SECONDS = 5.0


class Outbox:
    """One thread for each destination, so that a dead one delays no other.

    What is due, how often it was tried and when it is tried again stand in the ledger, so a restart changes nothing.
    Sending again what a peer already has is harmless: the object has the same SOP Instance UID.
    """

    def __init__(self, config: Config, store: Store, results_folder: Path) -> None:
        self._config = config
        self._store = store
        self._results = results_folder
        self._stopping = threading.Event()
        self._wakers = {destination.name: threading.Event() for destination in config.destinations}
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        configured = set(self._wakers)
        for row in self._store.destinations():
            if row["waiting"] and row["destination"] not in configured:
                log.warning(
                    "%d objects wait for %r, which is no longer configured: add it again, or they stay",
                    row["waiting"],
                    row["destination"],
                )
        for destination in self._config.destinations:
            thread = threading.Thread(
                target=self._run, args=(destination,), name=f"outbox-{destination.name}", daemon=True
            )
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

    def _run(self, destination: Destination) -> None:
        waker = self._wakers[destination.name]
        while not self._stopping.is_set():
            waker.clear()
            try:
                self._send_due(destination)
                pause = self._pause(destination)
            except SpoolError as error:  # the ledger is on a full disk; what is due stays due
                log.error("%s: %s", destination.name, error)
                pause = self._config.delivery.first_retry_seconds
            except Exception:  # whatever a peer provokes must not end the deliveries to it
                log.exception("%s: delivery failed and is tried again", destination.name)
                pause = self._config.delivery.first_retry_seconds
            waker.wait(pause)
        self._store.close()

    def _pause(self, destination: Destination) -> float:
        due_at = self._store.next_due_at(destination.name)
        return _LONGEST_SLEEP if due_at is None else min(max(due_at - time.time(), 0.0), _LONGEST_SLEEP)

    def _send_due(self, destination: Destination) -> None:
        items = {self._results / row["path"]: row for row in self._store.due(destination.name)}
        if not items:
            return
        outcomes = storage_scu.send(
            destination.host,
            destination.port,
            destination.ae_title,
            self._config.delivery.calling_ae_title,
            list(items),
            self._config.delivery.timeout_seconds,
        )
        not_sent: dict[str, list[dict[str, Any]]] = {}
        for outcome in outcomes:
            item = items[outcome.path]
            if outcome.ok:
                self._store.sent(item["id"])
                log.info("instance %d: %s sent to %s", item["instance_id"], item["kind"], destination.name)
            else:
                not_sent.setdefault(outcome.error, []).append(item)
            if self._stopping.is_set():
                break
        for error, failed in not_sent.items():
            pause = self._backoff(max(item["attempts"] for item in failed))
            self._store.retry([item["id"] for item in failed], error, time.time() + pause)
            log.warning(
                "%d objects not sent to %s, next try in %.0f s: %s", len(failed), destination.name, pause, error
            )

    def _backoff(self, attempts: int) -> float:
        """Doubling, at most the longest, and up to a quarter shorter, so that many boxes don't come back at once."""
        settings = self._config.delivery
        pause = min(settings.first_retry_seconds * 2.0 ** min(attempts, 30), settings.longest_retry_seconds)
        return pause * random.uniform(0.75, 1.0)
