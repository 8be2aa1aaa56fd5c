"""Inference runtimes, one module each.

A module provides what `appliance.backend.BackendModule` says. It is imported only when it is asked for, since the
import of a runtime may be slow, or missing.
"""

from __future__ import annotations

from importlib import import_module
from typing import cast

from appliance.backend import BackendModule
from appliance.errors import BackendError

NAMES = ("onnxruntime", "openvino")


def module(name: str) -> BackendModule:
    """The module of a backend by its name; raises `BackendError` for an unknown one."""
    if name not in NAMES:
        raise BackendError(f"there is no backend {name!r}", hint=f"known: auto, {', '.join(NAMES)}")
    return cast(BackendModule, import_module(f"appliance.backends.{name}"))
