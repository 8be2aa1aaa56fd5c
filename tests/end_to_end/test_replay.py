"""Results are made again from ledger, package and received files: the same bytes, or a reason why not."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree

import msgspec
import pydicom
import pytest

from appliance.config import Config, Hl7
from appliance.config_file import load
from appliance.errors import ApplianceError, BackendError, PackageError
from appliance.replay import replay, save
from appliance.send import Destination, send_files
from tests import fake_package
from tests.dicom_files import hippocampus_pixels, make_radiograph, make_series
from tests.filled import models
from tests.running import RunningAppliance, scanside

pytestmark = [pytest.mark.long, pytest.mark.skipif(not fake_package.BUNDLED, reason="no model package is bundled")]

SETTINGS = (
    '[results]\nmessages = ["hl7_oru", "fhir_bundle"]\n[inference]\nbackend = "onnxruntime"\n'
    "[series]\nquiet_seconds = 2\n"
)
NAME = b"M\xfcller^Hans"
KINDS = {"structured_report", "secondary_capture", "segmentation", "hl7_oru", "fhir_bundle"}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAppliance]:
    """An appliance that has read a radiograph, whose name is not in its character set, and two series, one cut."""
    folder = tmp_path_factory.mktemp("done")
    appliance = RunningAppliance(folder, models(folder / "packages") + SETTINGS)
    appliance.start()
    chest = make_radiograph(folder / "chest.dcm", SpecificCharacterSet="ISO_IR 192", PatientName="M?ller^Hans")
    chest.write_bytes(chest.read_bytes().replace(b"M?ller", NAME[:6]))
    slices = make_series(folder / "in", hippocampus_pixels(18, 30, 24))
    to = Destination("SCANSIDE", "127.0.0.1", appliance.port)
    cut = make_series(folder / "cut", hippocampus_pixels(18, 30, 24), seed=1, ImagesInAcquisition=20)
    for files in ([chest], slices, cut):
        assert all(sent.ok for sent in send_files(files, to, "TEST", {}, associations=1))
    appliance.wait_final(3)
    appliance.stop()
    yield appliance


@pytest.fixture
def config(done: RunningAppliance, tmp_path: Path) -> Config:
    """Of a copy of its data, which a test may change."""
    copytree(done.data, tmp_path / "box")
    return load(done.config_path, tmp_path / "box")


def ledger(config: Config, sql: str, *values: object) -> list[tuple[str, ...]]:
    with sqlite3.connect(config.ledger_path) as connection:
        found = connection.execute(sql, values).fetchall()
    connection.close()
    return found


def results(config: Config) -> list[int]:
    return [int(number) for (number,) in ledger(config, "SELECT instance_id FROM result ORDER BY 1")]


@pytest.mark.filterwarnings("ignore:Failed to decode:UserWarning")  # the name
def test_the_command_makes_the_same_objects_again(done: RunningAppliance, config: Config, tmp_path: Path) -> None:
    assert len(results(config)) == 3
    for number in results(config):
        out = tmp_path / f"out{number}"
        ran = scanside("replay", number, "--out", out, "--json", "--config", done.config_path)
        assert ran.returncode == 0, ran.stderr + ran.stdout
        rows = json.loads(ran.stdout)
        assert all(row["identical"] for row in rows)
        assert {row["kind"] for row in rows} == KINDS
        for row in rows:
            then, now = config.results_path / f"{number:08d}" / Path(row["file"]).name, Path(row["file"])
            assert then.read_bytes() == now.read_bytes()
            if now.suffix == ".dcm":
                one, other = pydicom.dcmread(then), pydicom.dcmread(now)
                assert one.file_meta == other.file_meta
                for element in one:
                    assert other[element.tag] == element
                assert one.keys() == other.keys()
    told = scanside("replay", number, "--config", done.config_path)
    assert "structured_report: identical" in told.stdout


def test_a_name_keeps_its_bytes_all_the_way(config: Config) -> None:
    for kind in ("structured_report", "secondary_capture", "segmentation"):
        assert NAME in (config.results_path / f"{results(config)[0]:08d}" / f"{kind}.dcm").read_bytes()


def test_what_may_be_missing_in_a_series_is_said_in_its_report_and_messages(config: Config) -> None:
    said = b"Images of the series may be missing: says 20 images, 18 are here."
    for number, expected in zip(results(config), (False, False, True), strict=True):
        for name in ("structured_report.dcm", "hl7_oru.hl7", "fhir_bundle.json"):
            content = (config.results_path / f"{number:08d}" / name).read_bytes()
            assert (said in content) == expected, name


def test_objects_that_are_gone_are_made_again(config: Config) -> None:
    number = results(config)[0]
    for path in (config.results_path / f"{number:08d}").iterdir():
        path.unlink()
    assert all(each.identical for each in replay(config, number))


def test_what_differs_is_named_and_gets_a_uid_of_its_own(config: Config, tmp_path: Path) -> None:
    number = results(config)[0]
    path = config.results_path / f"{number:08d}" / "structured_report.dcm"
    dataset = pydicom.dcmread(path)
    dataset.SeriesDescription = "written by another version"
    dataset.ContentSequence[0].RelationshipType = "CONTAINS"
    dataset.save_as(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    ledger(config, "UPDATE object SET digest = ? WHERE instance_id = ? AND kind = 'structured_report'", digest, number)
    other = msgspec.structs.replace(config, hl7=Hl7(receiving_facility="ELSEWHERE"))
    replayed = replay(other, number)
    by_kind = {each.kind: each for each in replayed}
    assert {kind for kind, each in by_kind.items() if not each.identical} == {"structured_report", "hl7_oru"}
    report = by_kind["structured_report"]
    assert any(line.startswith("SeriesDescription: written by another version is AI ") for line in report.differences)
    assert any(line.startswith("ContentSequence[1].RelationshipType: CONTAINS is ") for line in report.differences)
    assert "ELSEWHERE" in by_kind["hl7_oru"].differences[0]
    files = {path.stem: path for path in save(tmp_path / "out", replayed)}
    assert pydicom.dcmread(files["structured_report"]).SOPInstanceUID != report.sop_instance_uid
    assert pydicom.dcmread(files["segmentation"]).SOPInstanceUID == by_kind["segmentation"].sop_instance_uid
    path.unlink()
    gone = {each.kind: each for each in replay(config, number)}["structured_report"]
    assert "no longer here" in gone.differences[0]


def test_without_the_received_file_it_says_what_became_of_it(config: Config) -> None:
    number = results(config)[0]
    (name,) = ledger(config, "SELECT file FROM instance WHERE id = ?", number)[0]
    path = config.spool_path / name
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ApplianceError, match="no longer what was received"):
        replay(config, number)
    path.unlink()
    with pytest.raises(ApplianceError, match="is missing"):
        replay(config, number)
    ledger(config, "UPDATE instance SET image_removed_at = 1.7e9 WHERE id = ?", number)
    with pytest.raises(ApplianceError, match="removed by retention on 20"):
        replay(config, number)


def test_without_the_package_it_names_it_and_takes_its_file(config: Config) -> None:
    number = results(config)[1]
    *others, hippocampus = config.models.packages
    without = msgspec.structs.replace(config, models=msgspec.structs.replace(config.models, packages=tuple(others)))
    with pytest.raises(PackageError, match=r"hippocampus 0\.0\.1, SHA-256 \w{64}; installed: chest"):
        replay(without, number)
    assert all(each.identical for each in replay(without, number, [Path(hippocampus)]))


@pytest.mark.parametrize(
    ("backend", "reason"), [("tensorrt", "can't be used here any more"), ("abacus", "this version has not")]
)
def test_without_the_backend_it_says_so(config: Config, backend: str, reason: str) -> None:
    number = results(config)[0]
    ledger(config, "UPDATE result SET provenance = json_set(provenance, '$.backend', ?)", backend)
    with pytest.raises(BackendError, match=f"the backend '{backend}', which {reason}"):
        replay(config, number)


def test_what_is_no_result_is_said(done: RunningAppliance, config: Config) -> None:
    told = scanside("replay", 999, "--config", done.config_path)
    assert told.returncode == 1
    assert "there is no result 999" in told.stderr
    lead = results(config)[1]
    (follower,) = ledger(config, "SELECT id FROM instance WHERE lead_id = ? AND id <> ? LIMIT 1", lead, lead)[0]
    with pytest.raises(ApplianceError, match=f"replay result {lead}"):
        replay(config, int(follower))
