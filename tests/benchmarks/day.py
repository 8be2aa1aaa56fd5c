"""A day of 1,500 studies at 60 times the speed: memory, descriptors and threads of each process, queue and spool.

python -m tests.benchmarks.day [--hours 24] [--studies 1500] [--speed 60] [--folder FOLDER] [--json]

`scanside send` is the scanner, each hour anew, with a radiograph for each study, no two alike; the bundled packages
read them, and a storescp takes the results. Somebody looks at the page meanwhile. The whole day takes 24 minutes. Exit
code 1 where memory is not flat, descriptors or threads grew, or something is left in the queue.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from appliance.store import FINAL_STATES, Store
from tests.dicom_files import make_radiograph
from tests.peers import storescp, wait_until
from tests.running import CHECKOUT, PYTHON, RunningAppliance

MIB = 1 << 20
ROWS, COLUMNS = 1024, 900
SAMPLE_SECONDS, LOOK_SECONDS = 3.0, 5.0
WARM_UP = 0.25  # of the time, which does not count: caches fill, and the kernel gives memory as it is asked for
MOST_GROWTH = 0.05  # of a process's memory in a day, or `LEAST_GROWTH`, whichever is more
LEAST_GROWTH = 8 * MIB
DRAIN_SECONDS = 120.0
STUDENT = 2.1  # of the t distribution with some 17 degrees of freedom, for an interval of 95 %


@dataclass(frozen=True)
class Sample:
    """``processes``: role -> memory, descriptors, threads; ``queue``: instances that are not done."""

    hour: float
    processes: dict[str, tuple[int, int, int]]
    queue: int
    spool: int


class Watch:
    """Looks at the processes of an appliance from time to time."""

    def __init__(self, appliance: RunningAppliance, hour_seconds: float) -> None:
        assert appliance.process is not None
        self._root = psutil.Process(appliance.process.pid)
        self._store = appliance.store
        self._spool, self._hour, self._begin = appliance.data / "spool", hour_seconds, time.monotonic()
        self._url = appliance.url
        self._stopping = threading.Event()
        self.samples: list[Sample] = []
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._sample, self._look)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _sample(self) -> None:
        store = self._store()
        while not self._stopping.wait(SAMPLE_SECONDS):
            counts = store.counts()
            queue = counts["received"] + counts["claimed"] + counts["written"]
            spool = sum(path.stat().st_size for path in self._spool.glob("*/*"))
            hour = (time.monotonic() - self._begin) / self._hour
            self.samples.append(Sample(hour, self._processes(), queue, spool))
        store.close()

    def _processes(self) -> dict[str, tuple[int, int, int]]:
        found: dict[str, tuple[int, int, int]] = {}
        for process in (self._root, *self._root.children(recursive=True)):
            with contextlib.suppress(psutil.Error), process.oneshot():
                role = name = _role(process)
                number = 1
                while role in found:
                    number += 1
                    role = f"{name} {number}"
                found[role] = (process.memory_info().rss, process.num_fds(), process.num_threads())
        return found

    def _look(self) -> None:
        """As somebody does who has the page open."""
        number = 0
        while not self._stopping.wait(LOOK_SECONDS):
            number += 1
            for path in ("", "device", "api/v1/status"):
                with contextlib.suppress(OSError), urllib.request.urlopen(self._url + path, timeout=30) as answer:
                    answer.read()


def _role(process: psutil.Process) -> str:
    words = process.cmdline()
    for word, role in {
        "appliance.worker": "worker",
        "appliance.sandbox": "sandbox",
        "appliance.inference": "inference",
        "appliance.web.server": "page",
    }.items():
        if word in words:
            return role
    return "receiving"


def send_day(appliance: RunningAppliance, folder: Path, hours: int, a_day: int, hour_seconds: float) -> int:
    """Send the studies of each hour in its time; how many."""
    sent, senders, begin = 0, [], time.monotonic()
    for hour in range(hours):
        here = folder / f"{hour}"
        count = a_day * (hour + 1) // 24 - a_day * hour // 24
        for _ in range(count):
            make_radiograph(here / f"{sent}.dcm", rows=ROWS, columns=COLUMNS, seed=sent)
            sent += 1
        time.sleep(max(begin + hour * hour_seconds - time.monotonic(), 0.0))
        command = [PYTHON, "-m", "appliance", "send", str(here), "--to", f"SCANSIDE@127.0.0.1:{appliance.port}"]
        command += ["--rate", f"{count / hour_seconds}", "--associations", "2", "--per-association", "4"]
        senders.append(subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        left = (hours - hour) * hour_seconds
        print(f"\rhour {hour + 1} of {hours}, {left / 60:.0f} min left ", end="", file=sys.stderr, flush=True)
        if len(senders) > 2:  # what an hour has sent is not needed any more
            assert senders[-3].wait(600) == 0
            shutil.rmtree(folder / f"{hour - 2}")
    assert [sender.wait(600) for sender in senders] == [0] * len(senders)
    print(file=sys.stderr)
    return sent


def growth(hours: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Slope for a day, and half of its interval of 95 %, by least squares over the means of 18 equal parts."""
    parts = [each for each in np.array_split(np.arange(len(hours)), 18) if len(each)]
    x, y = (np.array([series[part].mean() for part in parts]) for series in (hours, values))
    if len(parts) < 4:
        return 0.0, float("inf")
    deviation = x - x.mean()
    slope = float((deviation * y).sum() / (deviation**2).sum())
    residual = y - y.mean() - slope * deviation
    error = float(np.sqrt((residual**2).sum() / (len(parts) - 2) / (deviation**2).sum()))
    return 24 * slope, 24 * STUDENT * error


def judge(samples: list[Sample]) -> dict[str, Any]:
    counted = [each for each in samples if each.hour >= WARM_UP * samples[-1].hour]
    series: dict[str, list[tuple[float, int, int, int]]] = defaultdict(list)
    for sample in counted:
        for role, figures in sample.processes.items():
            series[role].append((sample.hour, *figures))
    processes = {}
    for role, rows in series.items():
        if len(rows) < len(counted) / 2:
            continue  # one that was started for a moment
        hours, memory, descriptors, threads = np.array(rows, float).T
        slope, interval = growth(hours, memory)
        allowed = max(MOST_GROWTH * float(np.median(memory)), LEAST_GROWTH)
        quarter = max(len(rows) // 4, 1)
        first, last = (
            [int(np.median(each[part])) for each in (descriptors, threads)]
            for part in (slice(0, quarter), slice(-quarter, None))
        )
        processes[role] = {
            "memory_mib": round(float(np.median(memory)) / MIB, 1),
            "growth_mib_a_day": round(slope / MIB, 2),
            "interval_mib": round(interval / MIB, 2),
            "flat": slope - interval <= 0 or slope + interval <= allowed,
            "descriptors": [first[0], last[0]],
            "threads": [first[1], last[1]],
            "unchanged": last[0] <= first[0] + 1 and last[1] <= first[1] + 1,
        }
    queue = np.array([sample.queue for sample in samples])
    return {
        "processes": processes,
        "queue": {"median": float(np.median(queue)), "most": int(queue.max()), "last": int(queue[-1])},
        "spool_mib": round(samples[-1].spool / MIB, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=int, default=24)
    parser.add_argument("--studies", type=int, default=1500, help="in 24 hours")
    parser.add_argument("--speed", type=float, default=60.0)
    parser.add_argument("--folder", type=Path, help="on a disk with 6 GB; default: the temporary folder")
    parser.add_argument("--json", action="store_true", help="print the verdict as JSON")
    options = parser.parse_args()
    hour_seconds = 3600.0 / options.speed
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=options.folder)))
        port = stack.enter_context(storescp(root / "peer", "--ignore"))
        appliance = RunningAppliance(
            root / "appliance",
            f'[models]\npackages = []\n[[destinations]]\nname = "pacs"\nae_title = "ANY"\nhost = "127.0.0.1"\n'
            f"port = {port}\n",
        )
        appliance.start()
        stack.callback(appliance.stop)
        appliance.wait_ready(120)
        watch = Watch(appliance, hour_seconds)
        sent = send_day(appliance, root / "sent", options.hours, options.studies, hour_seconds)
        store, begin = appliance.store(), time.monotonic()
        drained = False
        with contextlib.suppress(AssertionError):  # the verdict says in which states the rest is
            wait_until(lambda: _done(store, sent), "the queue is drained", DRAIN_SECONDS)
            drained = True
        seconds = time.monotonic() - begin
        watch.stop()
        verdict = {
            "studies": sent, "states": {state: n for state, n in store.counts().items() if n},
            "drained_after_seconds": round(seconds, 1) if drained else None, **judge(watch.samples),
        }  # fmt: skip
        store.close()
    ok = all(each["flat"] and each["unchanged"] for each in verdict["processes"].values())
    ok = ok and verdict["states"] == {"delivered": sent}
    if options.json:
        print(json.dumps({**verdict, "ok": ok}, indent=1))
    else:
        _print(verdict, options.hours)
    sys.exit(0 if ok else 1)


def _done(store: Store, sent: int) -> bool:
    counts = store.counts()
    return sum(counts[state] for state in FINAL_STATES) >= sent


def _print(verdict: dict[str, Any], hours: int) -> None:
    print(f"{verdict['studies']} studies in {hours} h: {verdict['states']}; spool {verdict['spool_mib']} MiB")
    queue = verdict["queue"]
    print(f"queue: median {queue['median']:.0f}, most {queue['most']}; ", end="")
    seconds = verdict["drained_after_seconds"]
    print("NOT EMPTY at the end" if seconds is None else f"empty {seconds} s after the last study")
    print(f"{'process':<14}{'memory':>10}{'growth a day':>24}  {'descriptors':>13}{'threads':>10}")
    for role, each in verdict["processes"].items():
        slope = f"{each['growth_mib_a_day']:+.2f} ± {each['interval_mib']:.2f} MiB"
        words = "flat" if each["flat"] else "GROWS"
        words += "" if each["unchanged"] else ", MORE DESCRIPTORS OR THREADS"
        print(
            f"{role:<14}{each['memory_mib']:>6.0f} MiB{slope:>24}  {_from_to(each['descriptors']):>13}"
            f"{_from_to(each['threads']):>10}  {words}"
        )


def _from_to(figures: list[int]) -> str:
    return f"{figures[0]} > {figures[1]}"


if __name__ == "__main__":
    main()
