"""The proof of the ledger: what was received is all there, in exactly one state, with every file as it came.

The quick form counts and looks for the files of what waits; the full one hashes every file and looks for orphans.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from appliance import file_head
from appliance.config import Config
from appliance.custody import Custody
from appliance.errors import SpoolError
from appliance.file_head import digest_of, has_digest
from appliance.overview import STATES
from appliance.spool import LANDING

COMPONENT = "recount"  # under which its last outcome is kept in the ledger
_FRESH_SECONDS = 120.0  # a younger file may be on its way to its row
_MOST_KEPT = 20  # faults in the ledger; the command line names all

Progress = Callable[[int, int], object]
"""Told how many files are done, of how many."""


class Fault(msgspec.Struct, frozen=True):
    """``where``: an image's number, or a file below the data folder."""

    where: str
    what: str


class Outcome(msgspec.Struct, frozen=True):
    """``counts``: received, resulted, rejected, failed, quarantined, withheld, pending; empty where the ledger can't be
    read so far; ``files`` that were seen."""

    kind: str
    at: float
    seconds: float
    counts: dict[str, int]
    files: int
    faults: list[Fault]


@dataclass
class _Seen:
    """How far a recount has come."""

    counts: dict[str, int] = field(default_factory=dict)
    files: int = 0


def recount(config: Config, custody: Custody, full: bool, progress: Progress = lambda *_: None) -> Outcome:
    """Count, and look at the files. Writes nothing; `keep` does.

    Where the ledger can't be read any further, that is a fault, too, and the last one.
    """
    at, begin = time.time(), time.monotonic()
    seen, found = _Seen(), list[Fault]()
    looked = _faults(config, custody, full, seen, progress)
    try:
        while (fault := next(looked, None)) is not None:
            found.append(fault)
    except SpoolError as error:
        found.append(Fault("ledger", str(error)))
    return Outcome("full" if full else "quick", at, time.monotonic() - begin, seen.counts, seen.files, found)


def _faults(config: Config, custody: Custody, full: bool, seen: _Seen, progress: Progress) -> Iterator[Fault]:
    if full:
        yield from (Fault("ledger", what) for what in custody.damage())
    seen.counts, faults = _counts(custody)
    yield from faults
    if full:
        yield from (Fault(f"image {identifier}", what) for identifier, what in custody.contradictions())
    total = seen.counts["received"] if full else seen.counts["pending"]
    for row in custody.spooled(open_only=not full):
        fault = _image_fault(config.spool_path / row["file"], row, full)
        if fault:
            yield Fault(f"image {row['id']}", fault)
        seen.files += 1
        progress(seen.files, max(total, seen.files))
    if full:
        for row in custody.written():
            if fault := _object_fault(config.results_path / row["path"], row):
                yield Fault(f"image {row['instance_id']}", fault)
            seen.files += 1
        yield from _orphans(config, custody)
        yield from _left_in_slots(config, custody)


def keep(custody: Custody, outcome: Outcome) -> None:
    """Keep an outcome in the ledger, for the page."""
    shortened = msgspec.structs.replace(outcome, faults=outcome.faults[:_MOST_KEPT])
    content = {**msgspec.to_builtins(shortened), "fault_count": len(outcome.faults)}
    custody.set_component(COMPONENT, content)


def _counts(custody: Custody) -> tuple[dict[str, int], list[Fault]]:
    """The sum, and where it does not come out."""
    counted, kept = custody.recount()
    faults = [
        Fault("ledger", f"{name}: {kept.get(name)} by its tally, {counted.get(name, 0)} by its rows")
        for name in (*STATES, "total")
        if counted.get(name, 0) != kept.get(name)
    ]
    counts = {
        "received": kept.get("total", 0),
        "resulted": counted.get("written", 0) + counted.get("delivered", 0),
        **{state: counted.get(state, 0) for state in ("rejected", "failed", "quarantined", "withheld")},
        "pending": counted.get("received", 0) + counted.get("claimed", 0),
    }
    ended = sum(counts.values()) - counts["received"]
    if ended != counts["received"]:
        faults.append(Fault("ledger", f"{counts['received']} were received, and {ended} are accounted for"))
    return counts, faults


def _image_fault(path: Path, row: dict[str, Any], full: bool) -> str:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return "" if row["image_removed_at"] else f"its file {row['file']} is missing"
    except OSError as error:
        return f"its file {row['file']} can't be read: {error.strerror}"
    if row["image_removed_at"]:
        return f"its file {row['file']} is there, though retention has removed it; it may be deleted" if full else ""
    if size != row["size"]:
        return f"its file {row['file']} has {size} bytes, not {row['size']}"
    try:
        same = not full or has_digest(path, row["digest"])
    except OSError as error:  # a bad sector is no reason to look at nothing else
        return f"its file {row['file']} can't be read: {error.strerror}"
    return "" if same else f"its file {row['file']} is not what was received (SHA-256)"


def _object_fault(path: Path, row: dict[str, Any]) -> str:
    try:
        with path.open("rb") as file:
            same = not row["digest"] or digest_of(file) == row["digest"]
    except FileNotFoundError:
        return "" if row["removed"] else f"its {row['kind']} {row['path']} is missing"
    except OSError as error:
        return f"its {row['kind']} {row['path']} can't be read: {error.strerror}"
    return "" if same else f"its {row['kind']} {row['path']} is not what was written (SHA-256)"


def _orphans(config: Config, custody: Custody) -> Iterator[Fault]:
    """Files in the spool and in the results folder that no row knows."""
    young = time.time() - _FRESH_SECONDS
    for path in _files(config.spool_path):
        if path.parent.name == LANDING:  # under way, or known by its final name, too
            continue
        name = str(path.relative_to(config.spool_path))
        if custody.has_image(name) or _changed_at(path) > young:
            continue
        yield Fault(f"spool/{name}", "it has no row, so it was never acknowledged; its sender still has it")
    for path in _files(config.results_path):
        name = str(path.relative_to(config.results_path))
        if not custody.has_object(name) and _changed_at(path) <= young:
            yield Fault(f"{config.results.path}/{name}", "it has no row: it was written for a result that never was")


def _left_in_slots(config: Config, custody: Custody) -> Iterator[Fault]:
    """Files that have landed whole and been acknowledged, perhaps, and that no row knows (`appliance.landing`)."""
    young = time.time() - _FRESH_SECONDS
    for slot in (config.spool_path / LANDING).glob("*"):
        if _changed_at(slot) > young:
            continue
        where = f"spool/{LANDING}/{slot.name}"
        try:
            arrival = file_head.read(slot)
        except FileNotFoundError:
            continue  # it is settled
        except OSError as error:
            yield Fault(where, f"it can't be read, and may have been acknowledged: {error.strerror}")
            continue
        if arrival is not None and not custody.has_image(arrival.file):
            yield Fault(where, "it came whole and has no row: the next start gives it one, or the log says why not")


def _files(folder: Path) -> Iterator[Path]:
    for root, _, names in os.walk(folder):
        yield from (Path(root) / name for name in names)


def _changed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()
