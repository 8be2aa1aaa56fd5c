"""This device's own TLS port: the files of ``[storage_scp.tls]``, and whether the running appliance shows them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from appliance.acceptor import tls
from appliance.checks import Check
from appliance.connection import secure
from appliance.connection.question import Question
from appliance.errors import ConfigError


def files(question: Question) -> Iterator[Check]:
    """As the Storage SCP reads them."""
    certificate, key, ca = _paths(question)
    try:
        tls.server_context(key, certificate, ca)
    except ConfigError as error:
        yield Check("TLS files", "fail", error.message, error.hint or "check the file")
        return
    yield Check("TLS files", "ok", "the key belongs to the certificate, and all of them can be read")
    yield from secure.own_certificate(question)
    names = x509.load_pem_x509_certificates(certificate.read_bytes())[0].extensions
    try:
        names.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        yield Check(
            "TLS name",
            "warning",
            "the certificate has no name (Subject Alternative Name)",
            "a scanner that compares names refuses it: have the host name or the address written into it",
        )


def certificate(question: Question) -> Iterator[Check]:
    """Whether the running appliance shows the one of the files; a warning where it can't be tried any further."""
    certificate, _, ca = _paths(question)
    chain = x509.load_pem_x509_certificates(certificate.read_bytes())
    shown = secure.peer_certificate(question)
    if shown is not None and shown != chain[0]:
        yield Check(
            "TLS certificate",
            "fail",
            f"the running appliance shows an older certificate than the file: {shown.subject.rfc4514_string()}, valid "
            f"until {shown.not_valid_after_utc:%Y-%m-%d %H:%M} UTC",
            "look into the log for why it does not take the new one: the key must belong to it, and the user of the "
            "appliance must be able to read both",
        )
        return
    if not _issued(chain, x509.load_pem_x509_certificates(ca.read_bytes())):
        yield Check(
            "TLS certificate",
            "warning",
            f"{chain[0].subject.rfc4514_string()} is of another authority than those that are let in, so the port "
            "can't be tried with it; scanners with a certificate of storage_scp.tls.ca may get in all the same",
            "try it with a scanner's: scanside test-connection --tls --ca CA --cert CERTIFICATE --key KEY",
        )


def _paths(question: Question) -> tuple[Path, Path, Path]:
    assert question.tls is not None
    found = question.tls.certificate, question.tls.key, question.tls.ca
    assert all(found)
    return found  # type: ignore[return-value]


def _issued(chain: list[x509.Certificate], authorities: list[x509.Certificate]) -> bool:
    """Whether one of the authorities has issued the first certificate, or one of the chain that leads to it."""
    left, at = list(chain[1:]), chain[0]
    while True:
        if any(_issued_by(at, each) for each in authorities):
            return True
        above = next((each for each in left if _issued_by(at, each)), None)
        if above is None:
            return False
        left.remove(above)
        at = above


def _issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
