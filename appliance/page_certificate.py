"""The page's certificate: the one that is given, or one that the device makes and signs itself."""

from __future__ import annotations

import ipaddress
import logging
import socket
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from appliance import machine, tls_client
from appliance.config import Config
from appliance.errors import ConfigError
from appliance.spool import write_durably

log = logging.getLogger("scanside.web")

_VALID = timedelta(days=825)  # the longest that browsers take
_RENEW = timedelta(days=30)
_BACKDATED = timedelta(days=1)  # a browser's clock may be behind
_LONGEST_NAME = 64


@dataclass(frozen=True)
class PageCertificate:
    """PEM files, and what they are.

    Attributes
    ----------
    fingerprint
        SHA-256 of the certificate, as browsers show it.
    own
        Whether the device has signed it itself.
    """

    key: Path
    certificate: Path
    fingerprint: str
    not_after: datetime
    own: bool


def page_certificate(config: Config) -> PageCertificate | None:
    """Of the page; None where it is served without TLS, on loopback. Made, or renewed, where none is given.

    Raises
    ------
    ConfigError
        The files that are given don't serve.
    SpoolError
        The one that is made can't be written.
    """
    if not config.web.over_tls:
        return None
    given = config.web.tls
    if given is not None:
        key, certificate = config.data / given.key, config.data / given.certificate
        found = _read(key, certificate, own=False)
        if found.not_after < datetime.now(UTC):
            raise ConfigError(
                f"web.tls: the certificate {certificate} has expired on {found.not_after:%Y-%m-%d}",
                hint="have it renewed; if the date is wrong, set this device's clock",
            )
        if found.not_after < datetime.now(UTC) + _RENEW:
            log.warning("the page's certificate %s expires on %s", certificate, f"{found.not_after:%Y-%m-%d}")
        return found
    key, certificate = config.key_path.with_name("page.key"), config.key_path.with_name("page.pem")
    if not (key.exists() and certificate.exists()):
        _make(key, certificate)
    found = _read(key, certificate, own=True)
    if found.not_after < datetime.now(UTC) + _RENEW:
        log.warning("the page's certificate is renewed; browsers will ask about it anew")
        _make(key, certificate)
        found = _read(key, certificate, own=True)
    return found


def context(found: PageCertificate) -> ssl.SSLContext:
    """TLS 1.2 or later (RFC 9325); raises `ConfigError`."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.set_ciphers(tls_client.CIPHERS)
    made.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    tls_client.load_own(made, found.certificate, found.key)
    return made


def _read(key: Path, certificate: Path, own: bool) -> PageCertificate:
    try:
        read = x509.load_pem_x509_certificate(certificate.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"web.tls.certificate: {certificate} is no certificate in PEM form: {error}",
            hint="convert it with `openssl x509 -inform DER -in FILE -out NEW`",
        ) from error
    digits = read.fingerprint(hashes.SHA256()).hex().upper()
    fingerprint = ":".join(digits[at : at + 2] for at in range(0, len(digits), 2))
    found = PageCertificate(key, certificate, fingerprint, read.not_valid_after_utc, own)
    context(found)
    return found


def _make(key_path: Path, certificate_path: Path) -> None:
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    host = socket.gethostname()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:_LONGEST_NAME] or "scanside")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + _VALID - _BACKDATED)
        .add_extension(x509.SubjectAlternativeName(_names(host)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_durably(key_path, pem)
    write_durably(certificate_path, made.public_bytes(serialization.Encoding.PEM))


def _names(host: str) -> list[x509.GeneralName]:
    """By which browsers may call this machine: its name and its addresses."""
    addresses = dict.fromkeys(each for of_one in machine.addresses().values() for each in of_one)
    return [
        *(x509.DNSName(each) for each in dict.fromkeys((host, "localhost")) if each.isascii()),
        *(x509.IPAddress(ipaddress.ip_address(each)) for each in addresses),
    ]
