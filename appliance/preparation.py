"""Networks that are compiled on the device: minutes of work, in the background, while another backend serves.

A `Preparation` is a child process, ``python -m appliance.preparation``, that prints its progress as JSON, a line each.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from appliance import backends, package, process
from appliance.backend import Options, Preparing
from appliance.errors import ApplianceError, BackendError
from appliance.package import Package
from appliance.receipt import BATCHES

_NICE = 10  # the backend that serves goes first


class Step(msgspec.Struct, frozen=True):
    """How far it is: the share that is done, in [0, 1], and what is being done; or why it failed."""

    share: float = 0.0
    what: str = "starting"
    failed: str = ""


class Preparation:
    """One network that is being compiled.

    Attributes
    ----------
    step
        The latest progress.
    """

    def __init__(self, opened: Package, name: str, options: Options) -> None:
        self.backend = name
        self.package = opened
        self.step = Step()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process)
        command = [sys.executable, "-m", "appliance.preparation", str(os.getpid()), name, str(opened.path),
                   opened.sha256, msgspec.json.encode(options, enc_hook=str).decode()]  # fmt: skip
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._stderr, start_new_session=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True, name=f"prepare-{name}")
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self.step = msgspec.json.decode(line, type=Step)

    def wait(self, seconds: float | None = None) -> bool:
        """Whether it has ended, at most so long from now (None: until it has); then ``step`` says how."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        self._reader.join()
        if code != 0 and not self._stderr.closed:
            self._stderr.seek(0)
            self.step = Step(failed=backends.how_it_ended(code, self._stderr.read()))
        self._stderr.close()
        return True

    def stop(self) -> None:
        self._process.kill()
        self.wait()


def _main() -> None:
    parent, name, path, sha256, settings = sys.argv[1:]
    process.die_with_parent(int(parent))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # to the whole service; its parent ends it
    os.nice(_NICE)
    # Runtimes print what they like; the progress keeps standard output to itself.
    lines = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def say(step: Step) -> None:
        lines.write(msgspec.json.encode(step) + b"\n")

    options = msgspec.json.decode(settings, type=Options, dec_hook=lambda _, value: Path(value))
    with lines:
        try:
            opened, module = package.read(Path(path), None), backends.module(name)
            if opened.sha256 != sha256:
                raise BackendError(f"{path} was changed meanwhile")
            preparing = backends.preparing(module)
            if preparing is not None:
                sizes = (1,) if opened.segments else (1, *BATCHES)  # outlines are drawn one by one
                _prepare(preparing, opened.artifact(module.TARGET), options, sizes, say)
                if not preparing.is_prepared(opened.artifact(module.TARGET), options):
                    raise BackendError(f"what was compiled could not be kept in {options.cache}: is the disk full?")
            say(Step(1.0, "done"))
        except ApplianceError as error:
            say(Step(failed=str(error)))


def _prepare(
    module: Preparing, artifact: bytes, options: Options, sizes: Sequence[int], say: Callable[[Step], None]
) -> None:
    """For one image in a call, then for each batch that the backend takes."""
    for number, size in enumerate(sizes):

        def progress(share: float, what: str, done: int = number) -> None:
            say(Step((done + share) / len(sizes), what))

        try:
            module.prepare(artifact, replace(options, batch=size), progress)
        except BackendError:
            if size == 1:
                raise


if __name__ == "__main__":
    _main()
