"""The inference process is killed 100 times under load: nothing lost, nothing doubled, and how soon it serves again.

``python -m tests.benchmarks.inference_kills`` sends radiographs without pause and kills each process that serves.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np

from appliance.send import Destination, send_files
from appliance.store import Store
from tests.dicom_files import make_radiograph
from tests.running import RunningAppliance

KILLS, COUNT = 100, 3000


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        files = [make_radiograph(root / "images" / f"{n}.dcm", rows=512, columns=448, seed=n) for n in range(COUNT)]
        appliance = RunningAppliance(root / "appliance", python=sys.executable)
        appliance.start()
        appliance.wait_ready()
        sender = threading.Thread(target=_send, args=(appliance, files))
        sender.start()
        back = _kill(appliance)
        sender.join()
        rows = appliance.wait_final(COUNT, timeout=900)
        stops = appliance.store().components()["inference"]["stops"]
        appliance.stop()
    states = Counter(row["state"] for row in rows)
    uids = Counter(row["sop_instance_uid"] for row in rows)
    reasons = {row["reason"] for row in rows if row["state"] != "delivered"}
    print(f"{len(back)} times SIGKILL, restarts counted {stops}; {COUNT} radiographs: {dict(states)} {reasons or ''}")
    print(f"doubled {sum(n > 1 for n in uids.values())}, lost {COUNT - len(uids)}")
    print(f"serves again: median {np.median(back):.2f} s, p95 {np.percentile(back, 95):.2f} s, max {max(back):.2f} s")


def _send(appliance: RunningAppliance, files: list[Path]) -> None:
    destination = Destination("SCANSIDE", "127.0.0.1", appliance.port)
    for sent in send_files(files, destination, "BENCH", {}, associations=2):
        assert sent.ok, sent.error


def _pid(store: Store) -> int | None:
    serves = store.components()["inference"]["serves"]
    return serves[0]["pid"] if serves else None


def _kill(appliance: RunningAppliance) -> list[float]:
    """Seconds from each kill until another process had given its first result."""
    store, seconds = appliance.store(), []
    while len(seconds) < KILLS:
        before = _pid(store)
        if before is None:
            continue
        os.kill(before, signal.SIGKILL)
        begin = time.monotonic()
        finished = store.counts()["delivered"]
        while True:
            pid = _pid(store)
            if pid not in (None, before) and store.counts()["delivered"] > finished:
                break
            finished = store.counts()["delivered"] if pid == before else finished
            assert time.monotonic() - begin < 60, "it did not come back"
            time.sleep(0.01)
        seconds.append(time.monotonic() - begin)
    return seconds


if __name__ == "__main__":
    main()
