"""UEFI Secure Boot: our keys as files by which a machine in setup mode takes them, and what the firmware says of it.

Source: UEFI Specification 2.10, 8.2.2 "Using the EFI_VARIABLE_AUTHENTICATION_2 descriptor" and 32.4.1 "Signature
Database". systemd-boot takes the files from ``loader/keys/auto`` of the ESP: db first, PK last.
"""

from __future__ import annotations

import datetime
import struct
import uuid
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import pkcs7

from firmware.errors import FirmwareError

_GLOBAL = uuid.UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
_DATABASE = uuid.UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
_X509, _PKCS7 = uuid.UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072"), uuid.UUID("4aafd29d-68df-49ee-8aa9-347d375665a7")
_OWNER = uuid.uuid5(uuid.NAMESPACE_URL, "scanside/secure-boot")
_ATTRIBUTES = 0x27  # non-volatile, for boot services and the system, authenticated by time
_OPTIONS = [pkcs7.PKCS7Options.DetachedSignature, pkcs7.PKCS7Options.Binary, pkcs7.PKCS7Options.NoAttributes]
# Variable -> whose certificate goes into it, and whose key signs that.
VARIABLES = {"PK": ("pk", "pk"), "KEK": ("kek", "pk"), "db": ("db", "kek")}


def make_update(
    variable: str,
    certificate: x509.Certificate,
    signer: x509.Certificate,
    key: rsa.RSAPrivateKey,
    at: datetime.datetime,
) -> bytes:
    """What is written to a variable so that it holds one certificate, signed at a time (UTC)."""
    der = certificate.public_bytes(serialization.Encoding.DER)
    size = 16 + len(der)
    content = _X509.bytes_le + struct.pack("<III", 28 + size, 0, size) + _OWNER.bytes_le + der
    time = struct.pack("<H5BxIhBx", at.year, at.month, at.day, at.hour, at.minute, at.second, 0, 0, 0)
    vendor = _DATABASE if variable == "db" else _GLOBAL
    signed = variable.encode("utf-16-le") + vendor.bytes_le + struct.pack("<I", _ATTRIBUTES) + time + content
    builder = pkcs7.PKCS7SignatureBuilder().set_data(signed).add_signer(signer, key, hashes.SHA256())
    signature = _signed_data(builder.sign(serialization.Encoding.DER, _OPTIONS))
    return time + struct.pack("<IHH", 24 + len(signature), 0x0200, 0x0EF1) + _PKCS7.bytes_le + signature + content


def holds(update: bytes, certificate: x509.Certificate, signer: x509.Certificate) -> bool:
    """Whether what `make_update` has made is of this certificate, signed by that one, which is in its signature."""
    ours, theirs = (each.public_bytes(serialization.Encoding.DER) for each in (certificate, signer))
    return update.endswith(ours) and theirs in update[: -len(ours)]


def check(keys: Path) -> None:
    """Whether a publisher's folder has the files, each of the certificate beside it.

    Raises
    ------
    FirmwareError
        With the one that it has not: a machine that took it would start nothing of this publisher's.
    """
    for variable, stems in VARIABLES.items():
        path = keys / f"{variable}.auth"
        certificates = (x509.load_pem_x509_certificate((keys / f"{stem}.pem").read_bytes()) for stem in stems)
        if not path.exists() or not holds(path.read_bytes(), *certificates):
            raise FirmwareError(
                f"{keys} has no {path.name} of {stems[0]}.pem, signed by {stems[1]}.key",
                hint=f"scanside-firmware keys {keys} makes what is missing",
            )


def _signed_data(content_info: bytes) -> bytes:
    """What is in PKCS #7's ContentInfo; the specification wants it without."""
    kind = _content(content_info, 0)
    explicit = kind + 2 + content_info[kind + 1]
    return content_info[_content(content_info, explicit) :]


def _content(der: bytes, at: int) -> int:
    """Where the content of the value at ``at`` begins (X.690, 8.1.3)."""
    return at + 2 + (der[at + 1] & 0x7F if der[at + 1] & 0x80 else 0)


def state(variables: Path) -> str:
    """``on``, ``off``, ``setup`` (no keys are there), or ``unknown``.

    Parameters
    ----------
    variables
        Where efivarfs is mounted.
    """
    if _flag(variables, "SecureBoot"):
        return "on"
    if _flag(variables, "SetupMode"):
        return "setup"
    return "unknown" if _flag(variables, "SecureBoot") is None else "off"


def _flag(variables: Path, name: str) -> bool | None:
    try:
        content = (variables / f"{name}-{_GLOBAL}").read_bytes()
    except OSError:
        return None
    return content[4:] == b"\1"  # its attributes come first
