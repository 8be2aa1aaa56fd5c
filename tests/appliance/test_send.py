"""The scanner simulator: pictures become valid DICOM, and each file's fate is told."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image as PillowImage

from appliance.errors import ApplianceError, ImageError
from appliance.image import load
from appliance.send import Destination, parse_destination, send_files, wrap_image
from tests.dicom_files import chest_pixels, make_radiograph
from tests.peers import free_port, needs, storescp
from tests.running import scanside


def picture(path: Path, bits: int = 8) -> Path:
    PillowImage.fromarray(chest_pixels(91, 77, bits, seed=1)).save(path)
    return path


@pytest.mark.parametrize(("name", "bits"), [("a.png", 8), ("a.png", 16), ("a.jpg", 8)])
def test_a_wrapped_picture_is_a_valid_computed_radiograph(name: str, bits: int, tmp_path: Path) -> None:
    source = picture(tmp_path / name, bits)
    wrap_image(source, {"PatientAge": "004Y"}).save_as(tmp_path / "a.dcm", enforce_file_format=True)
    verdict = subprocess.run([needs("dciodvfy"), "-new", str(tmp_path / "a.dcm")], capture_output=True, text=True)
    assert verdict.returncode == 0, verdict.stderr
    expected = np.asarray(PillowImage.open(source))
    assert np.array_equal(load(tmp_path / "a.dcm").pixels, expected)


def test_the_same_picture_is_the_same_instance_and_other_attributes_are_another(tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png")
    one, two, other = (wrap_image(source, attributes) for attributes in ({}, {}, {"ViewPosition": "LL"}))
    assert one.SOPInstanceUID == two.SOPInstanceUID
    assert one.SOPInstanceUID != other.SOPInstanceUID
    assert other.ViewPosition == "LL"


@pytest.mark.parametrize("attributes", [{"Nonsense": "1"}, {"Rows": "5"}, {"PixelData": "x"}])
def test_attributes_that_cannot_be_set_are_named(attributes: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ApplianceError, match=next(iter(attributes))):
        wrap_image(picture(tmp_path / "a.png"), attributes)


def test_what_is_no_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"a\.png"):
        wrap_image(tmp_path / "a.png", {})


def test_each_file_has_its_answer(tmp_path: Path) -> None:
    make_radiograph(tmp_path / "in" / "a.dcm")
    picture(tmp_path / "in" / "b.png")
    (tmp_path / "in" / "c.txt").write_text("no image")
    with storescp(tmp_path / "out") as port:
        answers = list(send_files([tmp_path / "in"], Destination("PEER", "127.0.0.1", port), "TEST", {}, 2))
    assert {answer.path.name: answer.ok for answer in answers} == {"a.dcm": True, "b.png": True, "c.txt": False}
    assert len(list((tmp_path / "out").iterdir())) == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A@host:104", Destination("A", "host", 104)),
        ("MY PACS@10.0.0.1:11112", Destination("MY PACS", "10.0.0.1", 11112)),
        ("A@[::1]:104", Destination("A", "::1", 104)),
    ],
)
def test_destinations_are_read(text: str, expected: Destination) -> None:
    assert parse_destination(text) == expected


@pytest.mark.parametrize("text", ["", "host:104", "A@host", "A@host:0", "A@host:70000", "A" * 17 + "@host:104", "A@:1"])
def test_what_is_no_destination_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ApplianceError) as refused:
        parse_destination(text)
    assert "SCANSIDE@127.0.0.1:11112" in str(refused.value)


def test_the_command_says_what_became_of_the_files(tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png")
    with storescp(tmp_path / "out") as port:
        sent = scanside("send", source, "--to", f"PEER@127.0.0.1:{port}", "--set", "PatientAge=004Y")
        assert sent.returncode == 0, sent.stderr
        (arrived,) = (tmp_path / "out").iterdir()
        assert pydicom.dcmread(arrived).PatientAge == "004Y"
    failed = scanside("send", source, "--to", f"PEER@127.0.0.1:{free_port()}")
    assert failed.returncode == 1
    assert "can't be reached" in failed.stdout + failed.stderr
