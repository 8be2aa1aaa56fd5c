"""A device that others reach, from its first start on: enrolment, roles, the wall screen, TLS, and the audit trail."""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
import subprocess
import threading
import urllib.request
import warnings
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from playwright.sync_api import Browser, BrowserContext, Page, expect
from werkzeug.serving import make_server

from appliance import package
from tests.appliance.guarded import Guarded
from tests.certificates import Authority
from tests.dicom_files import make_radiograph
from tests.end_to_end.conftest import barriers
from tests.peers import needs, wait_until
from tests.running import RunningAppliance, scanside

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not package.bundled("chest-pneumonia"), reason="no model package is bundled"),
]

PASSWORD = "correct horse battery"
HOST = 'host = "0.0.0.0"\nidle_minutes = 5\n'


@pytest.fixture(scope="module")
def appliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAppliance]:
    running = RunningAppliance(tmp_path_factory.mktemp("people") / "appliance", web=HOST)
    running.start(timeout=180)
    yield running
    running.stop()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    found = browser.new_context(ignore_https_errors=True)  # the device has signed its certificate itself
    yield found
    found.close()


def log_in(page: Page, url: str, name: str, password: str = PASSWORD) -> None:
    page.goto(f"{url}login")
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in").click()


def records(appliance: RunningAppliance) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(
        scanside("audit", "show", "--json", "--count", "1000", "--config", appliance.config_path, check=True).stdout
    )
    return found


def test_from_the_first_start_to_people_with_roles(appliance: RunningAppliance, context: BrowserContext) -> None:
    """In the order of a day: nobody gets in, the code makes the administrator, who makes the others."""
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(appliance.url)
    expect(page).to_have_url(f"{appliance.url}enrol")
    code = re.search(r"one-time code (\S+)", appliance.log)
    assert code
    page.get_by_label("One-time code").fill("AAAA-AAAA-AAAA-AAAA")
    page.get_by_label("Your name").fill("anna")
    page.get_by_label("Password", exact=False).first.fill(PASSWORD)
    page.get_by_label("The same again").fill(PASSWORD)
    page.get_by_role("button", name="Make the account").click()
    expect(page.get_by_role("alert")).to_contain_text("The code is wrong")
    page.get_by_label("One-time code").fill(code[1])
    page.get_by_label("Password", exact=False).first.fill(PASSWORD)
    page.get_by_label("The same again").fill(PASSWORD)
    page.get_by_role("button", name="Make the account").click()
    page.get_by_role("heading", name="Accounts").wait_for()

    form = page.locator("form[action='/invitations']")
    form.get_by_label("Name").fill("joe")
    form.get_by_label("clinician").check()
    form.get_by_role("button", name="Make the code").click()
    invitation = page.locator("code.secret").inner_text()
    page.get_by_role("cell", name="joe").wait_for()
    page.get_by_label("For which system").fill("prometheus")
    page.get_by_role("button", name="Make it").click()
    expect(page.locator("code.secret")).not_to_have_text(invitation)
    token = page.locator("code.secret").inner_text()
    page.goto(f"{appliance.url}accounts")
    assert token not in page.content()
    page.get_by_role("button", name="Log out").click()

    page.get_by_role("link", name="one-time code").click()
    page.get_by_label("One-time code").fill(invitation)
    page.get_by_label("Your name").fill("joe")
    page.get_by_label("Password", exact=False).first.fill(PASSWORD)
    page.get_by_label("The same again").fill(PASSWORD)
    page.get_by_role("button", name="Make the account").click()
    page.get_by_role("heading", name="Worklist").wait_for()
    page.get_by_role("button", name="Log out").click()

    page.goto(f"{appliance.url}deliveries")
    expect(page).to_have_url(f"{appliance.url}login?next=/deliveries")
    page.get_by_label("Name").fill("joe")
    page.get_by_label("Password").fill("wrong horse battery")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_contain_text("wrong")
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Deliveries").wait_for()
    expect(page).to_have_url(f"{appliance.url}deliveries")
    expect(page.get_by_role("link", name="Accounts")).to_have_count(0)
    answer = page.goto(f"{appliance.url}accounts")
    assert answer is not None
    assert answer.status == 403
    page.goto(f"{appliance.url}kiosk")
    expect(page.locator("[data-figure=first]")).to_have_text("0")
    expect(page.locator("[data-alarms]")).to_have_text("The device works")
    page.goto(f"{appliance.url}account")
    page.get_by_role("button", name="Log out").first.click()
    page.goto(appliance.url)
    expect(page).to_have_url(f"{appliance.url}login")
    assert problems == []
    assert token not in appliance.log
    assert PASSWORD not in appliance.log
    said = [(each["event"], each["action"], each.get("person")) for each in records(appliance)]
    for expected in (
        ("account", "enrol", "anna"), ("account", "invite_account", "anna"), ("account", "enrol", "joe"),
        ("account", "add_token", "anna"),
        ("login", "login", "joe"), ("refused", "GET /accounts", "joe"), ("logout", "logout", "joe"),
    ):  # fmt: skip
        assert expected in said


def test_pages_of_people_have_no_barriers(browser: Browser, tmp_path: Path) -> None:
    """Both themes, a phone's width and a desk's; nothing is wider than the screen."""
    server = make_server("127.0.0.1", 0, Guarded(tmp_path).app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        for scheme, width in (("dark", 360), ("light", 1280)):
            context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
            page = context.new_page()
            url = f"http://127.0.0.1:{server.server_port}/"
            page.goto(f"{url}login")
            assert barriers(page) == []
            log_in(page, url, "administrator")
            page.get_by_role("heading", name="Worklist").wait_for()
            for path in ("accounts", "account", "kiosk"):
                page.goto(f"{url}{path}")
                assert barriers(page) == [], path
                assert page.evaluate("document.documentElement.scrollWidth") <= width, path
            context.close()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_certificate_is_the_one_whose_fingerprint_was_said(appliance: RunningAppliance) -> None:
    where = urlsplit(appliance.url)
    pem = ssl.get_server_certificate((where.hostname, where.port))
    digest = x509.load_pem_x509_certificate(pem.encode()).fingerprint(hashes.SHA256()).hex().upper()
    said = re.search(r"SHA-256 ([0-9A-F:]{95})", appliance.log)
    assert said
    assert said[1].replace(":", "") == digest
    assert appliance.status()["components"]["page"]["fingerprint"] == said[1]
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection((where.hostname, where.port)) as plain, pytest.raises(OSError):
        old.wrap_socket(plain)


@pytest.mark.slow
def test_plain_http_and_silent_handshakes_keep_nobody_out(appliance: RunningAppliance) -> None:
    where = urlsplit(appliance.url)
    silent = [socket.create_connection((where.hostname, where.port)) for _ in range(30)]
    try:
        silent[0].sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        for each in silent[1:6]:
            each.sendall(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a handshake
        trusting = ssl._create_unverified_context()
        with urllib.request.urlopen(f"{appliance.url}healthz", timeout=40, context=trusting) as answer:
            assert answer.status == 200
    finally:
        for each in silent:
            each.close()


def test_what_is_refused_over_tls_gets_its_answer(appliance: RunningAppliance) -> None:
    """The rest of a body is not waited for; the answer must be encrypted all the same."""
    where = urlsplit(appliance.url)
    connection = http.client.HTTPSConnection(
        where.hostname or "", where.port, timeout=60, context=ssl._create_unverified_context()
    )
    connection.putrequest("POST", "/dicom-web/studies")
    connection.putheader("Content-Type", 'multipart/related; type="application/dicom"; boundary=x')
    connection.putheader("Content-Length", "1000000000")
    connection.endheaders(b"--x\r\n")
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (401, b"login required\n")
    connection.close()


def test_a_wall_screen_is_read_from_three_meters(browser: Browser, tmp_path: Path) -> None:
    """Without a login where that is set; the count of 100 px and more on a full HD screen, at 360 px nothing is cut."""
    running = RunningAppliance(tmp_path / "appliance", web='kiosk = "open"')
    running.start(timeout=180)
    try:
        scanside("accounts", "add", "anna", "--role", "administrator", "--password-stdin", "--config",
                 running.config_path, check=True, stdin=f"{PASSWORD}\n")  # fmt: skip
        for width, height in ((360, 740), (1280, 720), (1920, 1080), (3840, 2160)):
            context = browser.new_context(viewport={"width": width, "height": height})
            page = context.new_page()
            page.goto(f"{running.url}kiosk")
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, f"something is cut at {width} px"
            if width >= 1280:
                assert page.evaluate("document.documentElement.scrollHeight") <= height
                for name, least in (("first", height / 5), ("waiting", height / 10)):
                    figure = page.locator(f"[data-figure={name}]")
                    size = figure.evaluate("node => parseFloat(getComputedStyle(node).fontSize)")
                    assert size >= least
            context.close()
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"{running.url}kiosk")
        path = make_radiograph(tmp_path / "chest.dcm")
        scanside("send", path, "--to", f"SCANSIDE@127.0.0.1:{running.port}", check=True)
        running.wait_final(1)
        expect(page.locator("[data-figure=done]")).to_have_text("1", timeout=15_000)
        running.stop()
        expect(page.locator("[data-lost]")).to_be_visible(timeout=15_000)
        context.close()
    finally:
        running.stop()


def test_a_certificate_that_is_given_is_shown(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca", "hospital")
    certificate, key = authority.issue("page")
    running = RunningAppliance(
        tmp_path / "appliance", web=f'{HOST}[web.tls]\nkey = "{key}"\ncertificate = "{certificate}"\n'
    )
    running.start(timeout=180)
    try:
        context = ssl.create_default_context(cafile=authority.ca)
        url = running.url.replace("127.0.0.1", "localhost")
        with urllib.request.urlopen(f"{url}login", timeout=10, context=context) as answer:
            assert answer.headers["Strict-Transport-Security"]
    finally:
        running.stop()


def test_no_certificate_keeps_the_page_closed(tmp_path: Path) -> None:
    """It is where one is mended. What is put right counts without a restart."""
    authority = Authority(tmp_path / "ca", "hospital")
    certificate, key = authority.issue("page", begin=-timedelta(hours=9), end=-timedelta(minutes=10))
    running = RunningAppliance(
        tmp_path / "appliance", web=f'{HOST}[web.tls]\nkey = "{key}"\ncertificate = "{certificate}"\n'
    )
    running.start(timeout=180)
    try:
        host, port = "127.0.0.1", int(running.url.rstrip("/").rpartition(":")[2])

        def shown() -> str:
            return ssl.get_server_certificate((host, port), timeout=10).strip()

        assert shown() == certificate.read_text().strip(), "browsers say that it has expired"
        told = scanside("status", "--config", running.config_path).stdout
        assert f"certificate {certificate} (Page): it has expired on" in told
        authority.issue("page")
        assert shown() == certificate.read_text().strip()
        key.write_text("no key")
    finally:
        running.stop()
    running.start(timeout=180)
    try:
        port = int(running.url.rstrip("/").rpartition(":")[2])
        assert shown() == (running.data / "keys" / "page.pem").read_text().strip(), "its own stands in"
        told = scanside("status", "--config", running.config_path).stdout
        assert f"certificate {key} (Page):" in told
        authority.issue("page")
        context = ssl.create_default_context(cafile=authority.ca)
        url = running.url.replace("127.0.0.1", "localhost")
        with urllib.request.urlopen(f"{url}login", timeout=10, context=context) as answer:
            assert answer.status == 200
    finally:
        running.stop()


def test_transfers_and_a_kill_are_in_the_trail_and_the_chain_holds(tmp_path: Path) -> None:
    storescu = needs("storescu")
    running = RunningAppliance(tmp_path / "appliance", extra="[drift]\nenabled = false\n")
    running.start(timeout=180)
    try:
        paths = [
            make_radiograph(tmp_path / f"{number}.dcm", seed=number, PatientID=f"P-{number}") for number in range(3)
        ]
        subprocess.run(
            [storescu, "-aet", "CT1", "-aec", "SCANSIDE", "127.0.0.1", str(running.port), *map(str, paths)], check=True
        )
        subprocess.run([needs("echoscu"), "-aet", "CT1", "127.0.0.1", str(running.port)], check=True)
        running.wait_final(3)
        with urllib.request.urlopen(f"{running.url}study/1", timeout=10) as answer:
            assert answer.status == 200
        running.kill()
        running.start(timeout=180)
        running.stop()
        said = [each for each in records(running) if each["event"] != "used"]
        assert [(each["event"], each.get("person"), each.get("detail")) for each in said] == [
            ("start", None, None), ("transfer_begin", "CT1", None), ("transfer_end", "CT1", "3 instances, released"),
            ("view", None, "200"), ("start", None, None), ("stop", None, None),
        ]  # fmt: skip
        verified = scanside("audit", "verify", "--config", running.config_path)
        assert (verified.returncode, "no fault" in verified.stdout) == (0, True), verified.stdout
        exported = scanside("audit", "export", "--format", "dicom", "--config", running.config_path, check=True).stdout
        transferred = [line for line in exported.splitlines() if '"110104"' in line]
        assert len(transferred) == 3, "one for each patient"
        assert all('NumberOfInstances="1"' in line and "110180" in line for line in transferred)
        status = wait_until(lambda: running.status(), "the head is in the ledger")
        assert status["components"]["audit"]["head"]["number"] >= 1
    finally:
        running.stop()


def test_a_page_on_one_address_of_several_starts(tmp_path: Path) -> None:
    """The appliance waits for its page where that listens; not on loopback, where nothing answers then."""
    running = RunningAppliance(tmp_path, web='host = "127.0.0.2"\n')
    try:
        running.start(timeout=100)
        assert running.url.startswith("https://127.0.0.2:")
    finally:
        running.stop()
