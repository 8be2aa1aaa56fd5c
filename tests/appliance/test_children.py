"""A child that dies is started again, whatever is short at that moment, and scanners are answered all the while."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from appliance import config, process, run
from appliance.delivery.storage_scu import Peer, echo
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


@pytest.mark.parametrize("clock", ["ahead", "right"])
def test_a_worker_is_stopped_after_its_lease_whatever_the_clock_is_set_to(appliance: run.Appliance, clock: str) -> None:
    """A clock that is set ahead ends every lease in the ledger, and is no crash of the image that is read."""
    lease = 300.0 if clock == "ahead" else 0.5
    appliance._config = msgspec.structs.replace(appliance._config, inference=config.Inference(lease_seconds=lease))

    def watch() -> None:
        pid = wait_until(lambda: appliance._worker.pid, "the worker is started")
        os.kill(pid, signal.SIGSTOP)  # what comes now is claimed in its name
        ledger = Store(appliance._config.ledger_path)
        number = ledger.receive(Arrival("1.2.3", "1.2", "d" * 64, "held.dcm", 1, "upload", "x")).instance_id
        assert ledger.claim(claimant(pid), lease if clock == "right" else -3600.0)
        try:
            if clock == "right":
                wait_until(lambda: (ledger.instance(number) or {})["crashes"] == 1, "the crash is counted")
            else:
                time.sleep(3 * run._WATCH_SECONDS)
                assert (ledger.instance(number) or {})["crashes"] == 0
                assert appliance._worker.pid == pid
        finally:
            ledger.close()
            if clock == "ahead":
                os.kill(pid, signal.SIGCONT)

    live(appliance, watch)


def worker_starts_again_after(appliance: run.Appliance, short: list[str]) -> None:
    """Though something is short as it is started again; scanners are answered at that moment."""

    def kill() -> None:
        pid = wait_until(lambda: appliance._worker.pid, "the worker is started")
        wait_until(lambda: appliance._scp_door.port, "scanners are answered")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: short, "something is short")
        echo(Peer("127.0.0.1", appliance._scp_door.port, "SCANSIDE", "CT1", 10))
        again = wait_until(lambda: appliance._worker.pid not in (None, pid) and appliance._worker.pid, "it is there")
        os.kill(again, 0)

    live(appliance, kill)


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.EPIPE])
def test_a_child_that_can_not_be_started_again_is_tried_once_more(
    number: int, appliance: run.Appliance, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start = process.start
    begun: list[str] = []
    short: list[str] = []

    def short_at_the_second(module: str, *arguments: Any) -> subprocess.Popen[bytes]:
        begun.append(module)
        if len(begun) == 2:
            short.append(module)
            raise OSError(number, os.strerror(number))
        return start(module, *arguments)

    monkeypatch.setattr(process, "start", short_at_the_second)
    worker_starts_again_after(appliance, short)
    assert f"the worker can't be started: [Errno {number}]" in caplog.text
    wait_until(lambda: "worker-messages" not in {each.name for each in threading.enumerate()}, "no thread stays")


def test_a_child_that_no_thread_can_hear_is_tried_once_more(
    appliance: run.Appliance, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start
    heard: list[str] = []
    short: list[str] = []

    def short_at_the_second(thread: threading.Thread) -> None:
        if thread.name == "worker-messages":
            heard.append(thread.name)
            if len(heard) == 2:
                short.append(thread.name)
                raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", short_at_the_second)
    worker_starts_again_after(appliance, short)
    assert len(heard) == 3


def test_nothing_stays_of_a_child_that_ends_before_it_has_its_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("true"))
    large = config.Config(data_dir=str(tmp_path), destinations=tuple(
        config.Destination(name=f"n{number}", host="h" * 100, port=104, ae_title="A") for number in range(2000)
    ))  # fmt: skip
    with pytest.raises(BrokenPipeError):
        process.start("appliance.worker", large)
    assert not psutil.Process().children()
