"""The page's answers, without a browser: headers, escaping, what is hidden, what is not there."""

from __future__ import annotations

import html
import math
import os
import re
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance import package, reading_order, recount
from appliance.completeness import Slice
from appliance.config import Brand, Config, Destination, Web
from appliance.custody import Custody
from appliance.package_store import Choice, PackageStore
from appliance.result import Code, Finding
from appliance.store import Arrival, Store, WrittenObject
from appliance.web.app import create_app
from tests.appliance.conftest import PASSWORD, account, browser, log_in
from tests.results import drawn

HOSTILE = "<script>alert(1)</script>"
PROVENANCE = {
    "package": "chest-pneumonia", "version": "1.0.0", "package_sha256": "ab" * 32, "artifact_sha256": "cd" * 32,
    "backend": "onnxruntime", "device": "CPU", "receipt": "0123", "intended_use": "A second look.",
    "not_for": ["diagnosis"],
}  # fmt: skip


class Box:
    """A data folder with some rows, as a running appliance would leave it."""

    def __init__(self, folder: Path, **web: Any) -> None:
        self.config = Config(data_dir=str(folder), web=Web(**web))
        self.store = Store(self.config.ledger_path)

    def client(self) -> FlaskClient:
        return browser(create_app(self.config))

    def add(
        self,
        number: int,
        probability: float | None = None,
        reason: str = "",
        priority: str = "routine",
        outlines: dict[str, Any] | None = None,
        **described: str,
    ) -> int:
        digest = f"{number:064d}"
        uid = f"1.2.3.{number}"
        arrival = Arrival(uid, "1.2", digest, f"{digest}.dcm", 1, "storage_scp", "SCANNER at 127.0.0.1")
        identifier = self.store.receive(arrival).instance_id
        self.store.claim("worker", 30)
        header = {"patient_name": f"{HOSTILE}^JANE", "patient_id": "P-1", "modality": "CR", **described}
        self.store.triage(identifier, "worker", header, priority, 0.0)
        if probability is None:
            self.store.reject(identifier, "worker", reason or "Not an image.")
            return identifier
        code = Code("233604007", "SCT", "Pneumonia")
        positive = probability >= 0.4
        finding = Finding("Pneumonia", code, probability, 0.4, "balanced", positive, True, "Signs are likely.")
        result = {
            "findings": [msgspec.to_builtins(finding)], "warnings": [HOSTILE], "provenance": PROVENANCE,
            "seconds": {"total": 0.1}, "urgent": positive, "outlines": outlines,
        }  # fmt: skip
        written = [WrittenObject("structured_report", "1.2", f"{uid}.1", f"{identifier:08d}/structured_report.dcm")]
        tier = reading_order.tier([finding])
        raised_to = reading_order.raised_to(tier, self.config.worklist)
        self.store.finish(identifier, "worker", result, written, [], "", tier, raised_to)
        file = self.config.results_path / written[0].path
        file.parent.mkdir(parents=True)
        file.write_bytes(b"the report")
        return identifier

    def add_slice(self, number: int, transfer_id: str) -> int:
        digest, uid = f"{number:064d}", f"1.2.4.{number}"
        arrival = Arrival(uid, "1.2", digest, "x", 1, "storage_scp", "MR at 127.0.0.1", transfer_id=transfer_id)
        identifier = self.store.receive(arrival).instance_id
        self.store.claim("worker", 30)
        header = {"sop_instance_uid": uid, "patient_id": "P-1", "modality": "MR", "body_part": "HIPPOCAMPUS"}
        self.store.park(identifier, "worker", header, "1.2.4", Slice(number), "routine", 300.0, 10.0)
        return identifier


@pytest.fixture
def box(tmp_path: Path) -> Box:
    filled = Box(tmp_path)
    filled.add(1, 0.9)
    filled.add(2, reason=f"Its body part is {HOSTILE}.")
    return filled


PATHS = (
    "/",
    "/study/1",
    "/study/2",
    "/device",
    "/quarantine",
    "/worklist.fragment",
    "/api/v1/status",
    "/study/99",
    "/nothing",
)


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_forbids_foreign_content(path: str, box: Box) -> None:
    headers = box.client().get(path).headers
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "no-store" in headers["Cache-Control"] or "no-cache" in headers["Cache-Control"]


@pytest.mark.parametrize("path", PATHS)
def test_what_a_file_says_is_never_markup(path: str, tmp_path: Path) -> None:
    shown = Box(tmp_path, show_patient=True)
    shown.add(1, 0.9)
    shown.add(2, reason=f"Its body part is {HOSTILE}.")
    text = shown.client().get(path).get_data(as_text=True)
    assert HOSTILE not in text
    if path in ("/", "/study/1"):
        assert "&lt;script&gt;" in text


@pytest.mark.parametrize("path", ["/", "/study/1", "/study/1/report"])
def test_a_name_of_any_script_stays_apart_from_what_stands_beside_it(path: str, tmp_path: Path) -> None:
    """Or an override in a name would turn the ID around, and an Arabic ID would swallow the age."""
    shown = Box(tmp_path, show_patient=True)
    shown.add(1, 0.9, patient_name="EVIL\u202egpj^X", patient_id="عربي-12")
    text = shown.client().get(path).get_data(as_text=True)
    assert "<bdi>EVIL\u202egpj X</bdi>" in text
    assert "<bdi>عربي-12</bdi>" in text


@pytest.mark.parametrize(("zone", "told"), [("UTC", "UTC"), ("Asia/Kathmandu", "UTC+05:45")])
def test_a_time_says_in_which_zone_it_is(zone: str, told: str, box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        client = box.client()
        for path in ("/study/1", "/study/1/report", "/device"):
            assert re.search(rf"\d\d:\d\d:\d\d {re.escape(told)}\b", client.get(path).get_data(as_text=True)), path
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_printed_report_bears_the_vendor_s_name(tmp_path: Path) -> None:
    shown = Box(tmp_path, brand=Brand(name="Acme Reader"))
    shown.add(1, 0.9)
    assert "Acme Reader</title>" in shown.client().get("/study/1/report").get_data(as_text=True)


def test_patients_are_hidden_by_default_and_the_same_one_is_told_again(box: Box) -> None:
    box.add(3, 0.2, patient_id="P-2")
    text = box.client().get("/").get_data(as_text=True)
    for secret in ("JANE", "P-1", "P-2"):
        assert secret not in text
    names = [part.split("<")[0] for part in text.split("<bdi>Patient ")[1:]]
    assert len(names) == 3
    assert len(set(names)) == 2


def test_a_result_file_names_the_patient_so_it_is_hidden_too(box: Box, tmp_path: Path) -> None:
    assert box.client().get("/study/1/structured_report.dcm").status_code == 403
    shown = Box(tmp_path / "shown", show_patient=True)
    shown.add(1, 0.9)
    client = shown.client()
    with client.get("/study/1/structured_report.dcm") as answer:
        assert answer.data == b"the report"
    assert client.get("/study/1/secondary_capture.dcm").status_code == 404
    assert client.get("/study/1/structured_report.json").status_code == 404


@pytest.mark.parametrize(
    "path",
    ["/study/99", "/study/x", "/study/1/../../keys/device.pem", "/study/1/heat-9.png", "/study/1/..%2f..%2fledger.png",
     "/static/../app.py", "/study/-1", "/study/99999999999999999999999"],
)  # fmt: skip
def test_what_is_not_there_is_404_in_words(path: str, box: Box) -> None:
    answer = box.client().get(path)
    assert answer.status_code == 404
    assert "Back to the worklist" in answer.get_data(as_text=True)


def test_a_series_is_one_row_that_says_why_it_started_or_what_it_waits_for(tmp_path: Path) -> None:
    shown = Box(tmp_path)
    first, second = shown.add_slice(1, "t"), shown.add_slice(2, "t")
    shown.store.end_transfer("t", "released")
    (series,) = shown.store.to_judge()
    shown.store.postpone_series(series, f"says 3 images, 2 are here {HOSTILE}", time.time() + 60)
    client = shown.client()
    text = client.get("/").get_data(as_text=True)
    assert text.count("<tr class") == 1
    assert "MR HIPPOCAMPUS, 2 images" in text
    assert "says 3 images, 2 are here &lt;script&gt;" in text
    (waiting,) = client.get("/api/v1/status").get_json()["gathering"]
    assert (waiting["number"], waiting["images"]) == (first, 2)
    assert waiting["waits_for"].startswith("says 3 images, 2 are here")
    assert "It is still gathered" in client.get(f"/study/{first}").get_data(as_text=True)
    follower = client.get(f"/study/{second}").get_data(as_text=True)
    assert f'see <a href="/study/{first}">the series</a>' in follower
    assert "Not read yet" not in follower


def test_a_result_that_was_superseded_leads_to_the_later_one(tmp_path: Path) -> None:
    shown = Box(tmp_path)
    leads = []
    for number in (1, 2):
        leads.append(shown.add_slice(number, f"t{number}"))
        shown.store.end_transfer(f"t{number}", "released")
        (series,) = shown.store.to_judge()
        assert shown.store.start_series(series, "1 slice, association released")
        shown.store.claim("worker", 30)
        result = {"findings": [], "warnings": [], "provenance": PROVENANCE, "seconds": {}, "urgent": False}
        shown.store.finish(leads[-1], "worker", result, [], [])
    client = shown.client()
    text = client.get("/").get_data(as_text=True)
    assert text.count("superseded by") == 1
    assert f'<a href="/study/{leads[1]}">a later result</a>' in text
    old, new = (client.get(f"/study/{lead}").get_data(as_text=True) for lead in leads)
    assert "Superseded." in old
    assert f'<a href="/study/{leads[1]}">the result of all of them</a>' in old
    assert f'<a href="/study/{leads[0]}">an earlier result</a>' in new
    assert "Started: 1 slice, association released." in new


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> FlaskClient:
    return Box(tmp_path_factory.mktemp("pages")).client()


ANYTHING = st.one_of(st.integers().map(str), st.text(max_size=20), st.just("5_1e9_3"), st.just("nan_nan_nan"))


@given(
    query=st.dictionaries(
        st.sampled_from(
            ("q", "state", "finding", "modality", "from", "since", "until", "unreviewed", "after", "before")
        ),
        ANYTHING,
        max_size=4,
    )
)
@settings(deadline=None)
def test_any_address_of_the_worklist_has_an_answer(query: dict[str, str], client: FlaskClient) -> None:
    answer = client.get("/", query_string=query)
    assert answer.status_code in (200, 400)
    assert answer.status_code == 200 or set(query) & {"state", "finding", "since", "until", "after", "before"}


def test_the_worklist_is_sent_again_only_when_something_changed(box: Box) -> None:
    client = box.client()
    first = client.get("/worklist.fragment")
    mark = {"If-None-Match": first.headers["ETag"]}
    assert client.get("/worklist.fragment", headers=mark).status_code == 304
    box.add(3, 0.1)
    again = client.get("/worklist.fragment", headers=mark)
    assert again.status_code == 200
    assert again.headers["ETag"] != first.headers["ETag"]


def test_why_nothing_is_read_is_on_the_page(box: Box) -> None:
    box.store.set_component("worker", {"state": "waiting", "reason": "no model package is installed"})
    for path in ("/", "/worklist.fragment"):
        assert "no model package is installed" in box.client().get(path).get_data(as_text=True)


def test_another_sites_name_for_this_machine_is_refused(box: Box) -> None:
    assert box.client().get("/", headers={"Host": "evil.example"}).status_code == 400
    assert box.client().get("/", headers={"Host": "localhost:8080"}).status_code == 200


def test_stat_is_marked_in_words(box: Box) -> None:
    client = box.client()
    assert "STAT" not in client.get("/").get_data(as_text=True)
    identifier = box.add(3, 0.1, priority="stat")
    assert client.get("/").get_data(as_text=True).count(">STAT</abbr>") == 1
    assert ">STAT</abbr>" in client.get(f"/study/{identifier}").get_data(as_text=True)


def test_how_large_a_change_of_a_volume_tells_something(tmp_path: Path) -> None:
    (path,) = package.bundled("hippocampus")
    given = package.read(path, None)
    made = {"package": "hippocampus", "target": "cpu", "package_sha256": given.sha256}
    box = Box(tmp_path)
    for number, volume in ((1, 1.5), (2, 1.7)):
        segment = msgspec.structs.replace(drawn().segments[0], volume_ml=volume)
        outlines = {"segments": [msgspec.to_builtins(segment)], "provenance": {**PROVENANCE, **made}, "slices": 1}
        box.add(number, 0.1, outlines=outlines, acquired_at=f"202{number}-01-02T10:00:00")
    page = box.client().get("/study/2").get_data(as_text=True)
    words = html.unescape(page).replace("\N{NO-BREAK SPACE}", " ")
    assert "(+13.3 %)" in words
    off = given.manifest.targets["cpu"].measured["sets"]["test"]["figures"][segment.label]["volume_error"][0]
    assert 0.03 < off < 0.07
    change = 1.96 * math.sqrt(2) / 0.6745 * off
    said = f"off by more than {100 * off:.1f} %: only a change of more than about {100 * change:.0f} % tells"
    assert f"Half of all volumes are {said}" in words


def test_what_is_quarantined_is_called_so_with_its_reason(box: Box) -> None:
    arrival = Arrival("1.9", "1.2", "9" * 64, "9.dcm", 1, "storage_scp", "SCANNER at 127.0.0.1")
    identifier = box.store.receive(arrival).instance_id
    for _ in range(2):
        box.store.claim("worker", 30)
        box.store.release_crashed("worker")
    client = box.client()
    for path, word in (("/", "<b>quarantined</b>"), (f"/study/{identifier}", "Quarantined, not read.")):
        text = client.get(path).get_data(as_text=True)
        assert word in text
        assert "stopped the reader 2 times" in text


def test_many_rows_come_in_pages(tmp_path: Path) -> None:
    filled = Box(tmp_path)
    for number in range(1, 61):
        filled.add(number)
    client = filled.client()
    one = client.get("/").get_data(as_text=True)
    older = link(one, "Older")
    two = client.get(older).get_data(as_text=True)
    assert one.count("<tr class=") == 50
    assert two.count("<tr class=") == 10
    assert "Newer" not in one
    assert "Older" not in two
    assert numbers(client.get(link(two, "Newer")).get_data(as_text=True)) == numbers(one)
    filled.add(61)  # what comes meanwhile moves no page
    assert numbers(client.get(older).get_data(as_text=True)) == numbers(two)


def link(text: str, words: str) -> str:
    (found,) = re.findall(f'<a href="([^"]*)"[^>]*>{words}</a>', text)
    return html.unescape(found)


def numbers(text: str) -> list[str]:
    """Of the images in a worklist, in its order."""
    return re.findall(r'<td data-label="Received"><a href="/study/(\d+)"', text)


def with_an_account(folder: Path) -> FlaskClient:
    box = Box(folder)
    account(box.config.ledger_path, jane="administrator")
    return box.client()


@pytest.mark.parametrize("path", PATHS)
def test_nothing_is_shown_before_the_login(path: str, tmp_path: Path) -> None:
    assert with_an_account(tmp_path).get(path).status_code in (302, 401)


def test_a_session_is_no_other_appliances(tmp_path: Path) -> None:
    one, two = with_an_account(tmp_path / "a"), with_an_account(tmp_path / "b")
    log_in(one, "jane")
    assert one.get("/").status_code == 200
    cookie = one.get_cookie("scanside")
    assert cookie is not None
    two.set_cookie("scanside", cookie.value)
    assert two.get("/").status_code == 302


def test_a_result_that_went_nowhere_says_why(box: Box) -> None:
    assert "No destination is configured;" in box.client().get("/study/1").get_data(as_text=True)
    urgent_only = Destination(name="pacs", host="192.0.2.9", port=104, ae_title="PACS", when="urgent")
    box.config = msgspec.structs.replace(box.config, destinations=(urgent_only,))
    said = box.client().get("/study/1").get_data(as_text=True)
    assert "No destination wanted this result when it was made;" in said
    assert "No destination is configured" not in said


# --- quarantine and reviews ----------------------------------------------------------------------------------------


def quarantined(box: Box, number: int = 9, how: str = "quarantine") -> int:
    digest = f"{number:064d}"
    arrival = Arrival(f"1.9.{number}", "1.2", digest, f"{digest}.dcm", 1, "storage_scp", "SCANNER at 127.0.0.1")
    identifier = box.store.receive(arrival).instance_id
    box.store.claim("worker", 30)
    box.store.triage(identifier, "worker", {"patient_name": HOSTILE, "patient_id": "P-9"}, "routine", 0.0)
    getattr(box.store, how)(identifier, "worker", f"Its sequences are nested more than 32 deep. {HOSTILE}")
    return identifier


def test_what_is_set_aside_is_listed_with_its_reason_and_read_again(box: Box) -> None:
    client = box.client()
    assert "Nothing is quarantined." in client.get("/quarantine").get_data(as_text=True)
    identifier = quarantined(box)
    text = client.get("/quarantine").get_data(as_text=True)
    assert "nested more than 32 deep. &lt;script&gt;" in text
    assert "P-9" not in text
    answer = client.post(f"/quarantine/{identifier}/retry")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/quarantine")
    assert box.store.counts()["received"] == 1
    again = client.post(f"/quarantine/{identifier}/retry")
    assert again.status_code == 409
    assert "was not turned away" in again.get_data(as_text=True)


@pytest.mark.parametrize("how", ["reject", "fail", "quarantine"])
def test_what_was_turned_away_is_read_again_on_its_own_page(box: Box, how: str) -> None:
    client, identifier = box.client(), quarantined(box, how=how)
    page = client.get(f"/study/{identifier}").get_data(as_text=True)
    assert f'action="/study/{identifier}/retry"' in page
    answer = client.post(f"/study/{identifier}/retry")
    assert (answer.status_code, answer.headers["Location"]) == (302, f"/study/{identifier}")
    assert box.store.counts()["received"] == 1
    page = client.get(f"/study/{identifier}").get_data(as_text=True)
    assert "is read again" in page and "/retry" not in page


def changing_routes(config: Config) -> list[tuple[str, str]]:
    """Method and path of every route that may change something, with values for what is variable in them."""
    found = []
    for rule in create_app(config).url_map.iter_rules():
        path = re.sub(r"<[^>]+>", "1", rule.rule)
        found += [(method, path) for method in sorted((rule.methods or set()) - {"GET", "HEAD", "OPTIONS"})]
    return found


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://localhost.evil.example"},
        {"Origin": "http://localhost:81"},
        {"Origin": "null"},
        {},
    ],
)
@pytest.mark.parametrize("with_login", [False, True])
def test_no_other_site_changes_anything_by_any_route(headers: dict[str, str], with_login: bool, tmp_path: Path) -> None:
    box = Box(tmp_path)
    quarantined(box)
    if with_login:
        account(box.config.ledger_path, jane="administrator")
    routes = changing_routes(box.config)
    paths = {path for _, path in routes}
    assert {"/quarantine/1/retry", "/study/1/review", "/upload", "/dicom-web/studies", "/login", "/accounts"} <= paths
    client, before = create_app(box.config).test_client(), box.store.change_mark()
    if with_login:
        data = {"username": "jane", "password": PASSWORD}
        client.post("/login", data=data, headers={"Origin": "http://localhost"})
        assert client.get("/").status_code == 200
    for method, path in routes:
        if headers or not path.startswith(("/dicom-web/", "/api/")):
            assert client.open(path, method=method, headers=headers).status_code == 403, (method, path)
    assert box.store.change_mark() == before
    assert box.store.counts()["quarantined"] == 1


def test_what_a_page_of_this_device_sends_is_served(box: Box) -> None:
    identifiers = [quarantined(box, number) for number in (8, 9)]
    for identifier, headers in zip(
        identifiers, ({"Sec-Fetch-Site": "same-origin"}, {"Origin": "http://localhost"}), strict=True
    ):
        client = create_app(box.config).test_client()
        assert client.post(f"/quarantine/{identifier}/retry", headers=headers).status_code == 302


def test_a_file_that_is_set_aside_names_the_patient_so_it_is_hidden_too(box: Box, tmp_path: Path) -> None:
    assert box.client().get(f"/quarantine/{quarantined(box)}.dcm").status_code == 403
    shown = Box(tmp_path / "shown", show_patient=True)
    identifier = quarantined(shown)
    client = shown.client()
    assert client.get(f"/quarantine/{identifier}.dcm").status_code == 404
    file = shown.config.spool_path / f"{9:064d}.dcm"
    file.parent.mkdir()
    file.write_bytes(b"as it came")
    with client.get(f"/quarantine/{identifier}.dcm") as answer:
        assert answer.data == b"as it came"
    shown.add(1, 0.9)
    assert client.get("/quarantine/2.dcm").status_code == 404


def test_a_result_is_marked_as_reviewed(box: Box) -> None:
    client = box.client()
    answer = client.post("/study/1/review")
    assert answer.headers["Location"] == "/study/1"
    text = client.get("/study/1").get_data(as_text=True)
    assert "Marked as reviewed" in text
    assert "<button>Mark as reviewed" not in text


def test_what_was_rejected_is_marked_as_reviewed_together_as_the_filter_shows_it(box: Box) -> None:
    for number in (11, 12, 13):
        box.add(number, reason="No package reads hands.", modality="DX" if number == 13 else "MG")
    client = box.client()
    assert "reviewed</button>" not in client.get("/?state=rejected").get_data(as_text=True)
    assert "?state=rejected&amp;unreviewed=1" in client.get("/?state=rejected").get_data(as_text=True)
    address = "/?state=rejected&modality=MG&unreviewed=1"
    text = client.get(address).get_data(as_text=True)
    assert "Mark these 2 as reviewed</button>" in text
    found = re.search(r'name="before" value="([\d.]+)"', text)
    assert found
    box.add(14, reason="No package reads hands.", modality="MG")  # after somebody has looked
    answer = client.post(address.replace("/?", "/rejected/review?"), data={"before": found[1]})
    assert answer.headers["Location"] == address
    assert "Mark it as reviewed</button>" in client.get(address).get_data(as_text=True)
    assert len(numbers(client.get("/?state=rejected&unreviewed=1").get_data(as_text=True))) == 3  # 2, 13 and 14
    assert client.post("/rejected/review").status_code == 400


def test_the_device_page_tells_whether_the_ledger_adds_up(box: Box) -> None:
    client, custody = box.client(), Custody(box.config.ledger_path)
    assert "It has not been recounted yet." in client.get("/device").get_data(as_text=True)
    recount.keep(custody, recount.recount(box.config, custody, full=True))
    custody.close()
    text = client.get("/device").get_data(as_text=True)
    assert "2 = 1 with a result + 1 turned away" in text
    assert "its file" in text
    said = client.get("/api/v1/status").get_json()
    assert said["proof"]["fault_count"] == 2  # this test has written no images
    assert "recount" in [each["name"] for each in said["problems"]]


def test_a_model_that_fell_back_leads_to_the_page_of_models(box: Box) -> None:
    packages = PackageStore(box.config.ledger_path)
    packages.choose(Choice("chest", "0.9", "cd" * 32, "ab" * 32, "fallback", "", "1.0 can't be served: it is gone"))
    box.store.set_component("appliance", {"started_at": time.time(), "version": "1", "pid": 1})
    assert '<a href="/models">Open the models</a>' in box.client().get("/device").text


def test_the_device_page_shows_the_fingerprint_of_its_certificate(box: Box) -> None:
    assert "SHA-256" not in box.client().get("/device").text
    digits = [f"{number:02X}" for number in range(100, 132)]
    content = {"state": "ready", "fingerprint": ":".join(digits), "own": True, "not_after": time.time() + 86400}
    box.store.set_component("page", content)
    text = re.sub(r"</?span>", "", box.client().get("/device").text)
    assert ":".join(digits) in text
    assert "Continue only if the SHA-256 fingerprint that they show is this one" in text


@pytest.mark.parametrize(
    ("reason", "step"),
    [
        ("Its body part is HAND. This device reads frontal chest images (CR, DX).", "there is nothing to mend"),
        ("It does not say which body part was imaged (Body Part Examined is empty). This device reads frontal chest "
         "images (CR, DX).", "Have the modality state the body part"),
        ("The image is a raw one (For Processing), which is not made to be looked at. This device reads frontal chest "
         "images (CR, DX).", "(For Presentation)"),
        ("No model package is installed.", "Install a model package"),
        ("The pixel data is empty. Send it again.", "Mend what the reason names"),
    ],
)  # fmt: skip
def test_what_to_do_about_an_image_is_true_for_its_reason(reason: str, step: str, tmp_path: Path) -> None:
    refused = Box(tmp_path)
    number = refused.add(1, reason=reason)
    for path in ("/", f"/study/{number}"):
        text = refused.client().get(path).text
        assert step in text
        assert ("Mend what the reason names" in text) == step.startswith("Mend")


def test_why_a_backend_is_not_used_is_said_once_for_all_packages(box: Box) -> None:
    def trial(backend: str, package: str, reason: str, seconds: float | None = None) -> dict[str, object]:
        said = {"progress": None, "receipt": None, "min_dice": None, "target": "cpu"}
        return {"backend": backend, "package": package, "reason": reason, "seconds": seconds, **said,
                "serves": seconds is not None}  # fmt: skip

    trials = [
        each
        for package in ("chest 1.0", "lungs 1.0")
        for each in (
            trial("openvino", package, "openvino is not installed: pip install 'scanside[openvino]'"),
            trial("tensorrt", package, f"{package} has no artifact for target tensorrt"),
            trial("onnxruntime", package, "", 0.01),
        )
    ]
    serves = [{"package": each, "backend": "onnxruntime", "pid": 1, "batch": 1} for each in ("chest 1.0", "lungs 1.0")]
    box.store.set_component("worker", {"state": "ready", "trials": trials})
    box.store.set_component("inference", {"serves": serves, "latency_p50": [None, None], "reused": 0, "stops": {}})
    page = box.client().get("/device").text
    assert page.count("openvino is not installed") == 1
    assert page.count("has no artifact for target tensorrt") == 2
    assert page.index("10.00 ms an image") < page.index("openvino is not installed")


def test_the_device_page_says_what_is_wrong_with_the_audit_trail(box: Box) -> None:
    head = {"number": 7, "digest": "d", "signature": "s"}
    store, client = box.store, box.client()

    def names() -> set[str]:
        return {each["name"] for each in client.get("/api/v1/status").get_json()["problems"]}

    store.set_component("appliance", {"started_at": time.time(), "version": "1", "pid": os.getpid()})
    store.set_component("audit", {"head": head, "syslog": None, "faults": 0, "kept": ""})
    assert not {name for name in names() if name.startswith("audit")}
    failing = {"state": "failing", "problem": "the syslog collector a:6514 can't be reached: no route", "wait": 12}
    kept = "no export has them: scanside audit export --format chain --to FILE"
    store.set_component("audit", {"head": head, "syslog": failing, "faults": 2, "kept": kept})
    assert names() >= {"audit", "audit_collector", "audit_retention"}
    page = client.get("/device").text
    for words in ("not what was written: 2 faults", "12 records wait", "a:6514", "no export has them"):
        assert words in page, words
