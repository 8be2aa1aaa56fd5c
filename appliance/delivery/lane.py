"""A lane of the outbox: what is due to one destination, and the circuit breaker before it.

The circuit is closed while the destination takes what it is sent, though it may refuse single items, each of which is
tried again by itself. A failure of the destination opens the circuit: nothing is sent but, after a pause that doubles
with each failure, one item as a probe. Once that gets any answer, the circuit is closed and everything due flows again.
All of it stands in the ledger, so a restart changes nothing.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydicom.uid import generate_uid

from appliance.audit import Record, Trail
from appliance.config import Config, Delivery, Destination
from appliance.delivery.commitment_scu import NotAskedError
from appliance.delivery.storage_scu import NothingAcceptedError
from appliance.delivery.way import Answer, Committer, Item, Way
from appliance.errors import ApplianceError, SpoolError
from appliance.reading_order import of_rank
from appliance.storage_commitment import CommitmentReport
from appliance.store import Store

log = logging.getLogger("scanside.delivery")

_LONGEST_SLEEP = 5.0  # what is to be sent again by hand comes from another process, which wakes nobody
_URGENT_SECONDS = 1.0  # between two looks, while much is sent, for what is to be read before that
_FORGET_SECONDS = 30 * 86400.0


def backoff(settings: Delivery, attempts: int, longest: float) -> float:
    """Doubling, at most the longest, and up to a quarter shorter, so that many boxes don't come back at once."""
    pause = min(settings.first_retry_seconds * 2.0 ** min(attempts, 30), longest)
    return pause * random.uniform(0.75, 1.0)


class Lane:
    """One destination's share of the outbox; `work` is for one thread.

    Parameters
    ----------
    committer
        None where the destination is not asked for storage commitment.
    on_report
        Records what it says, where it does so at once; returns whether it was asked.
    trail
        Has a record of what was sent at one go.
    """

    def __init__(
        self,
        destination: Destination,
        config: Config,
        store: Store,
        results_folder: Path,
        way: Way,
        committer: Committer | None,
        stopping: threading.Event,
        on_report: Callable[[CommitmentReport], bool],
        trail: Trail | None = None,
    ) -> None:
        self._destination, self._settings, self._store = destination, config.delivery, store
        self._results, self._way, self._committer, self._stopping = results_folder, way, committer, stopping
        self._on_report, self._trail = on_report, trail
        self._name = destination.name
        self._reported = threading.Event()

    def begin(self) -> None:
        """What an earlier configuration has left."""
        self._store.forget_commitments(time.time() - _FORGET_SECONDS)
        if self._committer is None:
            self._store.settle_without_commitment(self._name)

    def close(self) -> None:
        """At the end, by the thread that worked."""
        self._way.close()
        if self._trail is not None:
            self._trail.close()

    def work(self) -> float:
        """Send and ask what is due; seconds until there may be more to do."""
        failing = self._store.lane(self._name)
        if failing is not None and failing["next_probe_at"] > time.time():
            return self._until(failing["next_probe_at"])
        sent = self._send(probe=failing is not None)
        if self._store.lane(self._name) is None or not sent:
            self._ask()
        failing = self._store.lane(self._name)
        due_at = self._store.next_due_at(self._name)
        if due_at is None:
            return _LONGEST_SLEEP
        return self._until(due_at if failing is None else max(due_at, failing["next_probe_at"]))

    @staticmethod
    def _until(at: float) -> float:
        return min(max(at - time.time(), 0.0), _LONGEST_SLEEP)

    # --- sending ----------------------------------------------------------------------------------------------

    def _send(self, probe: bool) -> bool:
        """Send what is due, or of that a single item; whether there was any."""
        rows = self._store.due(self._name, limit=1, probe=True) if probe else self._store.due(self._name)
        attempts = {row["id"]: row["attempts"] for row in rows}
        ranks = {row["id"]: row["reading_rank"] for row in rows}
        look_at = time.monotonic() + _URGENT_SECONDS
        not_sent: dict[str, list[Item]] = {}
        sent: list[Item] = []
        begun_at = time.time()
        for answer in self._answers(list(self._carried(rows, not_sent))):
            if not answer.error:
                self._store.sent(answer.item.id, to_commit=self._committer is not None)
                log.info("instance %d: %s sent to %s", answer.item.instance_id, answer.item.kind, self._name)
                sent.append(answer.item)
            elif answer.blame != "destination":
                not_sent.setdefault(answer.error, []).append(answer.item)
            if answer.blame in ("destination", "both"):
                self._fail(answer.error)
            elif probe:
                self._works()
            if self._stopping.is_set():
                break
            if time.monotonic() >= look_at:
                if self._store.more_urgent(self._name, ranks[answer.item.id]):
                    break  # the rest stays due
                look_at = time.monotonic() + _URGENT_SECONDS
        for error, items in not_sent.items():
            pause = backoff(
                self._settings, max(attempts[item.id] for item in items), self._settings.longest_retry_seconds
            )
            self._store.retry([item.id for item in items], error, time.time() + pause)
            # Nothing of what a peer says is logged: it may name the patient. The ledger has it.
            log.warning("%d objects not sent to %s, next try in %.0f s", len(items), self._name, pause)
        self._record(sent, begun_at)
        return bool(rows)

    def _carried(self, rows: list[dict[str, Any]], not_sent: dict[str, list[Item]]) -> Iterator[Item]:
        """Those that the protocol carries: it may be another one than when the others were put into the outbox."""
        for item in map(self._item, rows):
            if self._destination.carries(item.kind):
                yield item
            else:
                error = f"{self._name} has protocol = '{self._destination.protocol}', which carries no {item.kind}"
                not_sent.setdefault(error, []).append(item)

    def _record(self, sent: list[Item], begun_at: float) -> None:
        if self._trail is None or not sent:
            return
        record = Record(
            at=time.time(),
            event="transfer_end",
            action=f"sent by {self._destination.protocol}",
            how="dicom",
            address=self._destination.host or "",
            target=f"destination {self._name}",
            detail=f"{len(sent)} objects",
            images=tuple(sorted({item.instance_id for item in sent})),
            since=begun_at,
        )
        self._trail.append(record, flushed=False)

    def _answers(self, items: list[Item]) -> Iterator[Answer]:
        """Of the way out. An error that it should not have raised is blamed on the item that has no answer."""
        unanswered = {item.id: item for item in items}
        try:
            for answer in self._way.send(items) if items else ():
                unanswered.pop(answer.item.id, None)
                yield answer
        except SpoolError:
            raise  # the ledger's trouble
        except Exception as error:  # whatever a peer provokes must not end the deliveries to it
            log.exception("%s: delivery failed and is tried again", self._name)
            for item in list(unanswered.values())[:1]:
                yield Answer(item, f"the appliance failed on it ({type(error).__name__}: {error})", "both")

    def _item(self, row: dict[str, Any]) -> Item:
        priority, _ = of_rank(row["reading_rank"])
        return Item(
            row["id"],
            self._results / row["path"],
            row["kind"],
            row["sop_class_uid"],
            row["sop_instance_uid"],
            row["instance_id"],
            priority,
        )

    # --- the circuit ------------------------------------------------------------------------------------------

    def _fail(self, error: str) -> None:
        failing = self._store.lane(self._name)
        pause = backoff(self._settings, failing["failures"] if failing else 0, self._settings.longest_probe_seconds)
        self._store.lane_failed(self._name, error, time.time() + pause)
        log.warning("%s fails and is not sent anything for %.0f s: see `scanside status`", self._name, pause)

    def _works(self) -> None:
        failing = self._store.lane(self._name)
        if failing is not None:
            self._store.lane_works(self._name)
            seconds = time.time() - failing["since"]
            log.info("%s answers again, after %.0f s and %d failures", self._name, seconds, failing["failures"])

    # --- storage commitment -----------------------------------------------------------------------------------

    def _ask(self) -> None:
        rows = self._store.to_ask(self._name) if self._committer is not None else []
        if self._committer is None or not rows:
            return
        transaction_uid = generate_uid(prefix=None)
        again_in = self._settings.commitment_seconds * 2.0 ** min(max(row["asked"] for row in rows), 10)
        self._reported.clear()
        self._store.ask(transaction_uid, self._name, rows, time.time() + again_in)
        try:
            self._committer.ask(transaction_uid, [self._item(row) for row in rows], self._on_report, self._reported)
            self._works()
            log.info("%s was asked to commit %d objects", self._name, len(rows))
        except NothingAcceptedError:
            error = (
                f"{self._name} offers no storage commitment (set storage_commitment = false for it, or have it offered)"
            )
            self._not_asked(rows, error)
        except NotAskedError as error:
            self._not_asked(rows, str(error))
        except ApplianceError as error:
            self._not_asked(rows, str(error))
            self._fail(str(error))

    def _not_asked(self, rows: list[dict[str, Any]], error: str) -> None:
        pause = backoff(self._settings, max(row["asked"] for row in rows), self._settings.longest_retry_seconds)
        self._store.not_asked([row["id"] for row in rows], f"sent, not committed: {error}", time.time() + pause)
        log.warning("%d objects are not known to be committed by %s", len(rows), self._name)

    def heard(self) -> None:
        """The destination has reported, whatever it said; for any thread."""
        self._reported.set()
