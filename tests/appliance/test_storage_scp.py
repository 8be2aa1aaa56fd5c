"""The Storage SCP against dcmtk's and pynetdicom's SCUs: what is acknowledged is on disk, and nothing else is."""

from __future__ import annotations

import contextlib
import errno
import gc
import resource
import socket
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless
from pynetdicom import AE, evt
from pynetdicom.sop_class import ComputedRadiographyImageStorage, Verification

from appliance import config, doctor
from appliance.errors import ApplianceError
from appliance.ingest.storage_scp import StorageScp
from tests.appliance.conftest import Box
from tests.dicom_files import make_radiograph
from tests.peers import needs, small_disk, wait_until


@pytest.fixture
def port(box: Box) -> Iterator[int]:
    scp = StorageScp(config.StorageScp(host="127.0.0.1", port=0), box.intake)
    yield scp.start()
    scp.stop()


def storescu(port: int, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [needs("storescu"), "-aec", "ANYTHING", "127.0.0.1", str(port), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def data_set(path: Path) -> bytes:
    """What follows the file meta information."""
    content = path.read_bytes()
    meta = pydicom.filereader.read_file_meta_info(path)
    return content[132 + 12 + meta.FileMetaInformationGroupLength :]


def test_echo(port: int) -> None:
    subprocess.run([needs("echoscu"), "-aec", "ANYTHING", "127.0.0.1", str(port)], check=True, timeout=30)


@pytest.mark.parametrize(
    ("syntax", "option"),
    [
        ("1.2.840.10008.1.2.1", "-xe"),
        (JPEG2000Lossless, "-xv"),
        (JPEGLSLossless, "-xt"),
        (RLELossless, "-xr"),
    ],
)
def test_the_data_set_is_kept_byte_for_byte(syntax: str, option: str, port: int, box: Box, tmp_path: Path) -> None:
    source = make_radiograph(tmp_path / "a.dcm", transfer_syntax=syntax)
    sent = storescu(port, option, source)
    assert sent.returncode == 0, sent.stderr
    (row,) = box.rows()
    stored = box.spool.path(row["file"])
    assert data_set(stored) == data_set(source)
    meta = pydicom.dcmread(stored).file_meta
    assert meta.TransferSyntaxUID == syntax
    assert meta.SourceApplicationEntityTitle == "STORESCU"
    assert row["sender"].startswith("STORESCU at 127.0.0.1")
    assert box.arrived.is_set()


def test_a_sender_that_knows_no_priorities_is_routine_and_known_by_its_ae_title(
    port: int, box: Box, tmp_path: Path
) -> None:
    assert storescu(port, "-aet", "ER-1", make_radiograph(tmp_path / "a.dcm")).returncode == 0
    (row,) = box.rows()
    assert (row["ae_title"], row["priority"], row["triaged"]) == ("ER-1", "routine", 0)


def test_the_same_instance_again_is_acknowledged_and_stays_one(port: int, box: Box, tmp_path: Path) -> None:
    source = make_radiograph(tmp_path / "a.dcm")
    for _ in range(3):
        assert storescu(port, source).returncode == 0
    (row,) = box.rows()
    assert row["copies"] == 3
    assert len(box.files()) == 1


def test_the_same_uid_with_other_pixels_is_kept_and_turned_away(port: int, box: Box, tmp_path: Path) -> None:
    first = make_radiograph(tmp_path / "a.dcm")
    assert storescu(port, first).returncode == 0
    changed = pydicom.dcmread(first)
    changed.PatientName = "OTHER^PATIENT"
    changed.save_as(tmp_path / "b.dcm")
    assert storescu(port, tmp_path / "b.dcm").returncode == 0
    assert [row["state"] for row in box.rows()] == ["received", "quarantined"]
    assert len(box.files()) == 2


def test_a_transfer_that_breaks_off_leaves_nothing(port: int, box: Box, tmp_path: Path) -> None:
    source = make_radiograph(tmp_path / "a.dcm", rows=1500, columns=1500, bits=16)
    entity = AE()
    entity.add_requested_context(ComputedRadiographyImageStorage, "1.2.840.10008.1.2.1")
    entity.add_requested_context(Verification)
    association = entity.associate("127.0.0.1", port)
    assert association.is_established
    raw = association.dul.socket.socket
    sent = 0

    class Cut:
        """Lets half a megabyte through, then the line is dead."""

        def __getattr__(self, name: str) -> object:
            return getattr(raw, name)

        def send(self, data: bytes) -> int:
            nonlocal sent
            sent += len(data)
            if sent > 500_000:
                raw.shutdown(socket.SHUT_RDWR)
                raise OSError("the line is dead")
            return int(raw.send(data))

    association.dul.socket.socket = Cut()
    answer = association.send_c_store(pydicom.dcmread(source))
    assert "Status" not in answer
    assert sent > 500_000
    assert storescu(port, make_radiograph(tmp_path / "b.dcm", seed=1)).returncode == 0
    assert len(box.rows()) == 1
    assert len(box.files()) == 1


def test_a_full_disk_answers_a700_and_leaves_no_file(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "4m") as disk:
        box = Box(disk / "box", reserve=1 << 20)
        scp = StorageScp(config.StorageScp(host="127.0.0.1", port=0), box.intake)
        port = scp.start()
        try:
            small = make_radiograph(tmp_path / "small.dcm")
            large = make_radiograph(tmp_path / "large.dcm", rows=1200, columns=1200, bits=16)
            assert storescu(port, small).returncode == 0
            refused = storescu(port, "-v", large)
            assert "OutOfResources" in refused.stdout + refused.stderr
            assert len(box.rows()) == 1
            assert len(box.files()) == 1
            assert storescu(port, make_radiograph(tmp_path / "other.dcm", seed=5)).returncode == 0
        finally:
            scp.stop()
            box.store.close()


def test_a_ledger_without_room_is_not_acknowledged(tmp_path: Path) -> None:
    """The file fits, its row does not: no success, so that the sender keeps it."""
    with small_disk(tmp_path / "disk", "1m") as disk:
        box = Box(disk / "box")
        scp = StorageScp(config.StorageScp(host="127.0.0.1", port=0), box.intake)
        port = scp.start()
        try:
            filler = disk / "filler"
            with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(4096))
            sent = storescu(port, "-v", make_radiograph(tmp_path / "a.dcm", rows=16, columns=16))
            assert "OutOfResources" in sent.stdout + sent.stderr
            assert box.rows() == []
            filler.unlink()
            assert storescu(port, tmp_path / "a.dcm").returncode == 0
            assert len(box.rows()) == 1
        finally:
            scp.stop()
            box.store.close()


PRIVATE_CLASS, PRIVATE_SYNTAX, MPEG4 = "1.3.12.2.1107.5.9.1", "1.2.840.113619.5.2", "1.2.840.10008.1.2.4.102"


@pytest.mark.parametrize(
    ("sop_class_uid", "syntaxes", "stored", "refused"),
    [
        (
            str(ComputedRadiographyImageStorage),
            ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"],
            "1.2.840.10008.1.2.1",
            None,
        ),
        (str(ComputedRadiographyImageStorage), [MPEG4, RLELossless], RLELossless, None),
        (str(ComputedRadiographyImageStorage), [MPEG4], MPEG4, 4),
        (str(ComputedRadiographyImageStorage), [PRIVATE_SYNTAX], PRIVATE_SYNTAX, 4),
        (PRIVATE_CLASS, ["1.2.840.10008.1.2.1"], "1.2.840.10008.1.2.1", 3),
        ("1.2.840.10008.5.1.4.1.1.104.1", ["1.2.840.10008.1.2.1"], "1.2.840.10008.1.2.1", 3),  # encapsulated PDF
    ],
)
def test_what_cannot_be_decoded_is_stored_or_refused_as_configured(
    sop_class_uid: str, syntaxes: list[str], stored: str, refused: int | None, box: Box
) -> None:
    """``stored`` is the transfer syntax that is chosen; ``refused`` the result (PS3.8 table 9-18)."""
    for undecodable in ("store", "refuse"):
        scp = StorageScp(config.StorageScp(host="127.0.0.1", port=0, undecodable=undecodable), box.intake)
        entity = AE()
        entity.add_requested_context(Verification)
        entity.add_requested_context(sop_class_uid, syntaxes)
        association = entity.associate("127.0.0.1", scp.start())
        (context,) = [
            context
            for context in [*association.accepted_contexts, *association.rejected_contexts]
            if context.abstract_syntax == sop_class_uid
        ]
        if undecodable == "refuse" and refused is not None:
            assert context.result == refused
        else:
            assert context.transfer_syntax == [stored]
        association.release()
        scp.stop()


def test_a_private_class_is_stored_and_named(box: Box, port: int, tmp_path: Path) -> None:
    instance = pydicom.dcmread(make_radiograph(tmp_path / "a.dcm", rows=16, columns=16))
    instance.SOPClassUID = instance.file_meta.MediaStorageSOPClassUID = PRIVATE_CLASS
    entity = AE()
    entity.add_requested_context(PRIVATE_CLASS, "1.2.840.10008.1.2.1")
    association = entity.associate("127.0.0.1", port)
    assert association.send_c_store(instance).Status == 0
    association.release()
    (row,) = box.rows()
    assert row["sop_class_uid"] == PRIVATE_CLASS
    assert pydicom.dcmread(box.spool.path(row["file"])).file_meta.MediaStorageSOPClassUID == PRIVATE_CLASS


def test_a_large_instance_takes_no_memory(box: Box, port: int, tmp_path: Path) -> None:
    source = make_radiograph(tmp_path / "a.dcm", pixels=np.zeros((8000, 8000), np.uint16))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert storescu(port, source).returncode == 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40 * 1024  # KiB, of an instance of 128 MB
    (row,) = box.rows()
    assert row["size"] > 128_000_000
    assert data_set(box.spool.path(row["file"])) == data_set(source)


def test_the_end_of_associations_is_recorded(box: Box, port: int, tmp_path: Path) -> None:
    assert storescu(port, make_radiograph(tmp_path / "a.dcm")).returncode == 0
    source = make_radiograph(tmp_path / "b.dcm", seed=1)
    subprocess.run([needs("storescu"), "--abort", "127.0.0.1", str(port), str(source)], check=True, timeout=60)
    wait_until(lambda: len(box.rows()) == 2, "both are stored")
    with contextlib.closing(sqlite3.connect(box.store.path)) as ledger:
        wait_until(
            lambda: (
                [row[0] for row in ledger.execute("SELECT ending FROM transfer ORDER BY opened_at")]
                == ["released", "aborted"]
            ),
            "both ends are recorded",
        )


def test_stopping_aborts_what_is_open(box: Box) -> None:
    scp = StorageScp(config.StorageScp(host="127.0.0.1", port=0), box.intake)
    entity = AE()
    entity.add_requested_context(Verification)
    aborted = threading.Event()
    association = entity.associate("127.0.0.1", scp.start(), evt_handlers=[(evt.EVT_ABORTED, lambda _: aborted.set())])
    assert association.is_established
    scp.stop()
    assert aborted.wait(10)
    assert not association.is_established


def test_several_associations_at_once(port: int, box: Box, tmp_path: Path) -> None:
    files = [make_radiograph(tmp_path / f"{number}.dcm", seed=number) for number in range(24)]
    running = [
        subprocess.Popen([needs("storescu"), "127.0.0.1", str(port), *map(str, files[number::4])])
        for number in range(4)
    ]
    assert [process.wait(60) for process in running] == [0, 0, 0, 0]
    wait_until(lambda: len(box.rows()) == 24, "every instance has its row")


def test_no_association_leaves_a_connection_to_the_ledger(port: int, box: Box, tmp_path: Path) -> None:
    """With the garbage collector off, which would close it some day."""

    def connections() -> int:  # each has the write-ahead log open
        found = 0
        for link in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found += str(link.readlink()).endswith("ledger.sqlite3-wal")
        return found

    gc.collect()
    before = connections()
    gc.disable()
    try:
        for number in range(5):
            assert storescu(port, make_radiograph(tmp_path / f"{number}.dcm", seed=number)).returncode == 0
        wait_until(lambda: connections() <= before, "each connection is closed")
    finally:
        gc.enable()


def test_a_port_in_use_is_named(port: int, box: Box) -> None:
    with pytest.raises(ApplianceError, match=str(port)):
        StorageScp(config.StorageScp(host="127.0.0.1", port=port), box.intake).start()


@pytest.mark.parametrize(("port", "says"), [(104, "ports below 1024 are for root alone"), (11112, "stop what uses")])
def test_a_port_that_is_kept_for_root_says_so(box: Box, port: int, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def bind(self: socket.socket, address: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", bind)
    scp = config.StorageScp(host="127.0.0.1", port=port)
    with pytest.raises(ApplianceError, match="Permission denied") as caught:
        StorageScp(scp, box.intake).start()
    assert says in caught.value.hint
    checks = doctor.examine(config.Config(data_dir=str(box.folder), storage_scp=scp))
    assert [says in each.hint for each in checks if each.what == "Storage SCP port"] == [True]
