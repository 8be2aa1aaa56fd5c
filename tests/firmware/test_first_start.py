"""A box without a configuration: what its console says, and what is entered on its page."""

from __future__ import annotations

import json
import subprocess
import tomllib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from firmware import first_start, handover, inbox, provisioning, signing, stick
from firmware.box import Box
from firmware.errors import FirmwareError, RefusedError
from firmware.firewall import rules
from tests.firmware.commissioning import certify, site, taken, waits
from tests.running import CHECKOUT

ENTERED: dict[str, Any] = {
    "by": "anna",
    "site": {"name": "Hospital, basement 2", "time_zone": "Europe/Berlin", "ntp_servers": ["192.0.2.1"]},
    "network": {"address": "192.0.2.5/24", "gateway": "192.0.2.254", "dns": []},
    "appliance": {
        "web": {"host": "0.0.0.0"},
        "storage_scp": {
            "ae_title": "BASEMENT",
            "port": 104,
            "modalities": [{"ae_title": "CT1", "address": "192.0.2.7"}],
        },
        "destinations": [{"name": "PACS", "ae_title": "PACS", "host": "192.0.2.10", "port": 104}],
    },
}


@pytest.fixture
def entered(tmp_path: Path) -> Callable[..., Path]:
    def write(**changes: Any) -> Path:
        path = tmp_path / "site.json"
        path.write_text(json.dumps({**ENTERED, **changes}))
        return path

    return write


def test_what_was_entered_is_in_place(box: Box, entered: Callable[..., Path]) -> None:
    assert provisioning.may_enter(box) and not provisioning.entered(box)
    assert provisioning.enter(box, entered()) == 1
    tables = tomllib.loads(box.configuration.read_text())
    assert tables["storage_scp"]["modalities"] == [{"ae_title": "CT1", "address": "192.0.2.7"}]
    assert tables["destinations"][0]["host"] == "192.0.2.10" and tables["data_dir"] == str(box.data)
    assert "Address=192.0.2.5/24" in (box.configuration.parent / "network" / "50-site.network").read_text()
    assert box.history()[-1]["entered_by"] == "anna"
    assert provisioning.may_enter(box) and provisioning.entered(box)
    assert provisioning.enter(box, entered(network={"address": "dhcp"}), ask=taken) == 2
    assert [(each["version"], each["entered"]) for each in provisioning.history(box)] == [(1, True), (2, True)]
    provisioning.go_back(box, 1, ask=taken)
    assert provisioning.entered(box)


def test_a_signed_configuration_ends_it(
    box: Box, publisher: Path, entered: Callable[..., Path], tmp_path: Path
) -> None:
    for _ in range(3):
        provisioning.enter(box, entered(), ask=taken)
    signed = site(tmp_path / "stick", publisher, 1)  # however often one was entered before
    assert provisioning.apply(box, signed, ask=taken) == 4
    assert not provisioning.may_enter(box) and not provisioning.entered(box)
    with pytest.raises(RefusedError, match="takes none without a signature any more"):
        provisioning.enter(box, entered(), ask=taken)
    provisioning.go_back(box, 3, ask=taken)
    assert provisioning.entered(box) and not provisioning.may_enter(box)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "can't be read"),
        ("[]", "can't be read"),
        ("{}", "can't be read"),
        ('{"site": 5}', "can't be read"),
        ("[" * 60_000, "can't be read"),
        (json.dumps({"site": {"name": "x" * 70_000}}), "has more than 64 KiB"),
        (json.dumps({**ENTERED, "files": []}), "files come with a signed one only"),
        (json.dumps({**ENTERED, "site": {"name": "x", "time_zone": "Europe/Berlinn"}}), "there is no time zone"),
        (json.dumps({**ENTERED, "site": {}}), "site.name is missing"),
        (json.dumps({**ENTERED, "root": {}}), "tables that are not known: root"),
        (json.dumps({**ENTERED, "network": {"address": "192.0.2.5"}}), "has no prefix length"),
        (json.dumps({**ENTERED, "appliance": {"storage_scp": {"port": "many"}}}), "the appliance does not take"),
    ],
)
def test_what_is_wrong_changes_nothing(box: Box, tmp_path: Path, content: str, words: str) -> None:
    before = box.configuration.read_text()
    path = tmp_path / "site.json"
    path.write_text(content)
    with pytest.raises(FirmwareError, match=words):
        provisioning.enter(box, path)
    assert box.configuration.read_text() == before and provisioning.history(box) == []


def test_it_comes_by_the_page_alone(box: Box, entered: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "stick"
    folder.mkdir()
    entered().rename(folder / "site.json")
    assert handover.take(box, folder, print, by_hand=True).said == []
    (box.data / "inbox").mkdir()
    (folder / "site.json").rename(box.data / "inbox" / "site.json")
    said = inbox.take(box, restart=pytest.fail, reload=lambda _: None)
    assert said == ["what was entered: configuration 1 is in place", "the appliance has started with it"]
    report = json.loads(box.report.read_text())
    assert report["site"]["name"] == "Hospital, basement 2" and report["may_enter"]


def test_the_next_stick_gets_the_recovery_key(box: Box, entered: Callable[..., Path], tmp_path: Path) -> None:
    waits(box)
    (tmp_path / "early").mkdir()
    stick.take(box, tmp_path / "early", restart=pytest.fail, reload=lambda _: None, ask=taken)
    assert not list((tmp_path / "early").glob("*/recovery-key.txt"))  # nobody has commissioned it yet
    provisioning.enter(box, entered(), ask=taken)
    (tmp_path / "stick").mkdir()
    said = stick.take(box, tmp_path / "stick", restart=pytest.fail, reload=lambda _: None, ask=taken)
    assert any("the recovery key lies in" in line for line in said), said
    assert "recovery key" in (tmp_path / "stick" / "scanside-5eedb0c5" / "recovery-key.txt").read_text()


def asked(code: str) -> Callable[[Sequence[str]], subprocess.CompletedProcess[str]]:
    def answer(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        assert arguments[:2] == ("accounts", "enrol")
        return subprocess.CompletedProcess(arguments, 0 if code else 2, f"{code}\n", "")

    return answer


def console(box: Box, code: str = "ABCD-2345", known: Iterable[list[str]] = ([], ["192.0.2.9"])) -> list[str]:
    found, last = iter(known), [""]

    def addresses() -> list[str]:
        last[:] = next(found, last)
        return list(last)

    return first_start.invitation(box, asked(code), addresses, sleep=lambda _: None)


def test_the_console_says_where_the_page_is_and_its_code(box: Box, entered: Callable[..., Path]) -> None:
    assert console(box) == []  # a page that nobody else reaches
    box.configuration.write_text((CHECKOUT / "firmware/image/files/usr/lib/scanside/default.toml").read_text())
    where, code = console(box)
    assert where.endswith("enter it at https://192.0.2.9:8080/box") and "ABCD-2345" in code
    assert len(console(box, code="")) == 1  # there is an account already
    (nowhere,) = console(box, known=[[]])
    assert "no address" in nowhere
    provisioning.enter(box, entered(), ask=taken)
    assert console(box) == ["the page of this box is at https://192.0.2.9:8080/"]
    several = console(box, known=[["192.0.2.9", "198.51.100.7"]])
    assert several == ["the page of this box is at https://192.0.2.9:8080/ or https://198.51.100.7:8080/"]
    (nowhere,) = console(box, known=[[]])
    assert "nobody reaches its page" in nowhere
    off = {"web": {"host": "0.0.0.0", "enabled": False}}
    provisioning.enter(box, entered(appliance=off), ask=taken)
    assert console(box) == []


def test_a_configured_box_says_which_certificate_it_has_made(box: Box, entered: Callable[..., Path]) -> None:
    (box.data / "keys").mkdir()
    (box.data / "keys/page.pem").write_bytes(certify(provisioning.request(box, "ai1")))
    provisioning.enter(box, entered(), ask=taken)
    _, certificate = console(box)
    assert certificate.startswith("its certificate, which the browser shows, is SHA-256 ")
    given = {"web": {"host": "0.0.0.0", "tls": {"key": "keys/scp.key", "certificate": "keys/scp.pem"}}}
    provisioning.enter(box, entered(appliance=given), ask=taken)
    assert len(console(box)) == 1


def test_as_a_box_is_flashed_its_page_is_open() -> None:
    shipped = CHECKOUT / "firmware/image/files/usr/lib/scanside/default.toml"
    opened = rules(tomllib.loads(shipped.read_text()))
    assert "tcp dport 8080 accept" in opened and "tcp dport 11112 accept" in opened
    assert "8080" not in rules(tomllib.loads(shipped.read_text()), on_trial=True)


def test_a_signature_is_still_asked_for_on_the_page(box: Box, publisher: Path) -> None:
    folder = box.data / "inbox"
    path = site(folder, publisher)
    signing.signature_of(path).unlink()
    (said,) = inbox.take(box, restart=pytest.fail, reload=pytest.fail)
    assert "site.toml: REFUSED: " in said and "is missing" in said
