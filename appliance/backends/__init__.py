"""Inference runtimes, one module each.

A module provides what `appliance.backend.BackendModule` says. A backend is a module on one of its devices; its name
is the module's, with the device behind a colon where that is not the usual one: ``openvino``, ``openvino:GPU``.

``python -m appliance.backends NAME`` probes one, so that a driver that crashes takes only that process with it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from importlib import import_module, util
from pathlib import Path
from typing import cast

from appliance.backend import BackendModule, Preparing
from appliance.errors import BackendError

_MODULES = ("onnxruntime", "openvino", "tensorrt")
_FAKE = "fake"  # for tests: it answers at once, late, wrongly or never, as its artifact says
_PROBE_SECONDS = 20.0
_LAST_LINES = 3
_ROOT = Path("/")


def names() -> tuple[str, ...]:
    """Every backend; ``fake`` only where SCANSIDE_FAKE_BACKEND is set."""
    modules = (*_MODULES, _FAKE) if os.environ.get("SCANSIDE_FAKE_BACKEND") else _MODULES
    return tuple(name for each in modules for name in _names_of(each))


def _names_of(module_name: str) -> tuple[str, ...]:
    return (module_name, *(f"{module_name}:{other}" for other in _import(module_name).DEVICES[1:]))


def module(name: str) -> BackendModule:
    """The module of a backend by its name; raises `BackendError` for an unknown one."""
    if name not in names():
        raise BackendError(f"there is no backend {name!r}", hint=f"known: auto, {', '.join(names())}")
    return _import(name.partition(":")[0])


def device(name: str) -> str:
    """The device of a backend by its name, as `Options` takes it."""
    return name.partition(":")[2] or module(name).DEVICES[0]


def _import(module_name: str) -> BackendModule:
    return cast(BackendModule, import_module(f"appliance.backends.{module_name}"))


def missing(name: str) -> str | None:
    """What is not there that a backend needs, and how to get it; None where all is. Looks at files only."""
    found = module(name)
    try:
        if util.find_spec(found.REQUIRES) is None:
            return f"{found.REQUIRES} is not installed: {found.INSTALL}"
    except (ImportError, ValueError) as error:
        return f"{found.REQUIRES} is installed but broken: {error}"
    files, get_driver = found.DEVICE_FILES.get(device(name), ((), ""))
    if files and not any(list(_ROOT.glob(pattern[1:])) for pattern in files):
        return f"the kernel shows no such device (no {' or '.join(files)}): {get_driver}"
    return None


def probe(name: str, deadline: float = _PROBE_SECONDS) -> str | None:
    """Why a backend can't be used on this machine, None if it can; asked in a process of its own."""
    reason = missing(name)
    if reason is not None:
        return reason
    command = [sys.executable, "-m", "appliance.backends", name]
    try:
        done = subprocess.run(command, capture_output=True, timeout=deadline, check=False)
    except subprocess.TimeoutExpired:
        return f"its driver gave no answer within {deadline:.0f} s"
    if done.returncode == 0:
        return done.stdout.decode(errors="replace").strip() or None
    return how_it_ended(done.returncode, done.stderr)


def how_it_ended(returncode: int, stderr: bytes) -> str:
    """In words: the signal or exit code of a process that ended by itself, and its last lines."""
    said = " ".join(stderr.decode(errors="replace").split("\n")[-_LAST_LINES - 1 :]).strip()
    if returncode < 0:
        name = signal.Signals(-returncode).name if -returncode in set(signal.Signals) else f"signal {-returncode}"
        return f"its process was ended by {name} {said}".strip()
    return f"its process ended with exit code {returncode}: {said}"


def preparing(found: BackendModule) -> Preparing | None:
    """The module as one whose networks must be prepared; None where they are opened at once."""
    return cast(Preparing, found) if hasattr(found, "prepare") else None
