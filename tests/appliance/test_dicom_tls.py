"""DICOM over TLS with dcmtk's SCUs and certificates of a CA made for the test."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from appliance import config
from appliance.errors import ConfigError
from appliance.ingest.storage_scp import StorageScp
from tests.appliance.conftest import Box
from tests.dicom_files import make_radiograph
from tests.peers import needs, wait_until
from tests.running import RunningAppliance, scanside

_KEYS = [rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(3)]


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def make_certificate(
    path: Path, subject: str, key: rsa.RSAPrivateKey, issuer: str, signer: rsa.RSAPrivateKey, days: tuple[int, int]
) -> None:
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=subject == issuer, path_length=None), critical=True)
        .sign(signer, hashes.SHA256())
    )
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def write_key(path: Path, key: rsa.RSAPrivateKey, password: bytes | None = None) -> None:
    hidden = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, hidden)
    )


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with a CA, the box's and a scanner's keys and certificates, and an expired one."""
    authority, box, scanner = _KEYS
    make_certificate(tmp_path / "ca.pem", "CA", authority, "CA", authority, (-1, 100))
    make_certificate(tmp_path / "scp.pem", "box", box, "CA", authority, (-1, 100))
    make_certificate(tmp_path / "old.pem", "box", box, "CA", authority, (-10, -1))
    make_certificate(tmp_path / "early.pem", "box", box, "CA", authority, (1, 10))
    make_certificate(tmp_path / "scanner.pem", "CT1", scanner, "CA", authority, (-1, 100))
    make_certificate(tmp_path / "stranger.pem", "CT1", scanner, "other", scanner, (-1, 100))
    write_key(tmp_path / "scp.key", box)
    write_key(tmp_path / "scanner.key", scanner)
    write_key(tmp_path / "locked.key", box, b"secret")
    return tmp_path


def scp_with(box: Box, folder: Path, **names: str) -> StorageScp:
    tls = config.Tls(**{"key": "scp.key", "certificate": "scp.pem", "ca": "ca.pem", **names})
    return StorageScp(config.StorageScp(host="127.0.0.1", port=0, request_seconds=2.0, tls=tls), box.intake, folder)


@pytest.fixture
def port(box: Box, files: Path) -> Iterator[int]:
    scp = scp_with(box, files)
    yield scp.start()
    scp.stop()


def storescu(port: int, path: Path, *options: str | Path) -> subprocess.CompletedProcess[str]:
    command = [needs("storescu"), "-to", "20", *map(str, options), "127.0.0.1", str(port), str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_storescu_with_a_certificate_stores(port: int, box: Box, files: Path) -> None:
    path = make_radiograph(files / "a.dcm", rows=1500, columns=1500, bits=16)
    sent = storescu(port, path, "+tls", files / "scanner.key", files / "scanner.pem", "+cf", files / "ca.pem")
    assert sent.returncode == 0, sent.stderr
    assert len(box.rows()) == 1


@pytest.mark.parametrize("certificate", ["", "stranger"])
def test_who_has_no_certificate_of_the_ca_is_turned_away(certificate: str, port: int, box: Box, files: Path) -> None:
    shown = ("+tls", files / "scanner.key", files / f"{certificate}.pem") if certificate else ("+tla",)
    sent = storescu(port, make_radiograph(files / "a.dcm"), *shown, "+cf", files / "ca.pem")
    assert sent.returncode != 0
    assert box.rows() == []


def test_plain_dicom_is_turned_away(port: int, box: Box, files: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert storescu(port, make_radiograph(files / "a.dcm")).returncode != 0
    assert box.rows() == []
    wait_until(lambda: "does not speak TLS" in caplog.text, "the reason is logged")  # by a thread of the SCP


def test_silent_and_half_handshakes_keep_nobody_waiting(port: int, box: Box, files: Path) -> None:
    threads = threading.active_count()
    held = [socket.create_connection(("127.0.0.1", port)) for _ in range(40)]
    for connection in held[::2]:
        connection.sendall(b"\x16\x03\x01\x02\x00\x01")  # the start of a ClientHello
    path = make_radiograph(files / "a.dcm")
    sent = storescu(port, path, "+tls", files / "scanner.key", files / "scanner.pem", "+cf", files / "ca.pem")
    assert sent.returncode == 0, sent.stderr
    wait_until(lambda: threading.active_count() <= threads + 1, "one thread shakes hands with all of them")
    for connection in held:
        connection.settimeout(10)
        assert connection.recv(1) == b""  # its time has run out
        connection.close()


@pytest.mark.parametrize(
    ("names", "word"),
    [
        ({"key": "none.key"}, "none.key is missing"),
        ({"certificate": "none.pem"}, "none.pem can't be read"),
        ({"ca": "none.pem"}, "none.pem can't be read"),
        ({"certificate": "scp.key"}, "holds no certificate"),
        ({"key": "scp.pem"}, "not a private key"),
        ({"key": "scanner.key"}, "does not belong to"),
        ({"key": "locked.key"}, "is encrypted"),
    ],
)
def test_wrong_files_are_named_at_the_start(names: dict[str, str], word: str, box: Box, files: Path) -> None:
    with pytest.raises(ConfigError, match=word):
        scp_with(box, files, **names).start()


@pytest.mark.parametrize(("certificate", "words"), [("old", "has expired on"), ("early", "not valid before")])
def test_dates_are_the_peers_to_judge_and_files_are_read_as_they_are_renewed(
    certificate: str, words: str, box: Box, files: Path, caplog: pytest.LogCaptureFixture
) -> None:
    current = files / "current.pem"
    shutil.copy(files / f"{certificate}.pem", current)
    path, scanner = make_radiograph(files / "a.dcm"), ("+tls", files / "scanner.key", files / "scanner.pem")
    scp = scp_with(box, files, certificate="current.pem")
    port = scp.start()
    try:
        assert words in caplog.text
        refused = storescu(port, path, *scanner, "+cf", files / "ca.pem")
        assert refused.returncode != 0 and box.rows() == []
        sent = storescu(port, path, *scanner, "-ic")  # it does not look
        assert sent.returncode == 0, sent.stderr
        current.write_text("half of a certificate")
        assert storescu(port, path, *scanner, "-ic").returncode == 0, "the earlier one goes on"
        assert "the earlier ones go on" in caplog.text
        shutil.copy(files / "scp.pem", current)
        sent = storescu(port, path, *scanner, "+cf", files / "ca.pem")
        assert sent.returncode == 0, sent.stderr
    finally:
        scp.stop()


def test_a_peers_certificate_out_of_its_dates_is_said_with_this_sides_clock(
    port: int, box: Box, files: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_certificate(files / "past.pem", "CT1", _KEYS[2], "CA", _KEYS[0], (-10, -1))
    path = make_radiograph(files / "a.dcm")
    sent = storescu(port, path, "+tls", files / "scanner.key", files / "past.pem", "+cf", files / "ca.pem")
    assert sent.returncode != 0 and box.rows() == []
    wait_until(lambda: "has expired; this device's clock says" in caplog.text, "the reason is logged")


def test_a_key_that_may_not_be_read_is_named(box: Box, files: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (files / "scp.key").chmod(0)
    with pytest.raises(ConfigError, match=r"scp\.key"):
        scp_with(box, files).start()


@pytest.mark.long
@pytest.mark.parametrize("kind", ["expired", "missing"])
def test_an_appliance_without_a_certificate_that_counts_says_so_and_takes_one_without_a_restart(
    kind: str, files: Path, tmp_path: Path
) -> None:
    current = files / "current.pem"
    if kind == "expired":
        shutil.copy(files / "old.pem", current)
    tls = f'key = "{files}/scp.key"\ncertificate = "{current}"\nca = "{files}/ca.pem"\n'
    hl7 = f'[diagnoses]\nenabled = true\nport = 0\nhost = "127.0.0.1"\n[diagnoses.tls]\n{tls}'
    running = RunningAppliance(tmp_path / "appliance", hl7, scp=f"[storage_scp.tls]\n{tls}")
    running.start(timeout=180)
    try:
        told = scanside("status", "--config", running.config_path).stdout
        with urllib.request.urlopen(f"{running.url}device", timeout=30) as answer:
            page = answer.read().decode()
        parts = running.status()["components"]
        if kind == "expired":
            assert f"certificate {current} (Storage SCP, shown to scanners): it has expired on" in told
            assert "A certificate has expired on" in page and "Storage SCP, shown to scanners" in page
            assert (parts["storage_scp"]["state"], parts["diagnoses"]["state"]) == ("ready", "ready")
        else:
            assert f"storage_scp does NOT LISTEN: storage_scp.tls.certificate: {current} can't be read" in told
            assert "No scanner can send: the Storage SCP does not listen" in page
            assert "Nobody listens to final diagnoses by HL7, since the files for TLS" in page
            assert (parts["storage_scp"]["state"], parts["diagnoses"]["state"]) == ("closed", "closed")
        shutil.copy(files / "scp.pem", current)
        wait_until(lambda: running.status()["components"]["storage_scp"]["state"] == "ready", "it listens", 60)
        port = running.status()["components"]["storage_scp"]["port"]
        scanner = ("+tls", files / "scanner.key", files / "scanner.pem", "+cf", files / "ca.pem")
        sent = storescu(port, make_radiograph(files / "a.dcm"), *scanner)
        assert sent.returncode == 0, sent.stderr
        wait_until(lambda: running.status()["components"]["diagnoses"]["state"] == "ready", "diagnoses, too", 60)
        assert "NOT LISTEN" not in scanside("status", "--config", running.config_path).stdout
    finally:
        running.stop()
