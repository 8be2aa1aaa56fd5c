"""What readers say: kept for good, counted, and exported as CSV, JSON and DICOM."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pydicom
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance import assessment_delivery, assessment_report
from appliance.assessment_delivery import AssessmentDelivery
from appliance.assessment_store import LONGEST_COMMENT, REASONS, Assessments
from appliance.cli import main
from appliance.config import Config, Destination
from appliance.custody import Custody
from appliance.errors import ApplianceError
from appliance.image import load as load_image
from appliance.pipeline import Reading, write_objects
from appliance.result import Outlines
from appliance.store import Arrival, Store, WrittenObject
from appliance.web.app import create_app
from appliance.writer import to_bytes
from tests.appliance.conftest import browser
from tests.dicom_files import make_radiograph
from tests.peers import needs
from tests.results import PROVENANCE, drawn, found


class Box:
    """A ledger with a finding (1) and an outlined volume (2), as far as the ledger knows, and an image without (3)."""

    def __init__(self, folder: Path) -> None:
        self.config = Config(data_dir=str(folder))
        store = Store(self.config.ledger_path)
        image = load_image(make_radiograph(folder / "image.dcm", PatientName="DOE^JANE", PatientID="SECRET"))
        for number, said in enumerate((found(), drawn(), None)):
            arrival = Arrival(f"1.{number}", "1.2", f"{number}" * 64, "x.dcm", 1, "storage_scp", "CT at 192.0.2.1")
            identifier = store.receive(arrival).instance_id
            store.claim("me", 30)
            store.triage(identifier, "me", {"modality": "CR", "study_instance_uid": "1.2.3"}, "routine", 0.0)
            if said is None:
                store.reject(identifier, "me", "It is none.")
                continue
            written = []
            if said.findings:
                reading = Reading(image, said, PROVENANCE, reused=False)
                ((kind, dataset),) = write_objects(reading, ["structured_report"])
                name = f"{identifier:08d}/{kind}.dcm"
                (self.config.results_path / name).parent.mkdir(parents=True)
                (self.config.results_path / name).write_bytes(to_bytes(dataset))
                written = [WrittenObject(kind, dataset.SOPClassUID, dataset.SOPInstanceUID, name)]
            outlines = Outlines(said.segments, PROVENANCE, 3) if said.segments else None
            result = {
                "findings": msgspec.to_builtins(said.findings), "outlines": msgspec.to_builtins(outlines),
                "warnings": [], "provenance": PROVENANCE.to_dict(), "seconds": {}, "urgent": said.urgent,
            }  # fmt: skip
            store.finish(identifier, "me", result, written, [])
        store.close()
        self.assessments = Assessments(self.config.ledger_path)
        self.client = browser(create_app(self.config))

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, ["assessments", *arguments, "--data", self.config.data_dir])


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    filled = Box(tmp_path)
    yield filled
    filled.assessments.close()


def test_a_later_assessment_supersedes_and_both_stay(box: Box) -> None:
    first = box.assessments.assess(1, "finding", "Pneumonia", "disagree", "other_cause", " a rib ", "anna")
    second = box.assessments.assess(1, "finding", "Pneumonia", "agree", person="bert")
    later, earlier = box.assessments.of_instance(1)
    assert (later["id"], later["superseded_by"], later["supersedes"]) == (second, None, first)
    assert (earlier["id"], earlier["superseded_by"]) == (first, second)
    assert (earlier["verdict"], earlier["reason"], earlier["comment"], earlier["person"]) == (
        "disagree", "other_cause", "a rib", "anna",
    )  # fmt: skip
    assert (later["said"], later["package"]) == ("present", "chest-pneumonia 1.0.0")
    assert later["object_uid"]
    row = box.assessments.instance(1)
    assert row is not None
    assert row["reviewed_at"] == row["assessed_at"] == pytest.approx(earlier["made_at"], abs=1)
    assert row["verdicts"] == "agree"
    assert [event["detail"] for event in box.assessments.events(1) if event["what"] == "assessed"] == [
        "Pneumonia: disagree by anna", "Pneumonia: agree by bert",
    ]  # fmt: skip


def test_an_assessment_is_never_changed_or_removed(box: Box) -> None:
    box.assessments.assess(1, "finding", "Pneumonia", "agree")
    connection = sqlite3.connect(box.config.ledger_path)
    for statement in ("UPDATE assessment SET verdict = 'disagree'", "DELETE FROM assessment"):
        with pytest.raises(sqlite3.IntegrityError, match="make a later one"):
            connection.execute(statement)
    connection.close()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((3, "finding", "Pneumonia", "agree"), "no result"),
        ((99, "finding", "Pneumonia", "agree"), "no result"),
        ((1, "finding", "Fracture", "agree"), "no finding 'Fracture'"),
        ((1, "segment", "Pneumonia", "agree"), "no segment"),
        ((1, "finding", "Pneumonia", "disagree"), "reason ''"),
        ((1, "finding", "Pneumonia", "agree", "not_there"), "reason 'not_there'"),
        ((1, "finding", "Pneumonia", "disagree", "too_large"), "no assessment"),
        ((1, "finding", "Pneumonia", "disagree", "missed"), "'missed' is no assessment of a finding: present"),
        ((1, "finding", "Pneumonia", "agree", "", "x" * (LONGEST_COMMENT + 1)), "1001 letters"),
    ],
)
def test_what_is_no_assessment_is_refused(arguments: tuple[Any, ...], words: str, box: Box) -> None:
    with pytest.raises(ApplianceError, match=words):
        box.assessments.assess(*arguments)
    assert box.assessments.of_instance(1) == []


def test_agreement_counts_what_is_not_superseded(box: Box) -> None:
    box.assessments.assess(1, "finding", "Pneumonia", "disagree", "not_there")
    box.assessments.assess(1, "finding", "Pneumonia", "agree")
    box.assessments.assess(2, "segment", "Anterior hippocampus", "amend", "too_small")
    counted = {
        (row["label"], row["said"], row["verdict"], row["reason"]): row["n"] for row in box.assessments.agreement()
    }
    assert counted == {
        ("Pneumonia", "present", "agree", ""): 1,
        ("Anterior hippocampus", "1.62 mL", "amend", "too_small"): 1,
    }
    assert box.assessments.agreement(until=1.0) == []
    shown = box.run("agreement")
    assert shown.exit_code == 0, shown.output
    assert "Pneumonia" in shown.output
    assert "too_small" in shown.output
    assert {row["n"] for row in json.loads(box.run("agreement", "--json", "--days", "1").output)} == {1}


def test_exports_name_nobody_unless_they_are_to(box: Box) -> None:
    box.assessments.assess(1, "finding", "Pneumonia", "disagree", "other", "=JANE DOE", "anna")
    box.assessments.assess(2, "segment", "Posterior hippocampus", "agree")
    plain = box.run("export")
    assert plain.exit_code == 0, plain.output
    told = list(csv.DictReader(io.StringIO(plain.output)))
    assert [(row["image"], row["label"], row["verdict"]) for row in told] == [
        ("1", "Pneumonia", "disagree"), ("2", "Posterior hippocampus", "agree"),
    ]  # fmt: skip
    assert float(told[0]["probability"]) == pytest.approx(0.934)
    assert "JANE" not in plain.output
    assert "1.2.3" not in plain.output
    (first, _) = json.loads(box.run("export", "--format", "json", "--with-patient").output)
    assert (first["comment"], first["study_instance_uid"]) == ("=JANE DOE", "1.2.3")
    full = box.run("export", "--with-patient").output
    assert next(csv.DictReader(io.StringIO(full)))["comment"] == "'=JANE DOE"  # no formula of a spreadsheet


def test_dicom_documents_are_valid_and_say_who_assessed_what(box: Box, tmp_path: Path) -> None:
    box.assessments.assess(1, "finding", "Pneumonia", "agree", person="bert")
    box.assessments.assess(1, "finding", "Pneumonia", "disagree", "other_cause", "a rib\nshadow", "anna^x\\y")
    box.assessments.assess(2, "segment", "Anterior hippocampus", "agree")
    assert box.run("export", "--format", "dicom").exit_code == 1
    ran = box.run("export", "--format", "dicom", "--to", str(tmp_path / "out"))
    assert ran.exit_code == 0, ran.output
    assert "left out: image 2" in ran.output  # which has no result object to take its patient from
    (path,) = (tmp_path / "out").iterdir()
    checked = subprocess.run([needs("dciodvfy"), "-new", path], capture_output=True, text=True, timeout=60)
    assert "Error" not in checked.stderr + checked.stdout
    dumped = subprocess.run([needs("dsrdump"), path], capture_output=True, text=True, timeout=60, check=True).stdout
    for words in ("DOE^JANE", "The reader disagrees", "Something else explains it", "COMPOSITE", "anna x/y"):
        assert words in dumped, words
    assert "The reader agrees" not in dumped  # that is superseded
    document = pydicom.dcmread(path)
    assessed = pydicom.dcmread(next((tmp_path / "results").rglob("structured_report.dcm")))
    assert document.StudyInstanceUID == assessed.StudyInstanceUID
    (evidence,) = document.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert evidence.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == assessed.SOPInstanceUID
    assert document.VerificationFlag == "UNVERIFIED"


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_keeps_an_assessment_and_shows_it(box: Box) -> None:
    client = box.client
    form = {
        "subject": "finding",
        "label": "Pneumonia",
        "verdict": "amend",
        "reason": "wrong_place",
        "comment": "<b>left</b>",
    }
    assert client.post("/study/1/assess", data=form).headers["Location"] == "/study/1#assessment"
    text = client.get("/study/1").get_data(as_text=True)
    assert "A reader amends it: right, but the map shows another place (“<bdi>&lt;b&gt;left&lt;/b&gt;</bdi>”)" in text
    assert "Marked as reviewed" in text
    assert ">amended</b>" in client.get("/").get_data(as_text=True)
    report = client.get("/study/1/report").get_data(as_text=True)
    assert "&lt;b&gt;left&lt;/b&gt;" in report
    assert "DOE" not in report


def test_all_is_agreed_with_at_once_but_what_is_assessed(box: Box) -> None:
    client = box.client
    box.assessments.assess(2, "segment", "Anterior hippocampus", "amend", "too_small")
    assert client.post("/study/2/assess", data={"subject": "all", "verdict": "agree"}).status_code == 302
    said = {row["label"]: row["verdict"] for row in box.assessments.of_instance(2)}
    assert said == {"Anterior hippocampus": "amend", "Posterior hippocampus": "agree"}


@settings(deadline=None, max_examples=25)
@given(
    form=st.fixed_dictionaries(
        {},
        optional={
            "subject": st.sampled_from(("finding", "segment", "all", "x")),
            "label": st.sampled_from(("Pneumonia", "Anterior hippocampus")) | st.text(max_size=5),
            "verdict": st.sampled_from(("agree", "disagree", "amend", "x")),
            "reason": st.sampled_from(("", "other", *REASONS["finding"]["disagree"])) | st.text(max_size=5),
            "comment": st.text(max_size=20),
        },
    ),
    number=st.sampled_from((1, 2, 3, 99)),
)
def test_any_form_is_kept_or_refused(form: dict[str, str], number: int, shared: Box) -> None:
    before = len(list(shared.assessments.export()))
    answer = shared.client.post(f"/study/{number}/assess", data=form)
    after = len(list(shared.assessments.export()))
    assert answer.status_code in (302, 400, 409)
    assert (after > before) == (answer.status_code == 302)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    filled = Box(tmp_path_factory.mktemp("shared"))
    yield filled
    filled.assessments.close()


def test_a_report_is_of_results_only(box: Box) -> None:
    client = box.client
    assert client.get("/study/3/report").status_code == 404
    assert client.get("/study/99/report").status_code == 404


def test_what_is_assessed_may_be_removed_by_retention(box: Box) -> None:
    custody = Custody(box.config.ledger_path)
    assert [row["id"] for row in custody.removable("result", 1e12)] == []
    box.assessments.assess(1, "finding", "Pneumonia", "agree")
    assert [row["id"] for row in custody.removable("result", 1e12)] == [1]
    custody.close()


# --- to destinations ------------------------------------------------------------------------------------------------


class Sending(Box):
    """The same, of which a PACS gets what readers say, too, and a viewer the results alone."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(folder)
        monkeypatch.setattr(assessment_delivery, "_QUIET_SECONDS", -1.0)
        destinations = (
            Destination(name="pacs", ae_title="P", host="h", port=1, send=("structured_report", "assessment")),
            Destination(name="viewer", ae_title="V", host="h", port=1),
        )
        self.config = msgspec.structs.replace(self.config, destinations=destinations)
        assert self.config.sends_assessments
        self.delivery = AssessmentDelivery(self.config)
        self.store = Store(self.config.ledger_path)
        self.custody = Custody(self.config.ledger_path)

    def say(self, verdict: Any = "agree", person: str = "anna", reason: str = "") -> int:
        return self.assessments.assess(
            1, "finding", "Pneumonia", verdict, reason, person=person, to_send=self.config.sends_assessments
        )

    def state(self) -> str:
        row = self.store.instance(1)
        assert row is not None
        return str(row["state"])

    def waiting(self) -> list[tuple[str, str]]:
        """Kind and destination of what is due."""
        return [(item["kind"], name) for name in ("pacs", "viewer") for item in self.store.due(name)]

    def document(self, kind: str) -> pydicom.Dataset:
        return pydicom.dcmread(self.config.results_path / "00000001" / f"{kind}.dcm")


@pytest.fixture
def sending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sending]:
    filled = Sending(tmp_path, monkeypatch)
    yield filled
    for store in (filled.assessments, filled.store, filled.custody):
        store.close()


def test_what_is_said_becomes_a_document_for_those_who_want_it(sending: Sending, tmp_path: Path) -> None:
    assert not sending.delivery.look(), "nothing was said"
    sending.say()
    assert sending.delivery.look()
    assert not sending.delivery.look(), "once"
    assert sending.waiting() == [("assessment_1", "pacs")]
    assert sending.state() == "delivered"
    assert [item["kind"] for item in sending.store.objects(1)] == ["structured_report"], "it is not of the result"
    first = sending.document("assessment_1")
    assert "PredecessorDocumentsSequence" not in first
    sending.say("disagree", "bert", "not_there")
    assert sending.delivery.look()
    second = sending.document("assessment_2")
    assert second.SOPInstanceUID != first.SOPInstanceUID
    (study,) = second.PredecessorDocumentsSequence
    (series,) = study.ReferencedSeriesSequence
    assert [each.ReferencedSOPInstanceUID for each in series.ReferencedSOPSequence] == [first.SOPInstanceUID]
    assert (study.StudyInstanceUID, series.SeriesInstanceUID) == (first.StudyInstanceUID, first.SeriesInstanceUID)
    exported = tmp_path / "exported"
    assert sending.run("export", "--format", "dicom", "--to", str(exported)).exit_code == 0
    (path,) = exported.iterdir()
    checked = subprocess.run([needs("dciodvfy"), "-new", path], capture_output=True, text=True, timeout=60)
    assert "Error" not in checked.stderr + checked.stdout
    assert path.read_bytes() == (sending.config.results_path / "00000001" / "assessment_2.dcm").read_bytes()
    assert list(sending.custody.contradictions()) == []


@pytest.mark.parametrize(
    ("when", "positive", "urgent", "wanted"),
    [
        ("all", False, False, True), ("positive", False, False, False), ("positive", True, False, True),
        ("urgent", True, False, False), ("urgent", True, True, True),
    ],
)  # fmt: skip
def test_it_goes_where_the_result_goes(when: Any, positive: bool, urgent: bool, wanted: bool) -> None:
    to = Destination(name="a", send=("assessment",), when=when)
    assert to.wants("assessment", positive, urgent) == wanted
    assert not to.wants("segmentation", positive, urgent)


def test_nothing_is_made_where_nobody_wants_it(sending: Sending) -> None:
    sending.assessments.assess(1, "finding", "Pneumonia", "agree")
    assert not sending.delivery.look()
    assert sending.waiting() == []


def test_a_clock_that_is_set_back_makes_no_assessment_wait_longer(
    sending: Sending, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, ahead = time.time, [86400.0]
    monkeypatch.setattr(time, "time", lambda: clock() + ahead[0])
    sending.say()
    ahead[0] = 0.0
    sending.store.bring_forward(300, 60, 300, 30, 10)
    ahead[0] = 320.0
    assert sending.delivery.look()
    assert sending.waiting() == [("assessment_1", "pacs")]


def test_the_image_is_done_by_its_result_alone(sending: Sending) -> None:
    """It never goes back, whatever becomes of what was said; which is found where what is undelivered is."""
    sending.say()
    sending.delivery.look()
    (item,) = sending.store.due("pacs")
    sending.store.retry([item["id"]], "refused", 0.0)
    assert sending.store.give_up("pacs", 1e12, "") == 1
    assert (sending.state(), sending.store.undelivered_count()) == ("delivered", 1)
    assert [each["kind"] for each in sending.store.undelivered()] == ["assessment_1"]
    assert [row["id"] for row in sending.custody.removable("result", 1e12)] == [], "it is nowhere else"
    assert sending.store.send_undelivered("pacs") == 1
    assert sending.state() == "delivered"
    sending.store.sent(item["id"])
    assert sending.state() == "delivered"
    assert [row["id"] for row in sending.custody.removable("result", 1e12)] == [1]
    assert sending.store.send_delivered("pacs", 0.0) == 1
    assert (sending.state(), list(sending.custody.contradictions())) == ("delivered", [])


def test_what_is_said_meanwhile_does_not_hold_up_the_result(sending: Sending) -> None:
    with closing(sqlite3.connect(sending.config.ledger_path)) as connection, connection:
        connection.execute("UPDATE instance SET state = 'written', finished_at = NULL WHERE id = 1")
        connection.execute(
            "INSERT INTO outbox (object_id, destination, next_attempt_at, queued_at) VALUES (1, 'pacs', 0, 0)"
        )
    sending.say()
    sending.delivery.look()
    of_result, said = sorted(sending.store.due("pacs"), key=lambda item: item["id"])
    sending.store.sent(said["id"])
    assert sending.state() == "written", "the result is not there yet"
    sending.say("amend", reason="less_sure")
    sending.delivery.look()
    sending.store.sent(of_result["id"])
    assert (sending.state(), sending.waiting()) == ("delivered", [("assessment_2", "pacs")])


def test_one_that_can_not_be_made_is_said_and_keeps_no_other_back(
    sending: Sending, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sending.say()
    with monkeypatch.context() as patched:
        patched.setattr(assessment_report, "report", lambda *_: 1 / 0)
        assert not sending.delivery.look()
        assert not sending.delivery.look(), "it is tried again later"
    assert "can't be sent and are tried again" in caplog.text
    shutil.rmtree(sending.config.results_path / "00000001")
    sending.say()
    assert not sending.delivery.look()
    assert "are sent nowhere" in caplog.text
    assert any("sent nowhere" in each["detail"] for each in sending.assessments.events(1))
    assert sending.waiting() == []
