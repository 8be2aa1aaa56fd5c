"""Delivered means committed: Orthanc is asked, reports to the Storage SCP, loses what it had, and is sent it again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pydicom import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, AllStoragePresentationContexts, build_role, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from appliance import config
from appliance.config import Destination
from appliance.delivery.outbox import Outbox
from appliance.ingest import Intake
from appliance.ingest.storage_scp import StorageScp
from appliance.spool import Spool
from appliance.storage_commitment import CommitmentReport
from tests.outgoing import Results, local
from tests.peers import free_port, orthanc, storescp, wait_until


def at_once(attempts: int) -> float:
    return 0.0


class Asking(Results):
    """Results, and the Storage SCP to which a PACS reports."""

    def __init__(self, folder: Path, to: Destination, count: int, **delivery: float) -> None:
        super().__init__(folder, (to,), count, **delivery)
        self.intake = Intake(Spool(folder / "spool"), self.store, lambda: None)
        self.port = free_port()

    @contextmanager
    def delivering(self) -> Iterator[Outbox]:
        with super().delivering() as outbox:
            settings = config.StorageScp(host="127.0.0.1", port=self.port, storage_commitment=False)
            scp = StorageScp(settings, self.intake, on_report=outbox.take_report)
            scp.start()
            try:
                yield outbox
            finally:
                scp.stop()

    def deliveries(self) -> list[str]:
        return [row["state"] for each in self.store.worklist() for row in self.store.deliveries(each["id"])]

    def pacs(self, folder: Path, port: int, reports_to: int | None = None) -> Any:
        """Orthanc, which knows where to report."""
        modality = {"AET": "SCANSIDE", "Host": "127.0.0.1", "Port": reports_to or self.port}
        return orthanc(folder, port, DicomModalities={"scanside": modality})


def test_orthanc_commits_and_only_that_is_delivered(tmp_path: Path) -> None:
    port = free_port()
    results = Asking(tmp_path, local("pacs", port, "ORTHANC", storage_commitment=True), 3)
    with results.pacs(tmp_path / "pacs", port), results.delivering():
        wait_until(lambda: results.states() == {"delivered"}, "all are delivered")
    assert results.deliveries() == ["committed"] * 3
    assert [event["what"] for event in results.store.events(1)][-3:] == ["sent", "committed", "delivered"]
    assert results.destination("pacs")["committed"] == 3


def test_what_orthanc_lost_before_it_committed_is_sent_again(tmp_path: Path) -> None:
    port = free_port()
    to = local("pacs", port, "ORTHANC", storage_commitment=True)
    results = Asking(tmp_path, to, 2, commitment_seconds=0.5)
    with results.delivering():
        with results.pacs(tmp_path / "first", port, reports_to=free_port()):  # nobody hears it
            wait_until(lambda: set(results.deliveries()) == {"sent"}, "all are sent")
        assert results.states() == {"written"}
        with results.pacs(tmp_path / "empty", port) as pacs:
            wait_until(lambda: results.states() == {"delivered"}, "all are delivered")
            assert len(pacs.sop_class_uids()) == 2
    assert set(results.deliveries()) == {"committed"}
    lost = [event for event in results.store.events(1) if event["what"] == "lost"]
    assert "0x0112" in lost[0]["detail"]


def test_a_peer_that_commits_nothing_is_said_and_its_results_are_not_called_delivered(tmp_path: Path) -> None:
    with storescp(tmp_path / "a") as port:
        to = local("pacs", port, storage_commitment=True)
        results = Asking(tmp_path, to, 1, undelivered_hours=2 / 3600)
        with results.delivering():
            wait_until(lambda: results.store.deliveries(1)[0]["last_error"], "it is said")
            assert "offers no storage commitment" in results.store.deliveries(1)[0]["last_error"]
            assert results.store.lane("pacs") is None
            wait_until(lambda: results.store.undelivered_count(), "it is set aside")
            assert results.states() == {"written"}
            assert results.store.send_undelivered() == 1
        settled = Results.__new__(Results)
        settled.__dict__.update(results.__dict__)
        without = msgspec.structs.replace(to, storage_commitment=False)
        settled.config = msgspec.structs.replace(results.config, destinations=(without,))
        with Results.delivering(settled):
            wait_until(lambda: results.states() == {"delivered"}, "it is delivered once it is sent")


def test_a_peer_that_refuses_to_commit_is_sent_what_is_new_all_the_same(tmp_path: Path) -> None:
    entity, taken = AE("PEER"), []
    entity.supported_contexts = AllStoragePresentationContexts
    entity.add_supported_context(StorageCommitmentPushModel)

    def on_store(event: evt.Event) -> int:
        taken.append(event.request.AffectedSOPInstanceUID)
        return 0x0000

    def on_request(event: evt.Event) -> tuple[int, None]:
        return 0x0110, None

    handlers = [(evt.EVT_C_STORE, on_store), (evt.EVT_N_ACTION, on_request)]
    server = entity.start_server(("127.0.0.1", port := free_port()), block=False, evt_handlers=handlers)
    to = local("pacs", port, storage_commitment=True)
    results = Asking(tmp_path, to, 1, first_retry_seconds=60.0, longest_probe_seconds=60.0, longest_retry_seconds=60.0)
    try:
        with results.delivering() as outbox:
            wait_until(lambda: "0x0110" in results.store.deliveries(1)[0]["last_error"], "it is said")
            results.add(1, (to,))
            outbox.wake()
            wait_until(lambda: len(taken) == 2, "the next one is sent", 10)
    finally:
        server.shutdown()
    assert results.store.lane("pacs") is None
    assert results.states() == {"written"}


def test_what_a_peer_never_commits_is_sent_again_ever_later(tmp_path: Path) -> None:
    results = Asking(tmp_path, local("pacs", free_port(), storage_commitment=True), 1, longest_retry_seconds=20.0)
    outbox, store = Outbox(results.config, results.store, results.folder), results.store
    (item,) = store.due("pacs")
    pauses = []
    for transaction in map(str, range(1, 8)):
        store.sent(item["id"], to_commit=True)
        store.ask(transaction, "pacs", [item], 1e12)
        before = time.time()
        assert outbox.take_report(CommitmentReport(transaction, (), ((item["sop_instance_uid"], "it has it not"),)))
        pauses.append((store.next_due_at("pacs") or 0.0) - before)
    for pause, whole in zip(pauses, (0.3, 0.6, 1.2, 2.4, 4.8, 9.6, 19.2), strict=True):
        assert 0.75 * whole <= pause <= whole + 1.0


@pytest.mark.parametrize("known", [True, False])
def test_a_report_counts_only_under_a_transaction_that_was_opened(tmp_path: Path, known: bool) -> None:
    results = Asking(tmp_path, local("pacs", free_port(), storage_commitment=True), 1)
    transaction = generate_uid()
    (item,) = results.store.due("pacs")
    results.store.sent(item["id"], to_commit=True)
    results.store.ask(transaction, "pacs", [item], 1e12)
    report = Dataset()
    report.TransactionUID = transaction if known else generate_uid()
    entry = Dataset()
    entry.ReferencedSOPClassUID, entry.ReferencedSOPInstanceUID = item["sop_class_uid"], item["sop_instance_uid"]
    report.ReferencedSOPSequence = [entry]
    with results.delivering():
        entity = AE("PEER")
        entity.add_requested_context(StorageCommitmentPushModel)
        role = build_role(StorageCommitmentPushModel, scp_role=True)
        association = entity.associate("127.0.0.1", results.port, ext_neg=[role])
        instance = StorageCommitmentPushModelInstance
        status, _ = association.send_n_event_report(report, 1, StorageCommitmentPushModel, instance)
        nameless = Dataset()
        nameless.ReferencedSOPSequence = [entry]
        garbage, _ = association.send_n_event_report(nameless, 1, StorageCommitmentPushModel, instance)
        association.release()
    assert (status.Status == 0) == known
    assert garbage.Status != 0
    assert results.deliveries() == ["committed" if known else "sent"]


def test_an_answer_that_comes_late_counts(tmp_path: Path) -> None:
    results = Asking(tmp_path, local("pacs", free_port(), storage_commitment=True), 1)
    (item,) = results.store.due("pacs")
    results.store.sent(item["id"], to_commit=True)
    for transaction in ("1.1", "1.2"):
        results.store.ask(transaction, "pacs", [item], 1e12)
    results.store.give_up("pacs", 1e12, "")
    assert results.states() == {"written"}
    assert results.store.reported("1.1", [item["sop_instance_uid"]], [], at_once) == ("pacs", 1, 0)
    assert results.states() == {"delivered"}
    assert results.store.reported("1.2", [], [(item["sop_instance_uid"], "late")], at_once) == ("pacs", 0, 0)


def test_a_scanside_commits_to_another_on_the_association_that_asked(tmp_path: Path) -> None:
    """Its Storage SCP reports there where it knows no port of the peer."""
    (tmp_path / "other").mkdir()
    other = Results(tmp_path / "other", (), 0)
    intake = Intake(Spool(tmp_path / "other" / "spool"), other.store, lambda: None)
    scp = StorageScp(config.StorageScp(host="127.0.0.1", port=0), intake)
    results = Asking(tmp_path, local("other", scp.start(), storage_commitment=True), 2)
    try:
        with results.delivering():
            wait_until(lambda: results.states() == {"delivered"}, "all are delivered")
    finally:
        scp.stop()
    assert results.deliveries() == ["committed"] * 2


def test_a_report_is_believed_of_what_was_asked_and_not_of_what_is_sent_anew(tmp_path: Path) -> None:
    results = Asking(tmp_path, local("pacs", free_port(), storage_commitment=True), 3)
    store = results.store
    asked, unasked, waiting = store.due("pacs")
    everything = [each["sop_instance_uid"] for each in (asked, unasked, waiting)]
    for each in (asked, unasked):
        store.sent(each["id"], to_commit=True)
    store.ask("1.1", "pacs", [asked, waiting], 1e12)
    assert store.reported("1.1", [], [(uid, "lost") for uid in everything[1:]], at_once) == ("pacs", 0, 0)
    assert store.reported("1.1", everything, [], at_once) == ("pacs", 1, 0)
    assert results.deliveries() == ["waiting", "sent", "committed"]  # the latest first

    assert store.send_delivered("pacs", 0.0) == 2
    assert store.reported("1.1", everything, [], at_once) == ("pacs", 0, 0)
    assert results.deliveries() == ["waiting"] * 3
    store.sent(asked["id"], to_commit=True)
    assert store.reported("1.1", everything, [], at_once) == ("pacs", 0, 0)  # it had that before it lost it
    store.ask("1.2", "pacs", [asked], 1e12)
    assert store.reported("1.2", [], [(everything[0], "gone")], at_once) == ("pacs", 0, 1)
    assert store.reported("1.2", everything, [], at_once) == ("pacs", 0, 0)
    store.sent(asked["id"], to_commit=True)
    store.ask("1.3", "pacs", [asked], 1e12)
    assert store.reported("1.3", everything, [], at_once) == ("pacs", 1, 0)
    store.forget_commitments(1e12)
    assert store.reported("1.3", everything, [], at_once) is None
