"""TLS with a peer: this side's clock and certificate, the handshake, and what the peer shows."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from appliance import machine, tls_client
from appliance.checks import Check
from appliance.connection.question import Question
from appliance.errors import ApplianceError, ConfigError
from appliance.tls_client import CertificateFacts, TlsFiles

_ALERT_SECONDS = 1.0  # in TLS 1.3 a peer refuses this side's certificate only after the handshake
_WARN_BEFORE = timedelta(days=30)


def clock(question: Question) -> Iterator[Check]:
    """Certificates are judged by it, so that a wrong one looks like a wrong certificate."""
    del question  # it is asked of every peer, and the same each time
    now, installed = datetime.now(UTC), datetime.fromtimestamp(Path(__file__).stat().st_mtime, UTC)
    said = f"this device's says {now:%Y-%m-%d %H:%M} UTC"
    if now < installed - timedelta(days=1):
        yield Check("clock", "fail", f"{said}, a time before this software was installed", "set it (timedatectl)")
    elif machine.clock().synchronized is False:
        yield Check(
            "clock",
            "warning",
            f"{said}, and no time server keeps it right",
            "compare it; enter the site's time server (timedatectl, chrony), or certificates will seem to be expired",
        )
    else:
        yield Check("clock", "ok", f"{said}, kept right by a time server")


def own_certificate(question: Question) -> Iterator[Check]:
    files = question.tls or TlsFiles()
    try:
        tls_client.client_context(files)
        own = tls_client.own_certificate(files.certificate) if files.certificate else None
    except ConfigError as error:
        yield Check("own certificate", "fail", error.message, error.hint or "check the file")
        return
    if own is None:
        yield Check("own certificate", "ok", "none is shown; a peer may want one (--cert, --key)")
        return
    now = datetime.now(UTC)
    if not own.not_before <= now <= own.not_after:
        what = "has expired" if now > own.not_after else "is not valid yet"
        yield Check(
            "own certificate",
            "fail",
            f"{own.subject} {what}: it is valid from {own.dates}",
            f"this device's clock says {now:%Y-%m-%d %H:%M} UTC: mend that if it is wrong, else renew the certificate",
        )
    elif own.not_after < now + _WARN_BEFORE:
        yield Check(
            "own certificate", "warning", f"{own.subject} expires soon, on {own.dates[-20:]}", "have it renewed"
        )
    else:
        yield Check("own certificate", "ok", f"{own.subject}, valid from {own.dates}")


def handshake(question: Question) -> Iterator[Check]:
    files = question.tls or TlsFiles()
    called = files.name or question.peer.host
    try:
        with (
            question.connect() as plain,
            tls_client.client_context(files).wrap_socket(plain, server_hostname=called) as secure,
        ):
            version, cipher = secure.version(), (secure.cipher() or ("",))[0]
            secure.settimeout(_ALERT_SECONDS)
            try:
                ended = not secure.recv(1)
            except TimeoutError:
                ended = False  # it waits for this side to speak, as it should
    except ssl.SSLCertVerificationError as error:
        yield Check("TLS", "fail", *tls_client.explain_certificate(error, _peer_facts(question), called))
        return
    except OSError as error:
        yield Check("TLS", "fail", *tls_client.explain_handshake(error))
        return
    if ended:
        yield Check(
            "TLS",
            "fail",
            "the peer ended the connection after the handshake",
            "it probably wants another certificate of this side (--cert, --key); look into its log",
        )
        return
    peer = _peer_facts(question)
    yield Check("TLS", "ok", f"{version}, {cipher}" + (f"; {peer.subject}, valid from {peer.dates}" if peer else ""))


def peer_certificate(question: Question) -> x509.Certificate | None:
    """What the peer shows, believed or not."""
    try:
        context = tls_client.client_context(question.tls or TlsFiles(), verify=False)
        with question.connect() as plain, context.wrap_socket(plain) as secure:
            content = secure.getpeercert(binary_form=True)
            return x509.load_der_x509_certificate(content) if content else None
    except (OSError, ValueError, ApplianceError):
        return None


def _peer_facts(question: Question) -> CertificateFacts | None:
    certificate = peer_certificate(question)
    return CertificateFacts.of(certificate) if certificate is not None else None


def is_spoken(question: Question) -> bool:
    """Whether a peer that gave no DICOM answer gives one to a TLS greeting."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with question.connect() as plain, context.wrap_socket(plain):
            return True
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")
    except OSError:
        return False
