"""A package that is watched for drift, in a ledger."""

from __future__ import annotations

import numpy as np

from appliance.config import Config
from appliance.drift.monitor import Monitor, weights
from appliance.drift.store import DriftStore
from appliance.drift.streams import MOST_BINS, STREAMS


def watched(config: Config, studies: int, package: str, name: str) -> Monitor:
    """A package against a reference where every study was alike, and studies that are not."""
    counts = np.zeros((len(STREAMS), MOST_BINS), np.int64)
    counts[:, 1] = 400
    monitor = Monitor(counts, weights(np.ones(len(STREAMS), bool), np.zeros(len(STREAMS), bool)), 7)
    drift, bins = DriftStore(config.ledger_path), np.full(len(STREAMS), 2, np.int64)
    if drift.package(package) is None:
        drift.add_package(package, name, counts, 7)
    drift.begin_monitor(package, "validated", monitor.to_bytes())
    for number in range(studies):
        drift.add_study(package, bytes([number, *package.encode()]), number, 1e9 + number, bins)
        drift.add_to_day(package, 1e9 + number, bins, {})
        monitor.observe(bins)
    drift.close()
    return monitor
