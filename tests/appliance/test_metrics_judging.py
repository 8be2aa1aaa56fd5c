"""What Prometheus reads of drift, safe mode and performance."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from appliance.drift.streams import STREAMS
from appliance.package_store import Choice, PackageStore
from appliance.truth_store import Diagnosis
from appliance.web.app import create_app
from tests.appliance.test_metrics import samples, value
from tests.appliance.test_performance import SHA, Site
from tests.appliance.test_safe_mode import open_ticket, raise_alarm, safe_mode
from tests.watched import watched

NAME = "chest 1.0"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(tmp_path)
    serves = [{"package": NAME, "sha256": SHA, "backend": "fake", "pid": 1, "batch": 1}]
    site.store.set_component("inference", {"state": "ready", "serves": serves, "stops": {}})
    return site


def scrape(site: Site) -> str:
    answer = create_app(site.config).test_client().get("/metrics")
    assert answer.status_code == 200
    return answer.get_data(as_text=True)


def test_drift_is_told_by_package_reference_and_stream(site: Site) -> None:
    monitor = watched(site.config, 12, SHA, NAME)
    raise_alarm(site.config, "drift_validated", SHA)
    text = scrape(site)
    assert value(text, "scanside_drift_studies_total", package=NAME) == 12
    assert value(text, "scanside_drift_watches", package=NAME, against="validated") == 1
    assert value(text, "scanside_drift_watches", package=NAME, against="site") == 0
    signals = monitor.signals()
    assert value(text, "scanside_drift_evidence", package=NAME, against="validated") == pytest.approx(signals.evidence)
    assert signals.evidence > value(text, "scanside_drift_evidence_limit") == pytest.approx(math.log(100))
    assert value(text, "scanside_drift_warning", package=NAME, against="validated") == pytest.approx(signals.warning)
    told = {
        dict(labels)["stream"] for name, labels in samples(text) if name == "scanside_drift_stream_evidence"
    }  # fmt: skip
    assert told == {stream.name for stream in STREAMS if not stream.quiet}
    assert value(text, "scanside_drift_alarms", package=NAME, against="validated", kind="alarm") == 1
    assert value(text, "scanside_drift_alarms", package=NAME, against="site", kind="warning") == 0


def test_a_package_that_serves_no_longer_is_told_only_while_an_alarm_of_it_is_open(site: Site) -> None:
    watched(site.config, 3, SHA, NAME)
    watched(site.config, 3, "cd" * 32, "chest 0.9")
    assert "chest 0.9" not in scrape(site)
    raise_alarm(site.config, "drift_validated", "cd" * 32)
    assert value(scrape(site), "scanside_drift_alarms", package="chest 0.9", against="validated", kind="alarm") == 1


def test_performance_is_told_of_enough_cases_against_its_floor(site: Site) -> None:
    least = site.config.telemetry.least_patients
    labels = {"package": NAME, "finding": "Pneumonia", "measure": "sensitivity"}
    for number in range(1, least + 1):
        site.add(number, 0.9)
        site.say(Diagnosis(f"1.2.{number}", "", "Pneumonia", True))
        asked = samples(scrape(site))
        told = ("scanside_performance_ratio", tuple(sorted(labels.items()))) in asked
        assert told == (number == least)
    site.add(99, 0.1)
    site.say(Diagnosis("1.2.99", "", "Pneumonia", True))
    text = scrape(site)
    assert value(text, "scanside_performance_ratio", **labels) == pytest.approx(least / (least + 1))
    assert value(text, "scanside_performance_cases", **labels) == least + 1
    low, high = (value(text, f"scanside_performance_ratio_{end}", **labels) for end in ("low", "high"))
    assert low < least / (least + 1) < high
    assert 0 < value(text, "scanside_performance_evidence_ratio", **labels) < 1
    assert value(text, "scanside_performance_floor_ratio", measure="sensitivity") == 0.92
    assert "1.2.99" not in text


def test_safe_mode_tickets_and_fallbacks_are_told(site: Site) -> None:
    before = scrape(site)
    assert value(before, "scanside_safe_mode", kind="by_hand") == value(before, "scanside_package_fallbacks") == 0
    safe_mode(site.config).enter("withheld", "Jo", "a new detector")
    open_ticket(site.config)
    packages = PackageStore(site.config.ledger_path)
    packages.choose(Choice("chest", "0.9", "cd" * 32, SHA, "fallback", "", "1.0 can't be served: its file is gone"))
    after = scrape(site)
    assert value(after, "scanside_safe_mode", kind="by_hand") == 3
    assert value(after, "scanside_retraining_tickets") == value(after, "scanside_package_fallbacks") == 1
