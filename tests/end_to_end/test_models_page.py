"""The page of models: what reads and why, the one in shadow, and the way back at the press of a button."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from appliance import package
from appliance.audit import decode
from appliance.audit_store import AuditStore
from appliance.package_store import PackageStore
from appliance.web.app import create_app
from tests import fake_package
from tests.appliance.conftest import account, browser, log_in
from tests.appliance.test_shadow import LENIENT, _run
from tests.device import MODEL, Device
from tests.dicom_files import make_radiograph
from tests.end_to_end.conftest import barriers, watched
from tests.filled import Site

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not package.bundled("chest-pneumonia"), reason="no model package is bundled"),
]

_PICTURES = os.environ.get("SCANSIDE_PICTURES")  # a folder; for people who want to look at the page


@pytest.fixture
def device(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Device:
    """1.4.1 reads instead of the bundled 1.3.1, 1.5.0 has read two images in its shadow, and one case is kept."""
    device = Device(tmp_path, capfd)
    device.call("models", "install", fake_package.version(device.folder / "better", "1.4.1"))
    first = device.read(make_radiograph(tmp_path / "case.dcm", seed=7))
    device.call("models", "cases", "add", first[0], "--why", "apical, was missed once")
    device.call("models", "switch", MODEL, "1.4.1", "--by", "Jo", "--why", "retrained with the portable unit",
                "--override", "the case was not clear")  # fmt: skip
    newest = fake_package.version(device.folder / "worse", "1.5.0", bias=0.3, promotion=LENIENT)
    device.call("shadow", "start", newest, "--why", "retrained in May")
    numbers = device.read(*(make_radiograph(tmp_path / f"{seed}.dcm", seed=seed) for seed in range(2)))
    _run(device, 2)
    for place, number in enumerate(numbers):
        device.assess(number, present=place % 2 == 0)
    return device


@pytest.fixture
def site(device: Device) -> Iterator[Site]:
    page = Site(device.config)
    yield page
    page.stop()


def test_it_says_what_reads_and_an_engineer_may_only_look(device: Device) -> None:
    account(device.config.ledger_path, carol="clinician", erin="engineer", adam="administrator")
    texts = {}
    for name in ("carol", "erin", "adam"):
        client = browser(create_app(device.config))
        log_in(client, name)
        answer = client.get("/models")
        assert answer.status_code == (403 if name == "carol" else 200)
        texts[name] = answer.get_data(as_text=True)
        if name != "adam":
            refused = client.post("/models/rollback", data={"model": MODEL, "choice": 1, "why": "no", "by": name})
            assert refused.status_code == 403
    assert "Roll back now" in texts["adam"]
    assert "Roll back now" not in texts["erin"]
    for words in ("1.4.1", "by Jo", "retrained with the portable unit", "apical, was missed once", "DeLong", "1.5.0"):
        assert words in texts["erin"], words
    assert [row["kind"] for row in device.history()] == ["switch"]


def test_a_rollback_asks_for_a_reason_and_is_not_of_another_change(device: Device) -> None:
    account(device.config.ledger_path, adam="administrator")
    client = browser(create_app(device.config))
    log_in(client, "adam")
    asked = {"model": MODEL, "choice": "1", "why": "more false alarms"}
    for changed, status in (({"why": " "}, 400), ({"choice": "7"}, 409), ({"model": "lungs"}, 409)):
        assert client.post("/models/rollback", data={**asked, **changed}).status_code == status
    other = client.post("/models/rollback", data=asked, headers={"Origin": "https://evil.example"})
    assert other.status_code == 403
    assert [row["kind"] for row in device.history()] == ["switch"]
    assert client.post("/models/rollback", data=asked).status_code == 302
    latest = device.history()[0]
    assert (latest["kind"], latest["version"], latest["chosen_by"], latest["why"]) == (
        "rollback", "1.3.1", "adam", "more false alarms",
    )  # fmt: skip
    assert device.reads() == [str(fake_package.bundled())]
    told = client.get("/models").get_data(as_text=True)
    assert "1.3.1 is in force" in told
    assert "was a rollback already" in told
    assert client.post("/models/rollback", data={**asked, "choice": "2"}).status_code == 409
    records = [decode(row["content"]) for row in AuditStore(device.config.audit_path).records()]
    said = [(each.action, each.person, each.failed) for each in records if "rollback" in each.action]
    assert ("models rollback", "adam", False) in said


def test_it_is_there_where_the_package_in_force_is_gone(device: Device) -> None:
    row = PackageStore(device.config.ledger_path, read_only=True).in_force()[MODEL]
    for path in device.config.packages_path.glob("*1.4.1*"):
        path.unlink()
    (device.folder / "better" / f"{MODEL}.scanside").unlink(missing_ok=True)
    told = browser(create_app(device.config)).get("/models")
    assert told.status_code == 200
    assert "nothing reads its images" in told.get_data(as_text=True)
    assert row["sha256"][:12] in told.get_data(as_text=True)
    assert "Roll back to 1.3.1" in told.get_data(as_text=True)


def photograph(page: Page, name: str) -> None:
    if _PICTURES:
        page.screenshot(path=Path(_PICTURES) / f"models-{name}.png", full_page=True)


@pytest.mark.parametrize("language", ["en", "de"])
def test_a_rollback_in_a_browser(browser: Browser, site: Site, device: Device, language: str) -> None:
    for width, scheme in ((360, "light"), (1280, "dark"), (3840, "light")):
        context = browser.new_context(viewport={"width": width, "height": 900}, locale=language,
                                      color_scheme=scheme)  # type: ignore[arg-type] # fmt: skip
        page, complaints = watched(context, site.url)
        page.goto(f"{site.url}models")
        assert page.evaluate("document.documentElement.scrollWidth") == width
        photograph(page, f"{language}-{width}")
        assert barriers(page) == []
        assert complaints == []
        context.close()
    page, complaints = watched(browser.new_context(locale=language), site.url)
    page.goto(f"{site.url}models")
    words = {"en": ("Roll back to 1.3.1", "Roll back now"), "de": ("Zurück zu 1.3.1", "Jetzt zurückgehen")}[language]
    page.get_by_text(words[0]).focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.type("J. Smith")
    page.keyboard.press("Tab")
    page.keyboard.type("more false alarms since")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name=words[1])).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#rollback")).to_contain_text("1.3.1", timeout=60_000)
    expect(page.get_by_role("cell", name="more false alarms since")).to_be_visible()
    assert barriers(page) == []
    photograph(page, f"{language}-done")
    assert complaints == []
    assert device.history()[0]["kind"] == "rollback"
