"""What stands in for a GPU with TensorRT: a Python package ``tensorrt`` and a ``libcuda.so.1`` in C.

They take effect in processes that get `environment`; nothing of the product knows of them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.running import CHECKOUT

_HERE = Path(__file__).resolve().parent


def shared_library(source: Path | str, path: Path) -> Path:
    """Compile C, a file or its text; skips the test where there is no compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler (Debian: gcc), which is not here")
    text = source.read_text() if isinstance(source, Path) else source
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [compiler, "-shared", "-fPIC", "-pthread", "-x", "c", "-", "-o", str(path)]
    subprocess.run(command, input=text.encode(), check=True)
    return path


def libcuda(folder: Path) -> Path:
    """The folder with the driver's stand-in."""
    return shared_library(_HERE / "libcuda.c", folder / "libcuda" / "libcuda.so.1").parent


def installed(folder: Path, version: str) -> Path:
    """A folder for the path that says which TensorRT is installed, as pip and apt do."""
    metadata = folder / f"tensorrt-{version}" / f"tensorrt-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True, exist_ok=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: tensorrt\nVersion: {version}\n")
    return metadata.parent.parent


def environment(folder: Path, version: str = "10.16.1.11") -> dict[str, str]:
    """The environment of a process that finds a GPU and this TensorRT."""
    path = os.pathsep.join(map(str, (installed(folder, version), _HERE, CHECKOUT)))
    return {**os.environ, "PYTHONPATH": path, "LD_LIBRARY_PATH": str(libcuda(folder))}
