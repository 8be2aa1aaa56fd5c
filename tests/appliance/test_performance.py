"""Truth from readers and diagnoses, the figures and the test that it leads to, and the ticket."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance import measures, performance, sequential, truth
from appliance.assessment_store import REASONS, Assessments
from appliance.audit import Trail
from appliance.cli import main
from appliance.config import Config, Performance
from appliance.diagnoses import Findings, parse
from appliance.errors import DiagnosisError
from appliance.reading_order import tier
from appliance.result import Code, Finding
from appliance.safe_mode import SafeMode
from appliance.safety_watch import SafetyWatch
from appliance.store import Arrival, Store
from appliance.truth_store import Diagnosis, TruthStore
from appliance.web.app import create_app
from appliance.writers.fhir_bundle import FhirBundleWriter
from appliance.writers.hl7_oru import Hl7OruWriter
from compression import rates, roc
from tests.appliance.conftest import browser
from tests.dicom_files import make_radiograph
from tests.results import PROVENANCE, found

KNOWN = Findings({"Pneumonia": frozenset({"233604007"})}, {"Pneumonia": ("J12*", "J18*", "lung infection")})
SHA = "ab" * 32
PNEUMONIA = Code("233604007", "SCT", "Pneumonia")


class Site:
    """A ledger with results of one package: image 1 is of study 1.2.1 and accession number A1, and so on."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.config = Config(data_dir=str(folder), performance=Performance(**settings))
        self.store, self.truth = Store(self.config.ledger_path), TruthStore(self.config.ledger_path)
        self.trail = Trail(self.config.audit_path, self.config.key_path)

    def add(self, number: int, probability: float, study: int | None = None, **described: str) -> int:
        arrival = Arrival(f"1.9.{number}", "1.2", f"{number:064d}", f"{number}.dcm", 1, "storage_scp", "CT",
                          ae_title="ROOM1")  # fmt: skip
        identifier = self.store.receive(arrival).instance_id
        self.store.claim("worker", 30)
        study = study or number
        header = {
            "study_instance_uid": f"1.2.{study}", "accession_number": f"A{study}", "patient_id": f"P{study}",
            "patient_age": "004Y", "patient_sex": "F", "view": "PA", **described,
        }  # fmt: skip
        self.store.triage(identifier, "worker", header, "routine", 0.0)
        finding = Finding("Pneumonia", PNEUMONIA, probability, 0.4, "balanced", probability >= 0.4, True, "Words.")
        result = {
            "findings": [msgspec.to_builtins(finding)], "warnings": [],
            "provenance": {"package": "chest", "version": "1.0", "package_sha256": SHA, "safe_mode": "none"},
            "seconds": {"total": 0.1}, "urgent": finding.positive,
        }  # fmt: skip
        self.store.finish(identifier, "worker", result, [], [], "", tier([finding]), "low")
        return identifier

    def say(self, *said: Diagnosis) -> dict[str, Any]:
        return self.truth.add("csv", "test", said, 0)

    def cases(self) -> tuple[list[truth.Case], dict[str, int]]:
        found, troubles = performance.cases_of(self.truth)
        return found, {kind: n for kind in truth.TROUBLES if (n := sum(each.kind == kind for each in troubles))}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


# --- what readers say -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "verdict", "reason", "meant"),
    [
        ("present", "agree", "", True),
        ("absent", "agree", "", False),
        ("indeterminate", "agree", "", None),
        ("present", "disagree", "not_there", False),
        ("absent", "disagree", "missed", True),
        ("indeterminate", "disagree", "missed", True),
        ("present", "disagree", "other_cause", False),
        ("absent", "disagree", "other_cause", None),
        ("present", "disagree", "image_quality", None),
        ("present", "disagree", "other", False),
        ("present", "amend", "wrong_place", True),
        ("absent", "amend", "less_sure", False),
        ("present", "amend", "other", None),
    ],
)
def test_what_an_assessment_says_of_the_truth(said: str, verdict: str, reason: str, meant: bool | None) -> None:
    assert truth.of_reader(said, verdict, reason) is meant


def test_every_reason_has_a_meaning() -> None:
    for verdict, reasons in REASONS["finding"].items():
        for reason in reasons:
            for said in ("present", "absent", "indeterminate"):
                assert truth.of_reader(said, verdict, reason) in (True, False, None)


def test_a_later_assessment_takes_the_place_of_an_earlier_one(site: Site) -> None:
    number = site.add(1, 0.9)
    readers = Assessments(site.config.ledger_path)
    readers.assess(number, "finding", "Pneumonia", "agree")
    readers.assess(number, "finding", "Pneumonia", "disagree", "not_there", "", "ito")
    (case,), left_out = site.cases()
    assert (case.truth, case.positive, case.source, left_out) == (False, True, "reader", {})
    assert dict(case.groups) == {"age": "1 to 5", "sex": "female", "scanner": "ROOM1", "view": "PA"}


def test_a_study_has_no_finding_once_all_its_images_were_judged(site: Site) -> None:
    first, second = site.add(1, 0.1), site.add(2, 0.9, study=1)
    site.add(3, 0.1, study=3)
    other = site.add(4, 0.9, study=3)
    readers = Assessments(site.config.ledger_path)
    readers.assess(first, "finding", "Pneumonia", "agree")
    assert site.cases() == ([], {})  # nobody has said anything of the image that the model calls positive
    site.say(Diagnosis("1.2.1", "", "Pneumonia", True))
    (case,), troubles = site.cases()
    assert (case.truth, case.positive, case.probability, troubles) == (True, True, 0.9, {})
    readers.assess(second, "finding", "Pneumonia", "disagree", "not_there")
    assert site.cases()[1] == {"readers_differ": 1}
    readers.assess(other, "finding", "Pneumonia", "agree")
    assert [(case.study, case.truth) for case in site.cases()[0]] == [("1.2.1", True), ("1.2.3", True)]


# --- what diagnoses say -----------------------------------------------------------------------------------------------


def test_diagnoses_are_matched_and_what_is_not_is_counted_and_harmless(site: Site) -> None:
    for number in range(1, 8):
        site.add(number, 0.9)
    site.add(8, 0.2, study=8)
    site.add(9, 0.7, study=8)  # two images of one study
    site.add(10, 0.9, accession_number="A1", patient_id="another")
    say, finding = site.say, "Pneumonia"
    taken = say(
        Diagnosis("1.2.2", "", finding, True),
        Diagnosis("", "a3", finding, False),  # by accession number, in any case
        Diagnosis("1.2.8", "", finding, True),
        Diagnosis("1.2.99", "", finding, True),  # unknown study
        Diagnosis("", "A1", finding, True),  # of two patients
        Diagnosis("1.2.4", "", "Fracture", True),  # nobody looks for it
        Diagnosis("1.2.5", "", finding, True),
        Diagnosis("1.2.5", "", finding, False),  # contradicts it
        Diagnosis("1.2.6", "", finding, True),
        Diagnosis("1.2.6", "", finding, False, corrected=True),  # corrects it
    )
    assert (taken["taken"], taken["repeated"]) == (10, 0)
    assert say(Diagnosis("1.2.2", "", finding, True))["repeated"] == 1
    readers = Assessments(site.config.ledger_path)
    readers.assess(2, "finding", finding, "disagree", "not_there")  # a reader differs: the diagnosis counts
    found, left_out = site.cases()
    by_study = {case.study: case for case in found}
    assert {study: case.truth for study, case in by_study.items()} == {
        "1.2.2": True, "1.2.3": False, "1.2.8": True, "1.2.6": False,
    }  # fmt: skip
    assert (by_study["1.2.8"].probability, by_study["1.2.8"].positive, by_study["1.2.8"].instance) == (0.7, True, 9)
    assert left_out == {"unmatched": 1, "ambiguous": 1, "not_looked_for": 1, "contradictory": 1, "readers_differ": 1}
    site.add(99, 0.1)  # its study comes later
    found, left_out = site.cases()
    assert "unmatched" not in left_out
    assert {case.study for case in found} == {*by_study, "1.2.99"}


CSV = """Study Instance UID;Accession Number;Finding;Present;Date;Status
1.2.1;;Pneumonia;yes;2026-11-01;final
;A2;233604007;NEGATIVE;20261102;
1.2.3;;J18.9;1;2026-11-02T10:00:00+01:00;corrected
1.2.4;;Lung infection;0;;preliminary
1.2.5;;Fracture;yes;;
x;;Pneumonia;yes;;
;;Pneumonia;yes;;
1.2.6;;Pneumonia;perhaps;;
1.2.7;;Pneumonia;yes;tomorrow;
1.2.8;;Pneumonia;yes;;;one;too;many

"""


@pytest.mark.parametrize("separator", [";", ",", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_csv(separator: str, encoding: str) -> None:
    said = parse(CSV.replace(";", separator).replace("\n", "\r\n").encode(encoding), KNOWN)
    told = [(each.study_instance_uid, each.accession_number, each.present, each.corrected) for each in said.diagnoses]
    assert told == [("1.2.1", "", True, False), ("", "A2", False, False), ("1.2.3", "", True, True)]
    assert said.diagnoses[2].diagnosed_at == datetime(2026, 11, 2, 9, tzinfo=UTC).timestamp()
    assert (said.form, said.others, said.not_final) == ("csv", 1, 1)
    assert [fault.partition(":")[0] for fault in said.faults] == ["line 7", "line 8", "line 9", "line 10", "line 11"]
    with pytest.raises(DiagnosisError, match="the first line names no column study_instance_uid or accession_number"):
        parse(b"finding,present\nPneumonia,yes\n", KNOWN)


ORU = (
    "MSH|^~\\&|RIS|X|SCANSIDE|Y|20261101||ORU^R01^ORU_R01|1|P|2.5.1\rPID|1||P1\rORC|RE\r"
    "OBR|1||A7|18748-4^^LN|||20261101|||||||||||A7\r{segments}"
)
STUDY = "OBX|1|HD|113014^DICOM Study^DCM||^1.2.7^ISO||||||F\r"


def oru(*segments: str) -> bytes:
    return ORU.format(segments="\r".join(segments) + "\r").encode()


def test_hl7() -> None:
    present = "OBX|2|CE|233604007^Pneumonia^SCT||52101004^Present^SCT||||||F|||202611011200"
    said = parse(
        b"\x0b" + oru(STUDY.strip(), present) + b"\x1c\r" + oru("DG1|1||J18.9^Pneumonia^I10||20261102|F"), KNOWN
    )
    assert [(each.study_instance_uid, each.accession_number, each.present) for each in said.diagnoses] == [
        ("1.2.7", "A7", True), ("", "A7", True),
    ]  # fmt: skip
    for status, counted in (("P", "not_final"), ("C", "diagnoses")):
        changed = parse(oru(present.replace("||F|", f"||{status}|")), KNOWN)
        assert getattr(changed, counted)
    assert parse(oru("DG1|1||J18.9|||W", "DG1|2||S52.5|||F"), KNOWN).not_final == 1
    assert parse(oru().replace(b"ORU^R01", b"ADT^A01"), KNOWN).faults == [
        "message 1: it is of the type ADT^A01, and ORU^R01 is read"
    ]


def fhir(status: str = "final", **more: Any) -> bytes:
    observation = {
        "resourceType": "Observation", "status": status,
        "code": {"coding": [{"system": "http://snomed.info/sct", "code": "233604007"}]},
        "valueCodeableConcept": {"coding": [{"code": "2667000", "display": "Absent"}]},
    }  # fmt: skip
    report = {
        "resourceType": "DiagnosticReport", "status": status, "effectiveDateTime": "2026-11-01",
        "imagingStudy": [{"identifier": {"system": "urn:dicom:uid", "value": "urn:oid:1.2.7"}}],
        "basedOn": [{"identifier": {"value": "A7"}}], "result": [{"reference": "urn:uuid:1"}], **more,
    }  # fmt: skip
    entries = [{"fullUrl": "urn:uuid:1", "resource": observation}, {"resource": report}]
    return json.dumps({"resourceType": "Bundle", "type": "collection", "entry": entries}).encode()


def test_fhir() -> None:
    (said,) = parse(fhir(), KNOWN).diagnoses
    assert (said.study_instance_uid, said.accession_number, said.present, said.corrected) == (
        "1.2.7",
        "A7",
        False,
        False,
    )
    assert parse(fhir("corrected"), KNOWN).diagnoses[0].corrected
    assert parse(fhir("preliminary"), KNOWN).not_final == 1
    concluded = parse(fhir(result=[], conclusionCode=[{"coding": [{"code": "J18.9"}]}]), KNOWN)
    assert [each.present for each in concluded.diagnoses] == [True]
    with pytest.raises(DiagnosisError, match="neither a FHIR Bundle"):
        parse(b'{"resourceType": "Patient"}', KNOWN)


def test_what_this_appliance_said_itself_is_no_truth(tmp_path: Path) -> None:
    from appliance.config import Fhir, Hl7
    from appliance.image import load

    images = [load(make_radiograph(tmp_path / "x.dcm"))]
    for content in (
        Hl7OruWriter(Hl7()).write(images, found(), PROVENANCE),
        FhirBundleWriter(Fhir()).write(images, found(), PROVENANCE),
        FhirBundleWriter(Fhir()).write(images, found(), PROVENANCE).replace(b'"preliminary"', b'"final"'),
    ):
        said = parse(content, KNOWN)
        assert said.diagnoses == []
        assert said.not_final > 0


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300), st.sampled_from([b"", b"MSH|^~\\&|", b"{", b"finding,present,accession\n", oru()]))
def test_whatever_a_file_holds_is_read_or_refused(content: bytes, begin: bytes) -> None:
    try:
        said = parse(begin + content, KNOWN)
    except DiagnosisError:
        return
    assert all(each.study_instance_uid or each.accession_number for each in said.diagnoses)


KEYS = ["result", "reference", "coding", "code", "identifier", "value", "imagingStudy", "meta", "basedOn", "entry",
        "conclusionCode", "contained", "issued"]  # fmt: skip
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), json_values, max_size=6))
def test_a_report_of_any_shape_is_read_or_refused(content: dict[str, Any]) -> None:
    parse(json.dumps({**content, "resourceType": "DiagnosticReport", "status": "final"}).encode(), KNOWN)


# --- figures ---------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=4, max_size=80))
def test_rates_and_areas_are_those_of_the_training_side(given: list[tuple[int, bool]]) -> None:
    scores, labels = np.array([each[0] / 20 for each in given]), np.array([each[1] for each in given])
    right, patients = (scores >= 0.5) == labels, np.arange(len(labels))
    ours, theirs = measures.rate(right, patients), rates.wilson(rates.Rate(right.sum(), len(right)))
    assert ours is not None
    assert (ours.value, ours.low, ours.high) == pytest.approx(theirs)
    area = measures.auc(scores, labels, patients)
    if labels.all() or not labels.any():
        assert area is None
        return
    assert area is not None
    areas = roc.delong(scores[np.newaxis], labels, patients)
    assert area.value == pytest.approx(areas.value[0])
    assert area.low <= area.value <= area.high
    if min(labels.sum(), (~labels).sum()) > 1 and areas.covariance[0, 0] > 1e-12 and 0.01 < area.value < 0.99:
        assert (area.low, area.high) == pytest.approx(roc.auc_interval(areas)[1:], abs=1e-6)


def test_calibration_and_trend() -> None:
    chance = np.random.default_rng(1)
    said = chance.random(4000)
    there = chance.random(4000) < said
    patients = np.arange(4000)
    good, bad = measures.calibration(said, there, patients), measures.calibration(said**3, there, patients)
    assert good is not None
    assert bad is not None
    assert good.ece < 0.03 < 0.2 < bad.ece
    assert good.in_the_large.low < 0 < good.in_the_large.high
    assert bad.in_the_large.low > 0.2
    assert sum(each.seen.n for each in good.bins) == 4000
    assert measures.calibration(np.zeros(0), np.zeros(0, bool), np.zeros(0)) is None
    days = np.linspace(-360, 0, 1500)
    falling = measures.trend(days, chance.random(1500) < np.linspace(0.99, 0.8, 1500))
    level = measures.trend(days, chance.random(1500) < 0.95)
    assert falling is not None
    assert level is not None
    assert falling.is_seen
    assert falling.change.value < 0
    assert falling.ahead.value < falling.now.value < 0.9
    assert level.now.low < 0.95 < level.now.high
    old = measures.trend(days - 90, chance.random(1500) < np.linspace(0.99, 0.8, 1500))
    assert old is not None
    assert old.now.value < falling.now.value  # the line goes on to today, not to the latest case
    assert measures.trend(days[:30], np.ones(30, bool)) is None


def test_sensitivity_is_corrected_where_negatives_are_seldom_verified() -> None:
    # 1,000 studies, 200 with the finding; 160 of them and 80 others are positive. All positives are verified, and one
    # negative of ten: 4 of the 40 that were missed, 72 of the 720 others.
    corrected = measures.corrected_sensitivity(160, 80, 4, 72, 0.24, 1000)
    assert corrected is not None
    assert corrected.value == pytest.approx(0.8, abs=0.001)  # of those that were verified, 160 of 164 are right
    assert corrected.low < 0.8 < corrected.high
    none_missed = measures.corrected_sensitivity(160, 80, 0, 76, 0.24, 1000)
    assert none_missed is not None
    assert none_missed.low < none_missed.value < 0.99 < none_missed.high
    assert measures.corrected_sensitivity(160, 80, 0, 0, 0.24, 1000) is None


def test_the_correction_is_of_the_months_that_its_cases_are_of(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    now, finding = time.time(), "Pneumonia"
    monkeypatch.setattr(time, "time", lambda: now - 200 * 86400)
    for number in range(1, 101):  # ten positive ones of a hundred
        site.add(number, 0.9 if number <= 10 else 0.1)
    monkeypatch.setattr(time, "time", lambda: now)
    for number in range(101, 121):  # ten of twenty
        site.add(number, 0.9 if number <= 110 else 0.1)
    site.say(*(Diagnosis(f"1.2.{number}", "", finding, True) for number in (*range(1, 11), *range(101, 111))))
    client = browser(create_app(site.config))
    (report,) = performance.measure(site.config, site.truth).reports
    assert report.coverage.one_sided
    assert report.corrected is None
    page = client.get("/performance").get_data(as_text=True)
    assert "nothing tells how many were missed" in page
    assert "<dt>Sensitivity</dt><dd><small>not known</small>" in page
    site.say(*(Diagnosis(f"1.2.{number}", "", finding, number == 11) for number in range(11, 21)))
    (report,) = performance.measure(site.config, site.truth).reports
    assert report.corrected is not None
    # Of the year's 120 studies 20 are positive, all right; of 100 negative ones a tenth is wrong: 20 found, 10 missed.
    assert report.corrected.value == pytest.approx(20 / 30)


def test_several_studies_of_a_patient_are_no_independent_evidence(tmp_path: Path) -> None:
    widths, chance = [], np.random.default_rng(4)
    scores = chance.random(4).repeat(20) * 0.8 + chance.random(80) * 0.2  # alike in twenty studies each
    for patients in (40, 4):
        site = Site(tmp_path / str(patients))
        for number, score in enumerate(scores.tolist()):
            site.add(number + 1, score, patient_id=f"P{number * patients // 80}")
        site.say(*(Diagnosis(f"1.2.{number + 1}", "", "Pneumonia", number % 2 == 0) for number in range(80)))
        (report,) = performance.measure(site.config, site.truth).reports
        figures = report.figures
        assert figures.sensitivity
        assert figures.specificity
        assert figures.auc
        assert report.calibration
        estimates = (figures.sensitivity, figures.specificity, figures.auc, report.calibration.in_the_large)
        assert [each.n for each in estimates] == [40, 40, 80, 80]
        widths.append([each.high - each.low for each in estimates])
        assert report.tests["sensitivity"].cases == patients
    assert (np.array(widths[1]) > 1.3 * np.array(widths[0])).all()


# --- the test and its ticket ------------------------------------------------------------------------------------------


def test_each_bet_is_fair_at_the_floor_and_loses_above_it() -> None:
    for floor in (0.8, 0.92, 0.99):
        bets = sequential.alternatives(floor)
        assert ((bets > 0) & (bets < floor)).all()
        for rate in (floor, (1 + floor) / 2, 1.0):
            expected = rate * bets / floor + (1 - rate) * (1 - bets) / (1 - floor)
            assert (expected <= 1 + 1e-12).all()


def test_a_model_that_falls_below_its_floor_opens_one_ticket(site: Site) -> None:
    for number in range(1, 61):
        site.add(number, 0.9 if number <= 30 or number % 2 else 0.1)
    site.say(*(Diagnosis(f"1.2.{number}", "", "Pneumonia", True) for number in range(1, 31)))
    assert performance.look(site.config, site.truth, site.trail) == []
    site.say(*(Diagnosis(f"1.2.{number}", "", "Pneumonia", True) for number in range(31, 61)))
    assert performance.look(site.config, site.truth, site.trail) == [1]
    assert performance.look(site.config, site.truth, site.trail) == []
    (ticket,) = site.truth.tickets()
    evidence = msgspec.json.decode(ticket["evidence"], type=sequential.Evidence)
    assert (evidence.by != "none", evidence.cases, evidence.right) == (True, 60, 45)
    assert 28 < evidence.since_case < 36  # it got worse from case 31 on

    mode = SafeMode(site.config, site.trail)
    SafetyWatch(site.config, site.trail).look(mode, site.truth)
    assert [(each.kind, each.level, each.package) for each in mode.store.in_force()] == [("performance", "review", SHA)]
    client = browser(create_app(site.config))
    page = client.get("/performance").get_data(as_text=True)
    assert "The sensitivity" not in page
    assert "Nothing retrains by itself" in page
    assert "scanside_retraining_tickets 1.0" in client.get("/metrics").get_data(as_text=True)
    assert client.post("/performance/close", data={"ticket": 1, "by": "ito", "why": " "}).status_code == 409
    assert (
        client.post("/performance/close", data={"ticket": 1, "by": "ito", "why": "threshold kept"}).status_code == 302
    )
    assert performance.look(site.config, site.truth, site.trail) == []  # the test begins anew
    mode.look()
    assert mode.store.in_force() == []
    assert "closed" in client.get("/performance").get_data(as_text=True)


def test_a_clock_that_was_ahead_spoils_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 60 * 86400)
    for number in range(1, 61):
        site.add(number, 0.1)
    site.say(*(Diagnosis(f"1.2.{number}", "", "Pneumonia", True) for number in range(1, 61)))
    assert performance.look(site.config, site.truth, site.trail) == [1]
    monkeypatch.setattr(time, "time", lambda: now + 3000 * 86400)
    site.add(61, 0.9)
    site.say(Diagnosis("1.2.61", "", "Pneumonia", True))
    site.truth.close_ticket(1, "ito", "threshold kept")

    monkeypatch.setattr(time, "time", lambda: now)
    found = performance.measure(site.config, site.truth)
    (report,) = found.reports
    assert (found.cases, report.figures.n, len(report.months)) == (61, 60, 1)
    assert found.counted()["clock_ahead"] == 1
    page = browser(create_app(site.config)).get("/performance").get_data(as_text=True)
    assert "These figures are old" in page
    assert "answers that a clock which was ahead has dated into the future" in page
    assert performance.look(site.config, site.truth, site.trail) == [2]  # not first in 3,000 days


def test_the_page_says_how_old_and_how_one_sided_the_evidence_is(tmp_path: Path) -> None:
    site = Site(tmp_path, evidence_days=0.000001)
    client = browser(create_app(site.config))
    assert "Nothing is known of how good" in client.get("/performance").get_data(as_text=True)
    for number in range(1, 41):
        site.add(number, 0.9 if number % 2 else 0.1)
    page = browser(create_app(site.config)).get("/performance").get_data(as_text=True)
    assert "40 answers of the last 90 days have no truth" in page
    site.say(*(Diagnosis(f"1.2.{number}", "", "Pneumonia", number % 3 > 0) for number in range(1, 40, 2)))
    time.sleep(0.2)
    page = client.get("/performance").get_data(as_text=True)
    assert "These figures are old" in page
    assert "The truth is one-sided" in page
    assert "It is known of 20 of 20 positive answers, but of 0 of 20 negative ones" in page
    for number in range(2, 41, 2):
        Assessments(site.config.ledger_path).assess(number, "finding", "Pneumonia", "agree")
    page = client.get("/performance").get_data(as_text=True)
    assert "one-sided" not in page
    assert page.count('<svg class="chart plot"') == 2
    assert "P1" not in page
    assert "style=" not in page


# --- by command -------------------------------------------------------------------------------------------------------


def test_the_commands(site: Site, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        site.add(number, 0.9)
    file = tmp_path / "said.csv"
    file.write_text(CSV)
    data = ("--data", site.config.data_dir)

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(main, [*arguments, *data])

    answer = run("diagnoses", "import", str(file))
    assert answer.exit_code == 1, answer.output  # five lines were not readable; the rest is taken
    assert "2 taken, 0 there already, 3 about other findings, 0 not final, 5 not readable" in answer.output
    assert "line 9: 'perhaps' does not say whether it is present" in answer.output
    assert "2 cases with a truth; 0 diagnoses of studies that have no result here" in answer.output
    assert "0 taken, 2 there already" in run("diagnoses", "import", str(file)).output
    said = json.loads(run("performance", "show", "--json").output)
    assert (said["cases"], said["reports"][0]["figures"]["sensitivity"]["value"]) == (2, 1.0)
    shown = run("performance", "show").output
    assert "Pneumonia, chest 1.0: 2 cases, 1 with it" in shown
    assert f"calibration error (ECE)     {said['reports'][0]['calibration']['ece']:.3f}" in shown
    assert "there more often than said" in shown
    file.write_text("study_instance_uid,finding,present\n1.2.3,Pneumonia,yes\n")
    assert run("diagnoses", "import", str(file)).exit_code == 0
    assert "Diagnoses of a study" in run("diagnoses", "left-out").output
    file.write_text("nonsense")
    refused = run("diagnoses", "import", str(file))
    assert refused.exit_code == 1
    assert f"{file}: the first line names no column" in refused.output
    assert "there is no open retraining ticket 7" in run("performance", "close", "7", "--why", "x").output
