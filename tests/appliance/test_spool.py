"""Files are whole or not there."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from unittest.mock import Mock

import pytest

from appliance.errors import DiskFullError, SpoolError
from appliance.spool import Spool, clean_temporary_files, write_durably
from tests.appliance.conftest import put
from tests.peers import small_disk


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_file_is_named_by_its_data_set_and_holds_head_and_body(tmp_path: Path) -> None:
    spool = Spool(tmp_path, reserve=0)
    file = put(spool, b"head", b"body")
    assert file.digest == hashlib.sha256(b"body").hexdigest()
    assert spool.path(file.name).read_bytes() == b"headbody"
    assert file.size == 8


def test_the_same_data_set_is_stored_once(tmp_path: Path) -> None:
    spool = Spool(tmp_path, reserve=0)
    first = put(spool, b"from the scanner", b"body")
    again = put(spool, b"from the folder", b"body")
    assert again.name == first.name
    assert [path.read_bytes() for path in _files(tmp_path)] == [b"from the scannerbody"]


def test_a_file_replaces_an_earlier_one_at_one_stroke(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file"
    write_durably(path, b"one")
    write_durably(path, b"t", b"wo")
    assert path.read_bytes() == b"two"
    assert _files(tmp_path) == [path]


def test_the_reserve_is_kept_free(tmp_path: Path) -> None:
    spool = Spool(tmp_path, reserve=1 << 60)
    with pytest.raises(DiskFullError, match="would stay free"):
        put(spool, b"", b"body")
    assert _files(tmp_path) == []


def test_a_disk_that_fills_up_while_writing_leaves_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "256k") as disk:
        with pytest.raises(DiskFullError, match="no room left"):
            write_durably(disk / "file", b"x" * (1 << 20))
        assert _files(disk) == []


def test_a_folder_that_is_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "folder").write_bytes(b"")
    with pytest.raises(SpoolError, match="folder"):
        write_durably(tmp_path / "folder" / "file", b"x")


def test_a_disk_that_nothing_can_be_removed_from_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that the kernel has made read-only after an error."""
    file = Spool(tmp_path, reserve=0).begin(b"head")
    read_only = OSError(errno.EROFS, "Read-only file system")
    monkeypatch.setattr(os, "write", Mock(side_effect=read_only))
    monkeypatch.setattr(Path, "unlink", Mock(side_effect=read_only))
    with pytest.raises(SpoolError, match="Read-only file system"):
        file.write(b"data set")
    file.discard()


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    write_durably(tmp_path / "a" / "whole", b"x")
    (tmp_path / "a" / "tmp123.writing").write_bytes(b"half")
    assert clean_temporary_files(tmp_path) == 1
    assert _files(tmp_path) == [tmp_path / "a" / "whole"]


def test_what_comes_in_parts_appears_once_it_is_whole(tmp_path: Path) -> None:
    spool = Spool(tmp_path, reserve=0)
    spool.make_folders()
    incoming = spool.begin(b"head")
    incoming.write(b"bo")
    (partial,) = _files(tmp_path)
    assert partial.suffix == ".writing"
    incoming.write(memoryview(b"dy"))
    file = incoming.keep()
    assert file == put(spool, b"head", b"body")
    assert _files(tmp_path) == [spool.path(file.name)]
    assert spool.has(file.name, 8)
    assert not spool.has(file.name, 9)


def test_what_is_discarded_leaves_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path, reserve=0)
    incoming = spool.begin(b"head")
    incoming.write(b"body")
    incoming.discard()
    incoming.discard()
    assert _files(tmp_path) == []


def test_a_disk_that_fills_up_while_parts_come_leaves_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "256k") as disk:
        incoming = Spool(disk, reserve=0).begin(b"head")
        with pytest.raises(DiskFullError):
            for _ in range(100):
                incoming.write(bytes(10_000))
        assert _files(disk) == []
