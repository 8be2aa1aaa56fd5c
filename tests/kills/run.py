"""The appliance is killed by SIGKILL at random points while it receives and works, and is started again each time."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from appliance.store import FINAL_STATES, Store
from tests import fake_package
from tests.kills.load import Senders, Word
from tests.kills.verdict import Verdict, judge
from tests.peers import free_port, storescp, wait_until
from tests.running import CHECKOUT, PYTHON

_START_SECONDS = 60.0
_MOST_WAITING = 100  # files
_ENVIRONMENT = {**os.environ, "SCANSIDE_FAKE_BACKEND": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


class Target(Protocol):
    """Something to kill."""

    def start(self) -> None: ...

    def kill(self) -> None:
        """All of its processes, by SIGKILL."""

    def close(self) -> None: ...


class Whole:
    """``scanside run``, each time from its first line; the kernel ends its children with it."""

    page = "port = 0"

    def __init__(self, config_path: Path, log: Path) -> None:
        self._command = [PYTHON, "-m", "appliance", "run", "--config", str(config_path)]
        self._log = log.open("ab")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stderr=self._log, cwd=CHECKOUT, env=_ENVIRONMENT)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self._log.close()


class Warm:
    """`tests.kills.warm`."""

    page = "enabled = false"

    def __init__(self, config_path: Path, log: Path) -> None:
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.kills.warm", str(config_path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                cwd=CHECKOUT,
                env=_ENVIRONMENT,
            )

    def start(self) -> None:
        self._order("start")

    def kill(self) -> None:
        self._order("kill")

    def _order(self, word: str) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline(), "what starts the appliance has ended; see its log"

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()


@dataclass(frozen=True)
class Plan:
    """How a run goes.

    Attributes
    ----------
    longest
        Seconds from when the port answers to the kill, at most; the real time is random.
    batches
        Of a few files, that each sender is allowed with each start, on average.
    radiograph
        Rows and columns.
    ballast
        Bytes on the data folder's disk that are taken by others; after a third of the points they take every last byte,
        after two thirds they leave it.
    """

    points: int
    seed: int
    longest: float = 1.0
    batches: float = 1.0
    radiograph: tuple[int, int] = (256, 224)
    ballast: int = 0


def kill_again_and_again(
    root: Path,
    data: Path,
    plan: Plan,
    make_target: type[Whole] | type[Warm],
    on_point: Callable[[int], object] = lambda _: None,
) -> Verdict:
    """Kill it so many times, have it come to an end with everything, and look at what is left.

    Raises
    ------
    AssertionError
        It does not start again, or does not come to an end.
    """
    chance, port = random.Random(plan.seed), free_port()
    with storescp(root / "peer", "+uf") as peer, contextlib.ExitStack() as stack:
        config_path = _configure(root, data, port, peer, make_target.page)
        target = make_target(config_path, root / "appliance.log")
        stack.callback(target.close)
        senders = Senders(root, port, data / "drop", plan.seed, plan.radiograph)
        ballast = data / "ballast"
        if plan.ballast:
            data.mkdir(parents=True, exist_ok=True)
            ballast.write_bytes(bytes(plan.ballast))
        _start(target, port)
        stack.callback(target.kill)
        senders.start()
        for point in range(plan.points):
            # Where reading is behind, what was sent before comes again, so that the end does not take hours.
            word: Word = "again" if _waiting(data, senders) > _MOST_WAITING else "new"
            senders.allow(int(plan.batches * (point + 1)) - int(plan.batches * point), word)
            time.sleep(chance.uniform(0.0, plan.longest))
            if plan.ballast and point == plan.points // 3:
                _fill(ballast)
            target.kill()
            _start(target, port)
            if plan.ballast and point + 1 == plan.points * 2 // 3:
                senders.allow(1)
                wait_until(lambda: bool(senders.refused), "something is refused, since the disk is full", 60.0)
                ballast.unlink()  # while it runs: it must go on by itself
            on_point(point + 1)
        senders.finish(30 + 2.0 * plan.points)
        _wait_until_all_is_done(data, senders, 60 + 2.0 * plan.points)
    return judge(data, config_path, senders, root / "peer")


def _fill(path: Path) -> None:
    """Write to a file until its disk is full."""
    with contextlib.suppress(OSError), path.open("ab", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


def _configure(root: Path, data: Path, port: int, peer: int, page: str) -> Path:
    models = root / "models"
    packages = [fake_package.make(models), fake_package.hippocampus(models)]
    path = root / "scanside.toml"
    path.write_text(f"""\
data_dir = "{data}"
[storage_scp]
host = "127.0.0.1"
port = {port}
[drop_folder]
settle_seconds = 0.3
incomplete_seconds = 2.0
[models]
packages = {[str(each) for each in packages]}
trusted_keys = ["{models / "trusted"}"]
[series]
quiet_seconds = 1.0
[results]
kinds = ["structured_report", "segmentation"]
[web]
{page}
[delivery]
first_retry_seconds = 0.5
longest_retry_seconds = 2.0
[[destinations]]
name = "pacs"
ae_title = "ANY"
host = "127.0.0.1"
port = {peer}
""")
    return path


def _start(target: Target, port: int) -> None:
    target.start()
    wait_until(lambda: _answers(port), "the appliance answers again", _START_SECONDS)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _waiting(data: Path, senders: Senders) -> int:
    """Files that were brought and are not done."""
    store = Store(data / "ledger.sqlite3", read_only=True)
    try:
        return len(senders.brought) - sum(n for state, n in store.counts().items() if state in FINAL_STATES)
    finally:
        store.close()


def _wait_until_all_is_done(data: Path, senders: Senders, seconds: float) -> None:
    """Everything that was acknowledged or dropped is in a final state, and the drop folder is empty."""
    store = Store(data / "ledger.sqlite3", read_only=True)

    def done() -> bool:
        counts = store.counts()
        here = sum(counts.values()) >= len(senders.brought)
        return (
            here and not store.gathered() and all(counts[state] == 0 for state in counts if state not in FINAL_STATES)
        )

    try:
        wait_until(done, f"all of {len(senders.brought)} files are done", seconds)
    except AssertionError as error:
        raise AssertionError(f"{error}: {store.counts()}, gathered {store.gathered()}") from None
    finally:
        store.close()
