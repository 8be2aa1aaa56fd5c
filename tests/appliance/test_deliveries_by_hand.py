"""What is undelivered, on the command line and on the page, and what sends it again."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from flask.testing import FlaskClient

from appliance.cli import main
from appliance.config import Config, Destination
from appliance.health import health
from appliance.web.app import create_app
from tests.hl7_peer import hl7_receiver
from tests.outgoing import Results, local
from tests.peers import wait_until


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """Two results: of one both deliveries are set aside, of the other one has failed."""
    found = Results(tmp_path, (local("pacs", 104), local("archive", 105)), 2)
    found.store.lane_failed("archive", "ARCHIVE@192.0.2.1:105 can't be reached", time.time() + 3600)
    for name in ("pacs", "archive"):
        first, _ = found.store.due(name)
        found.store.retry([first["id"]], f"{name} refused it", 0.0)
    found.store._connection().execute("UPDATE outbox SET queued_at = 1000 WHERE object_id = 1")
    for name in ("pacs", "archive"):
        assert found.store.give_up(name, 2000.0, "") == 1
    (tmp_path / "scanside.toml").write_text(
        "".join(
            f'[[destinations]]\nname = "{each.name}"\nae_title = "PEER"\nhost = "127.0.0.1"\nport = {each.port}\n'
            for each in found.config.destinations
        )
    )
    return found


def scanside(results: Results, *arguments: str) -> tuple[int, str]:
    folder = results.config.data
    where = ["--config", str(folder / "scanside.toml"), "--data", str(folder)]
    done = CliRunner().invoke(main, [*arguments, *where])
    return done.exit_code, done.output


def test_the_command_line_lists_and_sends_again(results: Results) -> None:
    code, output = scanside(results, "deliveries", "list", "--json")
    rows: list[dict[str, Any]] = json.loads(output)
    assert code == 0
    assert [(row["image"], row["destination"], row["reason"]) for row in rows] == [
        (1, "pacs", "pacs refused it"),
        (1, "archive", "archive refused it"),
    ]
    assert "pacs refused it" in scanside(results, "deliveries", "list")[1]
    assert scanside(results, "deliveries", "retry")[0] == 1
    code, output = scanside(results, "deliveries", "retry", "999", str(rows[0]["delivery"]))
    assert (code, "only 1 of these 2" in output) == (1, True)
    code, output = scanside(results, "deliveries", "retry", "--to", "archive")
    assert (code, output) == (0, "1 results are sent again\n")
    lane = results.store.lane("archive")
    assert lane is not None
    assert lane["next_probe_at"] <= time.time()  # it is tried now
    assert scanside(results, "deliveries", "list")[1] == "Nothing is undelivered.\n"
    assert "no destination 'rack'" in scanside(results, "deliveries", "send-again", "rack", "--since", "2026-01-01")[1]
    (item, *_) = results.store.due("pacs")
    results.store.sent(item["id"])
    code, output = scanside(results, "deliveries", "send-again", "pacs", "--since", "2026-01-01")
    assert (code, output) == (0, "1 results are sent to pacs again\n")


def test_the_status_says_what_waits_and_why(results: Results) -> None:
    found = {row["destination"]: row for row in health(results.config, results.store)["destinations"]}
    assert (found["pacs"]["waiting"], found["pacs"]["undelivered"], found["pacs"]["failing_since"]) == (1, 1, None)
    assert (found["archive"]["failures"], "can't be reached" in found["archive"]["last_error"]) == (1, True)
    output = scanside(results, "status")[1]
    assert "pacs: 0 delivered, 1 waiting, 1 UNDELIVERED" in output
    assert "ARCHIVE@192.0.2.1:105 can't be reached" in output


OURS = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def page(results: Results) -> FlaskClient:
    results.config.results_path.mkdir(exist_ok=True)
    return create_app(results.config).test_client()


def test_the_page_alarms_and_sends_again(results: Results, page: FlaskClient) -> None:
    for path in ("/", "/deliveries"):
        assert "2 results were not delivered" in page.get(path).get_data(as_text=True), path
    assert page.get("/device").get_data(as_text=True).count("1 result was not delivered to ") == 2
    html = page.get("/deliveries").get_data(as_text=True)
    assert "archive refused it" in html
    assert "can&#39;t be reached" in html
    assert "<b>undelivered</b>" in page.get("/study/1").get_data(as_text=True)
    (number, _) = (row["id"] for row in results.store.undelivered())
    assert page.post(f"/deliveries/{number}/retry", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert results.store.undelivered_count() == 2
    assert page.post(f"/deliveries/{number}/retry", headers=OURS).status_code == 302
    assert results.store.undelivered_count() == 1
    assert page.post("/deliveries/retry", headers=OURS).status_code == 302
    assert results.store.undelivered_count() == 0
    assert "not delivered" not in page.get("/").get_data(as_text=True)


def test_a_destination_that_refuses_everything_is_an_alarm_and_does_not_work(tmp_path: Path) -> None:
    """Until it takes something that is newer; what it took before is no sign."""
    found = Results(tmp_path, (local("pacs", 104),), 3)
    found.config.results_path.mkdir(exist_ok=True)
    page = create_app(found.config).test_client()
    before, refused, newer = found.store.due("pacs")
    found.store.sent(before["id"])
    found.store._connection().execute("UPDATE outbox SET queued_at = ? WHERE id = ?", (time.time(), refused["id"]))
    for tries in range(1, 4):
        assert '<span class="state good">works</span>' in page.get("/deliveries").text, tries
        found.store.retry([refused["id"]], "the peer answered Failure 0xC000", time.time() + 60)
    html = page.get("/deliveries").text
    assert ("takes nothing</span> since" in html, '<span class="state good">works</span>' in html) == (True, False)
    assert "0xC000" in html
    device = page.get("/device").text
    assert "pacs takes nothing since" in device
    assert "pacs answers, and refuses each of them." in device
    assert "pacs nimmt nichts an" in page.get("/kiosk", headers={"Accept-Language": "de"}).text
    seconds = page.get("/metrics").text.partition('scanside_destination_failing_seconds{destination="pacs"} ')[2]
    assert float(seconds.split()[0]) > 0
    found.store.sent(newer["id"])
    assert '<span class="state good">works</span>' in page.get("/deliveries").text
    assert "pacs takes nothing" not in page.get("/device").text


def test_a_destination_is_shown_before_anything_was_sent_with_what_it_will_get(tmp_path: Path) -> None:
    config = Config(data_dir=str(tmp_path), destinations=(local("pacs", 104), Destination(name="x", path="out")))
    page = create_app(config).test_client().get("/deliveries").text
    assert page.count("Nothing was sent yet.") == 2
    assert "PEER@127.0.0.1:104" in page
    assert "<dd>out</dd>" in page
    assert "Structured report, Secondary capture, Segmentation</dd>" in page, "what is made, and no more"


def test_what_waits_for_a_destination_that_is_gone_is_alarmed_set_aside_and_moved(tmp_path: Path) -> None:
    found = Results(tmp_path, (local("old", 104),), 3)
    renamed = [local("new", 105)]
    found.config = msgspec.structs.replace(found.config, destinations=tuple(renamed))
    found.config.results_path.mkdir(exist_ok=True)
    (tmp_path / "scanside.toml").write_text(
        '[[destinations]]\nname = "new"\nae_title = "PEER"\nhost = "127.0.0.1"\nport = 105\n'
    )
    first, second, _ = found.store.due("old")
    found.store.sent(first["id"], to_commit=True)
    found.store.lane_failed("old", "OLD can't be reached", 0.0)
    page = create_app(found.config).test_client()
    for path in ("/device", "/deliveries"):
        html = page.get(path).get_data(as_text=True)
        assert "3 results wait for old, which is not configured." in html, path
        assert "deliveries move old NAME" in html, path
        assert "Test the connection to" not in html, path
        assert "Next try" not in html, path
    assert "3 results wait for old, which is NOT CONFIGURED" in scanside(found, "status")[1]

    found.store._connection().execute("UPDATE outbox SET queued_at = 1000 WHERE id = ?", (second["id"],))
    with found.delivering():
        wait_until(lambda: found.destination("old")["undelivered"] == 1, "the oldest is set aside")
    assert found.store.undelivered()[0]["last_error"] == "it is not configured"
    html = page.get("/device").get_data(as_text=True)
    assert "1 result was not delivered to old" in html
    assert "Test the connection to" not in html

    assert "no destination 'newer'" in scanside(found, "deliveries", "move", "old", "newer")[1]
    assert "'new' is configured" in scanside(found, "deliveries", "move", "new", "new")[1]
    code, output = scanside(found, "deliveries", "move", "old", "new")
    assert (code, output) == (0, "3 results go to new instead of old\n")
    assert [found.destination("old")[key] for key in ("waiting", "to_commit", "sent", "undelivered")] == [0, 0, 0, 0]
    assert [row["object_id"] for row in found.store.due("new")] == [1, 2, 3]
    assert "structured_report goes to new instead of old, by hand" in found.store.events(1)[-1]["detail"]
    assert "not configured" not in page.get("/device").get_data(as_text=True)
    assert scanside(found, "deliveries", "move", "old", "new")[1] == "0 results go to new instead of old\n"


def test_what_the_new_destination_has_is_not_moved_twice(tmp_path: Path) -> None:
    found = Results(tmp_path, (local("old", 104), local("new", 105)), 1)
    (item,) = found.store.due("new")
    found.store.sent(item["id"])
    assert found.states() == {"written"}
    assert found.store.move("old", "new", carries=lambda _: True) == (1, [])
    assert found.states() == {"delivered"}
    assert found.destination("new")["sent"] == 1


def test_what_the_new_destination_s_protocol_does_not_carry_stays(tmp_path: Path) -> None:
    found = Results(tmp_path, (local("old", 104),), 2)
    with found.store._transaction() as connection:
        connection.execute("UPDATE object SET kind = 'hl7_oru' WHERE id = 1")
    (tmp_path / "scanside.toml").write_text(
        '[results]\nmessages = ["hl7_oru"]\n[[destinations]]\nname = "ris"\nprotocol = "mllp"\nhost = "127.0.0.1"\n'
        "port = 2575\n"
    )
    code, output = scanside(found, "deliveries", "move", "old", "ris")
    assert code == 1
    assert output.startswith(
        "1 results go to ris instead of old\nscanside: 1 stay: protocol = 'mllp' carries no struct"
    )
    assert [row["kind"] for row in found.store.due("ris")] == ["hl7_oru"]
    assert [row["kind"] for row in found.store.due("old")] == ["structured_report"]


def test_a_destination_whose_protocol_has_changed_is_sent_no_object_as_a_message(tmp_path: Path) -> None:
    with hl7_receiver() as receiver:
        now = Destination(name="ris", protocol="mllp", host="127.0.0.1", port=receiver.port, send=("hl7_oru",))
        found = Results(tmp_path, (local("ris", 104),), 2)
        message = b"MSH|^~\\&|A||||20260102||ORU^R01^ORU_R01|abc|P|2.5.1\r"
        (found.folder / "1.dcm").write_bytes(message)
        with found.store._transaction() as connection:
            connection.execute("UPDATE object SET kind = 'hl7_oru' WHERE id = 2")
        found.config = msgspec.structs.replace(found.config, destinations=(now,))
        with found.delivering():
            wait_until(lambda: found.store.deliveries(2)[0]["state"] == "sent", "the message is sent")
            error = wait_until(lambda: found.store.deliveries(1)[0]["last_error"], "the object is not")
    assert error == "ris has protocol = 'mllp', which carries no structured_report"
    assert found.store.lane("ris") is None
    assert len(receiver.received) == 1
