"""A study in a frame of another system: who gets in, for how long, and who may frame it."""

from __future__ import annotations

import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.accounts import Accounts
from appliance.audit import decode
from appliance.audit_store import AuditStore
from appliance.tokens import Tokens
from appliance.web.app import create_app
from tests.appliance.conftest import account, browser, log_in
from tests.appliance.test_web import HOSTILE, Box

ORIGIN = "https://viewer.example:8443"
NAME, IDENTITY = "SECRETNAME^JANE", "SECRET-ID-1"


@pytest.fixture
def box(tmp_path: Path) -> Box:
    box = Box(tmp_path, embed_origins=(ORIGIN,))
    box.add(1, 0.9, patient_name=NAME, patient_id=IDENTITY, study_instance_uid="1.2.7")
    box.add(2, 0.1, study_instance_uid="1.2.7")
    box.add(3, reason=f"Not {HOSTILE}.", study_instance_uid="1.2.7")
    for number in (1, 2):
        folder = box.config.previews_path / str(number)
        folder.mkdir(parents=True)
        (folder / "image.png").write_bytes(b"\x89PNG image")
    return box


@pytest.fixture
def client(box: Box) -> FlaskClient:
    return create_app(box.config).test_client()


def link(client: FlaskClient, study: int | str, seconds: int = 60) -> str:
    answer = client.post("/api/v1/embed-links", json={"study": study, "seconds": seconds})
    assert answer.status_code == 201, answer.data
    path: str = answer.get_json()["path"]
    return path


def test_a_link_shows_one_study_without_navigation_and_only_to_the_named_origins(client: FlaskClient) -> None:
    answer = client.get(link(client, 1))
    page = answer.get_data(as_text=True)
    assert answer.status_code == 200
    assert "Signs are likely." in page
    assert "<nav" not in page
    assert "<form" not in page
    assert "not for diagnosis" in page.lower()
    policy = answer.headers["Content-Security-Policy"]
    assert f"frame-ancestors {ORIGIN}" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Cache-Control"] == "no-store"
    assert "frame-ancestors 'none'" in client.get("/").headers["Content-Security-Policy"]


def test_its_pictures_come_under_the_same_ticket(client: FlaskClient) -> None:
    path = link(client, 1)
    ticket = parse_qs(urlsplit(path).query)["ticket"][0]
    with client.get(f"/embed/study/1/image.png?ticket={ticket}") as picture:
        assert picture.data == b"\x89PNG image"
    assert client.get(f"/embed/study/2/image.png?ticket={ticket}").status_code == 403
    assert client.get("/embed/study/1/image.png").status_code == 403
    assert f"/embed/study/1/image.png?ticket={ticket}" in client.get(path).get_data(as_text=True)


def test_a_uid_finds_the_latest_that_was_read(client: FlaskClient) -> None:
    assert link(client, "1.2.3.1").startswith("/embed/study/1?")
    assert link(client, "1.2.7").startswith("/embed/study/2?")  # the third was turned away
    assert client.post("/api/v1/embed-links", json={"study": "9.9.9"}).status_code == 404


def test_a_link_ends_and_is_for_its_study_alone(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    path = link(client, 1, seconds=10)
    assert client.get(path.replace("/study/1", "/study/2")).status_code == 403
    assert client.get("/embed/study/1").status_code == 403
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 12)
    late = client.get(path)
    assert late.status_code == 403
    assert "no longer valid" in late.get_data(as_text=True)
    assert "<nav" not in late.get_data(as_text=True)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_changed_ticket_opens_nothing(client: FlaskClient, data: st.DataObject) -> None:
    path, ticket = link(client, 1).split("?ticket=")
    place = data.draw(st.integers(0, 9999)) % (len(ticket) - 1)  # its length is not always the same
    other = data.draw(st.sampled_from("ABCXYZabcxyz0189-_"))
    changed = ticket[:place] + other + ticket[place + 1 :]
    expected = 200 if changed == ticket else 403
    assert client.get(path, query_string={"ticket": changed}).status_code == expected


def test_another_device_s_ticket_opens_nothing(client: FlaskClient, tmp_path: Path) -> None:
    other = Box(tmp_path / "other", embed_origins=(ORIGIN,))
    other.add(1, 0.9)
    assert client.get(link(create_app(other.config).test_client(), 1)).status_code == 403


def test_the_patient_is_a_pseudonym_and_what_a_file_says_is_no_markup(client: FlaskClient) -> None:
    page = client.get(link(client, 1)).get_data(as_text=True)
    assert "SECRETNAME" not in page
    assert IDENTITY not in page
    assert HOSTILE not in page
    assert HOSTILE not in client.get(link(client, 3)).get_data(as_text=True)


def test_no_link_is_made_where_nobody_may_frame(tmp_path: Path) -> None:
    box = Box(tmp_path)
    box.add(1, 0.9)
    answer = create_app(box.config).test_client().post("/api/v1/embed-links", json={"study": 1})
    assert answer.status_code == 409
    assert "web.embed_origins" in answer.get_json()["detail"]


def test_a_frame_needs_no_login_but_making_its_link_does(tmp_path: Path) -> None:
    box = Box(tmp_path, embed_origins=(ORIGIN,))
    box.add(1, 0.9)
    account(box.config.ledger_path, jane="viewer")
    app = create_app(box.config)
    stranger, insider = app.test_client(), browser(app)
    assert stranger.post("/api/v1/embed-links", json={"study": 1}).status_code == 401
    log_in(insider, "jane")
    path = link(insider, 1)
    assert stranger.get(path).status_code == 200
    assert stranger.get("/study/1").status_code == 302
    records = [decode(row["content"]) for row in AuditStore(box.config.audit_path, read_only=True).records()]
    seen = {(each.person, each.how) for each in records if each.target == "image 1" and not each.failed}
    assert seen == {("jane", "session"), ("jane", "link")}


def test_a_link_ends_with_whoever_made_it(tmp_path: Path) -> None:
    """A disabled account, a revoked token also where another one has its name, and the time before any account."""
    box = Box(tmp_path, embed_origins=(ORIGIN,))
    box.add(1, 0.9)
    app = create_app(box.config)
    stranger = app.test_client()
    before_any = link(stranger, 1)
    assert stranger.get(before_any).status_code == 200
    account(box.config.ledger_path, jane="viewer", anna="administrator")
    assert stranger.get(before_any).status_code == 403
    insider = browser(app)
    log_in(insider, "jane")
    of_jane = link(insider, 1)
    tokens, accounts = Tokens(box.config.ledger_path), Accounts(box.config.ledger_path)

    def of_token() -> str:
        text = tokens.add("viewer", ["see"], None, "anna")
        sent = {"Authorization": f"Bearer {text}"}
        path: str = stranger.post("/api/v1/embed-links", json={"study": 1}, headers=sent).get_json()["path"]
        return path

    first = of_token()
    assert [stranger.get(path).status_code for path in (of_jane, first)] == [200, 200]
    accounts.disable("jane")
    tokens.revoke("viewer")
    refused = [stranger.get(path) for path in (of_jane, first)]
    assert [each.status_code for each in refused] == [403, 403]
    assert all("may see results no longer" in each.get_data(as_text=True) for each in refused)
    second = of_token()
    assert [stranger.get(path).status_code for path in (first, second)] == [403, 200]
    tokens.close()
    accounts.close()
