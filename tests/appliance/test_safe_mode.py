"""Safe mode: what alarms do to results, who ends it, and that nothing of it is ever silent."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import socket
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from pydicom import dcmread

from appliance import image, package, sequential
from appliance.audit import Trail, decode
from appliance.audit_store import AuditStore
from appliance.cli import main
from appliance.config import Config, Level, Models, Results, Retention
from appliance.config import SafeMode as Policy
from appliance.custody import Custody
from appliance.drift.cause import Cause, Moved
from appliance.drift.store import DriftStore
from appliance.drift.streams import MOST_BINS, STREAMS
from appliance.errors import ApplianceError, SafeModeError
from appliance.result import REVIEW_REQUIRED
from appliance.retention import due
from appliance.safe_mode import KINDS, SafeMode
from appliance.safe_mode_store import SafeModeStore
from appliance.store import Arrival, Store, WrittenObject
from appliance.truth_store import TruthStore
from appliance.web.app import create_app
from appliance.worker import Worker
from tests import outgoing
from tests.appliance.conftest import browser
from tests.dicom_files import make_radiograph
from tests.results import PROVENANCE, found
from tests.shared_sandbox import sandbox

LEVELS: tuple[Level, ...] = get_args(Level)
DRIFT = {  # key of [safe_mode] -> what a drift alarm of it is
    "drift_validated": ("validated", "alarm"),
    "drift_site": ("site", "alarm"),
    "confidence": ("validated", "confidence"),
    "early_warning": ("site", "warning"),
}


def raise_alarm(config: Config, key: str, package_sha256: str = "ab" * 32) -> int:
    """A drift alarm as `appliance.drift.watch` raises it; its number."""
    drift = DriftStore(config.ledger_path)
    if drift.package(package_sha256) is None:
        drift.add_package(package_sha256, "chest-pneumonia 1.3.1", np.zeros((len(STREAMS), MOST_BINS), np.int64), 1)
    moved = Moved("age", "age below 18: 31 % of studies since Tuesday, 0.4 % before", 0.0, 0.004, 0.31, 9.0, (1,))
    against, kind = DRIFT[key]
    number = drift.raise_alarm(
        package_sha256,
        against,
        kind,
        1,
        1000.0,
        9.0,
        msgspec.json.encode(Cause((moved,), 0.0, 99)),  # type: ignore[arg-type]
    )
    drift.close()
    return number


def open_ticket(config: Config, package_sha256: str = "ab" * 32) -> int:
    evidence = msgspec.json.encode(sequential.test([False] * 30, 0.92, 0.01, 5000))
    number = TruthStore(config.ledger_path).open_ticket(
        package_sha256, "chest 1.0", "Pneumonia", "sensitivity", evidence
    )
    assert number is not None
    return number


def safe_mode(config: Config) -> SafeMode:
    return SafeMode(config, Trail(config.audit_path, config.key_path))


def audited(config: Config) -> list[str]:
    store = AuditStore(config.audit_path, read_only=True)
    return [decode(row["content"]).action for row in store.records(0)]


def with_policy(folder: Path, **keys: Any) -> Config:
    config = Config(data_dir=str(folder), safe_mode=Policy(**keys))
    Store(config.ledger_path).close()
    return config


POLICIES = [
    *({key: level} for key in (*DRIFT, "performance") for level in LEVELS),
    *(dict.fromkeys((*DRIFT, "performance"), level) for level in LEVELS),
]


def test_no_configuration_makes_it_silent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever leads to which level: what is in force is in results, page, problems, log, trail and metrics."""
    for number, keys in enumerate(POLICIES):
        leave = ("acknowledged", "by_hand")[number % 2]
        config = with_policy(tmp_path / str(number), leave=leave, **keys)
        for key in DRIFT:
            raise_alarm(config, key)
        open_ticket(config)
        mode = safe_mode(config)
        with caplog.at_level(logging.WARNING, "scanside.safe_mode"):
            caplog.clear()
            mode.look()
            mode.look()
        force = mode.store.in_force()
        wanted = {key for key in (*DRIFT, "performance") if getattr(config.safe_mode, key) != "none"}
        assert {each.kind for each in force} == wanted  # each once
        assert len(caplog.records) == len(wanted) == audited(config).count("safe mode entered")
        said = mode.of(1, ("ab" * 32,), replace(found(), warnings=()))
        if not wanted:
            assert said.level == "none"
            continue
        levels = {getattr(config.safe_mode, key) for key in wanted}
        assert said.level == max(levels, key=LEVELS.index)
        assert len([each for each in said.warnings if each.startswith("Safe mode: ")]) == len(wanted)
        if said.level == "withheld":
            assert all(words.removeprefix("Safe mode: ") in said.reason for words in said.warnings)
            with pytest.raises(ValueError, match="withheld"):
                said.marked(found(), PROVENANCE)
        else:
            marked, made = said.marked(found(), PROVENANCE)
            assert marked.warnings[: len(said.warnings)] == said.warnings
            assert made.safe_mode == said.level
            assert any(each.startswith(REVIEW_REQUIRED) for each in marked.warnings) == (said.level == "review")
        if len(keys) > 1:  # the page takes a while to make
            client = browser(create_app(config))
            for path in ("/", "/safe-mode", "/device", "/quarantine"):
                page = client.get(path).get_data(as_text=True)
                assert ('class="safe-mode ' in page and "31 % of studies" in page) or "is measured to be below" in page
            metrics = client.get("/metrics").get_data(as_text=True)
            for key in wanted:
                rank = LEVELS.index(getattr(config.safe_mode, key))
                assert f'scanside_safe_mode{{kind="{key}"}} {rank}.0' in metrics
            problems = client.get("/device").get_data(as_text=True)
            assert all(f"Safe mode {each.id}: " in problems for each in force)


def test_the_policy_has_no_other_keys_and_no_way_to_hide_what_is_outside() -> None:
    kinds = set(KINDS) - {"by_hand"}
    assert set(Policy.__struct_fields__) == kinds | {"outside_validated_use", "leave"}
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"outside_validated_use": "none"}, Policy)


def test_it_ends_when_the_alarm_is_acknowledged_or_by_name_and_reason(tmp_path: Path) -> None:
    config = with_policy(tmp_path)
    number, mode = raise_alarm(config, "drift_validated"), safe_mode(config)
    mode.look()
    (entry,) = mode.store.in_force()
    for by, why in (("", "because"), ("jane", " ")):
        with pytest.raises(SafeModeError, match="say who leaves safe mode, and why"):
            mode.leave(entry.id, by, why)
    DriftStore(config.ledger_path).acknowledge(number, "jane", "a new detector", "watch")
    mode.look()
    left = mode.store.entry(entry.id)
    assert left is not None
    assert (left.left_by, left.left_why) == ("jane", "a new detector")
    assert audited(config) == ["safe mode entered", "safe mode left"]
    ticket = open_ticket(config)
    mode.look()
    (entry,) = mode.store.in_force()
    mode.leave(entry.id, "ito", "checked on 20 images")
    mode.look()
    assert mode.store.in_force() == []  # the same ticket does not enter it again
    TruthStore(config.ledger_path).close_ticket(ticket, "ito", "threshold kept")
    mode.look()
    with pytest.raises(SafeModeError, match="not in force: ito has left it"):
        mode.leave(entry.id, "jane", "again")


def test_by_hand_it_stays_until_left_by_hand(tmp_path: Path) -> None:
    config = with_policy(tmp_path, leave="by_hand")
    number, mode = raise_alarm(config, "drift_validated"), safe_mode(config)
    mode.look()
    DriftStore(config.ledger_path).acknowledge(number, "jane", "seen", "watch")
    mode.look()
    assert [each.level for each in mode.store.in_force()] == ["review"]


def test_an_alarm_of_one_package_does_not_mark_results_of_another(tmp_path: Path) -> None:
    config = with_policy(tmp_path)
    raise_alarm(config, "drift_validated")
    mode = safe_mode(config)
    mode.look()
    assert mode.of(1, ("cd" * 32,), found()).level == "banner"  # its image is outside validated use
    assert mode.of(1, ("cd" * 32, "ab" * 32), found()).level == "review"  # drawn by the other one


# --- through the worker ----------------------------------------------------------------------------------------------


class Device:
    """The worker itself, with the bundled model, one image at a time."""

    def __init__(self, folder: Path, **keys: Any) -> None:
        self.folder = folder
        self.config = Config(
            data_dir=str(folder / "box"),
            models=Models(packages=tuple(str(path) for path in package.bundled("chest-pneumonia"))),
            results=Results(messages=("hl7_oru", "fhir_bundle")),
            safe_mode=Policy(**keys),
        )
        self.config.spool_path.mkdir(parents=True)
        self.store = Store(self.config.ledger_path)
        self._ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        self.worker = Worker(self.config, theirs)
        self.worker._sandbox = sandbox()

    def read(self, seed: int, **header: Any) -> dict[str, Any]:
        """Receive a radiograph and read it; its row."""
        path = make_radiograph(self.folder / f"{seed}.dcm", seed=seed, **header)
        digest, said = hashlib.sha256(path.read_bytes()).hexdigest(), image.read_header(path)
        shutil.copy(path, self.config.spool_path / f"{digest}.dcm")
        arrival = Arrival(str(said.SOPInstanceUID), str(said.SOPClassUID), digest, f"{digest}.dcm",
                          path.stat().st_size, "upload", path.name)  # fmt: skip
        return self.work(self.store.receive(arrival).instance_id)

    def work(self, number: int) -> dict[str, Any]:
        opened = None
        while opened is None:
            opened = self.worker._readiness.look_after()
        claim = self.worker._claim()
        assert claim is not None
        self.worker._process(opened, claim)
        row = self.store.instance(number)
        assert row is not None
        return row

    def files(self, number: int) -> set[str]:
        folders = self.config.results_path / f"{number:08d}", self.config.previews_path / str(number)
        return {file.name for folder in folders for file in folder.glob("*")}

    def close(self) -> None:
        self.worker._readiness.close()


def codes_of(report: Any) -> set[tuple[str, str]]:
    """Name and value of each coded statement in a report's Qualitative Evaluations."""
    return {
        (item.ConceptNameCodeSequence[0].CodeValue, item.ConceptCodeSequence[0].CodeValue)
        for container in report.ContentSequence
        if container.ConceptNameCodeSequence[0].CodeValue == "C0034375"
        for item in container.ContentSequence
    }


@pytest.mark.long
def test_results_are_marked_withheld_and_released(tmp_path: Path) -> None:
    device = Device(tmp_path, drift_validated="none")  # which generated images soon are
    config, mode = device.config, safe_mode(device.config)
    try:
        usual = device.read(1)
        assert (usual["state"], usual["provenance"]["safe_mode"], usual["warnings"]) == ("delivered", "none", [])

        # review: in the report, the messages, on the pages, and for retention
        entry = mode.enter("review", "jane", "the detector was changed")
        row = device.read(2)
        assert row["provenance"]["safe_mode"] == "review"
        assert row["warnings"][:2] == [
            "Review required: do not use this result before a person has reviewed it.",
            "Safe mode: The detector was changed.",
        ]
        folder = config.results_path / f"{row['id']:08d}"
        report = dcmread(folder / "structured_report.dcm")
        assert codes_of(report) == {("review-status", "review-required")}
        assert re.search(
            r"\|review-status\^Review of the result by a person\^99SCANSIDE\|[0-9a-f]{8}\|review-required\^",
            (folder / "hl7_oru.hl7").read_text(),
        )
        bundle = json.loads((folder / "fhir_bundle.json").read_text())
        tags = [each["resource"]["meta"]["tag"] for each in bundle["entry"] if "status" in each["resource"]]
        assert tags
        assert all(tag == [{"code": "review-required", "display": "Review required before use"}] for tag in tags)
        client = browser(create_app(config))
        assert "Review required</b>" in client.get("/").get_data(as_text=True)
        page = client.get(f"/study/{row['id']}").get_data(as_text=True)
        assert "Review required: do not use this result" in page
        assert row["reviewed_at"] is None
        client.post(f"/study/{row['id']}/review")
        assert "Review required</b>" not in client.get("/").get_data(as_text=True)

        # withheld: nothing of it anywhere, and the image ends with its reason
        mode.leave(entry.id, "jane", "calibrated")
        entry = mode.enter("withheld", "jane", "the tube is broken")
        left_over = config.previews_path / "3" / "heat-0.png"  # of a try that a power cut ended
        left_over.parent.mkdir(parents=True)
        left_over.write_bytes(b"a heat map")
        row = device.read(3)
        number = row["id"]
        assert (number, row["state"], row["findings"], row["provenance"], row["outcome"]) == (
            3,
            "withheld",
            None,
            None,
            "",
        )
        assert row["reason"].startswith("Withheld (safe mode): The tube is broken.")
        assert device.files(number) == set()
        assert device.store.counts()["withheld"] == 1
        assert device.store.objects(number) == []
        for path in ("/", f"/study/{number}", "/safe-mode", f"/api/v1/studies/{number}"):
            text = client.get(path).get_data(as_text=True)
            assert "tube is broken" in text, path
        page = client.get(f"/study/{number}").get_data(as_text=True)
        assert "its result is withheld" in page
        assert "probability" not in page
        assert client.get(f"/study/{number}/heat-0.png").status_code == 404
        faults = list(Custody(config.ledger_path, read_only=True).contradictions())
        assert faults == []
        assert CliRunner().invoke(main, ["ledger", "verify", "--data", config.data_dir]).exit_code == 0

        # released, it is read again, and asks for review even while safe mode is in force
        custody = Custody(config.ledger_path)
        for by, why in (("", "because"), ("ito", "")):
            with pytest.raises(ApplianceError, match="say who releases it, and why"):
                custody.release(number, by, why)
        assert client.post("/safe-mode/release", data={"image": number, "why": "x"}).status_code == 409
        answer = client.post("/safe-mode/release", data={"image": number, "by": "ito", "why": "seen by me"})
        assert answer.status_code == 302
        row = device.work(number)
        assert (row["state"], row["provenance"]["safe_mode"]) == ("delivered", "review")
        assert "Safe mode: It was withheld, and released by ito: seen by me." in row["warnings"]
        assert "structured_report.dcm" in device.files(number)
        assert [each["what"] for each in device.store.events(number)] == [
            "received", "queued", "claimed", "withheld", "released", "claimed", "delivered", "note",
        ]  # fmt: skip
        with pytest.raises(ApplianceError, match="is not withheld: it is delivered"):
            custody.release(number, "ito", "again")

        # and it asks for review when safe mode was left before, as where its alarm was acknowledged first
        number = device.read(4)["id"]
        mode.leave(entry.id, "jane", "mended")
        custody.release(number, "ito", "seen by me")
        row = device.work(number)
        assert (row["state"], row["provenance"]["safe_mode"]) == ("delivered", "review")
        assert row["warnings"][0].startswith("Review required")
        assert "Safe mode: It was withheld, and released by ito: seen by me." in row["warnings"]

        assert device.read(5, PatientAge="050Y")["provenance"]["safe_mode"] == "banner"
    finally:
        device.close()


def test_what_was_made_before_results_are_withheld_is_sent_on_and_counted(tmp_path: Path) -> None:
    to = (outgoing.local("pacs", 104), outgoing.local("archive", 105))
    results = outgoing.Results(tmp_path, to, 2)
    provenance = {"package_sha256": "ab" * 32}
    results.store._connection().execute("UPDATE result SET provenance = ?", (json.dumps(provenance),))
    results.config.results_path.mkdir(exist_ok=True)
    mode, client = safe_mode(results.config), create_app(results.config).test_client()

    def said() -> str:
        return client.get("/device").text

    mode.enter("withheld", "jane", "another model has failed", "cd" * 32)
    mode.enter("review", "jane", "to be sure")
    assert "no new result leaves the device" in said()
    assert "made before" not in said()
    entry = mode.enter("withheld", "jane", "the tube is broken", "ab" * 32)
    mode.enter("withheld", "jane", "all models")
    results.add(2, to)
    assert "2 results that were made before new ones were withheld wait for a destination, and are still sent" in said()
    for item in (results.store.due("pacs")[0], results.store.due("archive")[0]):
        results.store.sent(item["id"])
    assert "1 result that was made before new ones were withheld waits for a destination, and is still sent" in said()
    mode.leave(entry.id, "jane", "mended")
    assert "1 result that was made before" in said(), "of all models, they are withheld"
    german = client.get("/device", headers={"Accept-Language": "de"}).text
    assert "1 Ergebnis, das" in german
    mode.close()


def test_an_image_outside_validated_use_is_withheld_where_the_policy_says_so(tmp_path: Path) -> None:
    config = with_policy(tmp_path, outside_validated_use="withheld")
    mode = safe_mode(config)
    said = mode.of(1, ("ab" * 32,), found())
    assert said.level == "withheld"
    assert "Outside validated use: the patient is 40 years old" in said.reason


def test_what_asks_for_review_is_kept_until_somebody_has_seen_it(tmp_path: Path) -> None:
    config = Config(data_dir=str(tmp_path), retention=Retention(images_days=0.001))
    store = Store(config.ledger_path)
    numbers = []
    for level in ("none", "review"):
        arrival = Arrival(f"1.2.{len(numbers)}", "1.2", f"{len(numbers):064d}", "x.dcm", 1, "upload", "x")
        number = store.receive(arrival).instance_id
        store.claim("worker", 30)
        store.triage(number, "worker", {}, "routine", 0.0)
        result = {"findings": [], "warnings": [], "provenance": {"safe_mode": level}, "seconds": {}, "urgent": False}
        store.finish(number, "worker", result, [WrittenObject("structured_report", "1.2", f"1.{number}", "x")],
                     [("structured_report", "pacs")])  # fmt: skip
        store.sent(number)
        numbers.append(number)
    connection = sqlite3.connect(config.ledger_path)
    with connection:
        connection.execute("UPDATE instance SET finished_at = 1.0")
    connection.close()
    custody = Custody(config.ledger_path)
    assert [each.instance_id for each in due(config, custody)] == numbers[:1]
    custody.review(numbers[1])
    assert [each.instance_id for each in due(config, custody)] == numbers


# --- by command ------------------------------------------------------------------------------------------------------


def run(*arguments: str) -> Any:
    return CliRunner().invoke(main, list(arguments))


def test_the_commands(tmp_path: Path) -> None:
    data = ("--data", str(tmp_path))
    assert "there is no ledger" in run("safe-mode", "show", *data).output
    Store(Config(data_dir=str(tmp_path)).ledger_path).close()
    assert run("safe-mode", "show", *data).output == "Safe mode: none\n"
    assert run("safe-mode", "enter", "review", *data).exit_code == 2  # without a reason
    assert "can't be empty" in run("safe-mode", "enter", "review", "--why", " ", *data).output
    assert "safe mode 1 is in force (review)" in run("safe-mode", "enter", "review", "--why", "new tube", *data).output
    said = json.loads(run("safe-mode", "show", "--json", *data).output)
    assert (said["level"], said["in_force"][0]["why"], said["withheld"]) == ("review", "new tube", [])
    assert "not withheld" not in run("safe-mode", "release", "--all", "--why", "x", *data).output
    assert "there is no image number 7" in run("safe-mode", "release", "7", "--why", "x", *data).output
    assert run("safe-mode", "release", "--why", "x", *data).exit_code == 2
    assert run("safe-mode", "leave", "1", "--by", "ito", "--why", "checked", *data).exit_code == 0
    assert "is not in force: ito has left it" in run("safe-mode", "leave", "1", "--why", "x", *data).output
    assert SafeModeStore(Config(data_dir=str(tmp_path)).ledger_path).changes() == {"entered": 1, "left": 1}
