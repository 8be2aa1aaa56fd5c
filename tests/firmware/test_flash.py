"""Flashing on files and loop devices, with a medium that fails as media do, and the rules over recorded disks."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from firmware import keys, lsblk
from firmware.cli import flashing, main
from firmware.errors import BrokenError, FirmwareError, RefusedError, StoppedError
from firmware.flash import disks, manifest, records, writing
from firmware.flash.disks import Disk
from firmware.flash.manifest import PIECE, Manifest
from firmware.flash.medium import Medium
from firmware.labels import DATA_TYPE

CHECKOUT = Path(__file__).parents[2]
MIB = 1 << 20
SIZE, LEAST = 40 * MIB, 48 * MIB
DATA = SIZE - MIB
LINUX = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"


def entry(kind: str, name: str, begin: int, end: int) -> bytes:
    """Of a GPT."""
    number = uuid.uuid5(uuid.NAMESPACE_URL, name)
    return struct.pack("<16s16sQQQ72s", uuid.UUID(kind).bytes_le, number.bytes, begin // 512, end // 512 - 1, 0,
                       name.encode("utf-16-le"))  # fmt: skip


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Manifest, public key, raw image: some pieces, some holes; a box's data partition begins in its last MiB."""
    folder = tmp_path_factory.mktemp("image")
    keys.make(folder / "keys")
    raw, rng = folder / "raw.img", random.Random(7)
    table = (
        entry("C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "esp", MIB, 16 * MIB),
        entry(LINUX, "root-a", 16 * MIB, 28 * MIB),
        entry(LINUX, "root-b", 28 * MIB, DATA),
    )
    with raw.open("wb") as file:
        file.truncate(SIZE)
        file.write(rng.randbytes(512) + b"EFI PART".ljust(512, b"\0") + b"".join(table))
        for offset, length in (
            (5 * MIB, 3 * MIB), (8 * MIB + 8192, 6 * MIB), (20 * MIB + 4096, 4096), (SIZE - 512, 512),
        ):  # fmt: skip
            file.seek(offset)
            file.write(rng.randbytes(length))
    path = manifest.make(raw, folder / "out", folder / "keys" / "image.key", "1.0.0", 1, "generic", LEAST)
    return path, folder / "keys" / "image.pub", raw


@pytest.fixture
def loaded(image: tuple[Path, Path, Path]) -> Manifest:
    return manifest.load(image[0], [image[1]])


@pytest.fixture(autouse=True)
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return writing.notes_folder()


def flash(loaded: Manifest, path: Path, notes: Path, kind: type[Medium] = Medium, **options: int) -> int:
    disk = Disk(path, path.stat().st_size if path.exists() else 0, is_file=True)
    return writing.flash(loaded, disk, lambda done, phase: None, notes, lambda at, size: kind(at, size, **options))


def run(image: tuple[Path, Path, Path], *arguments: str | Path) -> Result:
    board = ["--board", "generic"] if arguments[0] == "flash" and "--board" not in arguments else []
    return CliRunner().invoke(main, [*map(str, arguments), "--key", str(image[1]), *board])


def holds(path: Path, raw: Path) -> bool:
    content = raw.read_bytes()
    return path.read_bytes()[: len(content)] == content


def starts(path: Path) -> bool:
    """Whether there is a partition table."""
    return any(path.read_bytes()[:4096])


# --- the manifest ---


def test_holes_are_left_out(loaded: Manifest) -> None:
    assert loaded.bytes_to_write < 12 * MIB
    assert max(piece.length for piece in loaded.pieces) <= PIECE


def test_a_manifest_that_was_changed_or_signed_by_others(image: tuple[Path, Path, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(image[0].parent, tmp_path / "stick")
    keys.make(tmp_path / "stranger")
    with pytest.raises(RefusedError, match="was not signed"):
        manifest.load(folder / "manifest.json", [tmp_path / "stranger" / "image.pub"])
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace('"generic"', '"jetson"'))
    with pytest.raises(RefusedError, match="changed after it was signed"):
        manifest.load(folder / "manifest.json", [image[1]])
    (folder / "manifest.json.sig").unlink()
    with pytest.raises(RefusedError, match="is missing"):
        manifest.load(folder / "manifest.json", [image[1]])


def test_a_signature_counts_for_its_purpose_only(image: tuple[Path, Path, Path]) -> None:
    from firmware import signing

    with pytest.raises(RefusedError):
        signing.verify_file(image[0], [image[1]], "site configuration 1")


def test_half_an_image_and_a_damaged_one(image: tuple[Path, Path, Path], tmp_path: Path, notes: Path) -> None:
    folder = shutil.copytree(image[0].parent, tmp_path / "stick")
    payload = next(folder.glob("*.blocks"))
    content = payload.read_bytes()
    payload.write_bytes(content[:-5000])
    with pytest.raises(BrokenError, match="half an image"):
        manifest.load(folder / "manifest.json", [image[1]])
    payload.write_bytes(content[:6_000_000] + b"?" + content[6_000_001:])
    with pytest.raises(BrokenError, match="is damaged at byte"):
        flash(manifest.load(folder / "manifest.json", [image[1]]), tmp_path / "disk", notes)
    assert not starts(tmp_path / "disk")
    payload.unlink()
    with pytest.raises(BrokenError, match="is missing"):
        manifest.load(folder / "manifest.json", [image[1]])


# --- writing ---


def test_a_file_holds_what_was_flashed(image: tuple[Path, Path, Path], tmp_path: Path) -> None:
    target = tmp_path / "disk"
    done = run(image, "flash", image[0], target, "--file", "--asset", "RAD-0042", "--records", tmp_path / "records",
               "--by", "Anna")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert holds(target, image[2])
    assert target.stat().st_size == LEAST
    assert "holds generic 1.0.0" in run(image, "verify", image[0], target).output
    kept = json.loads((tmp_path / "records" / "RAD-0042.json").read_text())
    assert kept["version"] == "1.0.0" and kept["board"] == "generic" and kept["disk"]["size"] == LEAST
    assert kept["flashed_by"] == kept["verified_by"] == "Anna" and kept["flashed_at"] == kept["verified_at"]
    assert "<path" in (tmp_path / "records" / "RAD-0042.svg").read_text()
    later = ["--asset", "RAD-0043", "--by", "Ben", "--records", tmp_path / "records"]
    assert run(image, "record", image[0], target, *later).exit_code == 0
    verified = json.loads((tmp_path / "records" / "RAD-0043.json").read_text())
    assert verified["verified_by"] == "Ben" and verified["verified_at"]
    assert not {"flashed_at", "flashed_by"} & set(verified), "who flashed it, and when, is not known"


@pytest.mark.parametrize(
    ("assets", "said"),
    [
        (("RAD-0042", "RAD-0042"), "the asset numbers RAD-0042 and RAD-0042 would be one record, RAD-0042.json"),
        (("RAD/1", "RAD_1"), "would be one record, RAD_1.json"),
        (("rad-1", "RAD-1"), "would be one record"),  # on a stick with FAT
        (("..", "RAD-0042"), "'..' is no asset number"),
        (("RAD-0041", "RAD-0040"), "RAD-0040.json is there already, and is of another disk"),
        (("RAD/0040", "RAD-0042"), None),
    ],
)
def test_each_disk_has_a_record_of_its_own(
    image: tuple[Path, Path, Path], tmp_path: Path, assets: tuple[str, str], said: str | None
) -> None:
    kept, targets = tmp_path / "records", [tmp_path / "one", tmp_path / "two"]
    kept.mkdir()
    there = json.dumps({"asset": "RAD-0040", "disk": {"serial": "", "path": "/dev/sdx"}})
    (kept / "RAD-0040.json").write_text(there)
    numbers = [part for asset in assets for part in ("--asset", asset)]
    for _ in range(1 if said else 2):  # the same command again is no other disk
        done = run(image, "flash", image[0], *targets, "--file", *numbers, "--records", kept)
        assert done.exit_code == (1 if said else 0) and (said or "") in done.output
        assert [target.exists() for target in targets] == [said is None] * 2, "found before anything is written"
    assert (kept / "RAD-0040.json").read_text() == there
    assert len(list(kept.glob("*.json"))) == (1 if said else 3)


def test_what_was_there_before_is_gone(
    loaded: Manifest, image: tuple[Path, Path, Path], tmp_path: Path, notes: Path
) -> None:
    """An old LUKS header where data will begin, and an old backup table at the end, would come back to life; so would
    what lies under zeros of the image, such as an old table of free clusters."""
    target, raw = tmp_path / "disk", image[2].read_bytes()
    target.write_bytes(b"\xff" * (LEAST + 8 * MIB))
    flash(loaded, target, notes)
    content = target.read_bytes()
    assert content[DATA:SIZE] == raw[DATA:] and not any(content[SIZE : SIZE + MIB])
    assert not any(content[-MIB:])
    assert content[:MIB] == raw[:MIB], "the partition table"
    assert content[5 * MIB : 14 * MIB + 8192] == raw[5 * MIB : 14 * MIB + 8192]
    assert content[20 * MIB + 4096 : 20 * MIB + 8192] == raw[20 * MIB + 4096 : 20 * MIB + 8192]


def test_several_at_once_and_json(image: tuple[Path, Path, Path], tmp_path: Path) -> None:
    targets = [tmp_path / f"disk{number}" for number in range(3)]
    done = run(image, "flash", image[0], *targets, "--file", "--json")
    assert done.exit_code == 0, done.output
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert {each["target"] for each in events if each["event"] == "flashed" and each["ok"]} == set(map(str, targets))
    assert all(holds(target, image[2]) for target in targets)


def test_one_bad_disk_among_several(image: tuple[Path, Path, Path], tmp_path: Path) -> None:
    done = run(image, "flash", image[0], tmp_path / "good", tmp_path / "missing" / "disk", "--file", "--json")
    assert done.exit_code == 1
    said = {each["target"]: each for each in map(json.loads, done.stdout.splitlines()) if each["event"] == "flashed"}
    assert said[str(tmp_path / "good")]["ok"] and not said[str(tmp_path / "missing" / "disk")]["ok"]


def test_the_wrong_boards_image(image: tuple[Path, Path, Path], tmp_path: Path) -> None:
    done = run(image, "flash", image[0], tmp_path / "disk", "--board", "jetson-orin")
    assert done.exit_code == 1 and "this image is for generic" in done.output
    assert not (tmp_path / "disk").exists()


@pytest.mark.parametrize("answer", ["", "n", "y"])
def test_without_a_board_it_asks_on_a_terminal_and_refuses_elsewhere(
    image: tuple[Path, Path, Path], tmp_path: Path, answer: str
) -> None:
    target = tmp_path / "disk"
    command = [sys.executable, "-m", "firmware", "flash", image[0], target, "--file", "--key", image[1]]
    mine, its = os.openpty() if answer else os.pipe()[::-1]
    os.write(mine, answer.encode() + b"\n")
    done = subprocess.run(command, stdin=its, stderr=subprocess.PIPE, text=True, cwd=CHECKOUT, check=False)
    os.close(mine)
    os.close(its)
    assert "generic 1.0.0: for virtual machines" in done.stderr
    assert ("Are the disks for such machines?" in done.stderr) == bool(answer)
    assert ("--board generic" in done.stderr) == (not answer)
    assert (done.returncode, target.exists()) == ((0, True) if answer == "y" else (1, False))


def test_no_key_is_no_trust(image: tuple[Path, Path, Path], tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["flash", str(image[0]), str(tmp_path / "disk"), "--file"])
    assert done.exit_code == 2 and "--key" in done.output
    assert not (tmp_path / "disk").exists()


@pytest.mark.parametrize("arguments", [["--help"], ["flash", "--help"]])
def test_the_examples_of_the_help_are_whole(arguments: list[str]) -> None:
    examples = re.findall(r"scanside-firmware flash .*", CliRunner().invoke(main, arguments).output)
    assert examples and all(example.endswith("--key image.pub") for example in examples)


@pytest.mark.parametrize("place", ["/dev/sdz", "link"])
@pytest.mark.parametrize("options", [[], ["--file"]])
def test_a_disk_that_is_not_there_becomes_no_file(
    image: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, options: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("/dev/sdz")
    records = ["--asset", "RAD-0042", "--records", str(tmp_path / "records")]
    done = run(image, "flash", image[0], place, *records, *options)
    assert done.exit_code == 1 and f"there is no disk {place}" in done.output
    assert not Path("/dev/sdz").exists() and not (tmp_path / "records").exists()


def test_a_disk_that_is_unplugged_before_it_is_opened_becomes_no_file(
    loaded: Manifest, tmp_path: Path, notes: Path
) -> None:
    with pytest.raises(FirmwareError, match="No such file") as caught:
        writing.flash(loaded, Disk(tmp_path / "sdz", LEAST, "S4EVNX0M1"), lambda done, phase: None, notes)
    assert "plug it in" in caught.value.hint
    assert not (tmp_path / "sdz").exists()


def test_a_file_is_written_only_where_it_is_asked_for(image: tuple[Path, Path, Path], tmp_path: Path) -> None:
    (tmp_path / "thesis.odt").write_text("three years")
    for name in ("thesis.odt", "new.img"):
        done = run(image, "flash", image[0], tmp_path / name)
        assert done.exit_code == 1 and "--file" in done.output
    assert (tmp_path / "thesis.odt").read_text() == "three years" and not (tmp_path / "new.img").exists()


class Interrupted(Medium):
    """Stops (Ctrl-C, a flat battery) after so many writes."""

    def __init__(self, path: Path, length: int | None, writes: int) -> None:
        super().__init__(path, length)
        self._left = writes

    def write(self, offset: int, content: bytes) -> None:
        if not self._left:
            raise KeyboardInterrupt
        self._left -= 1
        super().write(offset, content)


@pytest.mark.parametrize("writes", range(0, 17, 2))
def test_an_interruption_anywhere(
    loaded: Manifest, image: tuple[Path, Path, Path], tmp_path: Path, notes: Path, writes: int
) -> None:
    target = tmp_path / "disk"
    target.write_bytes(b"\xff" * LEAST)
    try:
        flash(loaded, target, notes, Interrupted, writes=writes)
    except KeyboardInterrupt:
        assert writes == 0 or not starts(target)  # nothing was touched, or it does not start half
    flash(loaded, target, notes)
    assert all(target.read_bytes()[p.offset : p.offset + p.length] == loaded.read(p) for p in loaded.pieces)


_SLOW = """
import os, sys, time
from firmware.cli import main
write = os.pwrite
os.pwrite = lambda file, content, offset: (time.sleep(0.04), write(file, bytes(content[:65536]), offset))[1]
sys.argv[0] = "scanside-firmware"
main()
"""  # as if every 64 kiB took 0.04 s


@pytest.mark.long
def test_control_c_stops_all_disks_and_the_same_command_goes_on(image: tuple[Path, Path, Path], tmp_path: Path) -> None:
    targets = [tmp_path / "one", tmp_path / "two"]
    command = ["flash", str(image[0]), *map(str, targets), "--file", "--board", "generic", "--key", str(image[1])]
    with subprocess.Popen(
        [sys.executable, "-c", _SLOW, *command], stderr=subprocess.PIPE, text=True, cwd=CHECKOUT
    ) as slow:
        assert slow.stderr is not None
        said = [next(slow.stderr)]
        while "write" not in said[-1]:
            said.append(next(slow.stderr))
        begin = time.monotonic()
        slow.send_signal(signal.SIGINT)
        slow.send_signal(signal.SIGINT)
        said.append(slow.stderr.read())
    assert slow.returncode == 1
    assert time.monotonic() - begin < 60
    for target in targets:
        assert (
            f"{target} was stopped; it does not start as it is\n    run the same command again: it goes on" in said[-1]
        )
        assert not starts(target)
    done = run(image, *command[:-2])
    assert done.exit_code == 0 and done.output.count("were there from an interrupted run") == 2
    assert all(holds(target, image[2]) for target in targets)


@pytest.mark.parametrize("place", ["state", "records"])
def test_a_note_or_a_record_that_cannot_be_kept(image: tuple[Path, Path, Path], tmp_path: Path, place: str) -> None:
    (tmp_path / place).write_text("a file where a folder should be")
    disk, missing, records = tmp_path / "disk", tmp_path / "missing" / "disk", tmp_path / "records"
    assets = ["--asset", "RAD-0042", "--asset", "RAD-0043", "--records", str(records)]
    done = run(image, "flash", image[0], disk, missing, "--file", *assets)
    assert done.exit_code == 1 and f"{missing} can't be made" in done.output
    assert holds(disk, image[2])
    if place == "state":
        assert f"{disk}: generic 1.0.0, every byte read back" in done.output
        assert "how far it came can't be noted" in done.output and "Not a directory" in done.output
        assert (records / "RAD-0042.json").exists()
    else:
        assert "every byte compared, and no record" in done.output and "--asset RAD-0042" in done.output


def test_a_disk_that_was_used_for_something_else_since_an_interruption_is_not_called_worn_out(
    loaded: Manifest, tmp_path: Path, notes: Path
) -> None:
    target, stop = tmp_path / "disk", threading.Event()

    def say(done: int, phase: str) -> None:
        if phase == "verify":
            stop.set()

    disk = Disk(target, 0, is_file=True)
    with pytest.raises(StoppedError, match="does not start") as stopped:
        writing.flash(loaded, disk, say, notes, stop=stop)
    assert stopped.value.hint.endswith("goes on where it stopped")
    with target.open("r+b") as file:
        file.seek(6 * MIB)
        file.write(b"photographs")
    with pytest.raises(BrokenError, match="does not hold what was written") as broken:
        flash(loaded, target, notes)
    assert broken.value.hint.startswith("run the same command again, which begins from the start")
    assert flash(loaded, target, notes) == 0


def test_resuming_writes_only_what_is_missing(
    loaded: Manifest, image: tuple[Path, Path, Path], tmp_path: Path, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = Manifest(**{**loaded.__dict__, "pieces": tuple(
        manifest.Piece(p.offset + at, min(65536, p.length - at), p.at + at, "") for p in loaded.pieces
        for at in range(0, p.length, 65536))})  # fmt: skip
    many = Manifest(**{**many.__dict__, "pieces": tuple(_hashed(many, piece) for piece in many.pieces)})
    with pytest.raises(KeyboardInterrupt):
        flash(many, tmp_path / "disk", notes, Interrupted, writes=60)
    kept = flash(many, tmp_path / "disk", notes)
    assert kept >= 3 * 16 * 65536 - 65536
    assert holds(tmp_path / "disk", image[2])
    assert not list(notes.glob("*"))


@pytest.mark.parametrize(("serial", "again"), [("S4EVNX0M1", False), ("", True)])
def test_what_an_interrupted_run_left_counts_for_that_disk_alone(
    loaded: Manifest, tmp_path: Path, notes: Path, serial: str, again: bool
) -> None:
    """Another stick without a serial number may be at the same path then."""
    disk = Disk(tmp_path / "sdb", LEAST, serial)
    disk.path.write_bytes(bytes(LEAST))
    first, *rest = loaded.pieces
    pieces = (first, *(piece for piece in rest for _ in range(9)))  # a note is kept after 16
    many = Manifest(**{**loaded.__dict__, "pieces": pieces})

    def flashed(kind: Callable[[Path, int | None], Medium]) -> int:
        return writing.flash(many, disk, lambda done, phase: None, notes, kind, find=lambda _: disk)

    with pytest.raises(KeyboardInterrupt):
        flashed(lambda path, length: Interrupted(path, length, writes=24))
    assert (flashed(Medium) == 0) == again


def _hashed(whole: Manifest, piece: manifest.Piece) -> manifest.Piece:
    import hashlib

    with (whole.folder / whole.payload).open("rb") as file:
        file.seek(piece.at)
        digest = hashlib.sha256(file.read(piece.length)).hexdigest()
    return manifest.Piece(piece.offset, piece.length, piece.at, digest)


class Flipping(Medium):
    """Gives back another byte than it was given."""

    def read(self, offset: int, length: int) -> bytes:
        content = bytearray(super().read(offset, length))
        if offset <= 6 * MIB < offset + length:
            content[6 * MIB - offset] ^= 1
        return bytes(content)


class Lying(Medium):
    """Says that it is large and wraps around: what comes later lands over what came before."""

    def write(self, offset: int, content: bytes) -> None:
        super().write(offset % (12 * MIB), content)

    def read(self, offset: int, length: int) -> bytes:
        return super().read(offset % (12 * MIB), length)


class Forged(Medium):
    """Claims 512 MiB, of which it has ``real``, beyond the image; what is beyond wraps around, or is dropped."""

    def __init__(self, path: Path, length: int | None, real: int, wraps: bool) -> None:
        super().__init__(path, length)
        self._real, self._wraps = real, wraps

    def size(self) -> int:
        return 512 * MIB

    def _at(self, offset: int) -> int:
        return offset % self._real if self._wraps else offset

    def write(self, offset: int, content: bytes) -> None:
        if self._at(offset) < self._real:
            super().write(self._at(offset), content)

    def read(self, offset: int, length: int) -> bytes:
        return super().read(self._at(offset), length) if self._at(offset) < self._real else bytes(length)


class Failing(Medium):
    """Its 4th write ends in an error of the system."""

    def __init__(self, path: Path, length: int | None, number: int) -> None:
        super().__init__(path, length)
        self._number, self._writes = number, 0

    def write(self, offset: int, content: bytes) -> None:
        self._writes += 1
        with pytest.MonkeyPatch.context() as patch:
            if self._writes == 4:
                patch.setattr(os, "pwrite", self._fail)
            super().write(offset, content)

    def _fail(self, *_: object) -> int:
        raise OSError(self._number, os.strerror(self._number))


class Shrinking(Medium):
    """Has fewer bytes than it had when it was listed."""

    def size(self) -> int:
        return 32 * MIB


@pytest.mark.parametrize("kind", [Flipping, Lying])
def test_a_disk_that_does_not_keep_what_it_is_given(
    loaded: Manifest, tmp_path: Path, notes: Path, kind: type[Medium]
) -> None:
    with pytest.raises(BrokenError, match="does not hold what was written"):
        flash(loaded, tmp_path / "disk", notes, kind)
    assert not list(notes.glob("*")), "an interrupted run's note would be believed"
    assert not starts(tmp_path / "disk")


@pytest.mark.parametrize(("real", "wraps"), [(LEAST, False), (LEAST, True), (64 * MIB, True), (333 * MIB + 12288, True),
                                             (500 * MIB, True), (500 * MIB, False)])  # fmt: skip
def test_a_disk_that_lies_about_its_size_beyond_the_image(
    loaded: Manifest, tmp_path: Path, notes: Path, real: int, wraps: bool
) -> None:
    with pytest.raises(BrokenError, match=r"does not (keep|hold) what") as caught:
        flash(loaded, tmp_path / "disk", notes, Forged, real=real, wraps=wraps)
    assert "do not put it into a box" in caught.value.hint
    if not wraps:
        assert not any((tmp_path / "disk").read_bytes()[:SIZE]), "it was found before the image was written"
    assert not starts(tmp_path / "disk") and not list(notes.glob("*"))


def test_what_tries_a_disks_size_is_cleared_again_after_an_interruption_too(
    loaded: Manifest, image: tuple[Path, Path, Path], tmp_path: Path, notes: Path
) -> None:
    target = tmp_path / "disk"
    with target.open("wb") as file:
        file.truncate(600 * MIB)
    with pytest.raises(KeyboardInterrupt):
        flash(loaded, target, notes, Interrupted, writes=100)
    with target.open("rb") as file:
        file.seek(SIZE)
        assert any(file.read(4096))
    flash(loaded, target, notes)
    assert holds(target, image[2])
    with target.open("rb") as file:
        file.seek(SIZE)
        while content := file.read(16 * MIB):
            assert not any(content)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EIO, "can't be written at byte"),
        (errno.ENOSPC, "ends at byte"),
        (errno.ENODEV, "was unplugged at byte"),
        (errno.ENXIO, "was unplugged"),
    ],
)
def test_a_disk_that_fails_in_the_middle(
    loaded: Manifest, tmp_path: Path, notes: Path, number: int, words: str
) -> None:
    with pytest.raises(BrokenError, match=words):
        flash(loaded, tmp_path / "disk", notes, Failing, number=number)
    assert not starts(tmp_path / "disk")


def test_a_disk_that_shrank(loaded: Manifest, tmp_path: Path, notes: Path) -> None:
    with pytest.raises(BrokenError, match="has 33554432 bytes now"):
        flash(loaded, tmp_path / "disk", notes, Shrinking)


def change(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def test_verify_finds_one_byte(image: tuple[Path, Path, Path], tmp_path: Path) -> None:
    target = tmp_path / "disk"
    run(image, "flash", image[0], target, "--file")
    change(target, 10 * MIB, bytes([target.read_bytes()[10 * MIB] ^ 128]))
    done = run(image, "verify", image[0], target)
    assert done.exit_code == 1 and "does not hold generic 1.0.0: 1 of" in done.output
    assert "flash it again" in done.output and "started" not in done.output


def test_verify_tells_a_disk_that_a_box_has_started_from(image: tuple[Path, Path, Path], tmp_path: Path) -> None:
    made, target = image[0], tmp_path / "disk"
    assert run(image, "flash", made, target, "--file").exit_code == 0
    change(target, 1024 + 3 * 128, entry(DATA_TYPE, "data", DATA, LEAST - MIB))
    change(target, 6 * MIB, b"loader/random-seed")
    started = run(image, "verify", made, target)
    assert started.exit_code == 1 and "a box has started from" in started.output
    assert "the partition table, esp: not as flashed; root-a: byte for byte as in generic 1.0.0" in started.output
    assert "no sign of damage" in started.output and "do not put it" not in started.output
    assert "flashing alone does not erase" in started.output and "factory-reset it" in started.output
    record = run(image, "record", made, target, "--asset", "RAD-0042", "--records", tmp_path / "records")
    assert record.exit_code == 1 and not (tmp_path / "records").exists()
    change(target, 20 * MIB + 4096, b"another root")
    updated = run(image, "verify", made, target)
    assert updated.exit_code == 1 and "esp, root-a: not as flashed" in updated.output
    assert "changed by an update, or is damaged" in updated.output and "no sign of damage" not in updated.output


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() or shutil.which("losetup") is None:
        pytest.skip("loop devices need root")
    backing = tmp_path / "backing"
    with backing.open("wb") as file:
        file.truncate(LEAST + MIB)
    done = subprocess.run(["losetup", "--find", "--show", str(backing)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no loop device: {done.stderr.strip()}")
    yield Path(done.stdout.strip())
    subprocess.run(["losetup", "--detach", done.stdout.strip()], check=False)


def test_a_real_block_device(image: tuple[Path, Path, Path], loop: Path, tmp_path: Path) -> None:
    done = run(image, "flash", image[0], loop)
    assert done.exit_code == 0, done.output
    assert run(image, "verify", image[0], loop).exit_code == 0
    assert str(loop) in CliRunner().invoke(main, ["list"]).output
    change(loop, 6 * MIB, b"another")
    assert "does not hold" in run(image, "verify", image[0], loop).output


@pytest.mark.parametrize("changed", [{"serial": "S4EVNX0M2"}, {"size": 2 * LEAST}, {"model": "Ultra Fit"}])
def test_a_disk_that_took_the_place_of_the_one_that_was_judged_is_not_touched(
    image: tuple[Path, Path, Path],
    loop: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changed: dict[str, object],
) -> None:
    judged = {"name": loop.name, "path": str(loop), "type": "loop", "size": LEAST + MIB, "serial": "S4EVNX0M1",
              "model": "Stick", "ro": False}  # fmt: skip
    for name, row in (("first", judged), ("then", judged | changed)):
        (tmp_path / name).write_text(json.dumps({"blockdevices": [row]}))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/lsblk").write_text(f"#!/bin/sh\ncd {tmp_path} && cat first && cp then first\n")
    (tmp_path / "bin/lsblk").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    change(loop, 6 * MIB, b"three years")
    done = run(image, "flash", image[0], loop)
    assert done.exit_code == 1 and f"{loop} is another disk now" in done.output and "not touched" in done.output
    assert loop.read_bytes()[6 * MIB : 6 * MIB + 11] == b"three years"


def test_a_disk_is_judged_after_the_question(
    image: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is asked may change the stick before the answer."""
    asked: list[str] = []
    monkeypatch.setattr(flashing, "_ask", lambda *_: asked.append("asked"))
    monkeypatch.setattr(disks, "find", lambda path, **_: (_ for _ in ()).throw(RefusedError(f"{asked} {path}")))
    done = CliRunner().invoke(main, ["flash", str(image[0]), "/dev/sdz", "--key", str(image[1])])
    assert done.exit_code == 1 and "['asked'] /dev/sdz" in done.output


def test_a_block_device_that_is_too_small_or_read_only(
    image: tuple[Path, Path, Path], loop: Path, tmp_path: Path
) -> None:
    subprocess.run(["blockdev", "--setro", str(loop)], check=True)
    done = run(image, "flash", image[0], loop)
    subprocess.run(["blockdev", "--setrw", str(loop)], check=True)
    assert done.exit_code == 1 and "read-only" in done.output
    os.truncate(tmp_path / "backing", 8 * MIB)
    subprocess.run(["losetup", "--set-capacity", str(loop)], check=True)
    assert "the image needs" in run(image, "flash", image[0], loop).output


# --- which disks ---

TREE = json.loads((Path(__file__).parent / "lsblk" / "workstation.json").read_text())


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/dev/nvme0n1", "the running system is on it (/)"),
        ("/dev/sda", "it is in use by LUKS"),
        ("/dev/sdb", "it is a member of a RAID"),
        ("/dev/sdc", "it is mounted on /media/user/STICK"),
        ("/dev/sdd", "it is read-only"),
        ("/dev/sde", "the image needs 4.0 GB"),
        ("/dev/sdf", "it holds swap space"),
        ("/dev/sdg", "a member of an LVM volume group"),
        ("/dev/sdh", "it is not removable"),
        ("/dev/sdi", "has no medium"),
    ],
)
def test_disks_that_are_refused(path: str, why: str) -> None:
    with pytest.raises(RefusedError) as caught:
        disks.find(Path(path), TREE).refuse(4_000_000_000, None)
    assert why in caught.value.message
    assert caught.value.hint


def test_the_typed_serial_number_opens_a_disk_that_is_not_removable() -> None:
    disk = disks.find(Path("/dev/sdh"), TREE)
    disk.refuse(4_000_000_000, "WD-WX11A1234567")
    with pytest.raises(RefusedError, match="its serial number is WD-WX11A1234567, not WD-WX"):
        disk.refuse(4_000_000_000, "WD-WX")


@pytest.mark.parametrize("kind", ["MMC", "SD", None])
def test_built_in_emmc_is_no_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str | None) -> None:
    """lsblk says of both that they can be plugged in; the kernel tells which is soldered."""
    tree = json.loads((Path(__file__).parent / "lsblk" / "mmc.json").read_text())
    for node in tree["blockdevices"]:
        del node["mmc-type"]
    if kind:
        (tmp_path / "mmcblk0/device").mkdir(parents=True)
        (tmp_path / "mmcblk0/device/type").write_text(f"{kind}\n")
    (tmp_path / "lsblk").write_text(f"#!/bin/sh\necho '{json.dumps(tree)}'\n")
    (tmp_path / "lsblk").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(disks, "_SYS", tmp_path)
    disk = next(each for each in disks.listed() if each.path == Path("/dev/mmcblk0"))
    assert [why for why, _ in disk.refusals()] == ([] if kind == "SD" else ["it is not removable"])
    disk.refuse(4_000_000_000, "0x9dc5a2f1")


def test_of_two_mmc_disks_the_card_is_taken() -> None:
    tree = json.loads((Path(__file__).parent / "lsblk" / "mmc.json").read_text())
    disks.find(Path("/dev/mmcblk1"), tree).refuse(4_000_000_000, None)
    with pytest.raises(RefusedError, match="not removable") as caught:
        disks.find(Path("/dev/mmcblk0"), tree).refuse(4_000_000_000, None)
    assert "--serial 0x9dc5a2f1" in caught.value.hint


def test_the_typed_serial_number_never_opens_a_disk_in_use() -> None:
    disk = disks.find(Path("/dev/nvme0n1"), TREE)
    with pytest.raises(RefusedError, match="the running system"):
        disk.refuse(0, disk.serial)


def test_a_free_stick_is_taken() -> None:
    disks.find(Path("/dev/sdj"), TREE).refuse(4_000_000_000, None)


def test_a_disk_with_other_sectors_than_the_image_is_refused() -> None:
    """All of it would be read back as written, and no firmware would find its partition table."""
    tree = json.loads((Path(__file__).parent / "lsblk" / "sectors.json").read_text())
    disks.find(Path("/dev/nvme0n1"), tree).refuse(4_000_000_000, "S7U8NU0Y812345")
    with pytest.raises(RefusedError, match="sectors of 4096 bytes") as caught:
        disks.find(Path("/dev/nvme1n1"), tree).refuse(4_000_000_000, "2411E8D2A6B1")
    assert "512e" in caught.value.hint and "adapter" in caught.value.hint


@pytest.mark.parametrize("path", ["/dev/sdc1", "/dev/nvme0n1p2", "/dev/mapper/vg-root", "/dev/sdz"])
def test_partitions_are_no_disks(path: str) -> None:
    with pytest.raises(RefusedError, match="no whole disk"):
        disks.find(Path(path), TREE)


def test_the_disk_of_this_machine_is_refused() -> None:
    """On the machine that runs the tests, with its own lsblk."""
    if shutil.which("lsblk") is None:
        pytest.skip("lsblk is not installed")
    for disk in disks.listed():
        if any("the running system" in use for use in disk.uses):
            with pytest.raises(RefusedError):
                disk.refuse(0, disk.serial)


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("#!/bin/sh\nexec sleep 60\n", "does not answer within 1 s: a disk of this machine hangs"),
        ("#!/bin/sh\necho broken >&2\nexit 1\n", "does not answer: broken"),
        ("#!/bin/sh\nexit 3\n", "does not answer: exit code 3"),
        (None, "lsblk is not installed"),
    ],
)
def test_a_machine_that_can_not_list_its_disks_says_so(
    program: str | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lsblk, "_SECONDS", 1.0)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}" if program else str(tmp_path))
    if program:
        (tmp_path / "lsblk").write_text(program)
        (tmp_path / "lsblk").chmod(0o755)
    done = CliRunner().invoke(main, ["list"])
    assert (done.exit_code, type(done.exception)) == (1, SystemExit)
    assert said in done.output
    assert len(done.output.splitlines()) == 2  # what happened, and what to do next


def test_a_character_device_is_no_disk(image: tuple[Path, Path, Path]) -> None:
    with pytest.raises(FirmwareError, match="neither a disk nor a file"):
        disks.find(Path("/dev/null"))


def test_a_label_holds_no_markup_of_strangers(loaded: Manifest) -> None:
    kept = records.record(loaded, Disk(Path("/dev/sdb"), 1, "<script>"), "<b>&", "me", flashed=True)
    assert "<script>" not in records.label(kept, "0" * 64)
