"""Zip archives from outside: what is refused as a whole and why, and that limits are kept whatever a file says."""

from __future__ import annotations

import io
import stat
import subprocess
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance import archive
from appliance.archive import Archive
from appliance.errors import ArchiveError


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as made:
        for name, content in members.items():
            made.writestr(name, content)
    return buffer.getvalue()


def refusal(content: bytes) -> str:
    with pytest.raises(ArchiveError) as refused:
        Archive(io.BytesIO(content))
    return str(refused.value)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_members_come_out_as_they_went_in(method: int) -> None:
    members = {"a.dcm": b"x" * 1_000_000, "b/c.dcm": b"", "d/": b""}
    opened = Archive(io.BytesIO(zipped(members, method)))
    assert {each.name: b"".join(opened.read(n)) for n, each in enumerate(opened.members)} == {
        "a.dcm": members["a.dcm"], "b/c.dcm": b"",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["../a", "x/../../a", "/etc/passwd", "..\\a", "C:\\a", "C:a"])
def test_names_that_lead_out_are_refused(name: str) -> None:
    assert "leads out of the archive (1 of 2)" in refusal(zipped({"good.dcm": b"x", name: b"x"}))


def test_archives_within_archives_are_refused() -> None:
    assert "is a zip archive itself (1 of 2)" in refusal(zipped({"a.dcm": b"x", "inner.ZIP": zipped({"b": b"y"})}))


def test_links_are_refused() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        made.writestr(link, "/etc/passwd")
    assert "is no plain file (1 of" in refusal(buffer.getvalue())


def test_encrypted_ones_are_named(tmp_path: Path) -> None:
    """By a real encryptor where there is one; else by the flag that it would set."""
    (tmp_path / "a.dcm").write_bytes(b"secret" * 100)
    try:
        subprocess.run(["zip", "-q", "-P", "password", "a.zip", "a.dcm"], cwd=tmp_path, check=True)
        content = (tmp_path / "a.zip").read_bytes()
    except FileNotFoundError:
        content = bytearray(zipped({"a.dcm": b"x"}))
        content[content.index(b"PK\x01\x02") + 8] |= 1
        content[6] |= 1
        content = bytes(content)
    assert "is encrypted (1 of" in refusal(content)


def test_bombs_are_refused_before_they_unpack() -> None:
    assert "would unpack to 1000 MB" in refusal(zipped({"bomb": b"\0" * 1_000_000_000}))


def test_a_directory_that_understates_a_member_gives_no_more_than_it_says() -> None:
    content = bytearray(zipped({"a": b"x" * 100_000}))
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        place = content.index(signature) + offset
        content[place : place + 4] = (10).to_bytes(4, "little")
    opened = Archive(io.BytesIO(bytes(content)))
    with pytest.raises(ArchiveError):
        b"".join(opened.read(0))


def test_too_many_members_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MOST_MEMBERS", 3)
    assert "holds 4 files" in refusal(zipped({f"{n}": b"" for n in range(4)}))


WHOLE = zipped({f"{n}.dcm": bytes(range(256)) * 20 for n in range(3)})


@settings(max_examples=300)
@given(data=st.data())
def test_whatever_is_damaged_ends_in_words(data: st.DataObject) -> None:
    content = bytearray(WHOLE[: data.draw(st.integers(0, len(WHOLE)))])
    for _ in range(data.draw(st.integers(0, 5))):
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        opened = Archive(io.BytesIO(bytes(content)))
        for number, member in enumerate(opened.members):
            assert sum(map(len, opened.read(number))) <= member.size
    except ArchiveError as error:
        assert len(str(error)) > 20
