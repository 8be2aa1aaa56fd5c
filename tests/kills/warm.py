"""An appliance that starts in a tenth of its time: a process that has imported everything forks it.

It is `appliance.run.Appliance` with its real Storage SCP, drop folder, outbox, housekeeping and `Worker`, in two
processes as ever. Two things are left out, which take seconds at each start: received files are read in the worker
instead of in a sandbox, and the networks of the generated packages run there, too. The page is off.

``python -m tests.kills.warm CONFIG``: each line ``start`` on standard input forks one, ``kill`` ends it by SIGKILL;
both are answered by a line.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from appliance import image, installed, package, process, run, worker
from appliance.backend import Options
from appliance.backends import fake, onnxruntime
from appliance.config import Config
from appliance.config_file import load
from appliance.in_service import Engine
from appliance.log import set_up
from appliance.pipeline import Pipeline
from appliance.receipt import Receipt
from appliance.serving import Answer

log = logging.getLogger("scanside.warm")


class _Server:
    """A package of `tests.fake_package`, in this process."""

    def __init__(self, opened: package.Package) -> None:
        self.package = opened
        (self._target,) = opened.manifest.targets
        self._backend: Any = None
        self.receipt = Receipt(
            opened.manifest.id, opened.manifest.version, opened.sha256, opened.artifact_sha256(self._target),
            self._target, self._target, "test", "test", (), {}, 1, 0.0, 0, 0.0, 0.001, 0.001,
            "2026-01-01T00:00:00+00:00",
        )  # fmt: skip

    def group(self, _: float) -> int:
        return 1

    def run(self, inputs: dict[str, np.ndarray], *_: Any) -> Answer:
        if self._backend is None:  # not before the fork, which its threads would not survive
            module: Any = fake if self._target == "fake" else onnxruntime
            self._backend = module.open(self.package.artifact(self._target), Options())
        return Answer({name: array[0] for name, array in self._backend.run(inputs).items()}, self.receipt)


class _Worker(worker.Worker):
    def __init__(self, config: Config, parent: socket.socket, opened: Pipeline) -> None:
        super().__init__(config, parent)
        nothing: Callable[[], None] = lambda: None  # noqa: E731
        stand_ins: Any = (
            SimpleNamespace(start=nothing, close=nothing, read_header=image.read_header, load=image.load),
            SimpleNamespace(look_after=lambda: opened, processes=list, close=nothing),
        )
        self._sandbox, self._readiness = stand_ins


def _worker(parent: int, line: socket.socket, config: Config, opened: Pipeline) -> None:
    process.die_with_parent(parent)
    _, descriptors, _, _ = socket.recv_fds(line, 16, 1)
    with socket.socket(fileno=descriptors[0]) as ours:
        ours.setblocking(False)
        _Worker(config, ours, opened).run()


def _appliance(parent: int, config: Config, opened: Pipeline) -> None:
    process.die_with_parent(parent)
    me = os.getpid()
    line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = _forked(lambda: _worker(me, theirs, config, opened))  # before the ledger is open, which no fork survives

    def start(module: str, _: Config, *descriptors: int) -> subprocess.Popen[bytes]:
        assert module == "appliance.worker"
        socket.send_fds(line, [b"."], descriptors)
        child: Any = object.__new__(subprocess.Popen)
        child.args, child.pid, child.returncode, child._child_created = [module], pid, None, True
        child.stdin = child.stdout = child.stderr = None
        child._waitpid_lock = threading.Lock()
        found: subprocess.Popen[bytes] = child
        return found

    process.start = start
    run.run(config)


def _forked(main: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            main()
        except Exception:
            log.exception("it ends")
        finally:
            sys.stderr.flush()
            os._exit(1)
    return pid


def _pipeline(config: Config) -> Pipeline:
    engines: Sequence[Any] = [Engine(_Server(each), None, ()) for each in installed.packages(config)]  # type: ignore[arg-type]
    return Pipeline(engines, "2.25.1", 0.0)


def main() -> None:
    config = load(Path(sys.argv[1]), None)
    set_up(config.log.level)
    opened, me, pid = _pipeline(config), os.getpid(), 0
    for order in sys.stdin:
        if order == "start\n":
            pid = _forked(lambda: _appliance(me, config, opened))
        elif order == "kill\n":
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        print(pid, flush=True)


if __name__ == "__main__":
    main()
