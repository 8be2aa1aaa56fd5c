"""From file to pixels: every transfer syntax against a second decoder, and files made to break it."""

from __future__ import annotations

import shutil
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from appliance import budget, decode, render
from appliance.errors import ImageError, InputError
from appliance.image import age_years, describe, load, read_header
from tests.dicom_files import chest_pixels, make_radiograph
from tests.peers import needs
from tests.running import CHECKOUT

REAL = CHECKOUT.parent / "shared" / "dicom" / "pydicom-data"
REAL_FILES = sorted(REAL.glob("*.dcm")) if REAL.is_dir() else []
needs_real = pytest.mark.skipif(not REAL_FILES, reason="no real DICOM files beside the checkout (shared/dicom)")


def test_every_decoder_is_installed() -> None:
    assert decode.missing_decoders() == []


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, RLELossless], ids=lambda uid: uid.name)
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_lossless_syntaxes_give_the_very_pixels(syntax: str, bits: int, tmp_path: Path) -> None:
    pixels = chest_pixels(64, 48, bits, seed=bits)
    decoded = load(make_radiograph(tmp_path / "a.dcm", pixels=pixels, bits=bits, transfer_syntax=syntax)).pixels
    assert np.array_equal(decoded, pixels)


@pytest.mark.parametrize(
    ("tool", "options", "syntax", "exact"),
    [
        ("dcmcjpeg", ("+e1",), "1.2.840.10008.1.2.4.70", True),
        ("dcmcjpeg", ("+el",), "1.2.840.10008.1.2.4.57", True),
        ("dcmcjpeg", ("+eb",), "1.2.840.10008.1.2.4.50", False),
        ("dcmcjpeg", ("+ee",), "1.2.840.10008.1.2.4.51", False),
        ("dcmcjpls", ("+el",), "1.2.840.10008.1.2.4.80", True),
        ("dcmcjpls", ("+en",), "1.2.840.10008.1.2.4.81", False),
        ("dcmcrle", (), "1.2.840.10008.1.2.5", True),
        ("dcmconv", ("+ti",), "1.2.840.10008.1.2", True),
        ("dcmconv", ("+tb",), "1.2.840.10008.1.2.2", True),
        ("dcmconv", ("+td",), "1.2.840.10008.1.2.1.99", True),
    ],
)
def test_what_dcmtk_encodes_is_read(
    tool: str, options: tuple[str, ...], syntax: str, exact: bool, tmp_path: Path
) -> None:
    bits = 8 if syntax.endswith(".50") else 12
    plain = make_radiograph(tmp_path / "plain.dcm", rows=128, columns=96, bits=bits)
    target = tmp_path / "encoded.dcm"
    subprocess.run([needs(tool), *options, str(plain), str(target)], check=True, capture_output=True)
    loaded = load(target)
    assert loaded.transfer_syntax_uid == syntax
    if not exact:  # what dcmtk's own decoder makes of it
        decoder, plain = tool.replace("dcmc", "dcmd"), tmp_path / "decoded.dcm"
        subprocess.run([needs(decoder), str(target), str(plain)], check=True, capture_output=True)
    assert np.abs(loaded.pixels.astype(float) - load(plain).pixels).max() <= (0 if exact else 1)


def test_monochrome1_is_turned_round(tmp_path: Path) -> None:
    pixels = chest_pixels(40, 30, 12, seed=1)
    bright = load(make_radiograph(tmp_path / "2.dcm", pixels=pixels)).pixels
    negative = pixels.max() + pixels.min() - pixels
    turned = load(make_radiograph(tmp_path / "1.dcm", pixels=negative, photometric="MONOCHROME1")).pixels
    assert np.array_equal(turned, bright)


def test_monochrome1_at_the_end_of_16_bits_does_not_overflow(tmp_path: Path) -> None:
    pixels = np.array([[65535, 60000], [50000, 40000]], dtype=np.uint16)
    turned = load(make_radiograph(tmp_path / "1.dcm", pixels=pixels, bits=16, photometric="MONOCHROME1")).pixels
    assert turned.min() == 40000
    assert turned.max() == 65535


def test_the_modality_lut_signs_and_unused_bits_count(tmp_path: Path) -> None:
    pixels = np.array([[-5, 0], [7, 2047]], dtype=np.int16)
    path = make_radiograph(tmp_path / "a.dcm", pixels=pixels, bits=12, RescaleSlope="2", RescaleIntercept="-10")
    assert load(path).pixels.tolist() == [[-20, -10], [4, 4084]]
    overlay = np.array([[0x8001, 0x0002], [0x4003, 0x0FFF]], dtype=np.uint16)
    assert load(make_radiograph(tmp_path / "b.dcm", pixels=overlay, bits=12)).pixels.tolist() == [[1, 2], [3, 4095]]


def test_a_sign_that_an_encoder_did_not_extend_counts(tmp_path: Path) -> None:
    pixels = chest_pixels(64, 48, 12, seed=1).astype(np.int16) - 2048
    short = (pixels & 0x0FFF).astype(np.uint16)
    plain = make_radiograph(tmp_path / "plain.dcm", pixels=short, bits=12, PixelRepresentation=1)
    encoded = tmp_path / "encoded.dcm"
    subprocess.run([needs("dcmcjpls"), "+el", str(plain), str(encoded)], check=True, capture_output=True)
    for path in (plain, encoded):
        assert (load(path).pixels == pixels).all()


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
def test_padding_is_no_brightness(photometric: str, tmp_path: Path) -> None:
    pixels = chest_pixels(40, 30, 12, seed=1) // 2 + 100
    pixels[:, :5] = 4000 if photometric == "MONOCHROME2" else 0
    padded = make_radiograph(tmp_path / "a.dcm", pixels=pixels, photometric=photometric)
    dataset = pydicom.dcmread(padded)
    dataset.add_new("PixelPaddingValue", "US", int(pixels[0, 0]))
    dataset.save_as(padded)
    shown = load(padded).pixels
    assert shown.max() < 3000
    assert (shown[:, :5] == shown.min()).all()


@pytest.mark.parametrize("value", ["high", ["1", "2"]])
def test_a_padding_value_that_is_no_number_is_none(value: object, tmp_path: Path) -> None:
    plain = make_radiograph(tmp_path / "a.dcm")
    dataset = pydicom.dcmread(plain)
    dataset.add_new("PixelPaddingValue", "LO", value)
    dataset.save_as(tmp_path / "b.dcm")
    assert (load(tmp_path / "b.dcm").pixels == load(plain).pixels).all()


def _with(path: Path, **values: object) -> Path:
    dataset = pydicom.dcmread(path)
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)
    return path


@pytest.mark.filterwarnings("ignore:Invalid value for VR DS")
@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"Rows": 60000, "Columns": 60000}, "larger than any radiograph"),
        ({"NumberOfFrames": 3}, "3 frames"),
        ({"PhotometricInterpretation": "RGB"}, "not grayscale"),
        ({"BitsStored": 20}, "Bits Stored 20"),
        ({"Rows": 0}, "no pixels"),
        ({"Rows": 4000}, "ends after"),
        ({"HighBit": 15}, "High Bit is 15 with 12 Bits Stored; it must be 11"),
        ({"RescaleSlope": "nan", "RescaleIntercept": "0"}, "no numbers"),
        ({"RescaleSlope": "inf", "RescaleIntercept": "0"}, "no numbers"),
    ],
)
def test_headers_that_lie_are_named(values: dict[str, object], word: str, tmp_path: Path) -> None:
    path = _with(make_radiograph(tmp_path / "a.dcm"), **values)
    with pytest.raises(ImageError, match=word):
        load(path)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless], ids=lambda uid: uid.name)
def test_a_codestream_of_another_size_is_refused_before_it_is_decoded(syntax: str, tmp_path: Path) -> None:
    path = make_radiograph(tmp_path / "a.dcm", rows=64, columns=48, transfer_syntax=syntax)
    with pytest.raises(ImageError, match="64 x 48 pixels"):
        load(_with(path, Rows=32, Columns=48))


def test_pixel_data_of_an_unknown_vr_is_damaged(tmp_path: Path) -> None:
    path = make_radiograph(tmp_path / "a.dcm", rows=64, columns=48)
    content = path.read_bytes()
    at = content.index(b"\xe0\x7f\x10\0OW")
    # A VR that is none has a length of 2 bytes.
    path.write_bytes(content[: at + 4] + b"OO" + (64 * 48 * 2).to_bytes(2, "little") + content[at + 12 :])
    with pytest.raises(ImageError, match="pixel data element is damaged"):
        load(path)


def test_a_deflate_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "MAX_INFLATED_BYTES", 1 << 20)
    dataset = pydicom.dcmread(make_radiograph(tmp_path / "a.dcm"))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.add_new(0x00091010, "OB", bytes(4 << 20))
    dataset.save_as(tmp_path / "bomb.dcm")
    assert (tmp_path / "bomb.dcm").stat().st_size < 1 << 18
    with pytest.raises(ImageError, match="grows beyond"):
        read_header(tmp_path / "bomb.dcm")


def test_a_bare_data_set_is_read(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(make_radiograph(tmp_path / "a.dcm"))
    expected = load(tmp_path / "a.dcm").pixels
    del dataset.file_meta
    pydicom.dcmwrite(tmp_path / "bare.dcm", dataset, implicit_vr=True, little_endian=True)
    loaded = load(tmp_path / "bare.dcm")
    assert loaded.transfer_syntax_uid == ImplicitVRLittleEndian
    assert np.array_equal(loaded.pixels, expected)


@pytest.mark.parametrize("content", [b"", b"hello", b"\0" * 5000, b"\0" * 128 + b"DICM", zlib.compress(b"x" * 999)])
def test_what_is_not_dicom_is_an_image_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ImageError):
        read_header(tmp_path / "a")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Small files of several transfer syntaxes, to be damaged."""
    folder = tmp_path_factory.mktemp("sources")
    syntaxes = ("1.2.840.10008.1.2.1", JPEG2000Lossless, JPEGLSLossless, RLELossless)
    return [
        make_radiograph(folder / f"{number}.dcm", rows=64, columns=48, transfer_syntax=syntax)
        for number, syntax in enumerate(syntaxes)
    ]


@settings(max_examples=300, deadline=None)
@given(
    number=st.integers(0, 3),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6),
    end=st.one_of(st.just(1.0), st.floats(0, 1)),
)
def test_damaged_files_give_pixels_or_a_reason_and_nothing_else(
    number: int,
    changes: list[tuple[float, int]],
    end: float,
    sources: list[Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    content = bytearray(sources[number].read_bytes())
    for share, value in changes:
        content[132 + int(share * (len(content) - 133))] = value
    path = tmp_path_factory.getbasetemp() / "damaged.dcm"
    path.write_bytes(bytes(content[: round(len(content) * end)]))
    try:
        loaded = load(path)
    except InputError as error:
        assert len(str(error)) > 20
    else:
        assert loaded.pixels.ndim == 2
        describe(loaded.header)
        age_years(loaded.header)
        assert render.display(loaded, 32).dtype == np.uint8


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(share: float, tmp_path: Path) -> None:
    whole = make_radiograph(tmp_path / "a.dcm").read_bytes()
    (tmp_path / "b.dcm").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ImageError):
        load(tmp_path / "b.dcm")


@pytest.mark.parametrize(
    ("syntax", "says"), [(JPEG2000Lossless, "J2K"), (JPEGLSLossless, "JPEG-LS"), (RLELossless, "RLE")]
)
def test_a_damaged_codestream_says_what_its_decoder_found(syntax: str, says: str, tmp_path: Path) -> None:
    dataset = pydicom.dcmread(make_radiograph(tmp_path / "a.dcm", transfer_syntax=syntax))
    half = len(dataset.PixelData) // 2
    dataset.PixelData = dataset.PixelData[: half // 2] + bytes(half)
    dataset.save_as(tmp_path / "b.dcm")
    with pytest.raises(ImageError, match=rf"The pixel data is damaged: .*{says}") as found:
        load(tmp_path / "b.dcm")
    assert "plugins" not in str(found.value)


@needs_real
@pytest.mark.parametrize("path", REAL_FILES, ids=lambda path: path.name)
def test_real_files_give_pixels_or_a_reason(path: Path) -> None:
    try:
        loaded = load(path)
    except InputError as error:
        assert len(str(error)) > 20
    else:
        assert loaded.pixels.shape == (loaded.header.Rows, loaded.header.Columns)
        assert np.isfinite(loaded.pixels).all()


@needs_real
def test_a_real_jpeg_2000_image_has_the_pixels_of_its_uncompressed_twin() -> None:
    pairs = [(REAL / "693_J2KR.dcm", REAL / "693_UNCR.dcm"), (REAL / "MR2_J2KR.dcm", REAL / "MR2_UNCR.dcm")]
    there = [pair for pair in pairs if all(path.exists() for path in pair)]
    assert there
    for compressed, plain in there:
        assert np.array_equal(load(compressed).pixels, load(plain).pixels)


@pytest.mark.parametrize(
    "name",
    ["CT_small.dcm", "MR_small.dcm", "SC_rgb_rle.dcm", "rtdose.dcm", "rtplan.dcm", "waveform_ecg.dcm", "test-SR.dcm"],
)
def test_other_kinds_of_objects_have_a_header_that_can_be_read(name: str, tmp_path: Path) -> None:
    shutil.copy(str(get_testdata_file(name, download=False)), tmp_path / name)
    assert describe(read_header(tmp_path / name))["sop_class_uid"]


@pytest.mark.parametrize(
    ("attributes", "years"),
    [
        ({"PatientAge": "004Y"}, 4.0),
        ({"PatientAge": "006M"}, 0.5),
        ({"PatientAge": None, "PatientBirthDate": "20210102", "StudyDate": "20260102"}, 5.0),
        ({"PatientAge": None, "PatientBirthDate": ""}, None),
    ],
)
def test_age(attributes: dict[str, str | None], years: float | None, tmp_path: Path) -> None:
    found = age_years(read_header(make_radiograph(tmp_path / "a.dcm", **attributes)))
    assert found == (None if years is None else pytest.approx(years, abs=0.01))
