"""A series is one job: gathered from the ways in, started by evidence, read once, superseded visibly, never lost."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pynetdicom import AE
from pynetdicom.sop_class import MRImageStorage

from appliance import completeness, config, outbox_store, overview, series_store, store
from appliance.completeness import Slice
from appliance.custody import Custody
from appliance.errors import ApplianceError
from appliance.ingest import Intake
from appliance.ingest.drop_folder import DropFolder
from appliance.ingest.storage_scp import StorageScp
from appliance.spool import Spool
from appliance.store import FINAL_STATES, MOST_CRASHES, LeaseLostError, Store, claimant
from tests.appliance.series_worker import QUIET, Reader
from tests.appliance.test_store import RESULT, arrival, written
from tests.dicom_files import make_radiograph, make_series
from tests.hostile_files import with_items
from tests.peers import needs, wait_until
from tests.running import CHECKOUT

# --- the ledger ------------------------------------------------------------------------------------------------------


class Clock:
    """Stands in for the time module of the ledger."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def time(self) -> float:
        return self.now


class Ledger:
    """A ledger, and what the worker does with it, without files."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self.store = Store(path)
        self.clock = clock
        self.places: dict[int, int] = {}

    def add(self, place: int, transfer: str = "t", patient: str = "P", content: str = "") -> int:
        digest = content or f"{patient} {place}"
        sent = replace(arrival(uid=f"1.2.{patient}.{place}", content=digest), transfer_id=transfer)
        identifier = self.store.receive(sent).instance_id
        self.places[identifier] = place
        return identifier

    def gather(self) -> None:
        """Read the headers of all that is unread."""
        while claim := self.store.claim("me", 30):
            if claim["triaged"]:
                self.store.release(claim["id"], "me", "", 0)
                return
            self.park(claim["id"])

    def park(self, identifier: int, owner: str = "me", patience: float = 300.0, priority: str = "routine") -> int:
        row = self.store.instance(identifier)
        assert row is not None
        patient = row["sop_instance_uid"].split(".")[2]
        header = {"sop_instance_uid": row["sop_instance_uid"], "study_instance_uid": "1.1", "patient_id": patient}
        place = self.places[identifier]
        slice_ = Slice(instance_number=place + 1, position=float(place), normal=(0.0, 0.0, 1.0))
        return self.store.park(identifier, owner, header, "1.2.3", slice_, priority, patience, 10.0)

    def start(self) -> None:
        """As the worker does it."""
        for series in self.store.to_judge():
            judged = completeness.judge(series.slices, series.transfers, series.last_arrival, self.clock.now, 10.0)
            if isinstance(judged, completeness.Waiting):
                self.store.postpone_series(series, judged.reason, judged.look_again_at)
            else:
                self.store.start_series(series, judged.reason)

    def claim(self) -> dict[str, Any]:
        claim = self.store.claim("me", 30)
        assert claim is not None
        return claim

    def rows(self) -> dict[int, dict[str, Any]]:
        found = (self.store.instance(identifier) for identifier in self.places)
        return {row["id"]: row for row in found if row is not None}

    def states(self) -> list[str]:
        return [row["state"] for _, row in sorted(self.rows().items())]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    for module in (store, series_store, outbox_store, overview):
        monkeypatch.setattr(module, "time", found)
    return found


@pytest.fixture
def ledger(tmp_path: Path, clock: Clock) -> Iterator[Ledger]:
    found = Ledger(tmp_path / "ledger.sqlite3", clock)
    yield found
    found.store.close()


def gathered(ledger: Ledger, *places: int, transfer: str = "t") -> list[int]:
    """Images whose association is over, in their series."""
    identifiers = [ledger.add(place, transfer) for place in places]
    ledger.gather()
    ledger.store.end_transfer(transfer, "released")
    ledger.clock.now += 1
    return identifiers


def test_images_wait_together_and_are_claimed_as_one_under_one_lease(ledger: Ledger) -> None:
    lead, *others = gathered(ledger, 0, 1, 2)
    assert ledger.store.claim("me", 30) is None
    assert [row["lead_id"] for row in ledger.store.gathered()] == [lead]
    ledger.start()
    assert ledger.store.gathered() == []
    claim = ledger.claim()
    assert (claim["id"], len(claim["files"])) == (lead, 3)
    assert ledger.store.claim("other", 30) is None
    assert ledger.states() == ["claimed"] * 3
    ledger.store.finish(lead, "me", RESULT, [written("structured_report", "2.1")], [("structured_report", "pacs")])
    assert ledger.states() == ["written"] * 3
    (item,) = ledger.store.due("pacs")
    ledger.store.sent(item["id"])
    assert ledger.states() == ["delivered"] * 3
    rows = ledger.rows()
    assert all(rows[other]["reason"] == f"Read as part of a series, with image {lead}." for other in others)
    assert all(row["finished_at"] == ledger.clock.now for row in rows.values())
    (row,) = ledger.store.worklist()
    assert (row["id"], row["images"], row["why"]) == (lead, 3, "3 slices without a gap, association released")
    assert ledger.store.counts()["delivered"] == 3
    assert [event["what"] for event in ledger.store.events(others[0])] == ["received", "gathered", "delivered"]


@pytest.mark.parametrize("ending", ["reject", "fail"])
def test_what_ends_without_a_result_ends_so_for_each_image_with_the_reason(ledger: Ledger, ending: str) -> None:
    lead, *others = gathered(ledger, 0, 1, 2)
    ledger.start()
    ledger.claim()
    getattr(ledger.store, ending)(lead, "me", "The slices differ in size.")
    rows = ledger.rows()
    assert {row["state"] for row in rows.values()} == {f"{ending}ed"}
    assert rows[lead]["reason"] == "The slices differ in size."
    assert {rows[other]["reason"] for other in others} == {
        f"Read as part of a series, with image {lead}. The slices differ in size."
    }


def test_a_series_that_is_given_back_or_whose_lease_is_lost_is_read_again_as_a_whole(ledger: Ledger) -> None:
    lead, *_ = gathered(ledger, 0, 1, 2)
    ledger.start()
    ledger.claim()
    ledger.store.release(lead, "me", "Waiting: the disk is full", 5)
    assert {row["reason"] for row in ledger.rows().values()} == {"Waiting: the disk is full"}
    assert ledger.states() == ["received"] * 3
    ledger.clock.now += 6
    ledger.claim()
    ledger.clock.now += 31
    assert [identifier for identifier, _ in ledger.store.leases("me")] == [lead]
    again = ledger.store.claim("other", 30)
    assert again is not None
    assert (again["id"], len(again["files"])) == (lead, 3)
    with pytest.raises(LeaseLostError):
        ledger.store.finish(lead, "me", RESULT, [], [])
    assert {row["claimed_by"] for row in ledger.rows().values()} == {"other"}
    assert ledger.store.release_all("the appliance was restarted") == 1
    assert ledger.states() == ["received"] * 3
    assert len(ledger.claim()["files"]) == 3


def test_a_series_that_stops_its_reader_twice_is_quarantined_as_one(ledger: Ledger) -> None:
    lead, *_ = gathered(ledger, 0, 1, 2)
    ledger.start()
    for _ in range(MOST_CRASHES):
        assert ledger.claim()["id"] == lead
        assert ledger.store.release_crashed("me") == 1
    rows = ledger.rows()
    assert {row["state"] for row in rows.values()} == {"quarantined"}
    assert all("2 times" in row["reason"] for row in rows.values())


def test_a_late_image_makes_another_reading_of_all_that_supersedes_the_first(ledger: Ledger) -> None:
    first, *others = gathered(ledger, 0, 1, 2)
    ledger.start()
    ledger.claim()
    ledger.store.finish(first, "me", RESULT, [written("structured_report", "2.1")], [])
    before = ledger.rows()
    (late,) = gathered(ledger, 3, transfer="u")
    ledger.start()
    claim = ledger.claim()
    assert (claim["id"], len(claim["files"])) == (late, 4)
    row = ledger.store.instance(first)
    assert row is not None
    assert row["superseded_by"] is None  # not before there is another result
    ledger.store.finish(late, "me", RESULT, [written("structured_report", "2.2")], [])
    row = ledger.store.instance(first)
    assert row is not None
    assert row["superseded_by"] == late
    assert ledger.store.superseded(late) == [first]
    assert ledger.store.objects(first)[0]["sop_instance_uid"] == "2.1"
    assert {each: ledger.rows()[each]["reason"] for each in others} == {each: before[each]["reason"] for each in others}
    assert ledger.states() == ["delivered"] * 4
    assert [(row["id"], row["images"]) for row in ledger.store.worklist()] == [(late, 4), (first, 3)]


def test_one_that_comes_before_the_series_is_claimed_joins_it(ledger: Ledger) -> None:
    lead, *_ = gathered(ledger, 0, 1)
    ledger.start()
    late = ledger.add(2, "u")
    ledger.gather()
    row = ledger.store.instance(late)
    assert row is not None
    assert (row["lead_id"], row["started_at"]) == (lead, None)
    assert ledger.store.claim("me", 30) is None
    ledger.store.end_transfer("u", "released")
    ledger.clock.now += 1
    ledger.start()
    assert len(ledger.claim()["files"]) == 3


def test_one_that_comes_while_the_series_is_read_waits_for_the_next_reading(ledger: Ledger) -> None:
    lead, *_ = gathered(ledger, 0, 1)
    ledger.start()
    ledger.claim()
    (late,) = gathered(ledger, 2, transfer="u")
    ledger.start()
    ledger.store.finish(lead, "me", RESULT, [], [])
    claim = ledger.claim()
    assert (claim["id"], len(claim["files"])) == (late, 3)


def test_a_duplicate_changes_nothing(ledger: Ledger) -> None:
    lead, *_ = gathered(ledger, 0, 1)
    ledger.start()
    ledger.claim()
    ledger.store.finish(lead, "me", RESULT, [], [])
    before = {identifier: {**row, "copies": 2} for identifier, row in ledger.rows().items()}
    for place in (0, 1):
        ledger.add(place, "u")
    ledger.store.end_transfer("u", "released")
    ledger.clock.now += 1
    ledger.start()
    assert ledger.store.claim("me", 30) is None
    assert ledger.rows() == before
    assert ledger.store.gathered() == []


def test_an_image_that_was_turned_away_and_is_sent_again_whole_counts_once(ledger: Ledger) -> None:
    lead, *_ = gathered(ledger, 0, 1, 2)
    ledger.start()
    ledger.claim()
    ledger.store.reject(lead, "me", "A slice is cut off.")
    again = ledger.add(1, "u", content="whole")
    ledger.gather()
    ledger.store.end_transfer("u", "released")
    ledger.clock.now += 1
    ledger.start()
    claim = ledger.claim()
    assert (claim["id"], len(claim["files"])) == (again, 3)


def turned_away(ledger: Ledger, *places: int) -> list[int]:
    """A series that was rejected."""
    lead, *others = gathered(ledger, *places)
    ledger.start()
    ledger.claim()
    ledger.store.reject(lead, "me", "No package reads it.")
    return [lead, *others]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1,)])
def test_a_series_that_was_turned_away_and_comes_again_is_read_once_as_a_whole(
    ledger: Ledger, order: tuple[int, ...]
) -> None:
    lead, *_ = turned_away(ledger, 0, 1, 2)
    for place in order:
        ledger.clock.now += 2
        ledger.add(place, "again")
        ledger.gather()
        ledger.start()
        assert ledger.store.claim("me", 30) is None  # more of it may come
    ledger.store.end_transfer("again", "released")
    ledger.clock.now += 1
    ledger.start()
    claim = ledger.claim()
    assert (claim["id"], len(claim["files"])) == (lead, 3)
    ledger.store.finish(lead, "me", RESULT, [], [])
    assert ledger.states() == ["delivered"] * 3
    assert ledger.store.claim("me", 30) is None
    assert list(Custody(ledger.store.path).contradictions()) == []


def test_a_series_with_a_cut_image_that_comes_again_with_that_image_whole_is_read(ledger: Ledger) -> None:
    lead, cut, last = turned_away(ledger, 0, 1, 2)
    ledger.add(0, "again")
    whole = ledger.add(1, "again", content="whole")
    ledger.add(2, "again")
    ledger.gather()
    ledger.store.end_transfer("again", "released")
    ledger.clock.now += 1
    ledger.start()
    claim = ledger.claim()
    files = {ledger.rows()[each]["file"] for each in (lead, whole, last)}
    assert (claim["id"], set(claim["files"])) == (lead, files)
    ledger.store.finish(lead, "me", RESULT, [], [])
    rows = ledger.rows()
    assert {each: rows[each]["state"] for each in rows} == {
        lead: "delivered", cut: "rejected", last: "delivered", whole: "delivered",
    }  # fmt: skip
    assert list(Custody(ledger.store.path).contradictions()) == []


def _reading(ledger: Ledger, *places: int, kind: str = "hl7_oru", to: Sequence[str] = ("ehr",)) -> int:
    """The lead of one that is read, with a message on its way."""
    lead, *_ = gathered(ledger, *places, transfer=f"of {places}")
    ledger.start()
    assert ledger.claim()["id"] == lead
    _finish(ledger, lead, kind, to)
    return lead


def _finish(ledger: Ledger, lead: int, kind: str = "hl7_oru", to: Sequence[str] = ("ehr",)) -> None:
    report = [written("structured_report", f"2.{lead}"), written(kind, f"3.{lead}")]
    ledger.store.finish(lead, "me", RESULT, report, [("structured_report", "pacs"), *((kind, name) for name in to)])


def _on_the_way(ledger: Ledger, destination: str = "ehr") -> list[int]:
    return [row["instance_id"] for row in ledger.store.due(destination)]


@pytest.mark.parametrize("kind", ["hl7_oru", "fhir_bundle"])
@pytest.mark.parametrize("given_up", [False, True])
def test_a_message_never_follows_that_of_a_later_reading(ledger: Ledger, kind: str, given_up: bool) -> None:
    """Its receiver would take the older values for the newer ones."""
    first = _reading(ledger, 0, 1, 2, kind=kind)
    (item,) = ledger.store.due("ehr")
    ledger.store.retry([item["id"]], "no such order yet", ledger.clock.now + 60.0)
    if given_up:
        ledger.store.give_up("ehr", ledger.clock.now, "")
    late = _reading(ledger, 3, kind=kind)
    ledger.clock.now += 3600.0
    assert ledger.store.send_undelivered() == 0
    assert _on_the_way(ledger) == [late]
    assert _on_the_way(ledger, "pacs") == [first, late]  # objects have UIDs of their own
    assert ledger.store.undelivered_count() == 0
    why = f"{kind} is not sent to ehr, which is to have that of a later reading of its series"
    assert why in [event["detail"] for event in ledger.store.events(first)]
    for item in ledger.store.due("pacs"):
        ledger.store.sent(item["id"])
    row = ledger.store.instance(first)
    assert row is not None
    assert row["state"] == "delivered"


def test_what_a_destination_has_lost_is_sent_again_without_what_was_overtaken(ledger: Ledger) -> None:
    for places in ((0, 1, 2), (3,)):
        _reading(ledger, *places)
        for item in ledger.store.due("ehr"):
            ledger.store.sent(item["id"])
    assert ledger.store.send_delivered("ehr", 0.0) == 1
    assert _on_the_way(ledger) == [4]


def test_a_message_stays_where_no_later_reading_sends_one(ledger: Ledger) -> None:
    first = _reading(ledger, 0, 1, 2, to=("ehr", "old"))
    late = _reading(ledger, 3, to=("new",))
    assert _on_the_way(ledger) == [first]
    assert _on_the_way(ledger, "old") == [first]
    assert ledger.store.move("old", "new", lambda kind: True)[0] == 1
    assert _on_the_way(ledger, "new") == [late]


def test_a_reading_that_ends_after_a_later_one_sends_no_message(ledger: Ledger) -> None:
    first, *_ = gathered(ledger, 0, 1, 2)
    ledger.start()
    assert ledger.claim()["id"] == first
    late = _reading(ledger, 3)
    _finish(ledger, first)
    assert _on_the_way(ledger) == [late]
    assert set(_on_the_way(ledger, "pacs")) == {first, late}


def test_an_image_of_a_reading_that_was_superseded_is_a_duplicate(ledger: Ledger) -> None:
    first, *_ = turned_away(ledger, 0, 1)
    (late,) = gathered(ledger, 2, transfer="u")
    ledger.start()
    ledger.claim()
    ledger.store.finish(late, "me", RESULT, [], [])
    ledger.add(0, "again")
    ledger.clock.now += 1
    ledger.start()
    assert ledger.store.claim("me", 30) is None
    assert ledger.states() == ["rejected", "rejected", "delivered"]
    with pytest.raises(ApplianceError, match=f"see the result of image {late}, which has all of them"):
        Custody(ledger.store.path).retry(first)


def test_the_latest_reading_counts_where_several_were_turned_away(ledger: Ledger) -> None:
    first, _ = turned_away(ledger, 0, 1)
    late, *_ = turned_away(ledger, 2)
    ledger.add(0, "again")
    ledger.store.end_transfer("again", "released")
    ledger.clock.now += 1
    ledger.start()
    claim = ledger.claim()
    assert (claim["id"], len(claim["files"])) == (late, 3)
    ledger.store.finish(late, "me", RESULT, [], [])
    assert ledger.rows()[first]["state"] == "delivered"
    assert list(Custody(ledger.store.path).contradictions()) == []


def test_a_withheld_reading_that_lacks_images_is_not_released(ledger: Ledger) -> None:
    first, *_ = gathered(ledger, 0, 1)
    ledger.start()
    ledger.claim()
    ledger.store.withhold(first, "me", "The tube is broken.")
    custody = Custody(ledger.store.path)
    assert [row["id"] for row in custody.withheld()] == [first]
    (late,) = gathered(ledger, 2, transfer="u")
    ledger.start()
    ledger.claim()
    ledger.store.finish(late, "me", RESULT, [], [])
    assert custody.withheld() == []
    with pytest.raises(ApplianceError, match=f"see the result of image {late}, which has all of them"):
        custody.release(first, "ito", "seen by me")
    assert ledger.states() == ["withheld", "withheld", "delivered"]


def test_images_stay_while_a_late_one_of_their_series_is_to_be_read_with_them(ledger: Ledger) -> None:
    first, *_ = gathered(ledger, 0, 1)
    ledger.start()
    ledger.claim()
    ledger.store.finish(first, "me", RESULT, [], [])
    custody = Custody(ledger.store.path)
    custody.review(first)
    assert len(list(custody.removable("image", ledger.clock.now + 1))) == 2
    (late,) = gathered(ledger, 2, transfer="u")
    assert list(custody.removable("image", ledger.clock.now + 1)) == []
    ledger.start()
    assert ledger.claim()["removed"] == 0
    assert list(custody.removable("image", ledger.clock.now + 1)) == []
    ledger.store.finish(late, "me", RESULT, [], [])
    assert len(list(custody.removable("image", ledger.clock.now + 1))) == 2


def test_two_patients_are_never_read_together_whatever_their_uids(ledger: Ledger) -> None:
    mine, other = ledger.add(0, patient="P"), ledger.add(1, patient="Q")
    ledger.gather()
    assert {row["lead_id"] for row in ledger.rows().values()} == {mine, other}


def test_the_most_urgent_image_decides_when_a_series_is_due(ledger: Ledger) -> None:
    lead, second = ledger.add(0), ledger.add(1)
    for identifier, patience, priority in ((lead, 300.0, "routine"), (second, 0.0, "stat")):
        assert ledger.claim()["id"] == identifier
        ledger.park(identifier, patience=patience, priority=priority)
    row = ledger.store.instance(lead)
    assert row is not None
    assert (row["priority"], row["due_at"]) == ("stat", ledger.clock.now)


def test_a_series_is_not_judged_before_all_headers_that_came_before_its_end_are_read(ledger: Ledger) -> None:
    ledger.add(0)
    ledger.gather()
    ledger.add(1)
    ledger.store.end_transfer("t", "released")
    ledger.clock.now += 1
    assert ledger.store.to_judge() == []
    ledger.add(2, "u")
    for _ in range(2):
        assert ledger.store.to_judge() == []
        assert ledger.park(ledger.claim()["id"]) == 1
    ledger.store.end_transfer("u", "released")
    ledger.clock.now += 21
    ledger.add(7, "another", patient="Q")  # what comes much later is no reason to wait
    assert [len(series.slices) for series in ledger.store.to_judge()] == [3]


def test_a_clock_that_is_set_back_makes_no_series_wait_longer(ledger: Ledger) -> None:
    """Nor one that takes the place of a series whose images were received before that."""
    ledger.clock.now += 86400
    gathered(ledger, 0, 2)
    ledger.start()
    assert ledger.store.claim("me", 30) is None, "an image is missing"
    ledger.clock.now -= 86400
    ledger.store.bring_forward(300, 60, 300, 30, 10)
    for late in (4, 6):
        ledger.clock.now += 11
        ledger.start()
        ledger.store.finish(ledger.claim()["id"], "me", RESULT, [], [])
        gathered(ledger, late, transfer=f"late {late}")
    ledger.clock.now += 11
    ledger.start()
    assert ledger.claim()["lead_id"]


def test_an_image_that_joins_while_a_series_is_judged_stops_its_start(ledger: Ledger) -> None:
    gathered(ledger, 0, 1)
    (series,) = ledger.store.to_judge()
    ledger.add(2, "u")
    ledger.gather()
    assert not ledger.store.start_series(series, "complete")
    assert len(ledger.store.gathered()) == 1


def test_what_a_killed_appliance_had_open_is_over_and_waits_for_quiet(ledger: Ledger) -> None:
    for place in range(3):
        ledger.add(place)
    ledger.gather()
    ledger.store.release_all("the appliance was restarted")
    ledger.store.abort_open_transfers()
    ledger.start()
    (waiting,) = ledger.store.gathered()
    assert waiting["why"].startswith("the association broke off: waiting until ")
    ledger.clock.now += 11
    ledger.start()
    assert len(ledger.claim()["files"]) == 3


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 7), st.sampled_from("abc"), st.sampled_from("PQ")),
        st.tuples(st.just("end"), st.sampled_from("abc"), st.sampled_from(["released", "aborted"])),
        st.tuples(st.just("work"), st.sampled_from(["finish", "finish", "send", "reject", "fail", "release", "crash",
                                                    "hold", "lose"])),
        st.tuples(st.just("pass"), st.sampled_from([0.1, 1.0, 11.0, 40.0])),
        st.tuples(st.just("restart")),
    ),
    max_size=60,
)  # fmt: skip


@pytest.mark.long
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(EVENTS)
def test_whatever_happens_every_instance_ends_in_exactly_one_final_state(events: list[tuple[Any, ...]]) -> None:
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        for module in (store, series_store, outbox_store, overview):
            patch.setattr(module, "time", clock)
        ledger = Ledger(Path(folder) / "ledger.sqlite3", clock)
        finals: dict[int, tuple[str, str]] = {}
        transfers = dict.fromkeys("abc", 0)
        for event in [*events, *[("pass", 40.0), ("work", "finish")] * 40]:
            _happens(ledger, event, transfers)
            for identifier, row in ledger.rows().items():
                ended = (row["state"], row["reason"])
                assert finals.get(identifier, ended) == ended, "a final state has changed"
                if row["state"] in FINAL_STATES:
                    finals[identifier] = ended
        for item in ledger.store.due("pacs"):
            ledger.store.sent(item["id"])
        rows = ledger.rows()
        assert all(row["state"] in FINAL_STATES for row in rows.values()), ledger.states()
        assert all(row["reason"] for row in rows.values() if (row["state"], row["lead_id"]) != ("delivered", row["id"]))
        assert sum(ledger.store.counts().values()) == len(rows)
        assert len(ledger.store.worklist(1000)) == len({row["lead_id"] or row["id"] for row in rows.values()})
        for row in rows.values():
            if row["lead_id"] is None:
                assert row["state"] == "quarantined", "only what stops its reader is never gathered"
                continue
            assert rows[row["lead_id"]]["lead_id"] == row["lead_id"], "a lead leads itself"
            assert rows[row["lead_id"]]["state"] == row["state"], "all end as their lead does"
            has_result = ledger.store.instance(row["lead_id"])
            assert has_result is not None
            assert (has_result["made_at"] is not None) == (row["state"] == "delivered")
        ledger.store.close()


def _happens(ledger: Ledger, event: tuple[Any, ...], transfers: dict[str, int]) -> None:
    what, *details = event
    if what == "add":
        place, name, patient = details
        ledger.add(place, f"{name}{transfers[name]}", patient)
    elif what == "end":
        name, ending = details
        ledger.store.end_transfer(f"{name}{transfers[name]}", ending)
        transfers[name] += 1
    elif what == "pass":
        ledger.clock.now += details[0]
    elif what == "restart":
        ledger.store.release_all("the appliance was restarted")
        ledger.store.abort_open_transfers()
        for name in transfers:
            transfers[name] += 1
    else:
        _work(ledger, details[0])


def _work(ledger: Ledger, outcome: str) -> None:
    ledger.start()
    claim = ledger.store.claim("me", 30)
    if claim is None:
        return
    identifier = claim["id"]
    if outcome == "crash":
        ledger.store.release_crashed("me")
    elif outcome == "lose":
        ledger.clock.now += 31
        ledger.store.claim("other", 30)
    elif outcome == "hold":
        return
    elif not claim["triaged"]:
        ledger.park(identifier)
    elif outcome in ("finish", "send"):
        report = [written("structured_report", f"2.{identifier}")]
        ledger.store.finish(
            identifier, "me", RESULT, report, [("structured_report", "pacs")] if outcome == "send" else []
        )
        if outcome == "finish":
            for item in ledger.store.due("pacs"):
                ledger.store.sent(item["id"])
    elif outcome == "release":
        ledger.store.release(identifier, "me", "Waiting: the disk is full", 5)
    else:
        getattr(ledger.store, outcome)(identifier, "me", "It differs.")


# --- the ways in and the worker --------------------------------------------------------------------------------------


class Bench:
    """A data folder with a Storage SCP and a worker whose pipeline is a stand-in."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "box"
        self.reader = Reader(self.data)
        self.store = Store(self.data / "ledger.sqlite3")
        self.intake = Intake(Spool(self.data / "spool"), self.store, lambda: None)
        self.scp = StorageScp(config.StorageScp(host="127.0.0.1", port=0), self.intake)
        self.port = self.scp.start()

    def send(self, *files: Path) -> None:
        """By dcmtk, on one association."""
        command = [needs("storescu"), "-aec", "SCANSIDE", "127.0.0.1", str(self.port), *map(str, files)]
        sent = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert sent.returncode == 0, sent.stderr

    def received(self, count: int) -> None:
        wait_until(lambda: sum(self.store.counts().values()) == count, f"{count} images are here")

    def ended(self) -> None:
        """The SCU has gone before the SCP has recorded it."""
        wait_until(
            lambda: not self.store._rows("SELECT 1 FROM transfer WHERE ended_at IS NULL"), "every association has ended"
        )

    def read(self) -> list[tuple[int, set[str]]]:
        """The images that stand for a result, and the SOP Instance UIDs that it was made of, oldest first."""
        found = [self.store.instance(row["id"]) for row in self.store.worklist(1000)]
        return sorted((row["id"], set(row["provenance"]["read"])) for row in found if row and row["provenance"])


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    found = Bench(tmp_path)
    yield found
    found.scp.stop()
    found.store.close()


@pytest.fixture(scope="module")
def slices(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """30 slices in an order that says nothing."""
    return make_series(tmp_path_factory.mktemp("series"), np.zeros((30, 16, 16), np.uint16))


def uids(files: list[Path]) -> set[str]:
    return {str(pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID) for file in files}


def by_position(files: list[Path]) -> list[Path]:
    return sorted(files, key=lambda file: float(pydicom.dcmread(file).ImagePositionPatient[2]))


def test_a_series_by_c_store_is_read_at_the_release(bench: Bench, slices: list[Path]) -> None:
    bench.send(*slices)
    bench.reader.work()
    assert [found for _, found in bench.read()] == [uids(slices)]
    (row,) = bench.store.worklist()
    assert row["why"] == "30 slices without a gap, association released"
    assert bench.store.counts()["delivered"] == 30


def test_a_single_slice_too(bench: Bench, slices: list[Path]) -> None:
    first = next(file for file in slices if pydicom.dcmread(file).InstanceNumber == 1)
    bench.send(first)
    bench.reader.work()
    (row,) = bench.store.worklist()
    assert (row["state"], row["why"]) == ("delivered", "1 slice, association released")


def test_radiographs_beside_it_are_read_one_by_one(bench: Bench, slices: list[Path], tmp_path: Path) -> None:
    bench.send(*slices[:15], make_radiograph(tmp_path / "1.dcm"), *slices[15:], make_radiograph(tmp_path / "2.dcm"))
    bench.reader.work()
    assert sorted(len(found) for _, found in bench.read()) == [1, 1, 30]


def test_several_associations_make_one_series(bench: Bench, slices: list[Path]) -> None:
    command = [needs("storescu"), "127.0.0.1", str(bench.port)]
    senders = [subprocess.Popen([*command, *map(str, slices[number::4])]) for number in range(4)]
    bench.reader.work(1.0)
    assert [sender.wait(60) for sender in senders] == [0] * 4
    bench.received(30)
    bench.reader.work()
    last, found = bench.read()[-1]
    assert found == uids(slices)
    row = bench.store.instance(last)
    assert row is not None
    assert row["superseded_by"] is None


def test_an_association_for_each_image_makes_one_series(bench: Bench, tmp_path: Path) -> None:
    files = make_series(tmp_path / "few", np.zeros((6, 16, 16), np.uint16))
    for file in reversed(files):
        bench.send(file)
        bench.reader.work(0.01)
    bench.reader.work()
    assert [found for _, found in bench.read()] == [uids(files)]
    (row,) = bench.store.worklist()
    assert row["why"] == "quiet for 2 s: each image came on an association of its own, and it states no count"


def test_an_association_that_breaks_off_in_the_middle_waits_for_the_rest(bench: Bench, slices: list[Path]) -> None:
    entity = AE()
    entity.add_requested_context(MRImageStorage, "1.2.840.10008.1.2.1")
    association = entity.associate("127.0.0.1", bench.port)
    for file in slices[:12]:
        assert association.send_c_store(pydicom.dcmread(file)).Status == 0
    association.abort()
    bench.ended()
    bench.reader.work(0.7)
    (waiting,) = bench.store.gathered()
    assert "waiting until" in waiting["why"]
    assert bench.read() == []
    bench.send(*slices)  # the sender tries all of them again
    bench.reader.work()
    assert [found for _, found in bench.read()] == [uids(slices)]
    assert sum(row["copies"] for row in bench.store.members(waiting["lead_id"])) == 42


def test_a_connection_that_is_lost_counts_as_broken_off(bench: Bench, slices: list[Path]) -> None:
    entity = AE()
    entity.add_requested_context(MRImageStorage, "1.2.840.10008.1.2.1")
    association = entity.associate("127.0.0.1", bench.port)
    for file in slices:
        assert association.send_c_store(pydicom.dcmread(file)).Status == 0
    association.dul.socket.socket.shutdown(socket.SHUT_RDWR)
    bench.ended()
    bench.reader.work()
    (row,) = bench.store.worklist()
    assert row["why"] == "quiet for 2 s: the association broke off"
    assert len(bench.read()) == 1


def test_a_gap_is_waited_for_then_refused_with_its_place_and_a_late_slice_mends_it(
    bench: Bench, slices: list[Path]
) -> None:
    ordered = by_position(slices)
    missing = ordered.pop(11)
    bench.send(*ordered)
    begin = time.monotonic()
    bench.reader.work()
    assert QUIET - 0.5 < time.monotonic() - begin < 10
    (row,) = bench.store.worklist()
    place = float(pydicom.dcmread(missing).ImagePositionPatient[2])
    assert row["why"] == f"quiet for 2 s: position {place:.1f} mm missing"
    assert bench.store.counts()["rejected"] == 29
    assert all(f"{place:.1f} mm" in member["reason"] for member in bench.store.members(row["id"]))
    bench.send(missing)
    bench.reader.work()
    ((lead, found),) = bench.read()
    assert found == uids(slices)
    assert bench.store.superseded(lead) == [row["id"]]
    assert (bench.store.counts()["rejected"], bench.store.counts()["delivered"]) == (29, 1)


def warnings(bench: Bench) -> list[list[str]]:
    """Of each result, oldest first."""
    return [row["warnings"] for lead, _ in bench.read() if (row := bench.store.instance(lead))]


def test_the_result_of_a_series_says_what_is_missing_in_it(bench: Bench, tmp_path: Path) -> None:
    files = by_position(make_series(tmp_path / "cut", np.zeros((8, 16, 16), np.uint16), ImagesInAcquisition=8))
    bench.send(*files[:6])
    bench.reader.work()
    bench.send(*files[6:])
    bench.reader.work()
    assert warnings(bench) == [
        ["Images of the series may be missing: says 8 images, 6 are here."],
        ["This takes the place of an earlier result of the series, which was read from 6 images."],
    ]


def test_and_how_many_of_its_images_were_not_read_until_they_come_whole(
    bench: Bench, slices: list[Path], tmp_path: Path
) -> None:
    first, *others, last = by_position(slices)
    hostile = with_items(tmp_path / "hostile.dcm", first, 300_000)  # more than any image needs
    dataset = pydicom.dcmread(last)
    dataset.Modality = "OT"  # which the volume's package does not take
    dataset.save_as(tmp_path / "odd.dcm")
    bench.send(hostile, tmp_path / "odd.dcm", *others)
    bench.reader.work()
    bench.send(last)
    bench.reader.work()
    bench.send(first)
    bench.reader.work()
    apart = "Images that say they are of the series were not read with it: 1."
    unread = "Images that came with the series and may be of it could not be read: 1."
    turned_away = [[each for each in said if each in (apart, unread)] for said in warnings(bench)]
    assert turned_away == [[apart, unread], [unread], []]


def test_a_late_slice_makes_a_result_that_supersedes_and_a_duplicate_none(bench: Bench, slices: list[Path]) -> None:
    ordered = by_position(slices)
    bench.send(*ordered[:-1])
    bench.reader.work()
    bench.send(*ordered[:5])
    bench.reader.work()
    assert [len(found) for _, found in bench.read()] == [29]
    bench.send(ordered[-1])
    bench.reader.work()
    (first, old), (late, new) = bench.read()
    assert (len(old), new) == (29, uids(slices))
    assert bench.store.superseded(late) == [first]
    # Whoever has the earlier one, a PACS too, is told by the later one.
    said = "This takes the place of an earlier result of the series, which was read from 29 images."
    rows = {row["id"]: row["warnings"] for row in bench.store.worklist(limit=100)}
    assert (said in rows[first], said in rows[late]) == (False, True)
    assert {row["state"] for row in bench.store.members(late)} == {"delivered"}
    assert len(list((bench.data / "results").glob("*/structured_report.dcm"))) == 2


def test_a_folder_of_files_is_complete_when_it_is_quiet(bench: Bench, slices: list[Path], tmp_path: Path) -> None:
    watched = DropFolder(config.DropFolder(settle_seconds=0.5), tmp_path / "drop", bench.intake)
    watched.start()
    try:
        (tmp_path / "drop" / "from-the-stick").mkdir()
        for file in slices:
            (tmp_path / "drop" / "from-the-stick" / file.name).write_bytes(file.read_bytes())
        bench.received(30)
        bench.reader.work()
    finally:
        watched.stop()
    assert [found for _, found in bench.read()] == [uids(slices)]
    (row,) = bench.store.worklist()
    assert row["why"] == "30 slices without a gap, the drop folder is quiet"


def test_kill_9_of_the_worker_in_the_middle_of_a_series_loses_and_doubles_nothing(
    bench: Bench, slices: list[Path]
) -> None:
    command = [sys.executable, "-m", "tests.appliance.series_worker", str(bench.data)]

    def worker(seconds: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*command, seconds], cwd=CHECKOUT)

    with worker("60") as first:
        bench.send(*slices)
        wait_until(lambda: bench.store.counts()["claimed"] == 30, "the series is being read")
        wait_until(lambda: Path(f"/proc/{first.pid}/comm").read_text() == "reading\n", "by the network")
        os.kill(first.pid, signal.SIGKILL)
    assert bench.store.release_crashed(claimant(first.pid)) == 1  # as `appliance.run` does
    assert bench.store.counts()["received"] == 30
    with worker("0") as second:
        wait_until(lambda: bench.store.counts()["delivered"] == 30, "the series is read again")
        os.kill(second.pid, signal.SIGKILL)
    assert [found for _, found in bench.read()] == [uids(slices)]


def test_kill_9_at_any_time_while_a_series_is_gathered(bench: Bench, slices: list[Path]) -> None:
    command = [sys.executable, "-m", "tests.appliance.series_worker", str(bench.data)]
    sender = subprocess.Popen([needs("storescu"), "127.0.0.1", str(bench.port), *map(str, slices)])
    for pause in (1.0, 1.6, 1.3):
        with subprocess.Popen(command, cwd=CHECKOUT) as worker:
            time.sleep(pause)
            worker.kill()
        if bench.store.release_crashed(claimant(worker.pid)):
            break  # what stops its reader twice is set aside
    assert sender.wait(60) == 0
    bench.reader.work()
    assert bench.store.counts()["delivered"] == 30
    assert bench.read()[-1][1] == uids(slices)
