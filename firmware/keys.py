"""Keys and certificates of a publisher: who may sign an image, a bundle, a kernel, a configuration.

``scanside-firmware keys FOLDER`` makes a development set. Each is for one thing, so that one that leaks opens one
door:

    update-ca.pem/.key      the authority of update bundles; its key belongs off-line
    release.pem/.key        signs bundles, made by update-ca
    image.pub/.key          Ed25519: manifests of images for flashing
    site.pub/.key           Ed25519: configurations from USB, and service tokens
    models.pub/.key         Ed25519: model packages (the appliance's own format)
    pk, kek, db .pem/.key   UEFI Secure Boot; db signs kernels and the boot loader
    PK, KEK, db .auth       these certificates, signed, for a machine that has none yet; on each image
"""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from firmware import secure_boot
from firmware.durable import Files
from firmware.errors import FirmwareError

ED25519 = ("image", "site", "models")
_CA_DAYS, _RELEASE_DAYS, _SECURE_BOOT_DAYS = 3650, 730, 3650


def make(folder: Path, name: str = "Scanside development") -> list[Path]:
    """A whole set; what is already there is kept. A key whose public part is there is kept elsewhere, not made anew.

    Raises
    ------
    FirmwareError
        The folder lies in a repository, or a key that is kept elsewhere is needed.
    """
    folder = folder.resolve()
    inside = next((each for each in (folder, *folder.parents) if (each / ".git").exists()), None)
    if inside:
        raise FirmwareError(f"{folder} lies in the repository {inside}", hint="keep keys outside, such as in ~/keys")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = []
    for each in ED25519:
        if _lacks(folder, each, "pub"):
            key = Ed25519PrivateKey.generate()
            _write_key(folder / f"{each}.key", key)
            public = key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            Files().write(folder / f"{each}.pub", public)
            made += [folder / f"{each}.key", folder / f"{each}.pub"]
    for each in ("pk", "kek", "db"):
        if _lacks(folder, each, "pem"):
            made += _certificate(folder, each, f"{name} {each.upper()}", _SECURE_BOOT_DAYS)
    for variable, (held, signer) in secure_boot.VARIABLES.items():
        path = folder / f"{variable}.auth"
        if not path.exists() or not secure_boot.holds(path.read_bytes(), _load(folder, held), _load(folder, signer)):
            update = secure_boot.make_update(
                variable, _load(folder, held), _load(folder, signer), _load_key(folder, signer), _now()
            )
            Files().write(path, update)
            made.append(path)
    if _lacks(folder, "update-ca", "pem"):
        made += _certificate(folder, "update-ca", f"{name} update CA", _CA_DAYS, authority=True)
    if _lacks(folder, "release", "pem"):
        made += sign_release(folder, f"{name} release", _RELEASE_DAYS)
    return made


def check(folder: Path) -> None:
    """Whether all is there that a build signs with, or puts into an image.

    Raises
    ------
    FirmwareError
        With what is not.
    """
    needed = ["update-ca.pem", "release.pem", "release.key", "site.pub", "image.pub", "models.pub"]
    if missing := [name for name in needed if not (folder / name).is_file()]:
        raise FirmwareError(f"{folder} has no {missing[0]}", hint="scanside-firmware keys FOLDER makes a set of keys")


def _lacks(folder: Path, stem: str, public: str) -> bool:
    """An empty key was left by a cut in an earlier version, and one without its public part by a cut."""
    key = folder / f"{stem}.key"
    return not (folder / f"{stem}.{public}").exists() or (key.exists() and not key.stat().st_size)


def sign_release(folder: Path, name: str, days: int) -> list[Path]:
    """A certificate that may sign bundles, for ``days``."""
    authority = _load(folder, "update-ca"), _load_key(folder, "update-ca")
    return _certificate(folder, "release", name, days, signed_by=authority)


def _load(folder: Path, stem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / f"{stem}.pem").read_bytes())


def _load_key(folder: Path, stem: str) -> rsa.RSAPrivateKey:
    path = folder / f"{stem}.key"
    if not path.exists():
        raise FirmwareError(f"{path} is not here, and has to sign something", hint="bring it back for this command")
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _certificate(
    folder: Path,
    stem: str,
    name: str,
    days: int,
    authority: bool = False,
    signed_by: tuple[x509.Certificate, rsa.RSAPrivateKey] | None = None,
) -> list[Path]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048 if stem in ("pk", "kek", "db") else 3072)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    begin = _now()
    # A certificate that has run out by the time that it counts from is for tests of just that.
    end = begin + datetime.timedelta(days=days)
    begin = min(begin, end) - datetime.timedelta(days=1)
    issuer, issuer_key = (signed_by[0].subject, signed_by[1]) if signed_by else (subject, key)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=0 if authority else None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .add_extension(_usage(authority), critical=True)
    )
    if not authority:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
    certificate = builder.sign(issuer_key, hashes.SHA256())
    _write_key(folder / f"{stem}.key", key)
    Files().write(folder / f"{stem}.pem", certificate.public_bytes(serialization.Encoding.PEM))
    return [folder / f"{stem}.key", folder / f"{stem}.pem"]


def _usage(authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority, key_cert_sign=authority, crl_sign=authority, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _write_key(path: Path, key: rsa.RSAPrivateKey | Ed25519PrivateKey) -> None:
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    Files().write(path, pem, mode=0o600)
