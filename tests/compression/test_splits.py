"""Splits are by patient, in proportion, and depend on content alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compression import splits
from compression.recipe import RecipeError
from compression.splits import Content


def make_content(patients: int = 120, seed: int = 0) -> Content:
    """Patients with one to four images each, two labels (3 to 1) and three sites that differ in size."""
    chance = np.random.default_rng(seed)
    images = chance.integers(1, 5, patients)
    number = np.repeat(np.arange(patients), images)
    labels = np.where(np.arange(patients) % 4 == 0, "NORMAL", "PNEUMONIA")[number]
    sites = np.array(["a", "a", "a", "b", "b", "c"])[chance.integers(0, 6, patients)][number]
    digests = np.array([f"{value:016x}" for value in chance.integers(0, 2**60, len(number))])
    return Content(digests, labels, np.array([f"p{value}" for value in number]), sites)


def shuffled(content: Content, order: np.ndarray) -> Content:
    assert content.sites is not None
    return Content(content.digests[order], content.labels[order], content.patients[order], content.sites[order])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_three_ways_hold_their_shares_and_no_patient_is_in_two(seed: int) -> None:
    content = make_content(patients=300, seed=seed)
    split = splits.three_way(content)
    assert splits.leaks(content.patients, split) == {}
    for name, share in (("train", 0.7), ("validation", 0.2), ("test", 0.1)):
        assert (split == name).mean() == pytest.approx(share, abs=0.04)
        assert (content.labels[split == name] == "NORMAL").mean() == pytest.approx(
            (content.labels == "NORMAL").mean(), abs=0.08
        )


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_the_order_of_the_list_changes_neither_version_nor_split(seed: int) -> None:
    content = make_content(seed=seed)
    order = np.random.default_rng(seed).permutation(len(content))
    other = shuffled(content, order)
    assert splits.version(other) == splits.version(content)
    assert (splits.three_way(other) == splits.three_way(content)[order]).all()


def test_another_pixel_label_or_patient_is_another_version() -> None:
    content = make_content()
    versions = {splits.version(content)}
    for name in ("digests", "labels", "patients"):
        values = getattr(content, name).copy()
        values[0] = "x"
        versions.add(splits.version(replace(content, **{name: values})))
    assert len(versions) == 4


def test_sites_are_spread_over_the_splits() -> None:
    content = make_content(patients=400)
    split = splits.three_way(content)
    assert content.sites is not None
    for site in "abc":
        share = (content.sites == site).mean()
        for name in splits.NAMES:
            assert (content.sites[split == name] == site).mean() == pytest.approx(share, abs=0.06)


def test_a_site_too_small_to_be_spread_does_not_stop_a_split_nor_take_the_others_their_sites() -> None:
    content = make_content(patients=400)
    assert content.sites is not None
    sites = content.sites.copy()
    sites[content.patients == "p3"] = "tiny"
    split = splits.three_way(replace(content, sites=sites))
    assert set(split) == set(splits.NAMES)
    for _, held in splits.k_fold(replace(content, sites=sites), 10):
        for site in "abc":
            assert (sites[held] == site).mean() == pytest.approx((sites == site).mean(), abs=0.03)
    # Its few images go with the largest site of their label.
    sites[content.patients == "p3"] = "a"
    assert (splits.three_way(replace(content, sites=sites)) == split).all()


def test_small_sites_are_spread_together_where_they_are_enough_together() -> None:
    content = make_content(patients=400)
    assert content.sites is not None
    small = [f"p{number}" for number in range(1, 400) if number % 4][:24]
    sites = content.sites.copy()
    for number, patient in enumerate(small):
        sites[content.patients == patient] = "123456"[number % 6]
    split = splits.three_way(replace(content, sites=sites))
    sites[np.isin(content.patients, small)] = "1"
    assert (splits.three_way(replace(content, sites=sites)) == split).all()


def test_each_image_is_held_out_once_and_without_its_patient() -> None:
    content = make_content()
    held_out = []
    for training, held in splits.k_fold(content, 5):
        assert not set(content.patients[training]) & set(content.patients[held])
        assert set(content.labels[held]) == {"NORMAL", "PNEUMONIA"}
        assert len(training) + len(held) == len(content)
        held_out += held.tolist()
    assert sorted(held_out) == list(range(len(content)))


def test_a_whole_site_can_be_the_test() -> None:
    content = make_content()
    split = splits.hold_out_site(content, "c")
    assert content.sites is not None
    assert set(split[content.sites == "c"]) == {"test"}
    assert set(split[content.sites != "c"]) == {"train", "validation"}
    assert splits.leaks(content.patients, split) == {}
    with pytest.raises(RecipeError, match="'d' in the data set; its sites are 'a', 'b', 'c'"):
        splits.hold_out_site(content, "d")
    with pytest.raises(RecipeError, match="no column for it"):
        splits.hold_out_site(replace(content, sites=None), "c")


def test_a_patient_who_was_seen_at_two_sites_goes_with_the_one_held_out() -> None:
    content = make_content()
    assert content.sites is not None
    sites = content.sites.copy()
    patient = content.patients[sites == "a"][0]
    sites[np.flatnonzero(content.patients == patient)[0]] = "c"
    split = splits.hold_out_site(replace(content, sites=sites), "c")
    assert set(split[content.patients == patient]) == {"test"}


def test_too_few_patients_are_named() -> None:
    content = make_content(patients=12)
    with pytest.raises(RecipeError, match="'NORMAL' has 3 patients"):
        splits.three_way(content)


def test_a_version_covers_all_that_a_split_depends_on() -> None:
    """Sites deal, too, and a list that gives splits itself is another one than the same list without."""
    content = make_content()
    assert content.sites is not None
    moved = content.sites.copy()
    moved[0] = "b" if moved[0] == "a" else "a"
    given = np.where(content.sites == "c", "test", "train")
    turned = np.where(content.sites == "c", "train", "test")
    others = (
        content, replace(content, sites=None), replace(content, sites=moved), replace(content, given=given),
        replace(content, given=turned),
    )  # fmt: skip
    assert len({splits.version(each) for each in others}) == len(others)


def test_a_plan_gives_columns_for_the_list() -> None:
    content = make_content()
    found = splits.Plan(folds=4).columns(content)
    assert set(found["fold"]) == {"1", "2", "3", "4"}
    assert [name == "test" for name in found["split"]] == [fold == "1" for fold in found["fold"]]
    assert splits.leaks(content.patients, np.array(found["fold"])) == {}
    assert splits.Plan(site="c").columns(content) == {"split": splits.hold_out_site(content, "c").tolist()}
    assert splits.Plan().columns(content) == {"split": splits.three_way(content).tolist()}


def test_leaks_name_the_patient_and_both_splits() -> None:
    patients, split = np.array(["p1", "p2", "p1", ""]), np.array(["train", "train", "test", "test"])
    assert splits.leaks(patients, split) == {"p1": ["test", "train"]}
