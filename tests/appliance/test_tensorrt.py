"""The backend ``tensorrt`` without a GPU: its probe, and all else on stand-ins in a process of their own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from appliance import backends, package
from tests import stand_ins
from tests.running import CHECKOUT


@pytest.mark.long
@pytest.mark.skipif(not package.bundled("chest-pneumonia"), reason="no model package is bundled")
@pytest.mark.parametrize("version", ["10.16.1.11", "11.4.0.106"])
def test_all_of_it_on_stand_ins(version: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="needs onnx, which only the training environment has")
    tests = CHECKOUT / "tests" / "appliance" / "tensorrt_on_stand_ins.py"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)],
        cwd=CHECKOUT,
        env=stand_ins.environment(tmp_path, version),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


@pytest.mark.parametrize(
    ("changed", "version", "words"),
    [
        ({}, "10.3.0", None),
        ({}, "11.4.0.106", None),
        ({"LD_LIBRARY_PATH": ""}, "10.3.0", r"libcuda\.so\.1: .*install NVIDIA's driver"),
        ({"STAND_IN_CUINIT": "100"}, "10.3.0", r"cuInit gave 100, no CUDA-capable device is detected; .*/dev/nvidia"),
        ({"STAND_IN_CUINIT": "999"}, "10.3.0", "cuInit gave 999, unknown"),
        ({"STAND_IN_CUINIT": "crash"}, "10.3.0", "its process was ended by SIGSEGV"),
        ({"STAND_IN_GPUS": "0"}, "10.3.0", "no GPU that CUDA can use: it counts none"),
        ({}, "8.6.2", r"TensorRT 8\.6\.2 is too old, 10 is needed: .*apt install python3-libnvinfer"),
    ],
    ids=["10", "11", "no driver", "no device", "unknown error", "crash", "none", "old"],
)
def test_the_probe_says_why_not(
    changed: dict[str, str], version: str, words: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnx")
    for name, value in {**stand_ins.environment(tmp_path, version), **changed}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(backends, "missing", lambda name: None)  # neither this process nor the kernel has any
    reason = backends.probe("tensorrt")
    assert reason is None if words is None else re.search(words, reason or ""), reason
