"""HL7 and FHIR messages, judged by the models of hl7apy and fhir.resources: valid whatever the source says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from fhir.resources.R4B.bundle import Bundle
from hl7apy.core import Message
from hl7apy.exceptions import HL7apyException
from hl7apy.parser import parse_message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from appliance import message
from appliance.config import Config, Fhir, Hl7
from appliance.errors import ApplianceError
from appliance.image import Image, describe, load
from appliance.message import MessageWriter, Name, Order
from appliance.result import Prediction
from appliance.writers import message_writers
from appliance.writers.fhir_bundle import FhirBundleWriter
from appliance.writers.hl7_oru import Hl7OruWriter, escape
from tests.dicom_files import make_radiograph
from tests.results import PROVENANCE, WARNING, drawn, found, lungs_beside

KINDS = tuple(message_writers(Config()))
PREDICTIONS = {"found": found(), "absent": found(0.1), "unsure": found(0.3, True), "drawn": drawn(),
               "both": lungs_beside(found())}  # fmt: skip


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return make(tmp_path)


def make(folder: Path, **attributes: Any) -> Image:
    return load(make_radiograph(folder / "source.dcm", rows=16, columns=16, **attributes))


def of_header(header: Dataset) -> Image:
    return Image(np.zeros((2, 2), np.uint8), header, None)


def hl7(image: Image, said: Prediction | None = None, settings: Hl7 | None = None) -> str:
    """The message as text, once hl7apy has found nothing wrong with it."""
    chosen = settings or Hl7()
    data = Hl7OruWriter(chosen).write([image], said or found(), PROVENANCE)
    text = data.decode({"UNICODE UTF-8": "utf-8", "ASCII": "ascii"}.get(chosen.character_set, "iso8859-1"))
    assert parsed(text).validate()
    return text


def parsed(text: str) -> Message:
    return parse_message(text, find_groups=True)


def segments(text: str, name: str) -> list[list[str]]:
    """The fields of the segments of a name, so that those of OBX-5 are ``[5]``."""
    return [line.split("|") for line in text.split("\r") if line.startswith(f"{name}|")]


def fhir(image: Image, said: Prediction | None = None, settings: Fhir | None = None) -> dict[str, Any]:
    """The bundle, once fhir.resources has found nothing wrong with it."""
    data = FhirBundleWriter(settings or Fhir()).write([image], said or found(), PROVENANCE)
    Bundle.model_validate_json(data)
    bundle: dict[str, Any] = json.loads(data)
    return bundle


def resources(bundle: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [entry["resource"] for entry in bundle["entry"] if entry["resource"]["resourceType"] == kind]


# --- both -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("said", PREDICTIONS.values(), ids=PREDICTIONS)
def test_the_same_result_is_the_same_message(kind: str, said: Prediction, image: Image) -> None:
    one: MessageWriter = message_writers(Config())[kind]
    assert one.accepts(said)
    assert one.write([image], said, PROVENANCE) == one.write([image], said, PROVENANCE)
    assert not one.accepts(Prediction((), {}, said.embedding))


@pytest.mark.parametrize("said", PREDICTIONS.values(), ids=PREDICTIONS)
def test_every_kind_of_prediction_makes_valid_messages(said: Prediction, image: Image) -> None:
    named = [(fields[3], fields[4]) for fields in segments(hl7(image, said), "OBX")]
    assert len(set(named)) == len(named), "a receiver keeps one statement for each OBX-3 and OBX-4"
    fhir(image, said)


ODD: dict[str, dict[str, Any]] = {
    "bare": dict.fromkeys(("PatientSex", "StudyTime", "StudyDate", "AccessionNumber", "PatientName", "PatientID",
                           "PatientBirthDate", "StudyID"), None),
    "empty": dict.fromkeys(("PatientSex", "StudyTime", "StudyDate", "AccessionNumber", "PatientName", "PatientID"), ""),
    "delimiters": {"PatientName": "O|Neil^A&B^~x", "PatientID": "1|2^3~4&5", "AccessionNumber": "A|1^2&3"},
    "long": {"PatientName": "^".join("x" * 64 for _ in range(5)), "PatientID": "9" * 64, "AccessionNumber": "7" * 16},
    "early": {"PatientBirthDate": "09001231", "StudyDate": "00010101", "StudyTime": "235960.999"},
    "zone": {"TimezoneOffsetFromUTC": "+0545", "StudyTime": "0730"},
    "wrong zone": {"TimezoneOffsetFromUTC": "soon", "PatientSex": "?"},
    "Cyrillic": {"SpecificCharacterSet": "ISO_IR 144", "PatientName": "Люкceмбypг^Иван"},
    "Japanese": {"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう"},
    "UTF-8": {"SpecificCharacterSet": "ISO_IR 192", "PatientName": "Wang^XiaoDong=王^小东"},
    "several": {"StudyDate": ["20260101", "20260102"], "StudyTime": ["1000", "1100"], "PatientSex": ["M", "F"]},
}  # fmt: skip


@pytest.mark.parametrize("attributes", ODD.values(), ids=ODD)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_odd_sources_make_valid_messages(attributes: dict[str, Any], tmp_path: Path) -> None:
    image = make(tmp_path, **attributes)
    hl7(image)
    fhir(image)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(
    values=st.dictionaries(
        st.sampled_from(["PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyDate",
                         "StudyTime", "IssuerOfPatientID", "TimezoneOffsetFromUTC", "SpecificCharacterSet"]),
        st.binary(max_size=80) | st.text(max_size=30).map(lambda text: text.encode("utf-8", "replace")),
    )
)  # fmt: skip
def test_whatever_bytes_the_source_has_the_messages_are_valid(values: dict[str, bytes]) -> None:
    header = Dataset()
    header.SOPInstanceUID, header.StudyInstanceUID, header.SOPClassUID = "1.2.3", "1.2.4", "1.2.5"
    for keyword, value in values.items():
        tag = Tag(keyword)
        header[tag] = RawDataElement(tag, pydicom.datadict.dictionary_VR(tag), len(value), value, 0, False, True)
    image = of_header(header)
    if reason := message.illegible(image):
        assert [one.obstacle([image]) for one in message_writers(Config()).values()] == [reason] * len(KINDS)
        return
    text = hl7(image)
    assert not set(text.replace("\r", "")) & {chr(code) for code in [*range(32), 127]}
    fhir(image)


def test_what_a_message_reads_the_header_still_holds_undecoded(tmp_path: Path) -> None:
    """Or DICOM objects would no longer have the name's own bytes."""
    path = make_radiograph(tmp_path / "a.dcm", PatientName="Yamada^Tarou")
    header = pydicom.dcmread(path)
    assert Order.of(of_header(header)).names[0] == Name("Yamada", "Tarou", "", "", "")
    assert describe(header)["patient_name"] == "Yamada^Tarou"
    assert isinstance(header.get_item("PatientName"), RawDataElement)


def test_the_patient_and_the_order_are_read_from_the_source(tmp_path: Path) -> None:
    issuer = Dataset()
    issuer.UniversalEntityID, issuer.UniversalEntityIDType = "1.2.40.0.13", "ISO"
    image = make(
        tmp_path, SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientName="Yamada^Tarou^^Dr.^PhD=山田^太郎",
        IssuerOfPatientID="CITY", IssuerOfPatientIDQualifiersSequence=Sequence([issuer]), PatientBirthDate="19700131",
        TimezoneOffsetFromUTC="+0900",
    )  # fmt: skip
    order = Order.of(image)
    assert order.names == (Name("Yamada", "Tarou", "", "Dr.", "PhD"), Name("山田", "太郎", "", "", ""), None)
    assert (order.issuer, order.issuer_oid) == ("CITY", "1.2.40.0.13")
    (pid,) = segments(hl7(image), "PID")
    assert pid[3] == "TEST-0^^^CITY&1.2.40.0.13&ISO"
    assert pid[5] == "Yamada^Tarou^^PhD^Dr.^^L^A~山田^太郎^^^^^L^I"
    assert pid[7:9] == ["19700131", "O"]
    (obr,) = segments(hl7(image), "OBR")
    assert obr[7] == "20260102101500+0900"
    subject = resources(fhir(image), "DiagnosticReport")[0]["subject"]
    assert subject["identifier"] == {
        "value": "TEST-0", "system": "urn:oid:1.2.40.0.13", "assigner": {"display": "CITY"}
    }  # fmt: skip
    assert subject["display"] == "Dr. Tarou Yamada PhD, born 1970-01-31, other"


# --- HL7 ------------------------------------------------------------------------------------------------------------


def test_hl7_says_what_was_found(image: Image) -> None:
    text = hl7(image, found(), Hl7(receiving_application="RIS", assigning_authority="HOSPITAL"))
    (msh,), (orc,), (obr,) = (segments(text, name) for name in ("MSH", "ORC", "OBR"))
    assert msh[2:6] == ["SCANSIDE", "", "RIS", ""]
    assert msh[6] == "20010203233000+0000"
    assert msh[8:12] == ["ORU^R01^ORU_R01", msh[9], "P", "2.5.1"]
    assert len(msh[9]) == 20
    assert msh[17] == "UNICODE UTF-8"
    assert segments(text, "PID")[0][3] == "TEST-0^^^HOSPITAL"
    assert orc[1:4] == ["RE", "", "A1"]
    assert (obr[3], obr[18], obr[24], obr[25]) == ("A1", "A1", "RAD", "P")
    observed = {(obx[3].split("^")[0], obx[4][9:]): obx for obx in segments(text, "OBX")}
    study, series = str(image.header.StudyInstanceUID), str(image.header.SeriesInstanceUID)
    assert observed["112002", ""][5] == f"^{series}^ISO"
    assert observed["113014", ""][5] == f"^{study}^ISO"
    assert observed["233604007", "1"][5] == "52101004^Present^SCT"
    assert observed["233604007", "1"][8] == "A"
    assert observed["111012", "1"][5:7] == ["93.40", "%^percent^UCUM"]
    assert all(obx[11] == "P" for obx in segments(text, "OBX"))
    assert WARNING.replace("|", "\\F\\") in text
    assert "NOT FOR DIAGNOSIS" in text


def test_two_sides_of_one_study_are_kept_apart(tmp_path: Path) -> None:
    study: dict[str, Any] = {"StudyInstanceUID": "1.2.3", "AccessionNumber": "A1"}
    left = make(tmp_path / "left", SeriesDescription="Hippo L", Laterality="L", **study)
    right = make(tmp_path / "right", SeriesDescription="Hippo R", ImageLaterality="R", seed=1, **study)
    kept = [{(obx[3], obx[4]): obx[5] for obx in segments(hl7(each, drawn()), "OBX")} for each in (left, right)]
    assert not kept[0].keys() & kept[1].keys()
    for said, side, name in zip(kept, ("7771000^Left^SCT", "24028007^Right^SCT"), ("Hippo L", "Hippo R"), strict=True):
        assert side in said.values() and f"Series: {name}" in said.values()
    again = {(obx[3], obx[4]): obx[5] for obx in segments(hl7(left, drawn()), "OBX")}
    assert again.keys() == kept[0].keys()
    for each, display in ((left, "Left"), (right, "Right")):
        for observation in resources(fhir(each, drawn()), "Observation"):
            sides = [part for part in observation["component"] if "valueCodeableConcept" in part]
            assert [part["valueCodeableConcept"]["coding"][0]["display"] for part in sides] == [display]
            assert observation["derivedFrom"][0]["display"].startswith("Hippo")


def test_hl7_says_what_was_drawn(image: Image) -> None:
    observed = segments(hl7(image, drawn()), "OBX")
    first = [obx for obx in observed if obx[4].endswith(".1")]
    assert [obx[3].split("^")[1] for obx in first] == ["Finding Site", "Topographical modifier", "Volume", "Comment"]
    assert first[2][5:7] == ["1.623", "mL^milliliter^UCUM"]
    assert next(obx for obx in observed if obx[4].endswith(".2") and "Volume" in obx[3])[5] == "0"
    both = hl7(image, lungs_beside(found()))
    assert "|25.14|%^percent^UCUM|" in both
    assert "|51234.6|mm2^square millimeter^UCUM|" in both
    assert "Made by lungs 1.0.0" in both


def test_hl7_escapes_what_delimits(tmp_path: Path) -> None:
    image = make(tmp_path, PatientName="A|B&C~D^x", PatientID="1|2", AccessionNumber="3^4")
    (pid,) = segments(hl7(image), "PID")
    assert pid[3].startswith("1\\F\\2")
    assert pid[5] == "A\\F\\B\\T\\C\\R\\D^x^^^^^L^A"
    assert escape("a\\T\\b\nc") == "a\\E\\T\\E\\b c"


@pytest.mark.parametrize(("name", "said"), [("8859/1", "M\xfcller^?"), ("ASCII", "M?ller^?"),
                                            ("UNICODE UTF-8", "M\xfcller^\u5c71")])  # fmt: skip
def test_hl7_has_the_character_set_that_it_states(name: Any, said: str, tmp_path: Path) -> None:
    image = make(tmp_path, SpecificCharacterSet="ISO_IR 192", PatientName="Müller^山")
    text = hl7(image, found(), Hl7(character_set=name))
    assert segments(text, "MSH")[0][17] == name
    assert segments(text, "PID")[0][5].startswith(said)


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"PatientID": "Ж1"}, "Patient ID (0010,0020) has"),
        ({"IssuerOfPatientID": "Ж"}, "Issuer of Patient ID (0010,0021) has"),
        ({"AccessionNumber": "Ж1"}, "Accession Number (0008,0050) has"),
    ],
)
def test_hl7_is_not_made_where_its_character_set_would_make_one_patient_of_two(
    attributes: dict[str, str], said: str, tmp_path: Path
) -> None:
    image = make(tmp_path, SpecificCharacterSet="ISO_IR 192", **attributes)
    for name in ("8859/1", "ASCII"):
        one = Hl7OruWriter(Hl7(character_set=name))  # type: ignore[arg-type]
        assert one.obstacle([image]) == f"{said} characters that the character set {name} has not"
        with pytest.raises(ApplianceError, match=re.escape(said)):
            one.write([image], found(), PROVENANCE)
    for name in ("8859/5", "UNICODE UTF-8"):
        assert Hl7OruWriter(Hl7(character_set=name)).obstacle([image]) == ""  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("character_set", [None, b"ISO_IR 192"])
@pytest.mark.parametrize(
    ("keyword", "vr", "said"),
    [
        ("PatientID", "LO", "Patient ID (0010,0020)"),
        ("IssuerOfPatientID", "LO", "Issuer of Patient ID (0010,0021)"),
        ("AccessionNumber", "SH", "Accession Number (0008,0050)"),
    ],
)
def test_no_message_names_what_can_not_be_read_for_certain(
    kind: str, character_set: bytes | None, keyword: str, vr: str, said: str
) -> None:
    """Latin-1 under UTF-8 made one patient of two, and an ID with a backslash in it counted as none."""

    def image(value: bytes) -> Image:
        header = Dataset()
        if character_set:
            header.SpecificCharacterSet = character_set.decode()
        tag = Tag(keyword)
        header[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)
        header.StudyInstanceUID, header.SeriesInstanceUID, header.SOPInstanceUID = "1.2.9", "1.2.8", "1.2.3"
        return of_header(header)

    one: MessageWriter = message_writers(Config())[kind]
    stray = "M\xfcller1".encode("utf-8" if character_set is None else "latin-1")
    for value in (stray, b"12\\34"):
        assert one.obstacle([image(value)]) == f"{said} is not one value in the character set that the image states"
        with pytest.raises(ApplianceError, match=re.escape(said)):
            one.write([image(value)], found(), PROVENANCE)
    for value in (b"", b"  ", b"1234"):
        assert one.obstacle([image(value)]) == ""
    if character_set is not None:
        assert one.obstacle([image("M\xfcller1".encode())]) == ""


def test_hl7_without_a_patient_id_names_nobody_else(tmp_path: Path) -> None:
    one = segments(hl7(make(tmp_path, PatientID="", StudyInstanceUID="1.2.3")), "PID")[0][3]
    other = segments(hl7(make(tmp_path, PatientID="", StudyInstanceUID="1.2.4")), "PID")[0][3]
    assert one.endswith("^^^SCANSIDE^ANON")
    assert one != other


def test_the_judge_of_hl7_bites(image: Image) -> None:
    text = hl7(image)
    with pytest.raises(HL7apyException):
        parsed(text.replace("18748-4^Diagnostic imaging study^LN", "")).validate()


# --- FHIR -----------------------------------------------------------------------------------------------------------


def test_fhir_says_what_was_found(image: Image) -> None:
    bundle = fhir(image, found())
    (report,), (observation,), (device,) = (
        resources(bundle, kind) for kind in ("DiagnosticReport", "Observation", "Device")
    )
    assert report["status"] == observation["status"] == "preliminary"
    study = f"urn:oid:{image.header.StudyInstanceUID}"
    assert report["imagingStudy"][0]["identifier"] == {"system": "urn:dicom:uid", "value": study}
    assert report["basedOn"][0]["identifier"]["value"] == "A1"
    assert report["effectiveDateTime"] == "2026-01-02"  # its source states no time zone
    assert WARNING in report["conclusion"]
    assert report["conclusionCode"][0]["coding"][0]["code"] == "233604007"
    assert observation["valueCodeableConcept"]["text"] == "Present"
    quantity = observation["component"][0]["valueQuantity"]
    assert quantity == {"value": 93.4, "unit": "%", "system": "http://unitsofmeasure.org", "code": "%"}
    assert observation["meta"]["security"][0]["code"] == "AIAST"
    assert device["version"][0]["value"] == "1.0.0"
    urls = {entry["resource"]["resourceType"]: entry["fullUrl"] for entry in bundle["entry"]}
    assert report["result"] == [{"reference": urls["Observation"]}]
    assert observation["device"] == {"reference": urls["Device"]}


def test_fhir_says_what_was_drawn(image: Image) -> None:
    first, second = resources(fhir(image, drawn()), "Observation")
    assert first["valueQuantity"] == {"value": 1.623, "unit": "mL", "system": "http://unitsofmeasure.org", "code": "mL"}
    assert second["valueQuantity"]["value"] == 0.0
    assert [code["display"] for code in first["bodySite"]["coding"]] == ["Hippocampus", "Anterior"]
    bundle = fhir(image, lungs_beside(found()))
    assert [each["deviceName"][0]["name"] for each in resources(bundle, "Device")] == ["chest-pneumonia", "lungs"]
    share = resources(bundle, "Observation")[1]
    assert share["code"] == {"text": message.AREA_SHARE.meaning}
    assert share["valueQuantity"]["value"] == 25.14
    assert share["component"][0]["valueQuantity"]["value"] == 51234.6


def test_fhir_creates_nothing_twice_and_nothing_that_is_not_ours(image: Image) -> None:
    bundle = fhir(image, lungs_beside(found()))
    assert {entry["request"]["url"] for entry in bundle["entry"]} == {"Device", "Observation", "DiagnosticReport"}
    for entry in bundle["entry"]:
        identifier = entry["resource"]["identifier"][0]
        assert entry["request"]["ifNoneExist"] == f"identifier={identifier['system']}|{identifier['value']}"
    assert len({entry["fullUrl"] for entry in bundle["entry"]}) == len(bundle["entry"])


def test_fhir_names_the_systems_that_are_configured(image: Image) -> None:
    report = resources(fhir(image, found(), Fhir(patient_system="https://example.org/mrn")), "DiagnosticReport")[0]
    assert report["subject"]["identifier"]["system"] == "https://example.org/mrn"
    assert "system" not in report["basedOn"][0]["identifier"]


def test_the_judge_of_fhir_bites(image: Image) -> None:
    bundle = fhir(image)
    resources(bundle, "Observation")[0].pop("code")
    with pytest.raises(ValueError, match="code"):
        Bundle.model_validate(bundle)
