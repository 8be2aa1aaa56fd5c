"""The audit trail: every change of it is found, nothing is lost silently, and what commands leave in it."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance import audit_export, audit_proof, audit_retention, signature
from appliance.audit import Record, Trail, anchored, decode, digest, recorded
from appliance.audit_store import AuditStore
from appliance.cli import main
from appliance.config import Audit, Config, Syslog
from appliance.errors import ApplianceError, SpoolError
from appliance.store import Arrival, Store
from tests.peers import small_disk


class Box:
    """A data folder with a trail of some records."""

    def __init__(self, folder: Path, count: int = 6) -> None:
        self.folder = folder
        self.path, self.key = folder / "audit.sqlite3", folder / "keys" / "device.pem"
        self.trail = Trail(self.path, self.key)
        for number in range(count):
            self.trail.append(Record(1000.0 + number, "view", "GET /study/<int>", target=f"image {number}"))

    def verify(self, *noted: dict[str, object], exports: Sequence[Path] = ()) -> audit_proof.Outcome:
        return audit_proof.verify(self.path, self.key, *noted, exports=exports)

    def tamper(self, *statements: str) -> None:
        """As somebody with the file, who takes away first what forbids it."""
        self.trail.close()
        connection = sqlite3.connect(self.path)
        connection.executescript("DROP TRIGGER record_changed; DROP TRIGGER record_removed;")
        for statement in statements:
            connection.execute(statement)
        connection.commit()
        connection.close()


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def test_what_was_written_is_whole(box: Box) -> None:
    outcome = box.verify()
    assert (outcome.records, outcome.faults) == (6, [])
    assert outcome.key


SWAP = "UPDATE record SET content = CASE number WHEN 3 THEN (SELECT content FROM record WHERE number = 4) ELSE (SELECT content FROM record WHERE number = 3) END WHERE number IN (3, 4)"  # noqa: E501


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (["UPDATE record SET content = replace(content, 'image 2', 'image 9') WHERE number = 3"], "3 is not what"),
        (["UPDATE record SET content = replace(content, 'image 5', 'image 9') WHERE number = 6"], "record, 6, is not"),
        (["UPDATE record SET content = replace(content, 'image 0', 'image 9') WHERE number = 1"], "1 is not what"),
        (["UPDATE record SET previous = '00' WHERE number = 3"], "chain breaks at record 3"),
        (["DELETE FROM record WHERE number = 3"], "record 3 is missing"),
        (["DELETE FROM record WHERE number = 1"], "record 1 is missing"),
        (["DELETE FROM record WHERE number IN (3, 4)"], "records 3 to 4 are missing"),
        (["DELETE FROM record WHERE number = 3", "UPDATE record SET number = number - 1 WHERE number > 3"], "breaks"),
        (["DELETE FROM record WHERE number = 6"], "the end is cut off"),
        (["DELETE FROM record WHERE number > 2"], "the end is cut off"),
        (["DELETE FROM record"], "the end is cut off"),
        ([SWAP], "chain breaks"),
        (["INSERT INTO record SELECT 7, '00', content FROM record WHERE number = 6"], "put in at the end"),
        (["UPDATE record SET number = number + 10 WHERE number > 3",
          "INSERT INTO record SELECT 4, previous, content FROM record WHERE number = 14",
          "UPDATE record SET number = number - 9 WHERE number > 10"], "chain breaks at record 5"),
        (["DELETE FROM head"], "the signed head is missing"),
        (["UPDATE head SET signature = 'ab:cd'"], "not signed by this device"),
        (["DELETE FROM record WHERE number = 6", "UPDATE head SET number = 5, digest = 'x'"], "not what it was"),
        (["UPDATE record SET content = 'x' WHERE number = 2"], "record 2 can't be read"),
    ],
)  # fmt: skip
def test_every_kind_of_change_is_found(box: Box, statements: list[str], said: str) -> None:
    box.tamper(*statements)
    assert any(said in fault for fault in box.verify().faults), box.verify().faults


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_change_of_any_row_is_found(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    box = Box(tmp_path_factory.mktemp("trail"))
    row, column = data.draw(st.integers(1, 6)), data.draw(st.sampled_from(["content", "previous"]))
    store = AuditStore(box.path, read_only=True)
    before = next(iter(store.records(row - 1)))[column]
    store.close()
    at = data.draw(st.integers(0, len(before) - 1))
    letter = data.draw(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="'"))
    after = before[:at] + letter + before[at + 1 :]
    box.tamper(f"UPDATE record SET {column} = '{after}' WHERE number = {row}")
    assert bool(box.verify().faults) == (after != before)


def test_a_digest_that_is_made_to_fit_still_has_no_signature(box: Box) -> None:
    """Cut the end, and make the head fit: only the device's key could sign it."""
    store = AuditStore(box.path, read_only=True)
    rows = list(store.records())
    store.close()
    box.tamper("DELETE FROM record WHERE number = 6", f"UPDATE head SET number = 5, digest = '{rows[5]['previous']}'")
    assert box.verify().faults == ["the head is not signed by this device: the head was changed after it was signed"]


def test_an_old_copy_is_found_by_whoever_noted_a_later_head(box: Box) -> None:
    copy = box.folder / "copy.sqlite3"
    box.trail.flush()
    box.trail.close()
    with closing(sqlite3.connect(box.path)) as connection, closing(sqlite3.connect(copy)) as target:
        connection.backup(target)
    box.trail.append(Record(time.time(), "act", "POST /x"))
    noted = box.trail.head()
    box.trail.close()
    assert noted is not None
    assert box.verify(noted).faults == []
    shutil.copy(copy, box.path)
    assert box.verify().faults == []
    assert box.verify(noted).faults == [f"the end is cut off: record 7, {noted['digest'][:16]}..., was there once"]
    box.trail.append(Record(time.time(), "act", "POST /y"))
    assert box.verify(noted).faults == ["record 7 is not the one that was noted elsewhere"]


def test_the_file_itself_refuses_changes(box: Box) -> None:
    connection = sqlite3.connect(box.path)
    for statement in ("UPDATE record SET content = ''", "DELETE FROM record"):
        with pytest.raises(sqlite3.IntegrityError, match="never changed"):
            connection.execute(statement)
    connection.close()


def test_a_damaged_file_is_said(box: Box) -> None:
    box.trail.close()
    box.path.write_bytes(b"no database at all, however long it may be" * 100)
    assert any("is damaged" in fault for fault in box.verify().faults)


def test_many_threads_and_processes_make_one_chain(tmp_path: Path) -> None:
    box, other = Box(tmp_path, 0), Trail(tmp_path / "audit.sqlite3", tmp_path / "keys" / "device.pem")

    def write(trail: Trail, flushed: bool) -> None:
        for _ in range(20):
            assert trail.append(Record(time.time(), "view", "GET /"), flushed)
        trail.close()

    threads = [
        threading.Thread(target=write, args=(trail, flushed))
        for trail in (box.trail, other)
        for flushed in (True, False)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (box.verify().records, box.verify().faults) == (80, [])


def test_on_a_full_disk_records_wait_and_the_gap_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with small_disk(tmp_path / "disk", "4m") as folder:
        box = Box(folder)
        filler = folder / "filler"
        with filler.open("wb", buffering=0) as file:
            try:
                while file.write(b"x" * 4096):
                    pass
            except OSError:
                pass
        written = [box.trail.append(Record(time.time(), "act", "POST /x", detail="d" * 3000)) for _ in range(20)]
        assert not written[-1], "the disk is full"
        assert "no room left" in box.trail.problem
        assert "wait to be written" in caplog.text
        assert not box.trail.check()
        filler.unlink()
        assert box.trail.check()
        assert box.trail.problem == ""
        outcome = box.verify()
        assert outcome.faults == []
        assert outcome.records == 6 + 20 + 1
        store = AuditStore(box.path, read_only=True)
        last = decode(store.latest(1)[0]["content"])
        store.close()
        assert last.event == "gap"
        assert "written late and 0 are lost" in last.detail
        box.trail.close()


def test_an_act_that_fails_is_recorded_as_such(box: Box) -> None:
    with pytest.raises(SpoolError), recorded(box.trail, event="command", action="x"):
        raise SpoolError("no such thing")
    store = AuditStore(box.path, read_only=True)
    last = decode(store.latest(1)[0]["content"])
    store.close()
    assert (last.failed, last.detail) == (True, "no such thing")


# --- retention ----------------------------------------------------------------------------------------------------


def given_up(box: Box, number: int) -> None:
    """As retention does it with the device's key."""
    store = AuditStore(box.path, read_only=True)
    (row,) = store.records(number - 1, 1)
    store.close()
    box.trail.give_up(number, digest(number, row["previous"], row["content"]))


@settings(deadline=None, max_examples=40)
@given(cuts=st.lists(st.integers(1, 10), max_size=4, unique=True), more=st.integers(0, 3))
def test_what_retention_leaves_is_proven(cuts: list[int], more: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever is removed and appended in turns: the rest is whole, and without its newest record it is not."""
    box, gone, count = Box(tmp_path_factory.mktemp("trail"), 12), 0, 12
    for cut in sorted(cuts):
        given_up(box, cut)
        for number in range(more):
            box.trail.append(Record(2000.0 + number, "view", "GET /"))
        gone, count = cut, count + 1 + more
    outcome = box.verify()
    assert (outcome.faults, outcome.removed, outcome.first, outcome.records) == ([], gone, gone + 1, count)
    box.tamper(f"DELETE FROM record WHERE number = {count}")
    assert box.verify().faults


def test_only_what_the_anchor_covers_can_be_removed(box: Box) -> None:
    given_up(box, 3)
    box.trail.close()
    with closing(sqlite3.connect(box.path)) as connection:
        assert [number for (number,) in connection.execute("SELECT number FROM record")] == [4, 5, 6, 7]
        with pytest.raises(sqlite3.IntegrityError, match="never changed"):
            connection.execute("DELETE FROM record WHERE number = 4")


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (["DELETE FROM record WHERE number = 4"], "record 4 is missing"),
        (["UPDATE anchor SET number = 4", "DELETE FROM record WHERE number = 4"], "what was removed is not signed"),
        (["UPDATE anchor SET number = 4, digest = (SELECT previous FROM record WHERE number = 5)",
          "DELETE FROM record WHERE number = 4"], "what was removed is not signed"),
        (["UPDATE anchor SET digest = 'x'"], "the chain breaks at record 4"),
        (["UPDATE anchor SET signature = (SELECT signature FROM head)"], "what was removed is not signed"),
        (["DELETE FROM anchor"], "records 1 to 3 are missing"),
        (["UPDATE anchor SET number = 2"], "record 3 is missing"),
        (["UPDATE record SET content = replace(content, 'up to 3', 'up to 2') WHERE number = 7"], "7, is not what"),
    ],
)  # fmt: skip
def test_a_removal_by_anybody_else_is_found(box: Box, statements: list[str], said: str) -> None:
    given_up(box, 3)
    assert box.verify().faults == []
    box.tamper(*statements)
    assert any(said in fault for fault in box.verify().faults), box.verify().faults


def test_an_anchor_that_no_record_tells_of_is_found(box: Box) -> None:
    """The key was used past the trail."""
    given_up(box, 3)
    store = AuditStore(box.path)
    (row,) = store.records(3, 1)
    key, _ = signature.load_or_create_private_key(box.key)
    last = digest(4, row["previous"], row["content"])
    store.set_anchor(4, last, signature.sign(key, anchored(4, last)))
    store.close()
    assert box.verify().faults == ["no record says that those up to 4 were removed"]


def test_exports_prove_what_was_removed_as_far_as_they_go_back(box: Box) -> None:
    first, second = box.folder / "first.jsonl", box.folder / "second.jsonl"
    noted = Trail(box.path, box.key).head()
    store = AuditStore(box.path)
    assert audit_export.write(store, first) == (1, 6)
    given_up(box, 4)
    for number in range(3):
        box.trail.append(Record(3000.0 + number, "view", "GET /"))
    assert audit_export.write(store, second) == (5, 10)
    given_up(box, 9)
    assert noted is not None
    assert box.verify().first == 10
    whole = box.verify(noted, exports=[second, first])
    assert (whole.faults, whole.first, whole.first_at, whole.removed, whole.records) == ([], 1, 1000.0, 9, 11)
    assert box.verify(noted).faults == [
        "record 6, which was noted elsewhere, was removed since: its export must prove it"
    ]
    assert box.verify(exports=[first]).faults == ["first.jsonl proves nothing without the export that has record 7"]
    with pytest.raises(ApplianceError, match="is there already"):
        audit_export.write(store, first)
    store.close()
    changed = first.read_text().replace("image 2", "image 9")
    first.write_text(changed)
    assert any("record 3 is not what it was" in each for each in box.verify(exports=[second, first]).faults)
    other = Box(box.folder / "other")
    foreign = box.folder / "foreign.jsonl"
    other.trail.append(Record(1.0, "view", "GET /"))
    store = AuditStore(other.path)
    audit_export.write(store, foreign)
    store.close()
    assert box.verify(exports=[second, foreign]).faults == ["foreign.jsonl: record 7 is not the one of this trail"]


def test_what_is_nowhere_else_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    box = Box(tmp_path)
    box.trail.append(Record(time.time(), "view", "GET /"))
    config = Config(data_dir=str(tmp_path), audit=Audit(keep_days=1.0))
    assert audit_retention.remove(config, box.trail).count == 0
    assert "no export has them" in caplog.text
    store = AuditStore(box.path)
    store.set_elsewhere("file", 4)
    assert audit_retention.remove(config, box.trail).last == 4
    store.set_elsewhere("file", 8)
    assert audit_retention.remove(config, box.trail).last == 6, "the seventh is new"
    assert audit_retention.remove(config, box.trail).count == 0
    outcome = box.verify()
    assert (outcome.faults, outcome.removed, outcome.records) == ([], 6, 9)
    syslog = msgspec.structs.replace(config, audit=Audit(keep_days=1e-9, syslog=Syslog(host="audit.example")))
    assert audit_retention.due(syslog).count == 0, "with a collector, a file is not enough"
    store.set_elsewhere("collector", 8)
    assert audit_retention.due(syslog).last == 8
    store.close()


def test_a_broken_chain_is_evidence_and_stays(box: Box) -> None:
    config = Config(data_dir=str(box.folder), audit=Audit(keep_days=1.0))
    box.tamper("UPDATE record SET content = replace(content, 'image 2', 'image 9') WHERE number = 3",
               "INSERT INTO elsewhere VALUES ('file', 6)")  # fmt: skip
    with pytest.raises(ApplianceError, match="broken at record 4, and nothing is removed"):
        audit_retention.remove(config, box.trail)


def test_appending_and_removing_meanwhile_disturbs_no_proof(tmp_path: Path) -> None:
    box, other, stop = Box(tmp_path, 600), Trail(tmp_path / "audit.sqlite3", tmp_path / "keys" / "device.pem"), []

    def write() -> None:
        cut = 0
        while not stop:
            other.append(Record(time.time(), "view", "GET /"), flushed=False)
            cut += 5
            given_up(box, cut)
        other.close()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        faults = [fault for _ in range(30) for fault in box.verify().faults]
    finally:
        stop.append(True)
        thread.join()
    assert faults == []
    assert box.verify().removed > 0


# --- the command line ---------------------------------------------------------------------------------------------


@pytest.fixture
def call(tmp_path: Path) -> Callable[..., Result]:
    store = Store(tmp_path / "ledger.sqlite3")
    store.receive(Arrival("1.2.3", "1.2", "d" * 64, "f", 1, "storage_scp", "X"))
    store.claim("w", 30)
    store.triage(
        1, "w", {"patient_name": "SECRET^JANE", "patient_id": "P-1", "study_instance_uid": "1.2"}, "routine", 0.0
    )
    store.quarantine(1, "w", "too deep")
    store.close()

    def run(*arguments: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(main, [*arguments, "--data", str(tmp_path)], input=stdin, catch_exceptions=False)

    return run


def test_commands_that_change_something_are_recorded_with_who_called_them(call: Callable[..., Result]) -> None:
    add = ("accounts", "add", "anna", "--role", "administrator", "--password-stdin")
    assert call(*add, stdin="a long password\n").exit_code == 0
    call("tokens", "add", "prometheus", "--scope", "see")
    call("quarantine", "review", "1")
    call("quarantine", "retry", "1")
    assert call("quarantine", "retry", "1").exit_code == 1
    call("retention")
    call("deliveries", "retry", "--all")
    call("ledger", "export")
    shown = json.loads(call("audit", "show", "--json").stdout)
    said = [(each["action"], each.get("target"), bool(each.get("failed"))) for each in shown]
    assert said == [
        ("add_account", "account anna", False), ("add_token", "token prometheus", False),
        ("quarantine review", "image 1", False), ("quarantine retry", "image 1", False),
        ("quarantine retry", "image 1", True), ("retention", None, False), ("deliveries retry", "all", False),
        ("ledger export", None, False),
    ]  # fmt: skip
    assert all(each["person"] and each["how"] == "shell" for each in shown)
    again = json.loads(call("audit", "show", "--json", "--target", "image 1").stdout)
    assert [each["action"] for each in again] == ["quarantine review", "quarantine retry", "quarantine retry"]
    assert json.loads(call("audit", "show", "--json").stdout)[-1]["event"] == "used", "looking at the trail is recorded"
    for text in ("SECRET", "P-1", "a long password"):
        assert text not in call("audit", "export").stdout


def test_verify_says_where_the_chain_breaks_by_its_exit_code(call: Callable[..., Result], tmp_path: Path) -> None:
    assert call("audit", "verify").exit_code == 1, "there is no trail yet"
    call("quarantine", "review", "1")
    call("retention")
    assert "no fault" in call("audit", "verify").stdout
    head = tmp_path / "head.json"
    head.write_text(call("audit", "head").stdout)
    assert call("audit", "verify", "--head", str(head)).exit_code == 0
    connection = sqlite3.connect(tmp_path / "audit.sqlite3")
    connection.executescript("DROP TRIGGER record_removed; DELETE FROM record WHERE number = 2;")
    connection.close()
    broken = call("audit", "verify", "--head", str(head))
    assert broken.exit_code == 1
    assert "the end is cut off" in broken.stdout
    assert json.loads(call("audit", "verify", "--json").stdout)["faults"]


def test_a_trail_that_is_gone_is_missed(call: Callable[..., Result], tmp_path: Path) -> None:
    """The running appliance notes the head in the ledger."""
    call("retention")
    store, found = Store(tmp_path / "ledger.sqlite3"), json.loads(call("audit", "head").stdout)
    store.set_component(audit_proof.COMPONENT, {"head": found})
    store.close()
    assert call("audit", "verify").exit_code == 0
    for path in tmp_path.glob("audit.sqlite3*"):
        path.unlink()
    gone = call("audit", "verify")
    assert gone.exit_code == 1
    assert "it had 1 records" in gone.stderr
    call("retention")
    call("retention")
    assert "record 1 is not the one that was noted elsewhere" in call("audit", "verify").stdout


def test_pruning_by_the_command_line(call: Callable[..., Result], tmp_path: Path) -> None:
    settings_path, copy = tmp_path / "scanside.toml", tmp_path / "trail.jsonl"
    settings_path.write_text("[audit]\nkeep_days = 1e-9\n")
    for _ in range(3):
        call("retention")
    assert "every record stays" in call("audit", "prune").stderr
    configured = ("--config", str(settings_path))
    assert "no export has them" in call("audit", "prune", "--dry-run", *configured).stdout
    assert "name it with --to" in call("audit", "export", "--format", "chain").stderr
    assert "records 1 to 3 in" in call("audit", "export", "--format", "chain", "--to", str(copy)).stdout
    assert call("audit", "prune", "--dry-run", *configured).stdout.startswith("3 records would be removed, up to 3")
    assert call("audit", "prune", *configured).stdout.startswith("3 records were removed, up to 3")
    proven = call("audit", "verify")
    assert (proven.exit_code, "records up to 3 were removed" in proven.stdout) == (0, True)
    whole = json.loads(call("audit", "verify", "--export", str(copy), "--json").stdout)
    assert (whole["faults"], whole["first"], whole["removed"]) == ([], 1, 3)
    said = [each["action"] for each in json.loads(call("audit", "show", "--json").stdout)]
    assert said == ["audit export chain", "audit retention", "audit prune"]
    connection = sqlite3.connect(tmp_path / "audit.sqlite3")
    connection.executescript("DROP TRIGGER record_removed; DELETE FROM record WHERE number = 4;")
    connection.close()
    assert "record 4 is missing" in call("audit", "verify").stdout
    assert "nothing is removed" in call("audit", "prune", *configured).stderr
