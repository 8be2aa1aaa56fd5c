"""What compression gains: float, pruned and int8 on each target's runtime, beside OpenVINO's own benchmark_app.

``python -m tests.benchmarks.compression`` needs the work folder of a build (``.build/chest-pneumonia``), which holds
the float networks, too. One image, one thread, medians of runs in turn.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import torch

from compression.architectures import MobileNetV2
from compression.inference import INPUT, RUNTIMES
from tests.running import CHECKOUT

ROUNDS, WARM_UP = 100, 10
SHAPE = (1, 1, 224, 224)


def main(work: Path) -> None:
    quantized = work / "quantize"
    files = {
        ("cpu", "unpruned float"): work / "export" / "unpruned.onnx",
        ("cpu", "pruned float"): quantized / "cpu" / "float.onnx",
        ("cpu", "pruned int8"): quantized / "cpu" / "int8.onnx",
        ("openvino", "pruned float"): quantized / "openvino" / "float.zip",
        ("openvino", "pruned int8"): quantized / "openvino" / "int8.zip",
        ("tensorrt", "pruned int8, on ONNX Runtime's CPU"): quantized / "tensorrt" / "int8.onnx",
    }
    torch.set_num_threads(1)
    eager = MobileNetV2.from_state(torch.load(work / "train" / "network.pt", weights_only=True), 0.0).eval()
    image = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    backends = {name: RUNTIMES[name[0]].open(path.read_bytes(), threads=1) for name, path in files.items()}
    seconds: dict[tuple[str, str], list[float]] = {name: [] for name in files}
    torch_seconds = []
    with torch.no_grad():
        for number in range(ROUNDS + WARM_UP):
            start = time.perf_counter()
            eager(torch.from_numpy(image))
            torch_seconds.append(time.perf_counter() - start)
            for name, backend in backends.items():
                start = time.perf_counter()
                backend.run({INPUT: image})
                if number >= WARM_UP:
                    seconds[name].append(time.perf_counter() - start)
    base = float(np.median(torch_seconds[WARM_UP:])) * 1000
    full = files["cpu", "unpruned float"].stat().st_size
    print(f"{'torch eager':<10} {'unpruned float':<36} {base:7.2f} ms   1.0 times as fast")
    for (target, what), values in seconds.items():
        median, size = float(np.median(values)) * 1000, files[target, what].stat().st_size
        print(
            f"{target:<11} {what:<36} {median:7.2f} ms  {base / median:4.1f} times as fast, "
            f"{size / 1e6:.2f} MB ({size / full:.0%})"
        )
    for what in ("pruned float", "pruned int8"):
        ours = float(np.median(seconds["openvino", what])) * 1000
        theirs = _benchmark_app(files["openvino", what])
        print(f"{'openvino':<11} {what:<36} benchmark_app {theirs:.2f} ms; ours takes {ours / theirs:.2f} of its time")


def _benchmark_app(artifact: Path) -> float:
    """The median latency in milliseconds that OpenVINO's own tool measures on the same file."""
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(artifact) as archive:
            archive.extractall(folder)
        tool = Path(sys.executable).with_name("benchmark_app")
        command = [str(tool), "-m", f"{folder}/model.xml", "-hint", "none", "-nireq", "1", "-nstreams", "1",
                   "-nthreads", "1", "-api", "sync", "-t", "5", "-infer_precision", "f32"]  # fmt: skip
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r"Median:\s+([\d.]+) ms", said)
    assert found, said[-2000:]
    return float(found.group(1))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else CHECKOUT / ".build" / "chest-pneumonia")
