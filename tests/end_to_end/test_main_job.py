"""The main job through the front doors: a scanner sends, a PACS receives, a person calls the command line."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

from appliance import backends, package
from appliance.probability import calibrated
from tests.dicom_files import make_radiograph
from tests.peers import needs, orthanc, wait_until
from tests.running import CHECKOUT, PYTHON, RunningAppliance, scanside

pytestmark = pytest.mark.skipif(not package.bundled("chest-pneumonia"), reason="no model package is bundled")


@pytest.fixture
def appliance(tmp_path: Path) -> Iterator[RunningAppliance]:
    running = RunningAppliance(
        tmp_path / "appliance", extra="[drop_folder]\nsettle_seconds = 0.5\nincomplete_seconds = 1.0"
    )
    running.start()
    yield running
    running.stop()


def _storescu(port: int, *files: Path, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    needs("storescu")
    command = ["storescu", *options, "-aec", "SCANSIDE", "127.0.0.1", str(port), *map(str, files)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def _radiographs(folder: Path, count: int, **attributes: object) -> list[Path]:
    return [make_radiograph(folder / f"{index}.dcm", seed=index, **attributes) for index in range(count)]


def test_a_radiograph_by_c_store_becomes_an_sr_and_a_secondary_capture_at_the_pacs(tmp_path: Path) -> None:
    with orthanc(tmp_path / "pacs") as pacs:
        appliance = RunningAppliance(
            tmp_path / "appliance",
            extra=f'[[destinations]]\nname = "pacs"\nae_title = "{pacs.ae_title}"\nhost = "127.0.0.1"\n'
            f"port = {pacs.port}\n",
        )
        appliance.start()
        try:
            source = make_radiograph(tmp_path / "chest.dcm", PatientAge="004Y")
            sent = _storescu(appliance.port, source)
            assert sent.returncode == 0, sent.stderr
            (row,) = appliance.wait_final(1)
            assert row["state"] == "delivered"
            assert set(pacs.sop_class_uids()) == {
                "1.2.840.10008.5.1.4.1.1.88.34",
                "1.2.840.10008.5.1.4.1.1.7",
            }
        finally:
            appliance.stop()
    header = pydicom.dcmread(source, stop_before_pixels=True)
    folder = appliance.data / "results" / f"{row['id']:08d}"
    for path in folder.glob("*.dcm"):
        result = pydicom.dcmread(path)
        assert result.StudyInstanceUID == header.StudyInstanceUID
        assert result.PatientID == header.PatientID
        needs("dciodvfy")
        verdict = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True)
        assert verdict.returncode == 0, verdict.stderr
    needs("dsrdump")
    dump = subprocess.run(["dsrdump", str(folder / "structured_report.dcm")], capture_output=True, text=True)
    assert dump.returncode == 0, dump.stderr
    assert "Pneumonia" in dump.stdout


def test_echo_is_answered(appliance: RunningAppliance) -> None:
    needs("echoscu")
    subprocess.run(["echoscu", "-aec", "SCANSIDE", "127.0.0.1", str(appliance.port)], check=True, timeout=30)


def test_each_bad_input_ends_with_a_reason_and_the_service_goes_on(appliance: RunningAppliance, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    chest = make_radiograph(tmp_path / "chest.dcm")
    (bad / "not-dicom.dcm").write_bytes(b"this is a letter, not an image" * 10)
    make_radiograph(bad / "lateral.dcm", ViewPosition="LL", seed=1)
    make_radiograph(bad / "hand.dcm", BodyPartExamined="HAND", seed=2)
    unknown = pydicom.dcmread(chest)
    unknown.SOPInstanceUID = unknown.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    unknown.save_as(bad / "unknown-syntax.dcm")
    data = (bad / "unknown-syntax.dcm").read_bytes()
    (bad / "unknown-syntax.dcm").write_bytes(data.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0"))
    for name in ("CT_small.dcm", "MR_small.dcm", "SC_rgb_rle.dcm", "rtdose.dcm"):
        shutil.copy(str(get_testdata_file(name, download=False)), bad)
    expected = len(list(bad.iterdir()))
    shutil.move(bad, appliance.data / "drop" / "from-the-stick")  # a folder moved in
    rows = {Path(row["sender"]).name: row for row in appliance.wait_final(expected)}
    assert len(rows) == expected
    reasons = {name: row["reason"] for name, row in rows.items()}
    assert all(row["state"] in ("rejected", "quarantined") for row in rows.values()), reasons
    assert all(len(reason) > 20 for reason in reasons.values()), reasons
    for name, word in {
        "not-dicom.dcm": "DICOM", "lateral.dcm": "lateral", "hand.dcm": "HAND", "CT_small.dcm": "CT",
        "unknown-syntax.dcm": "1.2.840.10008.9.9.9", "MR_small.dcm": "MR",
    }.items():  # fmt: skip
        assert word.lower() in reasons[name].lower(), (name, reasons[name])
    without = pydicom.dcmread(chest)
    del without.PixelData
    without.SOPInstanceUID = without.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    without.save_as(tmp_path / "no-pixels.dcm")
    assert _storescu(appliance.port, tmp_path / "no-pixels.dcm", chest).returncode == 0
    rows = {row["sop_instance_uid"]: row for row in appliance.wait_final(expected + 2)}
    assert "pixel" in rows[without.SOPInstanceUID]["reason"]
    assert appliance.status()["counts"]["delivered"] == 1


@pytest.mark.long
def test_dropped_files_that_never_become_whole_are_reported(appliance: RunningAppliance, tmp_path: Path) -> None:
    whole = make_radiograph(tmp_path / "chest.dcm").read_bytes()
    (appliance.data / "drop" / "truncated.dcm").write_bytes(whole[: len(whole) // 2])
    (appliance.data / "drop" / "empty.dcm").touch()

    def problems() -> dict[str, str]:
        found: dict[str, str] = appliance.status()["components"]["drop_folder"]["problems"]
        return found if len(found) == 2 else {}

    found = wait_until(problems, "both are reported")
    assert "early" in found["truncated.dcm"]
    assert "empty" in found["empty.dcm"]
    (appliance.data / "drop" / "truncated.dcm").write_bytes(whole)
    appliance.wait_final(1)


@pytest.mark.slow  # tests/appliance/test_kills.py does it 30 times, tests.benchmarks.kills 500
def test_kill_and_restart_loses_and_doubles_nothing(tmp_path: Path) -> None:
    needs("storescu")
    appliance = RunningAppliance(tmp_path / "appliance")
    appliance.start()
    appliance.fix_ports()
    files = _radiographs(tmp_path / "images", 24, rows=700, columns=600)
    try:
        for index in range(4):
            with subprocess.Popen(["storescu", "-aec", "SCANSIDE", "127.0.0.1", str(appliance.port), *map(str, files)],
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):  # fmt: skip
                deadline = 400
                while sum(appliance.store().counts().values()) < 5 * (index + 1) and (deadline := deadline - 1):
                    os.sched_yield()
                appliance.kill()
            appliance.start()
        assert _storescu(appliance.port, *files).returncode == 0
        rows = appliance.wait_final(len(files), timeout=120)
        assert len(rows) == len(files)
        assert {row["state"] for row in rows} == {"delivered"}
        reports = list((appliance.data / "results").glob("*/structured_report.dcm"))
        assert len(reports) == len(files)
        sources = {pydicom.dcmread(path).CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
                   .ReferencedSOPSequence[0].ReferencedSOPInstanceUID for path in reports}  # fmt: skip
        assert len(sources) == len(files)
    finally:
        appliance.stop()


@pytest.mark.long
def test_a_killed_worker_is_replaced(appliance: RunningAppliance, tmp_path: Path) -> None:
    needs("storescu")
    first = make_radiograph(tmp_path / "1.dcm", seed=1)
    assert _storescu(appliance.port, first).returncode == 0
    appliance.wait_final(1)
    os.kill(appliance.status()["components"]["worker"]["pid"], 9)
    assert _storescu(appliance.port, make_radiograph(tmp_path / "2.dcm", seed=2)).returncode == 0
    rows = appliance.wait_final(2)
    assert [row["state"] for row in rows] == ["delivered", "delivered"]


@pytest.mark.long
def test_sigterm_ends_it_with_code_0_and_leaves_no_child(appliance: RunningAppliance) -> None:
    appliance.wait_ready()
    worker = appliance.status()["components"]["worker"]["pid"]
    assert appliance.stop() == 0
    assert not Path(f"/proc/{worker}").exists()


@pytest.mark.long
def test_two_appliances_on_one_folder_are_refused(appliance: RunningAppliance) -> None:
    second = scanside("run", "--config", appliance.config_path)
    assert second.returncode == 1
    assert "another scanside runs on" in second.stderr


@pytest.mark.long
def test_a_port_in_use_is_named(appliance: RunningAppliance, tmp_path: Path) -> None:
    config = tmp_path / "second.toml"
    config.write_text(
        f'data_dir = "second"\n[storage_scp]\nhost = "127.0.0.1"\nport = {appliance.port}\n[web]\nport = 0\n'
    )
    second = scanside("run", "--config", config)
    assert second.returncode == 1
    assert f":{appliance.port}" in second.stderr


@pytest.mark.slow  # .ci/run runs the demo
def test_the_demo_ends_well_without_samples() -> None:
    demo = scanside("demo", "--once", "--count", "3", timeout=180)
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert "GENERATED" in demo.stdout
    assert "The page: http://127.0.0.1:" in demo.stdout


@pytest.mark.slow
def test_a_demo_that_is_ended_leaves_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    demo = subprocess.Popen(
        [PYTHON, "-m", "appliance", "demo", "--count", "1"], cwd=CHECKOUT, env=environment, stdout=subprocess.PIPE
    )
    assert demo.stdout is not None
    while b"Serving" not in demo.stdout.readline():
        assert demo.poll() is None
    (appliance,) = psutil.Process(demo.pid).children()
    demo.terminate()
    assert demo.wait(60) == 0
    demo.stdout.close()
    assert not appliance.is_running()
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_what_shows_nothing_has_no_finding(tmp_path: Path) -> None:
    flat = np.full((256, 224), 700, np.uint16)
    marked = flat.copy()
    marked[:20, :20] = 4000  # a marker alone
    strip = np.tile(np.arange(4000, dtype=np.uint16), (3, 1))
    for name, pixels in (("flat", flat), ("marked", marked), ("strip", strip), ("tiny", flat[:2, :2])):
        make_radiograph(tmp_path / f"{name}.dcm", pixels=pixels)
    make_radiograph(tmp_path / "slope.dcm", RescaleSlope="0", RescaleIntercept="0")
    for line in scanside("infer", tmp_path, "--json").stdout.splitlines():
        told = json.loads(line)
        assert told["status"] == "rejected", told
        assert "shows nothing" in told["reason"] or "no radiograph" in told["reason"], told


@pytest.mark.long
def test_infer_gives_one_json_object_a_file(tmp_path: Path) -> None:
    make_radiograph(tmp_path / "in" / "a.dcm")
    (tmp_path / "in" / "b.dcm").write_bytes(b"nothing")
    done = scanside("infer", tmp_path / "in", "--json")
    assert done.returncode == 0, done.stderr
    good, bad = map(json.loads, done.stdout.splitlines())
    assert set(good) >= {"file", "sop_instance_uid", "status", "reason", "package", "version", "backend", "device",
                         "findings", "seconds"}  # fmt: skip
    assert good["status"] == "resulted"
    assert set(good["findings"][0]) >= {"label", "code", "probability", "positive"}
    assert set(good["seconds"]) == {"decode", "preprocess", "infer", "total"}
    assert 0 <= good["findings"][0]["probability"] <= 1
    assert bad["status"] == "rejected"
    assert "DICOM" in bad["reason"]


def test_infer_writes_objects_where_asked(tmp_path: Path) -> None:
    source = make_radiograph(tmp_path / "a.dcm")
    chest = package.bundled("chest-pneumonia")[0]
    assert scanside("infer", source, "--json", "--package", chest, "--out", tmp_path / "out").returncode == 0
    assert {path.suffixes[-2] for path in (tmp_path / "out").glob("*.dcm")} == {
        ".structured_report",
        ".secondary_capture",
    }


@pytest.mark.long
def test_doctor_finds_this_installation_well(tmp_path: Path) -> None:
    config = tmp_path / "scanside.toml"
    config.write_text("[storage_scp]\nport = 0\n[web]\nport = 0\n")
    done = scanside("doctor", "--json", "--config", config)
    assert done.returncode == 0, done.stdout
    assert all(check["outcome"] != "fail" for check in json.loads(done.stdout))


def test_doctor_names_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = scanside("doctor", "--data", tmp_path / "file" / "box")
    assert done.returncode == 1
    assert "data folder" in done.stdout


def test_the_documented_configuration_is_the_default(tmp_path: Path) -> None:
    from appliance.config import Config
    from appliance.config_file import load

    config = load(CHECKOUT / "scanside.toml", tmp_path)
    assert config == load(None, tmp_path)
    documented = (CHECKOUT / "scanside.toml").read_text()
    for table in (Config(), *(getattr(Config(), name) for name in ("storage_scp", "drop_folder", "models", "web"))):
        assert all(f"{name}" in documented for name in table.__struct_fields__)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[inference]\nbackend = 'abacus'", "abacus"),
        ("[inference]\nthreads = 999", "999"),
        ("[inference]\nlease_seconds = 5", "leaves no time"),
        ("[web]\nprot = 1", "prot"),
        ("[web]\nport = 'x'", "web.port"),
        ("data = 1", "data"),
        ("x", "="),
    ],
)
def test_a_wrong_configuration_is_named(tmp_path: Path, text: str, word: str) -> None:
    config = tmp_path / "scanside.toml"
    config.write_text(text)
    done = scanside("run", "--config", config)
    assert done.returncode == 1
    assert word in done.stderr


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in backends.names() if backends.missing(name) is None])
def test_each_backend_answers_with_its_own_targets_calibration_and_threshold(name: str, tmp_path: Path) -> None:
    opened = package.read(package.bundled("chest-pneumonia")[0], None)
    target = opened.target(backends.module(name).TARGET)
    golden = opened.golden()
    logits = golden[f"{backends.module(name).TARGET}/logits"]
    wanted = calibrated(logits[:, 0], target.temperature, target.bias)
    for number, pixels in enumerate(golden["images"]):
        make_radiograph(tmp_path / "in" / f"{number:02}.dcm", pixels=pixels, bits=8, seed=number)
    # Of this environment: the device's may lack the optional backends.
    command = [sys.executable, "-m", "appliance", "infer", str(tmp_path / "in"), "--json", "--backend", name]
    command += ["--package", str(opened.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=CHECKOUT)
    answers = sorted((json.loads(line) for line in done.stdout.splitlines()), key=lambda each: each["file"])
    assert len(answers) == len(wanted)
    for answer, probability in zip(answers, wanted, strict=True):
        assert answer["backend"] == name
        (finding,) = answer["findings"]
        assert finding["probability"] == pytest.approx(
            float(probability), abs=opened.manifest.golden.probability_tolerance
        )
        assert finding["positive"] == (probability >= target.operating_point().threshold)


def test_a_package_is_shown_and_verified(tmp_path: Path) -> None:
    bundled = package.bundled("chest-pneumonia")[0]
    shown = scanside("package", "show", bundled, check=True).stdout
    assert "which this device trusts" in shown
    assert "onnxruntime: yes" in shown
    assert re.search(r"target tensorrt\n +runs here +tensorrt: no, ", shown) or "tensorrt: yes" in shown
    assert "Signs of pneumonia" in shown
    assert "trusted key" in scanside("package", "verify", bundled, check=True).stdout
    damaged = tmp_path / "damaged.scanside"
    data = bytearray(bundled.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    refused = scanside("package", "verify", damaged)
    assert refused.returncode == 1
    assert "damaged" in refused.stderr
