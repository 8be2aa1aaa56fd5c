"""Blinded reader studies: their rows, their order, what the pages show and refuse, and what is exported."""

from __future__ import annotations

import csv
import io
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from PIL import Image as PillowImage

from appliance import study_cases
from appliance.config import Config
from appliance.errors import DiskFullError, ReaderStudyError
from appliance.reader_study import Case, ReaderStudies
from appliance.store import Store
from appliance.web.app import create_app
from compression import readers
from tests.appliance.conftest import browser
from tests.appliance.test_store import schema
from tests.dicom_files import chest_pixels, make_radiograph

SECRETS = ("JANE", "P-17", "20260102", "1.2.840", "93", "0.93")


@pytest.fixture
def studies(tmp_path: Path) -> ReaderStudies:
    return ReaderStudies(tmp_path / "ledger.sqlite3")


def make(studies: ReaderStudies, cases: int = 30, repeated: float = 0.1, name: str = "pilot") -> dict[str, Any]:
    studies.create(name, "Pneumonia", 7, repeated, [Case(f"i{n}", f"{name}/{n}.png") for n in range(cases)])
    return studies.study(name)


def order(studies: ReaderStudies, reader: int, count: int) -> list[dict[str, Any]]:
    found = [studies.reading(reader, place) for place in range(1, count + 1)]
    return [row for row in found if row is not None]


def test_each_reader_has_an_order_of_their_own_with_repeats_far_apart(studies: ReaderStudies) -> None:
    study = make(studies, cases=60, repeated=0.2)
    orders = [order(studies, studies.enter(study, name, ""), 72) for name in ("ann", "bob")]
    first = [[row["case_id"] for row in each] for each in orders]
    assert first[0] != first[1]
    for each in orders:
        assert len(each) == 72
        shown = {(row["case_id"], row["repetition"]): row["place"] for row in each}
        gaps = [shown[case, 1] - shown[case, 0] for case, repetition in shown if repetition]
        assert len(gaps) == 12
        assert min(gaps) >= 10


def test_a_name_is_taken_and_goes_on_with_its_code_only(studies: ReaderStudies) -> None:
    study = make(studies)
    reader = studies.enter(study, " ann  b ", "")
    row = studies.reader(study["id"], reader)
    assert row is not None
    assert row["name"] == "ann b"
    for wrong in ("", "AAAAAA", "ü"):
        with pytest.raises(ReaderStudyError, match="has begun to read already"):
            studies.enter(study, "ann b", wrong)
    assert studies.enter(study, "ann b", row["code"].lower()) == reader
    for name in ("", "   ", "x" * 41, "=1+1"):
        with pytest.raises(ReaderStudyError, match="name or pseudonym"):
            studies.enter(study, name, "")
    with pytest.raises(ReaderStudyError, match="already"):
        make(studies)


def test_answers_may_change_until_the_reader_finishes(studies: ReaderStudies) -> None:
    study = make(studies, cases=2, repeated=0.0)
    reader = studies.enter(study, "ann", "")
    one, other = order(studies, reader, 2)
    studies.look(one["id"], 2.0)
    studies.answer(one["id"], True, 6, 3.0)
    with pytest.raises(ReaderStudyError, match="1 images have no answer"):
        studies.finish(reader)
    assert studies.next_place(reader) == 2
    studies.answer(other["id"], None, None, 1.0)
    studies.answer(one["id"], False, 2, 1.0)
    studies.finish(reader)
    with pytest.raises(ReaderStudyError, match="can't be changed"):
        studies.answer(one["id"], True, 7, 1.0)
    studies.look(one["id"], 100.0)
    said = [(row["present"], row["rating"], row["seconds"]) for row in studies.answers(study["id"])]
    assert said == [(0, 2, 6.0), (None, None, 1.0)]


def test_a_ledger_of_version_2_is_brought_up_to_date_with_all_its_rows(tmp_path: Path) -> None:
    old = tmp_path / "old.sqlite3"
    connection = sqlite3.connect(old)
    connection.executescript(Path(__file__).with_name("schema_2.sql").read_text())
    connection.execute(
        "INSERT INTO instance (sop_instance_uid, sop_class_uid, digest, file, size, source, sender, received_at, "
        "state) VALUES ('1.2', '1.2', 'x', 'x', 1, 'storage_scp', 'CT', 1.0, 'received')"
    )
    connection.commit()
    connection.close()
    store = Store(old)
    assert store.counts()["received"] == 1
    new = Store(tmp_path / "new.sqlite3")
    assert schema(old) == schema(new.path)
    assert make(ReaderStudies(old))["cases"] == 30


# --- from files, over the pages, to CSV ------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A study of four radiographs and one picture."""
    folder = tmp_path / "cases"
    for seed in range(4):
        make_radiograph(folder / f"{seed}.dcm", seed=seed, PatientName="DOE^JANE", PatientID="P-17")
    PillowImage.fromarray(chest_pixels(64, 48, 8, 9)).save(folder / "plain.png")
    config = Config(data_dir=str(tmp_path / "box"))
    Store(config.ledger_path)
    assert study_cases.create(config, "pilot", folder, None, "Pneumonia", 7, 0.2) == 5
    return config


@pytest.fixture
def client(config: Config) -> FlaskClient:
    return browser(create_app(config))


HOME = "/reader-study/pilot"


def read_all(client: FlaskClient, name: str, rating: str = "6", present: str = "yes") -> None:
    client.post(HOME, data={"reader": name})
    for place in range(1, 7):
        page = client.get(f"{HOME}/case/{place}")
        assert page.status_code == 200
        form = {"rating": rating, "present": present, "seconds": "0.01"}
        assert client.post(f"{HOME}/case/{place}", data=form).status_code == 302


def test_the_pages_tell_nothing_of_the_model_or_the_header(client: FlaskClient) -> None:
    texts = [client.get(HOME).text]
    client.post(HOME, data={"reader": "ann"})
    texts += [client.get(path).text for path in (HOME, f"{HOME}/case/1", f"{HOME}/case/2")]
    for text in texts:
        assert "default-src 'none'" in client.get(HOME).headers["Content-Security-Policy"]
        plain = re.sub(r'value="\d+"|[A-Z0-9]{6}', "", text)
        for secret in SECRETS:
            assert secret not in plain
        assert "/study/" not in text
    with client.get(f"{HOME}/case/1.png") as picture:
        assert picture.mimetype == "image/png"
        assert "private" in picture.headers["Cache-Control"]
    assert client.get(f"{HOME}/case/7").status_code == 404
    assert client.get(f"{HOME}/case/7.png").status_code == 404


def test_who_reads_sees_no_other_page_until_they_leave(client: FlaskClient) -> None:
    client.post(HOME, data={"reader": "ann"})
    for path in ("/", "/device", "/api/v1/status", "/worklist.fragment", "/study/1", "/study/1/image.png"):
        answer = client.get(path)
        assert answer.status_code == 403, path
        assert "Somebody reads a study here" in answer.text
    assert client.get("/healthz").status_code == 200
    client.post(f"{HOME}/leave")
    assert client.get("/").status_code == 200


def test_nobody_answers_without_a_seat_or_in_another_study(client: FlaskClient, config: Config) -> None:
    studies = ReaderStudies(config.ledger_path)
    make(studies, name="other")
    for path in (f"{HOME}/case/1", f"{HOME}/case/1.png", f"{HOME}/case", "/reader-study/other/case/1.png"):
        assert client.get(path).status_code == 302, path
    client.post(HOME, data={"reader": "ann"})
    assert client.get("/reader-study/other/case/1.png").status_code == 302
    assert client.get("/reader-study/nothing").status_code == 404
    assert client.post("/reader-study/other/case/1", data={"rating": "7", "present": "yes"}).status_code == 302
    assert studies.answers(studies.study("other")["id"]) == []


@pytest.mark.parametrize(
    ("form", "word"),
    [
        ({}, "how sure you are"), ({"rating": "8", "present": "yes"}, "how sure you are"),
        ({"rating": "4"}, "present or absent"), ({"rating": "4", "present": "maybe"}, "present or absent"),
    ],
)  # fmt: skip
def test_half_an_answer_is_asked_for_again(
    form: dict[str, str], word: str, client: FlaskClient, config: Config
) -> None:
    client.post(HOME, data={"reader": "ann"})
    client.get(f"{HOME}/case/1")
    answer = client.post(f"{HOME}/case/1", data=form)
    assert answer.status_code == 400
    assert word in answer.text
    studies = ReaderStudies(config.ledger_path)
    assert studies.answers(studies.study("pilot")["id"]) == []


def test_an_answer_that_is_not_on_disk_is_asked_for_again(
    client: FlaskClient, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise DiskFullError("no room left on the disk for the ledger")

    client.post(HOME, data={"reader": "ann"})
    client.get(f"{HOME}/case/1")
    monkeypatch.setattr(ReaderStudies, "answer", full)
    answer = client.post(f"{HOME}/case/1", data={"rating": "2", "present": "no"})
    assert answer.status_code == 503
    assert "This was not kept: no room left" in answer.text


@pytest.mark.parametrize("seconds", ["1e9", "nan", "-5", "inf", "x", ""])
def test_no_page_can_claim_more_time_than_the_image_was_shown(
    seconds: str, client: FlaskClient, config: Config
) -> None:
    client.post(HOME, data={"reader": "ann"})
    client.get(f"{HOME}/case/1")
    client.post(f"{HOME}/case/1", data={"rating": "none", "seconds": seconds})
    studies = ReaderStudies(config.ledger_path)
    (row,) = studies.answers(studies.study("pilot")["id"])
    assert 0 <= row["seconds"] < 5
    assert (row["present"], row["rating"]) == (None, None)


def test_a_reader_pauses_leaves_and_goes_on_in_another_browser(client: FlaskClient, config: Config) -> None:
    client.post(HOME, data={"reader": "ann"})
    code = re.search(r'class="code">(\w+)<', client.get(HOME).text)
    assert code is not None
    client.get(f"{HOME}/case/1")
    assert client.post(f"{HOME}/case/1", data={"pause": "1", "seconds": "1"}).headers["Location"] == HOME
    client.post(f"{HOME}/case/1", data={"rating": "2", "present": "no"})
    other = browser(create_app(config))
    assert other.post(HOME, data={"reader": "ann"}).status_code == 400
    other.post(HOME, data={"reader": "ann", "code": code.group(1)})
    assert other.get(f"{HOME}/case").headers["Location"] == f"{HOME}/case/2"


def test_what_is_exported_is_what_the_readers_command_reads(
    client: FlaskClient, config: Config, tmp_path: Path
) -> None:
    studies = ReaderStudies(config.ledger_path)
    read_all(client, "ann")
    out = io.StringIO()
    assert study_cases.export(studies, "pilot", out) == ["ann"]
    assert out.getvalue().count("\n") == 1  # she has not finished
    assert client.post(f"{HOME}/finish").headers["Location"] == f"{HOME}?finished"
    assert "Thank you" in client.get(f"{HOME}?finished").text
    read_all(client, "bob", rating="none")
    client.post(f"{HOME}/finish")
    path = tmp_path / "answers.csv"
    with path.open("w") as file:
        assert study_cases.export(studies, "pilot", file) == []
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    assert len(rows) == 10
    assert {row["image"] for row in rows} > {"plain.png"}
    ann = [row for row in rows if row["reader"] == "ann"]
    assert [row["label_again"] for row in ann].count("present") == 1
    assert {(row["label"], row["rating"]) for row in ann} == {("present", "6")}
    assert {(row["label"], row["rating"]) for row in rows if row["reader"] == "bob"} == {("can't judge", "")}
    assert readers.read(path).readers == ["ann", "bob"]


def test_what_is_wrong_with_a_new_study_is_said(config: Config, tmp_path: Path) -> None:
    folder = tmp_path / "cases"
    only = tmp_path / "only.csv"
    only.write_text("image,label\nplain.png,present\nnot-there.png,absent\n")
    cases: list[tuple[str, dict[str, Any]]] = [
        ("already", {}),
        ("small letters", {"name": "../etc"}),
        ("not-there.png", {"name": "b", "only": only}),
        ("which finding", {"name": "c", "finding": None}),
        ("two images or more", {"name": "d", "folder": None}),
    ]
    for word, options in cases:
        given = {"name": "pilot", "folder": folder, "only": None, "finding": "Pneumonia", **options}
        with pytest.raises(ReaderStudyError, match=word):
            study_cases.create(config, scale=7, repeated=0.0, **given)
    (folder / "truth.csv").write_text("image,label\n")
    with pytest.raises(ReaderStudyError, match=r"truth\.csv.*take it out of the folder"):
        study_cases.create(config, "e", folder, None, "Pneumonia", 7, 0.0)
