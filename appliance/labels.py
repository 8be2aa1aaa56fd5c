"""What is known of images that a model has read: by a final diagnosis of their study, or else by a reader.

A diagnosis says it of a study, so of each image of it. It counts before what readers say of an image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from appliance import truth
from appliance.assessment_store import Assessments
from appliance.truth import Source
from appliance.truth_store import TruthStore


@dataclass(frozen=True)
class Label:
    """Whether an image shows the finding, and who says so."""

    instance_id: int
    present: bool
    source: Source


@dataclass
class Labels:
    """Of a model's images those with a label, by their number.

    Attributes
    ----------
    left_out
        Why -> images of which somebody has said something, but nothing that can be used.
    contradicted
        Numbers of images where a reader and the diagnosis, which counts, differ.
    """

    known: list[Label] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    contradicted: set[int] = field(default_factory=set)


def of(ledger: Path, model: str, finding: str) -> Labels:
    """All labels of the images that any version of a model has looked at for a finding."""
    diagnosed = dict(_diagnosed(ledger, model, finding))
    read = dict(_read(ledger, model, finding))
    found = Labels()
    for number in sorted({*diagnosed, *read}):
        reader, diagnosis = read.get(number), diagnosed.get(number)
        if number in diagnosed and diagnosis is None:
            found.left_out["final diagnoses contradict each other"] += 1
        elif diagnosis is not None:
            found.known.append(Label(number, diagnosis, "diagnosis"))
            if reader is not None and reader is not diagnosis:
                found.contradicted.add(number)
        elif reader is not None:
            found.known.append(Label(number, reader, "reader"))
        else:
            found.left_out["the reader did not say for sure"] += 1
    return found


def _diagnosed(ledger: Path, model: str, finding: str) -> Iterator[tuple[int, bool | None]]:
    """Images with what final diagnoses of their study say; None where these contradict each other."""
    store = TruthStore(ledger, read_only=True)
    try:
        matched = store.matched()
        results = {row["id"]: row for row in store.results({row["instance_id"] for row in matched} - {None})}
    finally:
        store.close()
    said, _ = truth.diagnosed(matched, results)
    for row in results.values():
        key = truth.study_of(row), finding
        if key in said and row["name"].rpartition(" ")[0] == model:
            yield row["id"], said[key][0]


def _read(ledger: Path, model: str, finding: str) -> Iterator[tuple[int, bool | None]]:
    """Images with what a reader says; None where that doesn't tell."""
    store = Assessments(ledger, read_only=True)
    try:
        for each in store.export():
            counts = each["superseded_by"] is None and (each["subject"], each["label"]) == ("finding", finding)
            if counts and each["provenance"]["package"] == model:
                yield each["instance_id"], truth.of_reader(each["said"], each["verdict"], each["reason"])
    finally:
        store.close()
