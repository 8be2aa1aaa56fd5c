"""The house keeps its order: imports point one way, and the device imports nothing that only training needs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.running import CHECKOUT

# A module may import modules of its own level or of earlier ones, brothers excepted.
LEVELS = [
    {"appliance", "appliance.errors"},
    {
        "appliance.config",
        "appliance.beside",
        "appliance.log",
        "appliance.result",
        "appliance.spool",
        "appliance.budget",
        "appliance.decode",
        "appliance.thermal",
        "appliance.archive",
        "appliance.part10",
        "appliance.requestor",
        "appliance.implementation",
        "appliance.media",
        "appliance.watching",
        "appliance.checks",
        "appliance.document",
        "appliance.tls_client",
        "appliance.unchanged",
        "appliance.history",
        "appliance.machine",
        "appliance.own_words",
        "appliance.roc",
        "appliance.content",
        "appliance.pseudonyms",
        "appliance.pages",
        "appliance.brand",
        "appliance.notify",
        "appliance.measures",
        "appliance.sequential",
        "appliance.truth",
        "appliance.hl7_message",
        "appliance.errand",
    },
    {
        "appliance.config_file",
        "appliance.schedule",
        "appliance.completeness",
        "appliance.silence",
        "appliance.acceptor",
        "appliance.reading_order",
    },
    {"appliance.database"},
    {
        "appliance.overview",
        "appliance.history_store",
        "appliance.account_store",
        "appliance.token_store",
        "appliance.audit_store",
        "appliance.waiting_store",
        "appliance.safe_mode_store",
        "appliance.truth_store",
        "appliance.package_store",
        "appliance.telemetry_store",
    },
    {"appliance.study_pages"},
    {"appliance.series_store"},
    {"appliance.outbox_store"},
    {
        "appliance.signature",
        "appliance.accounts",
        "appliance.sessions",
        "appliance.tokens",
        "appliance.audit",
        "appliance.audit_subjects",
        "appliance.audit_export",
        "appliance.audit_retention",
        "appliance.audit_proof",
        "appliance.audit_message",
        "appliance.audit_syslog",
        "appliance.page_certificate",
        "appliance.preprocess",
        "appliance.probability",
        "appliance.occlusion",
        "appliance.process",
        "appliance.processor",
        "appliance.backend",
        "appliance.image",
        "appliance.described",
        "appliance.whole",
        "appliance.left_behind",
        "appliance.burned_in",
        "appliance.store",
        "appliance.custody",
        "appliance.worklist_store",
        "appliance.assessment_store",
        "appliance.group_commit",
        "appliance.commitment_store",
        "appliance.step_store",
        "appliance.storage_commitment",
        "appliance.performed_step",
        "appliance.reader_study",
        "appliance.engine_cache",
    },
    {"appliance.package", "appliance.volume", "appliance.sandbox", "appliance.orientation"},
    {"appliance.golden", "appliance.render", "appliance.installed", "appliance.manifests", "appliance.listening"},
    {
        "appliance.drift",
        "appliance.route",
        "appliance.companion",
        "appliance.concepts",
        "appliance.interpret",
        "appliance.receipt",
        "appliance.way_back",
        "appliance.writer",
        "appliance.backends",
        "appliance.health",
        "appliance.sampler",
        "appliance.certificates",
        "appliance.problems",
        "appliance.silence_watch",
        "appliance.retention",
        "appliance.recount",
        "appliance.file_head",
        "appliance.ledger_export",
    },
    {"appliance.assessment_report"},
    {"appliance.assessment_delivery"},
    {
        "appliance.canvas",
        "appliance.pictures",
        "appliance.viewing",
        "appliance.landing",
        "appliance.source_grid",
        "appliance.contour",
        "appliance.message",
        "appliance.difference",
        "appliance.diagnoses",
        "appliance.diagnosis_listener",
        "appliance.performance",
        "appliance.safe_mode",
        "appliance.safety_watch",
    },
    {"appliance.writers", "appliance.ingest", "appliance.delivery", "appliance.inference", "appliance.preparation"},
    {"appliance.proof", "appliance.serving", "appliance.specimen"},
    {"appliance.answers", "appliance.bench", "appliance.receipts", "appliance.startable"},
    {"appliance.telemetry", "appliance.in_service"},
    {"appliance.fleet"},
    {"appliance.patients", "appliance.scanner"},
    {"appliance.pipeline", "appliance.send"},
    {
        "appliance.readiness",
        "appliance.infer",
        "appliance.explain",
        "appliance.replay",
        "appliance.regression",
        "appliance.labels",
        "appliance.switching",
        "appliance.shadow",
        "appliance.retraining",
        "appliance.conformance",
        "appliance.conformance_network",
        "appliance.doctor",
        "appliance.connection",
        "appliance.describe",
        "appliance.study_cases",
        "appliance.support_bundle",
        "appliance.errand_process",
        "appliance.web",
    },
    {"appliance.worker", "appliance.housekeeping", "appliance.takeover"},
    {"appliance.run", "appliance.demo"},
    {"appliance.cli"},
    {"appliance.__main__"},
]
TRAINING_ONLY = {
    "torch", "onnx", "onnxscript", "sklearn", "albumentations", "matplotlib", "tqdm", "cv2", "h5py", "nibabel", "monai",
    "dicomanonymizer", "compression",
}  # fmt: skip
BROTHERS = (
    "appliance.backends", "appliance.writers", "appliance.ingest", "appliance.delivery", "compression.importers",
)  # fmt: skip

# The outbox stands above the ways out, in their folder: it calls them. A zip archive comes by several ways in.
USED_BY_ALL = {
    "appliance.delivery.commitment_scu", "appliance.delivery.lane", "appliance.delivery.storage_scu",
    "appliance.delivery.way", "appliance.ingest.bundle",
}  # fmt: skip


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
    names = (
        "preprocess", "probability", "occlusion", "image", "orientation", "package", "signature", "errors", "result",
        "receipt", "backend", "backends", "interpret", "volume", "roc", "content", "pseudonyms", "burned_in",
        "drift.measure", "drift.reference", "drift.streams",
    )  # fmt: skip
    allowed = {f"appliance.{name}" for name in names}
    for module, path in _modules("compression"):
        for imported in _imports(path):
            if imported.startswith("appliance."):
                assert any(imported == name or imported.startswith(f"{name}.") for name in allowed), (
                    f"{module}: {imported}"
                )


def test_the_training_loop_knows_no_task() -> None:
    """Classification and segmentation come to the loop, and their stages to it; never the other way."""
    below = {f"compression.{name}" for name in ("recipe", "precision", "optimization", "distributed", "spikes",
                                                "diagnosis", "durable")}  # fmt: skip
    middle = {f"compression.{name}" for name in ("checkpoint", "journal", "task", "losses", "sampling")}
    modules = dict(_modules("compression"))
    for names, allowed in ((below, {"compression.recipe"}), (middle, below), ({"compression.loop"}, below | middle)):
        for name in names - {"compression.recipe"}:
            for imported in _imports(modules[name]):
                if imported.startswith("compression."):
                    parents = {imported, imported.rpartition(".")[0]}
                    assert parents & allowed, f"{name} imports {imported}, which stands above it or beside it"


def test_only_the_ledger_knows_sql() -> None:
    users = {
        module
        for module, path in _modules("appliance")
        if {"sqlite3", "appliance.database.Database", "appliance.overview.Overview"} & _imports(path)
    }
    assert users == {
        "appliance.account_store",
        "appliance.audit_store",
        "appliance.audit_subjects",
        "appliance.assessment_store",
        "appliance.commitment_store",
        "appliance.custody",
        "appliance.database",
        "appliance.history_store",
        "appliance.drift.store",
        "appliance.outbox_store",
        "appliance.overview",
        "appliance.package_store",
        "appliance.reader_study",
        "appliance.safe_mode_store",
        "appliance.series_store",
        "appliance.shadow.store",
        "appliance.step_store",
        "appliance.store",
        "appliance.token_store",
        "appliance.truth_store",
        "appliance.waiting_store",
        "appliance.study_pages",
        "appliance.telemetry_store",
        "appliance.worklist_store",
    }


def test_firmware_and_appliance_never_see_each_other() -> None:
    """firmware/ touches the appliance through its command line and its files only."""
    for folder, foreign in (("firmware", {"appliance", "compression"}), ("appliance", {"firmware"}),
                            ("compression", {"firmware"})):  # fmt: skip
        for module, path in _modules(folder):
            seen = {imported.split(".")[0] for imported in _imports(path)} & foreign
            assert not seen, f"{module} imports {seen}"


@pytest.mark.parametrize(
    ("module", "large"),
    [
        ("appliance.cli", ("numpy", "pydicom", "onnxruntime", "flask")),  # where it only helps
        ("appliance.web.app", ("highdicom", "onnxruntime", "pynetdicom", "appliance.pipeline")),
        ("compression.cli", ("torch", "albumentations", "monai", "openvino")),
    ],
)
def test_what_starts_often_loads_nothing_large_that_it_does_not_need(module: str, large: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print(*[name for name in {large} if name in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=CHECKOUT, check=True)
    assert told.stdout.split() == []
