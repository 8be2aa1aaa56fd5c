"""A child that dies is started again, whatever is short at that moment, and scanners are answered all the while."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from appliance import config, run
from appliance.errors import SpoolError
from appliance.store import Arrival, Store, claimant
from tests.peers import free_port, wait_until


@pytest.fixture
def appliance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[run.Appliance]:
    monkeypatch.setattr(run, "_SHORTEST_PAUSE", 0.1)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    scp = config.StorageScp(host="127.0.0.1", port=free_port())
    yield run.Appliance(config.Config(data_dir=str(tmp_path), storage_scp=scp, web=config.Web(enabled=False)))
    for number, handler in before.items():
        signal.signal(number, handler)


def live(appliance: run.Appliance, act: Callable[[], None]) -> None:
    """Run it until what is done meanwhile is done."""
    with ThreadPoolExecutor(1) as pool:
        acting = pool.submit(act)
        acting.add_done_callback(lambda _: appliance._stop.set())
        appliance.run()
        acting.result()


def test_a_crash_that_the_ledger_could_not_take_counts_once_it_can(
    appliance: run.Appliance, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    release_crashed = Store.release_crashed

    def full_at_first(store: Store, owner: str) -> int:
        asked.append(owner)
        if len(asked) == 1:
            raise SpoolError("the ledger can't be written: no room left on the disk")
        return release_crashed(store, owner)

    monkeypatch.setattr(Store, "release_crashed", full_at_first)

    def crash() -> None:
        pid = wait_until(lambda: appliance._worker.pid, "the worker is started")
        os.kill(pid, signal.SIGSTOP)  # what comes now is claimed in its name
        ledger = Store(appliance._config.ledger_path)
        number = ledger.receive(Arrival("1.2.3", "1.2", "d" * 64, "lost.dcm", 1, "upload", "x")).instance_id
        assert ledger.claim(claimant(pid), 300)
        os.kill(pid, signal.SIGKILL)
        try:
            wait_until(lambda: (ledger.instance(number) or {})["crashes"] == 1, "the crash is counted")
        finally:
            ledger.close()

    live(appliance, crash)
    assert len(asked) == 2
