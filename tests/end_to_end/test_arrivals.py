"""Files that come over HTTP into a running appliance: from Orthanc by STOW-RS, from a browser, from hostile peers."""

from __future__ import annotations

import os
import select
import shutil
import socket
import subprocess
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, expect

from appliance import package
from appliance.web.arrivals import MOST_AT_ONCE
from tests.appliance.conftest import PASSWORD, account
from tests.dicom_files import make_radiograph
from tests.peers import dicomweb_plugin, orthanc, wait_until
from tests.running import RunningAppliance

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not package.bundled("chest-pneumonia"), reason="no model package is bundled"),
]


@pytest.fixture(scope="module")
def appliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAppliance]:
    running = RunningAppliance(tmp_path_factory.mktemp("arrivals") / "appliance")
    running.start()
    yield running
    running.stop()


def _sources(appliance: RunningAppliance) -> dict[str, int]:
    with closing(appliance.store()) as store:
        rows = store.worklist(limit=10_000)
    return {source: sum(row["source"] == source for row in rows) for source in ("stow", "upload")}


def _wait_final(appliance: RunningAppliance, source: str, count: int) -> None:
    def all_final() -> bool:
        with closing(appliance.store()) as store:
            rows = [row for row in store.worklist(limit=10_000) if row["source"] == source]
        return len(rows) >= count and all(row["finished_at"] for row in rows)

    wait_until(all_final, f"{count} by {source} are read", 60)


def test_orthanc_sends_by_stow_with_the_login(tmp_path: Path) -> None:
    """Chunked, with HTTP Basic, many in one request."""
    plugin = dicomweb_plugin()
    appliance = RunningAppliance(tmp_path / "appliance")
    appliance.start()
    account(appliance.data / "ledger.sqlite3", pacs="engineer")
    servers = {
        name: {"Url": f"{appliance.url}dicom-web/", "Username": "pacs", "Password": password}
        for name, password in (("scanside", PASSWORD), ("stranger", "wrong"))
    }
    try:
        with orthanc(tmp_path / "pacs", Plugins=[plugin], DicomWeb={"Servers": servers}) as pacs:
            made = [make_radiograph(tmp_path / f"{n}.dcm", seed=n).read_bytes() for n in range(3)]
            names = [pacs.post("/instances", content)["ID"] for content in made]
            order = b'{"Resources": ["%s"], "Synchronous": true}' % b'", "'.join(name.encode() for name in names)
            pacs.post("/dicom-web/servers/scanside/stow", order)
            _wait_final(appliance, "stow", 3)
            with pytest.raises(urllib.error.HTTPError):
                pacs.post("/dicom-web/servers/stranger/stow", order)
        rows = appliance.wait_final(3)
        assert {row["state"] for row in rows} == {"delivered"}
        assert len({row["transfer_id"] for row in rows}) == 1
    finally:
        appliance.stop()


def test_senders_that_stall_do_not_keep_people_from_the_page(appliance: RunningAppliance) -> None:
    """As many as there are threads, each with a body that never comes."""
    where = urlsplit(appliance.url)
    head = (
        f"POST /dicom-web/studies HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Length: 1000000\r\n"
        'Content-Type: multipart/related; type="application/dicom"; boundary=x\r\n\r\n--x\r\n'
    )
    silent = []
    try:
        for _ in range(16):
            silent.append(socket.create_connection((where.hostname, where.port), timeout=10))
            silent[-1].sendall(head.encode())
        with urllib.request.urlopen(f"{appliance.url}healthz", timeout=30) as answer:
            assert answer.status == 200
        refused: list[socket.socket] = []

        def most_are_refused() -> bool:
            readable, _, _ = select.select([each for each in silent if each not in refused], [], [], 0.1)
            refused.extend(each for each in readable if b" 503 " in each.recv(13))
            return len(refused) == len(silent) - MOST_AT_ONCE

        wait_until(most_are_refused, "all but a few are sent away at once", 60)
    finally:
        for each in silent:
            each.close()


def test_a_sender_that_dies_leaves_nothing_half(appliance: RunningAppliance, tmp_path: Path) -> None:
    where = urlsplit(appliance.url)
    content = make_radiograph(tmp_path / "a.dcm", rows=2000, columns=2000, seed=500).read_bytes()
    before = len(list((appliance.data / "spool").rglob("*")))
    head = (
        f"POST /dicom-web/studies HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Length: {len(content) + 100}\r\n"
        'Content-Type: multipart/related; type="application/dicom"; boundary=x\r\n\r\n--x\r\n\r\n'
    )

    def died_half_way() -> bool:
        """Not where it was sent away, since those of another test are still being cleared up after."""
        with socket.create_connection((where.hostname, where.port), timeout=10) as peer:
            try:
                peer.sendall(head.encode() + content[: len(content) // 2])
            except (BrokenPipeError, ConnectionResetError):
                return False
        return True

    wait_until(died_half_way, "there is room for it", 60)
    wait_until(lambda: len(list((appliance.data / "spool").rglob("*"))) == before, "nothing of it is left")


def test_curl_uploads_what_people_would(appliance: RunningAppliance, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    path = make_radiograph(tmp_path / "a.dcm", seed=600)
    before = _sources(appliance)["upload"]
    page = appliance.url.rstrip("/")  # without it, it is taken for another site's: systems have STOW-RS
    done = subprocess.run(
        ["curl", "-sS", "-H", "Accept: application/json", "-H", f"Origin: {page}", "-F", f"files=@{path}",
         f"{page}/upload"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert '"taken"' in done.stdout
    _wait_final(appliance, "upload", before + 1)


@pytest.fixture
def medium(tmp_path: Path) -> Path:
    """A folder as copied from a stick: two images, a text, and a zip with a third image."""
    folder = tmp_path / "stick"
    seed = int.from_bytes(os.urandom(3), "big")
    for number in range(2):
        make_radiograph(folder / "IMAGES" / f"{number}.dcm", seed=seed + number)
    (folder / "README.txt").write_text("Open the viewer.")
    third = make_radiograph(tmp_path / "third.dcm", seed=seed + 2)
    with zipfile.ZipFile(folder / "more.zip", "w") as archive:
        archive.write(third, "deep/third.dcm")
    return folder


@pytest.mark.parametrize("scripts", [True, False])
def test_a_person_brings_a_folder_and_sees_what_came_of_each_file(
    browser: Browser, appliance: RunningAppliance, medium: Path, scripts: bool
) -> None:
    before = _sources(appliance)["upload"]
    context = browser.new_context(java_script_enabled=scripts)
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(appliance.url)
    page.get_by_role("link", name="Upload").click()
    page.get_by_label("A whole folder").set_input_files(medium)
    page.get_by_role("button", name="Send").click()
    page.get_by_role("heading", name="3 of 4 files are here").wait_for()
    rows = page.locator("#outcomes tbody tr")
    expect(rows).to_have_count(4)
    assert "third.dcm" in rows.filter(has_text="more.zip").inner_text()
    assert "no DICOM file" in rows.filter(has_text="README").inner_text()
    assert not said
    _wait_final(appliance, "upload", before + 3)
    rows.filter(has_text="third").get_by_role("link").click()
    page.wait_for_url("**/study/*")
    context.close()


def test_files_can_be_dropped_on_the_page(browser: Browser, appliance: RunningAppliance, medium: Path) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{appliance.url}upload")
    content = (medium / "IMAGES" / "0.dcm").read_bytes()
    dropped = page.evaluate_handle(
        """bytes => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "dropped.dcm"));
            return data;
        }""",
        list(content),
    )
    page.dispatch_event("#upload", "drop", {"dataTransfer": dropped})
    page.get_by_role("heading", name="1 of 1 files are here").wait_for()
    assert "dropped.dcm" in page.locator("#outcomes tbody").inner_text()
    context.close()
