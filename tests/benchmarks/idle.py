"""What 1000 connections that say nothing, or not enough, cost the Storage SCP, and whoever sends meanwhile.

python -m tests.benchmarks.idle

Exit code 1 where a C-STORE takes more than 1 s, or memory grows by more than 50 MiB.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tests.benchmarks.ingest import running, scanside
from tests.dicom_files import make_radiograph
from tests.peers import free_port, needs

CONNECTIONS, STORES, SECONDS = 1000, 10, 5.0
LONGEST_SECONDS, MOST_MIB = 1.0, 50.0
WORDS = {"silent": b"", "half a PDU header": b"\x01\0\0", "4 GiB announced": b"\x01\0\xff\xff\xff\xff"}


def store(port: int, path: Path) -> float:
    begin = time.monotonic()
    subprocess.run([needs("storescu"), "127.0.0.1", str(port), str(path)], check=True)
    return time.monotonic() - begin


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        files = [make_radiograph(root / f"{n}.dcm", seed=n) for n in range(STORES * (len(WORDS) + 1))]
        port = free_port()
        with running(scanside(root, port), port) as process:
            alone = [store(port, files.pop()) for _ in range(STORES)]
            print(f"nobody else: C-STORE median {statistics.median(alone):.3f} s, longest {max(alone):.3f} s")
            held = [
                _measure(process, port, name, words, [files.pop() for _ in range(STORES)])
                for name, words in WORDS.items()
            ]
    sys.exit(0 if all(held) else 1)


def _measure(process: psutil.Process, port: int, name: str, words: bytes, files: list[Path]) -> bool:
    """Whether the aims were met."""
    before, begin, cpu = process.memory_info().rss, time.monotonic(), process.cpu_times()
    with contextlib.ExitStack() as stack:
        for _ in range(CONNECTIONS):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            connection.sendall(words)
        seconds = [store(port, path) for path in files]
        time.sleep(max(SECONDS - (time.monotonic() - begin), 0.0))
        after, end = process.memory_info().rss, process.cpu_times()
    used, grown = end.user + end.system - cpu.user - cpu.system, (after - before) / 2**20
    print(
        f"{CONNECTIONS} connections, {name}: C-STORE median {statistics.median(seconds):.3f} s, longest "
        f"{max(seconds):.3f} s; memory {grown:+.1f} MiB, "
        f"{used / (time.monotonic() - begin) * 100:.1f} % of a core, {process.num_threads()} threads",
        flush=True,
    )
    return max(seconds) <= LONGEST_SECONDS and grown <= MOST_MIB


if __name__ == "__main__":
    main()
