"""Seconds until ``scanside run`` is ready, its memory when idle after some work, the size of a fresh environment."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import psutil

from appliance.send import Destination, send_files
from tests.dicom_files import make_radiograph
from tests.running import CHECKOUT, RunningAppliance


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        starts = []
        for number in range(5):
            appliance = RunningAppliance(root / str(number))
            starts.append(appliance.start())
            if number < 4:
                appliance.stop()
        print(f"ready after {median(starts):.2f} s (median of {len(starts)}, longest {max(starts):.2f} s)")
        files = [make_radiograph(root / f"{n}.dcm", rows=2500, columns=2048, bits=16, seed=n) for n in range(3)]
        list(send_files(files, Destination("SCANSIDE", "127.0.0.1", appliance.port), "BENCH", {}, associations=1))
        appliance.wait_final(len(files))
        time.sleep(10)
        assert appliance.process is not None
        main_process = psutil.Process(appliance.process.pid)
        processes = [main_process, *main_process.children(recursive=True)]
        for process in processes:
            memory = process.memory_full_info()
            print(f"  rss {memory.rss / 2**20:.0f} MB, own {memory.uss / 2**20:.0f} MB: {process.cmdline()[1:4]}")
        resident = sum(process.memory_info().rss for process in processes)
        print(f"idle: {resident / 2**20:.0f} MB resident in {len(processes)} processes")
        appliance.stop()
        environment = root / "venv"
        begin = time.monotonic()
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        subprocess.run([environment / "bin" / "pip", "install", "--quiet", str(CHECKOUT)], check=True)
        used = subprocess.run(["du", "-sm", environment], check=True, capture_output=True, text=True).stdout.split()[0]
        print(f"device environment: {used} MB on disk, made in {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main()
