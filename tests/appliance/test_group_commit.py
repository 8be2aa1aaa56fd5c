"""Receipts of several threads share a transaction, and none of them pays for another's failure."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from appliance.errors import SpoolError
from appliance.group_commit import GroupCommit
from appliance.store import Admission, Arrival, Store
from tests.peers import wait_until


class Held(Store):
    """A ledger that takes nothing until it is let go; counts its transactions."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.let_go = threading.Event()
        self.entered = 0

    def receive(self, arrival: Arrival) -> Admission:
        self.entered += 1
        assert self.let_go.wait(30)
        if arrival.sop_instance_uid == "bad":
            raise SpoolError("no")
        return super().receive(arrival)


def _arrival(number: int, uid: str = "") -> Arrival:
    return Arrival(uid or f"1.{number}", "1.2", f"digest {number}", "x", 1, "storage_scp", "CT1")


def test_those_that_wait_are_committed_together_and_one_fails_alone(tmp_path: Path) -> None:
    store = Held(tmp_path / "ledger.sqlite3")
    receipts = GroupCommit(store)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(receipts.receive, _arrival(0))
        wait_until(lambda: store.entered == 1, "the first one commits")
        others = [pool.submit(receipts.receive, _arrival(number)) for number in range(1, 6)]
        bad = pool.submit(receipts.receive, _arrival(6, "bad"))
        wait_until(lambda: len(receipts._waiting) == 6, "the others wait")
        store.let_go.set()
        admissions = [future.result(30) for future in (first, *others)]
        with pytest.raises(SpoolError):
            bad.result(30)
    assert {admission.outcome for admission in admissions} == {"new"}
    assert len({admission.instance_id for admission in admissions}) == 6
    reader = Store(tmp_path / "ledger.sqlite3", read_only=True)
    assert len(reader.worklist()) == 6
    reader.close()


def test_a_group_is_one_transaction(tmp_path: Path) -> None:
    store = Store(tmp_path / "ledger.sqlite3")
    reader = Store(tmp_path / "ledger.sqlite3", read_only=True)
    with pytest.raises(SpoolError), store.together():
        store.receive(_arrival(1))
        assert reader.worklist() == []
        raise SpoolError("no")
    assert store.worklist() == []
    with store.together():
        assert [store.receive(_arrival(1)).outcome for _ in range(2)] == ["new", "duplicate"]
    assert len(reader.worklist()) == 1
    reader.close()
    store.close()
