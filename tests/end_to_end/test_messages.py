"""Messages from an image to a RIS, an EHR and a folder: the running appliance against real receivers."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance import problems
from appliance.config_file import load
from appliance.custody import Custody
from appliance.health import health
from appliance.machine import Clock
from appliance.replay import replay
from appliance.send import Destination, send_files
from tests import fake_package
from tests.dicom_files import make_radiograph
from tests.fhir_server import fhir_server
from tests.hl7_peer import hl7_receiver
from tests.peers import free_port, wait_until
from tests.running import RunningAppliance, scanside

pytestmark = [pytest.mark.long, pytest.mark.skipif(not fake_package.BUNDLED, reason="no model package is bundled")]

SETTINGS = """
[results]
messages = ["hl7_oru", "fhir_bundle"]
[delivery]
first_retry_seconds = 0.3
longest_retry_seconds = 1.0
[[destinations]]
name = "ris"
protocol = "mllp"
host = "127.0.0.1"
port = {hl7_port}
[[destinations]]
name = "ehr"
protocol = "fhir"
url = "{fhir_url}"
[[destinations]]
name = "files"
protocol = "folder"
path = "out"
send = ["hl7_oru", "structured_report"]
"""


def test_messages_arrive_once_also_where_the_receiver_was_down(tmp_path: Path) -> None:
    hl7_port = free_port()
    with fhir_server() as ehr:
        appliance = RunningAppliance(tmp_path, SETTINGS.format(hl7_port=hl7_port, fhir_url=ehr.base))
        (appliance.data / "out").mkdir(parents=True)
        appliance.start()
        try:
            to = Destination("SCANSIDE", "127.0.0.1", appliance.port)
            chest = make_radiograph(
                tmp_path / "chest.dcm", SpecificCharacterSet="ISO_IR 144", PatientName="Иванов^Иван"
            )
            (sent,) = send_files([chest], to, "TEST", {}, associations=1)
            assert sent.ok
            wait_until(lambda: ehr.all("DiagnosticReport"), "the EHR has the report", 60)
            wait_until(lambda: len(list((appliance.data / "out").iterdir())) == 2, "the folder has the files")
            assert appliance.store().worklist()[0]["state"] == "written"
            with hl7_receiver(port=hl7_port) as ris:
                (row,) = appliance.wait_final(1)
                assert row["state"] == "delivered"
        finally:
            appliance.stop()
        assert len(ehr.all("DiagnosticReport")) == 1
    (message,) = ris.received
    assert message["PID.F5.R1.C1"] == "Иванов"
    file = next((appliance.data / "out").glob("*.hl7"))
    assert file.read_bytes().decode() == str(message)
    verified = scanside("ledger", "verify", "--config", appliance.config_path)
    assert verified.returncode == 0, verified.stdout


def test_two_patients_whose_ids_the_character_set_lacks_get_objects_and_no_message(tmp_path: Path) -> None:
    settings = """
[results]
messages = ["hl7_oru"]
[hl7]
character_set = "8859/1"
[[destinations]]
name = "files"
protocol = "folder"
path = "out"
send = ["hl7_oru", "structured_report"]
"""
    appliance = RunningAppliance(tmp_path, settings)
    (appliance.data / "out").mkdir(parents=True)
    patients = ["\u0416", "\u0429", "SIM-1"]  # in Cyrillic letters; the third only its name
    files = [
        make_radiograph(
            tmp_path / f"{number}.dcm", seed=number, SpecificCharacterSet="ISO_IR 192",
            PatientID=patient, PatientName="\u0416^A",
        )
        for number, patient in enumerate(patients)
    ]  # fmt: skip
    appliance.start()
    try:
        to = Destination("SCANSIDE", "127.0.0.1", appliance.port)
        assert all(sent.ok for sent in send_files(files, to, "TEST", {}, associations=1))
        assert [row["state"] for row in appliance.wait_final(3)] == ["delivered"] * 3
    finally:
        appliance.stop()
    (message,) = (appliance.data / "out").glob("*.hl7")
    assert b"|SIM-1" in message.read_bytes()
    assert b"|?^A" in message.read_bytes()
    said = "No message of the kind hl7_oru was made of this result: Patient ID (0010,0020) has characters that the "
    reports = [path.read_bytes() for path in (appliance.data / "out").glob("*.dcm")]
    assert sorted(said.encode() in report for report in reports) == [False, True, True]
    for row in appliance.store().worklist():
        found = appliance.store().instance(row["id"])
        assert found is not None
        assert any(each.startswith(said) for each in found["warnings"]) == (row["patient_id"] != "SIM-1")
        assert all(each.identical for each in replay(load(appliance.config_path), row["id"]))
    alarm = _alarm(appliance)
    assert alarm is not None
    assert alarm.what.startswith("2 results went out without a message that is configured")
    assert alarm.detail.startswith(said)
    unread = [row["id"] for row in appliance.store().worklist() if row["patient_id"] != "SIM-1"]
    ledger = Custody(appliance.data / "ledger.sqlite3")
    for identifier in unread:
        assert any(each["what"] == "unmade" for each in appliance.store().events(identifier))
        ledger.review(identifier)
    ledger.close()
    assert _alarm(appliance) is None


def _alarm(appliance: RunningAppliance) -> problems.Problem | None:
    found = {**health(load(appliance.config_path), appliance.store()), "running": True}
    return next((each for each in problems.find(found, Clock("", True), [], None) if each.name == "unmade"), None)
