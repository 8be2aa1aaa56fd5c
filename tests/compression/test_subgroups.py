"""The alarm of a gap between subgroups: it sounds where one is, and seldom where none is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compression import evaluate
from compression.subgroups import Sample, compare, gaps, holm


def drawn(seed: int, images: int = 600) -> tuple[Sample, dict[str, np.ndarray]]:
    """Answers that are equally good for all."""
    chance = np.random.default_rng(seed)
    labels = chance.random(images) < 0.5
    scores = chance.normal(size=images) + 2.4 * labels
    sample = Sample(scores, scores > 1.2, labels, np.arange(images))
    columns = {
        "sex": np.array(["F", "M"])[np.arange(images) % 2],
        "site": np.array(list("abcd"))[np.arange(images) % 4],
    }
    return sample, columns


@pytest.mark.parametrize(
    ("stated", "group"),
    [
        ("57", "40 to 64"), ("57.0", "40 to 64"), ("4.5", "under 18"), ("005Y", "under 18"), ("18M", "under 18"),
        ("216M", "18 to 39"), ("003W", "under 18"), ("010D", "under 18"), ("018Y", "18 to 39"), ("065Y", "65 and more"),
        ("", "unknown"), ("Y", "unknown"), ("-3", "unknown"), ("nan", "unknown"), ("inf", "unknown"),
        ("999Y", "unknown"), ("old", "unknown"),
    ],
)  # fmt: skip
def test_ages_are_numbers_or_dicoms_age_strings(stated: str, group: str) -> None:
    (found,) = evaluate.subgroup_columns([{"file": "a.png", "age": stated}])["age"]
    assert found == group


@pytest.mark.parametrize(
    ("column", "named", "subgroup"),
    [
        ("site", None, "site"), ("hospital", None, "site"), ("center", None, "site"), ("ward", "ward", "site"),
        ("ward", None, None), ("device", None, "device"), ("scanner", None, "device"), ("view", None, "view"),
    ],
)  # fmt: skip
def test_columns_that_check_data_and_importers_know_make_subgroups(
    column: str, named: str | None, subgroup: str | None
) -> None:
    rows = [{"file": "a.png", column: "A"}, {"file": "b.png", column: ""}]
    found = {name: values.tolist() for name, values in evaluate.subgroup_columns(rows, named).items()}
    assert found == ({subgroup: ["A", "unknown"]} if subgroup else {})


def test_an_alarm_names_the_subgroup_that_fares_worse() -> None:
    sample, columns = drawn(0)
    worse = (columns["site"] == "c") & sample.labels
    said = sample.said & ~(worse & (np.arange(600) % 8 == 2))
    rows = gaps(replace(sample, said=said), columns, margin=0.05)
    assert next((row["subgroup"], row["figure"]) for row in rows if row["alarm"]) == ("site: c", "sensitivity")
    found = rows[0]
    assert found["gap"][2] < 0
    assert found["gap"][0] == pytest.approx(found["values"][0][0] - found["values"][1][0], abs=2e-4)
    assert sum(found["images"]) == sample.labels.sum()
    assert not any(row["alarm"] for row in rows if row["figure"] == "specificity")


def test_a_gap_within_the_margin_is_no_alarm() -> None:
    sample, columns = drawn(0)
    worse = (columns["site"] == "c") & sample.labels & (np.arange(600) % 8 == 2)
    rows = gaps(replace(sample, said=sample.said & ~worse), columns, margin=0.6)
    assert not any(row["alarm"] for row in rows)


def test_where_nobody_fares_worse_an_alarm_is_rare() -> None:
    alarms = sum(any(row["alarm"] for row in gaps(*drawn(seed), margin=0.0)) for seed in range(100))
    assert alarms <= 8


def test_a_worse_ranking_is_an_alarm_though_decisions_are_alike() -> None:
    sample, columns = drawn(1)
    noise = np.random.default_rng(0).normal(size=600) * 3
    rows = gaps(replace(sample, scores=sample.scores + noise * (columns["sex"] == "F")), columns, margin=0.05)
    alarms = {(row["subgroup"], row["figure"]) for row in rows if row["alarm"]}
    assert ("sex: F", "auc") in alarms
    assert alarms <= {("sex: F", "auc"), ("site: a", "auc"), ("site: c", "auc")}  # whose patients are all F


def test_too_few_patients_are_said_and_not_judged_and_classes_that_are_missing_left_out() -> None:
    sample, _ = drawn(2)
    few = np.array(["few" if number < 12 else "many" for number in range(600)])
    kind = np.where(sample.labels, "ill", "well")
    rows = gaps(sample, {"site": few, "sublabel": kind}, margin=0.05)
    assert {row["subgroup"] for row in rows} == {"site: few", "site: many"}
    assert all("gap" not in row for row in rows)
    many_images = Sample(
        *(np.repeat(each, 10) for each in (sample.scores, sample.said, sample.labels, sample.patients))
    )
    assert all("gap" not in row for row in gaps(many_images, {"site": np.repeat(few, 10)}, margin=0.05))


@pytest.mark.parametrize("figure", ["sensitivity", "specificity", "auc"])
def test_two_samples_compare_the_same_from_either_side(figure: str) -> None:
    one, other = drawn(3)[0], drawn(4)[0]
    here, there = compare(one, other, figure), compare(other, one, figure)
    assert here["gap"] == pytest.approx([-there["gap"][0], -there["gap"][2], -there["gap"][1]])
    assert here["p"] == pytest.approx(there["p"])
    assert here["values"] == there["values"][::-1]


def test_the_two_sides_of_one_comparison_count_once() -> None:
    sample, columns = drawn(0)
    worse = (columns["sex"] == "F") & (np.arange(600) % 20 == 0)
    rows = gaps(replace(sample, said=sample.said & ~worse), {"sex": columns["sex"]}, margin=0.05)
    sides = [{row["figure"]: row for row in rows if row["subgroup"] == f"sex: {sex}"} for sex in "FM"]
    expected = holm(np.array([row["p"] for row in sides[0].values()]))
    for side in sides:
        assert [side[figure]["p_holm"] for figure in sides[0]] == pytest.approx(expected, abs=1e-5)
    of_three = gaps(sample, {"site": np.array(list("abc"))[np.arange(600) % 3]}, margin=0.05)
    assert sorted(row["p_holm"] for row in of_three) == pytest.approx(
        sorted(holm(np.array([row["p"] for row in of_three]))), abs=1e-4
    )


def test_holms_correction_is_that_of_the_worked_example() -> None:
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert len(holm(np.array([]))) == 0


@given(p=st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holms_correction_keeps_the_order_and_lies_below_bonferronis(p: list[float]) -> None:
    given_p = np.array(p)
    corrected, order = holm(given_p), np.argsort(given_p, kind="stable")
    assert (np.diff(corrected[order]) >= 0).all()
    assert (corrected >= given_p).all()
    assert (corrected <= np.minimum(given_p * len(p), 1) + 1e-12).all() or (given_p == 0).any()
