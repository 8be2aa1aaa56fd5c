"""Damaged files by the ten thousand and bombs through the sandbox and the pipeline; and what the sandbox costs.

python -m tests.benchmarks.hostile [--files 20000] [--seed 1]

Each file must end as a result, rejected or quarantined, none after more than 10 s. The speed of well-behaved files is
told beside reading them in the same process, in turns.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pydicom
from pydicom.uid import JPEG2000Lossless

from appliance import image, in_service, log, package, pipeline, writer
from appliance.config import Config, Models
from appliance.errors import InputError, QuarantineError, SandboxError
from appliance.image import Reader
from appliance.pipeline import Pipeline, Stopwatch, write_objects
from appliance.sandbox import Sandbox
from tests import hostile_files
from tests.dicom_files import make_radiograph

MOST_SECONDS = 10.0
_LARGEST = 300_000  # bytes of a real file that is damaged


def end(opened: Pipeline, sandbox: Sandbox, path: Path) -> tuple[str, float, int]:
    """How a file ends, by the steps that the worker takes, in how many seconds.

    And how often it was put off before, as there, since the machine was too busy to give the sandbox its time.
    """
    put_off = 0
    while True:
        begin = time.monotonic()
        try:
            return _end(opened, sandbox, path), time.monotonic() - begin, put_off
        except SandboxError:
            put_off += 1


def _end(opened: Pipeline, sandbox: Sandbox, path: Path) -> str:
    stopwatch = Stopwatch()
    try:
        header = sandbox.read_header(path)
        image.describe(header)
        image.place_in_series(header)
        reading = opened.infer(opened.prepare([path], [header], stopwatch, sandbox), stopwatch)
        for _, dataset in write_objects(reading, ("structured_report", "secondary_capture")):
            writer.to_bytes(dataset)
        pipeline.previews(reading)
    except QuarantineError as error:
        return f"quarantined: {error}"
    except InputError:
        return "rejected"
    except SandboxError:
        raise
    except Exception as error:  # noqa: BLE001  the worker quarantines it, too
        return f"quarantined by a surprise: {type(error).__name__}: {error}"
    return "resulted"


def seconds(reader: Reader, path: Path) -> float:
    begin = time.perf_counter()
    reader.load(path, reader.read_header(path))
    return time.perf_counter() - begin


def cost(sandbox: Sandbox, folder: Path) -> None:
    made = {
        "radiograph, 2500 x 2048, 16 bits": make_radiograph(folder / "a.dcm", rows=2500, columns=2048, bits=16),
        "slice, 512 x 512": make_radiograph(folder / "b.dcm", rows=512, columns=512),
        "radiograph, JPEG 2000": make_radiograph(
            folder / "c.dcm", rows=2500, columns=2048, transfer_syntax=JPEG2000Lossless
        ),
    }
    for name, path in made.items():
        taken = [(seconds(image, path), seconds(sandbox, path)) for _ in range(20)]
        plain, boxed = (statistics.median(each) * 1000 for each in zip(*taken, strict=True))
        print(f"{name}: in the same process {plain:.1f} ms, in the sandbox {boxed:.1f} ms, ratio {boxed / plain:.2f}")


class Ends:
    """How files end, counted."""

    def __init__(self, opened: Pipeline, sandbox: Sandbox) -> None:
        self._opened, self._sandbox = opened, sandbox
        self._ends, self._reasons, self._put_off = Counter[str](), Counter[str](), 0
        self._slowest: list[tuple[float, str]] = []
        self._begin = time.monotonic()

    @property
    def slowest(self) -> float:
        """Seconds."""
        return self._slowest[0][0]

    def of(self, path: Path, name: str) -> str:
        ended, taken, put_off = end(self._opened, self._sandbox, path)
        self._put_off += put_off
        self._slowest = sorted([*self._slowest, (taken, f"{name}: {ended}")], reverse=True)[:5]
        self._ends[ended.partition(":")[0]] += 1
        if ended.startswith("quarantined"):
            self._reasons[ended] += 1
        return ended

    def tell(self) -> None:
        print(f"{self._ends.total()} files in {time.monotonic() - self._begin:.0f} s: {dict(self._ends)}")
        print(f"{self._sandbox.stops} processes replaced; {self._put_off} readings put off, the machine being too busy")
        for taken, name in self._slowest:
            print(f"slowest: {taken:.2f} s, {name[:150]}")
        for words, count in self._reasons.most_common(12):
            print(f"{count:6} {words[:150]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    log.set_up("critical")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = Config(data_dir=name, models=Models(packages=tuple(map(str, package.bundled("chest-pneumonia")))))
        opened = Pipeline.open(config, in_service.try_out(config), writer.derived_uid("benchmark"))
        sandbox = Sandbox(config.sandbox)
        cost(sandbox, folder)
        ends = Ends(opened, sandbox)
        real = hostile_files.real_files()
        for path in real:
            ends.of(path, path.name)
        for path in hostile_files.bombs(folder):
            print(f"{path.name}: {ends.of(path, path.name)}")
        _damaged(ends, folder, real, options.files, random.Random(options.seed))
        ends.tell()
        sandbox.close()
        opened.close()
    sys.exit(1 if ends.slowest > MOST_SECONDS else 0)


def _damaged(ends: Ends, folder: Path, real: list[Path], files: int, chance: random.Random) -> None:
    radiographs = [path.read_bytes() for path in hostile_files.sources(folder)]
    originals = [path.read_bytes() for path in real if path.stat().st_size < _LARGEST and _is_dicom(path)]
    damaged, begin, said_at = folder / "damaged.dcm", time.monotonic(), 0.0
    for number in range(files):
        original = chance.choice(radiographs if number % 2 else originals)  # others are seldom decoded
        damaged.write_bytes(hostile_files.mutated(original, chance))
        ends.of(damaged, f"damaged file {number}")
        if time.monotonic() - said_at > 1.0:
            said_at = time.monotonic()
            left = (said_at - begin) / (number + 1) * (files - number - 1)
            words = f"{number + 1} of {files} files, {left / 60:.1f} min left, slowest {ends.slowest:.1f} s"
            print(f"\r{words} ", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)


def _is_dicom(path: Path) -> bool:
    try:
        pydicom.dcmread(path, stop_before_pixels=True)
    except Exception:  # noqa: BLE001
        return False
    return True


if __name__ == "__main__":
    main()
