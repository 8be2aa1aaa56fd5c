"""Drift through its doors: what the worker sees, what a restart changes, the page, the command line, the package."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from flask.testing import FlaskClient
from pydicom import Dataset

from appliance import package
from appliance.config import Config, Drift
from appliance.drift import decisions, measure, summary
from appliance.drift.cause import Cause
from appliance.drift.store import DriftStore
from appliance.drift.streams import BY_NAME, MOST_BINS, STREAMS
from appliance.drift.watch import Watch
from appliance.errors import DriftError
from appliance.image import Image
from appliance.package_store import Choice, PackageStore
from appliance.result import Code, Finding, Prediction
from appliance.web.app import create_app
from tests.dicom_files import make_radiograph
from tests.peers import wait_until
from tests.running import CHECKOUT, RunningAppliance, scanside

pytestmark = pytest.mark.skipif(not package.bundled("chest-pneumonia"), reason="no model package is bundled")

BASELINE = 100


def study(number: int, chance: np.random.Generator, adult: bool = False, **header: str) -> tuple[Image, Prediction]:
    """A radiograph of a child (or an adult), by one of two scanners, with an answer."""
    said = Dataset()
    said.StudyInstanceUID = f"1.2.3.{number}"
    said.Manufacturer, said.ManufacturerModelName, said.DetectorID = "ACME", "DX-1", f"D{number % 2}"
    said.PatientAge = f"{chance.integers(18, 80) if adult else chance.integers(1, 6):03d}Y"
    said.PatientSex = str(chance.choice(["F", "M"]))
    for keyword, value in header.items():
        setattr(said, keyword, value)
    pixels = chance.integers(0, 4096, (48, 40)).astype(np.uint16)
    p = float(chance.beta(0.5, 0.5))
    finding = Finding("Pneumonia", Code("1", "SCT", "x"), p, 0.5, "balanced", p > 0.5, True, "", prediction_set=())
    return Image(pixels, said, (0.14, 0.14)), Prediction((finding,), {}, chance.normal(1.5, 1, 272).astype(np.float32))


class Site:
    """A ledger with a watch on it."""

    def __init__(self, folder: Path, opened: package.Package) -> None:
        self.config = msgspec.structs.replace(
            Config(), data_dir=str(folder), drift=Drift(baseline_studies=BASELINE, run_length=20_000)
        )
        self.store = DriftStore(self.config.ledger_path).unflushed()
        self.opened = opened
        self.watch = Watch(self.config, self.store)
        self.chance = np.random.default_rng(3)  # ages that no draw of the watch takes for dependent ones

    def see(self, number: int, adult: bool = False, **header: str) -> None:
        image, said = study(number, self.chance, adult, **header)
        self.watch.observe(self.opened, "cpu", number, image, said, 0.2)

    def restart(self) -> None:
        self.watch = Watch(self.config, DriftStore(self.config.ledger_path).unflushed())

    def about(self) -> dict[str, Any]:
        return summary.chosen(self.store, None)

    def status(self) -> dict[str, Any]:
        return summary.status(self.store, self.config.drift, self.about())


@pytest.fixture(scope="module")
def opened() -> package.Package:
    """The bundled package without its reference, which generated noise has nothing to do with."""
    whole = package.read(package.bundled("chest-pneumonia")[0], None)
    manifest = msgspec.structs.replace(whole.manifest, drift=None)
    return package.Package(whole.path, whole.sha256, manifest, {}, None)


@pytest.fixture
def site(tmp_path: Path, opened: package.Package) -> Site:
    return Site(tmp_path / "box", opened)


@pytest.fixture(scope="module")
def drifted(tmp_path_factory: pytest.TempPathFactory, opened: package.Package) -> Site:
    """Children only while it was learned, then adults, too; the watch began anew in between."""
    made = Site(tmp_path_factory.mktemp("drift") / "box", opened)
    for number in range(BASELINE + 60):
        made.see(number)
    assert made.store.alarms() == []
    made.restart()
    for number in range(300, 340):
        made.see(number, adult=number % 2 == 0)
    return made


def test_the_cause_is_told_in_words_with_examples(drifted: Site) -> None:
    rows = drifted.store.alarms()
    (alarm,) = (row for row in rows if row["kind"] == "alarm")
    assert alarm["against"] == "site"
    found = msgspec.json.decode(alarm["cause"], type=Cause)
    assert found.moved[0].stream == "age"
    assert found.words.startswith("age from ")
    assert found.words.endswith(" % of studies since " + found.words.split(" since ")[1])
    before, now = found.moved[0].before, found.moved[0].now
    assert before < 0.02 < 0.2 < now  # one or two adults may be taken for earlier ones
    assert f"{100 * before:.1f} % before" in found.words
    assert found.examples
    assert all(number >= 300 and number % 2 == 0 for number in found.examples)


def test_a_package_without_a_reference_learns_the_site_alone(drifted: Site) -> None:
    watches = {each["against"]: each for each in drifted.status()["watches"]}
    assert watches["validated"]["why"] == "the package has no reference"
    assert watches["site"]["watches"]
    baseline = drifted.status()["baseline"]
    assert (baseline["accepted"], baseline["studies"], baseline["accepted_by"]) == (True, BASELINE, "")


def test_a_package_with_a_reference_is_compared_with_it_from_the_first_study(tmp_path: Path) -> None:
    site = Site(tmp_path / "box", package.read(package.bundled("chest-pneumonia")[0], None))
    for number in range(30):
        site.see(number)
    assert {row["against"] for row in site.store.alarms()} == {"validated"}
    moved = {each["stream"] for row in site.store.alarms() for each in summary.alarm(row)["moved"]}
    assert moved & {"distance", "novelty", "median_level"}
    assert "levels" not in moved  # a data set's 8 bits are no scanner's


def test_any_study_counts_once_and_what_is_odd_is_counted(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(6):
        site.see(number, PatientAge="", DetectorID="")
        site.see(number)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3600)
    site.see(6)
    site.restart()
    monkeypatch.setattr(time, "time", lambda: now + 1800)
    site.see(8)
    monkeypatch.setattr(time, "time", lambda: now - 3600)
    site.see(7, PatientAge="", Manufacturer="", ManufacturerModelName="", DetectorID="", PatientBirthDate="20990101")
    counted = {row["name"]: row["n"] for row in site.store.counted()}
    assert counted["further images of a study"] == 6
    assert counted["age not stated"] == 7
    assert counted["scanner not stated"] == 1
    assert counted["clock went ahead"] == 1
    assert counted["clock went back"] == 2  # once while the device was off
    assert site.status()["studies"] == 9
    assert site.store.alarms() == []


def test_after_a_rollback_what_reads_is_shown_first(tmp_path: Path) -> None:
    store, choices = DriftStore(tmp_path / "ledger.sqlite3"), PackageStore(tmp_path / "ledger.sqlite3")
    old, new = "ab" * 32, "cd" * 32
    for sha256, name in ((old, "chest 1.0"), (new, "chest 1.1")):
        store.add_package(sha256, name, np.zeros((len(STREAMS), MOST_BINS), np.int64), 7)
    assert summary.chosen(store, None)["name"] == "chest 1.1"
    choices.choose(Choice("chest", "1.1", new, "", "switch", "ito", "retrained"))
    choices.choose(Choice("chest", "1.0", old, new, "rollback", "ito", "worse"))
    assert summary.chosen(store, None)["name"] == "chest 1.0"
    assert summary.chosen(store, "cdcd")["name"] == "chest 1.1"


def test_a_failure_is_counted_and_touches_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.see(1)
    monkeypatch.setattr(measure, "of_image", lambda _: 1 / 0)
    site.see(2)
    monkeypatch.undo()
    site.see(3)
    (row,) = (row for row in site.store.counted() if row["name"] == "failed")
    assert (row["n"], row["last"]) == (1, "image 2: ZeroDivisionError")
    assert site.status()["studies"] == 2


@pytest.mark.parametrize("pixels", [np.zeros((1, 1), np.uint16), np.full((9, 9), 7.0), np.full((20, 2), np.nan)])
def test_odd_images_have_values_or_none(pixels: np.ndarray) -> None:
    for name, value in measure.of_image(pixels).items():
        assert 0 <= BY_NAME[name].bin(value if not isinstance(value, str) else None) < BY_NAME[name].bins


def test_nothing_is_seen_where_it_is_off(tmp_path: Path, opened: package.Package) -> None:
    site = Site(tmp_path / "box", opened)
    site.config = msgspec.structs.replace(site.config, drift=Drift(enabled=False))
    site.restart()
    site.see(1)
    assert site.store.packages() == []


def test_a_watch_goes_on_exactly_after_any_restart(tmp_path: Path, opened: package.Package) -> None:
    straight, broken = Site(tmp_path / "a", opened), Site(tmp_path / "b", opened)
    for site in (straight, broken):
        for number in range(BASELINE):
            site.see(number)
    states = []
    row = straight.store.monitors(opened.sha256)["site"]
    broken.store.begin_monitor(opened.sha256, "site", row["state"])
    for site in (straight, broken):
        site.chance = np.random.default_rng(3)
        for number in range(1000, 1033):
            site.see(number)
            if site is broken and number % 5 == 0:
                site.restart()
        found = site.store.monitors(opened.sha256)["site"]
        states.append(decisions.replayed(site.store, opened.sha256, found, 2**62).to_bytes())
    assert states[0] == states[1]


def test_a_kill_between_studies_loses_no_bet(tmp_path: Path) -> None:
    """A process that is killed and goes on ends as one that never was."""
    whole = Site(tmp_path / "whole", bare())
    for number in range(BASELINE):
        whole.see(number)
    whole.store.close()
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        from tests.appliance.test_drift import Site, bare, see_the_rest
        see_the_rest(Site(Path(sys.argv[1]), bare()))
    """)
    for last in (BASELINE + 13, BASELINE + 31, None):
        with subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "killed")],
            stdout=subprocess.PIPE, text=True, cwd=CHECKOUT, env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        ) as process:  # fmt: skip
            assert process.stdout is not None
            for line in process.stdout:
                if last is not None and int(line) == last:
                    process.send_signal(signal.SIGKILL)
                    break
    see_the_rest(whole)
    killed, sha = DriftStore(tmp_path / "killed" / "ledger.sqlite3"), whole.opened.sha256
    found = []
    for store in (killed, whole.store):
        row = store.monitors(sha)["site"]
        watch = decisions.replayed(store, sha, row, 2**62)
        rows = [each["bins"] for each in store.studies(sha, 0)]
        found.append((watch.to_bytes(), rows, store.days(sha, 9)[-1]["counts"]))
    assert found[0] == found[1]
    assert whole.status()["studies"] == BASELINE + 40


def see_the_rest(site: Site) -> None:
    """Each study with chance of its own, so that it is the same whoever saw those before."""
    for number in range(BASELINE, BASELINE + 40):
        site.chance = np.random.default_rng(number)
        site.see(number)
        print(number, flush=True)


def bare() -> package.Package:
    whole = package.read(package.bundled("chest-pneumonia")[0], None)
    return package.Package(whole.path, whole.sha256, msgspec.structs.replace(whole.manifest, drift=None), {}, None)


# --- what people decide ---------------------------------------------------------------------------------------------


def test_an_acknowledged_alarm_says_who_and_why_and_the_watch_begins_anew(site: Site) -> None:
    for number in range(BASELINE):
        site.see(number)
    for number in range(1000, 1030):
        site.see(number, adult=True)
    (alarm,) = (row for row in site.store.alarms(only_open=True) if row["kind"] == "alarm")
    with pytest.raises(DriftError, match="says why"):
        decisions.acknowledge(site.store, alarm["id"], "ann", "  ", "watch")
    decisions.acknowledge(site.store, alarm["id"], "ann", "adults by mistake", "watch")
    assert site.store.alarms(only_open=True) == []
    with pytest.raises(DriftError, match="acknowledged by ann already"):
        decisions.acknowledge(site.store, alarm["id"], "bob", "late", "watch")
    with pytest.raises(DriftError, match="no drift alarm 99"):
        decisions.acknowledge(site.store, 99, "bob", "late", "watch")
    for number in range(2000, 2040):
        site.see(number)
    assert site.store.alarms(only_open=True) == []
    watch = site.status()["watches"][1]
    assert watch["studies"] == 40
    assert site.store.events()[0]["who"] == "ann"


def test_what_is_usual_from_now_on_is_learned_anew(site: Site) -> None:
    for number in range(BASELINE):
        site.see(number)
    for number in range(1000, 1030):
        site.see(number, adult=True)
    (alarm,) = (row for row in site.store.alarms(only_open=True) if row["kind"] == "alarm")
    decisions.acknowledge(site.store, alarm["id"], "ann", "adults from now on", "baseline")
    assert site.status()["watches"][1]["why"] == "the baseline is still learned"
    with pytest.raises(DriftError, match=r"has 0 studies; it needs 100"):
        decisions.accept_baseline(site.store, site.opened.sha256, "ann")
    site.config = msgspec.structs.replace(site.config, drift=Drift(baseline_studies=1000))
    site.restart()
    for number in range(2000, 2101):
        site.see(number, adult=True)
    assert decisions.accept_baseline(site.store, site.opened.sha256, "ann") == 101
    for number in range(3000, 3030):
        site.see(number, adult=True)
    assert site.store.alarms(only_open=True) == []
    with pytest.raises(DriftError, match="accepted already"):
        decisions.accept_baseline(site.store, site.opened.sha256, "ann")


def test_studies_that_depend_on_each_other_raise_no_alarm_and_it_is_said(site: Site) -> None:
    for number in range(BASELINE + 60):
        site.see(number, DetectorID="", KVP=str(60 + 5 * (number // 15 % 4)))
    assert "kvp" in site.status()["baseline"]["left_out"]
    assert "kvp" not in site.status()["watches"][1]["streams"]
    assert "left out" in site.store.events()[0]["what"]
    assert site.store.alarms() == []


def test_old_studies_go_and_days_stay(site: Site) -> None:
    for number in range(BASELINE + 30):
        site.see(number)
    site.store._rows("UPDATE drift_study SET at = at - 100 * 86400")
    assert site.store.thin(90) > BASELINE
    for number in range(500, 520):
        site.see(number)
    assert site.status()["studies"] == BASELINE + 50
    assert "failed" not in {row["name"] for row in site.store.counted()}


# --- the page -------------------------------------------------------------------------------------------------------


@pytest.fixture
def client(drifted: Site) -> Iterator[FlaskClient]:
    yield create_app(drifted.config).test_client()


def test_the_page_before_anything_was_read(tmp_path: Path) -> None:
    config = msgspec.structs.replace(Config(), data_dir=str(tmp_path))
    page = create_app(config).test_client().get("/drift")
    assert page.status_code == 200
    assert b"No study was watched yet" in page.data


def test_the_page_shows_alarms_streams_and_how_to_read_them(client: FlaskClient) -> None:
    page = client.get("/drift?days=30").get_data(as_text=True)
    assert "Alarm: age from" in page
    assert re.search(r'>Drift <b class="badge">\d</b>', client.get("/").get_data(as_text=True))
    assert 'href="/study/3' in page
    assert page.count('<svg class="chart"') > 20
    assert page.count('role="img" aria-label="') == page.count('<svg class="chart"')
    assert "Sharpness: median" in page
    assert "How to read this" in page
    assert "style=" not in page
    for stream in STREAMS:
        if stream.name in ("age", "sharpness", "score", "hour"):
            assert stream.title in page or stream.name == "hour"
    assert "does not hold" in page or "holds" in page
    assert client.get("/drift?package=nonsense").status_code == 404
    assert client.get("/drift?days=what").status_code == 200


def test_scanners_names_are_text_and_nothing_else(site: Site) -> None:
    site.see(1, Manufacturer="<script>alert(1)</script>", ManufacturerModelName='"><b>')
    page = create_app(site.config).test_client().get("/drift").get_data(as_text=True)
    assert "<script>alert" not in page
    assert "&lt;script&gt;" in page


def test_an_alarm_is_acknowledged_on_the_page(tmp_path: Path, opened: package.Package) -> None:
    site = Site(tmp_path / "box", opened)
    for number in range(BASELINE):
        site.see(number)
    for number in range(1000, 1030):
        site.see(number, adult=True)
    client = create_app(site.config).test_client()
    headers = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
    (alarm,) = (row for row in site.store.alarms(only_open=True) if row["kind"] == "alarm")
    where = f"/drift/alarm/{alarm['id']}"
    assert client.post(where, data={"why": "", "outcome": "watch"}, headers=headers).status_code == 409
    assert client.post(where, data={"why": "x", "outcome": "never"}, headers=headers).status_code == 400
    assert client.post(where, data={"why": "new ward", "outcome": "rest"}, headers=headers).status_code == 302
    page = client.get("/drift").get_data(as_text=True)
    assert "new ward" in page
    assert "it rests since an alarm was acknowledged" in page
    assert client.post("/drift/resume/validated", headers=headers).status_code == 409, "there is no reference"
    assert client.post("/drift/resume/site", headers=headers).status_code == 302
    assert client.post("/drift/resume/site", headers=headers).status_code == 409, "it does not rest any more"
    page = client.get("/drift").get_data(as_text=True)
    assert "it rests" not in page
    assert "watched against this site" in page
    site.watch = Watch(site.config, DriftStore(site.config.ledger_path).unflushed())
    for number in range(2000, 2030):
        site.see(number, adult=True)
    again = [row for row in site.store.alarms(only_open=True) if row["kind"] == "alarm"]
    assert [row["against"] for row in again] == ["site"], "what was known is an alarm again"
    assert client.post("/drift/baseline", data={"what": "start"}, headers=headers).status_code == 302
    assert f"0 of {BASELINE} studies" in client.get("/drift").get_data(as_text=True)


# --- the command line, and a running appliance ----------------------------------------------------------------------


def test_the_command_line(drifted: Site, tmp_path: Path) -> None:
    data = ("--data", drifted.config.data_dir)
    status = scanside("drift", "status", *data)
    assert status.returncode == 3
    assert "age from" in status.stdout
    found = json.loads(scanside("drift", "status", "--json", *data).stdout)
    number = next(row["id"] for row in found["alarms"] if row["kind"] == "alarm")
    assert "for instance images 3" in scanside("drift", "show", str(number), *data).stdout
    assert "open: age from" in scanside("drift", "show", *data).stdout
    assert "Age" in scanside("drift", "baseline", "show", *data).stdout
    exported = json.loads(scanside("drift", "export", *data).stdout)
    assert sum(day["studies"] for day in exported["days"]) == BASELINE + 100
    assert "1.2.3." not in json.dumps(exported)
    refused = scanside("drift", "acknowledge", "999", "--why", "x", *data)
    assert refused.returncode == 1
    assert "no drift alarm 999" in refused.stderr
    assert "no ledger" in scanside("drift", "status", "--data", tmp_path).stderr


@pytest.mark.long
def test_a_running_appliance_watches_what_it_reads(tmp_path: Path) -> None:
    appliance = RunningAppliance(tmp_path, '[inference]\nbackend = "onnxruntime"\n')
    appliance.start()
    try:
        for number in range(3):
            path = make_radiograph(tmp_path / f"{number}.dcm", seed=number)
            scanside("send", path, "--to", f"SCANSIDE@127.0.0.1:{appliance.port}", check=True)
        appliance.wait_final(3)
        store = DriftStore(appliance.data / "ledger.sqlite3", read_only=True)

        def studies() -> int:
            return sum(day["studies"] for row in store.packages() for day in store.days(row["package"], 9))

        wait_until(lambda: studies() == 3, "three studies are watched")
        assert "failed" not in {row["name"] for row in store.counted()}
        assert "3 studies since" in scanside("drift", "status", "--data", appliance.data).stdout
    finally:
        appliance.stop()
