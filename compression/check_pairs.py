"""The part of ``check-data`` that looks for the same picture twice, within and between splits and data sets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from compression import duplicates
from compression.inventory import Inventory
from compression.problems import Problem, add

if TYPE_CHECKING:
    from compression.stages import Build

_PAIRS_KEPT = 1000  # in the JSON; the counts are of all


@dataclass(frozen=True)
class _All:
    """The used images of all sets in one row; a set without splits counts as one split of its own name."""

    files: list[str]
    labels: list[str]
    patients: list[str]
    splits: list[str]
    places: list[tuple[int, int]]

    def called(self, index: int) -> str:
        return f"{self.files[index]} ({self.splits[index]})"

    def describe(self, group: Sequence[int]) -> str:
        return " = ".join(self.called(index) for index in group)


def find(sets: Sequence[Inventory], problems: list[Problem]) -> dict[str, Any]:
    """Exact and near duplicates among the used images of all sets, and what was measured to tell them apart."""
    everything = _all(sets)
    digests = np.concatenate([taken.digests[taken.used] for taken in sets])
    small = np.concatenate([taken.small[taken.used] for taken in sets])
    groups = duplicates.exact(digests.tolist())
    described = duplicates.descriptors(small)
    pairs = [pair for pair in duplicates.near(described) if digests[pair.one] != digests[pair.other]]
    nearest = duplicates.nearest_other_patient(described, np.array(everything.patients))
    all_names = " and ".join(taken.name for taken in sets)
    for each in duplicates.contradictions(digests.tolist(), everything.splits, everything.labels):
        examples = [everything.describe(group) for group in each.groups]
        add(problems, "error", all_names, each.what, examples, each.hint)
    _exact_problems(everything, groups, all_names, problems)
    called = [everything.called(index) for index in range(len(everything.files))]
    near(pairs, (called, everything.patients, everything.splits), "splits", all_names, problems)
    for taken in sets:
        kept = set(taken.digests[taken.used].tolist())
        wrong = [taken.rows[index]["file"] for index in np.flatnonzero(~taken.used) if taken.digests[index] not in kept]
        add(
            problems,
            "warning",
            taken.name,
            "rows left out as duplicates whose pixels are nowhere else",
            wrong,
            "are they left out for good reason?",
        )
    return {
        "exact": [[everything.files[index] for index in group] for group in groups],
        "near_count": len(pairs),
        "near": [_pair(everything, pair) for pair in pairs[:_PAIRS_KEPT]],
        "limit": duplicates.LIMIT,
        "copies_made_on_purpose": duplicates.margins(small, described),
        "nearest_other_patient": {
            "percentiles": [0, 0.1, 1, 10, 50],
            "distances": np.percentile(nearest, [0, 0.1, 1, 10, 50]).round(4).tolist(),
            "histogram": np.histogram(nearest, bins=50, range=(0, 1))[0].tolist(),
        },
    }


def _all(sets: Sequence[Inventory]) -> _All:
    files, labels, patients, names, places = [], [], [], [], []
    for number, taken in enumerate(sets):
        for index in np.flatnonzero(taken.used):
            row = taken.rows[index]
            files.append(row["file"])
            labels.append(row["label"])
            patients.append(f"{taken.name}: {row['patient_id']}")
            names.append(row.get("split") or taken.name if number == 0 else taken.name)
            places.append((number, int(index)))
    return _All(files, labels, patients, names, places)


def _pair(everything: _All, pair: duplicates.Pair) -> dict[str, Any]:
    both = (pair.one, pair.other)
    return {
        "files": [everything.files[index] for index in both],
        "splits": [everything.splits[index] for index in both],
        "labels": [everything.labels[index] for index in both],
        "same_patient": everything.patients[pair.one] == everything.patients[pair.other],
        "distance": pair.distance,
        "places": [everything.places[index] for index in both],
    }


def _exact_problems(everything: _All, groups: list[list[int]], name: str, problems: list[Problem]) -> None:
    patients = everything.patients
    of_two = [group for group in groups if len({patients[index] for index in group}) > 1]
    add(
        problems,
        "warning",
        name,
        "the same picture under two patients",
        [everything.describe(group) for group in of_two],
        "one person may be in training and validation: join the two identifiers",
    )
    hint = "name the first one in the column exact_duplicate_of of the others: training then leaves them out"
    plain = [everything.describe(group) for group in groups]
    add(problems, "warning", name, "the same picture more than once", plain, hint)


def patients(sets: Sequence[tuple[str, Iterable[str]]], problems: list[Problem]) -> None:
    """Say which patients are in two sets by their numbers; ``sets``: the training set, then the external ones."""
    (training, learned_from), *external = sets
    hint = "one person, or the numbers of two hospitals? A person in training tests nothing: take the rows out of one"
    for name, there in external:
        both = sorted((set(learned_from) & set(there)) - {""})
        add(problems, "warning", f"{training} and {name}", "patients in training and external set", both, hint)


def warn_of_patients(build: Build, sets: Sequence[tuple[str, Iterable[str]]]) -> None:
    """As `patients`, while a build runs."""
    problems: list[Problem] = []
    patients(sets, problems)
    for each in problems if build.group.main else ():
        named = ", ".join(each.examples) + (", ..." if each.count > len(each.examples) else "")
        click.echo(f"warning: {each.data_set}: {each.what}: {each.count} ({named}): {each.hint}")


def near(
    pairs: Sequence[duplicates.Pair],
    images: tuple[Sequence[str], Sequence[str], Sequence[str]],
    parts: str,
    name: str,
    problems: list[Problem],
) -> None:
    """Say which pictures are nearly the same, and how bad that is.

    Parameters
    ----------
    images
        Of each: how it is called, its patient, and the part of the data it is in.
    parts
        What these parts are: splits, or data sets.
    name
        Where they were looked for.
    """
    called, patients, part = images
    between, others, same = [], [], []
    for pair in pairs:
        words = f"{called[pair.one]} = {called[pair.other]}, distance {pair.distance:.3f}"
        if part[pair.one] != part[pair.other]:
            between.append(words)
        elif patients[pair.one] != patients[pair.other]:
            others.append(words)
        else:
            same.append(words)
    hint = "look at them: copies don't belong in both"
    add(problems, "warning", name, f"near duplicates between {parts}", between, hint)
    hint = "look at them: one person may be in training and validation"
    add(problems, "warning", name, "near duplicates of two patients", others, hint)
    add(problems, "note", name, "near duplicates of one patient", same, "harmless, if few")
