"""NVIDIA's own Python bindings of TensorRT, which come as small wheels, over libraries that do nothing.

The libraries behind them are not to be had here. They are replaced by ones whose functions all give null: enough to
load the bindings and to read what they define, and as much as a TensorRT that finds no GPU.

As a program: print what the bindings define, as JSON.
"""

from __future__ import annotations

import enum
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.running import CHECKOUT
from tests.stand_ins import shared_library

VERSIONS = ("10.16.1.11", "11.4.0.106")
_FOLDER = CHECKOUT / ".build" / "tensorrt"
_PACKAGE = "tensorrt-cu13-bindings"
_SIGNATURE = re.compile(r"^(?:\d+\. )?\w+\((?P<parameters>.*)\) -> (?P<result>.*)$", re.MULTILINE)


def environment(version: str) -> dict[str, str]:
    """The environment of a process that has the bindings as ``tensorrt``; skips the test where they can't be had."""
    folder = _FOLDER / version
    extension = next(folder.glob("tensorrt_bindings/tensorrt*.so"), None) or _fetch(version, folder)
    (folder / "tensorrt.py").write_text(
        "import sys\nimport tensorrt_bindings\nsys.modules[__name__] = tensorrt_bindings\n"
    )
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (folder, CHECKOUT))),
        "LD_LIBRARY_PATH": str(_empty_libraries(extension, folder / "libraries")),
    }


def _fetch(version: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    done = subprocess.run(
        [*command, "--dest", str(folder), f"{_PACKAGE}=={version}"], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"pip can't get {_PACKAGE} {version} for this Python: {done.stderr.strip().splitlines()[-1]}")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return next(folder.glob("tensorrt_bindings/tensorrt*.so"))


def _empty_libraries(extension: Path, folder: Path) -> Path:
    """What the extension is linked to and is not here, with the functions that it calls there."""
    if shutil.which("nm") is None or shutil.which("readelf") is None:
        pytest.skip("needs nm and readelf (Debian: binutils), which are not here")
    wanted = re.findall(r"NEEDED.*\[(libnv[^\]]*)\]", _output("readelf", "-d", str(extension)))
    symbols = re.findall(r"^ +U (\w+)$", _output("nm", "-D", "--undefined-only", str(extension)), re.MULTILINE)
    source = "".join(f"void *{name}(void) {{ return 0; }}\n" for name in symbols if not re.match(r"_?Py|dl", name))
    for name in wanted:
        if not (folder / name).exists():
            shared_library(source if name.startswith("libnvinfer.") else "", folder / name)
    return folder


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _described(kind: type) -> dict[str, Any]:
    """The public members of a class: for a method its overloads, for a property whether it can be set."""
    methods = {"__init__": _overloads(kind.__init__)}  # type: ignore[misc]
    properties = {}
    for name, member in inspect.getmembers(kind):
        if isinstance(member, property):
            properties[name] = member.fset is not None
        elif not name.startswith("_") and callable(member):
            methods[name] = _overloads(member)
    return {"methods": methods, "properties": properties, "members": sorted(getattr(kind, "__members__", ()))}


def _overloads(method: Any) -> list[dict[str, Any]]:
    """From pybind11's docstring: names of the parameters without self, how many are needed, the result."""
    found = []
    for match in _SIGNATURE.finditer(method.__doc__ or ""):
        parameters = re.findall(r"(\w+): [^=]*?( = [^,]*)?(?:, (?=\w+: )|$)", match["parameters"])
        result = re.sub(r"(\w+\.|\w+::)*(\w+)", r"\2", match["result"])
        needed = sum(not default for name, default in parameters if name != "self")
        found.append({"names": [name for name, _ in parameters if name != "self"], "needed": needed, "result": result})
    return found


def _main() -> None:
    import tensorrt as trt

    classes = {name: _described(value) for name, value in vars(trt).items() if isinstance(value, type)}
    severity = _described(trt.ILogger.Severity)
    functions = {
        name: list(inspect.signature(value).parameters)
        for name, value in vars(trt).items()
        if inspect.isfunction(value)
    }
    answers = {
        "flag": 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED),
        "dims": [tuple(trt.Dims((1, -1, 3))), [*trt.Dims((2, 3))], trt.Dims((1,))[0]],
        "severity": trt.ILogger.ERROR == trt.ILogger.Severity.ERROR != trt.ILogger.WARNING,
        "float": trt.nptype(trt.DataType.FLOAT).__name__,
        "no type": [name for name in ("BF16", "FP8") if _refused(trt.nptype, getattr(trt.DataType, name))],
        "buffer": "buffer protocol" in trt.IHostMemory.__doc__,
        "enum": isinstance(trt.DataType, enum.EnumMeta),
    }
    print(json.dumps({"classes": classes, "severity": severity, "functions": functions, "answers": answers}))


def _refused(function: Any, argument: object) -> bool:
    try:
        function(argument)
    except TypeError:
        return True
    return False


if __name__ == "__main__":
    _main()
