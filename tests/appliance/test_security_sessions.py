"""Sessions in the browser: fixation, cookies, guessing, log-out, and where the login leads."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.accounts import Accounts
from appliance.web.auth import place_of
from tests.appliance.conftest import PASSWORD, browser, log_in
from tests.appliance.guarded import Guarded

pytestmark = pytest.mark.usefixtures("quick_hashes")


@pytest.fixture
def box(tmp_path: Path) -> Guarded:
    return Guarded(tmp_path)


def cookies(answer_headers: list[str]) -> dict[str, str]:
    return {each.split("=", 1)[0]: each for each in answer_headers}


def test_a_login_gives_another_session_than_any_before_it(box: Guarded) -> None:
    """Session fixation: what somebody has put into the browser before counts for nothing after it."""
    attacker, victim = box.client("viewer"), browser(box.app)
    planted = attacker.get_cookie("scanside")
    assert planted is not None
    victim.set_cookie("scanside", planted.value)
    log_in(victim, "administrator")
    fresh = victim.get_cookie("scanside")
    assert fresh is not None
    assert fresh.value != planted.value
    assert victim.get("/accounts").status_code == 200
    assert attacker.get("/").status_code == 302, "the session that was planted has ended with it"


def test_a_session_that_was_copied_ends_with_the_log_out(box: Guarded) -> None:
    client = box.client("viewer")
    cookie = client.get_cookie("scanside")
    assert cookie is not None
    thief = browser(box.app)
    thief.set_cookie("scanside", cookie.value)
    assert thief.get("/").status_code == 200
    assert client.post("/logout").headers["Location"] == "/login"
    assert thief.get("/").status_code == 302


def test_another_password_ends_all_other_sessions(box: Guarded) -> None:
    here, there = box.client("viewer"), box.client("viewer")
    form = {"old": PASSWORD, "new": "another long password", "again": "another long password"}
    assert here.post("/account/password", data={**form, "old": "wrong"}).status_code == 400
    assert here.post("/account/password", data={**form, "again": "x"}).status_code == 400
    assert "is changed" in here.post("/account/password", data=form).get_data(as_text=True)
    assert here.get("/").status_code == 200
    assert there.get("/").status_code == 302
    assert log_in(browser(box.app), "viewer").status_code == 403


def test_disabled_and_demoted_counts_from_the_next_request_on(box: Guarded) -> None:
    client, known = box.client("engineer"), Accounts(box.config.ledger_path)
    assert client.get("/upload").status_code == 200
    known.set_role("engineer", "viewer")
    assert client.get("/upload").status_code == 403
    known.disable("engineer")
    assert client.get("/upload").status_code == 302


def test_what_is_left_open_ends_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box = Guarded(tmp_path, idle_minutes=10, session_hours=1)
    client, now = box.client("viewer"), time.time()
    for minute in range(9, 60, 9):
        monkeypatch.setattr(time, "time", lambda minute=minute: now + minute * 60)
        assert client.get("/").status_code == 200, minute
    monkeypatch.setattr(time, "time", lambda: now + 3601)
    assert client.get("/").status_code == 302
    monkeypatch.setattr(time, "time", lambda: now)
    client = box.client("viewer")
    for minute in range(9):
        monkeypatch.setattr(time, "time", lambda minute=minute: now + minute * 60)
        assert client.get("/worklist.fragment").status_code == 200
    monkeypatch.setattr(time, "time", lambda: now + 601)
    assert client.get("/worklist.fragment").status_code == 302


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_cookies_are_for_this_page_alone(host: str, tmp_path: Path) -> None:
    box = Guarded(tmp_path, host=host)
    answer = log_in(browser(box.app), "viewer")
    found = cookies(answer.headers.getlist("Set-Cookie"))
    over_tls = host != "127.0.0.1"
    assert set(found) == {"__Host-scanside" if over_tls else "scanside", "scanside-known"}
    for cookie in found.values():
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert ("Secure" in cookie) == over_tls
        assert "Domain" not in cookie
    assert "Path=/login" in found["scanside-known"]


def test_a_cookie_that_was_made_up_is_worth_nothing(box: Guarded) -> None:
    client = box.client("administrator")
    cookie = client.get_cookie("scanside")
    assert cookie is not None
    for value in (cookie.value[:-1], cookie.value.split(".")[0], "x", "", "a.b.c", "\x00"):
        other = browser(box.app)
        other.set_cookie("scanside", value)
        assert other.get("/").status_code == 302


def test_guessing_is_slowed_and_told_to_nobody(box: Guarded) -> None:
    client = browser(box.app)
    answers = [log_in(client, name, "wrong") for name in ("viewer", "nobody")]
    assert answers[0].status_code == answers[1].status_code == 403
    texts = [answer.get_data(as_text=True) for answer in answers]
    texts = [text.replace(name, "") for text, name in zip(texts, ("viewer", "nobody"), strict=True)]
    assert texts[0] == texts[1], "an account that is there is told by nothing"
    for _ in range(4):
        log_in(client, "viewer", "wrong")
    assert log_in(client, "viewer").status_code == 429
    assert log_in(client, "engineer").status_code == 302
    events = [(each["event"], each.get("person", "")) for each in box.trail()]
    assert events.count(("login", "viewer")) == 5
    assert ("lock_out", "viewer") in events
    assert ("login", "") in events, "what is no account's name is not recorded: it may be a password"


def test_guessing_does_not_keep_people_out_of_their_own_browser(box: Guarded) -> None:
    own, stranger = box.client("viewer"), browser(box.app)
    own.post("/logout")
    for _ in range(7):
        log_in(stranger, "viewer", "wrong")
    assert log_in(stranger, "viewer").status_code == 429
    assert log_in(own, "viewer").status_code == 302
    mark = own.get_cookie("scanside-known", path="/login")
    assert mark is not None
    other = browser(box.app)
    other.set_cookie("scanside-known", mark.value[:-2] + "xx", path="/login")
    assert log_in(other, "viewer").status_code == 429, "a mark that was made up counts for nothing"
    assert log_in(own, "engineer").status_code == 302, "nor does one of another account"


@pytest.mark.parametrize(
    "place",
    ["https://evil.example/", "//evil.example", "/\\evil.example", "\\\\evil.example", "/\t/evil.example", "/\n//evil",
     "javascript:alert(1)", "http:evil", "///evil.example", "evil.example", "", "/\x00", "@evil", "/ /evil.example"],
)  # fmt: skip
def test_the_login_leads_to_no_other_site(place: str, box: Guarded) -> None:
    form = {"username": "viewer", "password": PASSWORD, "next": place}
    assert browser(box.app).post("/login", data=form).headers["Location"] == "/"
    shown = browser(box.app).get("/login", query_string={"next": place}).get_data(as_text=True)
    assert 'name="next" value="/"' in shown


@given(place=st.text(max_size=60))
def test_whatever_is_asked_for_the_place_is_on_this_device(place: str) -> None:
    found = place_of(place)
    assert found.startswith("/")
    assert not found.startswith(("//", "/\\"))
    assert found.isprintable()


def test_the_login_leads_back_to_where_one_was(box: Guarded) -> None:
    client = browser(box.app)
    place = client.get("/study/1?a=1&b=2").headers["Location"]
    assert place == "/login?next=/study/1%3Fa%3D1%26b%3D2"
    shown = client.get(place).get_data(as_text=True)
    assert 'name="next" value="/study/1?a=1&amp;b=2"' in shown
    form = {"username": "viewer", "password": PASSWORD, "next": "/study/1?a=1&b=2"}
    assert client.post("/login", data=form).headers["Location"] == "/study/1?a=1&b=2"


def test_a_password_is_in_no_answer_and_no_record(box: Guarded) -> None:
    client = browser(box.app)
    answer = client.post("/login", data={"username": PASSWORD, "password": PASSWORD + "!"})
    assert PASSWORD + "!" not in answer.get_data(as_text=True)
    assert PASSWORD not in str(box.trail())
