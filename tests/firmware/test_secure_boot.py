"""Secure Boot: the files by which a machine without keys takes ours, and what a box says of it. Their real judge is
the firmware of `tests/firmware/vm`."""

from __future__ import annotations

import shutil
import struct
import subprocess
import uuid
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from firmware import health, keys, secure_boot
from firmware.errors import FirmwareError
from tests.firmware.boxes import make_box

GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
DATABASE = "d719b2cb-3d3a-4596-a3bc-dad00e67656f"


def tagged(tag: int, content: bytes) -> bytes:
    """A value in DER."""
    return bytes((tag, 0x82, *len(content).to_bytes(2, "big"))) + content


@pytest.mark.parametrize(
    ("variable", "vendor", "held", "signer"),
    [("PK", GLOBAL, "pk", "pk"), ("KEK", GLOBAL, "kek", "pk"), ("db", DATABASE, "db", "kek")],
)
def test_each_file_holds_one_certificate_and_is_signed(
    publisher: Path, tmp_path: Path, variable: str, vendor: str, held: str, signer: str
) -> None:
    """As the UEFI Specification lays it out, with OpenSSL as the judge of the signature."""
    content = (publisher / f"{variable}.auth").read_bytes()
    time, (length, revision, kind) = content[:16], struct.unpack("<IHH", content[16:24])
    assert (revision, kind, time[7:]) == (0x0200, 0x0EF1, bytes(9))
    assert uuid.UUID(bytes_le=content[24:40]) == uuid.UUID("4aafd29d-68df-49ee-8aa9-347d375665a7")
    signature, database = content[40 : 16 + length], content[16 + length :]
    whole, header, size = struct.unpack("<III", database[16:28])
    der = x509.load_pem_x509_certificate((publisher / f"{held}.pem").read_bytes()).public_bytes(Encoding.DER)
    assert (whole, header, size) == (len(database), 0, 16 + len(der))
    assert database[44:] == der

    signed = variable.encode("utf-16-le") + uuid.UUID(vendor).bytes_le + struct.pack("<I", 0x27) + time + database
    (tmp_path / "signed").write_bytes(signed)
    oid = bytes.fromhex("06092a864886f70d010702")  # SignedData
    (tmp_path / "signature").write_bytes(tagged(0x30, oid + tagged(0xA0, signature)))
    command = ["openssl", "smime", "-verify", "-inform", "DER", "-binary", "-in", tmp_path / "signature", "-content",
               tmp_path / "signed", "-certfile", publisher / f"{signer}.pem", "-nointern", "-noverify"]  # fmt: skip
    assert subprocess.run(command, capture_output=True, check=True).stdout == signed
    (tmp_path / "signed").write_bytes(signed[:-1])
    assert subprocess.run(command, capture_output=True, check=False).returncode


def test_an_earlier_set_gets_what_it_lacks(publisher: Path, tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    shutil.copytree(publisher, folder)
    (folder / "KEK.auth").unlink()
    with pytest.raises(FirmwareError, match=r"no KEK\.auth of kek\.pem, signed by pk\.key"):
        secure_boot.check(folder)
    assert keys.make(folder) == [folder / "KEK.auth"]
    assert keys.make(folder) == []
    secure_boot.check(folder)


def test_a_key_that_was_made_anew_is_in_the_files(publisher: Path, tmp_path: Path) -> None:
    """As its certificate, and as whose signature it is; also where a cut came before the files were made."""
    folder = tmp_path / "keys"
    shutil.copytree(publisher, folder)
    (folder / "kek.key").write_bytes(b"")  # a cut left it
    assert {path.name for path in keys.make(folder)} == {"kek.key", "kek.pem", "KEK.auth", "db.auth"}
    for each in ("KEK.auth", "db.auth"):
        shutil.copy(publisher / each, folder)
        with pytest.raises(FirmwareError, match=f"has no {each}"):
            secure_boot.check(folder)
        assert keys.make(folder) == [folder / each]


def test_keys_that_are_kept_elsewhere_are_not_made_anew(publisher: Path, tmp_path: Path) -> None:
    """Boxes in the field trust them."""
    folder = tmp_path / "keys"
    shutil.copytree(publisher, folder)
    for each in ("update-ca.key", "pk.key", "kek.key", "image.key"):
        (folder / each).unlink()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert keys.make(folder) == []
    (folder / "db.auth").unlink()
    with pytest.raises(FirmwareError, match=r"kek\.key is not here") as caught:
        keys.make(folder)
    assert "bring it back" in caught.value.hint
    shutil.copy(publisher / "db.auth", folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("flags", "state", "said"),
    [
        ({"SecureBoot": 1, "SetupMode": 0}, "on", "starts only what the keys in it have signed"),
        ({"SecureBoot": 0, "SetupMode": 0}, "off", "switch Secure Boot on in its setup"),
        ({"SecureBoot": 0, "SetupMode": 1}, "setup", "has no keys"),
        ({}, "unknown", "does not say"),
    ],
)
def test_a_box_says_whether_it_is_on_and_stays_as_it_is(
    tmp_path: Path, flags: dict[str, int], state: str, said: str
) -> None:
    box = make_box(tmp_path / "box")
    variables = box.root / "sys/firmware/efi/efivars"
    variables.mkdir(parents=True, exist_ok=True)
    for name, value in flags.items():
        (variables / f"{name}-{GLOBAL}").write_bytes(bytes((6, 0, 0, 0, value)))
    assert secure_boot.state(variables) == state
    silent = subprocess.CompletedProcess([], 1, "", "does not run")
    (found,) = (each for each in health.examine(box, lambda _: silent, lambda: "") if each.what == "Secure Boot")
    assert (found.ok, found.counts) == (state == "on", False) and said in found.detail
