"""DICOM over TLS as the side that calls (PS3.15 annex B.12): contexts, and errors in plain words."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from appliance.errors import ConfigError

# RFC 9325 (BCP 195) section 4.2: forward secrecy and authenticated encryption; TLS 1.3 has nothing else.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM"


@dataclass(frozen=True)
class TlsFiles:
    """PEM files of this side.

    Attributes
    ----------
    name
        What must be in the peer's certificate, None for the address called.
    any_name
        Whether no name is looked for, but only the authority.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    name: str | None = None
    any_name: bool = False


def client_context(files: TlsFiles, verify: bool = True) -> ssl.SSLContext:
    """TLS 1.2 or later; without ``ca`` the system's authorities count.

    Raises
    ------
    ConfigError
        A file can't be read, or the key is not the certificate's.
    """
    if (files.certificate is None) != (files.key is None):
        raise ConfigError("a certificate needs its key, and a key its certificate", hint="give --cert and --key")
    try:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=files.ca)
    except OSError as error:
        raise ConfigError(
            f"{files.ca} can't be used as an authority: {_words(error)}",
            hint="it must be a PEM file that this user may read (`openssl x509 -inform DER -in FILE -out NEW`)",
        ) from error
    if files.certificate is not None and files.key is not None:
        load_own(context, files.certificate, files.key)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    if files.any_name:
        context.check_hostname = False
    if not verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def load_own(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """Have a context show a certificate with its key; raises `ConfigError`."""
    own_certificate(certificate)
    try:
        context.load_cert_chain(certificate, key, password=lambda: _no_password(key))
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(
                f"the key {key} does not belong to the certificate {certificate}",
                hint="a certificate serves only with the key that it was requested with",
            ) from error
        raise ConfigError(f"{key} is not a private key in PEM form: {_words(error)}") from error
    except OSError as error:
        raise ConfigError(f"{key} can't be read: {_words(error)}", hint="check its name and who may read it") from error


def _no_password(key: Path) -> str:
    raise ConfigError(
        f"the key {key} is encrypted, and nobody is asked for its password here",
        hint="decrypt it with `openssl pkey -in KEY -out NEW`, readable by this user only",
    )


def _words(error: OSError) -> str:
    return str(getattr(error, "reason", None) or error.strerror or error)


@dataclass(frozen=True)
class CertificateFacts:
    """What a certificate says of itself."""

    subject: str
    issuer: str
    names: str
    not_before: datetime
    not_after: datetime

    @classmethod
    def of(cls, certificate: x509.Certificate) -> CertificateFacts:
        names: list[str] = []
        try:
            found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            names = [str(each.value) for each in found]
        except (x509.ExtensionNotFound, ValueError):
            pass
        return cls(
            certificate.subject.rfc4514_string(),
            certificate.issuer.rfc4514_string(),
            ", ".join(names) or "none",
            certificate.not_valid_before_utc,
            certificate.not_valid_after_utc,
        )

    @property
    def dates(self) -> str:
        return f"{self.not_before:%Y-%m-%d %H:%M} to {self.not_after:%Y-%m-%d %H:%M} UTC"


def own_certificate(path: Path) -> CertificateFacts:
    """The first certificate of a PEM file; raises `ConfigError`."""
    try:
        return CertificateFacts.of(x509.load_pem_x509_certificate(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is no certificate in PEM form: {error}") from error


# X509_V_ERR_... of OpenSSL
_NOT_YET, _EXPIRED = 9, 10
_UNKNOWN_CA = {2, 18, 19, 20, 21}
_WRONG_NAME = {62, 64}
_WRONG_PURPOSE = {26}
_NO_AUTHORITY = {24, 79}
_WEAK = {66, 67, 68}


def explain_certificate(
    error: ssl.SSLCertVerificationError, peer: CertificateFacts | None, called: str
) -> tuple[str, str]:
    """Why this side does not accept the peer's certificate, and what to do next."""
    clock = f"this device's clock says {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    valid = f" (it is valid from {peer.dates})" if peer else ""
    if error.verify_code == _EXPIRED:
        return (
            f"the peer's certificate has expired{valid}",
            f"{clock}: mend it if that is wrong, else renew the certificate",
        )
    if error.verify_code == _NOT_YET:
        return (
            f"the peer's certificate is not valid yet{valid}",
            f"{clock}: that is probably wrong, here or where the certificate was made",
        )
    if error.verify_code in _UNKNOWN_CA:
        issuer = f": {peer.issuer}" if peer else ""
        return (
            f"the peer's certificate was issued by an authority that is not known here{issuer}",
            "give that authority's certificate with --ca (a self-signed certificate is its own authority)",
        )
    if error.verify_code in _WRONG_NAME:
        names = f", but {peer.names}" if peer else ""
        return (
            f"the peer's certificate is not for {called}{names}",
            "call the peer by a name of its certificate, or give that name with --tls-name",
        )
    if error.verify_code in _WRONG_PURPOSE:
        return (
            "the peer's certificate was not made for a server (Extended Key Usage)",
            "have it issued anew, for server and client authentication: DICOM peers are both",
        )
    if error.verify_code in _NO_AUTHORITY:
        return (
            "what issued the peer's certificate is no authority itself (Basic Constraints)",
            "give the authority's own certificate with --ca, or have one made that is marked as an authority",
        )
    if error.verify_code in _WEAK:
        return (
            "the peer's certificate, or its authority's, has a key or a signature that is too weak",
            "have it issued anew, with RSA of 2048 bits or more or an elliptic curve, and SHA-256",
        )
    return f"the peer's certificate is not accepted: {error.verify_message}", "have it checked by who made it"


# Alerts that a peer sends (RFC 8446 section 6.2), as OpenSSL names them
_ALERTS = {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": ("the peer wants a certificate of this side", "give --cert and --key"),
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": (
        "the peer says that this side's certificate has expired",
        "compare its dates with both clocks, and renew it if it has",
    ),
    "TLSV1_ALERT_UNKNOWN_CA": (
        "the peer does not know the authority that issued this side's certificate",
        "have that authority's certificate entered at the peer",
    ),
    "SSLV3_ALERT_BAD_CERTIFICATE": (
        "the peer does not accept this side's certificate",
        "have its authority entered at the peer; compare its dates with the peer's clock",
    ),
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": (
        "the peer does not accept this side's certificate",
        "have its authority entered at the peer; compare its dates with the peer's clock",
    ),
    "SSLV3_ALERT_HANDSHAKE_FAILURE": (
        "the peer ended the handshake: no cipher in common, or it wants a certificate of this side",
        "give --cert and --key; if they are given, compare the ciphers (BCP 195)",
    ),
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": (
        "the peer says that this side's certificate was made for another purpose",
        "have it issued anew, for server and client authentication: DICOM peers are both",
    ),
    "TLSV1_ALERT_DECRYPT_ERROR": (
        "the peer can't check this side's signature",
        "compare the key with the certificate; have their kind (RSA, elliptic curve) allowed at the peer",
    ),
    "TLSV1_ALERT_ACCESS_DENIED": (
        "the peer knows this side's certificate, and does not let it in",
        "have it entered at the peer",
    ),
    "TLSV1_UNRECOGNIZED_NAME": (
        "the peer serves another name than the one that is called",
        "call it by its own name, or give that with --tls-name",
    ),
    "TLSV1_ALERT_PROTOCOL_VERSION": (
        "the peer speaks no TLS version that is allowed here (1.2 or later)",
        "have the peer set to BCP 195; older versions are not safe",
    ),
    "UNSUPPORTED_PROTOCOL": (
        "the peer speaks no TLS version that is allowed here (1.2 or later)",
        "have the peer set to BCP 195; older versions are not safe",
    ),
    "WRONG_VERSION_NUMBER": ("the peer does not speak TLS on this port", "try without --tls, or another port (2762)"),
}


def explain_handshake(error: OSError) -> tuple[str, str]:
    """Why there is no TLS connection, and what to do next; of other causes than the peer's certificate."""
    reason = getattr(error, "reason", None) or ""
    if reason in _ALERTS:
        return _ALERTS[reason]
    if isinstance(error, TimeoutError):
        return "the peer does not answer the TLS handshake", "it may speak plain DICOM here: try without --tls"
    if isinstance(error, ssl.SSLEOFError | ConnectionError):
        return (
            "the peer closed the connection in the TLS handshake",
            "it may speak plain DICOM here (try without --tls), or want a certificate of this side (--cert, --key)",
        )
    return f"the TLS handshake failed: {reason or error}", "look into the peer's log"
