"""What the Storage SCP takes a second, and its CPU time, beside Orthanc and storescp in the same run.

python -m tests.benchmarks.ingest [--rounds 3] [--only NAME ...] [--folder FOLDER]

dcmsend is the sender. Each receiver starts on an empty folder. Scanside is its receiving side alone, as `scanside run`
has it in a process of its own: files and ledger rows are on disk before each Success. Orthanc syncs its files, too;
storescp does not. All have TCP_NODELAY=1, without which dcmtk's receivers stall 40 ms for each instance.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from pydicom.uid import CTImageStorage

from appliance import config
from appliance.ingest import Intake
from appliance.ingest.storage_scp import StorageScp
from appliance.spool import Spool
from appliance.store import Store
from tests.dicom_files import make_radiograph
from tests.peers import free_port, needs, wait_for_port
from tests.running import CHECKOUT

SHAPES = {"radiographs of 10 MB": (48, 2560, 2048), "slices of 0.5 MB": (480, 512, 512)}
ASSOCIATIONS = (1, 4)
_ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1"}


@dataclass
class Run:
    seconds: float
    cpu_seconds: float


def receive(folder: Path, port: int) -> None:
    """Scanside's receiving side, until it is killed."""
    store = Store(folder / "ledger.sqlite3")
    spool = Spool(folder / "spool")
    spool.make_folders()
    intake = Intake(spool, store, lambda: None)
    StorageScp(config.StorageScp(host="127.0.0.1", port=port), intake).start()
    time.sleep(3600)


@contextlib.contextmanager
def running(command: list[str], port: int) -> Iterator[psutil.Process]:
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=_ENVIRONMENT, cwd=CHECKOUT
    )
    try:
        wait_for_port(port)
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(60)


def scanside(folder: Path, port: int) -> list[str]:
    return [sys.executable, "-m", "tests.benchmarks.ingest", "--receive", str(folder), str(port)]


def orthanc(folder: Path, port: int) -> list[str]:
    settings = {
        "StorageDirectory": str(folder / "store"), "IndexDirectory": str(folder / "store"), "DicomPort": port,
        "HttpPort": free_port(), "DicomAlwaysAllowStore": True, "DicomCheckCalledAet": False, "Plugins": [],
        "SyncStorageArea": True, "MaximumPduLength": 131072, "RemoteAccessAllowed": False,
    }  # fmt: skip
    path = folder / "orthanc.json"
    path.write_text(json.dumps(settings))
    return [needs("Orthanc"), str(path)]


def storescp(folder: Path, port: int) -> list[str]:
    (folder / "store").mkdir()
    return [needs("storescp"), "+B", "--fork", "-pdu", "131072", "-od", str(folder / "store"), str(port)]


RECEIVERS: dict[str, Callable[[Path, int], list[str]]] = {
    "scanside": scanside,
    "Orthanc": orthanc,
    "storescp": storescp,
}


def one(receiver: str, files: list[Path], associations: int, folder: Path) -> Run:
    with tempfile.TemporaryDirectory(dir=folder) as place:
        port = free_port()
        with running(RECEIVERS[receiver](Path(place), port), port) as process:
            before, begin = _cpu(process), time.monotonic()
            senders = [
                subprocess.Popen(
                    [needs("dcmsend"), "-pdu", "131072", "127.0.0.1", str(port), *map(str, files[n::associations])],
                    env=_ENVIRONMENT,
                )
                for n in range(associations)
            ]
            assert [sender.wait(600) for sender in senders] == [0] * associations
            seconds = time.monotonic() - begin
            time.sleep(0.3)  # for the children of storescp to end
            return Run(seconds, _cpu(process) - before)


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


def measure(shape: str, receivers: list[str], rounds: int, folder: Path) -> None:
    count, rows, columns = SHAPES[shape]
    chance = np.random.default_rng(1)
    files = [
        make_radiograph(
            folder / shape.replace(" ", "-") / f"{n}.dcm",
            pixels=chance.integers(0, 4096, (rows, columns), np.uint16),
            **({} if rows > 1000 else {"SOPClassUID": CTImageStorage, "Modality": "CT"}),
        )
        for n in range(count)
    ]
    gigabytes = sum(path.stat().st_size for path in files) / 1e9
    for associations in ASSOCIATIONS:
        runs: dict[str, list[Run]] = {receiver: [] for receiver in receivers}
        for _ in range(rounds):
            for receiver in receivers:
                runs[receiver].append(one(receiver, files, associations, folder))
        print(f"{count} {shape}, {associations} association{'s' if associations > 1 else ''}, median of {rounds}:")
        for receiver in receivers:
            seconds = statistics.median(run.seconds for run in runs[receiver])
            cpu = statistics.median(run.cpu_seconds for run in runs[receiver])
            print(
                f"  {receiver:<10} {gigabytes * 1000 / seconds:6.0f} MB/s {count / seconds:6.0f} instances/s "
                f"{cpu / gigabytes:6.2f} CPU-seconds per GB",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=RECEIVERS, default=list(RECEIVERS), metavar="RECEIVER")
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default: the temporary folder")
    parser.add_argument("--receive", nargs=2, metavar=("FOLDER", "PORT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.receive:
        receive(Path(options.receive[0]), int(options.receive[1]))
        sys.exit()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for shape in SHAPES:
            measure(shape, options.only, options.rounds, Path(folder))


if __name__ == "__main__":
    main()
