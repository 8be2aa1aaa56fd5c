"""What the process boundary costs: the served throughput beside benchmark_app and a bare ONNX Runtime loop.

``python -m tests.benchmarks.serving`` takes turns with them on the same file, cores and batch, and prints medians of
the ratios. Then: the overhead for one image, and seconds from the start of ``scanside run`` to the first result.
"""

from __future__ import annotations

import io
import pickle
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from appliance import package
from appliance.backend import Options, cores
from appliance.inference import InferenceProcess
from appliance.preprocess import preprocess
from appliance.send import Destination, send_files
from tests.dicom_files import make_radiograph
from tests.running import RunningAppliance

ROUNDS, SECONDS, AT_ONCE = 5, 4.0, 64


def main() -> None:
    opened = package.read(package.bundled("chest-pneumonia")[0], None)
    spec = opened.manifest.input
    images = [{spec.name: preprocess(image, spec.steps)} for image in opened.golden()["images"]]
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "engines"
        with zipfile.ZipFile(io.BytesIO(opened.artifact("openvino"))) as archive:
            archive.extractall(folder)
        for lanes in sorted({1, cores()}):
            served = partial(_served, opened, "openvino", lanes, images, cache)
            _compare(
                f"openvino, {lanes} core(s)", served, partial(_benchmark_app, Path(folder), lanes), "benchmark_app"
            )
        for lanes in sorted({1, cores()}):
            served = partial(_served, opened, "onnxruntime", lanes, images, cache)
            _compare(f"cpu, {lanes} core(s)", served, partial(_bare_loop, opened, images, lanes), "bare loop")
        for name in ("onnxruntime", "openvino"):
            _overhead(opened, name, images, cache)
        for backend in ("openvino", "onnxruntime"):
            _first_result(Path(folder) / backend, backend)


def _served(opened: package.Package, name: str, lanes: int, images: list[dict[str, np.ndarray]], cache: Path) -> float:
    """Images a second through the inference process, many given at once."""
    process = InferenceProcess(opened, name, Options(threads=1, lanes=lanes, device="CPU", cache=cache))
    started = process.wait_until_started()
    assert not started.reason, started.reason
    together = [images[number % len(images)] for number in range(AT_ONCE)]
    process.run(together, 10.0)
    count, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < SECONDS:
        count += len(process.run(together, 10.0))
    rate = count / (time.perf_counter() - begin)
    process.close()
    return rate


def _benchmark_app(folder: Path, streams: int) -> float:
    """Frames a second, as OpenVINO's own tool measures them: one thread for each stream, one image in a call."""
    tool = Path(sys.executable).with_name("benchmark_app")
    command = [str(tool), "-m", str(folder / "model.xml"), "-hint", "none", "-nstreams", str(streams), "-nthreads",
               str(streams), "-nireq", str(streams), "-t", f"{SECONDS:.0f}", "-infer_precision", "f32"]  # fmt: skip
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r"Throughput:\s+([\d.]+) FPS", said)
    assert found, said[-2000:]
    return float(found.group(1))


_LOOP = """
import sys, time, threading, pickle
import numpy as np, onnxruntime
artifact, images, lanes, seconds = pickle.load(sys.stdin.buffer)
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(artifact, options, providers=["CPUExecutionProvider"])
session.run(None, images[0])
counts = [0] * lanes
def loop(lane):
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds:
        session.run(None, images[counts[lane] % len(images)])
        counts[lane] += 1
threads = [threading.Thread(target=loop, args=(lane,)) for lane in range(lanes)]
begin = time.perf_counter()
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(sum(counts) / (time.perf_counter() - begin))
"""


def _bare_loop(opened: package.Package, images: list[dict[str, np.ndarray]], lanes: int) -> float:
    """Images a second of ``session.run`` and nothing else, one thread for each lane."""
    given = pickle.dumps((opened.artifact("cpu"), images, lanes, SECONDS))
    done = subprocess.run([sys.executable, "-c", _LOOP], input=given, capture_output=True, check=True)
    return float(done.stdout)


def _compare(what: str, served: Callable[[], float], other: Callable[[], float], name: str) -> None:
    pairs = [(served(), other()) for _ in range(ROUNDS)]
    ours, theirs = np.median(pairs, axis=0)
    ratio = np.median([mine / its for mine, its in pairs])
    print(f"{what:<20} served {ours:6.0f} images/s, {name} {theirs:6.0f}, ratio {ratio:.2f}", flush=True)


def _overhead(opened: package.Package, name: str, images: list[dict[str, np.ndarray]], cache: Path) -> None:
    process = InferenceProcess(opened, name, Options(device="CPU", cache=cache))
    process.wait_until_started()
    taken, inside = [], []
    for number in range(2000):
        begin = time.perf_counter()
        (output,) = process.run([images[number % len(images)]], 10.0)
        taken.append(time.perf_counter() - begin)
        inside.append(output.seconds)
    process.close()
    extra = np.subtract(taken, inside)[100:] * 1000
    print(
        f"{name:<20} the boundary costs {np.median(extra):.3f} ms an image, p95 {np.percentile(extra, 95):.3f} ms",
        flush=True,
    )


def _first_result(folder: Path, backend: str) -> None:
    """From starting the process to the first result, with receipts and compiled networks of an earlier run."""
    appliance = RunningAppliance(folder, f'[inference]\nbackend = "{backend}"\n', python=sys.executable)
    seconds = []
    for number in range(4):
        begin = time.monotonic()
        appliance.start()
        another = make_radiograph(folder / f"{number}.dcm", rows=2500, columns=2048, bits=16, seed=number)
        sent = list(send_files([another], Destination("SCANSIDE", "127.0.0.1", appliance.port), "BENCH", {}, 1))
        assert sent[0].ok, sent[0].error
        appliance.wait_final(number + 1)
        seconds.append(time.monotonic() - begin)
        appliance.stop()
    warm = np.median(seconds[1:])
    print(f"{backend:<20} start to first result: cold {seconds[0]:.2f} s, warm {warm:.2f} s", flush=True)


if __name__ == "__main__":
    main()
