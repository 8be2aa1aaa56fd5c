"""When a series is complete: decisions on evidence alone, without a ledger."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import DataElement, Dataset

from appliance import image
from appliance.completeness import NEXT_ASSOCIATION_SECONDS, Ready, Slice, Transfer, Waiting, judge
from tests.dicom_files import make_series

NOW = 1_000_000.0
QUIET = 10.0
HEAD = (0.0, 0.0, 1.0)
# Obstacles that are no evidence that an image is missing.
TELL_NOTHING = "on an association of its own", "neither a count nor the position"
RELEASED = Transfer("storage_scp", NOW - 5, NOW - 1, "released", 32)


def stack(*places: int, spacing: float = 1.0, **stated: int | float | None) -> list[Slice]:
    return [
        Slice(**{"instance_number": place + 1, "position": place * spacing, "normal": HEAD, **stated})  # type: ignore[arg-type]
        for place in places
    ]


def judged(slices: list[Slice], *transfers: Transfer, quiet: float = 1.0) -> Ready | Waiting:
    return judge(slices, transfers or (RELEASED,), NOW - quiet, NOW, QUIET)


def waits_for(slices: list[Slice], *transfers: Transfer) -> str:
    """What it waits for now; once quiet it is read with that reason, and its result says what is missing."""
    found = judged(slices, *transfers)
    assert isinstance(found, Waiting), found
    assert found.look_again_at == NOW - 1 + QUIET
    obstacle, _, until = found.reason.partition(": waiting until ")
    assert until == f"{datetime.fromtimestamp(found.look_again_at):%H:%M:%S}"
    counted = "is still open" in obstacle and all(each.images_in_acquisition == len(slices) for each in slices)
    missing = "" if counted or any(each in obstacle for each in TELL_NOTHING) else obstacle
    assert judged(slices, *transfers, quiet=10.4) == Ready(f"quiet for 10 s: {obstacle}", missing)
    return obstacle


def test_a_regular_stack_is_read_when_its_association_is_released() -> None:
    assert judged(stack(*range(32))) == Ready("32 slices without a gap, association released")
    assert judged(stack(*range(31, -1, -1))) == Ready("32 slices without a gap, association released")
    assert judged(stack(0)) == Ready("1 slice, association released")


def test_counts_that_agree_are_said_and_need_no_look_back() -> None:
    just = replace(RELEASED, ended_at=NOW)
    for count in ("images_in_acquisition", "number_of_series_related_instances"):
        assert judged(stack(*range(30), **{count: 30}), just) == Ready(
            "30 slices without a gap, as many as it says, association released"
        )


def test_without_a_count_a_sender_may_go_on_for_a_moment() -> None:
    just = replace(RELEASED, ended_at=NOW)
    found = judged(stack(*range(30)), just)
    assert isinstance(found, Waiting)
    assert found.look_again_at == NOW + NEXT_ASSOCIATION_SECONDS


def test_images_that_are_missing_by_count_are_waited_for() -> None:
    assert waits_for(stack(*range(118), number_of_series_related_instances=120)) == "says 120 images, 118 are here"
    assert waits_for(stack(0, images_in_acquisition=2)) == "says 2 images, 1 is here"
    holed = stack(*range(31), *range(33, 120), number_of_series_related_instances=120)
    assert waits_for(holed) == "says 120 images, 118 are here, positions 31.0, 32.0 mm missing"


def test_counts_of_several_acquisitions_add_up() -> None:
    first, second = stack(*range(10), acquisition_number=1, images_in_acquisition=10), stack(
        *range(10, 19), acquisition_number=2, images_in_acquisition=10
    )  # fmt: skip
    assert waits_for([*first, *second]) == "says 20 images, 19 are here"
    assert isinstance(judged([*first, *second, *stack(19, acquisition_number=2, images_in_acquisition=10)]), Ready)


def test_a_gap_is_waited_for_and_named() -> None:
    assert waits_for(stack(*range(31), *range(32, 60))) == "position 31.0 mm missing"
    assert waits_for(stack(0, 1, 9)) == "positions 2.0, 3.0, 4.0 mm and 4 more missing"
    assert waits_for(stack(0, 2, 4, spacing_between_slices=1.0)) == "positions 1.0, 3.0 mm missing"


def test_a_missing_end_shows_in_the_instance_numbers() -> None:
    assert waits_for(stack(*range(4, 30))) == "its lowest instance number is 5"
    without = [replace_number(each, None) for each in stack(*range(4, 30))]
    assert isinstance(judged(without), Ready)


def replace_number(each: Slice, number: int | None) -> Slice:
    return Slice(number, each.acquisition_number, each.position, each.normal)


def test_missing_numbers_count_where_positions_do_not_tell() -> None:
    slices = [replace_number(each, number) for each, number in zip(stack(*range(4)), (1, 2, 4, 6), strict=True)]
    assert waits_for(slices) == "instance number 3 and 1 more missing"


def test_several_images_at_each_position_are_a_stack_too() -> None:
    phases = [replace_number(each, None) for each in stack(*range(10), *range(10))]
    assert isinstance(judged(phases), Ready)
    assert waits_for(phases[:-1]) == "1 instead of 2 images at position 9.0 mm"


def test_an_open_association_is_waited_for_but_not_for_ever() -> None:
    still = replace(RELEASED, ended_at=None, ending="")
    for slices in (stack(*range(30)), stack(*range(30), images_in_acquisition=30)):
        assert waits_for(slices, RELEASED, still) == "the association is still open"
    dropped = replace(still, source="drop_folder")
    assert waits_for(stack(*range(30)), dropped) == "the batch of files is still open"


def test_an_association_that_broke_off_proves_nothing_until_the_sender_comes_back() -> None:
    broken = replace(RELEASED, ending="aborted")
    assert waits_for(stack(*range(30)), broken) == "the association broke off"
    back = Transfer("storage_scp", NOW - 1, NOW - 0.6, "released", 5)
    assert isinstance(judged(stack(*range(30)), broken, back), Ready)
    beside = Transfer("storage_scp", NOW - 3, NOW - 0.6, "released", 5)
    assert waits_for(stack(*range(30)), broken, beside) == "the association broke off"
    assert judged(stack(*range(30), images_in_acquisition=30), broken) == Ready(
        "30 slices without a gap, as many as it says, though the association broke off"
    )


def test_a_sender_that_makes_an_association_for_each_image_ends_none_of_them_with_a_meaning() -> None:
    single = [Transfer("storage_scp", NOW - 9 + n, NOW - 8.5 + n, "released", 1) for n in range(8)]
    assert waits_for(stack(*range(8)), *single).startswith("each image came on an association of its own")
    assert isinstance(judged(stack(*range(8), images_in_acquisition=8), *single), Ready)


def test_without_geometry_and_counts_nothing_tells_that_there_is_no_gap() -> None:
    flat = [Slice(instance_number=number) for number in (1, 2, 3)]
    assert waits_for(flat) == "it states neither a count nor the position of each image"
    counted = [Slice(number, images_in_acquisition=3) for number in (1, 2, 3)]
    assert judged(counted) == Ready("3 images, as many as it says, association released")


def test_evidence_goes_before_the_timer() -> None:
    assert judged(stack(*range(32)), quiet=100) == Ready("32 slices without a gap, association released")


PLACES = st.builds(
    Slice,
    instance_number=st.none() | st.integers(-5, 40),
    acquisition_number=st.none() | st.integers(0, 2),
    position=st.none() | st.floats(-1e6, 1e6),
    normal=st.none() | st.just(HEAD) | st.just((1.0, 0.0, 0.0)),
    spacing_between_slices=st.none() | st.floats(1e-6, 1e3),
    images_in_acquisition=st.none() | st.integers(-5, 40),
    number_of_series_related_instances=st.none() | st.integers(-5, 40),
)


@given(st.lists(PLACES, min_size=1, max_size=12), st.sampled_from(["", "released", "aborted"]), st.floats(0, 30))
def test_whatever_headers_say_it_is_read_when_it_has_been_quiet(slices: list[Slice], ending: str, quiet: float) -> None:
    transfer = Transfer("storage_scp", NOW - 40, NOW - 1 if ending else None, ending, len(slices))
    found = judged(slices, transfer, quiet=quiet)
    if quiet >= QUIET:
        assert isinstance(found, Ready)
    if isinstance(found, Waiting):
        assert NOW < found.look_again_at <= NOW - quiet + QUIET


# --- what a header says ----------------------------------------------------------------------------------------------


def test_a_header_says_where_its_slice_lies(tmp_path: Path) -> None:
    paths = make_series(
        tmp_path, np.zeros((5, 8, 8), np.uint16), spacing=(2.5, 1, 1), ImagesInAcquisition=5, AcquisitionNumber=3
    )
    places = [image.place_in_series(image.read_header(path)) for path in paths]
    assert isinstance(judged(places), Ready)
    positions = sorted(place.position or 0.0 for place in places)
    assert np.diff(positions) == pytest.approx([2.5] * 4)
    assert {place.images_in_acquisition for place in places} == {5}
    assert {place.acquisition_number for place in places} == {3}
    assert sorted(place.instance_number or 0 for place in places) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("value", ["", "abc", "1\\2", "nan\\nan\\nan\\nan\\nan\\nan", "0\\0\\0\\0\\0\\0", "1e999"])
def test_a_value_that_is_none_counts_as_not_stated(value: str) -> None:
    header = Dataset()
    for tag in (0x00200037, 0x00200032, 0x00180088, 0x00200013, 0x00201002):
        header.add(DataElement(tag, "LO", value))
    assert image.place_in_series(header) == Slice()
