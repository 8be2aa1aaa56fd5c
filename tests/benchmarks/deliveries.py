"""Deliveries to a PACS that fails in every way, and the drain after an hour without it.

``python -m tests.benchmarks.deliveries kills`` sends radiographs while Orthanc and the appliance are killed 100 times
at random moments, and Orthanc now and then comes back with an empty database: everything arrives, nothing twice.

``python -m tests.benchmarks.deliveries drain`` has 1,000 results wait for Orthanc, starts it, and measures how soon
they are there, and what an image takes meanwhile, beside what it takes before.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.uid import generate_uid

from appliance.send import Destination, send_files
from appliance.store import Arrival, Store, WrittenObject
from tests.dicom_files import make_radiograph
from tests.peers import Pacs, dicomweb_plugin, free_port, orthanc, wait_for_port
from tests.running import RunningAppliance, scanside


class MortalPacs:
    """Orthanc that can be killed, stopped for a while, and brought back, with its database or without."""

    def __init__(self, folder: Path, reports_to: int) -> None:
        self.folder, self.port = folder, free_port()
        peer = {"AET": "SCANSIDE", "Host": "127.0.0.1", "Port": reports_to}
        # Written once by a run of its own; the same file serves each later one.
        with orthanc(folder, self.port, DicomModalities={"scanside": peer}, Plugins=[dicomweb_plugin()]) as pacs:
            self.pacs: Pacs = pacs
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.folder / "again.log").open("ab") as log:
            command = ["Orthanc", str(self.folder / "orthanc.json")]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_for_port(self.pacs.port)
        wait_for_port(self.pacs.http_port)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def freeze(self, seconds: float) -> None:
        """It holds what it has open and answers nothing."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(self.process.pid, signal.SIGCONT)

    def forget(self) -> None:
        self.kill()
        shutil.rmtree(self.folder / "store", ignore_errors=True)
        self.start()

    def held(self) -> Counter[str]:
        """SOP Instance UIDs that it holds, how often."""
        tags = [self.pacs.get(f"/instances/{name}/simplified-tags") for name in self.pacs.get("/instances")]
        return Counter(str(each["SOPInstanceUID"]) for each in tags)


def _appliance(root: Path, scp_port: int, pacs: MortalPacs, commitment: bool, delivery: str) -> RunningAppliance:
    where = f'ae_title = "ORTHANC"\nhost = "127.0.0.1"\nport = {pacs.port}\n'
    web = f'protocol = "stow"\nurl = "http://127.0.0.1:{pacs.pacs.http_port}/dicom-web"\n'
    extra = f'[[destinations]]\nname = "pacs"\n{where}storage_commitment = {str(commitment).lower()}\n'
    if commitment:  # the same objects at the same PACS by another way must not be there twice either
        extra += f'[[destinations]]\nname = "web"\n{web}'
    appliance = RunningAppliance(root / "appliance", extra=f"{extra}[delivery]\n{delivery}\n", python=sys.executable)
    text = appliance.config_path.read_text().replace("port = 0", f"port = {scp_port}", 1)
    appliance.config_path.write_text(text)
    return appliance


def _send(appliance: RunningAppliance, files: list[Path], stop: threading.Event) -> None:
    """Each until it is taken."""
    for file in files:
        taken = False
        while not taken and not stop.is_set():
            to = Destination("SCANSIDE", "127.0.0.1", appliance.port)
            (sent,) = send_files([file], to, "BENCH", {}, associations=1)
            taken = sent.ok
            if not taken:
                time.sleep(0.3)


def kills(count: int, images: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root, chance, port = Path(folder), random.Random(7), free_port()
        files = [make_radiograph(root / "in" / f"{n}.dcm", rows=300, columns=260, seed=n) for n in range(images)]
        pacs = MortalPacs(root / "pacs", port)
        fast = "first_retry_seconds = 0.2\nlongest_retry_seconds = 2.0\nlongest_probe_seconds = 1.0\n"
        appliance = _appliance(root, port, pacs, True, f"{fast}commitment_seconds = 2.0\ntimeout_seconds = 3.0")
        pacs.start()
        appliance.start()
        begin, stop, done = time.time(), threading.Event(), Counter[str]()
        sender = threading.Thread(target=_send, args=(appliance, files, stop))
        sender.start()
        ways: dict[str, Callable[[], Any]] = {
            "Orthanc killed": lambda: (pacs.kill(), time.sleep(chance.uniform(0, 1.5)), pacs.start()),
            "Orthanc empty": pacs.forget,
            "Orthanc frozen": lambda: pacs.freeze(chance.uniform(0.5, 4.0)),
            "appliance killed": lambda: (appliance.kill(), appliance.start()),
        }
        for number in range(count):
            time.sleep(chance.uniform(0.0, 1.5))
            (name,) = chance.choices(list(ways), weights=(4, 1, 2, 4))
            ways[name]()
            done[name] += 1
            print(f"\r{number + 1} of {count}: {dict(done)}, {time.time() - begin:.0f} s", end="", file=sys.stderr)
        sender.join()
        print(file=sys.stderr)
        # What Orthanc had committed before it forgot it, nobody but a person can know of.
        since = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(begin))
        for name in ("pacs", "web"):
            appliance.wait_final(images, timeout=600)
            where = ["--config", appliance.config_path]
            print(scanside("deliveries", "send-again", name, "--since", since, *where, check=True).stdout.strip())
        rows = _wait_delivered(appliance, images)
        store = appliance.store()
        objects = {item["sop_instance_uid"] for row in rows for item in store.objects(row["id"])}
        events = Counter(event["what"] for row in rows for event in store.events(row["id"]))
        held = pacs.held()
        print(f"{sum(done.values())} faults in {time.time() - begin:.0f} s: {dict(done)}")
        print(f"{images} images, {len(objects)} objects; sent {events['sent']} times, lost {events['lost']} times")
        print(f"states {dict(Counter(row['state'] for row in rows))}; undelivered {store.undelivered_count()}")
        print(f"Orthanc: missing {len(objects - set(held))}, twice {sum(n > 1 for n in held.values())}")
        store.close()
        appliance.stop()
        pacs.kill()


def _wait_delivered(appliance: RunningAppliance, images: int, seconds: float = 900) -> list[dict[str, Any]]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        rows = appliance.wait_final(images, timeout=seconds)
        time.sleep(0.5)
        if not any(row["waiting"] or row["to_commit"] for row in appliance.store().destinations()):
            return rows
    raise AssertionError("not delivered in time")


def drain(results: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root, port = Path(folder), free_port()
        files = [make_radiograph(root / "in" / f"{n}.dcm", rows=1024, columns=900, seed=n) for n in range(61)]
        pacs = MortalPacs(root / "pacs", port)
        appliance = _appliance(root, port, pacs, False, "timeout_seconds = 10.0")
        appliance.start()
        appliance.wait_ready()
        _read(appliance, files[:1])
        appliance.stop()
        _multiply(appliance, results)
        appliance.start()
        appliance.wait_ready()
        alone = _read(appliance, files[1:31])
        store = appliance.store()
        (row,) = store.destinations()
        print(f"{row['waiting']} objects wait; its failures so far: {row['failures']}")
        pacs.start()
        begin, busy = time.monotonic(), []
        while not store.destinations()[0]["sent"]:
            time.sleep(0.1)
        print(f"the first one was there {time.monotonic() - begin:.1f} s after the return")
        flowing = time.monotonic()
        for file in files[31:]:
            if store.destinations()[0]["waiting"] > 10:
                busy += _read(appliance, [file])
        while store.destinations()[0]["waiting"]:
            time.sleep(0.1)
            (row,) = store.destinations()
            print(f"\r{row['sent']} sent, {time.monotonic() - begin:.0f} s", end="", file=sys.stderr)
        seconds, (row,) = time.monotonic() - begin, store.destinations()
        rate = row["sent"] / (time.monotonic() - flowing)
        print(f"\n{row['sent']} objects were there {seconds:.1f} s after the return: {rate:.0f} a second")
        for name, found in (("before", alone), ("while it drained", busy)):
            median, late = np.median(found) * 1000, np.percentile(found, 95) * 1000
            print(f"an image {name} ({len(found)}): median {median:.0f} ms, p95 {late:.0f} ms")
        store.close()
        appliance.stop()
        pacs.kill()


def _read(appliance: RunningAppliance, files: list[Path]) -> list[float]:
    """What the worker took for each image, in all (seconds)."""
    to, found = Destination("SCANSIDE", "127.0.0.1", appliance.port), []
    store = appliance.store()
    for file in files:
        (sent,) = send_files([file], to, "BENCH", {}, associations=1)
        assert sent.ok, sent.error
        while not (rows := _resulted(store, sent.sop_instance_uid)):
            time.sleep(0.01)
        found.append(rows[0]["seconds"]["total"])
    store.close()
    return found


def _resulted(store: Store, uid: str) -> list[dict[str, Any]]:
    return [row for row in store.worklist(limit=50) if row["sop_instance_uid"] == uid and row["seconds"]]


def _multiply(appliance: RunningAppliance, results: int) -> None:
    """Have so many results wait, each with objects like those of the first, under UIDs of their own."""
    store = Store(appliance.data / "ledger.sqlite3")
    templates = [(item["kind"], appliance.data / "results" / item["path"]) for item in store.objects(1)]
    empty: dict[str, Any] = {"findings": [], "warnings": [], "provenance": {}, "seconds": {}, "urgent": False}
    for number in range(results):
        digest, objects = f"{number:064d}", []
        arrival = Arrival(f"1.2.{number}", "1.2", digest, f"{digest}.dcm", 1, "storage_scp", "BENCH")
        identifier = store.receive(arrival).instance_id
        for kind, path in templates:
            made, name = pydicom.dcmread(path), f"{identifier:08d}/{kind}.dcm"
            made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            (appliance.data / "results" / name).parent.mkdir(exist_ok=True)
            made.save_as(appliance.data / "results" / name)
            objects.append(WrittenObject(kind, made.SOPClassUID, made.SOPInstanceUID, name))
        assert store.claim("bench", 30)
        store.triage(identifier, "bench", {}, "routine", 0.0)
        store.finish(identifier, "bench", empty, objects, [(kind, "pacs") for kind, _ in templates])
    store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("kills", "drain"))
    parser.add_argument("--count", type=int, default=None, help="faults (100), or results that wait (1000)")
    parser.add_argument("--images", type=int, default=150)
    given = parser.parse_args()
    if given.what == "kills":
        kills(given.count or 100, given.images)
    else:
        drain(given.count or 1000)


if __name__ == "__main__":
    main()
