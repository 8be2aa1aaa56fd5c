"""A blinded reader study in a real browser, over a power cut, from what the device has read to CSV files."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from appliance import package
from appliance.send import Destination, send_files
from tests.dicom_files import make_radiograph
from tests.end_to_end.conftest import width_once_loaded
from tests.running import RunningAppliance, scanside

pytestmark = [pytest.mark.long, pytest.mark.skipif(not package.bundled(), reason="no model package is bundled")]

SECRETS = ("MARY", "ID-4711", "%", "threshold", "negative", "Negative")


@pytest.fixture(scope="module")
def appliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAppliance]:
    """Four images read, one turned away, and a study of the four of which one comes twice."""
    folder = tmp_path_factory.mktemp("study")
    running = RunningAppliance(folder / "appliance")
    running.start()
    files = [
        make_radiograph(folder / f"{n}.dcm", seed=n, rows=400, columns=360, PatientName="DOE^MARY", PatientID="ID-4711")
        for n in range(4)
    ]
    files.append(make_radiograph(folder / "hand.dcm", BodyPartExamined="HAND", seed=9))
    for sent in send_files(files, Destination("SCANSIDE", "127.0.0.1", running.port), "TEST", {}, associations=1):
        assert sent.ok, f"{sent.error}\n{running.log}"
    running.wait_final(5)
    running.fix_ports()
    made = scanside("study", "create", "pilot", "--repeat", "0.25", "--config", running.config_path, check=True)
    assert "4 cases" in made.stdout
    yield running
    running.stop()


@pytest.fixture
def page(browser: Browser, appliance: RunningAppliance) -> Iterator[Page]:
    """A page that fails its test when it asks another host for something, or says anything but a 400 on the console."""
    complaints: list[str] = []
    context = browser.new_context()
    opened = context.new_page()
    home = urlsplit(appliance.url).netloc
    opened.on("request", lambda asked: complaints.append(asked.url) if urlsplit(asked.url).netloc != home else None)
    opened.on("console", lambda said: None if "status of 400" in said.text else complaints.append(said.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    yield opened
    context.close()
    assert not complaints


def begin(page: Page, appliance: RunningAppliance, name: str) -> None:
    page.goto(f"{appliance.url}reader-study/pilot")
    page.get_by_label("Name or pseudonym").fill(name)
    page.keyboard.press("Enter")
    page.get_by_role("link", name="Begin").click()


def shown(page: Page) -> str:
    image = page.get_by_alt_text("The radiograph to judge")
    image.wait_for()
    assert width_once_loaded(image) > 0
    page.wait_for_load_state()  # its script hears the keys from then on
    return page.locator(".progress b").inner_text()


def test_a_reader_answers_by_keys_through_a_power_cut_and_finishes(page: Page, appliance: RunningAppliance) -> None:
    begin(page, appliance, "ann")
    assert shown(page) == "1"
    text = page.locator("body").inner_text()
    assert not any(secret in text for secret in SECRETS)
    page.keyboard.press("6")
    expect(page.locator("[name=present][value=yes]")).to_be_checked()
    assert page.locator("#chosen").inner_text() == "6: Probably present"
    page.wait_for_timeout(300)
    page.keyboard.press("Enter")
    page.wait_for_url("**/case/2")
    page.keyboard.press("4")  # in the middle: the reader has to say
    expect(page.locator("[name=present]:checked")).to_have_count(0)
    page.keyboard.press("Enter")
    assert "present or absent" in page.get_by_role("alert").inner_text()
    page.wait_for_load_state()  # its script hears the keys from then on
    page.keyboard.press("4")
    page.keyboard.press("a")
    page.keyboard.press("Enter")
    page.wait_for_url("**/case/3")
    page.wait_for_load_state("networkidle")

    appliance.kill()
    appliance.start()
    page.reload()
    assert shown(page) == "3"
    page.keyboard.press("0")
    expect(page.locator("[name=present][value=yes]")).to_be_disabled()
    page.keyboard.press("Enter")
    page.wait_for_url("**/case/4")
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("link", name="Go on").click()
    for place in (4, 5):
        page.wait_for_url(f"**/case/{place}")
        page.keyboard.press("1")
        page.keyboard.press("Enter")
    page.get_by_role("button", name="Finish").click()
    assert "Thank you" in page.get_by_role("status").inner_text()

    assert "ann" in scanside("study", "list", "--config", appliance.config_path, check=True).stdout
    scores = appliance.folder / "scores.csv"
    given = scanside("study", "export", "pilot", "--scores", scores, "--config", appliance.config_path, check=True)
    rows = list(csv.DictReader(io.StringIO(given.stdout)))
    assert len(rows) == 4
    by_place = {row["place"]: row for row in rows}
    assert (by_place["1"]["label"], by_place["1"]["rating"]) == ("present", "6")
    assert 0.25 <= float(by_place["1"]["seconds"]) < 60
    assert (by_place["2"]["label"], by_place["2"]["rating"]) == ("absent", "4")
    assert sum(bool(row["label_again"]) for row in rows) == 1
    said = list(csv.DictReader(io.StringIO(scores.read_text())))
    assert {row["image"] for row in said} == {row["image"] for row in rows}
    assert all(0 <= float(row["score"]) <= 1 and 0 < float(row["threshold"]) < 1 for row in said)


def test_what_tells_the_findings_is_closed_to_who_reads(page: Page, appliance: RunningAppliance) -> None:
    begin(page, appliance, "bob")
    for path in ("", "device", "study/1", "api/v1/status"):
        assert page.context.request.get(f"{appliance.url}{path}").status == 403, path


def test_without_a_ledger_there_is_no_study_and_none_is_made(tmp_path: Path) -> None:
    for command in ("list", "export"):
        refused = scanside("study", command, *(["pilot"] if command == "export" else []), "--data", tmp_path / "none")
        assert refused.returncode == 1
        assert "there is no ledger" in refused.stderr
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("width", [1280, 390])
def test_image_question_and_button_fit_the_screen(width: int, browser: Browser, appliance: RunningAppliance) -> None:
    context = browser.new_context(viewport={"width": width, "height": 844 if width < 500 else 800})
    page = context.new_page()
    begin(page, appliance, f"reader {width}")
    shown(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for mark in page.locator(".scale label").all():
        box = mark.bounding_box()
        assert box is not None
        assert box["width"] >= 36
        assert box["height"] >= 44
    page.get_by_label("Enlarge", exact=True).check()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()
