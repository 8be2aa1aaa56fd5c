"""What is started at the press of a button and takes its time: a process of its own, and what came of it so far."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass, field

import msgspec

from appliance import process
from appliance.checks import Check
from appliance.config import Config
from appliance.errand import Asked

_POLL_SECONDS = 0.1


@dataclass
class Errand:
    """One of them. ``title`` is English, and translated where it is shown."""

    what: str
    title: str
    started_at: float
    checks: list[Check] = field(default_factory=list)
    ended_at: float | None = None

    @property
    def done(self) -> bool:
        return self.ended_at is not None

    @property
    def passed(self) -> list[Check]:
        return [check for check in self.checks if check.outcome == "ok"]

    @property
    def objections(self) -> list[Check]:
        """What failed, then what is only to be looked after."""
        found = [check for check in self.checks if check.outcome != "ok"]
        return sorted(found, key=lambda check: check.outcome != "fail")

    @property
    def worst(self) -> str:
        outcomes = {check.outcome for check in self.checks}
        return next((each for each in ("fail", "warning") if each in outcomes), "ok")


class Errands:
    """The latest of each kind; one at a time, since each disturbs the others."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._lock = threading.Lock()
        self.latest: dict[str, Errand] = {}

    @property
    def running(self) -> Errand | None:
        return next((each for each in self.latest.values() if not each.done), None)

    def start(self, what: str, title: str, **given: str) -> bool:
        """Whether it could be started: not while another one runs. ``given``: as of `appliance.errand.Asked`."""
        with self._lock:
            if self.running is not None:
                return False
            begun = self.latest[what] = Errand(what, title, time.time())
        asked = Asked(what, **given)
        threading.Thread(target=self._run, args=(begun, asked), name=f"errand-{what}", daemon=True).start()
        return True

    def wait(self, seconds: float) -> None:
        """Until the one that runs has ended, or for so long."""
        deadline = time.monotonic() + seconds
        while self.running is not None and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)

    def _run(self, begun: Errand, asked: Asked) -> None:
        """This thread stays until the child ends: the child is killed with the thread that has started it."""
        try:
            ours, theirs = socket.socketpair()
            with theirs:
                child = process.start("appliance.errand_process", self._config, theirs.fileno())
            with ours, ours.makefile("rwb") as stream:
                stream.write(msgspec.json.encode(asked) + b"\n")
                stream.flush()
                for line in stream:
                    begun.checks.append(msgspec.json.decode(line, type=Check))
            code = child.wait()
            if code:
                begun.checks.append(
                    Check(begun.title.lower(), "fail", f"it ended early (exit code {code})", "look at the log below")
                )
        except (OSError, msgspec.DecodeError) as error:
            begun.checks.append(Check(begun.title.lower(), "fail", f"it could not be run: {type(error).__name__}"))
        finally:
            begun.ended_at = time.time()
