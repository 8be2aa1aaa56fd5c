"""A page that does not come up ends nothing else; nor does a ledger that another process holds at the start."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from appliance import config, database, run
from appliance.cli import main
from tests.peers import free_port, needs, wait_until


@pytest.fixture
def appliance(tmp_path: Path) -> Iterator[run.Appliance]:
    scp = config.StorageScp(host="127.0.0.1", port=free_port())
    made = run.Appliance(config.Config(data_dir=str(tmp_path), storage_scp=scp, web=config.Web(port=free_port())))
    yield made
    made._shut_down()


@contextmanager
def page_signalled(appliance: run.Appliance, number: int) -> Iterator[list[int]]:
    """The process of the page gets a signal as soon as there is one; its id."""
    pids: list[int] = []

    def wait_and_signal() -> None:
        wait_until(lambda: appliance._web and appliance._web.pid, "the page is started")
        assert appliance._web is not None
        assert appliance._web.pid is not None
        pids.append(appliance._web.pid)
        os.kill(pids[0], number)

    thread = threading.Thread(target=wait_and_signal)
    thread.start()
    try:
        yield pids
    finally:
        thread.join()


def answers_echo(appliance: run.Appliance) -> bool:
    command = [needs("echoscu"), "127.0.0.1", str(appliance._config.storage_scp.port)]
    return subprocess.run(command, timeout=30, check=False).returncode == 0


def status(appliance: run.Appliance) -> str:
    appliance._say()
    return CliRunner().invoke(main, ["status", "--data", str(appliance._config.data)]).output


@pytest.mark.long
def test_a_page_that_dies_as_it_starts_is_started_again(appliance: run.Appliance) -> None:
    with page_signalled(appliance, signal.SIGKILL) as killed:
        appliance._start()
    assert appliance._page_answers
    assert appliance._web is not None
    assert appliance._web.pid not in killed
    assert "does NOT answer" not in status(appliance)


def test_without_a_page_all_else_goes_on_and_it_is_looked_for(
    appliance: run.Appliance, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(run, "_PAGE_START_SECONDS", 1.0)
    with page_signalled(appliance, signal.SIGSTOP) as stopped:
        appliance._start()
    try:
        assert not appliance._page_answers
        assert "does not answer; all else goes on without it" in caplog.text
        assert answers_echo(appliance)
        assert "page        does NOT answer yet" in status(appliance)
    finally:
        os.kill(stopped[0], signal.SIGCONT)

    def answers() -> bool:
        appliance._look_for_page()
        return appliance._page_answers

    wait_until(answers, "the page answers", 60)
    assert "does NOT answer" not in status(appliance)


def test_a_ledger_that_is_held_at_the_start_does_not_end_it(
    appliance: run.Appliance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_BUSY_SECONDS", 2.0)  # whoever writes gives up then
    appliance._store.close()  # the next connection of this thread knows of it
    holder = sqlite3.connect(appliance._config.ledger_path, isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")
    release = threading.Timer(5, holder.execute, ["ROLLBACK"])
    release.start()
    begin = time.monotonic()
    try:
        appliance._start()
        assert answers_echo(appliance)
        assert appliance._page_answers
        assert time.monotonic() - begin < 100
    finally:
        release.join()
