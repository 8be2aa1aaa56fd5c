"""What the backend ``tensorrt`` calls, held against NVIDIA's own bindings of TensorRT 10 and 11.

The bindings are the real wheels, loaded over empty libraries (tests/stand_ins/bindings.py): names, parameters, enums,
properties and types of results are read from them. What the stand-in of TensorRT offers must be in both, so what runs
on it calls nothing that is not there; and what the backend's source names must be, whether a test runs it or not.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests import stand_ins
from tests.running import CHECKOUT
from tests.stand_ins import bindings

BACKEND = ast.parse((CHECKOUT / "appliance" / "backends" / "tensorrt.py").read_text())
STAND_IN = ast.parse((CHECKOUT / "tests" / "stand_ins" / "tensorrt" / "__init__.py").read_text())
# What the backend's variables hold.
OBJECTS = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "given": "ITensor",
    "parser": "OnnxParser",
    "error": "ParserError",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "timings": "ITimingCache",
    "engine": "ICudaEngine",
    "self._context": "IExecutionContext",
}


@cache
def defined(version: str) -> dict[str, Any]:
    """All that the bindings of a version define."""
    command = [sys.executable, "-m", "tests.stand_ins.bindings"]
    done = subprocess.run(
        command, env=bindings.environment(version), cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(params=bindings.VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def real(version: str) -> dict[str, Any]:
    return defined(version)


def has(real: dict[str, Any], owner: str, name: str) -> bool:
    if owner == "ILogger" and name in real["severity"]["members"]:
        return True
    described = real["classes"][owner]
    return name in described["methods"] or name in described["properties"] or name in described["members"]


def names() -> set[str]:
    """Every ``trt.X`` and ``trt.X.Y`` of the backend's source."""
    texts = {ast.unparse(node) for node in ast.walk(BACKEND) if isinstance(node, ast.Attribute)}
    return {text for text in texts if text.startswith("trt.") and "(" not in text}


def test_every_name_is_there(version: str, real: dict[str, Any]) -> None:
    assert len(names()) > 10
    for text in sorted(text for text in names() if not text.startswith("trt.__version__")):
        _, owner, *member = text.split(".")
        assert owner in real["classes"] or owner in real["functions"], f"TensorRT {version} has no {text}"
        assert not member or has(real, owner, member[0]), f"TensorRT {version} has no {text}"


def owner_of(node: ast.expr) -> str | None:
    """The class of TensorRT that an expression of the backend's source has."""
    text = ast.unparse(node)
    if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("trt."):
        return ast.unparse(node.func).removeprefix("trt.")
    return OBJECTS.get(text)


def test_every_attribute_of_its_objects_is_there(version: str, real: dict[str, Any]) -> None:
    uses = [
        (owner_of(node.value), node.attr)
        for node in ast.walk(BACKEND)
        if isinstance(node, ast.Attribute) and owner_of(node.value) is not None
    ]
    assert {owner for owner, _ in uses} == {*OBJECTS.values(), "Runtime"}
    for owner, name in uses:
        assert has(real, str(owner), name), f"TensorRT {version}: {owner} has no {name}"


def test_every_call_fits(version: str, real: dict[str, Any]) -> None:
    seen = set()
    for node in ast.walk(BACKEND):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        owner, method = owner_of(node.func.value), node.func.attr
        if owner is None and ast.unparse(node.func.value) == "trt" and method in real["classes"]:
            owner, method = method, "__init__"
        if owner is not None:
            overloads = real["classes"][owner]["methods"][method]
            fits = any(fit(node, overload) for overload in overloads)
            assert fits, f"TensorRT {version}: {ast.unparse(node)} does not fit {overloads}"
            seen.add((owner, method))
    assert len(seen) > 20


def fit(call: ast.Call, overload: dict[str, Any]) -> bool:
    unpacked = 3  # set_shape(name, *[shape] * 3)
    given = sum(unpacked if isinstance(argument, ast.Starred) else 1 for argument in call.args)
    keywords = [keyword.arg for keyword in call.keywords]
    rest = overload["names"][given:]
    return (
        given <= len(overload["names"])
        and all(keyword in rest for keyword in keywords)
        and given + len(keywords) >= overload["needed"]
    )


def stand_in_classes() -> dict[str, ast.ClassDef]:
    found = {node.name: node for node in ast.walk(STAND_IN) if isinstance(node, ast.ClassDef)}
    return {name: node for name, node in found.items() if not name.startswith("_") and name != "Severity"}


def functions_of(kind: ast.ClassDef) -> list[ast.FunctionDef]:
    return [node for node in kind.body if isinstance(node, ast.FunctionDef)]


def test_the_stand_in_has_nothing_that_is_not_there(version: str, real: dict[str, Any]) -> None:
    classes = stand_in_classes()
    assert set(OBJECTS.values()) <= set(classes) <= set(real["classes"])
    for owner, kind in classes.items():
        for node in functions_of(kind):
            decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
            if "property" in decorators:
                assert node.name in real["classes"][owner]["properties"], f"{version}: {owner}.{node.name}"
            elif f"{node.name}.setter" in decorators:
                assert real["classes"][owner]["properties"][node.name], f"{version}: {owner}.{node.name} can't be set"
            elif not node.name.startswith("_"):
                assert same(node, real["classes"][owner]["methods"][node.name]), f"{version}: {owner}.{node.name}"
    for owner in ("DataType", "TensorIOMode", "NetworkDefinitionCreationFlag", "BuilderFlag"):
        members = {target.id for node in classes[owner].body if isinstance(node, ast.Assign) for target in node.targets}
        assert members <= set(real["classes"][owner]["members"])


def same(node: ast.FunctionDef, overloads: list[dict[str, Any]]) -> bool:
    """Whether a method of the stand-in takes what an overload takes, by these names, and gives what it gives."""
    names = [argument.arg for argument in node.args.args[1:]]
    needed = len(names) - len(node.args.defaults)
    result = ast.unparse(node.returns).removesuffix(" | None") if node.returns else ""
    return any(
        names == overload["names"][: len(names)]
        and needed >= overload["needed"]
        and result == overload["result"].replace("IParserError", "ParserError")  # the bindings' text has the C++ name
        for overload in overloads
    )


def test_constructors_are_those_of_the_stand_in(version: str, real: dict[str, Any]) -> None:
    classes = stand_in_classes()
    for owner in ("Builder", "Runtime", "OnnxParser", "ILogger", "IProgressMonitor"):
        (node,) = [node for node in functions_of(classes[owner]) if node.name == "__init__"]
        assert same(node, real["classes"][owner]["methods"]["__init__"]), f"{version}: {owner}"


def test_values_are_what_the_backend_takes_them_for(version: str, real: dict[str, Any]) -> None:
    answers = real["answers"]
    # 11 has given the flag another number, and does without it.
    assert answers["flag"] == {"10": 2, "11": 1}[version.partition(".")[0]]
    assert answers["dims"] == [[1, -1, 3], [2, 3], 1]
    assert answers["severity"]
    assert answers["buffer"]
    assert (answers["float"], answers["no type"]) == ("float32", ["BF16", "FP8"])


ON_REAL_BINDINGS = """
import tensorrt as trt
from pathlib import Path
from appliance.backend import Options
from appliance.backends import tensorrt
from appliance.errors import BackendError

logger, told = tensorrt._logger(), []
assert isinstance(logger, trt.ILogger)
logger.log(trt.ILogger.ERROR, "an error")
logger.log(trt.ILogger.WARNING, "a warning")
logger.log(trt.ILogger.INFO, "much else")
assert list(tensorrt._said) == ["an error"]

monitor = tensorrt._monitor(lambda share, what: told.append((share, what)))
assert isinstance(monitor, trt.IProgressMonitor)
monitor.phase_start("outer", None, 2)
monitor.phase_start("inner", "outer", 2)
assert all(monitor.step_complete("inner", step) for step in range(2))
monitor.phase_finish("inner")
assert monitor.step_complete("outer", 0) and monitor.step_complete("outer", 1)
monitor.phase_finish("outer")
assert told == [(0.25, "inner"), (0.5, "inner"), (1.0, "outer")], told

tensorrt._said.clear()
null = "pybind11::init(): factory function returned nullptr"
reason = tensorrt.probe("GPU")
assert reason == f"TensorRT {trt.__version__} does not start: {null}", reason
try:
    tensorrt.prepare(b"", Options(device="GPU", cache=Path("engines")), lambda share, what: None)
except BackendError as error:
    assert str(error) == f"TensorRT can't open the network: {null}", error
else:
    raise AssertionError
"""


def test_the_backend_runs_on_the_bindings_up_to_where_they_need_the_libraries(version: str, tmp_path: Path) -> None:
    environment = bindings.environment(version)
    environment["LD_LIBRARY_PATH"] += f":{stand_ins.libcuda(tmp_path)}"
    environment["PYTHONPATH"] += f":{stand_ins.installed(tmp_path, version)}"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", ON_REAL_BINDINGS],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
