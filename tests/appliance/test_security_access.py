"""Who gets where: the whole route table without a login, by role, and by a token's scopes."""

from __future__ import annotations

from pathlib import Path

import pytest
from flask import Flask

from appliance.accounts import ALL_RIGHTS, RIGHTS, ROLES, Accounts
from appliance.web import rights
from appliance.web.rights import needs, refuse_unmarked
from tests.appliance.conftest import PASSWORD, browser
from tests.appliance.guarded import SECRET, Guarded, routes

OPEN = {"static", "people.login_form", "people.login", "people.logout", "people.enrolment", "people.enrol",
        "views.healthz", "kiosk.kiosk", "kiosk.figures", "branding.logo", "branding.colors", "api_device.document",
        "embedding.study", "embedding.picture"}  # fmt: skip
# What must stay as it is, whatever else a page gets.
NEEDED = {
    ("GET", "/"): "see",
    ("GET", "/study/1"): "see",
    ("GET", "/api/v1/studies"): "see",
    ("POST", "/study/1/review"): "assess",
    ("POST", "/rejected/review"): "assess",
    ("POST", "/quarantine/1/retry"): "operate",
    ("POST", "/study/1/retry"): "operate",
    ("GET", "/quarantine/1.dcm"): "operate",
    ("POST", "/deliveries/retry"): "operate",
    ("POST", "/dicom-web/studies"): "send",
    ("POST", "/upload"): "send",
    ("GET", "/accounts"): "administer",
    ("POST", "/accounts"): "administer",
    ("POST", "/invitations"): "administer",
    ("POST", "/accounts/x/role"): "administer",
    ("POST", "/tokens"): "administer",
    ("GET", "/reader-study/x"): "assess",
    ("POST", "/box"): "administer",
    ("GET", "/box/site"): "administer",
    ("POST", "/box/site"): "administer",
}


pytestmark = pytest.mark.usefixtures("quick_hashes")


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Guarded:
    return Guarded(tmp_path_factory.mktemp("box"))


def test_the_page_is_not_made_with_a_route_that_does_not_say_who_may_use_it() -> None:
    app = Flask(__name__)

    @app.get("/new")
    def new() -> str:
        return ""

    with pytest.raises(RuntimeError, match="new"):
        refuse_unmarked(app)
    needs("see")(new)
    refuse_unmarked(app)


def test_the_table_of_routes_is_what_is_walked(box: Guarded) -> None:
    known = {(method, path): endpoint for method, path, endpoint in routes(box.app)}
    assert set(NEEDED) <= set(known)
    for route, right in NEEDED.items():
        assert rights.right_of(box.app, known[route]) == right, route
    assert {endpoint for endpoint in known.values() if rights.right_of(box.app, endpoint) == "open"} == OPEN


def test_without_a_login_no_route_answers_nor_does_anything(box: Guarded) -> None:
    client, before = box.client(), box.store.change_mark()
    for method, path, endpoint in routes(box.app):
        if endpoint in OPEN:
            continue
        for each in {method, "OPTIONS", *(["HEAD"] if method == "GET" else [])}:
            answer = client.open(path, method=each)
            allowed = (401,) if path.startswith(("/api/", "/dicom-web/", "/metrics")) else (302,)
            assert answer.status_code in allowed, (each, path)
            assert SECRET not in answer.get_data(as_text=True), path
            if answer.status_code == 302:
                assert answer.headers["Location"].startswith("/login"), path
    assert box.store.change_mark() == before


def test_open_routes_tell_strangers_nothing(box: Guarded) -> None:
    client = box.client()
    for path in ("/login", "/enrol", "/healthz", "/kiosk", "/kiosk.json"):
        text = client.get(path, follow_redirects=False).get_data(as_text=True)
        for secret in (SECRET, "engineer", "Accounts</a>", "Quarantine</a>"):
            assert secret not in text, (path, secret)


@pytest.mark.parametrize("role", ROLES)
def test_each_role_gets_where_it_may_and_nowhere_else(role: str, tmp_path: Path) -> None:
    box = Guarded(tmp_path)
    client = box.client(role)
    for method, path, endpoint in routes(box.app):
        if endpoint in OPEN:
            continue
        right = rights.right_of(box.app, endpoint)
        answer = client.open(path, method=method)
        if path.startswith("/dicom-web/"):
            assert answer.status_code == 401, "systems have no session"
        elif right in RIGHTS[role]:  # type: ignore[index]
            assert answer.status_code not in (401, 403), (method, path, answer.get_data(as_text=True))
        else:
            assert answer.status_code == 403, (method, path)
            assert SECRET not in answer.get_data(as_text=True)


@pytest.mark.parametrize("scope", sorted(ALL_RIGHTS - {"open"}))
def test_a_token_gets_where_its_scope_reaches_and_nowhere_else(scope: str, box: Guarded) -> None:
    client, headers = browser(box.app), box.token(scope)
    del client.environ_base["HTTP_ORIGIN"]  # a system, not a browser
    for method, path, endpoint in routes(box.app):
        if endpoint in OPEN or path.startswith(("/accounts", "/tokens")):
            continue
        answer = client.open(path, method=method, headers=headers)
        if not path.startswith(("/api/", "/dicom-web/", "/metrics")):
            assert answer.status_code in (302, 403), (method, path)
        elif rights.right_of(box.app, endpoint) == scope:
            assert answer.status_code not in (401, 403), (method, path)
        else:
            assert answer.status_code == 403, (method, path)


def test_a_wrong_token_is_not_let_in_by_the_cookie_beside_it(box: Guarded) -> None:
    client = box.client("administrator")
    assert client.get("/api/v1/studies").status_code == 200
    answer = client.get("/api/v1/studies", headers={"Authorization": "Bearer scanside_wrong"})
    assert answer.status_code == 401
    assert answer.get_json()["status"] == 401


def test_refusals_are_words_for_people_and_json_for_systems(box: Guarded) -> None:
    page = box.client("viewer").post("/quarantine/2/retry")
    assert page.status_code == 403
    assert "viewer may not do this: it needs the right to operate." in page.get_data(as_text=True)
    system = box.client().get("/api/v1/studies")
    assert system.mimetype == "application/problem+json"
    assert "Bearer" in system.get_json()["detail"]
    stow = browser(box.app).post("/dicom-web/studies", headers=box.token("see"))
    assert (stow.status_code, stow.mimetype) == (403, "text/plain")


def test_buttons_are_there_for_those_who_may_press_them(tmp_path: Path) -> None:
    box, seen = Guarded(tmp_path), {}
    for role in ROLES:
        client = box.client(role)
        text = "".join(
            client.get(path).get_data(as_text=True) for path in ("/", "/quarantine", "/study/1", "/deliveries")
        )
        seen[role] = {
            what
            for what in ("Read again", "Mark as reviewed", ">Upload</a>", ">Accounts</a>", 'href="/quarantine/2.dcm"')
            if what in text
        }
    assert seen["viewer"] == set()
    assert seen["clinician"] == {"Mark as reviewed"}
    assert seen["engineer"] == {"Read again", ">Upload</a>", 'href="/quarantine/2.dcm"'}
    assert seen["administrator"] == seen["clinician"] | seen["engineer"] | {">Accounts</a>"}


# --- while there is no account -------------------------------------------------------------------------------------


def test_on_loopback_a_page_without_accounts_is_open_until_the_first_one(tmp_path: Path) -> None:
    box = Guarded(tmp_path, claimed=False)
    client, other = box.client(), box.client()
    for path in ("/", "/study/1", "/accounts", "/account", "/api/v1/studies"):
        assert client.get(path).status_code == 200, path
    assert client.get("/enrol").status_code == 200
    made = client.post("/accounts", data={"username": "anna", "role": "viewer", "password": PASSWORD})
    assert made.headers["Location"] == "/accounts"
    assert client.get("/accounts").status_code == 200, "whoever made it goes on with it, an administrator"
    assert client.post("/accounts", data={"username": "eve", "password": PASSWORD}).status_code == 409
    assert other.get("/").headers["Location"] == "/login"


def test_on_another_address_a_page_without_accounts_serves_nothing_but_the_enrolment(tmp_path: Path) -> None:
    box = Guarded(tmp_path, claimed=False, host="0.0.0.0", kiosk="open")
    client = box.client()
    for method, path, endpoint in routes(box.app):
        if endpoint.startswith(("static", "views.healthz", "people.enrol", "people.logout", "branding.")):
            continue
        answer = client.open(path, method=method)
        assert answer.status_code in (302, 401), (method, path)
        assert SECRET not in answer.get_data(as_text=True)
    assert client.get("/").headers["Location"] == "/enrol"
    form = {"username": "eve", "password": PASSWORD, "again": PASSWORD, "code": "AAAA-AAAA-AAAA-AAAA"}
    assert client.post("/enrol", data=form).status_code == 400
    code = Accounts(box.config.ledger_path).new_code()
    assert client.post("/enrol", data={**form, "code": code, "again": "x"}).status_code == 400
    assert client.post("/enrol", data={**form, "code": code}).headers["Location"] == "/accounts"
    assert client.get("/enrol").headers["Location"] == "/"
    assert browser(box.app).post("/enrol", data={**form, "code": code}).status_code == 400
    invited = client.post("/invitations", data={"username": "bob", "role": "viewer"}).get_data(as_text=True)
    code = invited.split('class="secret">')[1].split("<")[0]
    bob = {"username": "bob", "password": PASSWORD, "again": PASSWORD, "code": code}
    late = browser(box.app)
    assert late.post("/enrol", data={**bob, "username": "joe"}).status_code == 400, "the code is for bob"
    assert late.post("/enrol", data=bob).headers["Location"] == "/"
    assert late.get("/accounts").status_code == 403, "a viewer"
    assert browser(box.app).post("/enrol", data=bob).status_code == 400, "it was used"


def test_other_processes_accounts_close_the_page_at_once(tmp_path: Path) -> None:
    box = Guarded(tmp_path, claimed=False)
    client = box.client()
    assert client.get("/").status_code == 200
    Accounts(box.config.ledger_path).add("anna", "administrator", PASSWORD)
    assert client.get("/").status_code == 302


# --- the wall screen -----------------------------------------------------------------------------------------------


def test_the_wall_screen_shows_figures_and_no_patient_to_whom_it_may(tmp_path: Path) -> None:
    logged_in = Guarded(tmp_path / "a")
    text = logged_in.client("viewer").get("/kiosk").get_data(as_text=True)
    figures = logged_in.client("viewer").get("/kiosk.json").get_json()
    assert SECRET not in text + str(figures)
    assert (figures["trouble"], figures["first"], figures["alarms"]) == (1, 0, ["The appliance is not running"])
    assert logged_in.client().get("/kiosk").headers["Location"] == "/login?next=/kiosk"
    assert logged_in.client().get("/kiosk.json").status_code == 401
    everybody = Guarded(tmp_path / "b", kiosk="open")
    assert everybody.client().get("/kiosk").status_code == 200
    assert everybody.client().get("/").status_code == 302
    nobody = Guarded(tmp_path / "c", kiosk="off")
    assert nobody.client("administrator").get("/kiosk").status_code == 404
