"""The page of a box in a real browser, with the firmware's own code taking what was handed over."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from playwright.sync_api import Browser, Page, expect

from firmware import inbox, keys, provisioning, signing, site_files
from firmware.box import Box
from tests.end_to_end.conftest import barriers
from tests.firmware.boxes import make_box
from tests.running import CHECKOUT, PYTHON, RunningAppliance

pytestmark = pytest.mark.long

SITE = '[site]\nname = "Basement 2"\nversion = 4\n[appliance.storage_scp]\nae_title = "BOX"\n'


@dataclass
class Machine:
    appliance: RunningAppliance
    box: Box
    publisher: Path

    def path(self, name: str) -> Path:
        return self.publisher.parent / name


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("machine")
    box, publisher = make_box(folder / "root"), folder / "keys"
    keys.make(publisher)
    shutil.copy(publisher / "site.pub", box.trust)
    (folder / "appliance").mkdir()
    (folder / "appliance" / "box").symlink_to(box.data)
    programs = folder / "bin"
    programs.mkdir()
    (programs / "scanside").write_text(f'#!/bin/sh\ncd {CHECKOUT} && exec {PYTHON} -m appliance "$@"\n')
    (programs / "scanside").chmod(0o755)
    running = RunningAppliance(folder / "appliance", extra=f'[box]\nreport = "{box.report}"\n')
    running.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(programs), prepend=":")
        yield Machine(running, box, publisher)
    running.stop()


@pytest.fixture
def page(browser: Browser, machine: Machine) -> Iterator[Page]:
    context = browser.new_context(base_url=machine.appliance.url, reduced_motion="reduce")
    yield context.new_page()
    context.close()


def test_a_first_configuration_is_entered(page: Page, machine: Machine) -> None:
    """Before a signed one was taken; what was refused is there again, to be put right."""
    page.goto("/box")
    expect(page.get_by_text("The box has not said how it is yet.")).to_be_visible()
    inbox.write_report(machine.box)  # as at a start
    expect(page.get_by_text("not commissioned")).to_be_visible()
    page.get_by_role("link", name="Enter the configuration").click()
    page.get_by_label("Name as in").fill("Basement 1")
    page.get_by_label("this one:").check()
    page.get_by_label("Address with prefix length").fill("192.0.2.5")
    scanner = page.get_by_role("group", name="Scanner 1")
    scanner.get_by_label("AE title").fill("CT1")
    scanner.get_by_label("IP address").fill("192.0.2.7")
    archive = page.get_by_role("group", name="Destination 1")
    archive.get_by_label("AE title").fill("PACS")
    archive.get_by_label("Address").fill("192.0.2.10")
    archive.get_by_label("Port").fill("104")
    assert barriers(page) == []
    page.get_by_role("button", name="Use this configuration").click()
    expect(page.get_by_role("heading", name="The box is taking what was handed over")).to_be_visible()
    inbox.take(machine.box, restart=pytest.fail, reload=pytest.fail)
    expect(page.get_by_role("status").get_by_text("192.0.2.5 has no prefix length, such as /24")).to_be_visible()

    page.get_by_role("link", name="Enter the configuration").click()
    expect(page.get_by_label("Name as in")).to_have_value("Basement 1")
    page.get_by_label("Address with prefix length").fill("192.0.2.5/24")
    page.get_by_role("button", name="Use this configuration").click()
    expect(page.get_by_role("heading", name="The box is taking what was handed over")).to_be_visible()
    inbox.take(machine.box, restart=pytest.fail, reload=lambda _: None)
    expect(page.get_by_text("Basement 1, configuration 1")).to_be_visible()
    tables = tomllib.loads(machine.box.configuration.read_text())
    assert tables["storage_scp"]["modalities"] == [{"ae_title": "CT1", "address": "192.0.2.7"}]
    assert tables["destinations"] == [{"name": "PACS", "ae_title": "PACS", "host": "192.0.2.10", "port": 104}]
    expect(page.get_by_role("link", name="Change what was entered")).to_be_visible()


def test_what_is_handed_over_is_taken_by_the_firmware_and_told(page: Page, machine: Machine) -> None:
    page.goto("/box")
    assert x509.load_pem_x509_csr(page.request.get("/box/request.csr").body())

    site, approver = machine.path("site.toml"), machine.path("files/J. Smith.pub")
    site.write_text(SITE)
    approver.parent.mkdir()
    approver.write_text("a key")
    site.write_text(site_files.listed(site))
    signing.sign_file(site, machine.publisher / "site.key", provisioning.PURPOSE)
    broken = machine.path("system-2.0.raucb")
    broken.write_bytes(b"no bundle" * 100_000)
    page.get_by_label("Files").set_input_files([site, signing.signature_of(site), approver, broken])
    page.get_by_role("button", name="Hand over").click()
    expect(page.get_by_role("heading", name="The box is taking what was handed over")).to_be_visible()

    left = machine.box.data / "inbox"
    assert {path.name for path in left.iterdir()} == {
        "go", "site.toml", "site.toml.sig", "J. Smith.pub", "system-2.0.raucb",
    }  # fmt: skip
    page.get_by_label("Files").set_input_files([site])
    page.get_by_role("button", name="Hand over").click()
    expect(page.get_by_role("alert")).to_have_text("The box is still taking what was handed over before.")

    inbox.take(machine.box, restart=pytest.fail, reload=lambda _: None)  # as systemd does once `go` is there
    came = page.get_by_role("status")
    expect(came.get_by_text("site.toml: configuration 2 is in place")).to_be_visible()
    expect(came.get_by_text("system-2.0.raucb: REFUSED")).to_be_visible()
    expect(page.get_by_text("Basement 2, configuration 4")).to_be_visible()
    expect(page.get_by_role("link", name="Change what was entered")).to_be_hidden()
    refused = page.request.get("/box/site")
    assert refused.status == 404 and "takes a signed configuration only" in refused.text()
    assert barriers(page) == []


def test_nothing_else_is_left_for_the_firmware(page: Page, machine: Machine) -> None:
    for name in ("service.token", "../../etc/passwd", "a.sh", "x.raucb.part"):
        answer = page.request.post(
            "/box",
            multipart={"files": {"name": name, "mimeType": "application/octet-stream", "buffer": b"x"}},
            headers={"Origin": machine.appliance.url.rstrip("/")},
        )
        assert answer.status == 400 and "is nothing that a box takes" in answer.text(), name
    left = machine.box.data / "inbox"
    assert not left.exists() or not list(left.iterdir())


def test_how_far_an_update_is(page: Page, machine: Machine) -> None:
    inbox.write_report(machine.box, working=True, said=["system.raucb:  40 %  Copying image to rootfs.1"])
    page.goto("/box")
    expect(page.get_by_role("progressbar").first).to_have_attribute("value", "40")
    inbox.write_report(machine.box)


@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits(page: Page, machine: Machine, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    inbox.write_report(machine.box, said=["system-2.0.raucb: REFUSED: it is not signed by a key that this box trusts"])
    page.goto("/box")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert barriers(page) == []


def test_a_machine_that_is_no_box_has_no_such_page(tmp_path: Path) -> None:
    from appliance.config import Config
    from appliance.web.app import create_app

    client = create_app(Config(data_dir=str(tmp_path))).test_client()
    assert client.get("/box").status_code == 404
