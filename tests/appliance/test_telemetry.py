"""What a device tells of itself: signed, of no patient, few patients left out; and many devices on one page."""

from __future__ import annotations

import base64
import hashlib
import json
import sqlite3
import time
import urllib.parse
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance import fleet, package, signature, telemetry
from appliance.assessment_store import Assessments
from appliance.config import Config
from appliance.config_file import load
from appliance.errors import ApplianceError, SignatureError
from appliance.package_store import PackageStore
from appliance.store import Arrival, Store
from appliance.telemetry import MissingPackage, Table, suppressed
from appliance.telemetry_store import Cell
from appliance.web.app import create_app
from tests import fake_package
from tests.appliance.conftest import browser
from tests.device import MODEL, Device

pytestmark = pytest.mark.skipif(not package.bundled("chest-pneumonia"), reason="no model package is bundled")

NOW = datetime(2026, 6, 10, 12, tzinfo=UTC)  # a Wednesday
LAST_WEEK = datetime(2026, 6, 2, 9, tzinfo=UTC).timestamp()
PLANTED = {
    "patient_name": "Mustermann^Erika", "patient_id": "PAT-7391-XY", "institution": "Klinikum Hinterwald",
    "study_instance_uid": "1.2.276.0.7230010.3.1.2.81712", "accession_number": "ACC20260602X",
    "issuer_of_patient_id": "HOSPITALISSUER", "sender": "CT-HINTERWALD@192.0.2.77", "ae_title": "HINTERWALDCT",
    "acquired_at": "20260602091733", "body_part": "CHESTMUSTER", "view": "PAMUSTER", "reason": "Erika said so",
    "patient_sex": "Xq7",
}  # fmt: skip
FREE_TEXT = ("the daughter of Dr. Erdmann called", "planned by Oberarzt Quast", "Quast", "reader-hildegard")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    path = tmp_path / "scanside.toml"
    path.write_text(f'data_dir = "box"\n[models]\npackages = ["{fake_package.BUNDLED[0]}"]\n')
    found = load(path)
    Store(found.ledger_path).close()
    return found


def _result(config: Config, number: int, positive: bool = False, at: float = LAST_WEEK, **columns: str) -> int:
    """A result as the worker records it, of one patient each unless said otherwise."""
    store = Store(config.ledger_path)
    digest = hashlib.sha256(f"{number}".encode()).hexdigest()
    arrival = Arrival(f"1.2.3.{number}", "1.2", digest, f"{number}.dcm", 1, "storage_scp", "SCANNER")
    identifier = store.receive(arrival).instance_id
    claim = store.claim("worker", 30)
    assert claim is not None
    opened = fake_package.bundled()
    finding = {
        "label": opened.manifest.findings[0].label, "code": msgspec.to_builtins(opened.manifest.findings[0].code),
        "probability": 0.9 if positive else 0.1, "threshold": 0.5, "operating_point": "balanced", "positive": positive,
        "urgent": False, "words": "words",
    }  # fmt: skip
    provenance = {"package": opened.manifest.id, "version": opened.manifest.version, "package_sha256": opened.sha256}
    result: dict[str, Any] = {
        "findings": [finding], "warnings": [], "provenance": provenance, "seconds": {"total": 0.2}, "urgent": False,
    }  # fmt: skip
    store.finish(identifier, "worker", result, [], [])
    store.close()
    described = {"patient_id": f"P{number}", "patient_age": "045Y", "modality": "DX", **columns}
    with sqlite3.connect(config.ledger_path) as connection:
        values = {**described, "at": at, "id": identifier}
        names = ", ".join(f"{name} = :{name}" for name in described)
        connection.execute(f"UPDATE instance SET {names}, received_at = :at WHERE id = :id", values)
        connection.execute("UPDATE result SET made_at = ? WHERE instance_id = ?", (at, identifier))
    return identifier


def test_weeks_are_counted_and_the_export_is_this_devices(config: Config) -> None:
    for number in range(12):
        _result(config, number, positive=number < 5)
    _result(config, 99, at=NOW.timestamp() - 60)  # of a week that is not complete
    made = telemetry.make(config, NOW)
    (week,) = made.telemetry.weeks
    assert week.week == "2026-W23"
    assert week.tables["outcome"] == Table(12, {"negative": 7, "positive": 5})
    assert week.taken[0].seconds_p50 == 0.2
    own, _ = signature.load_or_create_private_key(config.key_path)
    keys = {signature.key_id(own.public_key()): own.public_key()}
    assert telemetry.verify(made.to_json(), keys) == made
    changed = made.to_json().replace(b'"positive": 5', b'"positive": 9')
    with pytest.raises(SignatureError, match="changed"):
        telemetry.verify(changed, keys)
    later = telemetry.make(config, NOW + timedelta(days=1))
    assert later.telemetry.weeks == made.telemetry.weeks  # the difference of two exports tells of no single day


def test_a_package_in_force_that_can_not_be_opened_is_said_to_be_missing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    device = Device(tmp_path / "device", capfd)
    for number in range(12):
        _result(device.config, number, positive=number < 5)
    device.call("models", "install", fake_package.version(device.folder / "better", "1.4.1"))
    device.call("models", "switch", MODEL, "1.4.1", "--why", "newer")
    for path in (*device.config.packages_path.glob("*1.4.1*"), device.folder / "better" / f"{MODEL}.scanside"):
        path.unlink()
    sha256 = PackageStore(device.config.ledger_path, read_only=True).in_force()[MODEL]["sha256"]
    folder = tmp_path / "fleet"
    folder.mkdir()
    said = device.call("telemetry", "export", folder / "a.json")
    assert f"{MODEL} 1.4.1 is in force and can't be opened" in said
    device.call("telemetry", "key", folder / "a.pub")
    made = telemetry.read((folder / "a.json").read_bytes()).telemetry
    assert made.missing == (MissingPackage(MODEL, "1.4.1", sha256),)
    assert [(each.version, each.reads) for each in made.packages] == [("1.3.1", False)]
    week = next(each for each in telemetry.make(device.config, NOW).telemetry.weeks)
    assert week.tables["outcome"] == Table(12, {"negative": 7, "positive": 5})
    device.plain("fleet", "report", folder, "--to", tmp_path / "fleet.html")
    assert f"{MODEL} 1.4.1 is in force and can't be opened" in (tmp_path / "fleet.html").read_text()
    # A file that only the configuration names: its name may be a person's, or a site's.
    file = tmp_path / "device" / "dr-quast-chest-1.0.scanside"
    file.write_bytes(b"no package")
    device.path.write_text(device.path.read_text().replace(str(fake_package.BUNDLED[0]), str(file)))
    again = telemetry.make(device.config, NOW)
    assert MissingPackage("", "", "none") in again.telemetry.missing
    assert b"quast" not in again.to_json()


def test_few_patients_are_left_out_and_what_would_tell_them(config: Config) -> None:
    for number in range(12):
        _result(config, number, positive=number < 2)
    (week,) = telemetry.make(config, NOW).telemetry.weeks
    assert week.tables["outcome"] == Table(12, {"negative": None, "positive": None})
    assert week.tables["age"].cells == {"40-64": 12}


def test_many_images_of_one_patient_are_few(config: Config) -> None:
    for number in range(12):
        _result(config, number, patient_id="P1")
    (week,) = telemetry.make(config, NOW).telemetry.weeks
    assert all(table.total is None and set(table.cells.values()) == {None} for table in week.tables.values())
    assert week.taken == ()


_CELLS = st.dictionaries(
    st.sampled_from("abcdef"),
    st.integers(0, 30).flatmap(lambda patients: st.tuples(st.integers(patients, 60), st.just(patients))),
    min_size=1,
)


@settings(max_examples=200, deadline=None)
@given(_CELLS.map(lambda cells: {name: Cell(*each) for name, each in cells.items() if each[0] == 0 or each[1]}))
def test_nothing_that_is_told_gives_away_a_small_cell(cells: dict[str, Cell]) -> None:
    table = suppressed(cells, 5)
    small = {name for name, cell in cells.items() if 0 < cell.patients < 5}
    hidden = {name for name, value in table.cells.items() if value is None}
    assert small <= hidden
    assert all(table.cells[name] == cells[name].readings for name in set(cells) - hidden)
    if hidden and table.total is not None:
        assert len(hidden) > 1
        assert sum(cells[name].patients for name in hidden) >= 5
    if not small:
        assert not hidden


def _forms(text: str) -> Iterator[bytes]:
    """A text as it may hide in a file."""
    for form in {text, text.lower(), text.upper(), text.replace("^", " "), text[::-1], urllib.parse.quote(text)}:
        yield form.encode()
        yield json.dumps(form)[1:-1].encode()
        yield form.encode().hex().encode()
        yield base64.b64encode(form.encode()).rstrip(b"=")
        yield form.encode("utf-16-le")
        for algorithm in (hashlib.md5, hashlib.sha1, hashlib.sha256):
            yield algorithm(form.encode()).hexdigest()[:16].encode()
            yield base64.b64encode(algorithm(form.encode()).digest())[:16]


def test_nothing_of_a_patient_is_told(config: Config) -> None:
    label = fake_package.bundled().manifest.findings[0].label
    for number in range(8):
        identifier = _result(config, number, positive=True, **{**PLANTED, "patient_id": f"PAT-7391-XY{number}"})
        Assessments(config.ledger_path).assess(
            identifier, "finding", label, "disagree", "other", FREE_TEXT[0], FREE_TEXT[3]
        )
    with sqlite3.connect(config.ledger_path) as connection:
        connection.execute(
            "INSERT INTO package_choice (model, version, sha256, former, kind, chosen_at, chosen_by, why, cases) "
            "VALUES (?, '1.3.1', ?, '', 'switch', ?, ?, ?, 'null')",
            (fake_package.bundled().manifest.id, fake_package.bundled().sha256, LAST_WEEK, FREE_TEXT[2], FREE_TEXT[1]),
        )
        connection.execute(
            "INSERT INTO drift_alarm (package, against, kind, raised_at, study, evidence, cause) "
            "VALUES (?, 'validated', 'alarm', ?, 1, 9.0, ?)",
            (fake_package.bundled().sha256, LAST_WEEK, json.dumps({"words": PLANTED["institution"]})),
        )
    monday = datetime.now(UTC) + timedelta(days=7)  # so that the assessments, which are of now, are counted, too
    for content in (telemetry.make(config, NOW).to_json(), telemetry.make(config, monday).to_json()):
        for text in (*PLANTED.values(), *FREE_TEXT, "PAT-7391-XY3", "Mustermann", "Hinterwald", "1.2.3.4"):
            for form in _forms(text):
                assert form not in content, (text, form)
    assert b'"kind": "alarm"' in telemetry.make(config, NOW).to_json()
    assert telemetry.make(config, monday).telemetry.weeks[-1].assessed[0].readings.total == 8


def test_it_is_pulled_by_whoever_may_see(config: Config) -> None:
    for number in range(6):
        _result(config, number, at=time.time() - 9 * 86400)
    app = create_app(config)
    answer = browser(app).get("/api/v1/telemetry")
    assert answer.status_code == 200
    own, _ = signature.load_or_create_private_key(config.key_path)
    keys = {signature.key_id(own.public_key()): own.public_key()}
    assert telemetry.verify(answer.data, keys).telemetry.software
    assert "/api/v1/telemetry" in json.loads(browser(app).get("/api/v1/openapi.json").data)["paths"]


# --- the fleet --------------------------------------------------------------------------------------------------------


def _fleet(config: Config, folder: Path, figures: dict[int, dict[str, Any]], count: int = 6) -> None:
    """So many devices like this one, each with a key of its own."""
    made = telemetry.make(config, NOW).telemetry
    folder.mkdir()
    for number in range(count):
        key = Ed25519PrivateKey.generate()
        own = {"device": signature.key_id(key.public_key()), "disk_used": 0.3 + number / 100}
        told = msgspec.structs.replace(made, **{**own, **figures.get(number, {})})
        signed = telemetry.Signed(told, signature.sign(key, telemetry._canonical(told)))
        (folder / f"{number}.json").write_bytes(signed.to_json())
        (folder / f"{number}.pub").write_bytes(signature.public_pem(key))


def test_a_fleet_shows_who_is_unlike_the_others_stale_unknown_silent_or_forged(
    config: Config, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for number in range(12):
        _result(config, number, positive=number < 5)
    folder = tmp_path / "fleet"
    _fleet(config, folder, {1: {"disk_used": 0.97}, 2: {"made_on": "2026-05-01"}}, count=7)
    (folder / "3.pub").unlink()
    (folder / "4.json").unlink()
    forged = (folder / "5.json").read_bytes().replace(b'"undelivered": 0', b'"undelivered": 7')
    (folder / "5.json").write_bytes(forged)
    (folder / "junk.json").write_bytes(b'{"telemetry": [[[')
    found = fleet.gather(folder, signature.load_trusted_keys((folder,)), NOW.date())
    names = {path.stem: json.loads(path.read_text())["telemetry"]["device"] for path in folder.glob("[0-9].json")}
    by_device = {device.telemetry.device: device for device in found.devices}
    assert by_device[names["1"]].far == ["Disk used"]
    assert [each.far for each in found.devices if each.telemetry.device != names["1"]] == [[]] * 4
    assert by_device[names["2"]].stale
    assert not by_device[names["3"]].known
    assert set(found.refused) == {"5.json", "junk.json"}
    assert len(found.silent) == 2  # the one without a file, and the one whose file was forged
    page = fleet.report(found)
    assert "http" not in page.replace("http://www.w3.org", "")
    assert "<script" not in page
    assert names["1"] in page
    device = Device(tmp_path / "device", capfd)
    said = device.plain("fleet", "report", folder, "--to", tmp_path / "fleet.html", code=1)
    assert "5.json" in said
    assert (tmp_path / "fleet.html").read_text().startswith("<!doctype html>")


def test_a_hostile_export_can_write_nothing_into_the_page(config: Config, tmp_path: Path) -> None:
    folder = tmp_path / "fleet"
    _fleet(config, folder, {}, count=1)
    content = json.loads((folder / "0.json").read_text())
    content["telemetry"]["software"] = "<script>alert(1)</script>"
    (folder / "0.json").write_text(json.dumps(content))
    (folder / "0.pub").unlink()
    with pytest.raises(ApplianceError, match="no telemetry"):
        fleet.gather(folder, {}, date(2026, 6, 10))


@pytest.mark.parametrize(
    ("values", "far"),
    [
        ([1.0, 1.1, 0.9, 1.0, 9.0], ["", "", "", "", "high"]),
        ([5.0, 5.0, 5.0, 5.0, 5.0], [""] * 5),
        ([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 7.0], [""] * 8 + ["high"]),
        ([1.0, 2.0, 90.0], [""] * 3),
        ([10.0, 11.0, None, 10.5, 9.5, -40.0], ["", "", "", "", "", "low"]),
    ],
)
def test_outliers_are_those_far_from_the_median(values: list[float | None], far: list[str]) -> None:
    assert fleet.outliers(values) == far
