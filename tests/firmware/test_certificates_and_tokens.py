"""A box's key and certificate, service tokens, and the clock by which both are judged."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from firmware import provisioning, service, stick
from firmware.box import Box
from firmware.cli import main
from firmware.durable import Files
from firmware.errors import FirmwareError, RefusedError
from firmware.inbox import try_report
from tests.firmware.commissioning import certify, site


def test_the_key_stays_and_the_certificate_comes(box: Box, tmp_path: Path) -> None:
    request = tmp_path / "request.csr"
    where = ["--root", str(box.root)]
    done = CliRunner().invoke(
        main, ["provision", "csr", str(request), "--name", "ai1.example", "--address", "192.0.2.5", *where]
    )
    assert done.exit_code == 0, done.output
    assert b"PRIVATE" not in request.read_bytes()
    assert (box.data / "keys" / "scp.key").stat().st_mode & 0o077 == 0
    first = request.read_bytes()
    path = tmp_path / "certificate.pem"
    path.write_bytes(certify(first))
    assert "CN=ai1.example, until" in CliRunner().invoke(main, ["provision", "certificate", str(path), *where]).output
    again = provisioning.request(box, "ai1.example")  # the key is kept, so a certificate on its way still fits
    assert x509.load_pem_x509_csr(again).public_key() == x509.load_pem_x509_csr(first).public_key()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"days": -1, "begin": -30}, "the clock says"),
        ({"begin": 3}, "the clock says"),
        ({"other_key": True}, "not for this box"),
    ],
)
def test_certificates_that_are_turned_away(box: Box, tmp_path: Path, how: dict[str, int], words: str) -> None:
    path = tmp_path / "certificate.pem"
    path.write_bytes(certify(provisioning.request(box, "ai1"), **how))
    with pytest.raises(RefusedError, match=words):
        provisioning.take_certificate(box, path)
    path.write_text("DER?")
    with pytest.raises(FirmwareError, match="no PEM"):
        provisioning.take_certificate(box, path)


def test_the_boxs_key_is_nobody_elses_at_any_time(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even while it is written, nor where a cut has left a file in its place that others may read."""
    left = box.data / "keys" / ".scp.key.part"
    left.parent.mkdir()
    left.write_text("half a key")
    left.chmod(0o644)
    modes = []
    rename = Files.rename

    def looking(self: Files, old: Path, new: Path) -> None:
        modes.append(old.stat().st_mode & 0o777)
        assert not new.exists(), "an empty file was made first, which a cut would leave"
        rename(self, old, new)

    monkeypatch.setattr(Files, "rename", looking)
    provisioning.request(box, "ai1")
    assert modes == [0o600]


def test_an_empty_key_that_a_cut_left_counts_as_none(box: Box, tmp_path: Path) -> None:
    path = tmp_path / "certificate.pem"
    path.write_bytes(certify(provisioning.request(box, "ai1")))
    key = box.data / "keys" / "scp.key"
    key.write_bytes(b"")
    with pytest.raises(FirmwareError, match="this box has no key yet"):
        provisioning.take_certificate(box, path)
    path.write_bytes(certify(provisioning.request(box, "ai1")))
    assert provisioning.take_certificate(box, path)[1]
    key.write_bytes(b"damaged")
    with pytest.raises(FirmwareError, match=r"the box's key .*scp.key can't be used"):
        provisioning.take_certificate(box, path)


@pytest.mark.parametrize("kind", ["rsa", "passphrase"])
def test_a_key_that_is_not_the_boxs_own_kind_is_told(box: Box, publisher: Path, tmp_path: Path, kind: str) -> None:
    """The folder is the appliance's own, so anything may lie there; a stick is answered all the same."""
    secret = serialization.BestAvailableEncryption(b"x") if kind == "passphrase" else serialization.NoEncryption()
    made = rsa.generate_private_key(65537, 2048) if kind == "rsa" else ec.generate_private_key(ec.SECP256R1())
    pem = made.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret)
    Files().write(box.data / "keys" / "scp.key", pem)
    site(tmp_path / "stick", publisher)
    said = stick.take(box, tmp_path / "stick", restart=pytest.fail, reload=lambda _: None)
    assert said[0] == "site.toml: configuration 1 is in place"
    assert any(line.startswith("there is no request for a certificate: ") for line in said)
    try_report(box)
    assert json.loads(box.report.read_text())["request_failed"]


def test_a_chain_in_any_order_is_put_in_the_order_of_tls(box: Box, tmp_path: Path) -> None:
    request, path = provisioning.request(box, "ai1"), tmp_path / "certificate.pem"
    own, authority = certify(request), certify(request, other_key=True)
    path.write_bytes(authority + own)
    assert provisioning.take_certificate(box, path)[1]
    assert (box.data / "keys" / "scp.pem").read_bytes() == own + authority
    assert provisioning.take_certificate(box, path)[0].endswith("in place already")


def test_a_certificate_counts_although_the_history_can_not_be_written(box: Box, tmp_path: Path) -> None:
    path = tmp_path / "certificate.pem"
    path.write_bytes(certify(provisioning.request(box, "ai1")))
    (box.firmware_data / "history.jsonl").mkdir(parents=True)
    assert provisioning.take_certificate(box, path)[1] and (box.data / "keys" / "scp.pem").exists()


# --- service tokens ---


def test_a_token_opens_its_box_for_its_time(box: Box, publisher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = service.make("5eedb0c5", 4, publisher / "site.key", "A. Engineer")
    assert service.check(box, token)["who"] == "A. Engineer"
    with pytest.raises(RefusedError, match="is for box"):
        service.check(box, service.make("other", 4, publisher / "site.key", "x"))
    with pytest.raises(RefusedError, match=r"signed by a key|no service token"):
        service.check(box, "x" + token)
    with pytest.raises(FirmwareError, match="24 hours"):
        service.make("5eedb0c5", 48, publisher / "site.key", "x")
    later = time.time() + 5 * 3600
    monkeypatch.setattr("firmware.service.time.time", lambda: later)
    with pytest.raises(RefusedError, match="and the clock says"):
        service.check(box, token)


class Clock:
    """A box's clock, which starts at the time of the image's build."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_700_000_000.0
        monkeypatch.setattr("time.time", lambda: self.now)
        monkeypatch.setattr("time.clock_settime", self._set)

    def _set(self, which: int, to: float) -> None:
        assert which == time.CLOCK_REALTIME
        self.now = to


def test_a_token_moves_a_late_clock_forward_before_anything_is_judged_by_it(
    box: Box, publisher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "stick"
    folder.mkdir()
    for name in ("systemd-run", "scanside"):
        (tmp_path / "bin" / name).write_text("#!/bin/sh\nexit 0\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (folder / "certificate.pem").write_bytes(certify(provisioning.request(box, "ai1")))
    (folder / "service.token").write_text(service.make("5eedb0c5", 4, publisher / "site.key", "A. Engineer"))
    kept = box.root / "var/lib/systemd/timesync/clock"
    kept.parent.mkdir(parents=True)
    kept.touch()
    real = int(time.time())
    clock = Clock(monkeypatch)
    moved, certified, shell, *_ = stick.take(box, folder, reload=lambda _: None)
    assert moved.startswith("the clock was moved forward to ") and "when service.token was signed" in moved
    assert "REFUSED" not in certified and shell.startswith("service.token: service mode for A. Engineer")
    assert real - 60 < clock.now <= real and kept.stat().st_mtime == clock.now
    assert {"event": "clock", "was": 1_700_000_000, "signed_at": int(clock.now)}.items() <= box.history()[0].items()


@pytest.mark.parametrize("why", ["foreign", "changed", "later", "synchronized"])
def test_a_clock_that_no_token_moves(
    box: Box, publisher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    folder = tmp_path / "stick"
    folder.mkdir()
    (tmp_path / "bin" / "scanside").write_text("#!/bin/sh\nexit 0\n")
    identity = "0ther0ne" if why == "foreign" else "5eedb0c5"
    token = service.make(identity, 4, publisher / "site.key", "A. Engineer")
    (folder / "service.token").write_text(f"x{token}" if why == "changed" else token)
    if why == "synchronized":
        (box.root / "run/systemd/timesync").mkdir(parents=True)
        (box.root / "run/systemd/timesync/synchronized").touch()
    clock = Clock(monkeypatch)
    if why == "later":
        clock.now = 9e9
    before = clock.now
    said = stick.take(box, folder, reload=lambda _: None)
    assert clock.now == before and said[0].startswith("service.token: REFUSED")
    if why in ("later", "synchronized"):
        assert "and the clock says" in said[0]
