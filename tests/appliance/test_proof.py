"""Backends prove themselves apart: a broken one is a reason, never a crash, and the fastest good one is taken."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from appliance import backends, package, proof, signature
from appliance.backend import Options, cores
from appliance.config import Config, Inference
from appliance.errors import BackendError, ConfigError
from appliance.proof import Trial, is_valid, last_night, ranked, trials
from appliance.receipt import Receipt
from tests.running import RunningAppliance, scanside

pytestmark = pytest.mark.skipif(not package.bundled("chest-pneumonia"), reason="no model package is bundled")
USABLE = [name for name in backends.names() if backends.missing(name) is None]
OPTIONS = Options(device="CPU")


@pytest.fixture(scope="module")
def bundled() -> package.Package:
    return package.read(package.bundled("chest-pneumonia")[0], signature.load_trusted_keys((signature.TRUSTED_KEYS,)))


@pytest.fixture(scope="module")
def valid(bundled: package.Package) -> Receipt:
    (trial,) = trials("onnxruntime", bundled, OPTIONS)
    assert trial.receipt is not None, trial.reason
    return trial.receipt


def stand_in(folder: Path, name: str, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a module before the real runtime of that name, for the processes that are started from now on."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(folder))


@pytest.mark.parametrize("name", USABLE)
def test_a_backend_proves_itself_in_a_process_of_its_own(name: str, bundled: package.Package) -> None:
    (trial,) = trials(name, bundled, OPTIONS)
    assert trial.reason == ""
    assert trial.receipt is not None
    assert trial.receipt.backend == name
    assert trial.receipt.flips == 0
    assert trial.receipt.threads == 1


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("raise ImportError('libcuda.so.1: cannot open shared object file')", "libcuda"),
        ("import sys; sys.exit(3)", "exit code 3"),
        ("print('hello from a driver')", "get_available_providers"),
    ],
)
def test_a_runtime_that_breaks_is_a_reason(
    source: str, word: str, bundled: package.Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, "onnxruntime", source, monkeypatch)
    (trial,) = trials("onnxruntime", bundled, OPTIONS)
    assert trial.receipt is None
    assert word in trial.reason
    with pytest.raises(BackendError, match="onnxruntime"):
        ranked([trial])


def test_a_runtime_that_never_answers_is_given_up(
    bundled: package.Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, "onnxruntime", "import time; time.sleep(600)", monkeypatch)
    (trial,) = trials("onnxruntime", bundled, OPTIONS, deadline=2.0)
    assert "no answer within 2 s" in trial.reason


def test_a_package_that_was_changed_meanwhile_gets_no_receipt(bundled: package.Package, tmp_path: Path) -> None:
    copy = tmp_path / "a.scanside"
    copy.write_bytes(bundled.path.read_bytes())
    opened = package.read(copy, None)
    copy.write_bytes(copy.read_bytes() + b"\0")
    (trial,) = trials("onnxruntime", opened, OPTIONS)
    assert trial.receipt is None
    assert str(copy) in trial.reason


def test_a_backend_without_an_artifact_says_so(bundled: package.Package) -> None:
    alone = msgspec.structs.replace(bundled.manifest, targets={"tensorrt": bundled.target("tensorrt")})
    opened = package.Package(bundled.path, bundled.sha256, alone, {}, None)
    (trial,) = trials("onnxruntime", opened, OPTIONS)
    assert "no artifact for target cpu" in trial.reason


def test_the_fastest_valid_receipt_wins(valid: Receipt) -> None:
    slow = msgspec.structs.replace(valid, latency_p50=9.0, backend="slow")
    tried = [Trial("slow", "cpu", slow, ""), Trial("broken", "x", None, "gone"), Trial("quick", "cpu", valid, "")]
    assert ranked(tried)[0] is valid
    assert ranked(tried, serving="slow")[0] is valid
    close = msgspec.structs.replace(valid, latency_p50=1.1 * valid.latency_p50, backend="close")
    tried.append(Trial("close", "cpu", close, ""))
    assert ranked(tried)[0] is valid
    assert ranked(tried, serving="close")[0] is close  # a difference like that is noise
    with pytest.raises(BackendError, match="broken: gone"):
        ranked(tried[1:2])


def test_a_receipt_counts_until_the_night_and_for_what_it_was_made_on(valid: Receipt, bundled: package.Package) -> None:
    assert is_valid(valid, bundled, "onnxruntime", OPTIONS)
    made_at = datetime.fromisoformat(valid.made_at)
    assert is_valid(valid, bundled, "onnxruntime", OPTIONS, since=made_at)
    assert not is_valid(valid, bundled, "onnxruntime", OPTIONS, since=made_at + timedelta(seconds=1))
    tomorrow = (datetime.now().astimezone() + timedelta(hours=25)).isoformat(timespec="seconds")
    for changes in (
        {"made_at": tomorrow},
        {"cpu": "another"},
        {"cpu_flags": ()},
        {"versions": {**valid.versions, "onnxruntime": "1.0"}},
        {"package_sha256": "0" * 64},
        {"artifact_sha256": "0" * 64},
        {"backend": "openvino"},
        {"threads": 2},
    ):
        assert not is_valid(msgspec.structs.replace(valid, **changes), bundled, "onnxruntime", OPTIONS), changes


def test_a_known_receipt_spares_the_replay(
    valid: Receipt, bundled: package.Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "InferenceProcess", lambda *_, **__: pytest.fail("it was replayed"))
    (trial,) = trials("onnxruntime", bundled, OPTIONS, known=[valid])
    assert trial.receipt == valid


def test_nights_begin_at_the_configured_time() -> None:
    noon = datetime(2026, 11, 24, 12, 0).astimezone()
    assert last_night(noon, "03:00") == noon.replace(hour=3)
    assert last_night(noon, "12:00") == noon
    assert last_night(noon, "12:01") == noon.replace(minute=1) - timedelta(days=1)


def test_threads_fit_the_cores_or_are_refused() -> None:
    for threads in range(cores() + 1):
        options = proof.options(Config(inference=Inference(threads=threads)))
        assert 1 <= options.threads * options.lanes <= cores()
        assert options.threads == threads or threads == 0
    with pytest.raises(ConfigError, match=f"threads = {cores() + 1}, but the appliance may use {cores()} cores"):
        proof.options(Config(inference=Inference(threads=cores() + 1)))


@pytest.mark.long
def test_a_restart_keeps_the_receipt(tmp_path: Path) -> None:
    appliance = RunningAppliance(tmp_path / "appliance")

    def receipt() -> str:
        appliance.start()
        try:
            return str(appliance.wait_ready()["components"]["worker"]["receipt"]["id"])
        finally:
            appliance.stop()

    first = receipt()
    assert receipt() == first


@pytest.mark.long
def test_the_commands(tmp_path: Path) -> None:
    listed = {row["backend"]: row for row in json.loads(scanside("backends", "--json", check=True).stdout)}
    assert set(listed) == set(backends.names())
    assert listed["onnxruntime"]["reason"] == ""
    rows = json.loads(scanside("receipt", "--backend", "onnxruntime", "--json", check=True).stdout)
    assert len(rows) == len(package.bundled())
    assert all(row["receipt"]["flips"] == 0 for row in rows)
    config = tmp_path / "scanside.toml"
    config.write_text(f"[models]\npackages = ['{package.bundled('chest-pneumonia')[0]}']\n")
    bench = scanside("bench", "--backend", "onnxruntime", "--seconds", "0.2", "--json", "--config", config, check=True)
    measured = json.loads(bench.stdout)
    assert all(each["latency_p50"] > 0 and each["memory_mb"] > 10 for each in measured)
    unknown = scanside("receipt", "--backend", "abacus")
    assert unknown.returncode == 1
    assert "there is no backend 'abacus'" in unknown.stderr
    config.write_text("[models]\npackages = ['none.scanside']\n")
    assert "none.scanside can't be read" in scanside("receipt", "--config", config).stderr
