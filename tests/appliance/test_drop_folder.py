"""The drop folder: a file counts once it is complete, however it came there."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance import config
from appliance.ingest.drop_folder import TAKEN, DropFolder
from tests.appliance.conftest import Box
from tests.dicom_files import make_radiograph
from tests.peers import wait_until

SETTLE, INCOMPLETE = 0.3, 1.5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "drop"
    path.mkdir()
    return path


@pytest.fixture
def watch(folder: Path, box: Box) -> Iterator[DropFolder]:
    settings = config.DropFolder(settle_seconds=SETTLE, incomplete_seconds=INCOMPLETE)
    dropped = DropFolder(settings, folder, box.intake)
    dropped.start()
    yield dropped
    dropped.stop()


def taken(box: Box, count: int) -> list[dict[str, object]]:
    return wait_until(lambda: rows if len(rows := box.rows()) >= count else None, f"{count} files are taken", 15)


@pytest.mark.usefixtures("watch")
def test_a_copied_file_is_taken_at_once_and_moved_away(folder: Path, box: Box, tmp_path: Path) -> None:
    source = make_radiograph(tmp_path / "a.dcm")
    begin = time.monotonic()
    shutil.copy(source, folder / "a.dcm")
    taken(box, 1)
    assert time.monotonic() - begin < 1.0
    wait_until(lambda: (folder / TAKEN / "a.dcm").exists(), "it is moved away")
    assert not (folder / "a.dcm").exists()


def test_files_that_are_there_at_the_start_are_taken(folder: Path, box: Box, tmp_path: Path) -> None:
    make_radiograph(folder / "one" / "two" / "a.dcm")
    make_radiograph(folder / "b.dcm", seed=1)
    dropped = DropFolder(config.DropFolder(settle_seconds=SETTLE), folder, box.intake)
    dropped.start()
    try:
        assert {row["sender"] for row in taken(box, 2)} == {"one/two/a.dcm", "b.dcm"}
    finally:
        dropped.stop()


@pytest.mark.usefixtures("watch")
def test_a_folder_that_is_moved_in_is_taken_whole(folder: Path, box: Box, tmp_path: Path) -> None:
    for number in range(3):
        make_radiograph(tmp_path / "stick" / f"{number % 2}" / f"{number}.dcm", seed=number)
    shutil.move(tmp_path / "stick", folder / "stick")
    assert {row["sender"] for row in taken(box, 3)} == {"stick/0/0.dcm", "stick/1/1.dcm", "stick/0/2.dcm"}


@pytest.mark.usefixtures("watch")
def test_a_file_that_is_still_being_written_waits(folder: Path, box: Box, tmp_path: Path) -> None:
    content = make_radiograph(tmp_path / "a.dcm").read_bytes()
    with (folder / "slow.dcm").open("wb") as file:
        for start in range(0, len(content), len(content) // 8 + 1):
            file.write(content[start : start + len(content) // 8 + 1])
            file.flush()
            assert box.rows() == []
            time.sleep(0.3)
    taken(box, 1)
    assert box.spool.path(box.rows()[0]["file"]).read_bytes() == content


@pytest.mark.usefixtures("watch")
def test_a_writer_that_opens_again_and_again_is_waited_for(folder: Path, box: Box, tmp_path: Path) -> None:
    """As some copy programs do; each close would look like the end."""
    content = make_radiograph(tmp_path / "a.dcm").read_bytes()
    for start in range(0, len(content), len(content) // 5 + 1):
        with (folder / "piecewise.dcm").open("ab") as file:
            file.write(content[start : start + len(content) // 5 + 1])
        assert box.rows() == []
        time.sleep(0.4)
    taken(box, 1)
    assert box.spool.path(box.rows()[0]["file"]).read_bytes() == content


@pytest.mark.usefixtures("watch")
def test_what_is_no_dicom_is_taken_after_a_while_and_not_lost(folder: Path, box: Box) -> None:
    (folder / "letter.txt").write_text("not an image")
    (folder / "empty.dcm").touch()
    assert {row["sender"] for row in taken(box, 2)} == {"letter.txt", "empty.dcm"}


@pytest.mark.usefixtures("watch")
def test_temporary_names_wait_for_their_final_name(folder: Path, box: Box, tmp_path: Path) -> None:
    make_radiograph(folder / "a.dcm.part")
    make_radiograph(folder / ".hidden.dcm", seed=1)
    time.sleep(INCOMPLETE + 1.5)
    assert box.rows() == []
    (folder / "a.dcm.part").rename(folder / "a.dcm")
    assert [row["sender"] for row in taken(box, 1)] == ["a.dcm"]


@pytest.mark.usefixtures("watch")
def test_the_same_name_twice_keeps_both(folder: Path, box: Box, tmp_path: Path) -> None:
    for number in range(2):
        shutil.copy(make_radiograph(tmp_path / f"{number}.dcm", seed=number), folder / "a.dcm")
        taken(box, number + 1)
        wait_until(lambda: not (folder / "a.dcm").exists(), "it is moved away")
    assert {path.name for path in (folder / TAKEN).iterdir()} == {"a.dcm", "a.dcm.1"}


def test_links_and_pipes_are_problems_and_stop_nothing(
    watch: DropFolder, folder: Path, box: Box, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("of another user")
    (folder / "link.dcm").symlink_to(tmp_path / "secret")
    os.mkfifo(folder / "pipe.dcm")
    make_radiograph(folder / "good.dcm")
    assert [row["sender"] for row in taken(box, 1)] == ["good.dcm"]
    wait_until(lambda: {"link.dcm", "pipe.dcm"} <= set(watch.problems), "both are named")
    (folder / "link.dcm").unlink()
    wait_until(lambda: "link.dcm" not in watch.problems, "what is gone is no problem any more")


def test_left_files_are_taken_once_even_after_a_restart(folder: Path, box: Box, tmp_path: Path) -> None:
    make_radiograph(folder / "a.dcm")
    settings = config.DropFolder(settle_seconds=SETTLE, after="leave")
    for _ in range(2):
        dropped = DropFolder(settings, folder, box.intake)
        dropped.start()
        taken(box, 1)
        time.sleep(2.5)
        dropped.stop()
    (row,) = box.rows()
    assert row["copies"] <= 2
    assert (folder / "a.dcm").exists()


@pytest.mark.usefixtures("watch")
def test_many_files_at_once(folder: Path, box: Box, tmp_path: Path) -> None:
    sources = [make_radiograph(tmp_path / "in" / f"{n}.dcm", rows=32, columns=32, seed=n) for n in range(60)]
    threads = [
        threading.Thread(target=lambda part=part: [shutil.copy(path, folder) for path in part])
        for part in (sources[::2], sources[1::2])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken(box, 60)) == 60
