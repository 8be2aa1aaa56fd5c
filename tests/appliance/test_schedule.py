"""The order of the queue: STAT before routine before low, and nobody behind newer ones for longer than his patience."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import DataElement, Dataset
from pydicom.sequence import Sequence
from pynetdicom import AE
from pynetdicom.sop_class import ComputedRadiographyImageStorage

from appliance import config, config_file, image, schedule, store
from appliance.config import Config, DropFolder, Priority, Scheduling, SchedulingRule
from appliance.errors import ConfigError, ImageError
from appliance.ingest.drop_folder import DropFolder as WatchedFolder
from appliance.ingest.storage_scp import StorageScp
from appliance.store import Store, claimant
from appliance.worker import Worker
from tests.appliance.conftest import Box, take
from tests.appliance.test_store import RESULT, arrival
from tests.dicom_files import make_radiograph
from tests.peers import wait_until
from tests.running import scanside
from tests.shared_sandbox import sandbox

AGEING = 300.0
PRIORITIES: tuple[Priority, ...] = ("stat", "routine", "low")


def texts(**header: str) -> Any:
    return lambda keyword: [header[keyword]] if keyword in header else []


# --- what is asked for -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "requested", "expected"),
    [
        (0x0000, None, "routine"),
        (0x0001, None, "stat"),
        (0x0002, None, "low"),
        (0x0007, None, "routine"),
        (0x0000, "STAT", "stat"),
        (0x0002, " high ", "stat"),
        (0x0002, "ROUTINE", "routine"),
        (0x0002, "MEDIUM", "routine"),
        (0x0002, "LOW", "low"),
        (0x0001, "LOW", "stat"),
        (0x0002, "LOW\\STAT", "stat"),
        (0x0002, "VERY URGENT", "low"),
        (None, "LOW", "low"),
        (None, None, "routine"),
    ],
)
def test_the_most_urgent_that_is_asked_for_counts(sent: int | None, requested: str | None, expected: str) -> None:
    header = {} if requested is None else {schedule.REQUESTED: requested}
    asked = None if sent is None else schedule.of_c_store(sent)
    assert schedule.decide((), "SCANNER", asked, texts(**header)) == expected


def test_the_first_rule_that_matches_decides_even_downwards() -> None:
    rules = (
        SchedulingRule(priority="low", sender="RESEARCH*"),
        SchedulingRule(priority="stat", sender="ER-?", attribute="StudyDescription", matches="*trauma*"),
        SchedulingRule(priority="stat", attribute="StudyDescription", matches="icu*"),
    )

    def decided(ae_title: str, description: str) -> str:
        return schedule.decide(rules, ae_title, "routine", texts(StudyDescription=description))

    assert schedule.decide(rules, "RESEARCH_1", "stat", texts(StudyDescription="ICU")) == "low"
    assert decided("ER-1", "Poly-TRAUMA, thorax") == "stat"
    assert decided("er-1", "Polytrauma") == "routine"  # AE titles tell upper case from lower case
    assert decided("ER-1", "Follow-up") == "routine"
    assert decided("", "icu bedside") == "stat"
    assert decided("", "the icu") == "routine"


def test_a_dropped_file_has_no_sender_for_a_rule_to_match() -> None:
    assert schedule.decide((SchedulingRule(priority="stat", sender="*"),), "", None, texts()) == "routine"


@given(st.text(), st.text(), st.text(min_size=1))
def test_any_text_has_a_priority(ae_title: str, value: str, pattern: str) -> None:
    rules = [SchedulingRule(priority="low", sender=pattern, attribute="StudyDescription", matches=pattern)]
    header = texts(RequestedProcedurePriority=value, StudyDescription=value)
    assert schedule.decide(rules, ae_title, None, header) in PRIORITIES


def test_request_attributes_are_looked_at_and_broken_ones_count_as_missing() -> None:
    item, broken, header = Dataset(), Dataset(), Dataset()
    item.RequestedProcedurePriority = "STAT"
    header.RequestAttributesSequence = Sequence([broken, item])
    assert image.requested(header, schedule.REQUESTED) == ["STAT"]
    header.RequestedProcedurePriority = "LOW"
    assert image.requested(header, schedule.REQUESTED) == ["LOW", "STAT"]
    header.add(DataElement(0x00400275, "LO", "no sequence at all"))
    assert image.requested(header, schedule.REQUESTED) == ["LOW"]


def test_a_sequence_that_breaks_pydicom_counts_as_missing(tmp_path: Path) -> None:
    """What stands in a sequence is decoded late: a length beyond its end, a value that is none of its kind."""
    item = Dataset()
    item.RequestedProcedurePriority = "STAT"
    source = make_radiograph(tmp_path / "a.dcm", RequestAttributesSequence=[item])
    content = source.read_bytes()
    assert image.requested(image.read_header(source), schedule.REQUESTED) == ["STAT"]
    place = content.index(b"\x40\0\x03\x10SH")
    for change in (b"\x40\0\x03\x10SH\xff\xff", b"\x40\0\x03\x10FD\x04\0", b"\x40\0\x03\x10SQ\x04\0"):
        source.write_bytes(content[:place] + change + content[place + len(change) :])
        with contextlib.suppress(ImageError):
            found = image.requested(image.read_header(source), schedule.REQUESTED)
            assert schedule.decide((), "", None, lambda _: found) in PRIORITIES  # noqa: B023


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ('priority = "stat"', "rule 1 has no condition"),
        ('priority = "stat"\nattribute = "Modality"', "only one of attribute and matches"),
        ('priority = "stat"\nsender = "A"\nmatches = "x"', "only one of attribute and matches"),
        ('priority = "stat"\nattribute = "StudyDescripton"\nmatches = "x"', "StudyDescripton"),
        ('priority = "stat"\nattribute = "RequestAttributesSequence"\nmatches = "x"', "RequestAttributesSequence"),
        ('priority = "urgent"\nsender = "A"', "urgent"),
        ('sender = "A"', "priority"),
    ],
)
def test_a_rule_that_cannot_work_is_an_error_that_names_it(rule: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "scanside.toml"
    file.write_text(f"[[scheduling.rules]]\n{rule}\n")
    with pytest.raises(ConfigError, match=message):
        config_file.load(file)


def test_rules_are_read_in_their_order(tmp_path: Path) -> None:
    file = tmp_path / "scanside.toml"
    file.write_text(
        "[scheduling]\nageing_seconds = 60\n[[scheduling.rules]]\npriority = 'low'\nsender = 'A*'\n"
        "[[scheduling.rules]]\npriority = 'stat'\nattribute = 'CurrentPatientLocation'\nmatches = 'ER'\n"
    )
    found = config_file.load(file).scheduling
    assert found.ageing_seconds == 60
    assert [rule.priority for rule in found.rules] == ["low", "stat"]


# --- the queue -------------------------------------------------------------------------------------------------------


class Clock:
    """Stands in for the time module of the ledger."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(store, "time", found)
    return found


class Queue:
    """A ledger whose instances get the priority under which they were added, when they are triaged."""

    def __init__(self, path: Path) -> None:
        self.store = Store(path)
        self.priorities: dict[int, Priority] = {}
        self.claims = 0

    def add(self, priority: Priority) -> int:
        number = len(self.priorities)
        identifier = self.store.receive(arrival(uid=f"1.{number}", content=f"{number}")).instance_id
        self.priorities[identifier] = priority
        return identifier

    def next(self) -> int | None:
        """What is read next, as the worker finds it."""
        while claim := self.store.claim("me", 30):
            self.claims += 1
            identifier = int(claim["id"])
            priority = self.priorities[identifier]
            if claim["triaged"] or self.store.triage(
                identifier, "me", {}, priority, schedule.patience(priority, AGEING)
            ):
                self.store.finish(identifier, "me", RESULT, [], [])
                return identifier
        return None


@pytest.fixture
def queue(tmp_path: Path, clock: Clock) -> Iterator[Queue]:
    found = Queue(tmp_path / "ledger.sqlite3")
    yield found
    found.store.close()


def test_stat_behind_fifty_routine_ones_is_next(queue: Queue, clock: Clock) -> None:
    for _ in range(50):
        queue.add("routine")
        clock.now += 1
    queue.next()
    stat = queue.add("stat")
    assert queue.next() == stat


def test_an_image_alone_needs_one_claim(queue: Queue) -> None:
    identifier = queue.add("low")
    assert queue.next() == identifier
    assert queue.claims == 1
    events = [event["what"] for event in queue.store.events(identifier)]
    assert events == ["received", "queued", "claimed", "delivered"]


def test_equals_go_in_the_order_they_came_and_low_ones_last(queue: Queue) -> None:
    low, first, second = queue.add("low"), queue.add("routine"), queue.add("routine")
    assert [queue.next() for _ in range(4)] == [first, second, low, None]
    assert queue.claims == 3 + 3  # each was given back once, since others might have gone or do go before it


def test_a_routine_one_that_waited_beyond_the_cap_goes_before_newer_stat_ones(queue: Queue, clock: Clock) -> None:
    low, routine = queue.add("low"), queue.add("routine")
    clock.now += AGEING - 1
    early = queue.add("stat")
    clock.now += 2
    late = queue.add("stat")
    clock.now += AGEING
    latest = queue.add("stat")
    assert [queue.next() for _ in range(5)] == [early, routine, late, low, latest]


def test_a_released_one_keeps_its_place_and_is_not_triaged_again(queue: Queue, clock: Clock) -> None:
    stat = queue.add("stat")
    claim = queue.store.claim("me", 30)
    assert claim is not None
    assert queue.store.triage(stat, "me", {"modality": "CR"}, "stat", 0.0)
    queue.store.release(stat, "me", "Waiting: the disk is full", 5)
    routine = queue.add("routine")
    assert queue.next() == routine  # the other may not be tried yet
    clock.now += 6
    queue.add("routine")
    again = queue.store.claim("me", 30)
    assert again is not None
    assert (again["id"], again["triaged"], again["priority"], again["modality"]) == (stat, 1, "stat", "CR")


def test_a_lost_lease_is_said_in_triage_and_by_a_crash(queue: Queue, clock: Clock) -> None:
    identifier = queue.add("stat")
    queue.store.claim("slow", 1)
    clock.now += 2
    queue.store.claim("other", 30)
    with pytest.raises(store.LeaseLostError):
        queue.store.triage(identifier, "slow", {}, "stat", 0.0)
    with pytest.raises(store.LeaseLostError):
        queue.store.count_crash(identifier, "slow", "exit code -11")
    row = queue.store.instance(identifier)
    assert row is not None
    assert (row["triaged"], row["crashes"]) == (0, 0)


STEPS = st.lists(
    st.tuples(st.sampled_from(["stat", "routine", "low", "next", "next"]), st.sampled_from([0, 1, 100, 299, 300, 301])),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_nobody_waits_behind_newer_ones_for_longer_than_his_patience(steps: list[tuple[Any, float]]) -> None:
    clock = Clock()
    waiting: dict[int, float] = {}  # when each was received
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "time", clock)
        queue = Queue(Path(folder) / "ledger.sqlite3")
        for step, pause in [*steps, *[("next", 0.0)] * (len(steps) + 1)]:
            if step != "next":
                waiting[queue.add(step)] = clock.now
            else:
                taken = queue.next()
                assert (taken is None) == (not waiting)
                if taken is None:
                    continue
                since = waiting.pop(taken)
                for other, received in waiting.items():
                    patience = schedule.patience(queue.priorities[other], AGEING)
                    assert since <= received + patience, "it is newer by more than the other's patience"
                    if PRIORITIES.index(queue.priorities[other]) <= PRIORITIES.index(queue.priorities[taken]):
                        least = patience - schedule.patience(queue.priorities[taken], AGEING)
                        assert received - since >= least, "an equal or more urgent one had no such advance"
            clock.now += pause
        queue.store.close()
    assert not waiting


# --- the ways in and the worker --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "expected"), [(0, "routine"), (1, "stat"), (2, "low")])
def test_a_c_store_brings_its_priority_and_its_sender(number: int, expected: str, box: Box, tmp_path: Path) -> None:
    scp = StorageScp(config.StorageScp(host="127.0.0.1", port=0), box.intake)
    entity = AE(ae_title="ER-1")
    entity.add_requested_context(ComputedRadiographyImageStorage, "1.2.840.10008.1.2.1")
    association = entity.associate("127.0.0.1", scp.start())
    answer = association.send_c_store(pydicom.dcmread(make_radiograph(tmp_path / "a.dcm")), priority=number)
    association.release()
    scp.stop()
    assert answer.Status == 0x0000
    (row,) = box.rows()
    assert (row["priority"], row["ae_title"], row["triaged"]) == (expected, "ER-1", 0)


@pytest.mark.parametrize("priority", PRIORITIES)
def test_the_scanner_simulator_sends_with_a_priority(priority: str, box: Box, tmp_path: Path) -> None:
    scp = StorageScp(config.StorageScp(host="127.0.0.1", port=0), box.intake)
    to = f"SCANSIDE@127.0.0.1:{scp.start()}"
    sent = scanside("send", make_radiograph(tmp_path / "a.dcm"), "--to", to, "--priority", priority)
    scp.stop()
    assert sent.returncode == 0, sent.stderr
    assert [row["priority"] for row in box.rows()] == [priority]


def test_a_dropped_file_asks_for_nothing_until_it_is_triaged(box: Box, tmp_path: Path) -> None:
    folder = WatchedFolder(DropFolder(settle_seconds=0.1), tmp_path / "drop", box.intake)
    folder.start()
    make_radiograph(tmp_path / "drop" / "a.dcm", RequestedProcedurePriority="STAT")
    wait_until(lambda: len(box.rows()) == 1, "the file is taken")
    folder.stop()
    assert (box.rows()[0]["priority"], box.rows()[0]["ae_title"]) == ("routine", "")


class Reader(Worker):
    """The worker without a model: what it would read, it notes."""

    def __init__(self, settings: Config, parent: socket.socket) -> None:
        super().__init__(settings, parent)
        self._sandbox = sandbox()
        self.read: list[int] = []

    def _end(self, opened: Any, begun: Any) -> None:
        self.read.append(begun.claim["id"])
        self._store.finish(begun.claim["id"], self._owner, RESULT, [], [])

    def work(self) -> list[int]:
        opened: Any = SimpleNamespace(prepare=lambda *_: None, reads_series=lambda header: False)
        while claim := self._store.claim(self._owner, 30):
            self._process(opened, claim)
        return self.read


class Bench:
    """A data folder, a way in and a worker."""

    def __init__(self, folder: Path, *rules: SchedulingRule) -> None:
        settings = Config(data_dir=str(folder), scheduling=Scheduling(rules=rules))
        folder.mkdir()
        self.box = Box(folder)
        self.box.store = Store(settings.ledger_path)
        self.box.intake = type(self.box.intake)(self.box.spool, self.box.store, self.box.arrived.set)
        self.ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        self.worker = Reader(settings, theirs)

    def take(self, path: Path, **request: Any) -> int:
        header = image.read_header(path) if path.stat().st_size > 200 else Dataset()
        uid = image.text(header, "SOPInstanceUID")
        admission = take(
            self.box.intake,
            b"",
            path.read_bytes(),
            sop_instance_uid=uid,
            sop_class_uid="1.2",
            source="storage_scp",
            sender="X",
            **request,
        )
        return admission.instance_id


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "data", SchedulingRule(priority="low", sender="RESEARCH"))


def test_the_worker_reads_by_header_and_request_and_rule(bench: Bench, tmp_path: Path) -> None:
    plain = make_radiograph(tmp_path / "1.dcm", seed=1)
    requested = make_radiograph(tmp_path / "2.dcm", seed=2, RequestedProcedurePriority="STAT")
    ruled = make_radiograph(tmp_path / "3.dcm", seed=3, RequestedProcedurePriority="STAT")
    urgent = make_radiograph(tmp_path / "4.dcm", seed=4)
    first = bench.take(ruled, ae_title="RESEARCH", priority="stat")
    second = bench.take(plain, ae_title="CR1", priority="routine")
    third = bench.take(requested, ae_title="CR1", priority="low")
    fourth = bench.take(urgent, ae_title="CR1", priority="stat")
    assert bench.worker.work() == [third, fourth, second, first]
    rows = bench.box.rows()
    assert [row["priority"] for row in rows] == ["low", "routine", "stat", "stat"]
    assert all(row["modality"] and row["triaged"] for row in rows)


def test_a_hostile_header_is_turned_away_in_triage_and_the_others_go_on(bench: Bench, tmp_path: Path) -> None:
    good = make_radiograph(tmp_path / "good.dcm", RequestedProcedurePriority="STAT")
    whole = good.read_bytes()
    cut, nested = tmp_path / "cut.dcm", tmp_path / "nested.dcm"
    cut.write_bytes(whole[:260])
    deep = b"".join(b"\x40\0\x75\x02SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff" for _ in range(5000))
    nested.write_bytes(whole[: whole.index(b"\x10\0\x10\0PN")] + deep)
    intake = bench.box.intake
    for file in (cut, nested):
        take(intake, b"", file.read_bytes(), sop_instance_uid="", sop_class_uid="", source="drop_folder", sender="x")
    identifier = bench.take(good)
    assert bench.worker.work() == [identifier]
    rows = bench.box.rows()
    assert [row["state"] for row in rows] == ["rejected", "quarantined", "delivered"]
    assert all(row["reason"] for row in rows[:2])


def test_a_crash_in_triage_counts_and_ends_in_quarantine(bench: Bench, tmp_path: Path) -> None:
    identifier = bench.take(make_radiograph(tmp_path / "a.dcm"))
    for _ in range(store.MOST_CRASHES):
        assert bench.box.store.claim(claimant(os.getpid()), 30) is not None
        bench.box.store.release_crashed(claimant(os.getpid()))
    row = bench.box.store.instance(identifier)
    assert row is not None
    assert (row["state"], row["triaged"]) == ("quarantined", 0)
    assert bench.worker.work() == []
