"""What has landed is found again: after a kill and after a power cut, between any two lines of its way."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import io
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from appliance import budget, file_head, landing, takeover
from appliance.config import Config, DropFolder, StorageScp
from appliance.custody import Custody
from appliance.errors import DiskFullError, SpoolError
from appliance.file_head import Heads
from appliance.ingest import Intake
from appliance.landing import Landing, recover
from appliance.recount import recount
from appliance.run import Appliance
from appliance.spool import LANDING, Spool, SpooledFile, file_name
from appliance.store import Admission, Arrival, Store
from tests.appliance.conftest import Box, take
from tests.peers import small_disk, wait_until

# SOP Instance UID -> data sets as they are sent one after another; the last one is a duplicate, the one before it
# another image under the UID of the first.
SENT = [("1.1", b"first" * 9000), ("1.2", b"second" * 100), ("1.1", b"other" * 100), ("1.1", b"first" * 9000)]
TRACED = ("landing.py", "spool.py", "group_commit.py", "database.py", "__init__.py")


def heads() -> Heads:
    return Heads("storage_scp", "CT1 at 192.0.2.7", "CT1", "transfer")


def land(intake: Intake, uid: str, data_set: bytes, heads: Heads) -> Admission:
    """As the Storage SCP does."""
    incoming = intake.land(heads.make(CTImageStorage, uid, ExplicitVRLittleEndian, "stat"))
    half = len(data_set) // 2
    incoming.write(data_set[:half])
    incoming.write(memoryview(data_set)[half:])
    return intake.admit(
        incoming.keep(),
        sop_instance_uid=uid,
        sop_class_uid=CTImageStorage,
        source="storage_scp",
        sender="CT1 at 192.0.2.7",
        ae_title="CT1",
        priority="stat",
        transfer_id="transfer",
    )


def receive(data: Path, acknowledged: list[bytes]) -> None:
    """A whole life of the receiving side."""
    store, spool = Store(data / "ledger.sqlite3"), Spool(data / "spool", reserve=0)
    intake, made = Intake(spool, store, lambda: None), heads()
    for uid, data_set in SENT:
        land(intake, uid, data_set, made)
        acknowledged.append(data_set)
    intake.settle()
    store.close()


def check_finals(data: Path) -> None:
    """Nothing partial stands under a final name."""
    for path in (data / "spool").glob("??/*.dcm"):
        arrival = file_head.read(path)
        assert arrival is not None, path
        assert arrival.file == f"{path.parent.name}/{path.name}"


def check_recovered(data: Path, acknowledged: list[bytes]) -> None:
    """What a new start finds: everything that was acknowledged, once each, and a ledger whose proof comes out."""
    check_finals(data)
    spool = Spool(data / "spool", reserve=0)
    for _ in range(2):  # the second one has nothing to do
        store = Store(data / "ledger.sqlite3")
        recover(spool, store)
        rows = {row["digest"]: row for row in store.worklist()}
        store.close()
        assert not list((data / "spool" / LANDING).glob("*"))
        check_finals(data)
    digests = [hashlib.sha256(data_set).hexdigest() for _, data_set in SENT[:3]]
    assert {hashlib.sha256(data_set).hexdigest() for data_set in acknowledged} <= set(rows) <= set(digests)
    first, second, other = map(rows.get, digests)
    assert all(row["state"] == "received" and row["priority"] == "stat" for row in (first, second) if row)
    assert other is None or other["state"] == "quarantined"
    config = Config(data_dir=str(data))
    custody = Custody(config.ledger_path)
    assert recount(config, custody, full=True).faults == []
    assert sum(1 for _ in custody.spooled()) == len(list((data / "spool").glob("??/*.dcm")))
    custody.close()


@contextlib.contextmanager
def at_each_line(do: Callable[[], None]) -> Iterator[None]:
    """Call ``do`` before each line of the way that files take, on whichever thread."""
    busy = threading.local()
    folder = Path(landing.__file__).parent

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        path = Path(frame.f_code.co_filename)
        if path.name not in TRACED or path.parent not in (folder, folder / "ingest"):
            return None
        if event == "line" and not getattr(busy, "now", False):
            busy.now = True
            do()
            busy.now = False
        return trace

    before = sys.gettrace()
    threading.settrace(trace)
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
        threading.settrace(before)  # type: ignore[arg-type]


def test_a_kill_between_any_two_lines_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kill leaves is what the folder holds at that moment, whether on the disk or not."""
    monkeypatch.setattr(landing, "_SLOTS", 3)
    monkeypatch.setattr(landing, "_SETTLE_SECONDS", 60.0)  # at the end, in one piece
    data, left = tmp_path / "data", tmp_path / "left"
    data.mkdir()
    acknowledged: list[bytes] = []
    seen: set[Any] = set()

    def kill() -> None:
        state = len(acknowledged), *sorted((str(p), (s := p.stat()).st_size, s.st_nlink) for p in data.rglob("*"))
        if state in seen:
            return
        seen.add(state)
        subprocess.run(["cp", "-a", data, left], check=True)
        copies.append((left.rename(tmp_path / f"left-{len(copies)}"), list(acknowledged)))

    copies: list[tuple[Path, list[bytes]]] = []
    with at_each_line(kill):
        receive(data, acknowledged)
    assert len(copies) > 30
    for copy, so_far in copies:
        check_recovered(copy, so_far)
    check_recovered(data, [data_set for _, data_set in SENT])


def test_a_power_cut_between_any_two_lines_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it leaves is what has gone to the device: a file system of its own, copied as it lies there."""
    monkeypatch.setattr(landing, "_SLOTS", 3)
    monkeypatch.setattr(landing, "_SETTLE_SECONDS", 60.0)
    image, mounted = tmp_path / "disk.img", tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(10 << 20)
    acknowledged: list[bytes] = []
    cuts: dict[str, tuple[Path, list[bytes]]] = {}

    def cut() -> None:
        state = hashlib.sha256(image.read_bytes()).hexdigest()
        copy = cuts[state][0] if state in cuts else tmp_path / f"cut-{len(cuts)}.img"
        if state not in cuts:
            shutil.copyfile(image, copy)
        cuts[state] = copy, list(acknowledged)  # the most that was promised while the device held this

    with disk_of_its_own(image, mounted, make=True):
        Spool(mounted / "data" / "spool").make_folders()  # which happens at the start of the appliance
        Store(mounted / "data" / "ledger.sqlite3").close()
        subprocess.run(["sync", "-f", mounted], check=True)
        with at_each_line(cut):
            receive(mounted / "data", acknowledged)
    assert len(cuts) >= len(SENT) + 2
    lost = 0
    for copy, so_far in cuts.values():
        with disk_of_its_own(copy, mounted):
            store = Store(mounted / "data" / "ledger.sqlite3")
            lost += len(store.worklist()) < len(set(so_far))
            store.close()
            check_recovered(mounted / "data", so_far)
    assert lost, "no cut has taken a row, so that nothing was shown"


@contextlib.contextmanager
def disk_of_its_own(image: Path, folder: Path, make: bool = False) -> Iterator[None]:
    """An ext4 file system in a file; skips where this user may not mount one."""
    folder.mkdir(exist_ok=True)
    if make and (shutil.which("mkfs.ext4") is None or subprocess.run(["mkfs.ext4", "-q", image]).returncode):
        pytest.skip("there is no mkfs.ext4")
    # It writes nothing by itself while the image is copied.
    command = ["mount", "-o", "loop,commit=300", str(image), str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a file can't be mounted here (that takes root)")
    try:
        yield
    finally:
        gc.collect()  # frames that were traced hold connections of threads that have ended
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    box = Box(tmp_path_factory.mktemp("whole"))
    land(box.intake, "1.2.3", b"data set" * 20, heads())
    box.intake.settle()
    (row,) = box.rows()
    return box.spool.path(row["file"]).read_bytes()


def test_a_file_says_what_its_row_says(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(whole)
    arrival = file_head.read(path)
    assert arrival is not None
    assert (arrival.sop_instance_uid, arrival.sop_class_uid) == ("1.2.3", CTImageStorage)
    assert (arrival.ae_title, arrival.priority, arrival.transfer_id) == ("CT1", "stat", "transfer")
    assert (arrival.digest, arrival.size) == (hashlib.sha256(b"data set" * 20).hexdigest(), len(whole))


@pytest.mark.parametrize("count", [1, 1200])
def test_a_data_set_that_begins_like_a_head_is_none(count: int, box: Box) -> None:
    """Senders that put the file meta information, or one of their own making, into what they send."""
    private = b"\x02\0\x02\x01OB\0\0\x28\0\0\0" + bytes(40)
    data_set = private * count + b"\x08\0\x05\0CS\0\0"
    land(box.intake, "1.1", data_set, heads())
    (slot,) = (path for path in (box.spool.root / LANDING).iterdir() if path.stat().st_size)
    arrival = file_head.read(slot)
    assert arrival is not None
    assert arrival.digest == hashlib.sha256(data_set).hexdigest()
    box.intake.settle()
    assert file_head.has_digest(box.spool.path(arrival.file), arrival.digest)


@given(at=st.floats(0, 1, exclude_max=True), value=st.integers(1, 255))
@settings(max_examples=100, deadline=None)
def test_what_is_cut_off_or_damaged_is_not_whole(
    at: float, value: int, whole: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "cut"
    place = int(at * len(whole))
    path.write_bytes(whole[:place])
    assert file_head.read(path) is None
    path.write_bytes(whole[:place] + bytes(len(whole) - place))  # as a power cut may leave it
    assert file_head.read(path) is None or not any(whole[place:])
    # Of the head not every byte says what the row says; those of the data set are all proved.
    place = len(whole) - 1 - int(at * 160)
    path.write_bytes(whole[:place] + bytes([whole[place] ^ value]) + whole[place + 1 :])
    assert file_head.read(path) is None


def test_what_is_not_whole_goes_and_what_retention_has_removed_stays_away(box: Box) -> None:
    land(box.intake, "1.1", b"kept" * 50, heads())
    land(box.intake, "1.2", b"removed" * 50, heads())
    folder = box.spool.root / LANDING
    slots = [path for path in folder.iterdir() if path.stat().st_size]
    for path in slots:
        shutil.copyfile(path, folder / f"again-{path.name}")
    box.intake.settle()
    (folder / "half").write_bytes(box.spool.path(box.rows()[0]["file"]).read_bytes()[:-1])
    box.store._connection().execute("UPDATE instance SET image_removed_at = 1 WHERE id = 2")
    removed = box.spool.path(box.rows()[1]["file"])
    removed.unlink()
    assert recover(box.spool, box.store) == 2
    assert list(folder.iterdir()) == []
    assert not removed.exists()
    assert [row["copies"] for row in box.rows()] == [1, 1]


def test_a_file_that_is_missing_under_its_final_name_comes_back_when_it_is_sent_again(box: Box) -> None:
    land(box.intake, "1.1", b"data set", heads())
    box.intake.settle()
    path = box.spool.path(file_name(hashlib.sha256(b"data set").hexdigest()))
    path.unlink()
    assert land(box.intake, "1.1", b"data set", heads()).outcome == "duplicate"
    box.intake.settle()
    assert path.exists()


@pytest.mark.parametrize("way", ["landed", "put"])
def test_what_was_turned_away_under_a_wrong_transfer_syntax_comes_again_under_the_right_one(way: str, box: Box) -> None:
    def again() -> Admission:
        if way == "landed":
            return land(box.intake, "1.1", b"data set", heads())
        head = heads().make(CTImageStorage, "1.1", ExplicitVRLittleEndian, "stat").content
        return take(
            box.intake,
            head,
            b"data set",
            sop_instance_uid="1.1",
            sop_class_uid=CTImageStorage,
            source="stow",
            sender="me",
        )

    wrong = heads().make(CTImageStorage, "1.1", ImplicitVRLittleEndian, "stat").content
    take(
        box.intake, wrong, b"data set", sop_instance_uid="1.1", sop_class_uid=CTImageStorage, source="stow", sender="me"
    )
    path = box.spool.path(box.rows()[0]["file"])
    assert again().outcome == "duplicate"
    assert path.read_bytes().startswith(wrong)  # it waits to be read
    box.store.claim("me", 30)
    box.store.reject(1, "me", "Its header is damaged.")
    assert again().outcome == "new"
    box.intake.settle()
    assert budget.transfer_syntax(io.BytesIO(path.read_bytes())) == ExplicitVRLittleEndian.encode()
    (row,) = box.rows()
    assert (row["state"], row["size"]) == ("received", path.stat().st_size)


@pytest.mark.parametrize("cut", [True, False])
def test_what_came_again_and_was_lost_by_a_power_cut_is_read_after_it(cut: bool, box: Box) -> None:
    def turn_away() -> None:
        box.store.claim("me", 30)
        box.store.reject(1, "me", "No package reads it.")

    land(box.intake, "1.1", b"data set", heads())
    box.intake.settle()
    turn_away()
    (ended,) = box.rows()
    land(box.intake, "1.1", b"data set", heads())
    if cut:
        sql = "UPDATE instance SET state = :state, reason = :reason, finished_at = :finished_at"
        box.store._connection().execute(sql, {key: ended[key] for key in ("state", "reason", "finished_at")})
    else:
        turn_away()  # it has been read since, and is not again
    assert recover(box.spool, box.store) == 1
    assert box.rows()[0]["state"] == ("received" if cut else "rejected")


@pytest.mark.parametrize("rotten", [b"", b"another", b"dXta set" * 100])
def test_a_file_that_was_damaged_is_made_good_when_it_is_sent_again(rotten: bytes, box: Box) -> None:
    for again in (b"landed", b"put"):
        data_set = again * 100
        land(box.intake, f"1.{len(again)}", data_set, heads())
        box.intake.settle()
        path = box.spool.path(file_name(hashlib.sha256(data_set).hexdigest()))
        path.write_bytes(rotten)
        if again == b"landed":
            land(box.intake, "1.6", data_set, heads())
        else:
            take(box.intake, b"head", data_set, sop_instance_uid="1.3", sop_class_uid="1.2", source="stow", sender="me")
        box.intake.settle()
        assert path.read_bytes().endswith(data_set)
        assert box.rows()[-1]["size"] == path.stat().st_size


def test_what_took_the_place_of_a_damaged_file_outlives_a_power_cut(box: Box) -> None:
    """Which takes back what was done to folders and ledger since, but not the slot."""
    land(box.intake, "1.1", b"data set", heads())
    box.intake.settle()
    path = box.spool.path(file_name(hashlib.sha256(b"data set").hexdigest()))
    rotten = path.with_name("rotten")
    rotten.write_bytes(b"rotten")
    rotten.replace(path)
    land(box.intake, "1.1", b"data set", Heads("storage_scp", "ANOTHER at 192.0.2.7", "ANOTHER", "transfer"))
    rotten.write_bytes(b"rotten")
    rotten.replace(path)
    box.store.note_size(path.stem, 7)
    recover(box.spool, box.store)
    assert path.read_bytes().endswith(b"data set")
    assert box.rows()[0]["size"] == path.stat().st_size


def test_a_landing_folder_that_is_removed_costs_one_sender_its_image_and_no_more(box: Box) -> None:
    land(box.intake, "1.1", b"first", heads())
    box.intake.settle()
    land(box.intake, "1.2", b"second", heads())
    shutil.rmtree(box.spool.root / LANDING)
    with pytest.raises(SpoolError, match="can't be written"):
        land(box.intake, "1.3", b"third", heads())
    land(box.intake, "1.3", b"third", heads())
    box.intake.settle()


def test_slots_stay_while_the_ledger_can_not_be_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landing, "_SETTLE_SECONDS", 0.05)
    spool, tries, fails = Spool(tmp_path, reserve=0), [], True

    def flush() -> None:
        tries.append(1)
        if fails:
            raise SpoolError("no")

    place = Landing(spool, flush, lambda _: False)
    file = _kept(place, b"data set")
    assert file.slot is not None
    place.committed(file.slot)
    wait_until(lambda: len(tries) > 2, "it is tried again")
    assert file.slot.exists()
    fails = False
    wait_until(lambda: not Path(str(file.slot)).exists(), "it is settled")
    assert spool.path(file.name).exists()
    place.stop()
    assert list((tmp_path / LANDING).iterdir()) == []


def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        place = Landing(Spool(disk, reserve=0), lambda: None, lambda _: False)
        with pytest.raises(DiskFullError):
            _kept(place, bytes(2 << 20))
        assert _kept(place, b"a small one").size < 10_000
        place.stop()
        assert sorted(path.suffix for path in disk.rglob("*") if path.is_file()) == [".dcm", ".writing"]


def test_a_row_that_finds_no_room_comes_with_the_next_start(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Admission:
        raise DiskFullError("no")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "receive", full)
        with pytest.raises(DiskFullError):
            land(box.intake, "1.1", b"data set", heads())
        with pytest.raises(DiskFullError):
            recover(box.spool, box.store)
    box.intake.settle()
    assert box.rows() == []
    assert recover(box.spool, box.store) == 1
    assert len(box.rows()) == 1


def _lost_by_a_power_cut(box: Box, count: int) -> list[Path]:
    """Final names of so many images of which only the slots are left."""
    for number in range(count):
        land(box.intake, f"1.{number}", b"data set %d" % number, heads())
    paths = [box.spool.path(row["file"]) for row in box.rows()]
    for path in paths:
        path.unlink()
    box.store.close()
    for suffix in ("", "-wal", "-shm"):
        Path(f"{box.store.path}{suffix}").unlink()
    return paths


def test_a_file_that_can_not_be_put_in_its_place_holds_up_no_other_and_is_named(tmp_path: Path) -> None:
    """A folder under its final name is to a program what a bad sector is: an error other than that it is there."""
    config = Config(data_dir=str(tmp_path), storage_scp=StorageScp(enabled=False))
    bad, *good = _lost_by_a_power_cut(Box(tmp_path), 4)
    bad.mkdir()
    store = takeover.ledger(config)
    (slot,) = (tmp_path / "spool" / LANDING).iterdir()
    assert sorted(row["file"] for row in store.worklist()) == sorted(f"{each.parent.name}/{each.name}" for each in good)
    assert all(path.exists() for path in good)
    os.utime(slot, (time.time() - 3600,) * 2)
    custody = Custody(config.ledger_path)
    (fault,) = recount(config, custody, full=True).faults
    assert fault.where == f"spool/{LANDING}/{slot.name}"
    bad.rmdir()
    assert recover(Spool(config.spool_path), store) == 1
    assert bad.exists()
    assert store.counts()["received"] == 4
    assert recount(config, custody, full=True).faults == []


def test_what_has_landed_is_taken_up_once_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(data_dir=str(tmp_path), storage_scp=StorageScp(enabled=False))
    _lost_by_a_power_cut(Box(tmp_path), 2)
    receive, tries = Store.receive, []

    def full_at_first(store: Store, arrival: Arrival) -> Admission:
        tries.append(arrival)
        if len(tries) < 4:
            raise DiskFullError("no")
        return receive(store, arrival)

    monkeypatch.setattr(Store, "receive", full_at_first)
    monkeypatch.setattr(takeover, "_ROOM_SECONDS", 0.01)
    assert takeover.ledger(config).counts()["received"] == 2
    assert list((tmp_path / "spool" / LANDING).iterdir()) == []


def test_the_appliance_looks_at_what_has_landed_before_anything_else(tmp_path: Path) -> None:
    config = Config(
        data_dir=str(tmp_path), storage_scp=StorageScp(enabled=False), drop_folder=DropFolder(enabled=False)
    )
    before = Box(tmp_path)
    land(before.intake, "1.1", b"data set", heads())  # and nothing more: the power goes
    before.store.path.unlink()
    (tmp_path / "ledger.sqlite3-wal").unlink()
    appliance = Appliance(config)
    (row,) = Store(config.ledger_path).worklist()
    appliance._shut_down()
    assert (row["state"], row["ae_title"]) == ("received", "CT1")
    with contextlib.closing(sqlite3.connect(config.ledger_path)) as ledger:
        assert ledger.execute("SELECT id, ending FROM transfer").fetchall() == [("transfer", "aborted")]


def _kept(place: Landing, data_set: bytes) -> SpooledFile:
    incoming = place.begin(heads().make(CTImageStorage, "1.1", ExplicitVRLittleEndian, "routine"))
    incoming.write(data_set)
    return incoming.keep()
