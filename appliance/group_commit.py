"""Receipts of several threads in one transaction: one fsync of the ledger serves all that wait for it.

The first thread that comes commits at once; what comes meanwhile is committed together by the next. Nobody waits for
others to come, and each call returns only after its own row is committed.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from appliance.store import Admission, Arrival, Store


@dataclass(eq=False)
class _Receipt:
    arrival: Arrival
    outcome: Admission | Exception | None = None


class GroupCommit:
    """`Store.receive` for many threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._turn = threading.Lock()  # held while a group is committed
        self._lock = threading.Lock()
        self._waiting: list[_Receipt] = []

    def receive(self, arrival: Arrival) -> Admission:
        """As `Store.receive`."""
        receipt = _Receipt(arrival)
        with self._lock:
            self._waiting.append(receipt)
        with self._turn:
            if receipt.outcome is None:
                with self._lock:
                    group, self._waiting = self._waiting, []
                self._commit(group)
        if isinstance(receipt.outcome, Exception):
            raise receipt.outcome
        assert receipt.outcome is not None
        return receipt.outcome

    def _commit(self, group: list[_Receipt]) -> None:
        try:
            with self._store.together():
                admissions = [self._store.receive(each.arrival) for each in group]
        except Exception as error:  # noqa: BLE001 (each thread raises its own)
            if len(group) > 1:  # one of them may be to blame, which must not fail the others
                for each in group:
                    self._commit([each])
                return
            group[0].outcome = error
        else:
            for each, admission in zip(group, admissions, strict=True):
                each.outcome = admission
