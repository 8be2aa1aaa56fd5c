"""Many devices on one page: what each one's telemetry says, which are unlike the others, and which say nothing.

It needs no ledger and no network: a folder of exports, and one of the devices' public keys.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from appliance import pages, telemetry
from appliance.errors import ApplianceError, SignatureError
from appliance.telemetry import OfWeek, Telemetry

STALE_DAYS = 10
_LATEST_WEEKS = 4
_FEWEST = 4  # devices, below which nothing is called unlike the others
_FAR = 3.5  # of the modified z-score (Iglewicz & Hoaglin, 1993)
_MEDIAN_DEVIATION, _MEAN_DEVIATION = 0.6745, 0.7979  # of a normal distribution, in standard deviations
_LARGEST = 16 << 20


@dataclass(frozen=True)
class Figure:
    """One figure of a device: its value, and whether it is far from the other devices' and on which side."""

    value: float | None
    words: str
    far: str = ""


@dataclass
class Device:
    """The latest export of a device, with the weeks of all of them.

    Attributes
    ----------
    known
        Whether its key is among the known ones; if not, anybody may have made the export.
    days
        Since it was made.
    """

    telemetry: Telemetry
    known: bool
    days: int
    weeks: dict[str, OfWeek]
    figures: dict[str, Figure] = field(default_factory=dict)

    @property
    def stale(self) -> bool:
        return self.days > STALE_DAYS

    @property
    def reads(self) -> list[str]:
        return [f"{each.model} {each.version}" for each in self.telemetry.packages if each.reads]

    @property
    def missing(self) -> list[str]:
        """Packages that are in force there and can't be opened."""
        return [f"{each.model} {each.version}".strip() or "a package" for each in self.telemetry.missing]

    @property
    def latest(self) -> list[OfWeek]:
        return [self.weeks[name] for name in sorted(self.weeks)[-_LATEST_WEEKS:]]

    @property
    def far(self) -> list[str]:
        return [name for name, figure in self.figures.items() if figure.far]


@dataclass
class Fleet:
    """What was found in a folder: devices, files that are no export or were changed, and devices without any."""

    devices: list[Device]
    refused: dict[str, str]
    silent: list[str]
    files: int


def gather(folder: Path, keys: Mapping[str, Ed25519PublicKey], today: date | None = None) -> Fleet:
    """Read every ``*.json`` below a folder; of several exports of a device the latest counts, and all their weeks.

    Raises
    ------
    ApplianceError
        There is no such folder, or no export in it.
    """
    if not folder.is_dir():
        raise ApplianceError(f"{folder} is no folder")
    today, refused, found = today or datetime.now(UTC).date(), {}, []
    paths = sorted(folder.rglob("*.json"))
    for path in paths:
        try:
            found.append(_read(path, keys))
        except (ApplianceError, OSError) as error:
            reason = error.message if isinstance(error, ApplianceError) else str(error.strerror)
            refused[path.relative_to(folder).as_posix()] = reason
    if not found:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(refused.items())[:3])
        raise ApplianceError(
            f"there is no telemetry that can be read in {folder}{': ' if reasons else ''}{reasons}",
            hint="put what `scanside telemetry export` wrote there",
        )
    devices: dict[str, Device] = {}
    for known, told in sorted(found, key=lambda each: each[1].made_on):
        before = devices.get(told.device)
        if before is not None and before.known and not known:
            continue  # who has no key of a device has no say about it
        days = (today - date.fromisoformat(told.made_on)).days
        earlier = before.weeks if before is not None and before.known == known else {}
        weeks = {**earlier, **{week.week: week for week in told.weeks}}
        devices[told.device] = Device(told, known, days, weeks)
    ordered = sorted(devices.values(), key=lambda device: device.telemetry.device)
    _judge(ordered)
    return Fleet(ordered, refused, sorted(set(keys) - set(devices)), len(paths))


def _read(path: Path, keys: Mapping[str, Ed25519PublicKey]) -> tuple[bool, Telemetry]:
    if path.stat().st_size > _LARGEST:
        raise SignatureError(f"it is larger than {_LARGEST:,} bytes")
    content = path.read_bytes()
    told = telemetry.read(content).telemetry
    if told.device not in keys:
        return False, told
    return True, telemetry.verify(content, keys).telemetry


def report(fleet: Fleet) -> str:
    """One HTML page, without anything from elsewhere."""
    return pages.render("fleet.html", fleet=fleet, names=list(_FIGURES), made_at=datetime.now(UTC), trend=trend)


def trend(device: Device) -> str:
    """The readings of each week as points of an SVG polyline 100 wide and 24 high; '' where fewer than two are told."""
    totals = [_total(device.weeks[name]) for name in sorted(device.weeks)]
    told = [(place, value) for place, value in enumerate(totals) if value is not None]
    if len(told) < 2:
        return ""
    most = max(value for _, value in told) or 1
    step = 100 / max(len(totals) - 1, 1)
    return " ".join(f"{place * step:.1f},{22 - 20 * value / most:.1f}" for place, value in told)


# --- figures, and which are unlike the others -------------------------------------------------------------------------


def _total(week: OfWeek) -> int | None:
    table = week.tables.get("state")
    return table.total if table is not None else None


def _per_week(device: Device) -> float | None:
    totals = [total for week in device.latest if (total := _total(week)) is not None]
    return statistics.mean(totals) if totals else None


def _share(kind: str, cells: Sequence[str]) -> Callable[[Device], float | None]:
    """Of the readings of the latest weeks whose cells are all told, or are not there."""

    def share(device: Device) -> float | None:
        hits, total = 0, 0
        for week in device.latest:
            table = week.tables.get(kind)  # type: ignore[call-overload]
            if table is None or table.total is None or any(table.cells.get(cell, 0) is None for cell in cells):
                continue
            hits += sum(table.cells.get(cell) or 0 for cell in cells)
            total += table.total
        return hits / total if total else None

    return share


def _disagreed(device: Device) -> float | None:
    said, total = 0, 0
    for week in device.latest:
        for each in week.assessed:
            cells = each.readings.cells
            if each.readings.total is None or any(value is None for value in cells.values()):
                continue
            said += sum(value or 0 for name, value in cells.items() if name.endswith("/disagree"))
            total += each.readings.total
    return said / total if total else None


def _seconds(device: Device) -> float | None:
    reads = {each.sha256 for each in device.telemetry.packages if each.reads}
    found = [each.seconds_p50 for week in device.latest for each in week.taken if each.sha256 in reads]
    return statistics.median(found) if found else None


def _slowest(device: Device) -> float | None:
    reads = {each.sha256 for each in device.telemetry.packages if each.reads}
    found = [each.seconds_p95 for week in device.latest for each in week.taken if each.sha256 in reads]
    return max(found) if found else None


def _network(device: Device) -> float | None:
    """Of the fastest proved backend of what reads, the slowest such package."""
    best: dict[str, float] = {}
    reads = {each.sha256 for each in device.telemetry.packages if each.reads}
    for proof in device.telemetry.proofs:
        if proof.sha256 in reads:
            best[proof.sha256] = min(best.get(proof.sha256, math.inf), proof.seconds_p50)
    return max(best.values()) if best else None


def _alarms(device: Device) -> float | None:
    return float(sum(each.count for week in device.latest for each in week.alarms if each.kind == "alarm"))


_PERCENT, _SECONDS_FORM, _NUMBER = "{:.1%}", "{:.2f} s", "{:.0f}"
# What it is called -> how it is told, and how it is found.
_FIGURES: dict[str, tuple[str, Callable[[Device], float | None]]] = {
    "Readings a week": (_NUMBER, _per_week),
    "Positive": (_PERCENT, _share("outcome", ("urgent", "positive"))),
    "Unsure": (_PERCENT, _share("outcome", ("indeterminate",))),
    "Turned away": (_PERCENT, _share("state", ("rejected", "failed", "quarantined"))),
    "Readers disagree": (_PERCENT, _disagreed),
    "Seconds, median": (_SECONDS_FORM, _seconds),
    "Seconds, 95 %": (_SECONDS_FORM, _slowest),
    "Network": ("{:.3f} s", _network),
    "Drift alarms": (_NUMBER, _alarms),
    "Undelivered": (_NUMBER, lambda device: float(device.telemetry.undelivered)),
    "Disk used": (_PERCENT, lambda device: device.telemetry.disk_used),
}


def _judge(devices: Sequence[Device]) -> None:
    for name, (form, find) in _FIGURES.items():
        values = [find(device) for device in devices]
        far = outliers(values)
        for device, value, side in zip(devices, values, far, strict=True):
            words = form.format(value).replace("%", " %") if value is not None else ""
            device.figures[name] = Figure(value, words, side)


def outliers(values: Sequence[float | None]) -> list[str]:
    """Of each value "high", "low" or "": those whose modified z-score is above 3.5 (Iglewicz & Hoaglin, 1993).

    By median and median absolute deviation, which a few strange devices don't move; where more than half are equal, by
    the mean absolute deviation, as they propose. Below four values nothing is far.
    """
    there = [value for value in values if value is not None]
    if len(there) < _FEWEST:
        return ["" for _ in values]
    middle = statistics.median(there)
    off = [abs(value - middle) for value in there]
    scale = statistics.median(off) / _MEDIAN_DEVIATION or statistics.mean(off) / _MEAN_DEVIATION
    return ["" if value is None else _side(value - middle, scale) for value in values]


def _side(off: float, scale: float) -> str:
    if scale == 0.0 or abs(off) / scale <= _FAR:
        return ""
    return "high" if off > 0 else "low"
