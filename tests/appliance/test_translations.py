"""The page's languages: which is chosen, that nothing is left out or said by half, and that it is compiled.

Sentences that come from elsewhere are held against the code that says them, so that none goes stale.
"""

from __future__ import annotations

import ast
import gettext
import re
import ssl
import subprocess
import sys
import tomllib
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest
import werkzeug.exceptions
from babel.messages.catalog import Catalog, Message
from babel.messages.pofile import read_po
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset, dcmread

from appliance import certificates, doctor, errand_process, package, send, tls_client
from appliance.acceptor import tls
from appliance.config import Config, Destination, StorageScp, Tls
from appliance.connection import secure
from appliance.connection.question import Question
from appliance.errors import ConfigError, NotAcceptedError
from appliance.route import route
from appliance.web import language, recorded
from appliance.web.app import create_app
from appliance.web.sentences import FORMS
from tests.appliance.test_web import Box
from tests.certificates import HOUR, Authority
from tests.dicom_files import make_radiograph
from tests.peers import free_port
from tests.running import CHECKOUT

TRANSLATED = [name for name in language.LANGUAGES if name != "en"]
PLACES = re.compile(r"%\((\w+)\)[sr]|%%")
TAGS = re.compile(r"</?\w+[^>]*>")
# What is the same in every language: names, units and codes.
ALIKE = {"Linux", "Mbit", "mL", "STAT", "Scanside", "PSI", "KS", "AUC", "SHA", "DeLong", "McNemar", "ms"}
TEMPLATES = sorted((CHECKOUT / "appliance" / "web" / "templates").glob("*.html"))
_SEEN = {"alt", "aria-label", "aria-roledescription", "placeholder", "title"}


@cache
def _written(name: str) -> Catalog:
    with (language.FOLDER / name / "LC_MESSAGES" / "messages.po").open("rb") as file:
        return read_po(file, locale=name)


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """All that the page says, as `make translations` finds it."""
    found = tmp_path_factory.mktemp("sentences") / "messages.pot"
    subprocess.run(
        [sys.executable, "-m", "babel.messages.frontend", "--quiet", "extract", "--mapping", "pyproject.toml",
         "--keyword", "marked", "--keyword", "m", "--no-location", "--output", str(found), "."],
        cwd=CHECKOUT, check=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    with found.open("rb") as file:
        return read_po(file)


def _pairs(message: Message) -> list[tuple[str, str]]:
    """Each text of a message and its translation."""
    if isinstance(message.id, tuple):
        return list(zip(message.id, message.string, strict=True))
    return [(message.id, str(message.string))]


@pytest.mark.parametrize("name", TRANSLATED)
def test_every_sentence_is_translated_and_none_is_left_over(name: str, sentences: Catalog) -> None:
    written = _written(name)
    said = {message.id for message in sentences if message.id}
    known = {message.id: message for message in written if message.id}
    assert said - known.keys() == set(), "run `make translations`, and translate what is new"
    assert known.keys() - said == set(), "run `make translations`"
    for message in known.values():
        assert not message.fuzzy, message.id
        for original, translated in _pairs(message):
            assert translated.strip(), original
            assert sorted(PLACES.findall(translated)) == sorted(PLACES.findall(original)), original
            assert sorted(TAGS.findall(translated)) == sorted(TAGS.findall(original)), original
            assert (translated[:1] == " ", translated[-1:] == " ") == (original[:1] == " ", original[-1:] == " ")
    for name, value in written.mime_headers:
        assert value, name
        assert not re.search("EMAIL|ADDRESS|FULL NAME|ORGANIZATION|YEAR|VERSION", value), (
            f"{name} is Babel's placeholder"
        )


@pytest.mark.parametrize("name", TRANSLATED)
def test_what_is_compiled_is_what_is_written(name: str) -> None:
    with (language.FOLDER / name / "LC_MESSAGES" / "messages.mo").open("rb") as file:
        compiled = gettext.GNUTranslations(file)
    for message in _written(name):
        if isinstance(message.id, tuple):
            for number, translated in ((1, message.string[0]), (2, message.string[1])):
                assert compiled.ngettext(*message.id, number) == translated, "run `make translations`"
        elif message.id:
            assert compiled.gettext(message.id) == message.string, "run `make translations`"


class _Bare(HTMLParser):
    """Words that a template shows as they stand there."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._within: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._within.append(tag)
        self.found += [value or "" for name, value in attrs if name in _SEEN]

    def handle_endtag(self, tag: str) -> None:
        while self._within and self._within.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not {"code", "kbd"} & set(self._within):
            self.found.append(data)


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_a_template_says_nothing_past_the_translation(path: Path) -> None:
    text = re.sub(r"\{#.*?#\}|\{%-?\s*trans\b.*?endtrans\s*-?%\}", "", path.read_text(), flags=re.DOTALL)
    spoken = re.sub(r"_\(\s*\"[^\"]*\"", "", text)
    for constant in re.findall(r"\belse \"([^\"]*)\"|\"([^\"]*)\" if\b|\bor \"([^\"]*)\"", spoken):
        assert not re.search(r"[a-z] [a-z]", "".join(constant)), constant
    bare = _Bare()
    bare.feed(re.sub(r"\{\{.*?\}\}(?!\})|\{%.*?%\}", "", text, flags=re.DOTALL))
    words = {word for each in bare.found for word in re.findall(r"[A-Za-z]{2,}", each)}
    assert words <= ALIKE


# --- which language --------------------------------------------------------------------------------------------------


def _lang(text: str) -> str:
    found = re.search(r'<html lang="(\w+)">', text)
    assert found
    return found[1]


@pytest.mark.parametrize(
    ("wanted", "given"),
    [("", "en"), ("de", "de"), ("de-AT,de;q=0.9,en;q=0.8", "de"), ("en-US,en;q=0.9,de;q=0.5", "en"), ("fr", "en"),
     ("fr,de;q=0.2", "de"), ("<script>", "en")],
)  # fmt: skip
def test_the_browser_chooses_among_the_languages_of_the_page(wanted: str, given: str, tmp_path: Path) -> None:
    answer = Box(tmp_path).client().get("/", headers={"Accept-Language": wanted})
    assert _lang(answer.text) == given
    assert ("Arbeitsliste" in answer.text) == (given == "de")


def test_the_configuration_may_decide_for_all(tmp_path: Path) -> None:
    answer = Box(tmp_path, language="de").client().get("/", headers={"Accept-Language": "en"})
    assert _lang(answer.text) == "de"
    assert "Es ist noch kein Bild gekommen." in answer.text


def test_systems_are_answered_in_english(tmp_path: Path) -> None:
    box = Box(tmp_path, language="de")
    client = box.client()
    german = {"Accept-Language": "de"}
    assert client.get("/api/v1/studies/99", headers=german).json["title"] == "Not Found"
    assert "scanside" in client.get("/metrics", headers=german).text
    assert "Es gibt kein Bild mit der Nummer 99." in client.get("/study/99", headers=german).text


def test_who_polls_at_the_same_time_gets_each_their_own_language(tmp_path: Path) -> None:
    box = Box(tmp_path)
    box.add(1, 0.9)
    client = box.client()
    answers = [client.get("/worklist.fragment", headers={"Accept-Language": each}) for each in ("en", "de", "en")]
    assert ["Patient" in each.text for each in answers] == [True] * 3
    assert ["dringend" in each.text.lower() for each in answers] == [False, True, False]
    assert answers[0].headers["ETag"] != answers[1].headers["ETag"]
    again = client.get(
        "/worklist.fragment", headers={"Accept-Language": "de", "If-None-Match": answers[0].headers["ETag"]}
    )
    assert again.status_code == 200


def test_numbers_and_dates_are_written_as_the_language_does(tmp_path: Path) -> None:
    box = Box(tmp_path)
    box.add(1, 0.937)
    client = box.client()
    english, german = (client.get("/study/1", headers={"Accept-Language": each}).text for each in ("en", "de"))
    assert "93.7\N{NO-BREAK SPACE}%" in english
    assert "93,7\N{NO-BREAK SPACE}%" in german
    assert re.search(r"received \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", english)
    assert re.search(r"Eingang \d\d\.\d\d\.\d{4} \d\d:\d\d:\d\d", german)


# --- what was said elsewhere -----------------------------------------------------------------------------------------


@cache
def _german(text: str) -> str | None:
    return recorded.translated("de", text)


def test_what_is_not_known_stays_english_as_a_whole_and_says_so(tmp_path: Path) -> None:
    app = create_app(Config(data_dir=str(tmp_path)))
    known = "The file is empty (0 bytes)."
    with app.test_request_context("/", headers={"Accept-Language": "de"}):
        assert recorded.said(known) == "Die Datei ist leer (0 Bytes)."
        assert recorded.said(f"{known} The moon is full.") == f'<span lang="en">{known} The moon is full.</span>'
        assert recorded.said("<b>") == '<span lang="en">&lt;b&gt;</span>'
        assert recorded.said("") == ""
    with app.test_request_context("/"):
        assert recorded.said("<b> The moon.") == "&lt;b&gt; The moon."


@pytest.mark.parametrize(
    ("english", "german"),
    [
        ("Outside validated use: the patient is 61 years old, the model is validated for ages 1 to 5 years only.",
         "Außerhalb der validierten Verwendung: Alter des Patienten 61 Jahre; validiert ist das Modell nur für 1 bis 5 "
         "Jahre."),
        ("The model is unsure about pneumonia on this image: a probability of 61.8 % is usual both with and without "
         "it.",
         "Das Modell ist sich auf diesem Bild unsicher (Pneumonie): eine Wahrscheinlichkeit von 61,8 % ist mit und "
         "ohne diesen Befund üblich."),
        ("The activation map is withheld: only 12 % of it lies inside the lungs.",
         "Die Aktivierungskarte wird zurückgehalten: Nur 12 % davon liegen innerhalb der Struktur (Lunge)."),
        ("Its body part is HAND. This device reads frontal chest images (CR, DX) and hippocampus series (MR).",
         "Der Körperteil ist HAND. Dieses Gerät liest frontale Thoraxaufnahmen (CR, DX) und Hippocampus-Serien (MR)."),
        ("It is MG (mammography): Digital Mammography X-Ray Image Storage - For Presentation.",
         "Das Objekt ist MG (Mammographie): Digital Mammography X-Ray Image Storage - For Presentation."),
        ("Safe mode: Drift alarm 3 of chest 1.0, drift away from what was usual here: Contrast above 0.2 of the range: "
         "61 % of studies since Tuesday 24 Nov 2026, 10:15, 4.5 % before.",
         "Sicherheitsmodus: Drift-Alarm 3 zu chest 1.0, Drift weg von dem, was hier üblich war: Kontrast über 0,2 des "
         "Umfangs: 61 % der Untersuchungen seit 24.11.2026, 10:15, vorher 4,5 %."),
        ("pacs takes nothing since 2026-11-29 11:03; 15 results wait for it.",
         "pacs nimmt seit 29.11.2026 11:03 nichts an; 15 Ergebnisse warten darauf."),
        ("not used: openvino is not installed: pip install 'scanside[openvino]'",
         "nicht verwendet: openvino ist nicht installiert: pip install 'scanside[openvino]'"),
        ("PACS@192.0.2.1:104 can't be reached (check that it runs, its address, its port and the firewall)",
         "PACS@192.0.2.1:104 ist nicht erreichbar (prüfen Sie, ob es läuft, Adresse, Port und Firewall)"),
        ("own Storage SCP SCANSIDE@127.0.0.1:11112: Digital X-Ray Image Storage - For Presentation",
         "eigener Storage SCP SCANSIDE@127.0.0.1:11112: Digital X-Ray Image Storage - For Presentation"),
        ("Withheld (safe mode): Performance below its floor. No finding has left the device; a person may release it.",
         "Zurückgehalten (Sicherheitsmodus): Güte unter dem Minimum. Kein Befund hat das Gerät verlassen; eine Person "
         "kann ihn freigeben."),
    ],
)  # fmt: skip
def test_recorded_sentences_are_said_anew(english: str, german: str) -> None:
    assert _german(english) == german


def test_a_sentence_that_a_person_typed_is_not_taken_apart() -> None:
    for typed in (
        "Safe mode: New detector in room 2.",
        "It is MG (something new): Storage.",
        "Its body part is HAND. Oh.",
    ):
        assert _german(typed) is None


@pytest.mark.parametrize(
    "piece", ["a, ", "a: ", "Safe mode: ", "Lungs, ", "lungs and ", "Unsure about ", "b of studies since "]
)
def test_a_text_that_is_made_to_be_taken_apart_for_ever_stays_as_it_is(piece: str) -> None:
    assert _german(f"{piece * 300}x") is None
    assert _german(f"{piece * 3000}x") is None


@given(st.lists(st.sampled_from(["Safe mode", "Lungs", ":", ",", " ", ".", "12 %", "%(said)s", "\n", "ß", "about "])))
def test_any_text_is_translated_or_left_as_it_is(pieces: list[str]) -> None:
    found = recorded.translated("de", "".join(pieces))
    assert found is None or isinstance(found, str)


def test_every_reason_and_warning_of_routing_is_translated(tmp_path: Path) -> None:
    packages = [package.read(path, None) for path in sorted((CHECKOUT / "models").glob("*/*.scanside"))]
    image = make_radiograph(tmp_path / "chest.dcm")
    changes = (
        {}, {"PatientAge": "061Y"}, {"PatientAge": "005M"}, {"PatientAge": "", "PatientBirthDate": ""},
        {"ViewPosition": ""}, {"ViewPosition": "LL"}, {"ViewPosition": "XX"}, {"BodyPartExamined": "HAND"},
        {"BodyPartExamined": ""}, {"BodyPartExamined": "", "SeriesDescription": "something"},
        {"Modality": "MG"}, {"Modality": "XX"}, {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1.1"},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "Modality": "CT"}, {"NumberOfFrames": 2},
        {"PhotometricInterpretation": "RGB"}, {"PhotometricInterpretation": ""}, {"Rows": None},
    )  # fmt: skip
    seen = set()
    for change in changes:
        said = _routed(dcmread(image, stop_before_pixels=True), change, packages)
        seen |= {*said}
        assert [each for each in said if _german(each) is None] == [], change
    assert len(seen) > 12
    assert _german(str(NotAcceptedError("No model package is installed."))) is not None


def _routed(header: Dataset, change: dict[str, object], packages: list[package.Package]) -> tuple[str, ...]:
    for keyword, value in change.items():
        if value is None:
            del header[keyword]
        else:
            setattr(header, keyword, value)
    try:
        return route(header, packages)[1]
    except NotAcceptedError as error:
        return (str(error),)


def test_all_that_the_packages_here_say_is_translated() -> None:
    for path in sorted((CHECKOUT / "models").glob("*/*.scanside")):
        manifest = package.read(path, None).manifest
        texts = [manifest.title, manifest.intended_use.statement, *manifest.intended_use.not_for]
        texts += [text for each in manifest.findings for text in (each.label, each.words_positive, each.words_negative)]
        texts += [each.label for each in manifest.segments]
        texts += [point.chosen_on for target in manifest.targets.values() for point in target.operating_points]
        assert [text for text in texts if _german(text) is None] == [], path.name


def _said_in(path: Path) -> str:
    """All texts of a file, one after the other."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return " ".join(node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))


def _words_elsewhere() -> list[set[str]]:
    """The words of each file that may say a sentence of `FORMS`."""
    files = [*(CHECKOUT / "appliance").rglob("*.py"), *(CHECKOUT / "compression").glob("*.py")]
    files = [path for path in files if path.parent.name != "sentences"] + [Path(werkzeug.exceptions.__file__)]
    texts = [_said_in(path) for path in files]
    texts += [str(tomllib.loads(path.read_text())) for path in (CHECKOUT / "models").glob("*/recipe.toml")]
    shared = {word for path in ("errors", "result") for word in _words(_said_in(CHECKOUT / "appliance" / f"{path}.py"))}
    return [_words(text) | shared for text in texts]


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+(?:'[a-z]+)?", text.lower().replace("\\n", " ")))


@pytest.mark.long
def test_all_that_the_self_test_and_the_connection_test_say_is_translated(tmp_path: Path) -> None:
    """With a destination that is not there; what stays is a name."""
    away = Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=free_port())
    scp = StorageScp(host="127.0.0.1", port=free_port())
    config = Config(data_dir=str(tmp_path), destinations=(away,), storage_scp=scp)
    checks = [*doctor.examine(config), *errand_process._connections(config)]
    assert {check.what for check in checks} >= {"destination pacs", "backend openvino", "inference", "disk"}
    texts = {text for check in checks for text in (check.what, check.detail, check.hint) if text}
    assert sorted(text for text in texts - {config.web.brand.name} if _german(text) is None) == []


def test_all_that_is_said_of_certificates_is_translated(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "hospital")
    kinds = (
        authority.issue("good", end=2000 * HOUR),
        authority.issue("expired", begin=-9 * HOUR, end=-HOUR),
        authority.issue("early", begin=HOUR, end=9 * HOUR),
        authority.issue("ending"),
    )
    texts: set[str] = set()
    for certificate, key in kinds:
        facts = tls_client.own_certificate(certificate)
        for code in (9, 10, 18, 24, 26, 62, 66, 1):
            error = ssl.SSLCertVerificationError("refused")
            error.verify_code, error.verify_message = code, "unsuitable certificate purpose"
            for peer in (facts, None):
                texts.update(tls_client.explain_certificate(error, peer, "pacs.example"))
        question = Question(
            send.Destination("PACS", "127.0.0.1", 1),
            "SCANSIDE",
            {},
            tls_client.TlsFiles(authority.ca, certificate, key),
        )
        for check in secure.own_certificate(question):
            texts.update({check.detail, check.hint})
        for other_certificate, other_key in ((certificate, key), (kinds[0][0], key), (certificate, tmp_path / "none")):
            names = Tls(key=str(other_key), certificate=str(other_certificate), ca=str(authority.ca))
            config = Config(data_dir=str(tmp_path), storage_scp=StorageScp(tls=names))
            for check in certificates.examine(config):
                texts.update({check.what, check.detail, check.hint})
    good, key_of_it, early = tmp_path / "good.crt", tmp_path / "good.key", tmp_path / "early.key"
    none = tmp_path / "none"
    for shown, key in ((good, good), (key_of_it, key_of_it), (none, key_of_it), (good, none), (good, early)):
        with pytest.raises(ConfigError) as caught:
            tls.server_context(key, shown, authority.ca)
        texts.add(caught.value.message)
    for error in (TimeoutError(), ConnectionResetError(), OSError(5, "Input/output error")):
        texts.update(tls_client.explain_handshake(error))
    texts.update(text for pair in tls_client._ALERTS.values() for text in pair)
    assert sorted(text for text in texts - {""} if _german(text) is None) == []


def test_what_is_said_elsewhere_is_still_said_there() -> None:
    """Word by word: a sentence of which no file has all words any more is to be changed, or to go."""
    found = _words_elsewhere()
    assert [form for form in FORMS if not any(_words(PLACES.sub(" ", form)) <= each for each in found)] == []
