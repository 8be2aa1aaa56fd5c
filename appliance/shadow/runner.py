"""The process that reads in shadow: while nothing waits, with what processor time nobody else wants.

``scanside run`` starts it while a package is in shadow. It claims nothing and writes no result: it takes images that
are done, reads them once more, and keeps what came of it apart. Whatever breaks here ends this process alone.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from typing import Any

import msgspec
import psutil

from appliance import in_service, installed, process, proof, receipts, signature
from appliance.config import Config
from appliance.errors import ApplianceError, BackendError, NotServedError, SandboxError, SpoolError
from appliance.pipeline import Pipeline, Stopwatch
from appliance.replay import sources
from appliance.sandbox import Sandbox
from appliance.shadow import comparison
from appliance.shadow.store import ShadowStore
from appliance.store import Store

log = logging.getLogger("scanside.shadow")

_IDLE_SECONDS = 2.0
_BUSY_SECONDS = 0.5  # until it looks again whether something still waits
_RETRY_SECONDS = 30.0
_LOWER_SECONDS = 0.25
_LONGEST_SECONDS = 120.0


def main(config: Config, descriptor: int) -> None:
    """Until no package is in shadow, the parent closes its end of the socket, or SIGTERM."""
    process.be_the_first_to_go()
    threading.Thread(target=_give_way, daemon=True, name="give-way").start()
    with socket.socket(fileno=descriptor) as parent:
        parent.setblocking(False)
        Runner(config, parent).run()


def _give_way() -> None:
    """This process and all that it starts run only where nobody else wants the processor."""
    lowered: set[int] = set()
    me = psutil.Process()
    while True:
        pids = {os.getpid(), *(each.pid for each in me.children(recursive=True))}
        for pid in pids - lowered:
            process.only_when_idle(pid)
        lowered = pids
        time.sleep(_LOWER_SECONDS)


def _patient(config: Config) -> Config:
    """With time for whoever gets no processor while others want it."""
    structs = msgspec.structs
    return structs.replace(
        config,
        inference=structs.replace(config.inference, deadline_seconds=_LONGEST_SECONDS),
        sandbox=structs.replace(config.sandbox, seconds=_LONGEST_SECONDS),
    )


class Runner:
    """Reads one image after another in shadow.

    Parameters
    ----------
    parent
        It closes its end to stop this.
    """

    def __init__(self, config: Config, parent: socket.socket) -> None:
        self._config, self._parent = _patient(config), parent
        self._store, self._ledger = ShadowStore(config.ledger_path), Store(config.ledger_path)
        self._sandbox = Sandbox(self._config.sandbox)
        self._pipeline: Pipeline | None = None
        self._stopping = False

    def run(self) -> None:
        signal.signal(signal.SIGTERM, self._stop)
        try:
            while not self._stopping:
                try:
                    shadow = self._store.running()
                    if shadow is None:
                        return
                    pause = self._step(shadow)
                except SpoolError as error:
                    log.error("the shadow waits: %s", error)
                    pause = _RETRY_SECONDS
                self._sleep(pause)
        finally:
            self._sandbox.close()
            if self._pipeline is not None:
                self._pipeline.close()

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _sleep(self, seconds: float) -> None:
        readable = process.is_readable(self._parent, seconds)
        if readable and not self._parent.recv(4096):
            self._stopping = True

    def _step(self, shadow: dict[str, Any]) -> float:
        """Read one image, where one is there and nothing waits; how long to rest then."""
        if self._store.anything_waits():
            return _BUSY_SECONDS
        if not self._is_still_compared(shadow):
            return 0.0
        result = self._store.next_result(shadow)
        if result is None:
            return _IDLE_SECONDS
        if self._pipeline is None:
            try:
                self._pipeline = self._opened(shadow)
            except BackendError as error:
                log.error("%s %s can't read in shadow: %s", shadow["model"], shadow["version"], error)
                return _RETRY_SECONDS
            except ApplianceError as error:
                self._store.end(shadow["id"], "", f"It can't be opened: {error.message}")
                return 0.0
        self._read(self._pipeline, shadow, result)
        return 0.0

    def _is_still_compared(self, shadow: dict[str, Any]) -> bool:
        """Whether the package that it is compared with is still the one that reads; else the shadow ends."""
        in_force = installed.in_force(self._config).get(shadow["model"])
        if in_force is None or in_force["sha256"] == shadow["against"]:
            return True
        self._store.end(shadow["id"], "", f"{shadow['model']} {in_force['version']} reads now")
        return False

    def _opened(self, shadow: dict[str, Any]) -> Pipeline:
        """The package alone, with its receipts: without them it would be no fair comparison."""
        opened = installed.with_sha256(self._config, shadow["sha256"], f"{shadow['model']} {shadow['version']}")
        key, _ = signature.load_or_create_private_key(self._config.key_path)
        known = receipts.known(self._ledger, key)
        since = None  # a shadow proves itself once, when it begins; before it takes over, it does so anew
        tried = in_service.try_one(self._config, opened, known, since)
        proof.ranked(tried[1])
        receipts.keep(self._ledger, key, tried[1], known)
        return Pipeline.open(self._config, [tried], "")

    def _read(self, opened: Pipeline, shadow: dict[str, Any], result: dict[str, Any]) -> None:
        number, failure, pair = result["instance_id"], "", None
        self._store.begin_reading(shadow["id"], result)
        try:
            row = self._ledger.instance(number)
            assert row is not None
            paths = list(sources(self._config, self._ledger.members(number) or [row]))
            watch = Stopwatch()
            headers = [self._sandbox.read_header(path) for path in paths]
            said = opened.infer(opened.prepare(paths, headers, watch, self._sandbox), watch).prediction
            pair = comparison.pair(result, shadow["model"], said, watch.seconds["infer"])
        except (NotServedError, SandboxError) as error:
            log.error("the shadow waits: %s", error)
            self._store.give_back(shadow["id"], number)
            self._sleep(_RETRY_SECONDS)
            return
        except SpoolError:
            raise
        except ApplianceError as error:
            failure = error.message
        except Exception as error:  # one image's surprise must not end the comparison
            log.exception("instance %d can't be read in shadow", number)
            failure = type(error).__name__
        self._store.end_reading(shadow["id"], number, failure, msgspec.to_builtins(pair))
