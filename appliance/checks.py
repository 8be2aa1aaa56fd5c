"""A question and its answer, as `scanside doctor` and `scanside test-connection` print them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Check:
    """One question and its answer; ``hint`` says what to do next."""

    what: str
    outcome: Literal["ok", "warning", "fail"]
    detail: str
    hint: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
