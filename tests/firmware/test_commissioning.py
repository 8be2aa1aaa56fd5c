"""A site's configuration, the box's certificate, sticks, service tokens, models: signed, versioned, or refused."""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance import package
from appliance.accounts import Accounts
from appliance.errors import LoginError
from appliance.store import Store
from firmware import (
    datadisk,
    handover,
    health,
    keys,
    models,
    network,
    provisioning,
    service,
    signing,
    site_toml,
    stick,
)
from firmware.box import Box
from firmware.cli import main
from firmware.durable import Files
from firmware.errors import FirmwareError, RefusedError
from tests import fake_package
from tests.certificates import Authority
from tests.firmware.boxes import DyingFiles, PowerCut, loader_chose, make_box
from tests.peers import small_disk
from tests.running import CHECKOUT, PYTHON

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


@pytest.fixture(scope="session")
def publisher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    keys.make(folder)
    return folder


@pytest.fixture
def box(tmp_path: Path, publisher: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    made = make_box(tmp_path / "box")
    shutil.copy(publisher / "site.pub", made.trust)
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "scanside").write_text(f'#!/bin/sh\ncd {CHECKOUT} && exec {PYTHON} -m appliance "$@"\n')
    (programs / "scanside").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return made


def site(folder: Path, publisher: Path, version: int = 1, ae_title: str = "SCANSIDE", extra: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "site.toml"
    path.write_text(SITE.format(version=version, ae_title=ae_title) + extra)
    signing.sign_file(path, publisher / "site.key", provisioning.PURPOSE)
    return path


def test_a_site_is_configured_and_comes_back(box: Box, publisher: Path, tmp_path: Path) -> None:
    assert provisioning.apply(box, site(tmp_path / "1", publisher, 1, "FIRST")) == 1
    assert provisioning.apply(box, site(tmp_path / "2", publisher, 2, "SECOND")) == 2
    tables = tomllib.loads(box.configuration.read_text())
    assert tables["storage_scp"]["ae_title"] == "SECOND"
    assert tables["data_dir"] == str(box.data)
    assert "Address=192.0.2.5/24" in (box.configuration.parent / "network" / "50-site.network").read_text()
    with pytest.raises(RefusedError, match="has version 1, and version 2 was applied"):
        provisioning.apply(box, tmp_path / "1" / "site.toml")
    done = CliRunner().invoke(main, ["provision", "back", "1", "--root", str(box.root)])
    assert done.exit_code == 0, done.output
    assert tomllib.loads(box.configuration.read_text())["storage_scp"]["ae_title"] == "FIRST"
    assert "version 2" in CliRunner().invoke(main, ["provision", "history", "--root", str(box.root)]).output


def test_configurations_that_are_turned_away(box: Box, publisher: Path, tmp_path: Path) -> None:
    before = box.configuration.read_text()
    good = site(tmp_path / "1", publisher)
    good.write_text(good.read_text().replace("ORTHANC", "EVIL"))
    with pytest.raises(RefusedError, match="changed after it was signed"):
        provisioning.apply(box, good)
    keys.make(tmp_path / "stranger")
    with pytest.raises(RefusedError):
        provisioning.apply(box, site(tmp_path / "2", tmp_path / "stranger"))
    with pytest.raises(FirmwareError, match="the appliance does not take its tables"):
        provisioning.apply(box, site(tmp_path / "3", publisher, extra="[appliance.web]\nprot = 1\n"))
    other = site(tmp_path / "4", publisher)
    other.write_text(other.read_text().replace("[network]", 'box = "00000000"\n[network]'))
    signing.sign_file(other, publisher / "site.key", provisioning.PURPOSE)
    with pytest.raises(RefusedError, match="is for box 00000000"):
        provisioning.apply(box, other)
    assert box.configuration.read_text() == before
    assert provisioning.history(box) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[site", "is no TOML"),
        ("[site]\nname='x'\n", "site.version is missing"),
        ("[site]\nname='x'\nversion='1'\n", "must be of type int"),
        ("[site]\nname='x'\nversion=1\ncolour='red'\n", "site.colour is not known"),
        ("[site]\nname='x'\nversion=1\n[cloud]\n", "not known: cloud"),
        ("[site]\nname='x'\nversion=1\n[network]\naddress='192.0.2.5'\n", "no prefix length"),
        ("[site]\nname='x'\nversion=1\n[network]\naddress='192.0.2.555/24'\n", "192.0.2.555"),
        ("appliance=1\n[site]\nname='x'\nversion=1\n", "appliance must be a table"),
        ("[site]\nname='x'\nversion=true\n", "must be of type int"),
        ("[site]\nname='x'\nversion=1\ntime_zone='Europe/Berln'\n", "no time zone 'Europe/Berln'.*Europe/Berlin"),
        ("[site]\nname='x'\nversion=1\ntime_zone='../etc/passwd'\n", "no time zone"),
        ("[site]\nname='x'\nversion=1\nntp_servers=[1, {a=2}]\n", "ntp_servers must be a list of strings"),
        ("[site]\nname='x'\nversion=1\nntp_servers=['a b']\n", "'a b' is no name or address of a server"),
        ("[site]\nname='x'\nversion=1\n[network]\ndns=[1]\n", "dns must be a list of strings"),
        (
            "[site]\nname='x'\nversion=1\n[network]\naddress='192.0.2.5/24'\ngateway='10.0.0.1'\n",
            "gateway 10.0.0.1 is not in 192.0.2.0/24",
        ),
        ("[site]\nname='x'\nversion=1\n[network]\nport='eth0 eth1'\n", "'eth0 eth1' is no port"),
        ("[site]\nname='x'\nversion=1\n[[files]]\nname='ca.pem'\n", "files.sha256 is missing"),
        ("[site]\nname='x'\nversion=1\n[[files]]\nname='../x.pem'\nsha256='0'\n", "can't be a file's name"),
        ("[site]\nname='x'\nversion=1\n[appliance.a]\nca='files/ca.pem'\n", "a.ca names files/ca.pem, which is not"),
    ],
)
def test_a_configuration_that_is_wrong_says_where(text: str, words: str) -> None:
    with pytest.raises(FirmwareError, match=words):
        site_toml.parse(text, "site.toml")


def port(box: Box, name: str, address: str, carrier: bool, physical: bool = True) -> None:
    folder = box.root / "sys/class/net" / name
    folder.mkdir(parents=True)
    for key, value in (("type", "1"), ("address", address), ("carrier", str(int(carrier)))):
        (folder / key).write_text(f"{value}\n")
    if physical:
        (folder / "device").touch()


def test_a_static_address_is_at_one_port(box: Box, publisher: Path, tmp_path: Path) -> None:
    """The same one at two ports of a machine would be reached by chance."""
    port(box, "enp1s0", "02:00:00:00:00:01", carrier=True)
    port(box, "enp2s0", "02:00:00:00:00:02", carrier=False)
    port(box, "veth0", "02:00:00:00:00:03", carrier=True, physical=False)
    path = site(tmp_path / "1", publisher)
    assert provisioning.apply(box, path, taken) == 1
    (box.root / "sys/class/net/enp2s0/carrier").write_text("1\n")
    with pytest.raises(FirmwareError, match=r"192.0.2.5/24 would be at 2 ports .*enp1s0 \(02:00:00:00:00:01\)"):
        provisioning.apply(box, path, taken)

    def chosen(which: str) -> str:
        path.write_text(SITE.format(version=1, ae_title="X").replace("[network]", f'[network]\nport = "{which}"'))
        signing.sign_file(path, publisher / "site.key", provisioning.PURPOSE)
        provisioning.apply(box, path, taken)
        return (box.configuration.parent / "network/50-site.network").read_text()

    assert "\nName=enp2s0\n" in chosen("enp2s0")
    assert "\nMACAddress=02:00:00:00:00:01\n" in chosen("02:00:00:00:00:01")
    assert "Unmanaged=yes" in (box.configuration.parent / "network/60-other-ports.network").read_text()
    with pytest.raises(FirmwareError, match=r"no port enp3s0 \(there are enp1s0 .*enp2s0"):
        chosen("enp3s0")


_VALUES = st.one_of(
    st.booleans(), st.integers(-(2**40), 2**40), st.text(max_size=20), st.lists(st.text(max_size=5), max_size=3)
)
_NAMES = st.text('abc_-1 ."', min_size=1, max_size=6)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(_NAMES, st.one_of(_VALUES, st.dictionaries(_NAMES, _VALUES, max_size=3),
                                         st.lists(st.dictionaries(_NAMES, _VALUES, max_size=2), max_size=2)),
                       max_size=4))  # fmt: skip
def test_toml_says_what_it_was_given(tables: dict[str, object]) -> None:
    assert tomllib.loads(provisioning.toml(tables)) == tables


# --- the certificate ---


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
    with pytest.raises(FirmwareError, match=r"the box's key .*scp.key is damaged"):
        provisioning.take_certificate(box, path)


def test_a_publishers_keys_are_nobody_elses_at_any_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "site.key").write_bytes(b"")  # a cut left it
    modes = {}
    rename = Files.rename

    def looking(self: Files, old: Path, new: Path) -> None:
        modes[new.name] = old.stat().st_mode & 0o777
        rename(self, old, new)

    monkeypatch.setattr(Files, "rename", looking)
    keys.make(tmp_path)
    names = ("image", "site", "models", "pk", "kek", "db", "update-ca", "release")
    assert {name: mode for name, mode in modes.items() if name.endswith(".key")} == {
        f"{name}.key": 0o600 for name in names
    }


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


def test_a_box_keeps_its_address_although_its_machine_id_changes() -> None:
    shipped = CHECKOUT / "firmware/image/files/etc/systemd/network/80-dhcp.network"
    for text in (shipped.read_text(), network.file({"address": "dhcp"})):
        assert "DHCP=yes\n" in text and "[DHCPv4]\nClientIdentifier=mac\n" in text


# --- models and sticks ---


@pytest.mark.long
def test_a_model_takes_the_place_of_its_own_id_alone(box: Box, publisher: Path, tmp_path: Path) -> None:
    better = fake_package.version(tmp_path / "better", "1.4.1")
    shutil.copytree(better.parent / "trusted", box.trust / "models")
    provisioning.apply(box, site(tmp_path / "1", publisher, 1))
    Store(box.data / "ledger.sqlite3").close()  # as the appliance makes it
    bundled = {str(package.read(path, None)) for path in package.bundled()}
    assert reads(box) == bundled
    assert models.install(box, better) == "chest-pneumonia 1.4.1 is in force"
    expected = {each for each in bundled if not each.startswith("chest-pneumonia")} | {"chest-pneumonia 1.4.1"}
    assert reads(box) == expected
    assert models.install(box, better) == "chest-pneumonia 1.4.1 is in force already"
    provisioning.apply(box, site(tmp_path / "2", publisher, 2, "SECOND"))
    assert reads(box) == expected
    where = ("--config", str(box.configuration))
    assert not health.scanside(("models", "rollback", "chest-pneumonia", "--why", "false alarms", *where)).returncode
    assert "another one was chosen since" in models.install(box, better)  # a stick that is still there at a restart
    assert reads(box) == bundled and not list(box.incoming.iterdir())


def reads(box: Box) -> set[str]:
    done = health.scanside(("models", "list", "--json", "--config", str(box.configuration)))
    return {f"{row['model']} {row['version']}" for row in json.loads(done.stdout) if row["reads"]}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_what_the_appliance_makes_for_root_is_its_own_users(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65533)
    done = health.scanside((), program="id", owner=tmp_path)
    assert re.findall(r"=(\d+)", done.stdout) == ["65534", "65533", "65533"], done


def test_models_that_are_turned_away(box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store(box.data / "ledger.sqlite3").close()
    before = reads(box)
    with pytest.raises(RefusedError, match=r"chest-pneumonia.scanside is not taken: .* does not trust"):
        models.install(box, fake_package.version(tmp_path / "foreign", "1.4.1"))
    damaged = tmp_path / "damaged.scanside"
    content = bytearray(package.bundled()[0].read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(RefusedError, match="is not taken"):
        models.install(box, damaged)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 30, 1 << 30, 9 << 20))
    with pytest.raises(FirmwareError, match="the data partition only 9 MiB left"):
        models.install(box, damaged)
    assert reads(box) == before


def test_a_stick_is_taken_and_answered(box: Box, publisher: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stick"
    site(folder, publisher, 3, "STICK")
    (folder / "broken.raucb").write_bytes(b"no bundle")
    (folder / "service.token").write_text("guess")
    loaded: list[Box] = []
    heard: list[str] = []
    said = stick.take(box, folder, heard.append, restart=pytest.fail, reload=loaded.append)
    assert said[0] == "site.toml: configuration 1 is in place"
    assert said[1].startswith("broken.raucb: REFUSED") and said[2].startswith("service.token: REFUSED")
    assert loaded == [box] and heard == said
    assert said[-2:] == [
        "what happened lies on the stick in scanside-5eedb0c5, with logs",
        "the appliance has started with it",
    ]
    answer = folder / "scanside-5eedb0c5"
    assert "REFUSED" in (answer / "what-happened.txt").read_text()
    assert x509.load_pem_x509_csr((answer / "request.csr").read_bytes())
    assert (answer / "history.json").exists()


def test_a_stick_without_room_for_the_logs_has_what_happened_and_the_request(
    box: Box, publisher: Path, tmp_path: Path
) -> None:
    folder, loaded = tmp_path / "stick", []
    (tmp_path / "bin" / "journalctl").write_text("#!/bin/sh\nhead -c 3000000 /dev/zero | tr '\\0' x\n")
    (tmp_path / "bin" / "journalctl").chmod(0o755)
    with small_disk(folder, "1m"):
        site(folder, publisher, 1)
        said = stick.take(box, folder, restart=pytest.fail, reload=loaded.append)
        answer = folder / "scanside-5eedb0c5"
        lacks = "without all of the logs: [Errno 28] No space left on device"
        assert said[-2] == f"what happened lies on the stick in scanside-5eedb0c5, {lacks}"
        assert (answer / "what-happened.txt").read_text().splitlines()[1:] == said
        assert x509.load_pem_x509_csr((answer / "request.csr").read_bytes())
        assert {path.name for path in answer.iterdir()} >= {"history.json", "recount.json"}
        assert loaded == [box]


def test_a_journal_that_does_not_answer_keeps_nothing_from_taking_effect(
    box: Box, publisher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, loaded = tmp_path / "stick", []
    (tmp_path / "bin" / "journalctl").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "bin" / "journalctl").chmod(0o755)
    monkeypatch.setattr(provisioning, "_SECONDS_FOR_JOURNAL", 1)
    site(folder, publisher, 1)
    stick.take(box, folder, restart=pytest.fail, reload=loaded.append)
    assert loaded == [box]
    assert "timed out after 1 seconds" in (folder / "scanside-5eedb0c5" / "journal.txt").read_text()


def test_a_stick_does_not_have_every_image_hashed(box: Box, tmp_path: Path) -> None:
    """With a full disk that takes hours, in which nothing that it brought would count."""
    asked: list[Sequence[str]] = []

    def ask(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        asked.append(arguments)
        return health.scanside(arguments)

    Store(box.data / "ledger.sqlite3").close()
    provisioning.export_logs(box, tmp_path / "logs", ask)
    assert [arguments for arguments in asked if "verify" in arguments and "--quick" not in arguments] == []
    assert json.loads((tmp_path / "logs" / "recount.json").read_text())["kind"] == "quick"


@pytest.mark.long
def test_a_stick_that_is_still_there_at_the_next_start_changes_nothing(
    box: Box, publisher: Path, tmp_path: Path
) -> None:
    """Otherwise each start would interrupt what is read, and make one more configuration."""
    folder, loaded = tmp_path / "stick", []

    def plugged(version: int, ae_title: str) -> str:
        site(folder, publisher, version, ae_title)
        return stick.take(box, folder, restart=pytest.fail, reload=loaded.append)[0]

    assert plugged(1, "ONE") == "site.toml: configuration 1 is in place"
    (folder / "certificate.pem").write_bytes(certify((folder / "scanside-5eedb0c5" / "request.csr").read_bytes()))
    stick.take(box, folder, restart=pytest.fail, reload=loaded.append)
    assert len(loaded) == 2
    said = stick.take(box, folder, restart=pytest.fail, reload=loaded.append)
    assert said[0] == "site.toml: configuration 1 is in place already"
    assert said[1].startswith("certificate.pem: CN=") and said[1].endswith(": in place already")
    assert len(loaded) == 2 and len(provisioning.history(box)) == 1

    assert plugged(2, "TWO") == "site.toml: configuration 2 is in place"
    provisioning.go_back(box, 1)
    assert plugged(2, "TWO").startswith(
        "site.toml: configuration 2 was left for 1 at the box, which stays; `scanside-f"
    )
    assert 'ae_title = "ONE"' in box.configuration.read_text() and len(loaded) == 3
    provisioning.go_back(box, 2)
    assert plugged(2, "OTHER") == "site.toml: configuration 3 is in place"
    assert plugged(2, "TWO") == "site.toml: configuration 4 is in place"  # by another stick again
    box.configuration.unlink()
    assert plugged(2, "TWO") == "site.toml: configuration 5 is in place"


@pytest.mark.long
def test_a_configuration_with_tls_comes_before_the_certificate_that_is_asked_for(
    box: Box, publisher: Path, tmp_path: Path
) -> None:
    """The request comes back on the stick that brings it. What else is not there, or does not fit, is refused."""
    folder = tmp_path / "stick"
    tls = '[appliance.storage_scp.tls]\nkey = "keys/scp.key"\ncertificate = "keys/scp.pem"\nca = "keys/{ca}"\n'
    (box.data / "keys").mkdir()
    authority = Authority(tmp_path / "ca", "hospital")
    shutil.copy(authority.ca, box.data / "keys" / "ca.pem")
    site(folder, publisher, extra=tls.format(ca="none.pem"))
    refused = stick.take(box, folder, restart=pytest.fail, reload=pytest.fail)[0]
    assert "site.toml: REFUSED: the appliance could not use" in refused and "keys/none.pem" in refused
    assert not provisioning.history(box)
    site(folder, publisher, extra=tls.format(ca="ca.pem"))
    said = stick.take(box, folder, restart=pytest.fail, reload=lambda _: None)
    assert said[0] == "site.toml: configuration 1 is in place"
    answer = folder / "scanside-5eedb0c5"
    happened = (answer / "what-happened.txt").read_text()
    assert "the appliance has started with it" in happened
    assert f"still to be put right: {box.data}/keys/scp.pem (Storage SCP, shown to scanners): it can't be" in happened
    (folder / "certificate.pem").write_bytes(certify((answer / "request.csr").read_bytes()))
    stick.take(box, folder, restart=pytest.fail, reload=lambda _: None)
    happened = (answer / "what-happened.txt").read_text()
    assert "the appliance has started with it" in happened and "put right" not in happened
    certificate, _ = authority.issue("other")
    shutil.copy(certificate, box.data / "keys" / "other.pem")
    with pytest.raises(FirmwareError, match="does not belong to the certificate"):
        provisioning.apply(
            box, site(folder, publisher, 2, extra=tls.format(ca="ca.pem").replace("scp.pem", "other.pem"))
        )


@pytest.mark.long
def test_a_configuration_with_which_the_appliance_does_not_start_is_left_again(
    box: Box, publisher: Path, tmp_path: Path
) -> None:
    folder, answers = tmp_path / "stick", [""]
    happened = folder / "scanside-5eedb0c5" / "what-happened.txt"

    def plugged(version: int, ae_title: str, *comes_up: str) -> list[str]:
        answers[:] = comes_up
        site(folder, publisher, version, ae_title)
        said = stick.take(box, folder, restart=pytest.fail, reload=lambda _: answers.pop(0))
        assert not answers and (not comes_up or said[-1] in happened.read_text().splitlines())
        return said

    said = plugged(1, "ONE", "scanside: the page can't listen")
    assert "the appliance does NOT start with it: scanside: the page can't listen" in said
    assert 'ae_title = "ONE"' in box.configuration.read_text(), "there is none to go back to"
    plugged(2, "TWO", "")
    said = plugged(3, "THREE", "scanside: the page can't listen", "")
    assert said[-2:] == [
        "the appliance does NOT start with it: scanside: the page can't listen",
        "configuration 3 is left: 2 is in place again, and the appliance runs",
    ]
    assert 'ae_title = "TWO"' in box.configuration.read_text()
    assert "was left for 2 at the box, which stays" in plugged(3, "THREE")[0], "a start does not try it again"
    said = plugged(4, "FOUR", "it broke", "it broke again")
    assert said[-1].endswith("2 is in place again, and the appliance does not start with it either: it broke again")


def test_a_configuration_is_tried_before_the_update_that_came_with_it(
    box: Box, publisher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the update would be judged with it, and sent back for it."""
    folder, order = tmp_path / "stick", []
    site(folder, publisher)
    (folder / "new.raucb").touch()
    monkeypatch.setattr(handover, "_copied_update", lambda *_: ("it is installed", handover.Follows.RESTART))

    def plugged() -> list[str]:
        order.clear()
        stick.take(box, folder, lambda _: None, lambda: order.append("restart"), lambda _: order.append("reload"))
        return order

    assert plugged() == ["reload", "restart"]
    assert plugged() == ["restart"], "the configuration is in place already"


def test_what_systemd_says_of_the_start_is_what_is_said(
    box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "bin"
    called = tmp_path / "called"
    for name, script in (
        ("systemctl", f'echo "$@" >> {called}; [ "$*" != "restart scanside" ] || [ ! -e {tmp_path}/broken ]'),
        ("journalctl", "printf 'earlier\\nscanside: web.port is taken\\n          stop what uses it\\n'"),
    ):
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setattr(handover.datadisk, "use_site", lambda _: None)
    assert handover.start_anew(box) == ""
    assert called.read_text().splitlines()[-1] == "restart scanside"
    (tmp_path / "broken").touch()
    assert handover.start_anew(box) == "scanside: web.port is taken (stop what uses it)"


def in_place(box: Box) -> dict[str, bytes]:
    """Every file of what is configured, and of what was."""
    folder = box.configuration.parent
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def taken(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess(arguments, 0, "", "")


@pytest.mark.parametrize("kind", ["cut", "full"])
def test_a_configuration_is_in_place_as_a_whole_or_not_at_all(
    box: Box, publisher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Cut, or without room, before each step; a lower version than the one that did not come in place is taken then."""
    provisioning.apply(box, site(tmp_path / "1", publisher, 1, "ONE"), taken)
    fifth, second = site(tmp_path / "5", publisher, 5, "FIVE"), site(tmp_path / "2", publisher, 2, "TWO")
    shutil.copytree(box.configuration.parent, kept := tmp_path / "kept")
    before, steps = in_place(box), 0
    while True:
        files = DyingFiles(steps)
        if kind == "full":
            monkeypatch.setattr(files, "_step", functools.partial(_no_room_after, files))
        try:
            with monkeypatch.context() as patched:
                patched.setattr(provisioning, "Files", lambda files=files: files)
                provisioning.apply(box, fifth, taken)
        except (PowerCut, OSError):
            steps += 1
            assert in_place(box) == before
            assert provisioning.known(box, fifth) == ""
            assert provisioning.apply(box, second, taken) == 2
            assert provisioning.known(box, second) == "configuration 2 is in place already"
            shutil.rmtree(box.configuration.parent)
            shutil.copytree(kept, box.configuration.parent)
        else:
            break
    assert steps > 8
    assert provisioning.known(box, fifth) == "configuration 2 is in place already"
    assert b"FIVE" in in_place(box)["scanside.toml"] and b'"version": 5' in in_place(box)["site.json"]
    assert [path.name for path in box.configuration.parent.parent.iterdir() if "config" in path.name] == ["config"]


def _no_room_after(files: DyingFiles) -> None:
    if files.left == 0:
        raise OSError(28, "No space left on device")
    files.left -= 1


def test_a_configuration_counts_although_the_history_can_not_be_written(
    box: Box, publisher: Path, tmp_path: Path
) -> None:
    (box.firmware_data / "history.jsonl").mkdir(parents=True)
    assert provisioning.apply(box, site(tmp_path / "1", publisher), taken) == 1
    assert provisioning.known(box, tmp_path / "1" / "site.toml") == "configuration 1 is in place already"


RECOVERY_KEY = "-".join(["cbdefghi"] * 8)


def waits(box: Box) -> None:
    """A recovery key, as `data open` makes it."""
    Files().write(box.runtime / "recovery-key", RECOVERY_KEY.encode(), mode=0o600)


def test_the_first_stick_of_commissioning_gets_the_recovery_key(
    box: Box, publisher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits(box)
    folder, key = tmp_path / "stick", tmp_path / "stick" / "scanside-5eedb0c5" / "recovery-key.txt"
    site(folder, publisher).write_text("[site]")  # not what was signed
    (folder / "certificate.pem").write_bytes(certify(provisioning.request(box, "ai1")))
    stick.take(box, folder, restart=pytest.fail, reload=lambda _: None)
    assert not key.exists(), "anybody's stick got it"

    site(folder, publisher)
    with monkeypatch.context() as patched:
        patched.setattr(
            datadisk, "handed_over", lambda _: pytest.fail("it is on no stick yet") if not key.exists() else cut()
        )
        with pytest.raises(PowerCut):
            stick.take(box, folder, restart=pytest.fail, reload=lambda _: None)
    assert datadisk.recovery_key(box) == RECOVERY_KEY  # noted as handed over too late rather than too early
    heard = stick.take(box, folder, restart=pytest.fail, reload=lambda _: None)
    assert "the recovery key lies in scanside-5eedb0c5: keep it apart from the box; it is handed over once" in heard
    assert f"5eedb0c5:\n\n{RECOVERY_KEY}\n" in key.read_text() and "apart from the\nbox" in key.read_text()
    key.unlink()
    stick.take(box, folder, restart=pytest.fail, reload=lambda _: None)
    assert not key.exists() and not datadisk.recovery_key(box)


def cut() -> None:
    raise PowerCut


def test_a_stick_that_can_not_be_written_does_not_count_as_handed_over(
    box: Box, publisher: Path, tmp_path: Path
) -> None:
    waits(box)
    folder = tmp_path / "stick"
    site(folder, publisher)
    (folder / "scanside-5eedb0c5").write_text("in the way")
    said = stick.take(box, folder, restart=pytest.fail, reload=lambda _: None)
    assert said[-2].startswith("the stick can't be written")
    assert datadisk.recovery_key(box) == RECOVERY_KEY


@pytest.fixture
def closed(box: Box) -> Box:
    """Its data partition did not open at this start."""
    Files().write(box.notes / "box-id", b"5eedb0c5\n")
    shutil.rmtree(box.root / "data")
    Files().write(box.runtime / "data.json", b'{"failed": "the TPM does not open the data partition"}')
    return box


def test_a_stick_says_why_data_does_not_open_and_takes_nothing_else(
    closed: Box, publisher: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "stick"
    site(folder, publisher)
    (folder / "update.raucb").write_bytes(b"no bundle")
    said = stick.take(closed, folder, restart=pytest.fail, reload=pytest.fail)
    assert said[0] == "the data partition did not open: the TPM does not open the data partition"
    assert said[1] == "service.token for box 5eedb0c5 on a stick opens a shell, in which factory-reset works, too"
    assert not any("site.toml" in line or "raucb" in line for line in said)
    answer = folder / "scanside-5eedb0c5"
    assert said[0] in (answer / "what-happened.txt").read_text()
    assert (answer / "journal.txt").exists() and not (answer / "request.csr").exists()


def test_a_stick_invites_nothing_where_a_second_disk_keeps_data_closed(closed: Box, tmp_path: Path) -> None:
    """The ESP is not mounted then, either, so no token is known to be this box's."""
    shutil.rmtree(closed.esp)
    loader_chose(closed, "scanside-a.conf")
    (tmp_path / "stick").mkdir()
    Files().write(closed.runtime / "data.json", b'{"failed": "two disks (unplug one)"}')
    said = stick.take(closed, tmp_path / "stick", restart=pytest.fail, reload=pytest.fail)
    assert said == [
        "the data partition did not open: two disks (unplug one)",
        "what happened lies on the stick in scanside-without-identity, with logs",
    ]


def test_a_recovery_key_on_a_stick_starts_the_box_again(
    closed: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "stick"
    folder.mkdir()
    (folder / "recovery-key.txt").write_text(RECOVERY_KEY)
    given, restarted = [], []
    monkeypatch.setattr(datadisk, "recover", lambda box, text: given.append((box, text)) or "the TPM opens it")
    said = stick.take(closed, folder, restart=lambda: restarted.append(True), reload=pytest.fail)
    assert "recovery-key.txt: the TPM opens it" in said and given == [(closed, RECOVERY_KEY)] and restarted == [True]

    def refused(*_: object) -> str:
        raise FirmwareError("another box's")

    monkeypatch.setattr(datadisk, "recover", refused)
    said = stick.take(closed, folder, restart=pytest.fail, reload=pytest.fail)
    assert "recovery-key.txt: REFUSED: another box's" in said


def test_a_service_token_opens_a_shell_where_data_does_not_open(closed: Box, publisher: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stick"
    folder.mkdir()
    program = tmp_path / "bin" / "systemd-run"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/shell\n")
    program.chmod(0o755)
    (closed.root / "data").write_text("the root is read-only")
    (folder / "service.token").write_text(service.make("other", 4, publisher / "site.key", "x"))
    said = stick.take(closed, folder, restart=pytest.fail, reload=pytest.fail)
    assert "service.token: REFUSED: the service token is for box other, and this is 5eedb0c5" in said
    assert not (tmp_path / "shell").exists()
    (folder / "service.token").write_text(service.make("5eedb0c5", 4, publisher / "site.key", "A. Engineer"))
    said = stick.take(closed, folder, restart=pytest.fail, reload=pytest.fail)
    assert any(line.startswith("service.token: service mode for A. Engineer") for line in said)
    assert (tmp_path / "shell").exists()


def test_a_stick_that_can_not_be_read_everywhere_is_answered(box: Box, publisher: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stick"
    site(folder, publisher, 3, "STICK")
    (folder / "certificate.pem").mkdir()
    (folder / "service.token").write_bytes(b"\xff\xfe")
    said = stick.take(box, folder, restart=pytest.fail, reload=lambda _: None)
    assert said[0] == "site.toml: configuration 1 is in place"
    assert said[1].startswith("certificate.pem: REFUSED: it can't be taken: ") and "Is a directory" in said[1]
    assert said[2].startswith("service.token: REFUSED: it can't be taken: ") and "decode" in said[2]
    assert "Is a directory" in (folder / "scanside-5eedb0c5" / "what-happened.txt").read_text()


def test_a_stick_is_told_what_it_has_under_a_name_that_no_box_takes(box: Box, publisher: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stick"
    site(folder, publisher)
    (folder / "site.toml").rename(folder / "site.toml.txt")
    (folder / "site.toml.sig").rename(folder / "site.toml (1).sig")
    names = ("V2.RAUCB", "certficate.pem", "SERVICE.TOKEN", "holiday.jpg", "System Volume Information/x", ".Trashes",
             "update/v3.raucb", "update/readme.txt", "scanside-other/request.csr")  # fmt: skip
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    (folder / "service.token").hardlink_to(folder / "SERVICE.TOKEN")  # FAT finds the one by the other's name
    said = stick.take(box, folder, restart=pytest.fail, reload=pytest.fail)
    told = (folder / "scanside-5eedb0c5" / "what-happened.txt").read_text()
    for line in (
        "site.toml.txt: not taken: its name must be site.toml",
        "site.toml (1).sig: not taken: its name must be site.toml.sig",
        "V2.RAUCB: not taken: its name must be v2.raucb",
        "certficate.pem: not taken: its name must be certificate.pem",
        "update/v3.raucb: not taken: it must lie at the stick's top",
    ):
        assert line in said and f"{line}\n" in told
    assert [line for line in said if "not taken" in line][5:] == [
        "not taken: holiday.jpg: a box takes site.toml, site.toml.sig, certificate.pem, service.token, "
        "recovery-key.txt, *.scanside and *.raucb"
    ]


def test_what_can_not_be_copied_leaves_nothing_beside(tmp_path: Path) -> None:
    unreadable = Path("/proc/self/mem")  # its first byte answers EIO, as a worn stick's does
    with pytest.raises(OSError, match="Input/output error"):
        Files().copy(unreadable, tmp_path / "copy")
    assert not list(tmp_path.iterdir())


def test_exported_logs_hold_no_code_and_no_name_of_a_file(
    box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(box.data / "ledger.sqlite3")
    store.set_component("drop_folder", {"state": "ready", "problems": {"Doe^John.dcm": "can't be read"}})
    accounts = Accounts(box.data / "ledger.sqlite3")
    said = f"make the first account with the one-time code {accounts.new_code()}"
    accounts.close()
    store.close()
    (tmp_path / "bin" / "journalctl").write_text(f"#!/bin/sh\necho '{said}'\n")
    (tmp_path / "bin" / "journalctl").chmod(0o755)
    provisioning.export_logs(box, tmp_path / "logs")
    exported = {path.name: path.read_text() for path in (tmp_path / "logs").iterdir()}
    assert exported["journal.txt"] == "make the first account with the one-time code (code left out)\n"
    state = json.loads(exported["status.json"])
    assert state["counts"]["received"] == 0 and "drop_folder" in state["parts"]
    assert not any("Doe" in text for text in exported.values())


@pytest.mark.long
def test_the_stick_has_the_code_for_the_first_account(box: Box, publisher: Path, tmp_path: Path) -> None:
    folder, answer = tmp_path / "stick", tmp_path / "stick" / "scanside-5eedb0c5" / "first-account.txt"
    site(folder, publisher, 1)
    stick.take(box, folder, reload=lambda _: None)
    assert not answer.exists()  # nobody but the box itself reaches the page

    site(folder, publisher, 2, extra='[appliance.web]\nhost = "0.0.0.0"\nport = 8443\n')
    Store(box.data / "ledger.sqlite3").close()  # as the appliance makes it
    stick.take(box, folder, reload=lambda _: None)
    code = answer.read_text().split("with the code ")[1].split()[0]
    assert ":8443/enrol" in answer.read_text()
    accounts = Accounts(box.data / "ledger.sqlite3")
    assert accounts.enrol(code, "anna", "a long enough password", "192.0.2.7").role == "administrator"
    accounts.close()

    answer.unlink()
    site(folder, publisher, 3, extra='[appliance.web]\nhost = "0.0.0.0"\n')
    stick.take(box, folder, reload=lambda _: None)
    assert not answer.exists()  # anna makes the others


@pytest.mark.long
def test_the_stick_has_codes_for_those_whom_the_configuration_names(box: Box, publisher: Path, tmp_path: Path) -> None:
    folder, answer = tmp_path / "stick", tmp_path / "stick" / "scanside-5eedb0c5" / "accounts.txt"
    people = '[[accounts]]\nname = "anna"\nrole = "administrator"\n[[accounts]]\nname = "joe"\nrole = "clinician"\n'
    web = '[appliance.web]\nhost = "0.0.0.0"\nport = 8443\n'
    Store(box.data / "ledger.sqlite3").close()  # as the appliance makes it
    site(folder, publisher, 1, extra=people + web)
    stick.take(box, folder, reload=lambda _: None)
    told = answer.read_text()
    codes = {name: code for name, role, code in re.findall(r"(?m)^(\w+) +(\w+) +([A-Z0-9-]{19})$", told)}
    assert ":8443/enrol" in told and set(codes) == {"anna", "joe"}
    accounts = Accounts(box.data / "ledger.sqlite3")
    password = "a long enough password"
    assert accounts.enrol(codes["anna"], "anna", password, "192.0.2.7").role == "administrator"

    stick.take(box, folder, reload=pytest.fail)
    assert answer.read_text() == told  # the stick stayed in: joe's code may have been given out
    answer.unlink()
    stick.take(box, folder, reload=pytest.fail)
    assert "joe" in answer.read_text() and codes["joe"] not in answer.read_text()  # lost: another one

    site(folder, publisher, 2, extra=people + web)
    stick.take(box, folder, reload=lambda _: None)
    again = answer.read_text()
    assert "anna" not in again  # who has an account needs no code
    newer = again.split("clinician")[1].split()[0]
    with pytest.raises(LoginError):
        accounts.enrol(codes["joe"], "joe", password, "192.0.2.7")  # that of the latest stick counts
    assert accounts.enrol(newer, "joe", password, "192.0.2.7").role == "clinician"
    accounts.close()


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ('[[accounts]]\nname = "joe"\n', "accounts.role is missing"),
        ('[[accounts]]\nname = "joe"\nrole = "king"\n', "no role king"),
        ('[[accounts]]\nname = "joe"\nrole = "viewer"\npassword = "x"\n', "accounts.password is not known"),
        ('[[accounts]]\nname = "a b"\nrole = "viewer"\n', "can't be an account's name"),
        ('[accounts]\nname = "joe"\n', "accounts must be a list"),
        ('accounts = ["joe"]\n', "accounts must be a table"),
    ],
)
def test_accounts_that_are_wrong_are_refused(wrong: str, why: str) -> None:
    base = '[site]\nname = "x"\nversion = 1\n'
    with pytest.raises(FirmwareError, match=why):
        site_toml.parse(wrong + base if wrong.startswith("accounts =") else base + wrong, "site.toml")


def test_signing_a_configuration_checks_it_first(publisher: Path, tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text("[site]\nname = 'x'\n")
    done = CliRunner().invoke(main, ["provision", "sign", str(path), "--key", str(publisher / "site.key")])
    assert done.exit_code == 1 and "site.version is missing" in done.output
    assert not signing.signature_of(path).exists()


def test_signing_has_the_appliance_judge_its_tables(publisher: Path, tmp_path: Path) -> None:
    """As the box does: otherwise a slip is found at the box only."""
    path = tmp_path / "site.toml"
    path.write_text(SITE.format(version=1, ae_title="X") + "[appliance.web]\nprot = 1\n")
    done = CliRunner().invoke(main, ["provision", "sign", str(path), "--key", str(publisher / "site.key")])
    assert done.exit_code == 1 and re.search(r"site.toml: .*tables: \[appliance\]: .*`prot`", done.output), done.output
    assert not signing.signature_of(path).exists()


# --- what goes with a configuration ---

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


def test_files_go_with_the_configuration_that_lists_them(box: Box, publisher: Path, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        os.chown(box.data, 65534, 65533)
    provisioning.apply(box, with_files(tmp_path / "1", publisher, 1, "the first secret"), taken)
    path, content = in_force(box)
    assert content == "the first secret" and path.is_relative_to(box.configuration.parent)
    assert path.stat().st_uid == box.data.stat().st_uid
    provisioning.apply(box, with_files(tmp_path / "2", publisher, 2, "the second secret"), taken)
    assert in_force(box)[1] == "the second secret"
    provisioning.go_back(box, 1, taken)
    assert in_force(box)[1] == "the first secret"

    changed = with_files(tmp_path / "3", publisher, 3, "as signed")
    before = in_place(box)
    (tmp_path / "3/files/pacs-password.txt").write_text("another one")
    with pytest.raises(RefusedError, match=r"files/pacs-password.txt is not the one that was signed"):
        provisioning.apply(box, changed, taken)
    (tmp_path / "3/files/pacs-password.txt").unlink()
    with pytest.raises(RefusedError, match=r"files/pacs-password.txt is missing"):
        provisioning.apply(box, changed, taken)
    assert in_place(box) == before


def test_a_stick_brings_files_and_gets_none_back(
    box: Box, publisher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover.provisioning, "apply", functools.partial(provisioning.apply, ask=taken))
    folder = tmp_path / "stick"
    with_files(folder, publisher, 1, "the first secret")
    said = stick.take(box, folder, restart=pytest.fail, reload=lambda _: None, ask=taken)
    assert said[0] == "site.toml: configuration 1 is in place" and in_force(box)[1] == "the first secret"
    assert not any("not taken" in line for line in said)
    answer = b"".join(path.read_bytes() for path in (folder / "scanside-5eedb0c5").iterdir())
    assert b"the first secret" not in answer
    (folder / "site.toml").unlink()
    assert stick.take(box, folder, restart=pytest.fail, reload=pytest.fail, ask=taken)[0].startswith(
        "files/: REFUSED: what is in it goes with a configuration"
    )


def test_signing_lists_the_files_as_they_are_now_and_changes_nothing_else(publisher: Path, tmp_path: Path) -> None:
    path = with_files(tmp_path, publisher, 1, "one")
    once = path.read_text()
    assert once.startswith(WITH_FILES.format(version=1).rstrip()) and once.count("[[files]]") == 3
    assert provisioning.check(path, taken) == once
    path.write_text(f'{once}\n[appliance.log]\nlevel = "debug"\n')
    (tmp_path / "files/pacs-password.txt").write_text("two")
    again = provisioning.check(path, taken)
    assert 'level = "debug"' in again and again.count("[[files]]") == 3
    assert hashlib.sha256(b"two").hexdigest() in again and hashlib.sha256(b"one").hexdigest() not in again

    (tmp_path / "files/pacs-ca.pem").unlink()
    with pytest.raises(FirmwareError, match=r"destinations.tls.ca names files/pacs-ca.pem, which is not listed"):
        provisioning.check(path, taken)
    path.write_text(once.replace("files/pacs-ca.pem", "pacs-ca.pem"))
    with pytest.raises(FirmwareError, match=r"names pacs-ca.pem, which nothing brings to a box .*files/pacs-ca.pem"):
        provisioning.check(path, taken)
    (tmp_path / "files/notes.docx").write_text("x")
    with pytest.raises(FirmwareError, match=r"notes.docx can't go with site.toml"):
        provisioning.check(path, taken)


def test_a_factory_reset_wants_the_boxs_name_typed(box: Box) -> None:
    done = CliRunner().invoke(main, ["factory-reset", "--box", "wrong", "--root", str(box.root)])
    assert done.exit_code == 1 and "this is box 5eedb0c5, not wrong" in done.output


def test_help_of_every_command() -> None:
    done = subprocess.run(
        [PYTHON, "-m", "firmware", "--help"], capture_output=True, text=True, cwd=CHECKOUT, check=False
    )
    assert done.returncode == 0, done.stderr
    for name in ("build", "flash", "verify", "record", "update", "provision", "factory-reset", "export-logs"):
        assert CliRunner().invoke(main, [name, "--help"]).exit_code == 0
        assert f"  {name} " in done.stdout
