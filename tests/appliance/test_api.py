"""The JSON API against its own document, and what it tells and hides."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import ignored_auth

from appliance import recount
from appliance.assessment_store import Assessments
from appliance.custody import Custody
from appliance.history import Period
from appliance.history_store import HistoryStore
from appliance.web.app import create_app
from tests.appliance.test_safe_mode import open_ticket, raise_alarm, safe_mode
from tests.appliance.test_web import Box, quarantined
from tests.running import CHECKOUT

DOCUMENT = CHECKOUT / "docs" / "openapi.json"
NAME, IDENTITY = "SECRETNAME^JANE", "SECRET-ID-1"


def filled(folder: Path, **web: Any) -> Box:
    """Of everything that the API tells of, some."""
    box = Box(folder, **web)
    for number in range(1, 8):
        box.add(number, 0.9 if number % 2 else 0.1, patient_name=NAME, patient_id=IDENTITY, study_instance_uid="1.2.9")
    box.add(8, reason="Its UID is 1.2.840.113619.2.55.3.", patient_name=NAME, patient_id=IDENTITY)
    quarantined(box, 9)
    box.add_slice(10, "t")
    custody = Custody(box.config.ledger_path)
    recount.keep(custody, recount.recount(box.config, custody, full=True))
    custody.close()
    kept = HistoryStore(box.config.ledger_path)
    kept.count(Period(minutes=1), 1e9)
    kept.close()
    Assessments(box.config.ledger_path).assess(3, "finding", "Pneumonia", "agree")
    open_ticket(box.config)
    raise_alarm(box.config, "drift_validated")
    mode = safe_mode(box.config)
    mode.look()
    mode.close()
    box.store.add_receipt("0123456789abcdef", '{"backend": "onnxruntime", "package_sha256": "ab"}', "00")
    trial = {
        "package": "chest-pneumonia 1.0.0", "backend": "onnxruntime", "reason": "", "seconds": 0.01, "serves": True,
        "receipt": "0123456789abcdef", "progress": None, "min_dice": None,
    }  # fmt: skip
    box.store.set_component("worker", {"state": "ready", "trials": [trial]})
    return box


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return filled(tmp_path, embed_origins=("https://viewer.example",))


@pytest.fixture
def client(box: Box) -> FlaskClient:
    """As a system is: it says nothing of a page that it comes from."""
    return create_app(box.config).test_client()


# --- against the document -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Any:
    box = filled(tmp_path_factory.mktemp("api"), embed_origins=("https://viewer.example",))
    # A body that is too large is refused before anybody looks whether it is as the document says.
    refusals = {"expected-statuses": ["400", "401", "403", "404", "405", "406", "409", "413", "415", "422", "428"]}
    config = schemathesis.Config.from_dict({"checks": {"negative_data_rejection": refusals}})
    return schemathesis.openapi.from_wsgi("/api/v1/openapi.json", create_app(box.config), config=config)


# Without a login there is nothing to leave out.
_NOT_ASKED = [ignored_auth]
_CALM = [HealthCheck.filter_too_much, HealthCheck.too_slow, HealthCheck.data_too_large]


def exercise(api: Any, examples: int) -> int:
    """Ask every operation for what the document allows and what it doesn't; how many there are."""
    count = 0
    for each in api.get_all_operations():
        operation = each.ok()
        count += 1
        for mode in GenerationMode:
            if mode is GenerationMode.NEGATIVE and not (operation.query or operation.path_parameters or operation.body):
                continue

            @settings(max_examples=examples, deadline=None, suppress_health_check=_CALM, database=None)
            @given(operation.as_strategy(generation_mode=mode))
            def ask(case: Any) -> None:
                case.call_and_validate(excluded_checks=_NOT_ASKED)

            ask()
    return count


def test_every_answer_is_as_the_document_says(api: Any) -> None:
    assert exercise(api, 15) >= 18


@pytest.mark.slow
def test_every_answer_is_as_the_document_says_for_long(api: Any) -> None:
    exercise(api, 1000)


def test_the_document_in_the_docs_is_that_of_the_code(client: FlaskClient) -> None:
    served = client.get("/api/v1/openapi.json").get_json()
    assert json.loads(DOCUMENT.read_text()) == served, "run: python -m appliance openapi --to docs/openapi.json"


def test_every_operation_names_its_right_and_every_type_is_said(client: FlaskClient) -> None:
    served = client.get("/api/v1/openapi.json").get_json()
    operations = [each for path in served["paths"].values() for each in path.values()]
    assert len(operations) >= 18
    assert {each["x-right"] for each in operations} == {"see", "assess", "operate"}
    assert len({each["operationId"] for each in operations}) == len(operations)
    said = json.dumps(served)
    assert set(re.findall(r"#/components/schemas/(\w+)", said)) <= set(served["components"]["schemas"])


# --- what it tells --------------------------------------------------------------------------------------------------


def test_studies_come_page_by_page_and_each_once(client: FlaskClient) -> None:
    seen, before = [], None
    while True:
        answer = client.get("/api/v1/studies", query_string={"limit": 3, **({"before": before} if before else {})})
        page = answer.get_json()
        seen += [each["number"] for each in page["studies"]]
        before = page["next"]
        if before is None:
            break
    assert seen == list(range(10, 0, -1))


def test_a_state_and_a_uid_find_what_is_in_it(client: FlaskClient) -> None:
    def numbers(**query: str) -> list[int]:
        return [each["number"] for each in client.get("/api/v1/studies", query_string=query).get_json()["studies"]]

    assert numbers(state="rejected") == [8]
    assert numbers(state="failed") == []
    assert numbers(sop_instance_uid="1.2.3.4") == [4]
    assert numbers(study_instance_uid="1.2.9") == [7, 6, 5, 4, 3, 2, 1]
    assert numbers(study_instance_uid="1.2.9", state="rejected") == []


def test_a_study_has_its_result_objects_and_events(client: FlaskClient) -> None:
    found = client.get("/api/v1/studies/1").get_json()
    assert found["study"]["result"]["findings"][0]["probability"] == 0.9
    assert [each["kind"] for each in found["objects"]] == ["structured_report"]
    assert [each["what"] for each in found["events"]] == ["received", "queued", "claimed", "delivered"]


@pytest.mark.parametrize("shown", [False, True])
def test_patients_and_their_uids_are_told_only_where_the_page_shows_them(shown: bool, tmp_path: Path) -> None:
    client = create_app(filled(tmp_path, show_patient=shown).config).test_client()
    said = "".join(
        client.get(f"/api/v1/{path}").get_data(as_text=True)
        for path in ("studies", "studies/1", "studies/8", "quarantine", "deliveries", "status", "history", "receipts")
    )
    for secret in ("SECRETNAME", IDENTITY, "1.2.3.4", "1.2.840.113619.2.55.3", "SCANNER at 127.0.0.1"):
        assert (secret in said) == shown, secret
    assert "<b>" not in said


def test_the_status_says_what_is_wrong_and_what_to_do(client: FlaskClient) -> None:
    found = client.get("/api/v1/status").get_json()
    names = [each["name"] for each in found["problems"]]
    assert names[0] == "not_running"
    assert {"recount", "quarantine"} <= set(names)
    assert all(each["mend"] for each in found["problems"])
    assert found["backends"][0]["serves"]
    assert found["counts"]["rejected"] == 1


# --- what it does ---------------------------------------------------------------------------------------------------


def test_an_image_is_read_again_and_marked_as_reviewed(client: FlaskClient, box: Box) -> None:
    (aside,) = client.get("/api/v1/quarantine").get_json()["studies"]
    number = aside["number"]
    assert client.post(f"/api/v1/quarantine/{number}/retry").get_json()["state"] == "received"
    again = client.post(f"/api/v1/quarantine/{number}/retry")
    assert again.status_code == 409
    assert again.content_type == "application/problem+json"
    assert "not turned away" in again.get_json()["detail"]
    assert client.post("/api/v1/studies/1/review").get_json()["reviewed_at"]
    assert client.post(f"/api/v1/studies/{number}/review").status_code == 409
    review, received = (
        "/api/v1/studies/review-rejected",
        client.get("/api/v1/studies/8").get_json()["study"]["received_at"],
    )
    assert client.post(review, json={"until": received - 1}).get_json() == {"count": 0}
    assert client.post(review, json={}).get_json() == {"count": 1}
    assert client.get("/api/v1/studies/8").get_json()["study"]["reviewed_at"]


def test_what_is_undelivered_is_sent_again(client: FlaskClient, box: Box) -> None:
    identifier = box.add(20, 0.9)
    with box.store._transaction() as connection:  # as a delivery that was given up leaves it
        (item,) = connection.execute("SELECT id FROM object WHERE instance_id = ?", (identifier,)).fetchone()
        for name in ("pacs", "ris"):
            connection.execute(
                "INSERT INTO outbox (object_id, destination, state, next_attempt_at, last_error) "
                "VALUES (?, ?, 'undelivered', 0, 'refused 1.2.840.113619.1')",
                (item, name),
            )
    found = client.get("/api/v1/deliveries").get_json()
    assert [each["destination"] for each in found["undelivered"]] == ["pacs", "ris"]
    assert found["undelivered"][0]["last_error"] == "refused (UID)"
    assert client.post("/api/v1/deliveries/send-again", json={"destination": "pacs"}).get_json() == {"count": 1}
    number = found["undelivered"][1]["number"]
    assert client.post("/api/v1/deliveries/send-again", json={"numbers": [number]}).get_json() == {"count": 1}
    assert client.post("/api/v1/deliveries/send-again", json={}).get_json() == {"count": 0}


@pytest.mark.parametrize(
    ("content", "status", "says"),
    [
        (b"{", 400, "no JSON"),
        (b'{"destinations": "x"}', 400, "unknown field"),
        (b'{"numbers": ["x"]}', 400, "Expected `int`"),
        (b'{"numbers": [0]}', 400, ">= 1"),
        (b"[]", 400, "Expected `object`"),
        (b"\xff", 400, "no JSON"),
        (b'{"destination": "' + b"x" * 70_000 + b'"}', 413, ""),
    ],
)
def test_bad_input_is_said(content: bytes, status: int, says: str, client: FlaskClient) -> None:
    answer = client.post("/api/v1/deliveries/send-again", data=content, content_type="application/json")
    assert answer.status_code == status
    assert answer.content_type == "application/problem+json"
    assert says in answer.get_json()["detail"]
    assert answer.get_json()["status"] == status


def test_what_is_not_there_and_other_media_are_problems_too(client: FlaskClient) -> None:
    for answer, status in (
        (client.get("/api/v1/nothing"), 404),
        (client.get("/api/v1/studies/99"), 404),
        (client.delete("/api/v1/studies"), 405),
        (client.get("/api/v1/studies?limit=0"), 400),
        (client.get("/api/v1/studies?limit=1&limit=2"), 400),
        (client.post("/api/v1/deliveries/send-again", data="x"), 415),
    ):
        assert answer.status_code == status
        assert answer.content_type == "application/problem+json"
        assert answer.get_json()["detail"]


def test_a_ledger_that_can_t_be_used_is_said(client: FlaskClient, box: Box) -> None:
    client.get("/api/v1/studies")
    box.config.ledger_path.rename(box.config.ledger_path.with_suffix(".away"))
    answer = client.get("/api/v1/studies")
    assert answer.status_code == 503
    assert "ledger" in answer.get_json()["detail"]
