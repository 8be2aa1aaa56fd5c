"""Pixels for the viewer: the values that the file has, at their full depth, out of a bounded cache."""

from __future__ import annotations

import gzip
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from flask.testing import FlaskClient
from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import JPEG2000Lossless

from appliance import image, retention, viewing
from appliance.config import Config, Retention
from appliance.custody import Custody
from appliance.series_store import Gathered
from appliance.store import Arrival, Store
from appliance.viewing import Description
from appliance.web.app import create_app
from tests.appliance.conftest import browser
from tests.dicom_files import hippocampus_pixels, make_radiograph, make_series


class Box:
    """Files in a spool and their rows, with the page of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = Config(data_dir=str(folder / "box"), retention=Retention(images_days=0.000001))
        self.store = Store(self.config.ledger_path)
        self.config.spool_path.mkdir(parents=True)
        self.client: FlaskClient = browser(create_app(self.config))

    def add(self, path: Path, in_series: bool = False) -> int:
        number = len(list(self.config.spool_path.iterdir()))
        (self.config.spool_path / f"{number}.dcm").write_bytes(path.read_bytes())
        header = image.read_header(path)
        uid = str(header.SOPInstanceUID)
        arrival = Arrival(uid, "1.2", f"{number}" * 64, f"{number}.dcm", 1, "storage_scp", "CT at 192.0.2.1")
        identifier = self.store.receive(arrival).instance_id
        self.store.claim("me", 30)
        if in_series:
            place = image.place_in_series(header)
            self.store.park(identifier, "me", {}, str(header.SeriesInstanceUID), place, "routine", 0.0, 1.0)
        else:
            self.store.triage(identifier, "me", {}, "routine", 0.0)
            self.store.reject(identifier, "me", "It is not read here.")
        return identifier

    def radiograph(self, **attributes: Any) -> int:
        name = f"{len(list(self.config.spool_path.iterdir()))}"
        return self.add(make_radiograph(self.folder / f"{name}.dcm", **attributes))

    def description(self, number: int) -> Description:
        answer = self.client.get(f"/study/{number}/pixels.json", buffered=True)
        assert answer.status_code == 200, answer.get_data(as_text=True)
        return msgspec.json.decode(answer.data, type=Description)

    def values(self, number: int, place: int = 0) -> np.ndarray:
        """Of a slice, as the viewer takes them."""
        told = self.description(number)
        answer = self.client.get(
            f"/study/{number}/pixels/{place}.raw", headers={"Accept-Encoding": "gzip"}, buffered=True
        )
        assert answer.headers["Content-Encoding"] == "gzip"
        assert "private" in answer.headers["Cache-Control"]
        plain = self.client.get(
            f"/study/{number}/pixels/{place}.raw", headers={"Accept-Encoding": "identity"}, buffered=True
        )
        assert plain.data == gzip.decompress(answer.data)
        stored = np.frombuffer(plain.data, "<i2" if told.signed else "<u2").reshape(told.rows, told.columns)
        return stored * told.slope + told.intercept


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    filled = Box(tmp_path_factory.mktemp("viewing"))
    yield filled
    filled.store.close()


def noise(low: int, high: int, dtype: type) -> np.ndarray:
    return np.random.default_rng(0).integers(low, high, (72, 64), endpoint=True).astype(dtype)


@pytest.mark.parametrize("syntax", [None, JPEG2000Lossless], ids=["raw", "jpeg2000"])
def test_whole_numbers_are_what_they_are(syntax: str | None, box: Box) -> None:
    pixels = noise(0, 4095, np.uint16)
    more = {"transfer_syntax": syntax} if syntax else {}
    assert (box.values(box.radiograph(pixels=pixels, **more)) == pixels).all()


def test_all_sixteen_bits_are_there(box: Box) -> None:
    pixels = noise(0, 65535, np.uint16)
    pixels[0, :2] = 0, 65535
    assert (box.values(box.radiograph(pixels=pixels, bits=16)) == pixels).all()


def test_hounsfield_units_are_signed(box: Box) -> None:
    pixels = noise(-2000, 3000, np.int16)
    number = box.radiograph(pixels=pixels, bits=16, Modality="CT", RescaleSlope="1", RescaleIntercept="-24",
                            RescaleType="HU")  # fmt: skip
    told = box.description(number)
    assert (box.values(number) == pixels - 24).all()
    assert (told.unit, told.signed) == ("HU", True)
    assert "Lung" in [window.name for window in told.windows]


def test_factors_keep_every_step(box: Box) -> None:
    pixels = noise(0, 4095, np.uint16)
    number = box.radiograph(pixels=pixels, RescaleSlope="0.137", RescaleIntercept="3.5", RescaleType="US")
    exact = pixels * 0.137 + 3.5
    assert np.abs(box.values(number) - exact).max() <= 0.137 / 2
    assert len(np.unique(box.values(number))) == len(np.unique(pixels))


def test_pixels_that_are_not_square_keep_their_shape(box: Box) -> None:
    """By their spacing, else by Pixel Aspect Ratio, which a scanner states where it knows no millimeters."""
    spaced = box.description(box.radiograph(PixelSpacing=[0.3, 0.2], seed=1))
    assert (spaced.spacing, spaced.aspect) == ((0.3, 0.2), pytest.approx(1.5))
    bare = box.description(box.radiograph(PixelAspectRatio=[2, 1], seed=2))
    assert (bare.spacing, bare.aspect) == (None, 2.0)
    assert box.description(box.radiograph(PixelAspectRatio=[0, 1], seed=3)).aspect == 1.0


def test_monochrome1_has_its_own_values_and_says_that_low_is_white(box: Box) -> None:
    pixels = noise(0, 4095, np.uint16)
    number = box.radiograph(pixels=pixels, photometric="MONOCHROME1", WindowCenter="2000", WindowWidth="500")
    told = box.description(number)
    assert told.inverted
    assert (box.values(number) == pixels).all()
    assert (told.windows[0].center, told.windows[0].width) == (2000, 500)


def test_windows_and_their_function_come_first(box: Box) -> None:
    number = box.radiograph(
        pixels=noise(0, 4095, np.uint16),
        WindowCenter=["2000", "1e9"],
        WindowWidth=["500", "1"],
        WindowCenterWidthExplanation=["LUNG", "NOTHING"],
        VOILUTFunction="LINEAR_EXACT",
    )
    first, *others = box.description(number).windows
    assert (first.name, first.center, first.width, first.function) == ("LUNG", 2000, 500, "LINEAR_EXACT")
    assert [each.name for each in others] == ["Automatic", "All values"]  # one that shows no pixel is none


def test_a_voi_lut_is_passed_on(box: Box) -> None:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [4, 1000, 8])
    item.LUTExplanation = "STEPS"
    item.add_new("LUTData", "US", [0, 80, 160, 255])
    broken = Dataset()
    broken.add_new("LUTDescriptor", "US", [400, 0, 12])
    broken.add_new("LUTData", "US", 1)
    number = box.radiograph(pixels=noise(0, 4095, np.uint16), VOILUTSequence=Sequence([item, broken]))
    (lut,) = box.description(number).luts
    assert (lut.name, lut.first, lut.bits, lut.values) == ("STEPS", 1000, 8, (0, 80, 160, 255))


def test_millimeters_are_of_the_patient_or_of_the_detector(box: Box) -> None:
    pixels = noise(0, 4095, np.uint16)
    patient = box.description(box.radiograph(pixels=pixels, PixelSpacing=["0.2", "0.1"]))
    detector = box.description(box.radiograph(pixels=pixels, ImagerPixelSpacing=["0.2", "0.1"]))
    neither = box.description(box.radiograph(pixels=pixels, seed=1))
    assert (patient.spacing, patient.at_detector) == ((0.2, 0.1), False)
    assert (detector.spacing, detector.at_detector) == ((0.2, 0.1), True)
    assert neither.spacing is None


@pytest.mark.parametrize(
    ("attributes", "edges"),
    [
        ({"PatientOrientation": ["L", "F"]}, ("R", "L", "H", "F")),
        ({"PatientOrientation": ["A", "FR"]}, ("P", "A", "HL", "FR")),
        ({"PatientOrientation": ["L"]}, None),
        ({"PatientOrientation": ["LEFT", "F"]}, None),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}, ("R", "L", "A", "P")),
        ({"ImageOrientationPatient": [0, 0.8, -0.6, -0.05, -0.6, -0.8]}, ("AH", "PF", "HP", "FA")),
        ({"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}, None),
        ({"PatientOrientation": ["A", "F"], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}, ("P", "A", "H", "F")),
        ({"ViewPosition": "PA", "PatientOrientation": None}, None),
    ],
)
def test_the_patients_sides_are_those_that_the_header_states(
    attributes: dict[str, Any], edges: tuple[str, ...] | None, box: Box
) -> None:
    """Patient Orientation is where rows and columns lead to (PS3.3 section C.7.6.1.1.1): the right and lower edge."""
    number = box.radiograph(**{"PatientOrientation": None, **attributes})
    assert box.description(number).edges == edges


@pytest.mark.parametrize("oblique", [False, True])
def test_a_series_is_a_stack_of_axial_slices(oblique: bool, tmp_path: Path) -> None:
    box = Box(tmp_path)
    pixels = hippocampus_pixels(6, 10, 8)
    tilted = np.array([[0, -0.6, 0.8], [0, 0.8, 0.6], [1, 0, 0]]) if oblique else np.eye(3)[::-1]
    cut = {"spacing": (2.0, 1.0, 0.5), "order": (1, 0, 2), "flipped": (1,), "directions": tilted}
    paths = make_series(box.folder / "series", pixels, **cut)
    members = [box.add(path, in_series=True) for path in paths]
    places = tuple(image.place_in_series(image.read_header(path)) for path in paths)
    box.store.start_series(Gathered(members[0], len(paths), "", places, (), 0.0, None), "by hand")
    box.store.claim("me", 30)
    box.store.fail(members[0], "me", "It is not read here.")
    for number in (members[0], members[1]):  # a slice leads to its series
        told = box.description(number)
        assert (told.slices, told.rows, told.columns, told.spacing) == (6, 10, 8, (1.0, 0.5))
        # Whatever the slices of the scanner were; and those that are not quite axial are not said to be.
        assert told.edges == (("R", "L", "AF", "PH") if oblique else ("R", "L", "A", "P"))
    for place in range(6):
        assert (box.values(members[0], place) == pixels[place]).all()
    assert box.client.get(f"/study/{members[0]}/pixels/6.raw").status_code == 404
    box.store.close()


def test_what_can_not_be_shown_is_said(box: Box) -> None:
    path = make_radiograph(box.folder / "cut.dcm", pixels=noise(0, 4095, np.uint16))
    cut = box.folder / "cut-off.dcm"
    cut.write_bytes(path.read_bytes()[:-1000])
    for number, words in ((box.add(cut), "pixel"), (999, "not there any more")):
        answer = box.client.get(f"/study/{number}/pixels.json")
        assert answer.status_code == 404
        assert words in answer.get_data(as_text=True).lower()


def test_the_cache_is_bounded_and_goes_with_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box = Box(tmp_path)
    numbers = [box.radiograph(pixels=noise(0, 4095, np.uint16), seed=seed) for seed in range(3)]
    for number in numbers[:2]:
        box.description(number)
    size = sum(file.stat().st_size for file in (box.config.pixels_path / "1").iterdir())
    monkeypatch.setattr(viewing, "_MOST_CACHED", int(size * 2.5))
    time.sleep(0.05)  # the clock of files is a coarse one
    box.description(numbers[0])  # looked at later than the second
    box.description(numbers[2])
    assert sorted(path.name for path in box.config.pixels_path.iterdir()) == ["1", "3"]
    custody = Custody(box.config.ledger_path)
    for number in numbers:
        custody.review(number)
    retention.remove(box.config, custody)
    custody.close()
    assert list(box.config.pixels_path.iterdir()) == []
    assert box.client.get("/study/1/pixels.json").status_code == 404
    box.store.close()


def test_the_picture_of_a_report_has_the_size_that_it_says(tmp_path: Path) -> None:
    from appliance.web.assessing import _size

    path = tmp_path / "image.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 320, 5760))
    assert _size(path) == (320, 5760)
    assert _size(tmp_path / "none.png") == (1, 1)
