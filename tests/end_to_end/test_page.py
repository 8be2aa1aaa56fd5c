"""The local page in a real browser: Chromium, driven by playwright, against a running appliance."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, Request, expect

from appliance import package
from appliance.send import Destination, send_files
from tests.dicom_files import make_radiograph
from tests.end_to_end.conftest import drawn, width_once_loaded
from tests.running import RunningAppliance

pytestmark = pytest.mark.skipif(not package.bundled("chest-pneumonia"), reason="no model package is bundled")

NAME, PATIENT_ID = "DOE^MARY SECRET", "ID-4711-SECRET"


@pytest.fixture(scope="module")
def appliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAppliance]:
    """One image read, one turned away; patients hidden, as by default."""
    folder = tmp_path_factory.mktemp("page")
    running = RunningAppliance(folder / "appliance")
    running.start()
    send(
        running,
        make_radiograph(folder / "chest.dcm", PatientName=NAME, PatientID=PATIENT_ID),
        make_radiograph(folder / "hand.dcm", BodyPartExamined="HAND", PatientName=NAME, PatientID=PATIENT_ID, seed=1),
    )
    running.wait_final(2)
    yield running
    running.stop()


@pytest.fixture
def page(browser: Browser, appliance: RunningAppliance) -> Iterator[Page]:
    """A page that fails its test when it asks another host for something, or says anything on the console."""
    complaints: list[str] = []
    context = browser.new_context()
    opened = context.new_page()
    home = urlsplit(appliance.url).netloc

    def check(request: Request) -> None:
        if urlsplit(request.url).netloc != home:
            complaints.append(f"asked for {request.url}")

    opened.on("request", check)
    opened.on("console", lambda message: complaints.append(f"console: {message.text}"))
    opened.on("pageerror", lambda error: complaints.append(f"error: {error}"))
    yield opened
    context.close()
    assert not complaints


def send(appliance: RunningAppliance, *files: Path) -> None:
    for sent in send_files(files, Destination("SCANSIDE", "127.0.0.1", appliance.port), "TEST", {}, associations=1):
        assert sent.ok, sent.error


@pytest.mark.long
def test_the_worklist_shows_what_came_of_each_image(page: Page, appliance: RunningAppliance) -> None:
    page.goto(appliance.url)
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(2)
    read, refused = rows.filter(has_text="pneumonia").inner_text(), rows.filter(has_text="HAND").inner_text()
    assert "%" in read
    assert "threshold" in read
    assert "turned away" in refused
    assert "body part" in refused.lower()
    expect(page.get_by_text("Not for diagnosis")).to_be_visible()


def test_the_worklist_renews_itself(page: Page, appliance: RunningAppliance, tmp_path: Path) -> None:
    page.goto(appliance.url)
    before = page.locator("tbody tr").count()
    send(appliance, make_radiograph(tmp_path / "later.dcm", ViewPosition="LL", seed=7))
    page.locator("tbody tr").nth(before).wait_for(timeout=10_000)


def test_the_heat_map_is_off_at_first_and_comes_when_asked_for(page: Page, appliance: RunningAppliance) -> None:
    page.goto(appliance.url)
    page.locator("tbody tr").filter(has_text="pneumonia").get_by_role("link").first.click()
    page.locator("#canvas[data-depth=full]").wait_for()
    canvas, overlay = page.locator("#canvas"), page.locator("[data-overlay]")
    alone = drawn(canvas)
    assert width_once_loaded(overlay) > 100
    toggle = page.get_by_label("Heat map")
    toggle.check()
    assert (drawn(canvas) != alone).any()
    page.get_by_label("Opacity").fill("30")
    toggle.uncheck()
    assert (drawn(canvas) == alone).all()


def test_a_study_says_what_the_model_is_not_for(page: Page, appliance: RunningAppliance) -> None:
    page.goto(appliance.url)
    page.locator("tbody tr").filter(has_text="pneumonia").get_by_role("link").click()
    expect(page.get_by_role("heading", name="It is not for")).to_be_visible()
    assert page.locator(".use li").count() >= 3
    assert "calibrated probability" in page.locator("main").inner_text()


def test_a_refused_image_gives_its_reason(page: Page, appliance: RunningAppliance) -> None:
    page.goto(appliance.url)
    page.locator("tbody tr").filter(has_text="HAND").get_by_role("link").click()
    assert "HAND" in page.get_by_role("alert").inner_text()
    expect(page.locator("[data-overlay]")).to_have_count(0)


def test_the_device_page_names_backend_model_and_receipt(page: Page, appliance: RunningAppliance) -> None:
    appliance.wait_ready()
    page.goto(f"{appliance.url}device")
    shown = page.locator("main").inner_text()
    for word in ("onnxruntime", "chest-pneumonia", "Golden vectors", "Memory", "Disk", "Temperature", "Running for"):
        assert word in shown, word


def test_no_page_names_a_hidden_patient(appliance: RunningAppliance, browser: Browser) -> None:
    context = browser.new_context()
    for path in (
        "",
        "study/1",
        "study/2",
        "device",
        "api/v1/status",
        "worklist.fragment",
        "study/1/structured_report.dcm",
    ):
        answer = context.request.get(f"{appliance.url}{path}")
        for secret in (*NAME.split("^"), PATIENT_ID):
            assert secret not in answer.text(), path
    assert answer.status == 403
    assert "SECRET" not in appliance.log
    context.close()
