"""The house keeps its order: imports point one way, and the device imports nothing that only training needs."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.running import CHECKOUT

# A module may import modules of its own level or of earlier ones, brothers excepted.
LEVELS = [
    {"appliance", "appliance.errors"},
    {
        "appliance.config",
        "appliance.log",
        "appliance.result",
        "appliance.spool",
        "appliance.decode",
        "appliance.thermal",
    },
    {"appliance.schedule"},
    {
        "appliance.signature",
        "appliance.preprocess",
        "appliance.process",
        "appliance.backend",
        "appliance.image",
        "appliance.store",
        "appliance.database",
        "appliance.engine_cache",
    },
    {"appliance.package"},
    {
        "appliance.route",
        "appliance.render",
        "appliance.receipt",
        "appliance.writer",
        "appliance.backends",
        "appliance.health",
    },
    {"appliance.writers", "appliance.ingest", "appliance.delivery", "appliance.inference", "appliance.preparation"},
    {"appliance.proof", "appliance.serving"},
    {"appliance.bench", "appliance.receipts"},
    {"appliance.pipeline", "appliance.send"},
    {"appliance.readiness", "appliance.infer", "appliance.doctor", "appliance.describe", "appliance.web"},
    {"appliance.worker"},
    {"appliance.run", "appliance.demo"},
    {"appliance.cli"},
    {"appliance.__main__"},
]
TRAINING_ONLY = {"torch", "onnx", "onnxscript", "sklearn", "albumentations", "matplotlib", "tqdm", "cv2", "compression"}
BROTHERS = ("appliance.backends", "appliance.writers", "appliance.ingest", "appliance.delivery")

# The outbox stands above the ways out, in their folder: it calls them.
USED_BY_ALL = {"appliance.delivery.storage_scu"}


def _level(module: str) -> int | None:
    while module:
        for number, level in enumerate(LEVELS):
            if module in level:
                return number
        module = module.rpartition(".")[0]
    return None


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def _modules(folder: str) -> list[tuple[str, Path]]:
    found = []
    for path in sorted((CHECKOUT / folder).rglob("*.py")):
        parts = path.relative_to(CHECKOUT).with_suffix("").parts
        found.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    return found


@pytest.mark.parametrize(
    ("module", "path"), _modules("appliance"), ids=lambda value: str(value) if isinstance(value, str) else ""
)
def test_the_device_imports_only_downwards(module: str, path: Path) -> None:
    own = _level(module)
    assert own is not None, f"{module} has no level; give it one in tests/test_house.py"
    for imported in _imports(path):
        assert imported.split(".")[0] not in TRAINING_ONLY, f"{module} imports {imported}, which only training has"
        if imported.split(".")[0] == "appliance":
            level = _level(imported)
            assert level is not None, imported
            assert level <= own, f"{module} imports {imported}, which stands above it"


@pytest.mark.parametrize("folder", BROTHERS)
def test_brothers_never_see_each_other(folder: str) -> None:
    brothers = {module for module, _ in _modules(folder.replace(".", "/"))} - {folder}
    for module, path in _modules(folder.replace(".", "/")):
        if module != folder:
            seen = brothers.intersection(_imports(path)) - {module, *USED_BY_ALL}
            assert not seen, f"{module} imports its brothers: {seen}"


def test_training_uses_only_the_contracts_of_the_device() -> None:
    names = ("preprocess", "image", "package", "signature", "errors", "result", "receipt", "backend", "backends")
    allowed = {f"appliance.{name}" for name in names}
    for module, path in _modules("compression"):
        for imported in _imports(path):
            if imported.startswith("appliance."):
                assert any(imported == name or imported.startswith(f"{name}.") for name in allowed), (
                    f"{module}: {imported}"
                )


def test_only_the_ledger_knows_sql() -> None:
    users = [module for module, path in _modules("appliance") if "sqlite3" in _imports(path)]
    assert users == ["appliance.database", "appliance.store"]
