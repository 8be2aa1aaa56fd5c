"""The device page in a real browser, a frame in another site's page, and a log that names nobody."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import socketserver
import threading
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect
from pydicom.dataset import Dataset
from pynetdicom import AE, AllStoragePresentationContexts, evt

from appliance import log, package
from appliance.send import Destination, send_files
from tests.appliance.test_support_bundle import encoded
from tests.dicom_files import make_radiograph
from tests.end_to_end.conftest import barriers
from tests.peers import free_port, wait_until
from tests.running import RunningAppliance

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not package.bundled("chest-pneumonia"), reason="no model package is bundled"),
]

NAME, IDENTITY, HOSPITAL = "Quexnamowitz", "QX-ID-778899", "Quexhospital"
FREE, FILE, COMMENT = "quexdescription", "quexfile", "Quexcomment"
SECRETS = (NAME, IDENTITY, HOSPITAL, FREE, FILE, COMMENT)


@contextmanager
def complaining_pacs() -> Iterator[int]:
    """A PACS that refuses everything, and names the patient in its Error Comment; its port."""

    def refuse(event: evt.Event) -> Dataset:
        status = Dataset()
        status.Status = 0xA900
        status.ErrorComment = f"{COMMENT}: {event.dataset.PatientName}"[:64]
        return status

    entity = AE("PACS")
    entity.supported_contexts = AllStoragePresentationContexts
    port = free_port()
    server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, refuse)])
    assert server is not None
    try:
        yield port
    finally:
        server.shutdown()


@pytest.fixture(scope="module")
def viewer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str, str]]:
    """Another system's pages: their folder, and two origins under which it is there."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            """Nothing."""

    folder = tmp_path_factory.mktemp("viewer")
    servers = []
    for _ in range(2):
        handler = functools.partial(Quiet, directory=str(folder))
        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
    yield folder, *(f"http://127.0.0.1:{server.server_address[1]}" for server in servers)  # type: ignore[misc]
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def appliance(tmp_path_factory: pytest.TempPathFactory, viewer: tuple[Path, str, str]) -> Iterator[RunningAppliance]:
    """With patients' data in all that comes in and in what the PACS answers."""
    folder = tmp_path_factory.mktemp("device")
    described = {
        "PatientName": f"{NAME}^Jane", "PatientID": IDENTITY, "InstitutionName": HOSPITAL,
        "StudyDescription": FREE, "SeriesDescription": FREE, "ImageComments": FREE, "ReferringPhysicianName": NAME,
    }  # fmt: skip
    with complaining_pacs() as port:
        running = RunningAppliance(
            folder / "appliance",
            extra='[inference]\nbackend = "onnxruntime"\n'
            "[drop_folder]\nsettle_seconds = 0.2\nincomplete_seconds = 0.5\n"
            f'[delivery]\nfirst_retry_seconds = 0.5\n[[destinations]]\nname = "pacs"\nae_title = "PACS"\n'
            f'host = "127.0.0.1"\nport = {port}\n',
            web=f'embed_origins = ["{viewer[1]}"]',
        )
        running.start()
        files = [
            make_radiograph(folder / f"{FILE}.dcm", **described),
            make_radiograph(folder / f"{FILE}-hand.dcm", BodyPartExamined=FREE.upper()[:16], seed=1, **described),
            make_radiograph(folder / f"{FILE}-view.dcm", ViewPosition=NAME.upper(), seed=2, **described),
            make_radiograph(folder / f"{FILE}-photo.dcm", PhotometricInterpretation=NAME.upper(), seed=3, **described),
        ]
        to = Destination("SCANSIDE", "127.0.0.1", running.port)
        list(send_files(files, to, "TEST", {}, associations=1))
        ward = running.data / "drop" / f"{NAME} {IDENTITY}"
        ward.mkdir(parents=True)
        whole = make_radiograph(folder / "whole.dcm", seed=4, **described).read_bytes()
        (ward / f"{FILE}.dcm").write_bytes(whole[: len(whole) // 2])
        (ward / f"{FILE}.txt").write_text(f"{NAME} {FREE}")
        with zipfile.ZipFile(ward / f"{FILE}.zip", "w") as archive:
            archive.writestr(f"{NAME}/{FILE}.dcm", whole)
            archive.writestr(f"{FILE}.txt", NAME)
        boundary = "b"
        body = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode() + whole[:-9] + b"\r\n--b--\r\n"
        request = urllib.request.Request(
            f"{running.url}dicom-web/studies",
            body,
            {"Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}'},
        )
        with contextlib.suppress(urllib.error.HTTPError):  # it may be refused; what is said of it counts
            urllib.request.urlopen(request, timeout=30).close()
        wait_until(lambda: "pacs" in running.log or None, "the PACS refuses", 60)
        wait_until(lambda: running.log.count("drop folder") or None, "the drop folder complains", 60)
        yield running
        running.stop()


@pytest.fixture
def page(browser: Browser, appliance: RunningAppliance) -> Iterator[Page]:
    """A page that fails its test when it asks another host for something, or says anything on the console."""
    complaints: list[str] = []
    context = browser.new_context()
    opened = context.new_page()
    home = urlsplit(appliance.url).netloc
    opened.on("request", lambda asked: complaints.append(asked.url) if urlsplit(asked.url).netloc != home else None)
    opened.on("console", lambda message: complaints.append(f"console: {message.text}"))
    opened.on("pageerror", lambda error: complaints.append(f"error: {error}"))
    yield opened
    context.close()
    assert not complaints


def test_it_says_what_is_wrong_and_what_to_do_first(page: Page, appliance: RunningAppliance) -> None:
    page.goto(f"{appliance.url}device")
    assert page.locator("main h2").first.inner_text() == "What is wrong, and how to mend it"
    problem = page.locator(".problem").filter(has_text="drop folder")
    assert "Next:" in problem.inner_text()
    assert "runs on" in page.locator(".answer-line").first.inner_text()
    assert "golden vectors" in page.locator(".answer-line").first.inner_text()


def test_tests_run_at_the_press_of_a_button_and_show_what_failed_first(page: Page, appliance: RunningAppliance) -> None:
    page.goto(f"{appliance.url}device")
    page.get_by_role("button", name="Test the connections").focus()
    page.keyboard.press("Enter")
    result = page.locator("#connections")
    expect(result.locator("h3")).to_contain_text("passed", timeout=60_000)
    result.get_by_text("passed").last.click()
    assert "C-ECHO" in result.inner_text()
    page.get_by_role("button", name="Self-test").click()
    expect(page.locator("#self-test h3")).to_contain_text("passed", timeout=60_000)
    assert "inference" in page.locator("#self-test").inner_text() or page.locator("#self-test summary").is_visible()


def test_the_support_bundle_of_a_running_appliance_holds_nothing_of_a_patient(
    page: Page, appliance: RunningAppliance, tmp_path: Path
) -> None:
    page.goto(f"{appliance.url}device")
    page.get_by_role("button", name="Make a support bundle").click()
    link = page.get_by_role("link", name="Download the bundle")
    link.wait_for(timeout=90_000)
    with page.expect_download() as download:
        link.click()
    path = tmp_path / "bundle.zip"
    download.value.save_as(path)
    with zipfile.ZipFile(path) as bundle:
        members = {name: bundle.read(name) for name in bundle.namelist()}
    assert json.loads(members["health.json"])["running"]
    for name, content in members.items():
        for secret in SECRETS:
            assert not any(each in content for each in encoded(secret)), (name, secret)


def test_no_log_line_of_any_part_names_a_patient(appliance: RunningAppliance) -> None:
    kept = [line.text() for line in log.latest(appliance.data / "log", 10_000)]
    assert {"worker", "storage_scp", "delivery", "drop_folder"} <= {
        line.part.rpartition(".")[2] for line in log.latest(appliance.data / "log", 10_000)
    }
    said = "\n".join([appliance.log, *kept]).lower()
    for secret in SECRETS:
        assert secret.lower() not in said, secret
    metrics = urllib.request.urlopen(f"{appliance.url}metrics", timeout=10).read().decode().lower()
    for secret in SECRETS:
        assert secret.lower() not in metrics, secret


@pytest.mark.parametrize("scheme", ["dark", "light"])
@pytest.mark.parametrize("width", [360, 1280, 3840])
def test_it_fits_every_screen_and_keeps_nobody_out(
    browser: Browser, appliance: RunningAppliance, scheme: Any, width: int
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.goto(f"{appliance.url}device?range=3h")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = barriers(page)
    context.close()
    assert found == []


def test_the_page_renews_itself_and_keeps_what_is_open(page: Page, appliance: RunningAppliance) -> None:
    page.goto(f"{appliance.url}device")
    summary = page.locator("#device summary").first
    if not summary.count():
        page.get_by_role("button", name="Test the connections").click()
        summary = page.locator("#device summary").first
        summary.wait_for(timeout=60_000)
    summary.click()
    before = page.get_by_text("Running for").locator("xpath=following-sibling::dd[1]").inner_text()
    expect(page.get_by_text("Running for").locator("xpath=following-sibling::dd[1]")).not_to_have_text(
        before, timeout=20_000
    )
    assert page.locator("#device details").first.evaluate("node => node.open")


def test_only_the_named_origin_may_show_a_study_in_a_frame(
    browser: Browser, appliance: RunningAppliance, viewer: tuple[Path, str, str]
) -> None:
    folder, named, other = viewer
    number = json.load(urllib.request.urlopen(f"{appliance.url}api/v1/studies", timeout=10))["studies"][-1]["number"]
    request = urllib.request.Request(
        f"{appliance.url}api/v1/embed-links",
        json.dumps({"study": number}).encode(),
        {"Content-Type": "application/json"},
    )
    path = json.load(urllib.request.urlopen(request, timeout=10))["path"]
    (folder / "index.html").write_text(
        f'<iframe id="ai" width="800" height="600" src="{appliance.url[:-1]}{path}"></iframe>'
    )
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{named}/index.html")
    frame = page.frame_locator("#ai")
    frame.locator(".research").wait_for(timeout=10_000)
    image = frame.get_by_alt_text("The radiograph")
    assert image.evaluate("node => node.decode().then(() => node.naturalWidth)") > 100
    frame.get_by_label("Heat map").check()
    expect(frame.locator("[data-overlay]").first).to_be_visible()
    page.goto(f"{other}/index.html")
    page.wait_for_timeout(500)
    expect(page.frame_locator("#ai").locator(".research")).to_have_count(0)
    context.close()
