"""Files that are made to break what reads them: damaged ones by the thousand, and bombs of each kind."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pydicom
from pydicom.encaps import encapsulate
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from appliance import budget
from tests.dicom_files import make_radiograph
from tests.running import CHECKOUT

PYDICOM_FILES = Path(pydicom.__file__).parent / "data"
SHARED = CHECKOUT.parent / "shared" / "dicom"
_PATIENT_NAME = b"\x10\0\x10\0PN"
_ITEM = b"\xfe\xff\0\xe0"


def real_files() -> list[Path]:
    """Those of pydicom's own test set, and those beside the checkout where they are there."""
    found = [path for path in PYDICOM_FILES.rglob("*") if path.suffix not in (".py", ".pyc", ".json")]
    found += SHARED.rglob("*") if SHARED.is_dir() else []
    return sorted(path for path in found if path.is_file())


def sources(folder: Path) -> list[Path]:
    """Small radiographs of several transfer syntaxes, to be damaged."""
    syntaxes = ("1.2.840.10008.1.2.1", JPEG2000Lossless, JPEGLSLossless, RLELossless)
    made = [
        make_radiograph(folder / f"source-{number}.dcm", rows=64, columns=48, transfer_syntax=syntax)
        for number, syntax in enumerate(syntaxes)
    ]
    implicit = pydicom.dcmread(made[0])
    implicit.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2")
    pydicom.dcmwrite(folder / "implicit.dcm", implicit, implicit_vr=True, little_endian=True)
    deflated = pydicom.dcmread(made[0])
    deflated.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    deflated.save_as(folder / "deflated.dcm")
    return [*made, folder / "implicit.dcm", folder / "deflated.dcm"]


def mutated(content: bytes, chance: random.Random) -> bytes:
    """Bytes flipped, lengths replaced, pieces cut out, doubled or put elsewhere, the end cut off."""
    damaged = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        at = chance.randrange(len(damaged)) if chance.random() < 0.5 else chance.randrange(min(len(damaged), 1500))
        kind = chance.randrange(6)
        if kind == 0:
            damaged[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            damaged[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif kind == 2:
            damaged[at : at + 4] = struct.pack("<L", chance.choice((0, 1, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)))
        elif kind == 3:
            del damaged[at : at + chance.randrange(1, 64)]
        elif kind == 4:
            piece = damaged[at : at + chance.randrange(1, 64)]
            damaged[at:at] = piece * chance.choice((1, 2, 50))
        elif chance.random() < 0.3:
            del damaged[at:]
        if not damaged:
            return b"\0"
    return bytes(damaged)


def bombs(folder: Path) -> Iterator[Path]:
    """Small files that cost gigabytes, minutes or the process where nothing limits them."""
    plain = make_radiograph(folder / "plain.dcm", rows=64, columns=48)
    whole = plain.read_bytes()
    head = whole[: whole.index(_PATIENT_NAME)]
    deep = b"\x40\0\x75\x02SQ\0\0\xff\xff\xff\xff" + _ITEM + b"\xff\xff\xff\xff"
    yield _file(folder / "nested.dcm", head + deep * 5000)
    yield with_items(folder / "items.dcm", plain, 1_000_000)
    at = whole.index(b"\xe0\x7f\x10\0")  # the pixel data: before it, and the image is whole
    texts, numbers = b"1\\" * 3_000_000, b"1.0\\" * 2_000_000  # Numeric Value, of a million values
    yield _file(
        folder / "texts.dcm", whole[:at] + b"\x40\0\x60\xa1UC\0\0" + struct.pack("<L", len(texts)) + texts + whole[at:]
    )
    yield _file(
        folder / "numbers.dcm",
        whole[:at] + b"\x40\0\x0a\xa3UN\0\0" + struct.pack("<L", len(numbers)) + numbers + whole[at:],
    )
    yield deflated(folder / "deflate.dcm", plain, 1600)
    yield _changed(
        folder / "rle.dcm", plain, RLELossless, 65535, 65535, struct.pack("<16L", 1, 64, *[0] * 14) + b"\x81\0" * 64
    )
    for size in (20_000, 7_000):
        codestream = _jpeg_2000(size)
        yield _changed(folder / f"j2k-{size}.dcm", plain, JPEG2000Lossless, size, size, codestream)
    yield _changed(folder / "j2k-lies.dcm", plain, JPEG2000Lossless, 64, 48, _jpeg_2000(20_000))
    yield _file(folder / "meta.dcm", whole[:132] + b"\x02\0\x03\0UI\0\0" * 500_000 + whole[132:])


def with_items(path: Path, plain: Path, count: int) -> Path:
    """A sequence of so many empty items, and nothing after it."""
    whole = plain.read_bytes()
    sequence = b"\x40\0\x75\x02SQ\0\0" + struct.pack("<L", 8 * count) + (_ITEM + b"\0\0\0\0") * count
    return _file(path, whole[: whole.index(_PATIENT_NAME)] + sequence)


def deflated(path: Path, plain: Path, mebibytes: int) -> Path:
    """A deflated data set that grows by so much."""
    dataset = pydicom.dcmread(plain)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path)
    content = path.read_bytes()
    with path.open("rb") as file:
        start, _ = budget.data_set_start(file)
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = packer.compress(zlib.decompress(content[start:], -zlib.MAX_WBITS))
    packed += packer.compress(b"\x09\0\x10\x10OB\0\0" + struct.pack("<L", mebibytes << 20))
    block = bytes(1 << 22)
    for _ in range(mebibytes // 4):
        packed += packer.compress(block)
    return _file(path, content[:start] + packed + packer.flush())


def _jpeg_2000(size: int) -> bytes:
    """A valid codestream of a black image of any size, as an encoder makes one with an empty packet for each tile."""
    marker = struct.pack
    siz = marker(">HHLLLLLLLLH", 41, 0, size, size, 0, 0, size, size, 0, 0, 1) + bytes((15, 1, 1))
    cod = marker(">HBBHBBBBBB", 12, 0, 0, 1, 0, 5, 4, 4, 0, 1)
    qcd = marker(">HB", 19, 0x40) + bytes([0x80] * 16)
    body = b"\xff\x93" + bytes(6)
    sot = marker(">HHLBB", 10, 0, 12 + len(body), 0, 1)
    return b"\xff\x4f\xff\x51" + siz + b"\xff\x52" + cod + b"\xff\x5c" + qcd + b"\xff\x90" + sot + body + b"\xff\xd9"


def _changed(path: Path, plain: Path, syntax: UID, rows: int, columns: int, frame: bytes) -> Path:
    dataset = pydicom.dcmread(plain)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.Rows, dataset.Columns = rows, columns
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)
    return path


def _file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
