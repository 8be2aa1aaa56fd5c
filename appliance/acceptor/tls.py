"""DICOM over TLS as BCP 195 wants it (PS3.15 annexes B.9 and B.12), each side proving who it is."""

from __future__ import annotations

import logging
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from appliance import tls_client
from appliance.errors import ConfigError
from appliance.unchanged import signatures

log = logging.getLogger("scanside.tls")

_WARN_BEFORE = timedelta(days=30)
_NOT_YET, _EXPIRED = 9, 10  # X509_V_ERR_... of OpenSSL


class ServerFiles:
    """What a listener shows and whom it lets in: its PEM files as they are when a peer connects.

    Those that are renewed count from the next handshake on, and so does a clock that is set. Where new ones don't serve
    (one of them is still being copied), the earlier ones go on.

    Parameters
    ----------
    table
        Of the configuration, for errors.

    Raises
    ------
    ConfigError
        They don't serve.
    """

    def __init__(self, key: Path, certificate: Path, ca: Path, table: str) -> None:
        self._files, self._table = (key, certificate, ca), table
        self._versions = signatures(self._files)
        self._context = server_context(key, certificate, ca, table)

    def context(self) -> ssl.SSLContext:
        """For the next handshake."""
        versions = signatures(self._files)
        if versions != self._versions:
            self._versions = versions
            try:
                self._context = server_context(*self._files, self._table)
                log.info("the files of %s have changed, and count from now on", self._table)
            except ConfigError as error:
                log.error("the files of %s have changed, and the earlier ones go on: %s", self._table, error)
        return self._context


def server_context(key: Path, certificate: Path, ca: Path, table: str = "storage_scp.tls") -> ssl.SSLContext:
    """A context that shows ``certificate`` and lets in whom ``ca`` has signed; all are PEM files.

    One that has expired, or does not count yet, is shown all the same: that is for the peer to judge, this side still
    proves its key and asks for the peer's certificate, and a wrong clock must not close the port.

    Parameters
    ----------
    table
        Of the configuration, for errors.

    Raises
    ------
    ConfigError
        Naming the file and what is wrong with it: missing, no PEM, a key that does not match.
    """
    own = _certificates(certificate, f"{table}.certificate")
    for each in (*own, *_certificates(ca, f"{table}.ca")):
        _say_dates(each, certificate if each in own else ca)
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
    if isinstance(error, ssl.SSLCertVerificationError):
        dated = error.verify_code in (_NOT_YET, _EXPIRED)
        clock = f"; this device's clock says {datetime.now(UTC):%Y-%m-%d}" if dated else ""
        return f"its certificate, or what {ca} names, is not accepted: {error.verify_message}{clock}"
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


def _say_dates(certificate: x509.Certificate, path: Path) -> None:
    now, until = datetime.now(UTC), certificate.not_valid_after_utc
    if until < now:
        log.error(
            "a certificate in %s has expired on %s, so peers break off: have it renewed and put it there; if the date "
            "is wrong, set this device's clock. Either counts without a restart",
            path,
            f"{until:%Y-%m-%d}",
        )
    elif certificate.not_valid_before_utc > now:
        log.error(
            "a certificate in %s is not valid before %s, and this device's clock says %s: is it right? Once it is set, "
            "that counts without a restart",
            path,
            f"{certificate.not_valid_before_utc:%Y-%m-%d}",
            f"{now:%Y-%m-%d %H:%M} UTC",
        )
    elif until < now + _WARN_BEFORE:
        log.warning("a certificate in %s expires on %s", path, f"{until:%Y-%m-%d}")
