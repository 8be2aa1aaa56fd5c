"""One process that reads files for all workers of a test run: to start one takes longer than most tests."""

from __future__ import annotations

import atexit
from functools import cache

from appliance import config
from appliance.sandbox import Sandbox


@cache
def sandbox() -> Sandbox:
    shared = Sandbox(config.Sandbox())
    atexit.register(shared.close)
    return shared
