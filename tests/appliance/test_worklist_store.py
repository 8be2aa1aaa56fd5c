"""The worklist in pages: every filter, search and page finds what looking at each row by itself would find."""

from __future__ import annotations

import itertools
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.store import STATES, Store
from appliance.worklist_store import MOST_COUNTED, Cursor, Filter, Worklists

OUTCOMES = ("", "urgent", "positive", "indeterminate", "negative", "outlined")
INSERT = """
INSERT INTO instance (sop_instance_uid, sop_class_uid, digest, file, size, source, sender, received_at, state,
                      modality, study_instance_uid, patient_id, patient_name, accession_number, ae_title, reading_rank,
                      outcome, reviewed_at, assessed_at)
VALUES (?, '1.2', ?, 'x', 1, 'storage_scp', 'CT at 192.0.2.1', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
NAMES = ("Müller^Anna", "Smith^John^Q", "Yamada^Tarou=山田^太郎", "O'Brien^Zoë", "")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Worklists, list[dict[str, Any]]]]:
    """Four hundred rows of every kind, of which some came at the same time."""
    path = tmp_path_factory.mktemp("worklist") / "ledger.sqlite3"
    Store(path).close()
    chance = random.Random(3)
    connection = sqlite3.connect(path)
    with connection:
        for number in range(400):
            connection.execute(
                INSERT,
                (f"1.9.{number}", f"{number}", float(chance.randrange(100)), chance.choice(STATES),
                 chance.choice(("CR", "MR", "", "A/B")), f"1.2.{number // 3}", f"P{number % 50}",
                 chance.choice(NAMES), f"ACC{number // 3}", chance.choice(("CT1", "ct2", "")),
                 chance.choice((0, 2, 5, 8)), chance.choice(OUTCOMES), chance.choice((None, 1.0)),
                 chance.choice((None, 1.0))),
            )  # fmt: skip
        connection.execute("INSERT INTO instance_named (rowid, patient_name) SELECT id, patient_name FROM instance")
    connection.row_factory = sqlite3.Row
    every = [dict(row) for row in connection.execute("SELECT * FROM instance")]
    connection.close()
    worklists = Worklists(path, read_only=True)
    yield worklists, every
    worklists.close()


def expected(every: list[dict[str, Any]], wanted: Filter) -> list[int]:
    """The rows that pass, in their order, by looking at each."""
    outcomes = ("positive", "urgent") if wanted.finding == "positive" else (wanted.finding,)
    found = [
        row
        for row in every
        if wanted.state in ("", row["state"])
        and (not wanted.finding or row["outcome"] in outcomes)
        and wanted.modality in ("", row["modality"])
        and wanted.sender in ("", row["ae_title"])
        and (wanted.begin is None or row["received_at"] >= wanted.begin)
        and (wanted.end is None or row["received_at"] < wanted.end)
        and not (wanted.unreviewed and row["reviewed_at"])
        and not (wanted.unassessed and row["assessed_at"])
    ]
    found.sort(key=lambda row: (place(row), -row["received_at"], -row["id"]))
    return [row["id"] for row in found]


def place(row: dict[str, Any]) -> int:
    return int(row["reading_rank"]) if row["reading_rank"] < 5 and row["reviewed_at"] is None else 5


FILTERS = st.builds(
    Filter,
    state=st.sampled_from(("", *STATES)),
    finding=st.sampled_from(OUTCOMES),
    modality=st.sampled_from(("", "CR", "A/B", "XX")),
    sender=st.sampled_from(("", "CT1", "nobody")),
    begin=st.none() | st.floats(0, 100),
    end=st.none() | st.floats(0, 100),
    unreviewed=st.booleans(),
    unassessed=st.booleans(),
)


@settings(deadline=None, max_examples=40)
@given(wanted=FILTERS, limit=st.integers(25, 120))
def test_pages_are_all_that_passes_in_both_directions(
    wanted: Filter, limit: int, rows: tuple[Worklists, list[dict[str, Any]]]
) -> None:
    worklists, every = rows
    right = expected(every, wanted)
    page = worklists.page(wanted, limit)
    assert page.found == len(right)
    seen = [[row["id"] for row in page.rows]]
    assert page.newer is None
    while page.older is not None:
        page = worklists.page(wanted, limit, after=page.older)
        seen.append([row["id"] for row in page.rows])
    assert list(itertools.chain(*seen)) == right
    back = []
    while page.newer is not None:
        page = worklists.page(wanted, limit, before=page.newer)
        back.append([row["id"] for row in page.rows])
    assert back == seen[-2::-1]


def found(rows: tuple[Worklists, list[dict[str, Any]]], search: str, **more: Any) -> set[int]:
    page = rows[0].page(Filter(search=search, patients=True, **more), 1000)
    assert page.found == len(page.rows)
    return {row["id"] for row in page.rows}


def having(rows: tuple[Worklists, list[dict[str, Any]]], **values: str) -> set[int]:
    (name, value), *_ = values.items()
    return {row["id"] for row in rows[1] if row[name] == value}


def test_what_is_searched_for_is_found_by_its_beginning(rows: tuple[Worklists, list[dict[str, Any]]]) -> None:
    for search in ("muller", "MÜLLER", "anna mül", "ann"):
        assert found(rows, search) == having(rows, patient_name="Müller^Anna"), search
    for search in ("smith j", "john smith", "q"):
        assert found(rows, search) == having(rows, patient_name="Smith^John^Q"), search
    assert found(rows, "山田") == having(rows, patient_name="Yamada^Tarou=山田^太郎")
    assert found(rows, "acc12") == {row["id"] for row in rows[1] if row["accession_number"].startswith("ACC12")}
    assert found(rows, "p7") == having(rows, patient_id="P7")
    assert found(rows, "CT2") == having(rows, ae_title="ct2")
    assert found(rows, "1.2.77") == having(rows, study_instance_uid="1.2.77")
    assert found(rows, "1.9.5") == having(rows, sop_instance_uid="1.9.5")
    assert found(rows, "123") == {123}
    assert found(rows, "muller smith") == set()


def test_a_search_is_filtered_and_comes_in_pages(rows: tuple[Worklists, list[dict[str, Any]]]) -> None:
    worklists, every = rows
    of_name = {row["id"] for row in every if row["patient_name"] == "Müller^Anna"}
    wanted = Filter(search="anna", patients=True, unreviewed=True, end=60.0)
    right = [each for each in expected(every, Filter(unreviewed=True, end=60.0)) if each in of_name]
    first = worklists.page(wanted, 5)
    assert [row["id"] for row in first.rows] == right[:5]
    assert first.older is not None
    second = worklists.page(wanted, 5, after=first.older)
    assert [row["id"] for row in second.rows] == right[5:10]
    assert second.newer is not None
    assert worklists.page(wanted, 5, before=second.newer).rows == first.rows


def test_hidden_patients_are_not_searched_for(rows: tuple[Worklists, list[dict[str, Any]]]) -> None:
    for search in ("muller", "P7", "anna"):
        assert rows[0].page(Filter(search=search), 10).rows == []


@settings(deadline=None)
@given(search=st.text(min_size=1, max_size=30), patients=st.booleans())
def test_any_search_has_an_answer(search: str, patients: bool, rows: tuple[Worklists, list[dict[str, Any]]]) -> None:
    rows[0].page(Filter(search=search, patients=patients), 10)


def test_more_than_is_counted_is_said(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    Store(path).close()
    connection = sqlite3.connect(path)
    with connection:
        connection.executemany(
            INSERT,
            ((f"1.{n}", f"{n}", float(n), "delivered", "CR", "1.2.3", "P", "Doe^Jane", "A", "CT", 5, "negative", None,
              None) for n in range(MOST_COUNTED + 200)),
        )  # fmt: skip
        connection.execute("INSERT INTO instance_named (rowid, patient_name) SELECT id, patient_name FROM instance")
    connection.close()
    worklists = Worklists(path, read_only=True)
    assert worklists.page(Filter(state="delivered"), 10).found == MOST_COUNTED + 1
    assert worklists.page(Filter(sender="CT"), 10).found == MOST_COUNTED + 1
    by_name = worklists.page(Filter(search="jane", patients=True), 10)
    assert by_name.cut
    assert [row["id"] for row in by_name.rows] == list(range(MOST_COUNTED + 200, MOST_COUNTED + 190, -1))
    worklists.close()


def test_no_row_is_looked_at_that_does_not_pass(rows: tuple[Worklists, list[dict[str, Any]]]) -> None:
    """The plans, since one that reads every row shows only once there are a million of them."""
    worklists = rows[0]
    connection = worklists._connection()
    seen: list[str] = []
    connection.set_trace_callback(seen.append)
    wanted = Filter(state="failed", finding="negative", modality="CR", begin=5.0, end=50.0)
    worklists.page(wanted, 10, after=Cursor(5, 40.0, 9))
    worklists.page(Filter(sender="CT1", unreviewed=True), 10, before=Cursor(5, 40.0, 9))
    worklists.page(Filter(search="a", patients=True), 10)
    worklists.choices()
    worklists.priors({"id": 1, "patient_id": "P7", "issuer_of_patient_id": "", "patient_name": "", "patient_sex": ""})
    connection.set_trace_callback(None)
    assert len(seen) > 10
    for sql in {each for each in seen if not each.startswith("--")}:  # what SQLite asks itself
        steps = [row["detail"] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}")]
        read = [step for step in steps if step.startswith("SCAN") and "instance" in step]
        assert all("instance_named VIRTUAL TABLE" in step for step in read), (sql, steps)


def prior(number: int, **values: str) -> dict[str, Any]:
    return {"patient_id": "P", "issuer_of_patient_id": "", "patient_name": "Doe^Jane", "patient_sex": "F",
            "number": number, **values}  # fmt: skip


def test_priors_are_of_the_same_patient_only(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    Store(path).close()
    patients = [
        prior(1),
        prior(2, patient_name="DOE JANE"),  # the same name, written otherwise
        prior(3, patient_name=""),
        prior(4, issuer_of_patient_id="ELSEWHERE"),
        prior(5, patient_id="p"),
        prior(6, patient_name="Smith^John"),
        prior(7, patient_sex="M"),
    ]
    connection = sqlite3.connect(path)
    with connection:
        for each in patients:
            connection.execute(
                "INSERT INTO instance (sop_instance_uid, sop_class_uid, digest, file, size, source, sender, "
                "received_at, state, patient_id, issuer_of_patient_id, patient_name, patient_sex, outcome) "
                "VALUES ('1.' || :number, '1.2', :number, 'x', 1, 'stow', '', :number, 'delivered', :patient_id, "
                ":issuer_of_patient_id, :patient_name, :patient_sex, 'negative')",
                each,
            )
    connection.close()
    worklists = Worklists(path, read_only=True)
    found, left_out = worklists.priors({**patients[0], "id": 1})
    assert [row["id"] for row in found] == [3, 2]
    assert left_out == 2
    assert worklists.priors({**patients[0], "id": 1, "patient_id": ""}) == ([], 0)
    worklists.close()
