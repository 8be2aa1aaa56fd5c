"""Safe mode, performance and assessments through the JSON API: what it tells, what it does, and for whom."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from flask.testing import FlaskClient

from appliance.audit import decode
from appliance.audit_store import AuditStore
from appliance.config import Config
from appliance.drift.store import DriftStore
from appliance.drift.streams import MOST_BINS, STREAMS
from appliance.safe_mode_store import SafeModeStore
from appliance.tokens import Tokens
from appliance.truth_store import Diagnosis
from appliance.web.app import create_app
from tests.appliance.conftest import account
from tests.appliance.test_performance import Site
from tests.appliance.test_safe_mode import open_ticket, raise_alarm, safe_mode


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(tmp_path)
    for number in range(1, 41):
        site.add(number, 0.9 if number % 2 else 0.1)
        site.say(Diagnosis(f"1.2.{number}", "", "Pneumonia", number % 4 != 0))
    return site


@pytest.fixture
def client(site: Site) -> FlaskClient:
    """As a system is: it says nothing of a page that it comes from."""
    return create_app(site.config).test_client()


def actions(config: Config) -> list[tuple[str, str, str]]:
    """Action, person and target of each record of the audit trail."""
    store = AuditStore(config.audit_path, read_only=True)
    return [(each.action, each.person, each.target) for each in (decode(row["content"]) for row in store.records(0))]


def test_safe_mode_is_told_entered_and_left_with_a_reason(site: Site, client: FlaskClient) -> None:
    raise_alarm(site.config, "drift_validated")
    safe_mode(site.config).look()
    told = client.get("/api/v1/safe-mode").get_json()
    assert [(each["kind"], each["level"], each["source"]) for each in told["in_force"]] == [
        ("drift_validated", "review", 1)
    ]
    assert told["policy"]["performance below its floor"] == "review"
    asked = {"level": "withheld", "why": "a new detector", "by": "Jo"}
    entered = client.post("/api/v1/safe-mode/enter", json=asked)
    assert entered.status_code == 201
    assert (entered.get_json()["entered_by"], entered.get_json()["why"]) == ("Jo", "a new detector")
    number = entered.get_json()["number"]
    assert client.get("/api/v1/safe-mode").get_json()["in_force"][0]["number"] == number
    left = client.post(f"/api/v1/safe-mode/{number}/leave", json={"why": "calibrated", "by": "Jo"})
    assert left.get_json()["left_why"] == "calibrated"
    again = client.post(f"/api/v1/safe-mode/{number}/leave", json={"why": "calibrated", "by": "Jo"})
    assert again.status_code == 409
    assert "not in force" in again.get_json()["detail"]
    assert client.post("/api/v1/safe-mode/99/leave", json={"why": "x", "by": "Jo"}).status_code == 404
    assert client.post("/api/v1/safe-mode/enter", json={"level": "banner", "why": " ", "by": "Jo"}).status_code == 409
    assert client.post("/api/v1/safe-mode/enter", json={"level": "banner", "why": "x"}).status_code == 409
    assert client.post("/api/v1/safe-mode/enter", json={"level": "none", "why": "x", "by": "Jo"}).status_code == 400


def test_performance_has_its_figures_and_what_is_left_out(site: Site, client: FlaskClient) -> None:
    site.say(Diagnosis("1.2.999", "", "Pneumonia", True))
    open_ticket(site.config)
    told = client.get("/api/v1/performance").get_json()
    (model,) = told["models"]
    assert (told["cases"], told["left_out"]["unmatched"], told["old"]) == (40, 1, False)
    assert (model["package"], model["finding"], model["figures"]["n"]) == ("chest 1.0", "Pneumonia", 40)
    assert model["figures"]["sensitivity"]["n"] == 30
    assert model["figures"]["sensitivity"]["value"] == pytest.approx(2 / 3)
    assert model["floors"]["sensitivity"]["floor"] == site.config.performance.sensitivity_floor
    assert model["groups"]["sex"]["female"]["n"] == 40
    assert [(each["measure"], each["closed_at"]) for each in told["tickets"]] == [("sensitivity", None)]


def test_nothing_is_known_yet(tmp_path: Path) -> None:
    told = create_app(Site(tmp_path).config).test_client().get("/api/v1/performance").get_json()
    assert (told["cases"], told["models"], told["latest"], told["old"]) == (0, [], None, False)


def test_assessments_are_added_superseded_and_listed_page_by_page(site: Site, client: FlaskClient) -> None:
    path, disagree = "/api/v1/studies/1/assessments", {"verdict": "disagree", "reason": "not_there"}
    for number, said in enumerate(({"verdict": "agree"}, {**disagree, "comment": "see 1.2.840.113619.2.55.3"})):
        added = client.post(path, json={"subject": "finding", "label": "Pneumonia", **said})
        assert (added.status_code, added.get_json()["number"]) == (201, number + 1)
    client.post("/api/v1/studies/2/assessments", json={"subject": "finding", "label": "Pneumonia", "verdict": "agree"})
    first = client.get("/api/v1/assessments?limit=2").get_json()
    assert [each["study"] for each in first["assessments"]] == [2, 1]
    second = client.get(f"/api/v1/assessments?limit=2&before={first['next']}").get_json()
    assert [(each["verdict"], each["superseded_by"]) for each in second["assessments"]] == [("agree", 2)]
    of_one = client.get("/api/v1/assessments?study=1").get_json()
    assert [each["number"] for each in of_one["assessments"]] == [2, 1]
    assert of_one["assessments"][0]["comment"] == "see (UID)"
    for said, status in (
        ({"label": "Fracture", "verdict": "agree"}, 409),
        ({"label": "Pneumonia", "verdict": "agree", "reason": "not_there"}, 409),
        ({"label": "Pneumonia", "verdict": "maybe"}, 400),
    ):
        assert client.post(path, json={"subject": "finding", **said}).status_code == status
    assert client.post("/api/v1/studies/99/assessments", json={}).status_code in (400, 404)


def test_drift_is_told_and_an_alarm_acknowledged_with_a_reason(site: Site, client: FlaskClient) -> None:
    assert client.get("/api/v1/drift").status_code == 404
    store = DriftStore(site.config.ledger_path)
    store.add_package("ab" * 32, "chest 1.0", np.ones((len(STREAMS), MOST_BINS), np.int64), 7)
    store.begin_monitor("ab" * 32, "validated", None)
    store.count("clock went back")
    number = raise_alarm(site.config, "drift_site")
    told = client.get("/api/v1/drift").get_json()
    (alarm,) = told["alarms"]
    assert (told["package"], told["studies"], told["counted"]) == ("chest 1.0", 0, {"clock went back": 1})
    assert [(each["against"], each["watching"]) for each in told["watches"]] == [("validated", False), ("site", False)]
    assert (alarm["number"], alarm["against"], alarm["kind"], alarm["acknowledged_at"]) == (
        number, "site", "alarm", None,
    )  # fmt: skip
    assert alarm["words"] == alarm["moved"][0]["words"]
    path = f"/api/v1/drift/alarms/{number}/acknowledge"
    for asked, status in (
        ({"why": " ", "by": "Jo"}, 409),
        ({"why": "x"}, 409),
        ({"why": "x", "by": "Jo", "outcome": "forget"}, 400),
        ({"why": "new tube", "by": "Jo", "outcome": "rest"}, 200),
        ({"why": "new tube", "by": "Jo"}, 409),
    ):
        answer = client.post(path, json=asked)
        assert answer.status_code == status, answer.get_data(as_text=True)
        if status == 200:
            said = answer.get_json()
            assert (said["acknowledged_by"], said["acknowledged_why"], said["outcome"]) == ("Jo", "new tube", "rest")
    assert client.post("/api/v1/drift/alarms/99/acknowledge", json={"why": "x", "by": "Jo"}).status_code == 404
    path = "/api/v1/drift/watches/validated/resume"
    assert client.post(path, json={}).status_code == 409
    watch = client.post(path, json={"by": "Jo"}).get_json()
    assert (watch["against"], watch["watching"], watch["why"]) == ("validated", True, None)
    assert client.post(path, json={"by": "Jo"}).status_code == 409
    assert client.post("/api/v1/drift/watches/elsewhere/resume", json={"by": "Jo"}).status_code == 404


@pytest.mark.parametrize(
    ("scope", "sees", "operates", "assesses"), [("see", 200, 403, 403), ("operate", 403, 201, 403),
                                                ("assess", 403, 403, 201)],
)  # fmt: skip
def test_a_token_may_do_what_its_scope_says_and_the_trail_names_it(
    scope: str, sees: int, operates: int, assesses: int, site: Site
) -> None:
    account(site.config.ledger_path, anna="administrator")
    secret = Tokens(site.config.ledger_path).add("ris", (scope,), None, "anna")
    client = create_app(site.config).test_client()
    said = {"headers": {"Authorization": f"Bearer {secret}"}}
    for path in ("safe-mode", "performance", "assessments"):
        assert client.get(f"/api/v1/{path}", **said).status_code == sees  # type: ignore[arg-type]
    watched = client.get("/api/v1/drift", **said).status_code  # type: ignore[arg-type]
    assert watched == (404 if sees == 200 else sees)  # nothing is watched there
    entering = {"level": "banner", "why": "x", "by": "somebody else"}
    assessing = {"subject": "finding", "label": "Pneumonia", "verdict": "agree"}
    assert client.post("/api/v1/safe-mode/enter", json=entering, **said).status_code == operates  # type: ignore[arg-type]
    added = client.post("/api/v1/studies/1/assessments", json=assessing, **said)  # type: ignore[arg-type]
    assert added.status_code == assesses
    found = actions(site.config)
    if operates == 201:
        (entry,) = SafeModeStore(site.config.ledger_path).in_force()
        assert entry.entered_by == "ris"
        assert ("safe mode entered", "ris", "safe mode 1") in found
    if assesses == 201:
        assert added.get_json()["person"] == "ris"
        assert any(action.startswith("POST ") and target == "image 1" for action, _, target in found)
    assert ("POST /api/v1/safe-mode/enter", "ris", "") in found
