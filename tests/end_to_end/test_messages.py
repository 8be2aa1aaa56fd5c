"""Messages from an image to a RIS, an EHR and a folder: the running appliance against real receivers."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.send import Destination, send_files
from tests import fake_package
from tests.dicom_files import make_radiograph
from tests.fhir_server import fhir_server
from tests.hl7_peer import hl7_receiver
from tests.peers import free_port, wait_until
from tests.running import RunningAppliance, scanside

pytestmark = pytest.mark.skipif(not fake_package.BUNDLED, reason="no model package is bundled")

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
