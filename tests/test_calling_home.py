"""Libraries that report their use to their makers are kept from it: device and training side call nobody."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.dicom_files import make_radiograph
from tests.running import CHECKOUT

# What would keep them silent by itself, on a machine that tests.
_OF_TESTS = ("CI", "NNCF_CI", "NNCF_DEV", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS", "NO_ALBUMENTATIONS_UPDATE")


def run(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python in a home of its own, as on a user's machine."""
    environment = {name: value for name, value in os.environ.items() if name not in _OF_TESTS}
    folders = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_DATA_HOME"), str(home))
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=CHECKOUT,
        env=environment | folders,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.long
def test_the_device_makes_no_identity_and_no_queue_of_reports(tmp_path: Path) -> None:
    # ONNX Runtime 1.32 leaves .ses, a device id and a database of events (Microsoft/DeveloperTools) in these folders
    # as soon as a session is made; OpenVINO intel/openvino_ga_cid as soon as it is imported.
    source = make_radiograph(tmp_path / "sources" / "a.dcm")
    (home := tmp_path / "home").mkdir()
    done = run(home, "-m", "appliance", "infer", str(source), "--json")
    assert json.loads(done.stdout)["status"] == "resulted", done.stdout + done.stderr
    assert not {path.name for path in home.rglob("*")} & {".ses", "Microsoft", "intel"}


def test_the_training_side_loads_nothing_that_reports(tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    code = """
import socket
def connect(*arguments, **options): raise AssertionError(f"a connection to {arguments}")
socket.getaddrinfo = socket.create_connection = connect
import compression
import albumentations, nncf, openvino
from nncf.telemetry.wrapper import NNCFTelemetryStub, telemetry
from openvino.tools.ovc import telemetry_stub, telemetry_utils
assert isinstance(telemetry, NNCFTelemetryStub), telemetry
assert telemetry_utils.tm is telemetry_stub, telemetry_utils.tm
"""
    done = run(tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not (tmp_path / "intel").exists()
