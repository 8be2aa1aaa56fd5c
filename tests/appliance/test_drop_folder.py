"""The drop folder: a file counts once it is complete, however it came there."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance import config, media, watching
from appliance.errors import ImageError
from appliance.ingest import drop_folder
from appliance.ingest.drop_folder import TAKEN, DropFolder
from tests.appliance.conftest import Box
from tests.dicom_files import make_medium, make_radiograph
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


def test_a_copied_file_is_taken_at_once_and_moved_away(
    folder: Path, box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(drop_folder, "_RESCAN_SECONDS", 600.0)  # the kernel tells of it
    request.getfixturevalue("watch")
    shutil.copy(make_radiograph(tmp_path / "a.dcm"), folder / "a.dcm")
    taken(box, 1)
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


def test_temporary_names_wait_for_their_final_name_and_are_told_of_once_nobody_writes(
    watch: DropFolder, folder: Path, box: Box
) -> None:
    make_radiograph(folder / "a.dcm.part")
    make_radiograph(folder / ".hidden.dcm", seed=1)
    for name in ("export.tmp", ".Trash-1000"):
        (folder / name).mkdir()
        make_radiograph(folder / name / "b.dcm", seed=2)
    (folder / ".DS_Store").write_bytes(b"what a file manager keeps")
    (folder / "empty.part").touch()
    told = {"a.dcm.part", ".hidden.dcm", "export.tmp/b.dcm"}
    wait_until(lambda: set(watch.problems) == told, "they are told of")
    assert "temporary name" in watch.problems["a.dcm.part"]
    assert box.rows() == []
    (folder / "a.dcm.part").rename(folder / "a.dcm")
    assert [row["sender"] for row in taken(box, 1)] == ["a.dcm"]
    wait_until(lambda: "a.dcm.part" not in watch.problems, "it is no problem any more")


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


@pytest.mark.usefixtures("watch")
def test_what_is_no_dicom_is_taken_after_a_while_and_not_lost(folder: Path, box: Box) -> None:
    (folder / "letter.txt").write_text("not an image")
    assert [row["sender"] for row in taken(box, 1)] == ["letter.txt"]


def test_what_never_becomes_whole_is_reported_and_left_until_it_does(
    watch: DropFolder, folder: Path, box: Box, tmp_path: Path
) -> None:
    """A writer that died half way, one that reserved the space, one that only made the name."""
    content = make_radiograph(tmp_path / "a.dcm").read_bytes()
    cut = {"cut.dcm": content[: len(content) // 2], "reserved.dcm": bytes(len(content)), "empty.dcm": b""}
    for name, part in cut.items():
        (folder / name).write_bytes(part)
    problems = wait_until(lambda: watch.problems if len(watch.problems) == 3 else None, "all are reported")
    assert f"it ends {len(content) - len(content) // 2} bytes early" in problems["cut.dcm"]
    assert "zeros" in problems["reserved.dcm"]
    assert "empty" in problems["empty.dcm"]
    assert box.rows() == []
    with (folder / "cut.dcm").open("ab") as file:
        file.write(content[len(content) // 2 :])
    (folder / "empty.dcm").unlink()
    assert [row["sender"] for row in taken(box, 1)] == ["cut.dcm"]
    wait_until(lambda: set(watch.problems) == {"reserved.dcm"}, "what is mended or gone is no problem any more")


def test_one_that_is_stuck_does_not_keep_its_neighbors_batch_open(
    watch: DropFolder, folder: Path, box: Box, tmp_path: Path
) -> None:
    whole = make_radiograph(tmp_path / "a.dcm")
    (folder / "cut.dcm").write_bytes(whole.read_bytes()[:2000])
    shutil.copy(whole, folder)
    wait_until(lambda: watch.problems, "it is reported")
    wait_until(lambda: box.store._rows("SELECT 1 FROM transfer WHERE ending = 'released'"), "the batch has ended")


@pytest.mark.usefixtures("watch")
def test_a_rename_over_an_existing_name_takes_what_is_there_then(folder: Path, box: Box) -> None:
    """As editors and rsync write: a temporary file beside, then the name."""
    for number in range(2):
        make_radiograph(folder / ".a.dcm.Xy12", seed=number)
        (folder / ".a.dcm.Xy12").rename(folder / "a.dcm")
        taken(box, number + 1)
    assert len({row["digest"] for row in box.rows()}) == 2


# --- archives -----------------------------------------------------------------------------------------------------


def pack(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.mark.usefixtures("watch")
def test_an_archive_is_taken_file_by_file_as_one_batch(folder: Path, box: Box, tmp_path: Path) -> None:
    images = {f"deep/{n}.dcm": make_radiograph(tmp_path / f"{n}.dcm", seed=n).read_bytes() for n in range(3)}
    packed = pack(tmp_path / "export.zip", {**images, "viewer/readme.txt": b"text"}).read_bytes()
    with (folder / "export.zip").open("wb") as slow:
        for start in range(0, len(packed), len(packed) // 4 + 1):
            slow.write(packed[start : start + len(packed) // 4 + 1])
            slow.flush()
            assert box.rows() == []
            time.sleep(0.2)
    rows = taken(box, 3)
    assert [row["sender"] for row in rows] == [f"export.zip/{name}" for name in images]
    assert [box.spool.path(str(row["file"])).read_bytes() for row in rows] == list(images.values())
    assert len({row["transfer_id"] for row in rows}) == 1
    wait_until(lambda: (folder / TAKEN / "export.zip").exists(), "it is moved away")
    assert {path.suffix for path in box.files()} == {".dcm"}


def test_archives_that_cannot_be_right_are_reported_and_left(
    watch: DropFolder, folder: Path, box: Box, tmp_path: Path
) -> None:
    image = make_radiograph(tmp_path / "a.dcm").read_bytes()
    whole = pack(tmp_path / "whole.zip", {"a.dcm": image}).read_bytes()
    (folder / "cut.zip").write_bytes(whole[:-30])
    pack(folder / "nested.zip", {"a.dcm": image, "b.zip": whole})
    pack(folder / "outside.zip", {"a.dcm": image, "../../b.dcm": image})
    pack(folder / "nothing.zip", {"a.txt": b"text"})
    damaged = bytearray(whole)
    damaged[whole.index(b"a.dcm") + 200] ^= 0xFF
    (folder / "damaged.zip").write_bytes(damaged)
    problems = wait_until(lambda: watch.problems if len(watch.problems) == 5 else None, "all are reported")
    for name, words in {
        "cut": "damaged or not whole", "nested": "zip archive itself", "outside": "leads out",
        "nothing": "no DICOM file", "damaged": "1 of 1 files in it could not be taken",
    }.items():  # fmt: skip
        assert words in problems[f"{name}.zip"]
    assert box.rows() == []
    assert box.files() == []
    (folder / "cut.zip").write_bytes(whole)
    taken(box, 1)


# --- media --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("watch")
def test_a_medium_is_taken_without_its_directory_and_its_viewer(folder: Path, box: Box, tmp_path: Path) -> None:
    make_medium(tmp_path / "cd", 3)
    (tmp_path / "cd" / "VIEWER.EXE").write_bytes(b"MZ" + bytes(500))
    shutil.move(tmp_path / "cd", folder / "cd")
    assert {row["sender"] for row in taken(box, 3)} == {f"cd/IMAGES/IM{n}" for n in range(3)}
    wait_until(lambda: (folder / TAKEN / "cd" / "DICOMDIR").exists(), "the directory goes last")
    assert (folder / TAKEN / "cd" / "VIEWER.EXE").exists()
    assert len(box.rows()) == 3


def test_what_a_medium_lacks_is_named_until_it_comes(watch: DropFolder, folder: Path, box: Box, tmp_path: Path) -> None:
    """Copied in lower case, as Linux shows ISO 9660, and one of the files could not be read."""
    lost = make_medium(tmp_path / "cd", 3)[1].read_bytes()
    for number in (0, 2):
        (folder / "cd" / "images").mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "cd" / "IMAGES" / f"IM{number}", folder / "cd" / "images" / f"im{number}")
    shutil.copy(tmp_path / "cd" / "DICOMDIR", folder / "cd" / "dicomdir")
    problems = wait_until(lambda: watch.problems if len(watch.problems) == 2 else None, "it is named")
    assert "names 3 files, and 1 of them did not come" in problems["cd/dicomdir"]
    assert "did not come" in problems["cd/IMAGES/IM1"]
    assert len(box.rows()) == 2
    time.sleep(2.5)
    assert len(watch.problems) == 2, "it stays a problem"
    (folder / "cd" / "images" / "im1").write_bytes(lost)
    taken(box, 3)
    wait_until(lambda: not watch.problems, "nothing is missing any more")


def test_a_zipped_medium_is_held_against_its_directory(
    watch: DropFolder, folder: Path, box: Box, tmp_path: Path
) -> None:
    make_medium(tmp_path / "cd", 2)
    found = [path for path in (tmp_path / "cd").rglob("*") if path.is_file() and path.name != "IM1"]
    pack(folder / "cd.zip", {str(path.relative_to(tmp_path)): path.read_bytes() for path in found})
    problem = wait_until(lambda: watch.problems.get("cd.zip"), "it is reported")
    assert "names 2 files, and 1 of them did not come" in problem
    assert len(box.rows()) == 1


def test_a_directory_that_leads_out_is_refused(tmp_path: Path) -> None:
    make_medium(tmp_path / "cd", 1)
    directory = (tmp_path / "cd" / "DICOMDIR").read_bytes()
    assert [each.file_id for each in media.read_directory(directory)] == [("IMAGES", "IM0")]
    with pytest.raises(ImageError, match="outside its folder"):
        media.read_directory(directory.replace(b"IMAGES\\IM0", b"..\\..\\ROOT"))


# --- the watch itself -----------------------------------------------------------------------------------------------


def _watches() -> int:
    """Of this process, as the kernel counts them."""
    found = 0
    for path in Path("/proc/self/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += path.read_text().count("inotify wd:")
    return found


@pytest.mark.usefixtures("watch")
def test_what_was_taken_is_watched_no_longer(folder: Path, box: Box, tmp_path: Path) -> None:
    before = _watches()
    for number in range(8):
        make_radiograph(tmp_path / f"study{number}" / "deep" / "a.dcm", seed=number)
        shutil.move(tmp_path / f"study{number}", folder / f"study{number}")
    taken(box, 8)
    wait_until(lambda: len(list((folder / TAKEN).rglob("a.dcm"))) == 8, "all are moved away")
    for number in range(8):
        shutil.rmtree(folder / f"study{number}")
    wait_until(lambda: _watches() == before, "no watch is left of them")


def test_a_watch_that_died_is_told_and_files_are_still_found(
    watch: DropFolder, folder: Path, box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    observer = watch._watch._observer
    assert observer is not None
    assert watch.watch_problem == ""
    for emitter in observer.emitters:
        emitter.stop()
        emitter.join()
    make_radiograph(folder / "a.dcm")
    taken(box, 1)
    wait_until(lambda: "stopped" in watch.watch_problem, "it is told")
    monkeypatch.setattr(watching, "_START_AGAIN_SECONDS", 0.0)
    wait_until(lambda: watch.watch_problem == "", "it is started again")
    make_radiograph(folder / "b.dcm", seed=1)
    taken(box, 2)


def test_where_the_kernel_has_no_watches_left_files_are_still_found(
    folder: Path, box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object) -> None:
        raise OSError(errno.ENOSPC, "inotify watch limit reached")

    monkeypatch.setattr(watching.InotifyFD, "add_callback", none_left)
    dropped = DropFolder(config.DropFolder(settle_seconds=SETTLE), folder, box.intake)
    dropped.start()
    try:
        assert dropped.watch_problem
        make_radiograph(folder / "a.dcm")
        taken(box, 1)
    finally:
        dropped.stop()
