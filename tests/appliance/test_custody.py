"""What the ledger keeps and lets go: quarantine, reviews, retention, its proof, its export; and a disk that is full."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import sqlite3
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance import audit_proof, housekeeping, problems, recount, retention
from appliance.audit import Record, Trail
from appliance.audit_store import AuditStore
from appliance.config import Audit, Box, Config, Retention
from appliance.custody import Custody
from appliance.errors import ApplianceError, DiskFullError, SpoolError
from appliance.health import health
from appliance.ingest import Intake
from appliance.ledger_export import export
from appliance.machine import Clock
from appliance.spool import Spool, write_durably
from appliance.store import Store, WrittenObject
from tests.appliance.conftest import put, take
from tests.dicom_files import make_radiograph
from tests.peers import small_disk, wait_until
from tests.running import scanside

RESULT: dict[str, Any] = {"findings": [], "warnings": [], "provenance": {}, "seconds": {}, "urgent": False}


class Site:
    """A data folder with a spool, a ledger and results, as an appliance leaves it."""

    def __init__(self, data: Path, **settings: Any) -> None:
        self.config = Config(data_dir=str(data), retention=Retention(**settings))
        self.spool = Spool(self.config.spool_path, reserve=0)
        self.store = Store(self.config.ledger_path)
        self.custody = Custody(self.config.ledger_path)
        self.intake = Intake(self.spool, self.store, lambda: None)

    def take(self, number: int, source: Path | None = None, transfer_id: str = "") -> int:
        whole = source.read_bytes() if source else b""
        start = whole.index(b"\x08\0\x05\0CS") if source else 0
        head, body = (whole[:start], whole[start:]) if source else (b"", f"image {number}".encode())
        return take(
            self.intake, head, body, sop_instance_uid=f"1.2.3.4.{number}", sop_class_uid="1.2", source="storage_scp",
            sender="JANE", transfer_id=transfer_id,
        ).instance_id  # fmt: skip

    def read(
        self, number: int, end: str = "delivered", sent: bool = True, age: float = 0.0, source: Path | None = None
    ) -> int:
        """An image that has come to an end, so many seconds ago."""
        identifier = self.take(number, source)
        claim = self.store.claim("me", 30)
        assert claim is not None
        assert claim["id"] == identifier
        self.store.triage(identifier, "me", {"patient_name": "DOE^JANE", "modality": "CR"}, "routine", 0.0)
        if end in ("delivered", "written"):
            name, content = f"{identifier:08d}/structured_report.dcm", b"report"
            write_durably(self.config.results_path / name, content)
            write_durably(self.config.previews_path / str(identifier) / "image.png", b"picture")
            written = WrittenObject(
                "structured_report", "1.2", f"9.{number}", name, hashlib.sha256(content).hexdigest()
            )
            outbox = [("structured_report", "pacs")] if sent or end == "written" else []
            self.store.finish(identifier, "me", RESULT, [written], outbox)
            if end == "delivered" and sent:
                for item in self.store.due("pacs"):
                    if item["instance_id"] == identifier:
                        self.store.sent(item["id"])
        else:
            getattr(self.store, {"rejected": "reject", "failed": "fail", "quarantined": "quarantine"}[end])(
                identifier, "me", f"It broke 1.2.840.113.5.{number}."
            )
        connection = sqlite3.connect(self.config.ledger_path)
        with connection:
            connection.execute("UPDATE instance SET finished_at = finished_at - ? WHERE id = ?", (age, identifier))
        connection.close()
        return identifier

    def faults(self, full: bool = True) -> list[str]:
        return [f"{each.where}: {each.what}" for each in recount.recount(self.config, self.custody, full).faults]

    def close(self) -> None:
        self.store.close()
        self.custody.close()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "box", images_days=30, results_days=60)


ENDS = ("delivered", "written", "rejected", "failed", "quarantined")


# --- quarantine ---------------------------------------------------------------------------------------------------


def test_a_quarantined_image_is_read_again_when_somebody_says_so(site: Site) -> None:
    identifier = site.read(1, "quarantined")
    (row,) = site.custody.quarantined()
    assert (row["id"], row["reason"]) == (identifier, "It broke 1.2.840.113.5.1.")
    site.custody.retry(identifier)
    assert site.custody.quarantined() == []
    claim = site.store.claim("me", 30)
    assert claim is not None
    assert claim["id"] == identifier
    assert "retried" in [event["what"] for event in site.store.events(identifier)]
    with pytest.raises(ApplianceError, match="was not turned away: it is claimed"):
        site.custody.retry(identifier)
    with pytest.raises(ApplianceError, match="no image number 99"):
        site.custody.retry(99)


@pytest.mark.parametrize("end", ["rejected", "failed"])
def test_what_was_rejected_or_has_failed_is_read_again_when_somebody_says_so(site: Site, end: str) -> None:
    identifier = site.read(1, end)
    site.custody.retry(identifier)
    assert site.store.counts()["received"] == 1
    assert site.faults() == []


def test_the_device_page_counts_only_what_nobody_has_reviewed(site: Site) -> None:
    identifier = site.read(1, "quarantined")

    def said() -> bool:
        found = {**health(site.config, site.store), "running": True}
        return any(each.name == "quarantine" for each in problems.find(found, Clock("", True), [], None))

    assert said()
    site.custody.review(identifier)
    assert not said()


def test_one_whose_uid_has_a_result_meanwhile_stays(site: Site) -> None:
    identifier = site.read(1, "quarantined")
    take(
        site.intake, b"", b"whole", sop_instance_uid="1.2.3.4.1", sop_class_uid="1.2", source="storage_scp", sender="X"
    )
    with pytest.raises(ApplianceError, match="came under its UID"):
        site.custody.retry(identifier)


def test_quarantine_on_the_command_line(site: Site, tmp_path: Path) -> None:
    identifier, data = site.read(1, "quarantined"), ("--data", site.config.data_dir)
    site.close()
    (listed,) = json.loads(scanside("quarantine", "list", "--json", *data, check=True).stdout)
    assert (listed["image"], listed["reason"]) == (identifier, "It broke 1.2.840.113.5.1.")
    shown = scanside("quarantine", "show", "1", *data, check=True).stdout
    assert "It broke" in shown
    assert "DOE" not in shown
    scanside("quarantine", "export", "1", "--to", tmp_path / "out", *data, check=True)
    assert (tmp_path / "out" / "00000001.dcm").read_bytes() == b"image 1"
    assert "waits to be read" in scanside("quarantine", "retry", "1", *data, check=True).stdout
    assert "Nothing is quarantined" in scanside("quarantine", "list", *data, check=True).stdout
    again = scanside("quarantine", "retry", "1", *data)
    assert again.returncode == 1
    assert "was not turned away" in again.stderr


# --- retention ----------------------------------------------------------------------------------------------------


def test_only_what_nobody_waits_for_is_removed(site: Site) -> None:
    old = {end: site.read(number, end, age=365 * 86400) for number, end in enumerate(ENDS)}
    undelivered = site.read(7, "delivered", sent=False, age=365 * 86400)
    young = site.read(8, "delivered")
    due = {(each.kind, each.instance_id) for each in retention.due(site.config, site.custody)}
    assert due == {("image", old["delivered"]), ("result", old["delivered"])}
    for identifier in (undelivered, old["rejected"], old["failed"]):
        site.custody.review(identifier)
    with pytest.raises(ApplianceError, match="no final state yet"):
        site.custody.review(old["written"])
    removed = {(each.kind, each.instance_id) for each in retention.remove(site.config, site.custody)}
    reviewed = {("image", identifier) for identifier in (undelivered, old["rejected"], old["failed"])}
    assert removed == due | reviewed | {("result", undelivered)}
    assert site.faults() == []
    assert retention.remove(site.config, site.custody) == []
    kept = {old["written"], old["quarantined"], young}
    for row in site.store.worklist(100):
        assert site.spool.path(row["file"]).exists() == (row["id"] in kept)
    assert not (site.config.results_path / f"{undelivered:08d}").exists()
    assert not (site.config.previews_path / str(undelivered)).exists()
    last = site.store.events(old["rejected"])[-1]
    assert (last["what"], last["detail"]) == ("removed", "its image: older than 30 d")


def test_what_was_rejected_is_reviewed_together(site: Site) -> None:
    old, young = (site.read(number, "rejected", age=age * 86400.0) for number, age in ((1, 365), (2, 1)))
    failed = site.read(3, "failed", age=365 * 86400)
    assert retention.kept(site.config, site.custody) == {"images": 2, "bytes": 14, "rejected": 1}
    assert retention.remove(site.config, site.custody) == []
    everything, before = [old, young, failed], time.time() - 30 * 86400
    assert site.custody.review_rejected(everything, before) == 1  # not what came to its end after the list was made
    assert site.custody.review_rejected(everything, before) == 0
    assert [each.instance_id for each in retention.remove(site.config, site.custody)] == [old]
    assert retention.kept(site.config, site.custody) == {"images": 1, "bytes": 7, "rejected": 0}
    assert [each["what"] for each in site.store.events(old)][-2:] == ["reviewed", "removed"]
    assert site.faults() == []


def test_what_was_rejected_is_reviewed_together_on_the_command_line(site: Site) -> None:
    for number in (1, 2, 3):
        site.read(number, "rejected" if number < 3 else "failed")
    site.close()
    data = ("--data", site.config.data_dir)
    assert "name the images" in scanside("quarantine", "review", *data).stderr
    young = scanside("quarantine", "review", "--rejected", "--days", "1", *data, check=True).stdout
    assert "0 that were rejected" in young
    assert "2 that were rejected" in scanside("quarantine", "review", "--rejected", *data, check=True).stdout


def test_the_device_page_says_what_stays_since_nobody_reviews_it(site: Site) -> None:
    for number in (1, 2):
        site.read(number, "rejected", age=365 * 86400)
    keeper = housekeeping.Housekeeping(site.config)
    keeper.start()
    wait_until(lambda: keeper.kept["images"] == 2, "what stays")
    keeper.stop()
    site.store.set_component("retention", {"kept": keeper.kept})
    found = problems.find(health(site.config, site.store), Clock("", True), [], None)
    (said,) = [each for each in found if each.name == "unreviewed"]
    assert said.what.startswith("2 images are old enough to go and stay")
    assert said.link == "/?state=rejected&unreviewed=1"


def test_a_disk_that_is_too_full_loses_the_oldest_first_and_no_more_than_it_must(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "5m") as disk:
        site = Site(disk, disk_percent=60)
        for number in range(3):
            site.read(number, age=1000.0 - number)
        assert not retention.overfull(site.config)
        assert retention.remove(site.config, site.custody) == []
        filler = disk / "other"
        filler.write_bytes(b"x" * (3 << 20))
        assert retention.overfull(site.config)
        first, *_ = retention.due(site.config, site.custody)
        assert (first.kind, first.instance_id) == ("image", 1)
        assert len(retention.remove(site.config, site.custody)) == 6  # all that may go is not enough
        filler.unlink()
        site.close()


def test_nothing_is_removed_unless_the_configuration_says_so(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.read(1, age=10 * 365 * 86400)
    assert retention.remove(site.config, site.custody) == []


def test_nothing_is_removed_while_a_boxs_system_is_on_trial(site: Site, tmp_path: Path) -> None:
    """The earlier one comes back with its ledger of before, and would miss what went meanwhile."""
    site.read(1, age=365 * 86400)
    report = tmp_path / "box.json"
    config = msgspec.structs.replace(site.config, box=Box(report=str(report)))
    report.write_text(json.dumps({"slot": "b", "slots": {"a": "good", "b": "trial"}}))
    assert retention.remove(config, site.custody) == []
    assert site.faults() == []
    report.write_text(json.dumps({"slot": "b", "slots": {"a": "good", "b": "good"}}))
    assert len(retention.remove(config, site.custody)) == 2


def test_an_image_that_was_removed_and_comes_again_is_a_duplicate_still(site: Site) -> None:
    identifier = site.read(1, age=365 * 86400)
    retention.remove(site.config, site.custody)
    assert site.take(1) == identifier
    assert site.store.counts()["delivered"] == 1
    assert site.faults() == []
    removed = [(each.kind, each.instance_id) for each in retention.remove(site.config, site.custody)]
    assert removed == [("image", identifier)]
    assert site.faults() == []


def test_an_image_that_was_removed_and_comes_again_from_elsewhere_has_the_size_of_its_new_file(site: Site) -> None:
    identifier = site.read(1, age=365 * 86400)
    retention.remove(site.config, site.custody)
    head = b"\0" * 128 + b"DICM\x02\0\0\0UL\x04\0\0\0\0\0"
    again = take(
        site.intake, head, b"image 1", sop_instance_uid="1.2.3.4.1", sop_class_uid="1.2", source="stow", sender="JOE"
    )
    assert (again.instance_id, again.outcome) == (identifier, "duplicate")
    assert site.faults() == []
    assert site.intake.kept(["1.2.3.4.1"]) == {"1.2.3.4.1": {"1.2"}}


def test_an_image_that_comes_again_while_it_is_removed_stays(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    identifier = site.read(1, age=365 * 86400)
    note = site.custody.note_removed

    def and_it_comes_again(*of: Any) -> bool:
        noted = note(*of)
        site.take(1)
        return noted

    monkeypatch.setattr(site.custody, "note_removed", and_it_comes_again)
    assert [each.kind for each in retention.remove(site.config, site.custody)] == ["result"]
    assert site.spool.path(site.custody.known(identifier)["file"]).exists()
    assert site.faults() == []


def test_an_image_that_comes_again_after_it_was_found_to_be_old_stays_and_is_read(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_radiograph(tmp_path / "a.dcm")
    first = site.read(1, "rejected", age=365 * 86400.0)
    later = site.read(2, "rejected", age=364 * 86400.0, source=source)
    site.custody.review_rejected([first, later], time.time())
    note = site.custody.note_removed

    def while_another_comes_again(*of: Any) -> bool:
        if site.store.counts()["received"] == 0:
            site.take(2, source)
        return note(*of)

    monkeypatch.setattr(site.custody, "note_removed", while_another_comes_again)
    assert [each.instance_id for each in retention.remove(site.config, site.custody)] == [first]
    claim = site.store.claim("me", 30)
    assert claim is not None
    assert (claim["id"], claim["removed"]) == (later, 0)
    assert site.spool.path(site.custody.known(later)["file"]).exists()
    assert site.faults() == []


def test_an_image_that_is_removed_while_it_comes_again_is_not_acknowledged(site: Site) -> None:
    site.read(1, age=365 * 86400)
    file = put(site.spool, b"", b"image 1")
    retention.remove(site.config, site.custody)
    with pytest.raises(SpoolError, match="removed while it came again"):
        site.intake.admit(file, sop_instance_uid="1.2.3.4.1", sop_class_uid="1.2", source="storage_scp", sender="JANE")
    site.take(1)
    assert site.faults() == []


def test_retention_on_the_command_line(site: Site, tmp_path: Path) -> None:
    site.read(1, age=365 * 86400)
    site.close()
    path = tmp_path / "scanside.toml"
    path.write_text(f'data_dir = "{site.config.data_dir}"\n[retention]\nimages_days = 30\n')
    dry = scanside("retention", "--dry-run", "--config", path, check=True).stdout
    assert "image 1: its image, 7 bytes (older than 30 d)" in dry
    assert "1 would be removed" in dry
    assert "1 were removed" in scanside("retention", "--config", path, check=True).stdout
    assert json.loads(scanside("retention", "--json", "--config", path, check=True).stdout) == []


def test_associations_are_forgotten_after_a_while_but_not_while_something_waits(site: Site) -> None:
    site.take(1, transfer_id="done")
    assert site.store.claim("me", 30)
    site.store.reject(1, "me", "no")
    site.take(2, transfer_id="waits")
    site.take(3, transfer_id="open")
    for name in ("done", "waits"):
        site.store.end_transfer(name, "released")
    assert site.custody.prune_transfers(time.time() - 60) == 0
    assert site.custody.prune_transfers(time.time() + 1) == 1
    assert site.faults() == []


# --- proof --------------------------------------------------------------------------------------------------------


def test_a_sound_ledger_adds_up(site: Site, tmp_path: Path) -> None:
    for number, end in enumerate(ENDS):
        site.read(number, end)
    site.take(10, make_radiograph(tmp_path / "a.dcm"))
    for full in (False, True):
        outcome = recount.recount(site.config, site.custody, full)
        assert outcome.faults == []
        assert outcome.counts == {
            "received": 6, "resulted": 2, "rejected": 1, "failed": 1, "quarantined": 1, "withheld": 0,
        "pending": 1,
        }  # fmt: skip
        recount.keep(site.custody, outcome)
    assert site.store.components()[recount.COMPONENT]["kind"] == "full"


def test_each_fault_is_named(site: Site, tmp_path: Path) -> None:
    files = {number: site.spool.path(site.store.instance(site.read(number))["file"]) for number in range(1, 6)}  # type: ignore[index]
    files[1].unlink()
    files[2].write_bytes(b"image X")
    files[3].write_bytes(b"short")
    report = site.config.results_path / "00000004" / "structured_report.dcm"
    report.write_bytes(b"forged")
    (site.config.results_path / "00000005" / "structured_report.dcm").unlink()
    pending = site.take(6)
    site.spool.path(site.store.instance(pending)["file"]).unlink()  # type: ignore[index]
    for orphan in (site.config.spool_path / "ab" / "orphan.dcm", site.config.results_path / "00000099" / "x.dcm"):
        orphan.parent.mkdir()
        orphan.write_bytes(b"?")
        os.utime(orphan, (time.time() - 3600,) * 2)
    (site.config.spool_path / "ab" / "young.dcm").write_bytes(b"on its way to its row")
    connection = sqlite3.connect(site.config.ledger_path)
    with connection:
        connection.execute("UPDATE tally SET n = n + 1 WHERE name = 'total'")
        connection.execute("DELETE FROM result WHERE instance_id = 3")
    connection.close()
    said = "\n".join(site.faults())
    for fault in (
        "image 1: its file", "is missing", "image 2: its file", "is not what was received", "image 3: its file",
        "has 5 bytes, not 7", "image 3: has a state of success, but neither", "image 4: its structured_report",
        "is not what was written", "image 5: its structured_report", "image 6: its file", "spool/ab/orphan.dcm",
        "results/00000099/x.dcm", "ledger: total: 7 by its tally, 6 by its rows",
        "ledger: 7 were received, and 6 are accounted for",
    ):  # fmt: skip
        assert fault in said, said
    assert "young" not in said
    quick = site.faults(full=False)
    assert [each for each in quick if each.startswith("image")] == [each for each in quick if "image 6" in each]
    site.close()
    ended = scanside("ledger", "verify", "--data", site.config.data_dir)
    assert ended.returncode == 1
    assert "FAULT  image 1: its file" in ended.stdout
    as_json = json.loads(scanside("ledger", "verify", "--json", "--data", site.config.data_dir).stdout)
    assert len(as_json["faults"]) == len(said.splitlines())


def test_a_file_that_can_not_be_read_is_a_fault_and_the_others_are_looked_at(site: Site) -> None:
    """A link to itself is to a program what a bad sector is: an error other than that the file is missing."""
    unreadable, lost = (site.custody.known(site.read(number)) for number in (1, 2))
    report = site.config.results_path / f"{unreadable['id']:08d}" / "structured_report.dcm"
    for path in (site.spool.path(unreadable["file"]), report):
        path.unlink()
        path.symlink_to(path)
    site.spool.path(lost["file"]).unlink()
    said = site.faults()
    assert [each.split(".dcm")[1].split(":")[0] for each in said] == [
        " can't be read", " is missing", " can't be read",
    ]  # fmt: skip


def test_a_sound_ledger_on_the_command_line(site: Site) -> None:
    site.read(1)
    site.close()
    ended = scanside("ledger", "verify", "--data", site.config.data_dir)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "1 received = 1 resulted + 0 rejected + 0 failed + 0 quarantined + 0 withheld + 0 pending" in ended.stdout


def test_records_lead_to_no_patient_unless_asked_for(site: Site) -> None:
    site.read(1, "quarantined")
    site.read(2)
    plain, full = io.StringIO(), io.StringIO()
    assert export(site.custody, plain, "csv") == 2
    assert export(site.custody, full, "jsonl", patient=True) == 2
    rows = list(csv.DictReader(io.StringIO(plain.getvalue())))
    assert [(row["number"], row["state"], row["reason"]) for row in rows] == [
        ("1", "quarantined", "It broke (UID)."), ("2", "delivered", ""),
    ]  # fmt: skip
    assert rows[1]["sent_to"] == "pacs"
    for secret in ("DOE", "JANE", "1.2.3.4", "1.2.840"):
        assert secret not in plain.getvalue()
    first = json.loads(full.getvalue().splitlines()[0])
    assert (first["patient_name"], first["sop_instance_uid"]) == ("DOE^JANE", "1.2.3.4.1")


# --- a disk that is full ------------------------------------------------------------------------------------------


def test_the_ledger_survives_a_full_disk_and_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "5m") as disk:
        site = Site(disk)
        site.spool.reserve = 1 << 20
        acknowledged = 0
        with pytest.raises(DiskFullError):
            for number in range(1000):
                take(
                    site.intake, b"", os.urandom(100_000), sop_instance_uid=f"1.{number}", sop_class_uid="1.2",
                    source="storage_scp", sender="X",
                )  # fmt: skip
                acknowledged += 1
        assert site.store.counts()["received"] == acknowledged
        claim = site.store.claim("me", 30)  # what was reserved is there for the work on what was acknowledged
        assert claim is not None
        site.store.reject(claim["id"], "me", "no")
        with (disk / "log of another program").open("wb", buffering=0) as file, pytest.raises(OSError, match="space"):
            while True:
                file.write(bytes(4096))
        with pytest.raises(SpoolError):
            for _ in range(1000):
                claim = site.store.claim("me", 30)
                assert claim is not None
                site.store.reject(claim["id"], "me", "no " * 1000)
        (disk / "log of another program").unlink()
        assert site.faults() == []
        assert sum(site.store.counts().values()) == acknowledged
        assert not list(disk.rglob("*.writing"))
        site.close()


def test_housekeeping_counts_at_the_start_and_checks_everything_at_night(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    identifier = site.read(1, age=365 * 86400)
    trail, kept = Trail(site.config.audit_path, site.config.key_path), AuditStore(site.config.audit_path)
    for at in (1000.0, 1001.0, time.time()):
        trail.append(Record(at, "view", "GET /"))
    kept.set_elsewhere("file", 3)
    monkeypatch.setattr(housekeeping, "_LOOK_SECONDS", 0.02)
    night = datetime.now().astimezone() + timedelta(seconds=3600)
    nights = [night - timedelta(days=1)] * 3
    monkeypatch.setattr(housekeeping.proof, "last_night", lambda now, at: nights.pop() if nights else night)
    keeper = housekeeping.Housekeeping(msgspec.structs.replace(site.config, audit=Audit(keep_days=30)), trail)
    keeper.start()
    kinds = set()

    def done() -> bool:
        kinds.add(site.store.components().get(recount.COMPONENT, {}).get("kind"))
        return "full" in kinds

    wait_until(done, "the night's recount")
    keeper.stop()
    assert "quick" in kinds or None in kinds
    assert site.store.components()[recount.COMPONENT]["fault_count"] == 0
    assert audit_proof.verify(site.config.audit_path, site.config.key_path).removed == 2
    assert keeper.trail == {"faults": 0, "kept": ""}
    assert not site.spool.path(site.store.instance(identifier)["file"]).exists()  # type: ignore[index]


def _problems(site: Site, keeper: housekeeping.Housekeeping) -> dict[str, problems.Problem]:
    """What the device page says once the appliance has said how its parts are."""
    site.store.set_component("housekeeping", {"obstacles": keeper.obstacles()})
    site.store.set_component("audit", {"head": None, "syslog": None, **keeper.trail})
    found = {**health(site.config, site.store), "running": True}
    return {each.name: each for each in problems.find(found, Clock("", True), [], None)}


def _go_on(keeper: housekeeping.Housekeeping, monkeypatch: pytest.MonkeyPatch, rounds: int = 1) -> None:
    """A start, and so many nights."""
    monkeypatch.setattr(housekeeping, "_LOOK_SECONDS", 0.0)
    nights = iter([float("inf")] * rounds)

    def last_night(now: datetime, at: str) -> datetime:
        if next(nights, None) is None:
            keeper.stopping.set()
            return now - timedelta(days=1)
        return now + timedelta(days=1)

    monkeypatch.setattr(housekeeping.proof, "last_night", last_night)
    keeper.run()


def _damage(path: Path, table: str) -> None:
    """What a bad sector leaves of a page of the ledger."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)


@pytest.mark.parametrize("table", ["object", "outbox", "event"])
def test_a_ledger_that_can_not_be_read_to_the_end_is_said(
    site: Site, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    site.read(1)
    site.close()
    _damage(site.config.ledger_path, table)
    keeper = housekeeping.Housekeeping(site.config)
    _go_on(keeper, monkeypatch)
    kept = site.store.components()[recount.COMPONENT]
    assert (kept["kind"], kept["fault_count"] > 0) == ("full", True)
    assert kept["faults"][-1]["where"] == "ledger"
    assert "recount" in _problems(site, keeper)
    ended = scanside("ledger", "verify", "--data", site.config.data_dir)
    assert ended.returncode == 1
    assert "FAULT  ledger: " in ended.stdout


def test_what_housekeeping_could_not_do_is_said_until_it_can(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    trail = Trail(site.config.audit_path, site.config.key_path)
    trail.append(Record(time.time(), "view", "GET /"))
    keeper = housekeeping.Housekeeping(site.config, trail)
    told = {"recount_obstacle", "audit_obstacle", "retention_obstacle"}

    def fails(*_: Any) -> None:
        raise SpoolError("the disk has gone")

    with monkeypatch.context() as broken:
        for module, name in ((recount, "keep"), (audit_proof, "verify"), (retention, "remove")):
            broken.setattr(module, name, fails)
        _go_on(keeper, broken)
    found = _problems(site, keeper)
    assert told <= found.keys()
    assert {found[name].detail for name in told} == {"the disk has gone"}
    keeper.stopping.clear()
    _go_on(keeper, monkeypatch)
    assert not told & _problems(site, keeper).keys()


def test_a_proof_that_does_not_come_to_its_end_is_said_after_two_days_of_work(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A box that was off for a week, or whose clock was set, has proved nothing for longer, and is not to blame."""
    at = time.monotonic()
    monkeypatch.setattr(housekeeping.time, "monotonic", lambda: at)
    monkeypatch.setattr(housekeeping.time, "time", lambda: 1e9)
    recount.keep(site.custody, recount.recount(site.config, site.custody, full=True))
    keeper = housekeeping.Housekeeping(site.config)
    assert "recount_obstacle" not in _problems(site, keeper)
    at += 2 * 86400.0 + 1.0
    assert "two days" in _problems(site, keeper)["recount_obstacle"].detail
    _go_on(keeper, monkeypatch)
    assert "recount_obstacle" not in _problems(site, keeper)
