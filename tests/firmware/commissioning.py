"""What a site brings to a box, signed or certified, and what a box then has in force."""

from __future__ import annotations

import datetime
import subprocess
import tomllib
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from firmware import provisioning, signing
from firmware.box import Box
from firmware.durable import Files

SITE = """
[site]
name = "Hospital, basement 2"
version = {version}
time_zone = "Europe/Berlin"
ntp_servers = ["192.0.2.1"]
[network]
address = "192.0.2.5/24"
gateway = "192.0.2.254"
dns = ["192.0.2.1"]
[appliance.storage_scp]
ae_title = "{ae_title}"
[[appliance.destinations]]
name = "pacs"
ae_title = "ORTHANC"
host = "192.0.2.10"
port = 104
"""


def site(folder: Path, publisher: Path, version: int = 1, ae_title: str = "SCANSIDE", extra: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "site.toml"
    path.write_text(SITE.format(version=version, ae_title=ae_title) + extra)
    signing.sign_file(path, publisher / "site.key", provisioning.PURPOSE)
    return path


def taken(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess(arguments, 0, "", "")


def certify(request: bytes, days: int = 30, begin: int = -1, other_key: bool = False) -> bytes:
    """What a hospital's authority makes of a request."""
    csr = x509.load_pem_x509_csr(request)
    assert csr.is_signature_valid
    authority = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    public = ec.generate_private_key(ec.SECP256R1()).public_key() if other_key else csr.public_key()
    built = x509.CertificateBuilder().subject_name(csr.subject).issuer_name(csr.subject).public_key(public)
    built = built.serial_number(7).not_valid_before(now + datetime.timedelta(days=begin))
    signed = built.not_valid_after(now + datetime.timedelta(days=days)).sign(authority, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM)


WITH_FILES = """
[site]
name = "Hospital"
version = {version}
[[appliance.destinations]]
name = "pacs"
protocol = "stow"
url = "https://pacs.example/dicom-web"
tls = {{ca = "files/pacs-ca.pem"}}
login = {{username = "box", password_file = "files/pacs-password.txt"}}
[appliance.shadow]
approvers = "files/"
"""


def with_files(folder: Path, publisher: Path, version: int, password: str) -> Path:
    """As `scanside-firmware provision sign` makes it."""
    (folder / "files").mkdir(parents=True)
    (folder / "files/pacs-ca.pem").write_text("the hospital's authority")
    (folder / "files/pacs-password.txt").write_text(password)
    (folder / "files/J. Smith.pub").write_text("an approver's key")
    path = folder / "site.toml"
    path.write_text(WITH_FILES.format(version=version))
    path.write_text(provisioning.check(path, taken))
    signing.sign_file(path, publisher / "site.key", provisioning.PURPOSE)
    return path


def in_force(box: Box) -> tuple[Path, str]:
    """The password's file that the appliance is told, and what is in it."""
    tables = tomllib.loads(box.configuration.read_text())
    path = Path(tables["destinations"][0]["login"]["password_file"])
    assert (Path(tables["shadow"]["approvers"]) / "J. Smith.pub").exists() and path.stat().st_mode & 0o777 == 0o600
    assert Path(tables["destinations"][0]["tls"]["ca"]).read_text() == "the hospital's authority"
    return path, path.read_text()


RECOVERY_KEY = "-".join(["cbdefghi"] * 8)


def waits(box: Box) -> None:
    """A recovery key, as `data open` makes it."""
    Files().write(box.runtime / "recovery-key", RECOVERY_KEY.encode(), mode=0o600)
