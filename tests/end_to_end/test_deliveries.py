"""Every object of every kind of result reaches Orthanc, by C-STORE and by STOW-RS, is found there, and committed."""

from __future__ import annotations

import json
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from urllib.parse import urlencode

import pydicom
import pytest

from appliance.send import Destination, send_files
from tests.dicom_files import hippocampus_pixels, make_radiograph, make_series
from tests.filled import models
from tests.peers import Pacs, dicomweb_plugin, free_port, needs, orthanc, wait_until
from tests.running import RunningAppliance

pytestmark = pytest.mark.long


def found_by(pacs: Pacs, study: str) -> set[tuple[str, str]]:
    """SOP Class and SOP Instance UIDs that C-FIND gives of a study."""
    keys = ("0008,0052=IMAGE", f"0020,000D={study}", "0020,000E", "0008,0016", "0008,0018")
    options = [part for key in keys for part in ("-k", key)]
    to = ("-aec", pacs.ae_title, "127.0.0.1", str(pacs.port))
    with tempfile.TemporaryDirectory() as folder:
        command = [needs("findscu"), "-S", "-X", "-od", folder, *options, *to]
        subprocess.run(command, capture_output=True, timeout=60, check=True)
        answers = [pydicom.dcmread(path, force=True) for path in Path(folder).iterdir()]
    return {(str(each.SOPClassUID), str(each.SOPInstanceUID)) for each in answers}


Peers = tuple[RunningAppliance, Pacs, Pacs]


@pytest.fixture
def peers(tmp_path: Path) -> Iterator[Peers]:
    """An appliance that sends to one Orthanc by C-STORE and to another by STOW-RS."""
    port = free_port()
    knows = {"scanside": {"AET": "SCANSIDE", "Host": "127.0.0.1", "Port": port}}
    plugin = dicomweb_plugin()
    with (
        orthanc(tmp_path / "pacs", DicomModalities=knows, DicomAlwaysAllowFind=True) as pacs,
        orthanc(tmp_path / "web", Plugins=[plugin], DicomAlwaysAllowFind=True) as web,
    ):
        destinations = f"""
[[destinations]]
name = "pacs"
ae_title = "{pacs.ae_title}"
host = "127.0.0.1"
port = {pacs.port}
storage_commitment = true
send = ["structured_report", "secondary_capture", "segmentation", "assessment"]

[[destinations]]
name = "web"
protocol = "stow"
url = "http://127.0.0.1:{web.http_port}/dicom-web"

[[destinations]]
name = "emergency"
ae_title = "{pacs.ae_title}"
host = "127.0.0.1"
port = {pacs.port}
when = "urgent"

[delivery]
first_retry_seconds = 0.5
"""
        appliance = RunningAppliance(tmp_path / "appliance", extra=models(tmp_path / "packages") + destinations)
        config = appliance.config_path.read_text().replace("port = 0", f"port = {port}", 1)
        appliance.config_path.write_text(config)
        appliance.start()
        try:
            yield appliance, pacs, web
        finally:
            appliance.stop()


def test_orthanc_takes_finds_and_commits_every_object(peers: Peers, tmp_path: Path) -> None:
    appliance, pacs, web = peers
    appliance.wait_ready()
    sources = [make_radiograph(tmp_path / "chest.dcm"), *make_series(tmp_path / "mr", hippocampus_pixels(18, 30, 24))]
    to = Destination("SCANSIDE", "127.0.0.1", appliance.port)
    assert all(sent.ok for sent in send_files(sources, to, "TEST", {}, associations=1))
    rows = appliance.wait_final(2, timeout=120)
    assert [row["state"] for row in rows] == ["delivered"] * len(rows)
    store = appliance.store()
    leads = [row for row in rows if row["provenance"]]
    assert len(leads) == 2  # the radiograph, with findings and an outline beside them; the series
    kinds = set()
    for row in leads:
        sent = {(item["sop_class_uid"], item["sop_instance_uid"]) for item in store.objects(row["id"])}
        kinds |= {item["kind"] for item in store.objects(row["id"])}
        for peer in (pacs, web):
            assert found_by(peer, row["study_instance_uid"]) == sent
        for item in store.deliveries(row["id"]):
            assert item["state"] == {"pacs": "committed", "web": "sent", "emergency": "sent"}[item["destination"]]
            assert (item["destination"] == "emergency") <= bool(row["urgent"])
    assert kinds == {"structured_report", "secondary_capture", "segmentation"}
    store.close()
    study = str(pydicom.dcmread(sources[0], stop_before_pixels=True).StudyInstanceUID)
    assert len(found_by(pacs, study)) == 3


@pytest.mark.slow
def test_orthanc_gets_what_readers_say(peers: Peers, tmp_path: Path) -> None:
    """A document for each, which names the result and the document whose place it takes; the image stays done."""
    appliance, pacs, web = peers
    appliance.wait_ready()
    source = make_radiograph(tmp_path / "chest.dcm")
    assert all(
        sent.ok for sent in send_files([source], Destination("SCANSIDE", "127.0.0.1", appliance.port), "T", {}, 1)
    )
    (row,) = appliance.wait_final(1, timeout=120)
    assert row["state"] == "delivered"
    study, store, label = row["study_instance_uid"], appliance.store(), row["findings"][0]["label"]
    results = found_by(web, study)
    told: list[pydicom.Dataset] = []
    for number, verdict in enumerate(({"verdict": "agree"}, {"verdict": "disagree", "reason": "other_cause"}), 1):
        form = urlencode({"subject": "finding", "label": label, **verdict}).encode()
        request = urllib.request.Request(
            f"{appliance.url}study/{row['id']}/assess", form, {"Sec-Fetch-Site": "same-origin"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.status == 200

        def committed(kind: str = f"assessment_{number}") -> bool:
            return [(each["destination"], each["state"]) for each in store.deliveries(row["id"])
                    if each["kind"] == kind] == [("pacs", "committed")]  # fmt: skip

        wait_until(committed, "it is committed", 60)
        (new,) = found_by(pacs, study) - results - {(str(each.SOPClassUID), str(each.SOPInstanceUID)) for each in told}
        query = json.dumps({"Level": "Instance", "Query": {"SOPInstanceUID": new[1]}}).encode()
        (name,) = pacs.post("/tools/find", query)
        with urllib.request.urlopen(f"http://127.0.0.1:{pacs.http_port}/instances/{name}/file") as answer:
            told.append(pydicom.dcmread(BytesIO(answer.read())))
    first, second = told
    (of_study,) = second.PredecessorDocumentsSequence
    (of_series,) = of_study.ReferencedSeriesSequence
    assert [each.ReferencedSOPInstanceUID for each in of_series.ReferencedSOPSequence] == [first.SOPInstanceUID]
    assessed = second.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert assessed.ReferencedSOPInstanceUID in {uid for _, uid in results}
    assert found_by(web, study) == results, "it did not ask for it"
    after = store.instance(row["id"])
    assert after is not None
    assert (after["state"], after["finished_at"]) == ("delivered", row["finished_at"])
    store.close()


def _some(appliance: RunningAppliance, state: str) -> bool:
    """Whether a delivery is in a state."""
    store = appliance.store()
    try:
        return any(each[state] for each in store.destinations())
    finally:
        store.close()


@pytest.mark.slow
def test_killed_in_the_middle_everything_arrives_once(peers: Peers, tmp_path: Path) -> None:
    appliance, pacs, web = peers
    appliance.wait_ready()
    sources = [make_radiograph(tmp_path / f"{n}.dcm", rows=300, columns=260, seed=n) for n in range(4)]
    to = Destination("SCANSIDE", "127.0.0.1", appliance.port)
    assert all(sent.ok for sent in send_files(sources, to, "TEST", {}, associations=1))
    for state in ("sent", "committed"):
        wait_until(partial(_some, appliance, state), f"one is {state}")
        appliance.kill()
        appliance.start()
    rows = appliance.wait_final(4, timeout=120)
    assert {row["state"] for row in rows} == {"delivered"}
    store = appliance.store()
    objects = {item["sop_instance_uid"] for row in rows for item in store.objects(row["id"])}
    store.close()
    for peer in (pacs, web):
        held = [
            str(peer.get(f"/instances/{name}/simplified-tags")["SOPInstanceUID"]) for name in peer.get("/instances")
        ]
        assert sorted(held) == sorted(objects)
