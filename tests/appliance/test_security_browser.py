"""What other sites can do through a browser: nothing. And what a browser keeps of patients' pages: nothing."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from appliance.audit_store import AuditStore
from appliance.config import WebTls
from appliance.errors import DiskFullError
from tests.appliance.conftest import PASSWORD, browser, log_in
from tests.appliance.guarded import Guarded, routes

pytestmark = pytest.mark.usefixtures("quick_hashes")


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Guarded:
    return Guarded(tmp_path_factory.mktemp("box"))


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://localhost.evil.example"},
        {"Origin": "http://evil.example@localhost"},
        {"Origin": "https://localhost:1"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Referer": "http://localhost/"},
        {},
    ],
)
def test_no_other_site_acts_in_the_name_of_who_is_logged_in(headers: dict[str, str], box: Guarded) -> None:
    """Cross-site request forgery, also of the login, by every route that changes anything."""
    client = box.client("administrator")
    del client.environ_base["HTTP_ORIGIN"]
    before, records = box.store.change_mark(), len(box.trail())
    for method, path, _ in routes(box.app):
        if method != "GET":
            answer = client.open(path, method=method, headers=headers)
            # What names no origin may be a system, for which no cookie counts.
            expected = (401, 403) if path.startswith("/dicom-web/") else (403,)
            assert answer.status_code in expected, (method, path)
    assert client.get("/accounts").status_code == 200, "nor is anybody logged out"
    assert box.store.change_mark() == before
    assert {each["event"] for each in box.trail()[records:]} <= {"refused", "view"}


def test_get_changes_nothing(box: Guarded) -> None:
    client = box.client("administrator")
    before = box.store.change_mark()
    accounts = box.app.config["SCANSIDE_GATE"].accounts.store.accounts
    rows = accounts()
    for method, path, _ in routes(box.app):
        if method == "GET":
            client.get(path).close()
    assert box.store.change_mark() == before
    assert accounts() == rows


def test_no_page_is_framed_sniffed_or_cached(box: Guarded) -> None:
    client = box.client("administrator")
    for method, path, endpoint in routes(box.app):
        if method != "GET":
            continue
        with client.get(path) as answer:
            headers = answer.headers
        policy = headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in policy, path
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["Referrer-Policy"] in ("same-origin", "no-referrer")
        assert "Access-Control-Allow-Origin" not in headers
        assert "Strict-Transport-Security" not in headers, "not over plain HTTP, nor with a certificate of our own"
        if endpoint != "static":
            kept = headers["Cache-Control"]
            assert "no-store" in kept or ("private" in kept and "no-cache" in kept) or kept == "no-cache", (path, kept)


def test_after_the_log_out_nothing_is_shown_from_a_validated_copy(box: Guarded) -> None:
    client = box.client("viewer")
    mark = client.get("/worklist.fragment").headers["ETag"]
    assert client.get("/worklist.fragment", headers={"If-None-Match": mark}).status_code == 304
    client.post("/logout")
    assert client.get("/worklist.fragment", headers={"If-None-Match": mark}).status_code == 302


def test_strict_transport_only_with_a_certificate_that_was_given(tmp_path: Path) -> None:
    given = Guarded(tmp_path, host="0.0.0.0", tls=WebTls(key="k", certificate="c"))
    assert given.client().get("/login").headers["Strict-Transport-Security"] == "max-age=31536000"


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "[::2]", "a b"])
def test_another_name_for_this_machine_is_refused_while_the_page_is_open(host: str, tmp_path: Path) -> None:
    """DNS rebinding: while nobody has to log in, there is no cookie that would be missing."""
    box = Guarded(tmp_path, claimed=False)
    answer = browser(box.app).get("/", headers={"Host": host})
    assert answer.status_code == 400
    assert "SECRET" not in answer.get_data(as_text=True)
    assert browser(box.app).get("/", headers={"Host": "localhost:8080"}).status_code == 200


def test_the_host_header_makes_no_address(box: Guarded) -> None:
    client = browser(box.app)
    for path in ("/", "/study/1", "/login?next=/"):
        answer = client.get(path, headers={"Host": "evil.example", "X-Forwarded-Host": "evil.example"})
        assert "evil.example" not in answer.get_data(as_text=True)
        assert "evil.example" not in str(answer.headers)


# --- the audit trail of requests ----------------------------------------------------------------------------------


def test_every_view_and_act_is_recorded_and_what_pages_ask_for_by_themselves_once(tmp_path: Path) -> None:
    box = Guarded(tmp_path)
    client = box.client("engineer")
    client.get("/")
    client.get("/")
    for _ in range(5):
        client.get("/worklist.fragment")
        client.get("/api/v1/studies")
    client.get("/study/1")
    client.get("/study/2")
    client.post("/quarantine/2/retry")
    client.post("/study/1/review")
    client.get("/quarantine/2.dcm")
    client.get("/static/style.css").close()
    client.get("/healthz")
    client.get("/JOHN%5EDOE?name=DOE")
    client.post("/logout")
    said = [(each["event"], each["action"], each.get("target", ""), each.get("failed", False)) for each in box.trail()]
    assert said == [
        ("login", "login", "", False),
        ("view", "GET /", "", False),
        ("view", "GET /", "", False),
        ("view", "GET /worklist.fragment", "", False),
        ("view", "GET /api/v1/studies", "", False),
        ("view", "GET /study/<row:identifier>", "image 1", False),
        ("view", "GET /study/<row:identifier>", "image 2", False),
        ("act", "POST /quarantine/<row:number>/retry", "image 2", False),
        ("refused", "POST /study/<row:number>/review", "image 1", True),
        ("download", "GET /quarantine/<row:number>.dcm", "image 2", True),
        ("view", "GET (no such page)", "", True),
        ("logout", "logout", "", False),
    ]
    assert {(each["person"], each["role"], each["address"]) for each in box.trail()} == {
        ("engineer", "engineer", "127.0.0.1")
    }
    assert "DOE" not in str(box.trail())


def test_strangers_can_t_fill_the_trail(tmp_path: Path) -> None:
    box = Guarded(tmp_path)
    client = browser(box.app)
    for _ in range(20):
        client.get("/study/1")
        client.post("/study/1/review")
        client.get(f"/{time.time()}")
        client.get("/login")
    assert len(box.trail()) == 4


def test_while_nothing_can_be_recorded_nothing_is_changed_and_the_page_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = Guarded(tmp_path)
    client, written = box.client("administrator"), AuditStore.append

    def full(*_: object) -> int:
        raise DiskFullError("no room left on the disk for the audit trail")

    monkeypatch.setattr(AuditStore, "append", full)
    assert client.get("/").status_code == 200
    assert "can't be written, so nothing can be changed" in client.get("/").get_data(as_text=True)
    before = box.store.change_mark()
    refused = client.post("/quarantine/2/retry")
    assert refused.status_code == 503
    assert "no room left" in refused.get_data(as_text=True)
    assert box.store.change_mark() == before
    assert log_in(browser(box.app), "engineer", PASSWORD).status_code == 302, "whoever mends it gets in"
    monkeypatch.setattr(AuditStore, "append", written)
    assert client.post("/quarantine/2/retry").status_code == 302
    events = [each["event"] for each in box.trail()]
    assert events[-2:] == ["gap", "act"]
    assert len(events) == 7
