"""Which of the candidates that were judged ships for a target: the same rule for every task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec

from compression.quantize import FLOAT
from compression.recipe import RecipeError

if TYPE_CHECKING:
    from pathlib import Path

    from compression.stages import Build

_AS_FAST = 1.15  # times the fastest: closer than that, times say little


class Judged(Protocol):
    """What every task's verdict on a candidate says."""

    @property
    def producer(self) -> str: ...
    @property
    def bytes(self) -> int: ...
    @property
    def milliseconds(self) -> float: ...
    @property
    def costs(self) -> dict[str, float]: ...
    @property
    def broken(self) -> tuple[str, ...]: ...


class Chosen(Protocol):
    """What every task's choice for a target says."""

    @property
    def target(self) -> str: ...
    @property
    def shipped(self) -> Judged: ...


V = TypeVar("V", bound=Judged)
C = TypeVar("C", bound=Chosen)


def save(build: Build, choices: Sequence[Chosen]) -> str:
    """Keep what ships for each target; in words."""
    _kept(build).write_bytes(msgspec.json.encode(choices))
    return "; ".join(
        f"{choice.target}: {choice.shipped.producer}, {choice.shipped.milliseconds:.2f} ms, "
        f"{choice.shipped.bytes / 1e6:.2f} MB"
        for choice in choices
    )


def load(build: Build, kind: type[C]) -> dict[str, C]:
    """Target -> what ships, of the task's own ``kind``, as it was kept."""
    found: list[C] = msgspec.json.decode(_kept(build).read_bytes(), type=list[kind])  # type: ignore[valid-type]
    return {choice.target: choice for choice in found}


def _kept(build: Build) -> Path:
    return build.folder("gate") / "choices.json"


def good(verdicts: dict[str, V]) -> list[V]:
    """Those of int8 that break no limit."""
    return [each for producer, each in verdicts.items() if producer != FLOAT and not each.broken]


def decide(target: str, verdicts: dict[str, V], cost: Callable[[V], Any]) -> tuple[V, V, str]:
    """What ships, the best int8 candidate, and why.

    Of candidates that keep every limit and are about as fast as the fastest, the one with the least ``cost``; float
    where that one is no faster.

    Raises
    ------
    RecipeError
        No int8 candidate keeps every limit, or float would ship and does not.
    """
    plain, kept = verdicts[FLOAT], good(verdicts)
    if not kept:
        rest = [verdict for producer, verdict in verdicts.items() if producer != FLOAT]
        reasons = "; ".join(f"{verdict.producer}: {', '.join(verdict.broken)}" for verdict in rest)
        raise RecipeError(f"target {target}: no int8 candidate passes the gate ({reasons})")
    fastest = min(verdict.milliseconds for verdict in kept)
    best = min((verdict for verdict in kept if verdict.milliseconds <= _AS_FAST * fastest), key=cost)
    if target == "tensorrt":  # its speed shows on a GPU only
        return best, best, "int8; its speed was not measured, for want of TensorRT"
    if best.milliseconds < plain.milliseconds:
        return best, best, "int8, which is faster than float on this runtime and keeps every limit of the gate"
    if plain.broken:
        raise RecipeError(f"target {target}: float is faster than int8, but {', '.join(plain.broken)}")
    return plain, best, "float32, because int8 is no faster on this runtime"


def told(producer: str, why: str, calibrated_with: str) -> dict[str, str]:
    """What ships for a target, for the report: what made it, why it ships, and which runtime measured it."""
    return {"producer": producer, "why": why, "calibrated_with": calibrated_with}


def summary(tried: Iterable[Judged], shipped: Judged) -> list[dict[str, Any]]:
    """All that was tried for a target, for the manifest and the report."""
    return [
        {
            "producer": verdict.producer,
            "shipped": verdict.producer == shipped.producer,
            "bytes": verdict.bytes,
            "milliseconds": verdict.milliseconds,
            "costs": verdict.costs,
            "broken": list(verdict.broken),
        }
        for verdict in tried
    ]
