"""What Prometheus reads, the dashboard and the alerts that use it."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from appliance.config import Config, Destination, StorageScp, Telemetry, Tls, Web
from appliance.history import Period
from appliance.history_store import HistoryStore
from appliance.tokens import Tokens
from appliance.truth_store import Diagnosis, TruthStore
from appliance.web.app import create_app
from tests.appliance.conftest import account
from tests.appliance.test_api import IDENTITY, filled
from tests.appliance.test_web import Box
from tests.certificates import Authority
from tests.peers import needs
from tests.running import CHECKOUT
from tests.watched import watched

DASHBOARD = CHECKOUT / "docs" / "grafana" / "scanside.json"
ALERTS = CHECKOUT / "docs" / "prometheus" / "scanside-alerts.yml"


def config_of(folder: Path) -> Config:
    """With all that there are metrics of."""
    authority = Authority(folder / "keys", "ca")
    certificate, key = authority.issue("scp")
    tls = Tls(key=str(key), certificate=str(certificate), ca=str(authority.ca))
    return Config(
        data_dir=str(folder),
        web=Web(),
        storage_scp=StorageScp(tls=tls),
        telemetry=Telemetry(least_patients=1),
        destinations=(Destination(name="pacs", ae_title="PACS", host="192.0.2.1", port=104),),
    )


@pytest.fixture
def box(tmp_path: Path) -> Box:
    box = filled(tmp_path)
    box.config = config_of(tmp_path)
    package = "ab" * 32
    serves = [{"package": "chest-pneumonia 1.0.0", "sha256": package}]
    box.store.set_component("inference", {"state": "ready", "serves": serves, "stops": {"onnxruntime": 2}})
    watched(box.config, 3, package, "chest-pneumonia 1.0.0")
    TruthStore(box.config.ledger_path).add("csv", "a test", [Diagnosis("1.2.9", "", "Pneumonia", True)], 0)
    return box


def scrape(box: Box) -> str:
    answer = create_app(box.config).test_client().get("/metrics")
    assert answer.status_code == 200
    return answer.get_data(as_text=True)


@pytest.mark.parametrize("path", ["README.md", "docs/people.md", "docs/monitoring.md"])
def test_a_token_made_as_the_documents_say_reads_the_metrics(path: str, box: Box) -> None:
    (scope,) = set(re.findall(r"tokens add prometheus --scope (\w+)", (CHECKOUT / path).read_text()))
    account(box.config.ledger_path, anna="administrator")
    secret = Tokens(box.config.ledger_path).add("prometheus", [scope], None, "test")
    client = create_app(box.config).test_client()
    assert client.get("/metrics", headers={"Authorization": f"Bearer {secret}"}).status_code == 200


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(text: str, name: str, **labels: str) -> float:
    return samples(text)[name, tuple(sorted(labels.items()))]


def test_what_happened_is_counted_as_of_this_moment_and_for_ever(box: Box) -> None:
    before = scrape(box)
    assert value(before, "scanside_instances_received_total", source="storage_scp") == 10
    assert value(before, "scanside_instances_ended_total", outcome="result") == 7
    assert value(before, "scanside_instances_ended_total", outcome="quarantined") == 1
    assert value(before, "scanside_turnaround_seconds_count", package="chest-pneumonia 1.0.0") == 7
    assert value(before, "scanside_reading_seconds_bucket", package="chest-pneumonia 1.0.0", le="0.1") == 7
    assert value(before, "scanside_reading_seconds_bucket", package="chest-pneumonia 1.0.0", le="0.05") == 0
    assert value(before, "scanside_reading_seconds_sum", package="chest-pneumonia 1.0.0") == pytest.approx(0.7)
    box.add(30, 0.9)
    after = scrape(box)
    assert value(after, "scanside_instances_ended_total", outcome="result") == 8
    kept = HistoryStore(box.config.ledger_path)
    kept.count(Period(minutes=1), 2e9)
    kept.close()
    assert value(scrape(box), "scanside_instances_ended_total", outcome="result") == 8


def test_backends_destinations_and_the_machine_are_there(box: Box) -> None:
    text = scrape(box)
    assert value(text, "scanside_backend_serves", backend="onnxruntime", package="chest-pneumonia 1.0.0") == 1
    assert value(text, "scanside_inference_restarts_total", backend="onnxruntime") == 2
    assert value(text, "scanside_delivery_objects", destination="pacs", state="waiting") == 0
    assert value(text, "scanside_destination_failing_seconds", destination="pacs") == 0
    assert value(text, "scanside_disk_free_bytes") > 0
    assert value(text, "scanside_up") == 0
    assert value(text, "scanside_problems", severity="alarm") >= 1
    assert value(text, "scanside_certificate_expires_timestamp_seconds") > 1.7e9


def test_there_is_no_patient_and_no_uid_in_it_and_it_does_not_grow(box: Box) -> None:
    text, count = scrape(box), len(samples(scrape(box)))
    for secret in (IDENTITY, "SECRETNAME", "1.2.3.4", "127.0.0.1", "SCANNER"):
        assert secret not in text
    for number in range(40, 60):
        box.add(number, 0.5, patient_name=f"OTHER^{number}", patient_id=f"O-{number}")
    assert len(samples(scrape(box))) == count


def test_openmetrics_where_it_is_asked_for(box: Box) -> None:
    client = create_app(box.config).test_client()
    answer = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.content_type.startswith("application/openmetrics-text")
    assert answer.get_data(as_text=True).endswith("# EOF\n")


def test_promtool_finds_nothing_wrong_with_the_metrics(box: Box) -> None:
    checked = subprocess.run(
        [needs("promtool"), "check", "metrics"], input=scrape(box), capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_promtool_takes_the_alerts_and_they_fire_when_they_should() -> None:
    for command in (["check", "rules", ALERTS.name], ["test", "rules", "scanside-alerts-test.yml"]):
        found = subprocess.run(
            [needs("promtool"), *command], cwd=ALERTS.parent, capture_output=True, text=True, check=False
        )
        assert found.returncode == 0, found.stdout + found.stderr


def expressions(content: Any) -> list[str]:
    if isinstance(content, dict):
        own = [content["expr"]] if isinstance(content.get("expr"), str) else []
        return own + [each for value in content.values() for each in expressions(value)]
    return [each for value in content for each in expressions(value)] if isinstance(content, list) else []


# Told only where the machine tells it.
_OF_THE_MACHINE = {
    "scanside_temperature_celsius", "scanside_throttling", "scanside_disk_days_left", "scanside_clock_synchronized",
}  # fmt: skip


def test_dashboard_and_alerts_ask_for_metrics_and_labels_that_there_are(box: Box) -> None:
    told: dict[str, set[str]] = {name: {"instance", "job"} for name in _OF_THE_MACHINE}
    for name, labels in samples(scrape(box)):
        told.setdefault(name, {"instance", "job"}).update(label for label, _ in labels)
    dashboard = expressions(json.loads(DASHBOARD.read_text()))
    alerts = re.findall(r"^\s+expr: (.*)$", ALERTS.read_text(), re.MULTILINE)
    assert (len(dashboard) >= 20, len(alerts) >= 10) == (True, True)
    for asked in dashboard + alerts:
        names = re.findall(r"\bscanside_\w+", asked)
        assert set(names) <= set(told), asked
        allowed = set().union(*(told[name] for name in names)) if names else {"job"}
        for group in re.findall(r"by \(([^)]*)\)", asked) + re.findall(r"{([^}]*)}", asked):
            labels = [each.split("=")[0].strip(" !~") for each in group.split(",")]
            assert set(labels) <= allowed, asked


def test_promtool_can_read_every_query_of_the_dashboard(tmp_path: Path) -> None:
    rules = [
        {"record": f"q:{number}", "expr": asked.replace("$__rate_interval", "5m").replace("$instance", ".*")}
        for number, asked in enumerate(expressions(json.loads(DASHBOARD.read_text())))
    ]
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    found = subprocess.run(
        [needs("promtool"), "check", "rules", str(path)], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr
