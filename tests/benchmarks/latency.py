"""Seconds from the C-STORE response to the structured report on disk, one radiograph at a time.

The sender is pynetdicom in this process; the report's time is its file's modification time, and both clocks are
this machine's.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from appliance.send import Destination, send_files
from tests.dicom_files import make_radiograph
from tests.running import RunningAppliance

COUNT = 40
ROWS, COLUMNS = 2500, 2048


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        files = [
            make_radiograph(root / f"{n}.dcm", rows=ROWS, columns=COLUMNS, bits=16, seed=n) for n in range(COUNT + 3)
        ]
        appliance = RunningAppliance(root / "appliance")
        appliance.start()
        try:
            seconds = [_one(appliance, file) for file in files][3:]  # the first ones warm up the caches
        finally:
            appliance.stop()
        stages = [row["seconds"] for row in _results(appliance)]
    print(f"{COUNT} radiographs of {ROWS}x{COLUMNS}, 16 bits ({ROWS * COLUMNS * 2 / 1e6:.0f} MB), one at a time")
    print("C-STORE response -> SR on disk: " + _percentiles(seconds))
    for stage in stages[0]:
        print(f"  {stage:<12} " + _percentiles([each[stage] for each in stages]))


def _one(appliance: RunningAppliance, file: Path) -> float:
    destination = Destination("SCANSIDE", "127.0.0.1", appliance.port)
    (sent,) = send_files([file], destination, "BENCH", {}, associations=1)
    assert sent.ok, sent.error
    number = appliance.store().counts()
    total = sum(number.values())
    report = appliance.data / "results" / f"{total:08d}" / "structured_report.dcm"
    deadline = time.time() + 30
    while not report.exists():
        assert time.time() < deadline, appliance.log
        time.sleep(0.002)
    return report.stat().st_mtime - sent.answered_at


def _results(appliance: RunningAppliance) -> list[dict[str, dict[str, float]]]:
    return [row for row in appliance.store().worklist(limit=1000) if row["seconds"]][:COUNT]


def _percentiles(seconds: list[float]) -> str:
    p50, p95, top = np.percentile(seconds, [50, 95, 100])
    return f"p50 {p50:.3f} s  p95 {p95:.3f} s  max {top:.3f} s"


if __name__ == "__main__":
    main()
