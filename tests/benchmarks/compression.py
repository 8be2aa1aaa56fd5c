"""What compression gains: float, pruned and int8 on each target's runtime, beside OpenVINO's own benchmark_app.

``python -m tests.benchmarks.compression`` needs the work folder of a build (``.build/chest-pneumonia``), which holds
the float networks, too. One image, one thread, medians of blocks of runs that take turns.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import torch

from compression.architectures.mobilenet_v2 import MobileNetV2
from compression.inference import INPUT, open_network
from compression.timing import milliseconds
from tests.running import CHECKOUT

SHAPE = (1, 1, 224, 224)
EAGER = ("torch eager", "unpruned float")


def main(work: Path) -> None:
    choices = json.loads((work / "gate" / "choices.json").read_bytes())
    files = {("cpu", "unpruned float"): work / "export" / "unpruned.onnx"}
    for choice in choices:
        for tried in choice["tried"]:
            files[choice["target"], tried["producer"].replace("float", "pruned float")] = work / tried["artifact"]
    torch.set_num_threads(1)
    eager = MobileNetV2.from_state(torch.load(work / "train" / "network.pt", weights_only=True), 0.0).eval()
    image = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    backends = {name: open_network(path.read_bytes(), name[0]) for name, path in files.items()}
    with torch.no_grad():
        medians = milliseconds(
            {
                str(EAGER): partial(eager, torch.from_numpy(image)),
                **{str(name): partial(backend.run, {INPUT: image}) for name, backend in backends.items()},
            }
        )
    base, full = medians[str(EAGER)], files["cpu", "unpruned float"].stat().st_size
    print(f"{EAGER[0]:<11} {EAGER[1]:<44.44} {base:7.2f} ms   1.0 times as fast")
    for name, path in files.items():
        median, size = medians[str(name)], path.stat().st_size
        print(
            f"{name[0]:<11} {name[1]:<44.44} {median:7.2f} ms  {base / median:4.1f} times as fast, "
            f"{size / 1e6:.2f} MB ({size / full:.0%})"
        )
    print("The target tensorrt runs on ONNX Runtime's CPU here, which is not what it is made for.")
    for name, path in files.items():
        if name[0] == "openvino":
            theirs = _benchmark_app(path)
            print(
                f"{name[0]:<11} {name[1]:<44.44} benchmark_app {theirs:.2f} ms; ours takes "
                f"{medians[str(name)] / theirs:.2f} of its time"
            )


def _benchmark_app(artifact: Path) -> float:
    """The median latency in milliseconds that OpenVINO's own tool measures on the same file."""
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(artifact) as archive:
            archive.extractall(folder)
        tool = Path(sys.executable).with_name("benchmark_app")
        command = [str(tool), "-m", f"{folder}/model.xml", "-hint", "none", "-nireq", "1", "-nstreams", "1",
                   "-nthreads", "1", "-api", "sync", "-t", "5", "-infer_precision", "f32"]  # fmt: skip
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r"Median:\s+([\d.]+) (ms|us)", said)
    assert found, said[-2000:]
    return float(found.group(1)) / (1000 if found.group(2) == "us" else 1)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else CHECKOUT / ".build" / "chest-pneumonia")
