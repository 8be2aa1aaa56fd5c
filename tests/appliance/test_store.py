"""The ledger: one row and one final state for each instance, whatever happens in between."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from appliance import overview
from appliance.errors import DiskFullError, QuarantineError, SpoolError
from appliance.store import Arrival, LeaseLostError, Store, WrittenObject
from tests.peers import small_disk

RESULT: dict[str, Any] = {"findings": [], "warnings": [], "provenance": {}, "seconds": {}, "urgent": False}


def arrival(uid: str = "1.2.3", content: str = "a", sender: str = "SCANNER") -> Arrival:
    digest = hashlib.sha256(content.encode()).hexdigest()
    return Arrival(uid, "1.2.840.10008.5.1.4.1.1.1", digest, f"{digest[:2]}/{digest}.dcm", 10, "storage_scp", sender)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "ledger.sqlite3")


def claimed(store: Store, owner: str = "me") -> int:
    claim = store.claim(owner, 30)
    assert claim is not None
    return int(claim["id"])


def states(store: Store) -> list[str]:
    return [row["state"] for row in sorted(store.worklist(), key=lambda row: row["id"])]


def written(kind: str, uid: str) -> WrittenObject:
    return WrittenObject(kind, "1.2.840.10008.5.1.4.1.1.88.34", uid, f"1/{kind}.dcm")


def test_the_same_data_set_gets_one_row_even_under_another_uid(store: Store) -> None:
    first = store.receive(arrival())
    assert first.outcome == "new"
    assert store.receive(arrival(sender="ANOTHER")) == type(first)(first.instance_id, "duplicate")
    assert store.receive(arrival(uid="9.9")).outcome == "duplicate"
    (row,) = store.worklist()
    assert row["copies"] == 3
    assert [event["what"] for event in store.events(row["id"])] == ["received", "sent again", "sent again"]


def test_another_data_set_under_the_same_uid_is_quarantined(store: Store) -> None:
    store.receive(arrival())
    assert store.receive(arrival(content="b")).outcome == "conflict"
    assert states(store) == ["received", "quarantined"]
    assert "1.2.3" in store.worklist()[0]["reason"]
    assert store.receive(arrival(content="b")).outcome == "duplicate"


def test_another_data_set_that_was_called_by_another_uid_is_quarantined_once_its_own_is_read(store: Store) -> None:
    """A C-STORE request names the instance, and so does its data set; some senders don't agree with themselves."""
    for number, content in enumerate("ab"):
        store.receive(arrival(uid=f"9.{number}", content=content))
    header = {"sop_instance_uid": "1.2.3"}
    assert store.triage(claimed(store), "me", header, "routine", 0.0)
    with pytest.raises(QuarantineError, match=r"The SOP Instance UID 1\.2\.3 was received before with other content"):
        store.triage(claimed(store), "me", header, "routine", 0.0)


def test_what_was_turned_away_may_be_sent_again_whole(store: Store) -> None:
    store.receive(arrival(content="cut off"))
    store.reject(claimed(store), "me", "The file ends within its pixel data.")
    assert store.receive(arrival(content="whole")).outcome == "new"
    assert states(store) == ["rejected", "received"]


@pytest.mark.parametrize("end", ["reject", "fail"])
def test_what_was_rejected_or_has_failed_is_read_again_when_the_same_is_sent_again(store: Store, end: str) -> None:
    first = store.receive(arrival())
    identifier = claimed(store)
    store.triage(identifier, "me", {"modality": "CR"}, "routine", 300.0)
    getattr(store, end)(identifier, "me", "No model package is installed.")
    again = store.receive(arrival(sender="ANOTHER"))
    assert (again.instance_id, again.outcome) == (first.instance_id, "new")
    (row,) = store.worklist()
    assert (row["state"], row["reason"], row["finished_at"], row["triaged"]) == ("received", "", None, 0)
    assert (row["copies"], row["sender"]) == (2, "ANOTHER")
    assert row["due_at"] == row["received_at"]
    assert store.receive(arrival()).outcome == "duplicate"  # while it waits
    assert claimed(store) == identifier
    store.triage(identifier, "me", {}, "routine", 0.0)
    store.finish(identifier, "me", RESULT, [written("structured_report", "2.1")], [])
    assert store.receive(arrival()).outcome == "duplicate"
    assert states(store) == ["delivered"]
    happened = [event["what"] for event in store.events(identifier)]
    assert happened[4:7] == ["sent again", "retried", "sent again"]


def test_what_is_quarantined_is_not_read_again_because_it_is_sent_again(store: Store) -> None:
    store.receive(arrival())
    store.quarantine(claimed(store), "me", "It is nested too deep.")
    assert store.receive(arrival()).outcome == "duplicate"
    assert states(store) == ["quarantined"]


def test_what_was_turned_away_stays_so_where_another_has_its_uid_when_it_is_sent_again(store: Store) -> None:
    store.receive(arrival(content="cut off"))
    store.reject(claimed(store), "me", "The file ends within its pixel data.")
    store.receive(arrival(content="whole"))
    assert store.receive(arrival(content="cut off")).outcome == "duplicate"
    assert states(store) == ["rejected", "received"]


def test_what_came_whole_while_the_cut_one_of_its_uid_still_waited_is_read(store: Store) -> None:
    for content in "abc":
        store.receive(arrival(content=content))
    assert states(store) == ["received", "quarantined", "quarantined"]
    store.reject(claimed(store), "me", "It is cut off. Send it again.")
    assert states(store) == ["rejected", "quarantined", "received"]
    assert store.events(3)[-1]["detail"] == "since image 1, which had its UID, was turned away"
    assert claimed(store) == 3
    store.finish(3, "me", RESULT, [], [])
    assert states(store) == ["rejected", "quarantined", "delivered"]
    assert store.claim("me", 30) is None


def test_files_without_a_uid_do_not_conflict(store: Store) -> None:
    assert store.receive(arrival(uid="", content="a")).outcome == "new"
    assert store.receive(arrival(uid="", content="b")).outcome == "new"


def test_twins_that_arrive_at_once_get_one_row(store: Store) -> None:
    def receive(_: int) -> str:
        outcome = store.receive(arrival()).outcome
        store.close()
        return outcome

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(receive, range(40)))
    assert sorted(outcomes) == ["duplicate"] * 39 + ["new"]


def test_a_claim_is_nobody_elses_until_its_lease_runs_out(store: Store) -> None:
    store.receive(arrival())
    claim = store.claim("slow", 0.05)
    assert claim is not None
    assert store.claim("other", 30) is None
    assert store.leases("slow") == [(claim["id"], claim["lease_until"])]
    time.sleep(0.1)
    assert claimed(store, "other") == claim["id"]
    with pytest.raises(LeaseLostError):
        store.finish(claim["id"], "slow", RESULT, [], [])
    assert states(store) == ["claimed"]


def test_a_released_one_waits_and_says_why(store: Store) -> None:
    store.receive(arrival())
    identifier = claimed(store)
    store.release(identifier, "me", "Waiting: the disk is full", 3600)
    assert store.claim("me", 30) is None
    assert store.worklist()[0]["reason"] == "Waiting: the disk is full"


def test_what_stops_its_reader_twice_fails_and_the_others_go_on(store: Store) -> None:
    for number in range(2):
        store.receive(arrival(uid=f"1.{number}", content=f"{number}"))
    claimed(store)
    store.release_crashed("me")
    claimed(store)
    claimed(store)
    assert store.release_crashed("me") == 2
    first, second = sorted(store.worklist(), key=lambda row: row["id"])
    assert (first["state"], second["state"]) == ("quarantined", "received")
    assert "2 times" in first["reason"]
    assert store.events(second["id"])[-1]["detail"] == "its reader stopped"


def test_a_restart_gives_back_every_claim(store: Store) -> None:
    for number in range(3):
        store.receive(arrival(uid=f"1.{number}", content=f"{number}"))
        claimed(store, f"worker {number}")
    assert store.release_all("the appliance was restarted") == 3
    assert states(store) == ["received"] * 3


def test_what_is_held_is_looked_at_after_a_restart_and_no_clock_is_blamed_for_it(store: Store) -> None:
    store.receive(arrival())
    store.hold(claimed(store), "me", "Waiting: its package can't be served")
    assert store.claim("me", 60) is None
    store.release_all("the appliance was restarted")
    assert store.bring_forward(60, 60, 60, 60, 10) == 0
    assert store.claim("me", 60) is not None


def test_an_instance_is_delivered_once_nothing_of_it_waits(store: Store) -> None:
    store.receive(arrival())
    objects = [written("structured_report", "2.1"), written("secondary_capture", "2.2")]
    outbox = [("structured_report", "pacs"), ("secondary_capture", "pacs"), ("structured_report", "research")]
    store.finish(claimed(store), "me", RESULT, objects, outbox)
    assert states(store) == ["written"]
    first, second = store.due("pacs")
    store.sent(first["id"])
    store.retry([second["id"]], "can't be reached", time.time() + 3600)
    assert store.due("pacs") == []
    assert store.destinations()[0]["last_error"] == "can't be reached"
    store.sent(second["id"])
    assert states(store) == ["written"]
    (last,) = store.due("research")
    store.sent(last["id"])
    assert states(store) == ["delivered"]


def test_without_a_destination_a_result_is_delivered_at_once(store: Store) -> None:
    store.receive(arrival())
    store.finish(claimed(store), "me", RESULT, [written("structured_report", "2.1")], [])
    assert states(store) == ["delivered"]


def test_a_commit_is_on_disk_for_another_process_to_read(store: Store, tmp_path: Path) -> None:
    store.receive(arrival())
    other = Store(tmp_path / "ledger.sqlite3", read_only=True)
    assert other.counts()["received"] == 1
    with pytest.raises(SpoolError, match="readonly"):
        other.receive(arrival(uid="4", content="c"))
    other.close()


def test_a_ledger_that_is_damaged_is_said(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    path.write_bytes(b"no database" * 1000)
    for read_only in (False, True):
        with pytest.raises(SpoolError, match="is damaged: file is not a database"):
            Store(path, read_only).counts()


def test_a_ledger_that_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(SpoolError, match=r"none\.sqlite3"):
        Store(tmp_path / "none.sqlite3", read_only=True).counts()


def test_a_crash_is_counted_and_what_fails_after_two_is_quarantined(store: Store) -> None:
    for number in range(2):
        store.receive(arrival(uid=f"1.{number}", content=f"{number}"))
    first, second = claimed(store), claimed(store)
    assert store.count_crash(first, "me", "the inference process ended with signal 11") == 1
    assert store.count_crash(first, "me", "the inference process ended with signal 11") == 2
    store.quarantine(first, "me", "It stopped the process that reads images 2 times.")
    assert store.count_crash(second, "me", "the inference process ended with signal 9") == 1
    store.fail(second, "me", "No backend gave an answer.")
    rows = {row["id"]: row for row in store.worklist()}
    assert (rows[first]["state"], rows[second]["state"]) == ("quarantined", "failed")
    assert [event["what"] for event in store.events(first)][-3:] == ["crash", "crash", "quarantined"]
    assert store.events(first)[-2]["detail"] == "the inference process ended with signal 11"


def schema(path: Path) -> dict[str, Any]:
    connection = sqlite3.connect(path)
    tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    found: dict[str, Any] = {
        table: sorted(row[1:] for row in connection.execute(f"PRAGMA table_info({table})")) for table in tables
    }
    found["indexes"] = sorted(connection.execute("SELECT sql FROM sqlite_master WHERE type = 'index' AND sql <> ''"))
    triggers = connection.execute("SELECT sql FROM sqlite_master WHERE type = 'trigger'")
    found["triggers"] = sorted(triggers)
    found["version"] = connection.execute("PRAGMA user_version").fetchone()
    connection.close()
    return found


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5])
def test_an_older_ledger_is_brought_up_to_date_with_all_its_rows(version: int, store: Store, tmp_path: Path) -> None:
    old = tmp_path / "old.sqlite3"
    connection = sqlite3.connect(old)
    connection.executescript(Path(__file__).with_name(f"schema_{version}.sql").read_text())
    for number, state in enumerate(("delivered", "received", "claimed", "received", "rejected")):
        connection.execute(
            "INSERT INTO instance (sop_instance_uid, sop_class_uid, digest, file, size, source, sender, received_at, "
            "state, claimed_by) VALUES (?, '1.2', ?, 'x', 1, 'storage_scp', 'CT at 192.0.2.1', ?, ?, ?)",
            (f"1.{number}", f"{number}", 1000.0 - number, state, "worker-7" if state == "claimed" else None),
        )
    if version > 1:
        connection.execute("UPDATE instance SET due_at = received_at WHERE state IN ('received', 'claimed')")
    if version > 4:  # an urgent result comes first; earlier ledgers did not keep that place
        connection.execute("UPDATE instance SET reading_rank = 0 WHERE id = 1")
    columns = "instance_id, findings, warnings, provenance, seconds, urgent, made_at"
    connection.execute(f"INSERT INTO result ({columns}) VALUES (1, '[]', '[]', '{{}}', '{{}}', 1, 2000.0)")
    if version >= 5:
        connection.execute("UPDATE instance SET reading_rank = 0 WHERE id = 1")
    connection.commit()
    connection.close()
    migrated = Store(old)
    migrated.close()
    again = Store(old)
    assert schema(old) == schema(store.path)
    assert again.counts() == {
        "received": 2, "claimed": 1, "written": 0, "delivered": 1, "rejected": 1, "failed": 0,
        "quarantined": 0, "withheld": 0,
    }  # fmt: skip
    connection = sqlite3.connect(old)
    with connection, pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        connection.execute("UPDATE instance SET state = 'lost' WHERE id = 1")
    with connection:
        connection.execute("UPDATE instance SET state = 'withheld' WHERE id = 5")
        connection.execute("UPDATE instance SET state = 'rejected' WHERE id = 5")
    connection.close()
    assert again.release_all("the appliance was restarted") == 1
    assert [claimed(again) for _ in range(3)] == [4, 3, 2]  # by the time they were received
    assert all(row["priority"] == "routine" and not row["triaged"] for row in again.worklist())
    assert [row["id"] for row in again.worklist()] == [1, 5, 4, 3, 2]
    assert all(row["lead_id"] is None and not row["parked"] for row in again.worklist())
    again.close()


def test_an_older_ledger_that_is_only_read_is_said(tmp_path: Path) -> None:
    old = tmp_path / "old.sqlite3"
    connection = sqlite3.connect(old)
    connection.executescript(Path(__file__).with_name("schema_5.sql").read_text())
    connection.close()
    with pytest.raises(SpoolError, match=r"version 5.*version 6 only.*scanside run"):
        Store(old, read_only=True).counts()


def test_a_ledger_of_a_later_version_is_left_alone_and_said(store: Store) -> None:
    store.close()
    connection = sqlite3.connect(store.path)
    connection.execute("PRAGMA user_version = 9")
    connection.close()
    with pytest.raises(SpoolError, match=r"version 9.*run the Scanside that wrote it"):
        Store(store.path)


def test_the_claim_looks_at_open_instances_only(store: Store) -> None:
    """The plan, since a plan that reads every row shows only once there are a million of them."""
    store.receive(arrival())
    seen: list[str] = []
    connection = store._connection()
    connection.set_trace_callback(seen.append)
    identifier = claimed(store)
    store.triage(identifier, "me", {}, "stat", 0.0)
    connection.set_trace_callback(None)
    queries = list(dict.fromkeys(sql for sql in seen if "not_before" in sql))  # a trigger has its statement told again
    assert len(queries) == 2
    for sql in queries:
        steps = [row["detail"] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}")]
        reads = [step for step in steps if "instance" in step]
        assert reads, steps
        assert all("instance_queue" in step or "PRIMARY KEY" in step for step in reads), steps
        assert not any("TEMP B-TREE" in step for step in steps), steps


def test_the_worklist_is_never_sorted_as_a_whole(store: Store) -> None:
    connection = store._connection()
    for sql in (overview._READ_FIRST, overview._READ_LATER):
        plan = connection.execute(f"EXPLAIN QUERY PLAN {sql}", {"limit": 50, "offset": 0})
        steps = [row["detail"] for row in plan]
        assert not any("TEMP B-TREE" in step for step in steps), steps


def test_a_ledger_opens_where_not_a_byte_is_left(tmp_path: Path) -> None:
    """As after a crash: another process has it open, or its files are those of one that was killed."""
    with small_disk(tmp_path / "disk", "1m") as disk:
        first = Store(disk / "ledger.sqlite3")
        first.receive(arrival())
        with contextlib.suppress(OSError), (disk / "ballast").open("ab", buffering=0) as file:
            while file.write(bytes(512)):
                pass
        second = Store(disk / "ledger.sqlite3")
        assert second.counts()["received"] == 1
        with pytest.raises(DiskFullError):
            for number in range(1000):
                second.set_component("part", {"number": number})
        first.close()
        second.close()


def test_a_full_disk_is_said_and_leaves_the_ledger_as_it_was(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1500k") as disk:
        store = Store(disk / "ledger.sqlite3")
        store.receive(arrival())
        with pytest.raises(SpoolError) as caught:
            for number in range(2000):
                store.receive(arrival(uid=f"1.{number}", content=f"{number}", sender="x" * 500))
        known = store.counts()["received"]
        store.close()
        assert isinstance(caught.value, DiskFullError), caught.value
        checked = sqlite3.connect(disk / "ledger.sqlite3")
        assert checked.execute("SELECT count(*) FROM instance").fetchone()[0] == known
        assert checked.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        checked.close()


def test_the_latest_receipt_of_each_backend_and_package(tmp_path: Path) -> None:
    store = Store(tmp_path / "ledger.sqlite3")
    for age in range(3):
        for number in range(12):
            content = json.dumps({"package_sha256": f"{number % 4}", "backend": f"{number // 4}", "age": age})
            store.add_receipt(f"{age}-{number}", content, "")
    assert {row["id"] for row in store.receipts()} == {f"2-{number}" for number in range(12)}


def test_what_a_worker_holds_is_given_back_without_blame(tmp_path: Path) -> None:
    store = Store(tmp_path / "ledger.sqlite3")
    store.receive(Arrival("1.2.3", "1.2", "d", "f", 1, "storage_scp", "X"))
    assert store.claim("worker-1", 30.0)
    assert store.release_held("worker-2", "no") == 0
    assert store.release_held("worker-1", "the disk was full") == 1
    (row,) = store.worklist()
    assert (row["state"], row["crashes"]) == ("received", 0)
    claim = store.claim("worker-1", 30.0)
    assert claim is not None
    assert [store.count_crash(claim["id"], "worker-1", "it fell") for _ in range(2)] == [1, 2]
    with pytest.raises(LeaseLostError):
        store.count_crash(claim["id"], "worker-2", "it fell")
