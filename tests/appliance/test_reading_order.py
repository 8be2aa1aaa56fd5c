"""Who is read first: urgent findings are, nothing is lowered, and no setting takes an image away from its reader."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance import config, reading_order
from appliance.config import Priority, Worklist
from appliance.config_file import load
from appliance.custody import Custody
from appliance.errors import ConfigError
from appliance.reading_order import PRIORITIES, TIERS, of_rank, raised, raised_to, rank, tier
from appliance.result import Code, Finding
from appliance.store import Arrival, Store

PNEUMONIA = Code("233604007", "SCT", "Pneumonia")
RESULT = {"findings": [], "warnings": [], "provenance": {}, "seconds": {}, "urgent": False}

priorities = st.sampled_from(PRIORITIES)
worklists = st.builds(Worklist, high_confidence=priorities, medium_confidence=priorities, low_confidence=priorities)
findings = st.lists(
    st.builds(
        lambda positive, unsure, urgent: Finding(
            "x", PNEUMONIA, 0.5, 0.5, "balanced", positive, urgent, "", unsure
        ),
        st.booleans(), st.booleans(), st.booleans(),
    )
)  # fmt: skip


def finding(positive: bool, unsure: bool = False, urgent: bool = True) -> Finding:
    return Finding("Pneumonia", PNEUMONIA, 0.5, 0.5, "balanced", positive, urgent, "", unsure)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([], "low"),
        ([finding(True)], "high"),
        ([finding(True, unsure=True)], "medium"),
        ([finding(False, unsure=True)], "medium"),
        ([finding(False)], "low"),
        ([finding(True, urgent=False)], "low"),
        ([finding(False, unsure=True), finding(True)], "high"),
    ],
)
def test_the_tier_is_how_sure_the_model_is_of_something_urgent(found: list[Finding], expected: str) -> None:
    assert tier(found) == expected


@given(priorities, findings, worklists)
def test_no_result_and_no_configuration_lowers_a_priority(asked: Priority, found: list[Finding], to: Worklist) -> None:
    said = tier(found)
    before, after = rank(asked), raised(rank(asked), said, raised_to(said, to))
    assert after <= before
    assert PRIORITIES.index(of_rank(after)[0]) <= PRIORITIES.index(asked)


@given(priorities, findings, worklists)
def test_no_configuration_takes_an_image_out_of_the_order(asked: Priority, found: list[Finding], to: Worklist) -> None:
    priority, _ = of_rank(raised(rank(asked), tier(found), raised_to(tier(found), to)))
    assert priority in PRIORITIES


def test_every_rank_has_its_place() -> None:
    places = [rank(priority, found) for priority, found in itertools.product(PRIORITIES, TIERS)]
    assert places == list(range(len(places)))
    assert [of_rank(place) for place in places] == list(itertools.product(PRIORITIES, TIERS))


@pytest.mark.parametrize("word", ["none", "skip", "auto", "never", "", "off"])
@pytest.mark.parametrize("key", msgspec.structs.asdict(Worklist()))
def test_no_word_skips_the_reader(tmp_path: Path, key: str, word: str) -> None:
    path = tmp_path / "scanside.toml"
    path.write_text(f'[worklist]\n{key} = "{word}"\n')
    with pytest.raises(ConfigError, match=key):
        load(path)


def test_the_worklist_has_settings_for_the_order_only() -> None:
    """Whoever adds one must think again: a setting may say who is read first, never who is not read."""
    assert {field.name for field in msgspec.structs.fields(Worklist)} == {
        "high_confidence", "medium_confidence", "low_confidence",
    }  # fmt: skip
    assert set(get_args(config.Priority)) == set(PRIORITIES)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "ledger.sqlite3")


def read(store: Store, asked: Priority, found: list[Finding], rule: Priority | None = None) -> int:
    """An image with a result; its number."""
    number = store.counts()["delivered"]
    identifier = store.receive(
        Arrival(f"1.2.{number}", "1.2", f"{number:064d}", "x", 1, "storage_scp", "CT1")
    ).instance_id
    assert store.claim("me", 30)
    store.triage(identifier, "me", {}, rule or asked, 0.0, asked)
    said = tier(found)
    to = raised_to(said, Worklist())
    store.finish(identifier, "me", RESULT, [], [], "", said, to)
    return identifier


def test_the_worklist_goes_by_priority_and_tier_and_has_every_image(store: Store) -> None:
    ordinary = read(store, "routine", [finding(False)])
    low = read(store, "low", [finding(False)])
    unsure = read(store, "low", [finding(False, unsure=True)])
    urgent = read(store, "low", [finding(True)])
    stat = read(store, "stat", [finding(False)])
    ruled = read(store, "stat", [finding(False)], rule="low")  # a rule has it read by the model later, not by people
    stat_urgent = read(store, "stat", [finding(True)])
    order = [row["id"] for row in store.worklist()]
    assert order == [stat_urgent, urgent, ruled, stat, unsure, low, ordinary]
    assert [row["id"] for each in range(7) for row in store.worklist(1, each)] == order


def test_an_image_leaves_the_top_only_when_somebody_has_seen_it(store: Store) -> None:
    urgent = read(store, "routine", [finding(True)])
    other = read(store, "routine", [finding(False)])
    assert [row["id"] for row in store.worklist()] == [urgent, other]
    custody = Custody(store.path)
    custody.review(urgent)
    custody.close()
    assert [row["id"] for row in store.worklist()] == [other, urgent]
    assert all(row["reviewed_at"] is None for row in store.worklist() if row["id"] != urgent)


def test_what_was_turned_away_or_failed_stays_in_the_worklist(store: Store) -> None:
    for number, end in enumerate((store.reject, store.fail, store.quarantine)):
        store.receive(Arrival(f"1.2.{number}", "1.2", f"{number:064d}", "x", 1, "storage_scp", "CT1"))
        claim = store.claim("me", 30)
        assert claim is not None
        store.triage(claim["id"], "me", {}, "stat" if end == store.fail else "routine", 0.0)
        end(claim["id"], "me", "why")
    assert [row["state"] for row in store.worklist()] == ["failed", "quarantined", "rejected"]
    assert reading_order.of_rank(store.worklist()[0]["reading_rank"])[0] == "stat"
