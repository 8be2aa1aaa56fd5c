"""Results reach every destination: Orthanc and dcmtk's storescp, down and up again, across restarts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pydicom
import pytest

from appliance.config import Config, Delivery, Destination
from appliance.delivery.outbox import Outbox
from appliance.delivery.storage_scu import echo, send
from appliance.errors import DeliveryError
from appliance.store import Arrival, Store, WrittenObject
from tests.dicom_files import make_radiograph
from tests.peers import free_port, orthanc, storescp, wait_until

FAST = Delivery(first_retry_seconds=0.3, longest_retry_seconds=1.0, timeout_seconds=5.0)
RESULT = {"findings": [], "warnings": [], "provenance": {}, "seconds": {}, "urgent": False}


class Results:
    """A ledger and a results folder with some instances that wait to be delivered."""

    def __init__(self, folder: Path, destinations: tuple[Destination, ...], count: int) -> None:
        self.folder = folder / "results"
        self.config = Config(destinations=destinations, delivery=FAST)
        self.store = Store(folder / "ledger.sqlite3")
        self.uids: set[str] = set()
        for number in range(count):
            self.add(number, destinations)

    def add(self, number: int, destinations: tuple[Destination, ...]) -> None:
        path = make_radiograph(self.folder / f"{number}.dcm", rows=64, columns=64, seed=number)
        header = pydicom.dcmread(path, stop_before_pixels=True)
        self.uids.add(header.SOPInstanceUID)
        digest = f"{number:064d}"
        self.store.receive(Arrival(f"1.2.{number}", "1.2", digest, f"{digest}.dcm", 1, "storage_scp", "TEST"))
        claim = self.store.claim("test", 30)
        assert claim is not None
        written = WrittenObject("structured_report", header.SOPClassUID, header.SOPInstanceUID, path.name)
        outbox = [("structured_report", destination.name) for destination in destinations]
        self.store.finish(claim["id"], "test", RESULT, [written], outbox)

    @contextmanager
    def delivering(self) -> Iterator[Outbox]:
        outbox = Outbox(self.config, self.store, self.folder)
        outbox.start()
        yield outbox
        outbox.stop()

    def states(self) -> set[str]:
        return {row["state"] for row in self.store.worklist()}


def received(folder: Path) -> set[str]:
    """SOP Instance UIDs that storescp has written."""
    return {str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in folder.iterdir()}


def local(name: str, port: int, ae_title: str = "PEER") -> Destination:
    return Destination(name=name, ae_title=ae_title, host="127.0.0.1", port=port)


def test_everything_arrives_at_every_destination(tmp_path: Path) -> None:
    with storescp(tmp_path / "a") as one, storescp(tmp_path / "b") as two:
        results = Results(tmp_path, (local("one", one), local("two", two)), 5)
        with results.delivering():
            wait_until(lambda: results.states() == {"delivered"}, "all are delivered")
        assert received(tmp_path / "a") == received(tmp_path / "b") == results.uids


def test_a_destination_that_is_down_gets_everything_when_it_comes_back(tmp_path: Path) -> None:
    port = free_port()
    results = Results(tmp_path, (local("pacs", port),), 3)
    with results.delivering():
        wait_until(lambda: results.store.destinations()[0]["last_error"], "the failure is recorded")
        (row,) = results.store.destinations()
        assert "can't be reached" in row["last_error"]
        assert row["waiting"] == 3
        assert results.states() == {"written"}
        with storescp(tmp_path / "a", port=port):
            wait_until(lambda: results.states() == {"delivered"}, "all are delivered")
        assert received(tmp_path / "a") == results.uids


def test_what_waits_survives_a_restart(tmp_path: Path) -> None:
    port = free_port()
    results = Results(tmp_path, (local("pacs", port),), 2)
    with results.delivering():
        wait_until(lambda: results.store.destinations()[0]["last_error"], "the failure is recorded")
    with storescp(tmp_path / "a", port=port), results.delivering():
        wait_until(lambda: results.states() == {"delivered"}, "all are delivered")


def test_a_dead_destination_delays_no_other(tmp_path: Path) -> None:
    with storescp(tmp_path / "a") as alive:
        results = Results(tmp_path, (local("dead", free_port()), local("alive", alive)), 3)
        with results.delivering():
            begin = time.monotonic()
            wait_until(lambda: received(tmp_path / "a") == results.uids, "the living one has everything")
            assert time.monotonic() - begin < 10
        assert results.states() == {"written"}


def test_an_aborting_peer_is_tried_again(tmp_path: Path) -> None:
    port = free_port()
    results = Results(tmp_path, (local("pacs", port),), 2)
    with results.delivering():
        with storescp(tmp_path / "a", "--abort-during", port=port):
            wait_until(lambda: results.store.destinations()[0]["last_error"], "the failure is recorded")
        with storescp(tmp_path / "b", port=port):
            wait_until(lambda: results.states() == {"delivered"}, "all are delivered")
    assert received(tmp_path / "b") == results.uids


def test_a_peer_that_takes_implicit_vr_only_gets_the_same_values(tmp_path: Path) -> None:
    source = make_radiograph(tmp_path / "a.dcm", rows=32, columns=32)
    with storescp(tmp_path / "in", "+xi") as port:
        (outcome,) = send("127.0.0.1", port, "PEER", "TEST", [source], 5.0)
    assert outcome.ok, outcome.error
    (arrived,) = (tmp_path / "in").iterdir()
    got, expected = pydicom.dcmread(arrived), pydicom.dcmread(source)
    assert got.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2"
    assert got == expected


def test_orthanc_takes_it_and_answers_echo(tmp_path: Path) -> None:
    with orthanc(tmp_path / "pacs") as pacs:
        echo("127.0.0.1", pacs.port, pacs.ae_title, "TEST", 5.0)
        files = [make_radiograph(tmp_path / f"{n}.dcm", rows=32, columns=32, seed=n) for n in range(3)]
        outcomes = list(send("127.0.0.1", pacs.port, pacs.ae_title, "TEST", files, 5.0))
        assert [outcome.status for outcome in outcomes] == [0, 0, 0]
        assert len(pacs.sop_class_uids()) == 3
        (refused,) = send("127.0.0.1", pacs.port, "WRONG", "TEST", files[:1], 5.0)
        assert "refused the association" in refused.error


def test_echo_says_in_words_why_there_is_no_answer(tmp_path: Path) -> None:
    with pytest.raises(DeliveryError, match="can't be reached"):
        echo("127.0.0.1", free_port(), "PEER", "TEST", 2.0)


def test_a_file_that_is_gone_is_said_and_keeps_nothing_else_back(tmp_path: Path) -> None:
    with storescp(tmp_path / "a") as port:
        results = Results(tmp_path, (local("pacs", port),), 3)
        (results.folder / "1.dcm").unlink()
        with results.delivering():
            wait_until(lambda: len(received(tmp_path / "a")) == 2, "the others arrive")
            wait_until(lambda: results.store.destinations()[0]["last_error"], "the failure is recorded")
        assert "1.dcm" in results.store.destinations()[0]["last_error"]
