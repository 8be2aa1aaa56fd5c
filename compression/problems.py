"""What checks of a data set complain of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from compression.recipe import RecipeError

_EXAMPLES = 5


class DataError(RecipeError):
    """A data set is wrong; the message names the file, what is wrong with it, and what to do next."""


Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Problem:
    """One kind of defect in one data set: how often, some examples, what to do."""

    severity: Severity
    data_set: str
    what: str
    count: int
    examples: list[str]
    hint: str


def add(
    problems: list[Problem], severity: Severity, data_set: str, what: str, examples: Sequence[str], hint: str,
    count: int | None = None,
) -> None:  # fmt: skip
    """Keep a problem if there is any case of it."""
    number = len(examples) if count is None else count
    if number:
        problems.append(Problem(severity, data_set, what, number, list(examples[:_EXAMPLES]), hint))
