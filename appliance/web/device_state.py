"""How the device is, for the device page and the API: `appliance.health`, and what is wrong by it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from appliance import certificates, history, machine, problems
from appliance.certificates import Credential
from appliance.config import Config
from appliance.health import health
from appliance.history_store import HistoryStore
from appliance.machine import Clock
from appliance.problems import Problem
from appliance.store import Store

_WEEK = 7 * 86400.0


@dataclass(frozen=True)
class DeviceState:
    health: dict[str, Any]
    problems: list[Problem]
    credentials: list[Credential]
    clock: Clock
    disk_days_left: float | None


def device_state(config: Config, store: Store) -> DeviceState:
    found, clock, credentials = health(config, store), machine.clock(), certificates.found(config)
    kept = HistoryStore(config.ledger_path, read_only=True)
    try:
        left = history.days_left(kept.periods(3600, time.time() - _WEEK))
    finally:
        kept.close()
    return DeviceState(found, problems.find(found, clock, credentials, left), credentials, clock, left)
