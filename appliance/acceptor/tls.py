"""DICOM over TLS as BCP 195 wants it (PS3.15 annexes B.9 and B.12), each side proving who it is."""

from __future__ import annotations

import logging
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from appliance import tls_client
from appliance.errors import ConfigError

log = logging.getLogger("scanside.tls")

_WARN_BEFORE = timedelta(days=30)


def server_context(key: Path, certificate: Path, ca: Path, table: str = "storage_scp.tls") -> ssl.SSLContext:
    """A context that shows ``certificate`` and lets in whom ``ca`` has signed; all are PEM files.

    Parameters
    ----------
    table
        Of the configuration, for errors.

    Raises
    ------
    ConfigError
        Naming the file and what is wrong with it: missing, no PEM, expired, a key that does not match.
    """
    own = _certificates(certificate, f"{table}.certificate")
    for each in (*own, *_certificates(ca, f"{table}.ca")):
        _check_dates(each, certificate if each in own else ca, table)
    if not key.is_file():
        raise ConfigError(f"{table}.key: {key} is missing", hint="write the path of a PEM file with the key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(tls_client.CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(certificate, key, password=lambda: _no_password(table))
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(
                f"{table}: the key {key} does not belong to the certificate {certificate}",
                hint="a certificate serves only with the key that it was requested with",
            ) from error
        raise ConfigError(f"{table}.key: {key} is not a private key in PEM form: {error.reason}") from error
    except OSError as error:
        raise ConfigError(f"{table}.key: {key} can't be read: {error.strerror}") from error
    context.load_verify_locations(ca)
    return context


def in_words(error: ssl.SSLError, ca: str) -> str:
    """Why a peer fails in the handshake; ``ca``: the key of the configuration that says who must have signed its
    certificate."""
    reason = error.reason or str(error)
    if isinstance(error, ssl.SSLEOFError):
        return "it closed the connection"
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return f"it shows no certificate (it must have one that {ca} has signed)"
    if reason in ("HTTP_REQUEST", "WRONG_VERSION_NUMBER"):
        return "it does not speak TLS"
    return reason.replace("_", " ").lower()


def _no_password(table: str) -> bytes:
    raise ConfigError(
        f"{table}.key is encrypted, and nobody is there at the start to type its password",
        hint="decrypt it with `openssl pkey -in KEY -out NEW`, readable by this user only",
    )


def _certificates(path: Path, name: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"{name}: {path} can't be read: {error.strerror}", hint="write the path of a PEM file"
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"{name}: {path} holds no certificate in PEM form",
            hint="convert it with `openssl x509 -inform DER -in FILE -out NEW`",
        ) from error


def _check_dates(certificate: x509.Certificate, path: Path, table: str) -> None:
    now = datetime.now(UTC)
    if certificate.not_valid_after_utc < now:
        raise ConfigError(
            f"{table}: a certificate in {path} has expired on {certificate.not_valid_after_utc:%Y-%m-%d}",
            hint="have it renewed; if the date is wrong, set this device's clock",
        )
    if certificate.not_valid_before_utc > now:
        raise ConfigError(
            f"{table}: a certificate in {path} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d}",
            hint=f"this device's clock says {now:%Y-%m-%d %H:%M} UTC; is it right?",
        )
    if certificate.not_valid_after_utc < now + _WARN_BEFORE:
        log.warning("a certificate in %s expires on %s", path, f"{certificate.not_valid_after_utc:%Y-%m-%d}")
