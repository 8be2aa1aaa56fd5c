"""How long ``scanside run`` takes to be ready, what it weighs in memory when idle, and a fresh environment on disk."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import psutil

from tests.running import CHECKOUT, RunningAppliance


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        starts = []
        for number in range(5):
            appliance = RunningAppliance(root / str(number))
            starts.append(appliance.start())
            if number < 4:
                appliance.stop()
        print(f"ready after {median(starts):.2f} s (median of {len(starts)}, longest {max(starts):.2f} s)")
        time.sleep(10)
        assert appliance.process is not None
        processes = [
            psutil.Process(appliance.process.pid),
            *psutil.Process(appliance.process.pid).children(recursive=True),
        ]
        for process in processes:
            memory = process.memory_full_info()
            print(
                f"  {process.pid} rss {memory.rss / 2**20:.0f} MB, own {memory.uss / 2**20:.0f} MB: {process.cmdline()[1:4]}"
            )
        print(
            f"idle: {sum(each.memory_info().rss for each in processes) / 2**20:.0f} MB resident in {len(processes)} processes"
        )
        appliance.stop()
        environment = root / "venv"
        begin = time.monotonic()
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        subprocess.run([environment / "bin" / "pip", "install", "--quiet", str(CHECKOUT)], check=True)
        used = subprocess.run(["du", "-sm", environment], check=True, capture_output=True, text=True).stdout.split()[0]
        print(f"device environment: {used} MB on disk, made in {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main()
