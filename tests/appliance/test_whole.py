"""Whether a file is whole is told by its content, for every kind of file and wherever it was cut."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from appliance.part10 import identify
from appliance.whole import examine
from tests.dicom_files import make_radiograph
from tests.peers import needs

SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian,
            JPEG2000Lossless, JPEGLSLossless, RLELossless)  # fmt: skip


CONVERTED = {
    ImplicitVRLittleEndian: "+ti",
    ExplicitVRBigEndian: "+tb",
    DeflatedExplicitVRLittleEndian: "+td",
}


def written(path: Path, syntax: str) -> bytes:
    if syntax not in CONVERTED:
        return make_radiograph(path, transfer_syntax=syntax).read_bytes()
    command = [needs("dcmconv"), CONVERTED[UID(syntax)], str(make_radiograph(path)), str(path.with_suffix(".to"))]
    subprocess.run(command, check=True, capture_output=True)
    return path.with_suffix(".to").read_bytes()


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    return {syntax: written(folder / f"{syntax}.dcm", syntax) for syntax in SYNTAXES}


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_whole_files_are_whole(syntax: str, contents: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(contents[syntax])
    assert examine(path).kind == "whole"
    identity = identify(contents[syntax])
    assert identity.is_dicom
    assert identity.sop_instance_uid == pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(syntax=st.sampled_from(SYNTAXES), share=st.floats(0, 1, exclude_max=True))
def test_a_file_that_was_cut_anywhere_is_never_whole(
    syntax: str, share: float, contents: dict[str, bytes], tmp_path: Path
) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(contents[syntax][: int(len(contents[syntax]) * share)])
    assert examine(path).kind in ("cut", "foreign")  # foreign where not even its prefix is there


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(syntax=st.sampled_from(SYNTAXES), data=st.data())
def test_whatever_is_in_a_file_it_has_a_verdict(
    syntax: str, data: st.DataObject, contents: dict[str, bytes], tmp_path: Path
) -> None:
    content = bytearray(contents[syntax])
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, min(len(content), 3000) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "a.dcm"
    path.write_bytes(content)
    examine(path)
    identify(bytes(content))


@given(st.binary(max_size=400))
def test_any_head_has_an_identity(head: bytes) -> None:
    identify(head)
    identify(bytes(128) + b"DICM" + head)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("reportsi.dcm", "plausible"),
        ("rtplan.dcm", "plausible"),
        ("ExplVR_LitEndNoMeta.dcm", "plausible"),
        ("MR_truncated.dcm", "cut"),
        ("image_dfl.dcm", "whole"),
        ("CT_small.dcm", "whole"),
        ("rtstruct.dump", "foreign"),
    ],
)
def test_files_of_others(name: str, kind: str) -> None:
    path = get_testdata_file(name, download=False)
    assert path is not None
    assert examine(Path(str(path))).kind == kind


def test_an_image_without_its_pixels_is_not_whole(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(make_radiograph(tmp_path / "a.dcm"))
    del dataset.PixelData
    dataset.save_as(tmp_path / "a.dcm")
    assert "pixel data is missing" in examine(tmp_path / "a.dcm").reason


def test_a_uid_of_many_parts_is_no_uid_and_costs_nothing() -> None:
    """pydicom alone splits and validates each of them."""
    value = b"1\\" * 100_000
    head = bytes(128) + b"DICM" + struct.pack("<HH2sH", 2, 0x10, b"UI", 18) + b"1.2.840.10008.1.2\0"
    found = identify(head + struct.pack("<HHL", 8, 0x18, len(value)) + value)
    assert found.is_dicom
    assert found.sop_instance_uid == ""
