"""A real appliance as its own process, for tests that go through the front doors."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from appliance import package
from appliance.store import FINAL_STATES, Store

CHECKOUT = Path(__file__).resolve().parent.parent
_DEVICE = CHECKOUT / ".venv" / "bin" / "python"
# The device's own environment, without torch and tools, where it is there.
PYTHON = str(_DEVICE) if _DEVICE.exists() else sys.executable
# A test run that is killed leaves no appliance behind.
_WITH_US = ("setpriv", "--pdeathsig", "KILL") if shutil.which("setpriv") else ()


def scanside(
    *arguments: str | Path, timeout: float = 120, check: bool = False, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    """One call of the command line."""
    command = [PYTHON, "-m", "appliance", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, check=check, cwd=CHECKOUT, input=stdin
    )


class RunningAppliance:
    """``scanside run`` on a data folder, on free loopback ports.

    Parameters
    ----------
    extra
        Further TOML, put after the tables that this writes.
    python
        Of which environment.
    """

    def __init__(self, folder: Path, extra: str = "", web: str = "", scp: str = "", python: str = PYTHON) -> None:
        self.folder = folder
        self._python = python
        self.data = folder / "box"
        self.config_path = folder / "scanside.toml"
        self._lines: list[str] = []
        folder.mkdir(parents=True, exist_ok=True)
        if "[models]" not in extra:  # one model, whatever else is bundled
            extra += f"\n[models]\npackages = {[str(path) for path in package.bundled('chest-pneumonia')]}\n"
        self.config_path.write_text(
            f'data_dir = "box"\n[storage_scp]\nhost = "127.0.0.1"\nport = 0\n{scp}\n[web]\nport = 0\n{web}\n{extra}\n'
        )
        self.port = 0
        self.url = ""
        self.process: subprocess.Popen[str] | None = None

    def start(self, timeout: float = 60) -> float:
        """Start it and wait for the ready line; seconds that it took."""
        begin = time.monotonic()
        self.process = subprocess.Popen(
            [*_WITH_US, self._python, "-m", "appliance", "run", "--config", str(self.config_path)],
            stderr=subprocess.PIPE,
            text=True,
            cwd=CHECKOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        self._lines = []
        threading.Thread(target=self._read, args=(self.process,), daemon=True).start()
        while time.monotonic() - begin < timeout:
            for line in list(self._lines):
                if " ready: " in line:
                    listens = re.search(r"DICOM \S+@\S+:(\d+)", line)  # where its files for TLS serve
                    self.port = int(listens[1]) if listens else 0
                    self.url = _group(r"page (https?://\S+/)", line)
                    return time.monotonic() - begin
            if self.process.poll() is not None:
                break
            time.sleep(0.01)
        raise AssertionError(f"not ready:\n{self.log}")

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        with process.stderr as stream:
            self._lines.extend(iter(stream.readline, ""))

    @property
    def log(self) -> str:
        return "".join(self._lines)

    def fix_ports(self) -> None:
        """Keep the ports of this run for the next ones."""
        web_port = int(_group(r":(\d+)/", self.url))
        text = self.config_path.read_text().replace("port = 0", f"port = {self.port}", 1)
        self.config_path.write_text(text.replace("port = 0", f"port = {web_port}", 1))

    def kill(self) -> None:
        """SIGKILL, as a power cut would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        if self.process is None or self.process.poll() is not None:
            return -1
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def store(self) -> Store:
        return Store(self.data / "ledger.sqlite3", read_only=True)

    def wait_final(self, count: int, timeout: float = 60) -> list[dict[str, Any]]:
        """The worklist once it holds ``count`` rows, all of them in a final state."""
        store = self.store()
        deadline = time.monotonic() + timeout
        rows: list[dict[str, Any]] = []
        while time.monotonic() < deadline:
            if not any(number for state, number in store.counts().items() if state not in FINAL_STATES):
                rows = store.worklist(limit=10_000)
                if len(rows) >= count and all(row["state"] in FINAL_STATES for row in rows):
                    store.close()
                    return rows
            time.sleep(0.05)
        rows = store.worklist(limit=10_000)
        store.close()
        states = [(row["id"], row["state"], row["reason"]) for row in rows if row["state"] not in FINAL_STATES]
        raise AssertionError(f"{len(rows)} of {count} are here, and not final in time: {states}\n{self.log}")

    def wait_ready(self, timeout: float = 30) -> dict[str, Any]:
        """The status once the worker has a pipeline; receiving doesn't wait for that, reading does."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            status = self.status()
            if status["components"]["worker"]["state"] == "ready":
                return status
        raise AssertionError(f"the worker is not ready in time:\n{self.log}")

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            scanside("status", "--json", "--config", self.config_path, check=True).stdout
        )
        return found


def _group(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    assert found, f"{pattern} not in {text}"
    return found.group(1)
