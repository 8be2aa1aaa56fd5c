"""Storage commitment is answered from ledger and disk: to Orthanc, and to a peer that waits on its association."""

from __future__ import annotations

import json
import queue
import ssl
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, evt
from pynetdicom.dimse_primitives import N_ACTION
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import (
    ComputedRadiographyImageStorage,
    CTImageStorage,
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)

from appliance import config
from appliance.acceptor import tls
from appliance.commitment_store import CommitmentStore
from appliance.ingest.storage_scp import StorageScp
from tests.appliance.conftest import Box
from tests.certificates import Authority
from tests.dicom_files import make_radiograph
from tests.peers import Pacs, free_port, needs, orthanc, wait_until
from tests.running import RunningAppliance


def _post(pacs: Pacs, path: str, content: object) -> Any:
    url = f"http://127.0.0.1:{pacs.http_port}{path}"
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data), timeout=30) as answer:
        return json.load(answer)


def test_orthanc_asks_and_is_told_on_an_association_of_its_own(box: Box, tmp_path: Path) -> None:
    dicom_port = free_port()
    known = (config.Modality(ae_title="ORTHANC", port=dicom_port),)
    scp = StorageScp(config.StorageScp(host="127.0.0.1", port=0, modalities=known), box.intake)
    port = scp.start()
    try:
        with orthanc(tmp_path / "orthanc", dicom_port) as pacs:
            peer = {"AET": "SCANSIDE", "Host": "127.0.0.1", "Port": port}
            url = f"http://127.0.0.1:{pacs.http_port}/modalities/scanside"
            with urllib.request.urlopen(
                urllib.request.Request(url, json.dumps(peer).encode(), method="PUT"), timeout=30
            ):
                pass
            files = [make_radiograph(tmp_path / f"{number}.dcm", seed=number) for number in range(3)]
            names = [_post(pacs, "/instances", path.read_bytes())["ID"] for path in files]
            _post(pacs, "/modalities/scanside/store", {"Resources": names[:2], "Synchronous": True})
            wait_until(lambda: len(box.rows()) == 2, "they are stored")

            def ask(number: int) -> dict[str, Any]:
                header = pydicom.dcmread(files[number], stop_before_pixels=True)
                wanted = {"DicomInstances": [[str(header.SOPClassUID), str(header.SOPInstanceUID)]]}
                asked = _post(pacs, "/modalities/scanside/storage-commitment", wanted)["Path"]
                return dict(
                    wait_until(
                        lambda: (found := pacs.get(asked))["Status"] != "Pending" and found, "Orthanc has its answer"
                    )
                )

            assert ask(0)["Status"] == "Success"
            box.files()[0].unlink()  # whichever it is, one is gone
            answers = [ask(number) for number in range(3)]
            assert sorted(answer["Status"] for answer in answers) == ["Failure", "Failure", "Success"]
            assert len(answers[2]["Failures"]) == 1  # it was never sent
    finally:
        scp.stop()


@pytest.fixture
def stored(box: Box, tmp_path: Path) -> str:
    """The UID of an instance that was sent."""
    scp = StorageScp(config.StorageScp(host="127.0.0.1", port=0), box.intake)
    path = make_radiograph(tmp_path / "a.dcm")
    subprocess.run([needs("storescu"), "127.0.0.1", str(scp.start()), str(path)], check=True, timeout=60)
    scp.stop()
    return str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)


def test_a_peer_without_a_port_is_told_on_its_association(box: Box, stored: str) -> None:
    scp = StorageScp(config.StorageScp(host="127.0.0.1", port=0), box.intake)
    port = scp.start()
    reports: list[tuple[int, Dataset]] = []
    told = threading.Event()

    def on_report(event: evt.Event) -> tuple[int, None]:
        reports.append((event.event_type, event.event_information))
        told.set()
        return 0x0000, None

    entity = AE("CT1")
    entity.add_requested_context(StorageCommitmentPushModel)
    association = entity.associate("127.0.0.1", port, evt_handlers=[(evt.EVT_N_EVENT_REPORT, on_report)])
    try:
        for wanted in (
            [(ComputedRadiographyImageStorage, stored)],
            [(CTImageStorage, stored), (CTImageStorage, "1.2.3"), (ComputedRadiographyImageStorage, stored)],
        ):
            request = Dataset()
            request.TransactionUID = generate_uid()
            request.ReferencedSOPSequence = []
            for sop_class_uid, sop_instance_uid in wanted:
                item = Dataset()
                item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, sop_instance_uid
                request.ReferencedSOPSequence.append(item)
            told.clear()
            status, _ = association.send_n_action(
                request, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
            )
            assert status.Status == 0
            assert told.wait(10)
            assert reports[-1][1].TransactionUID == request.TransactionUID
        del request.ReferencedSOPSequence
        status, _ = association.send_n_action(
            request, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )
        assert status.Status == 0x0115
        association.release()
    finally:
        scp.stop()
    (first, committed), (second, partly) = reports
    assert (first, second) == (1, 2)
    assert [item.ReferencedSOPInstanceUID for item in committed.ReferencedSOPSequence] == [stored]
    assert "FailedSOPSequence" not in committed
    assert [item.FailureReason for item in partly.FailedSOPSequence] == [0x0119, 0x0112]
    assert [item.ReferencedSOPInstanceUID for item in partly.ReferencedSOPSequence] == [stored]


def test_a_request_that_comes_before_a_report_is_answered_is_served_too(box: Box, stored: str) -> None:
    """A scanner may ask for a second series while it has not yet taken the first one's report."""
    scp = StorageScp(config.StorageScp(host="127.0.0.1", port=0), box.intake)
    port = scp.start()
    reports: list[str] = []
    second_asked, all_told = threading.Event(), threading.Event()

    def on_report(event: evt.Event) -> tuple[int, None]:
        if not reports:
            assert second_asked.wait(10)
        reports.append(str(event.event_information.TransactionUID))
        if len(reports) == 2:
            all_told.set()
        return 0x0000, None

    entity = AE("CT1")
    entity.add_requested_context(StorageCommitmentPushModel)
    association = entity.associate("127.0.0.1", port, evt_handlers=[(evt.EVT_N_EVENT_REPORT, on_report)])
    asked = []
    for number in range(2):
        request, item = Dataset(), Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = ComputedRadiographyImageStorage, stored
        request.TransactionUID = generate_uid()
        request.ReferencedSOPSequence = [item]
        asked.append(request.TransactionUID)
        message = N_ACTION()
        message.MessageID, message.ActionTypeID = number + 1, 1
        message.RequestedSOPClassUID = StorageCommitmentPushModel
        message.RequestedSOPInstanceUID = StorageCommitmentPushModelInstance
        message.ActionInformation = BytesIO(encode(request, True, True) or b"")
        association.dimse.send_msg(message, association.accepted_contexts[0].context_id)
        time.sleep(0.2)
    second_asked.set()
    try:
        assert all_told.wait(10)
        assert reports == asked
        association.release()
    finally:
        scp.stop()


def _ask(port: int, sop_instance_uid: str, title: str = "CT1") -> tuple[int, str]:
    """Ask on an association that is released at once; the status, and the Transaction UID."""
    request, item = Dataset(), Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = ComputedRadiographyImageStorage, sop_instance_uid
    request.TransactionUID, request.ReferencedSOPSequence = generate_uid(), [item]
    entity = AE(title)
    entity.add_requested_context(StorageCommitmentPushModel)
    association = entity.associate("127.0.0.1", port)
    status, _ = association.send_n_action(request, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance)
    association.release()
    return int(status.Status), str(request.TransactionUID)


@contextmanager
def _modality(port: int, tls: ssl.SSLContext | None = None) -> Iterator[queue.SimpleQueue[Dataset]]:
    """A storage commitment SCU that takes reports on a port of its own."""
    reports: queue.SimpleQueue[Dataset] = queue.SimpleQueue()

    def on_report(event: evt.Event) -> tuple[int, None]:
        reports.put(event.event_information)
        return 0x0000, None

    entity = AE("CT1")
    entity.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
    handlers: list[Any] = [(evt.EVT_N_EVENT_REPORT, on_report)]
    server = entity.start_server(("127.0.0.1", port), block=False, ssl_context=tls, evt_handlers=handlers)
    try:
        yield reports
    finally:
        server.shutdown()


def test_what_is_owed_outlives_sigkill(tmp_path: Path) -> None:
    port = free_port()
    box = RunningAppliance(tmp_path, scp=f'[[storage_scp.modalities]]\nae_title = "CT1"\nport = {port}')
    box.start()
    box.fix_ports()
    path = make_radiograph(tmp_path / "a.dcm")
    subprocess.run([needs("storescu"), "127.0.0.1", str(box.port), str(path)], check=True, timeout=60)
    uid = str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)
    asked = [_ask(box.port, uid) for _ in range(2)]
    assert [status for status, _ in asked] == [0, 0]
    box.kill()
    with _modality(port) as reports:
        box.start()
        told = [reports.get(timeout=60) for _ in asked]
        assert sorted(str(each.TransactionUID) for each in told) == sorted(uid for _, uid in asked)
        assert all(each.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == uid for each in told)
        ledger = CommitmentStore(box.data / "ledger.sqlite3")
        wait_until(lambda: ledger.peers() == [], "that it was told is recorded")
        box.kill()
    ledger.close()


def test_orthanc_is_told_after_its_port_was_mended(box: Box, stored: str, tmp_path: Path) -> None:
    """The report goes where the configuration says now, not where it said when it was asked for."""
    dicom_port = free_port()
    wrong = (config.Modality(ae_title="ORTHANC", port=free_port()),)
    right = (config.Modality(ae_title="ORTHANC", port=dicom_port),)
    with orthanc(tmp_path / "orthanc", dicom_port) as pacs:
        scp = StorageScp(config.StorageScp(host="127.0.0.1", port=0, modalities=wrong), box.intake)
        peer = {"AET": "SCANSIDE", "Host": "127.0.0.1", "Port": scp.start()}
        url = f"http://127.0.0.1:{pacs.http_port}/modalities/scanside"
        urllib.request.urlopen(urllib.request.Request(url, json.dumps(peer).encode(), method="PUT"), timeout=30).close()
        wanted = {"DicomInstances": [[str(ComputedRadiographyImageStorage), stored]]}
        asked = _post(pacs, "/modalities/scanside/storage-commitment", wanted)["Path"]
        wait_until(lambda: any(each["last_error"] for each in scp.storage_commitment()["peers"]), "it was tried")
        scp.stop()
        assert pacs.get(asked)["Status"] == "Pending"
        scp = StorageScp(config.StorageScp(host="127.0.0.1", port=0, modalities=right), box.intake)
        scp.start()
        wait_until(lambda: pacs.get(asked)["Status"] == "Success", "Orthanc has its answer")
        wait_until(lambda: scp.storage_commitment() == {"state": "ready", "peers": []}, "nothing is owed")
        scp.stop()


# The first peer may be about to answer a report while it lets go, which pynetdicom's thread complains of.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_one_without_a_port_is_told_when_it_asks_again(box: Box, stored: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.storage_commitment._OWN_ASSOCIATION_SECONDS", 0.0)
    scp = StorageScp(config.StorageScp(host="127.0.0.1", port=0), box.intake)
    port = scp.start()
    _, first = _ask(port, stored)  # it is gone before it can be told
    wait_until(lambda: scp.storage_commitment()["peers"], "the report is owed")
    told: queue.SimpleQueue[str] = queue.SimpleQueue()

    def on_report(event: evt.Event) -> tuple[int, None]:
        told.put(str(event.event_information.TransactionUID))
        return 0x0000, None

    entity = AE("CT1")
    entity.add_requested_context(StorageCommitmentPushModel)
    request, item = Dataset(), Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = ComputedRadiographyImageStorage, stored
    request.TransactionUID, request.ReferencedSOPSequence = generate_uid(), [item]
    association = entity.associate("127.0.0.1", port, evt_handlers=[(evt.EVT_N_EVENT_REPORT, on_report)])
    try:
        association.send_n_action(request, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance)
        assert {told.get(timeout=10), told.get(timeout=10)} == {first, str(request.TransactionUID)}
        wait_until(lambda: not scp.storage_commitment()["peers"], "nothing is owed")
        association.release()  # no sooner: the answer to the last report may still be on its way
    finally:
        scp.stop()


def test_what_nobody_takes_is_given_up_and_said_until_the_peer_takes_another_one(box: Box, stored: str) -> None:
    port = free_port()
    known = (config.Modality(ae_title="CT1", port=port),)
    settings = config.StorageScp(host="127.0.0.1", port=0, modalities=known, storage_commitment_hours=1e-4)
    scp = StorageScp(settings, box.intake)
    own = scp.start()
    try:
        _ask(own, stored)
        wait_until(lambda: scp.storage_commitment()["state"] == "unheard", "it is given up")
        (peer,) = scp.storage_commitment()["peers"]
        assert (peer["ae_title"], peer["waiting"], peer["given_up"]) == ("CT1", 0, 1)
        assert peer["last_error"] == f"no association with CT1 on port {port}"
        with _modality(port) as reports:
            _, asked = _ask(own, stored)
            assert str(reports.get(timeout=30).TransactionUID) == asked
            wait_until(lambda: scp.storage_commitment() == {"state": "ready", "peers": []}, "all is well")
    finally:
        scp.stop()


def test_a_clock_that_is_set_back_delays_no_report(box: Box, stored: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was an hour ahead when a peer asked, and when the report failed."""
    monkeypatch.setattr("appliance.storage_commitment._LONGEST_PAUSE", 0.2)
    clock, port = time.time, free_port()
    monkeypatch.setattr(time, "time", lambda: clock() + 3600)
    store = CommitmentStore(box.folder / "ledger.sqlite3")
    wanted = [(str(ComputedRadiographyImageStorage), stored)]
    assert store.owe("CT1", "127.0.0.1", str(generate_uid()), wanted, time.time() + 60)
    monkeypatch.setattr(time, "time", clock)
    known = (config.Modality(ae_title="CT1", port=port),)
    scp = StorageScp(config.StorageScp(host="127.0.0.1", port=0, modalities=known), box.intake)
    with _modality(port) as reports:
        scp.start()
        try:
            (item,) = reports.get(timeout=30).ReferencedSOPSequence
        finally:
            scp.stop()
    assert item.ReferencedSOPInstanceUID == stored


def test_with_tls_the_report_goes_over_tls(box: Box, stored: str, tmp_path: Path) -> None:
    authority, port = Authority(tmp_path / "ca", "site"), free_port()
    certificate, key = authority.issue("scanside")
    names = config.Tls(key=str(key), certificate=str(certificate), ca=str(authority.ca))
    known = (config.Modality(ae_title="CT1", port=port),)
    scp = StorageScp(config.StorageScp(host="127.0.0.1", port=0, modalities=known, tls=names), box.intake)
    theirs, their_key = authority.issue("ct1")
    server = tls.server_context(their_key, theirs, authority.ca)
    calling = ssl.create_default_context(cafile=authority.ca)
    calling.load_cert_chain(theirs, their_key)
    entity = AE("CT1")
    entity.add_requested_context(StorageCommitmentPushModel)
    request, item = Dataset(), Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = ComputedRadiographyImageStorage, stored
    request.TransactionUID, request.ReferencedSOPSequence = generate_uid(), [item]
    try:
        with _modality(port, server) as reports:
            listens, content = scp.start(), certificate.read_bytes()
            certificate.unlink()  # it is being renewed
            association = entity.associate("127.0.0.1", listens, tls_args=(calling, "localhost"))
            association.send_n_action(request, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance)
            association.release()
            peers = wait_until(
                lambda: [each for each in scp.storage_commitment()["peers"] if each["last_error"]], "it was tried"
            )
            assert certificate.name in peers[0]["last_error"]
            certificate.write_bytes(content)
            assert reports.get(timeout=30).TransactionUID == request.TransactionUID
    finally:
        scp.stop()


def test_a_request_that_would_cost_much_is_refused_before_it_is_read(box: Box, stored: str) -> None:
    scp = StorageScp(config.StorageScp(host="127.0.0.1", port=0), box.intake)
    nested = Dataset()
    for _ in range(100):
        inner, nested = nested, Dataset()
        nested.ReferencedSOPSequence = [inner]
    many = Dataset()
    many.ReferencedSOPSequence = [Dataset() for _ in range(60_000)]
    entity = AE("CT1")
    entity.add_requested_context(StorageCommitmentPushModel)
    try:
        association = entity.associate("127.0.0.1", scp.start())
        for request in (nested, many):
            request.TransactionUID = generate_uid()
            status, _ = association.send_n_action(
                request, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
            )
            assert status.Status == 0x0115
        association.release()
    finally:
        scp.stop()


def test_it_can_be_switched_off(box: Box) -> None:
    scp = StorageScp(config.StorageScp(host="127.0.0.1", port=0, storage_commitment=False), box.intake)
    entity = AE()
    entity.add_requested_context(StorageCommitmentPushModel)
    try:
        assert not entity.associate("127.0.0.1", scp.start()).is_established
    finally:
        scp.stop()
