"""Files are read in a process with limits: the same header and pixels as without, or the reason why not."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.dataelem import RawDataElement

from appliance import budget, config, image
from appliance.errors import ImageError, QuarantineError, SandboxError, SpoolError
from appliance.image import Reader
from appliance.sandbox import Sandbox
from tests import hostile_files
from tests.dicom_files import make_radiograph
from tests.shared_sandbox import sandbox

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")  # of values that are none
REAL = hostile_files.real_files()


@pytest.fixture
def own() -> Iterator[Sandbox]:
    """A sandbox that a test may break, with the least that it may have."""
    made = Sandbox(config.Sandbox(memory_mib=768, seconds=3.0))
    yield made
    made.close()


@pytest.mark.parametrize("reader", [image, sandbox()], ids=["plain", "sandbox"])
def test_what_the_disk_does_not_give_is_told_from_what_is_damaged(reader: Reader, tmp_path: Path) -> None:
    path = make_radiograph(tmp_path / "a.dcm")
    header = reader.read_header(path)
    path.unlink()
    with pytest.raises(SpoolError, match=r"the file a\.dcm can't be read: No such file or directory"):
        reader.read_header(path)
    with pytest.raises(SpoolError, match=r"the file a\.dcm can't be read"):
        reader.load(path, header)


def outcome(reader: Reader, path: Path) -> tuple[str, Dataset | None, image.Image | None]:
    """How a file ends here, in words, with what was read of it."""
    header = None
    try:
        header = reader.read_header(path)
        loaded = reader.load(path, header)
    except QuarantineError as error:
        return f"quarantined: {error}", header, None
    except ImageError as error:
        return f"rejected: {error}", header, None
    except SandboxError as error:
        if "too busy" in str(error):
            pytest.skip(f"this machine is too busy to tell: {error}")
        raise
    return "read", header, loaded


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.name)
def test_real_files_are_read_as_they_are_without_a_sandbox(path: Path) -> None:
    plain, plain_header, plain_image = outcome(image, path)
    boxed, header, loaded = outcome(sandbox(), path)
    assert boxed == plain
    assert (header is None) == (plain_header is None)
    if header is not None and plain_header is not None:
        assert header.file_meta == plain_header.file_meta
        assert image.describe(header) == image.describe(plain_header)
        assert header.keys() == plain_header.keys()
        for tag in header.keys():  # noqa: SIM118
            one, other = header.get_item(tag), plain_header.get_item(tag)
            if isinstance(one, RawDataElement) and isinstance(other, RawDataElement):
                assert one.value == other.value
    if loaded is not None and plain_image is not None:
        assert np.array_equal(loaded.pixels, plain_image.pixels)
        assert (loaded.pixels.dtype, loaded.spacing) == (plain_image.pixels.dtype, plain_image.spacing)
        loaded.pixels[0, 0] = 0  # it is nobody else's memory


def test_bombs_are_set_aside_or_harmless_and_the_next_file_is_read(tmp_path: Path) -> None:
    good = make_radiograph(tmp_path / "good.dcm")
    ended = {}
    for path in hostile_files.bombs(tmp_path):
        ended[path.stem] = outcome(sandbox(), path)[0]
        assert outcome(sandbox(), good)[0] == "read", path.name
    reasons = {
        "nested": "nested more than", "items": "elements and items", "deflate": "grows beyond", "meta": "file meta",
        "rle": "larger than any radiograph", "j2k-20000": "larger than any radiograph",
    }  # fmt: skip
    for name, reason in reasons.items():
        assert ended[name].startswith("quarantined: ")
        assert reason in ended[name]
    assert ended["j2k-lies"].startswith("rejected: The compressed image is 20000 x 20000")


def test_what_needs_more_memory_than_it_may_have_is_set_aside(tmp_path: Path) -> None:
    plain = make_radiograph(tmp_path / "good.dcm", rows=64, columns=48)
    with closing(Sandbox(config.Sandbox(memory_mib=600))) as own:  # less than the configuration may set
        said = outcome(own, hostile_files.deflated(tmp_path / "big.dcm", plain, 252))[0]
        assert said == "quarantined: Reading its header exceeds a limit (MemoryError)."
        assert outcome(own, plain)[0] == "read"


def test_a_process_that_gets_no_processor_is_replaced_and_no_file_to_blame(own: Sandbox, tmp_path: Path) -> None:
    good = make_radiograph(tmp_path / "good.dcm")
    assert outcome(own, good)[0] == "read"
    pid = own.pid
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(SandboxError, match=r"got 0\.0 s of a processor in 1 s.*too busy"):
        own.read_header(good)
    assert own.pid != pid
    assert outcome(own, good)[0] == "read"


def test_what_takes_too_long_is_set_aside(tmp_path: Path) -> None:
    slow = hostile_files.with_items(tmp_path / "slow.dcm", make_radiograph(tmp_path / "good.dcm"), 49_000)
    with closing(Sandbox(config.Sandbox(memory_mib=768, seconds=0.3))) as own:  # less than the configuration may set
        assert outcome(own, slow)[0] == "quarantined: Reading its header took longer than 0 s."


def test_a_process_that_has_died_since_is_no_files_fault(own: Sandbox, tmp_path: Path) -> None:
    good = make_radiograph(tmp_path / "good.dcm")
    assert outcome(own, good)[0] == "read"
    for number in (signal.SIGKILL, signal.SIGSEGV):
        os.kill(own.pid, number)
        assert outcome(own, good)[0] == "read"


def test_the_process_serves_again_for_files_that_behave(own: Sandbox, tmp_path: Path) -> None:
    good = make_radiograph(tmp_path / "good.dcm")
    damaged = tmp_path / "damaged.dcm"
    damaged.write_bytes(good.read_bytes()[:-100])
    (tmp_path / "none.dcm").write_bytes(b"hello")
    assert outcome(own, good)[0] == "read"
    pid = own.pid
    assert "not DICOM" in outcome(own, tmp_path / "none.dcm")[0]
    assert outcome(own, good)[0] == "read"
    assert own.pid == pid
    assert "ends after" in outcome(own, damaged)[0]
    assert own.pid != pid, "a decoder that met damaged pixels may have written where it should not"


def test_without_a_process_no_file_is_to_blame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "msgspec.py").write_text("raise ImportError('broken')")
    with pytest.raises(SandboxError, match="can't be started"):
        Sandbox(config.Sandbox()).read_header(make_radiograph(tmp_path / "good.dcm"))


def test_limits_of_structure_leave_real_objects_alone() -> None:
    for path in REAL:
        with path.open("rb") as file:
            try:
                budget.check(file)
            except QuarantineError as error:
                pytest.fail(f"{path.name}: {error}")
            except ImageError:
                continue


@pytest.mark.long
def test_damaged_files_are_read_rejected_or_set_aside(tmp_path: Path) -> None:
    chance, ends = random.Random(20260101), Counter[str]()
    originals = [path.read_bytes() for path in hostile_files.sources(tmp_path)]
    path = tmp_path / "damaged.dcm"
    for _ in range(150):
        path.write_bytes(hostile_files.mutated(chance.choice(originals), chance))
        ends[outcome(sandbox(), path)[0].partition(":")[0]] += 1
    assert set(ends) <= {"read", "rejected", "quarantined"}
    assert ends["read"], ends
    assert ends["rejected"], ends
