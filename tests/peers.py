"""Real peers for tests: dcmtk's tools, a Storage SCP, Orthanc as the PACS, all on free loopback ports."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

_PACKAGES = {
    "promtool": "prometheus",
    "storescu": "dcmtk", "storescp": "dcmtk", "echoscu": "dcmtk", "dcmsend": "dcmtk", "dsrdump": "dcmtk",
    "dcmcjpeg": "dcmtk", "dcmmkdir": "dcmtk", "wlmscpfs": "dcmtk", "dump2dcm": "dcmtk", "dcmdjpeg": "dcmtk",
    "dcmdjpls": "dcmtk", "dcmcjpls": "dcmtk", "dcmcrle": "dcmtk", "dcmconv": "dcmtk",
    "findscu": "dcmtk", "dcmpschk": "dcmtk", "dcmp2pgm": "dcmtk",
    "dciodvfy": "dicom3tools", "DicomSRValidator": "pixelmed-apps", "java": "default-jre-headless",
    "Orthanc": "orthanc", "chromium": "chromium",
}  # fmt: skip


def needs(program: str) -> str:
    """The program's path; skips the test where it is missing, and says which Debian package has it."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed (Debian package {_PACKAGES[program]})")
    return found


def dicomweb_plugin() -> str:
    """Orthanc's plug-in that speaks DICOMweb; skips the test where it is missing."""
    needs("Orthanc")
    path = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
    if not path.exists():
        pytest.skip(f"{path} is not installed (Debian package orthanc-dicomweb)")
    return str(path)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"nothing listens on port {port}")


@dataclass
class Pacs:
    """A running Orthanc."""

    ae_title: str
    port: int
    http_port: int

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=10) as answer:
            return json.load(answer)

    def post(self, path: str, content: bytes) -> Any:
        request = urllib.request.Request(f"http://127.0.0.1:{self.http_port}{path}", data=content)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def sop_class_uids(self) -> list[str]:
        """Of every instance that it holds."""
        return [str(self.get(f"/instances/{name}/simplified-tags")["SOPClassUID"]) for name in self.get("/instances")]


@contextmanager
def orthanc(folder: Path, port: int | None = None, **more: Any) -> Iterator[Pacs]:
    """Orthanc with an empty store, taking whatever is sent; ``more`` settings in its own words."""
    program = needs("Orthanc")
    folder.mkdir(parents=True, exist_ok=True)
    pacs = Pacs("ORTHANC", port or free_port(), free_port())
    settings = {
        "Name": "test", "StorageDirectory": str(folder / "store"), "IndexDirectory": str(folder / "store"),
        "DicomAet": pacs.ae_title, "DicomPort": pacs.port, "HttpPort": pacs.http_port, "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False, "DicomAlwaysAllowStore": True, "DicomAlwaysAllowEcho": True,
        "DicomCheckCalledAet": True, "UnknownSopClassAccepted": False, "Plugins": [], **more,
    }  # fmt: skip
    path = folder / "orthanc.json"
    path.write_text(json.dumps(settings))
    with (folder / "orthanc.log").open("w") as log:
        process = subprocess.Popen([program, str(path)], stdout=log, stderr=log)
    try:
        wait_for_port(pacs.port)
        wait_for_port(pacs.http_port)
        yield pacs
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def storescp(folder: Path, *options: str, port: int | None = None) -> Iterator[int]:
    """dcmtk's storescp writing into a folder; its port."""
    program = needs("storescp")
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    process = subprocess.Popen(
        [program, *options, "--output-directory", str(folder), str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for_port(port)
        yield port
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own that is soon full; skips where this user may not mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("a small disk can't be mounted here (that takes root)")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 30) -> Any:
    """What the condition gives once it is true of it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds:.0f} s: {what}")
