"""Inference runtimes, one module each, and the choice between them.

A module provides what `appliance.backend.BackendModule` says. It is imported only when it is asked for, since the
import of a runtime may be slow, or missing.
"""

from __future__ import annotations

from importlib import import_module
from typing import cast

from appliance.backend import BackendModule
from appliance.errors import BackendError

# In the order in which `auto` tries them.
NAMES = ("onnxruntime", "openvino")


def module(name: str) -> BackendModule:
    """The module of a backend by its name; raises `BackendError` for an unknown one."""
    if name not in NAMES:
        raise BackendError(f"there is no backend {name!r}", hint=f"known: auto, {', '.join(NAMES)}")
    return cast(BackendModule, import_module(f"appliance.backends.{name}"))


def choose(name: str) -> BackendModule:
    """The backend of that name, or with ``auto`` the first that can be used on this machine.

    Raises
    ------
    BackendError
        With the reason of each one that was tried.
    """
    reasons = []
    for candidate in NAMES if name == "auto" else (name,):
        found = module(candidate)
        reason = found.probe()
        if reason is None:
            return found
        reasons.append(f"{candidate}: {reason}")
    raise BackendError(f"no inference backend can be used: {'; '.join(reasons)}", hint="run `scanside doctor`")
