"""The form for a box's first configuration: who gets it, when there is one, and what it leaves for the firmware."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from appliance.accounts import Accounts
from tests.appliance.guarded import Guarded

PASSWORD = "a long enough password"
FORM = {
    "name": " Basement ", "time_zone": "", "ntp_servers": "192.0.2.1  ntp.example", "port": "02:00:00:00:00:01",
    "addressing": "static", "address": "192.0.2.5/24", "gateway": "", "dns": "", "ae_title": "BOX", "scp_port": "104",
    "modality-0-ae_title": "CT1", "modality-0-address": "192.0.2.7", "modality-2-address": "192.0.2.8",
    "destination-1-ae_title": "", "destination-1-host": "pacs.example", "destination-1-port": "many",
}  # fmt: skip

pytestmark = pytest.mark.usefixtures("quick_hashes")


def report(page: Guarded, **said: Any) -> None:
    Path(page.config.box.report).write_text(json.dumps({"may_enter": True, "ports": {}, **said}))


def test_the_first_account_of_a_box_is_led_to_it(tmp_path: Path) -> None:
    page = Guarded(tmp_path, claimed=False, host="0.0.0.0")
    report(page, site=None)
    form = {"username": "eve", "password": PASSWORD, "again": PASSWORD}
    client = page.client()
    code = Accounts(page.config.ledger_path).new_code()
    assert client.post("/enrol", data={**form, "code": code}).headers["Location"] == "/box/site"
    shown = client.get("/box/site").get_data(as_text=True)
    assert 'value="SCANSIDE"' in shown and 'value="Europe/Berlin"' in shown


def test_what_it_leaves_for_the_firmware(tmp_path: Path) -> None:
    page = Guarded(tmp_path)
    report(page)
    client = page.client("administrator")
    assert client.post("/box/site", data=FORM).headers["Location"] == "/box"
    inbox = page.config.data / "inbox"
    assert {path.name for path in inbox.iterdir()} == {"site.json", "go"}
    assert json.loads((inbox / "site.json").read_text()) == {
        "by": "administrator",
        "site": {"name": "Basement", "time_zone": "UTC", "ntp_servers": ["192.0.2.1", "ntp.example"]},
        "network": {"address": "192.0.2.5/24", "dns": [], "port": "02:00:00:00:00:01"},
        "appliance": {
            "web": {"host": "127.0.0.1"},
            "storage_scp": {
                "ae_title": "BOX",
                "port": 104,
                "modalities": [{"ae_title": "CT1", "address": "192.0.2.7"}, {"address": "192.0.2.8"}],
                "only_modalities": False,
            },
            "delivery": {"calling_ae_title": "BOX"},
            "destinations": [{"name": "pacs.example", "host": "pacs.example", "port": "many"}],
        },
    }
    again = client.get("/box/site").get_data(as_text=True)
    assert 'value="pacs.example"' in again and 'value="many"' in again
    assert client.post("/box/site", data=FORM).status_code == 409
    acts = [each for each in page.trail() if each["action"] == "POST /box/site"]
    assert [(each["person"], each["detail"]) for each in acts] == [("administrator", "302"), ("administrator", "409")]


def test_destinations_of_one_title_each_have_a_name(tmp_path: Path) -> None:
    """The form has no field for it, and the appliance knows them by it."""
    page = Guarded(tmp_path)
    report(page)
    given = [("PACS", "192.0.2.1"), ("PACS-2", "192.0.2.2"), ("PACS", "192.0.2.3"), ("PACS", "192.0.2.4")]
    form = {f"destination-{number}-{key}": value for number, (title, host) in enumerate(given)
            for key, value in (("ae_title", title), ("host", host), ("port", "104"))}  # fmt: skip
    page.client("administrator").post("/box/site", data={**FORM, **form})
    left = json.loads((page.config.data / "inbox" / "site.json").read_text())["appliance"]["destinations"]
    assert [(each["name"], each["ae_title"]) for each in left] == [
        ("PACS", "PACS"), ("PACS-2", "PACS-2"), ("PACS-3", "PACS"), ("PACS-4", "PACS")
    ]  # fmt: skip


def test_there_is_none_once_a_signed_configuration_was_taken(tmp_path: Path) -> None:
    page = Guarded(tmp_path)
    client = page.client("administrator")
    for said in (None, {"may_enter": False}):
        if said:
            report(page, **said)
        assert client.get("/box/site").status_code == 404
        assert client.post("/box/site", data=FORM).status_code == 404
    assert not (page.config.data / "inbox").exists()


def test_a_draft_that_a_cut_left_half_is_passed_over(tmp_path: Path) -> None:
    page = Guarded(tmp_path)
    report(page)
    for content in ("{", "[]", '{"modalities": []}'):
        (page.config.data / "entered.json").write_text(content)
        assert 'value="SCANSIDE"' in page.client("administrator").get("/box/site").get_data(as_text=True)
