"""What leaves the device in words is the program's own: no value that was filled in, whatever it holds."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.own_words import GAP, own_words


def test_a_sentence_is_told_without_its_values() -> None:
    assert own_words("The appliance failed on this image (ValueError). Report it with its row 17.") == (
        f"The appliance failed on this image ({GAP}). Report it with its row {GAP}."
    )
    assert own_words("association from DOE^JANE at 192.0.2.1") == f"association from {GAP} at {GAP}"


def test_a_sentence_in_a_sentence_is_told_too() -> None:
    told = own_words("No backend gave an answer: openvino can't be started: DOE^JANE")
    assert told == f"No backend gave an answer: openvino can't be started: {GAP}"
    said = own_words("the peer answered Failure 0xA700: DOE^JANE is unknown")
    assert said.startswith("the peer answered")
    assert "0xA700" in said
    assert "JANE" not in said


def test_what_is_nobody_s_sentence_is_not_told() -> None:
    for text in ("DOE^JANE", "JANE DOE, born 1950-01-01", "4711", "", "Report to the ward: Jane Doe"):
        assert not {"DOE", "JANE", "Jane", "4711", "ward"} & set(own_words(text).replace("^", " ").split())


@settings(deadline=None, max_examples=60)
@given(st.text("ÄÖÜßéqxz0123456789^", min_size=4, max_size=30))
def test_no_value_comes_through(value: str) -> None:
    for text in (
        value,
        f"The disk is full: {value}",
        f"instance 3 is turned away: {value}",
        f"{value}: delivery failed and is tried again",
        f"the appliance failed on it (ValueError: {value})",
    ):
        assert value not in own_words(text)
