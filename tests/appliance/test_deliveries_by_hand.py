"""What is undelivered, on the command line and on the page, and what sends it again."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from flask.testing import FlaskClient

from appliance.cli import main
from appliance.config import Config, Destination
from appliance.health import health
from appliance.web.app import create_app
from tests.outgoing import Results, local


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


def test_a_destination_is_shown_before_anything_was_sent_with_what_it_will_get(tmp_path: Path) -> None:
    config = Config(data_dir=str(tmp_path), destinations=(local("pacs", 104), Destination(name="x", path="out")))
    page = create_app(config).test_client().get("/deliveries").text
    assert page.count("Nothing was sent yet.") == 2
    assert "PEER@127.0.0.1:104" in page
    assert "<dd>out</dd>" in page
    assert "Structured report, Secondary capture, Segmentation</dd>" in page, "what is made, and no more"
