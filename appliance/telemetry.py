"""Telemetry: figures of a device for whoever looks after many, signed by it, and nothing that leads to a patient.

Counts are of complete weeks, so that two exports of different days differ by whole weeks only and never by a single
day. Within a week, cells from fewer than ``telemetry.least_patients`` patients are left out; where that leaves one cell
that the total would give away, the next smallest goes, too. Strings are ids, versions, digests and names of a fixed
list; `docs/telemetry.md` has the schema.
"""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import msgspec
import psutil
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from msgspec import Meta

from appliance import __version__, installed, signature
from appliance.config import Config
from appliance.errors import SignatureError
from appliance.installed import InForce
from appliance.package import Package
from appliance.package_store import PackageStore
from appliance.receipt import Receipt
from appliance.receipts import known
from appliance.store import Store
from appliance.telemetry_store import Cell, TelemetryStore

FORMAT: Literal["scanside-telemetry/1"] = "scanside-telemetry/1"
WEEKS = 13

Word = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9 .:+/_-]{0,63}$")]  # of a fixed list, or a signed package's
Digest = Annotated[str, Meta(pattern=r"^([0-9a-f]{64}|none)$")]
Hex = Annotated[str, Meta(pattern=r"^[0-9a-f]{16}$")]
Week = Annotated[str, Meta(pattern=r"^\d{4}-W\d{2}$")]
Day = Annotated[str, Meta(pattern=r"^\d{4}-\d{2}-\d{2}$")]
Count = Annotated[int, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Number = Annotated[float, Meta(ge=0)]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Table(_Part, frozen=True):
    """``cells``: value -> readings, None where they are too few to be told; ``total`` is None where it would tell."""

    total: Count | None
    cells: dict[Word, Count | None]


class InstalledPackage(_Part, frozen=True):
    """A package on the device."""

    model: Word
    version: Word
    sha256: Digest
    reads: bool


class MissingPackage(_Part, frozen=True):
    """A package that is in force and can't be opened, so that nothing that hangs on its manifest is told: what readers
    said of its findings, and times. '' and ``none`` where only the configuration names it: a file's name is not told.
    """

    model: Annotated[str, Meta(pattern=r"^([A-Za-z0-9][A-Za-z0-9 .:+/_-]{0,63})?$")]
    version: Annotated[str, Meta(pattern=r"^[A-Za-z0-9.+-]{0,64}$")]
    sha256: Digest


class Change(_Part, frozen=True):
    """When another package was put in force."""

    day: Day
    model: Word
    version: Annotated[str, Meta(pattern=r"^[A-Za-z0-9.+-]{0,64}$")]
    kind: Literal["switch", "promotion", "rollback", "fallback"]


class ProvedBackend(_Part, frozen=True):
    """The latest receipt of a backend on a package."""

    model: Word
    version: Word
    sha256: Digest
    backend: Word
    day: Day
    golden_vectors: Count
    flips: Count
    largest_difference: Number
    smallest_dice: float | None
    seconds_p50: Number
    seconds_p95: Number


class Assessed(_Part, frozen=True):
    """What readers said of a finding; cells are ``what the result said/their verdict``."""

    model: Word
    version: Word
    finding: Word
    readings: Table


class Taken(_Part, frozen=True):
    """How long a reading took in all, by the package that made it, where they are of enough patients."""

    sha256: Digest
    seconds_p50: Number
    seconds_p95: Number


class Alarms(_Part, frozen=True):
    """Drift alarms of a package."""

    sha256: Digest
    against: Literal["validated", "site"]
    kind: Literal["alarm", "warning", "confidence"]
    count: Count


class OfWeek(_Part, frozen=True):
    """A complete week, Monday to Sunday by UTC (ISO 8601). ``tables``: by state, outcome, age, modality, package."""

    week: Week
    tables: dict[Literal["state", "outcome", "age", "modality", "package"], Table]
    assessed: tuple[Assessed, ...]
    taken: tuple[Taken, ...]
    alarms: tuple[Alarms, ...]


class Telemetry(_Part, frozen=True):
    """All that is told of a device."""

    format: Literal["scanside-telemetry/1"]
    device: Hex
    made_on: Day
    software: Word
    least_patients: Count
    packages: tuple[InstalledPackage, ...]
    missing: tuple[MissingPackage, ...]
    changes: tuple[Change, ...]
    proofs: tuple[ProvedBackend, ...]
    disk_used: Share
    memory_used: Share
    undelivered: Count
    weeks: tuple[OfWeek, ...]


class Signed(_Part, frozen=True):
    """``signature`` is Ed25519 over the telemetry as JSON with sorted keys and no spaces: ``key id:hex``."""

    telemetry: Telemetry
    signature: Annotated[str, Meta(pattern=r"^[0-9a-f]{16}:[0-9a-f]{128}$")]

    def to_json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self, order="deterministic"), indent=1)


def make(config: Config, now: datetime | None = None) -> Signed:
    """Of this device, by its ledger; it works whether or not the appliance runs, and where packages can't be opened."""
    moment = (now or datetime.now(UTC)).astimezone(UTC)
    key, _ = signature.load_or_create_private_key(config.key_path)
    ledger = Store(config.ledger_path, read_only=True)
    packages = {opened.sha256: opened for opened in installed.verified(config)}
    in_force = list(installed.each_in_force(config))
    reads = {each.opened.sha256 for each in in_force if each.opened is not None}
    disk = shutil.disk_usage(config.data)
    told = Telemetry(
        format=FORMAT,
        device=signature.key_id(key.public_key()),
        made_on=moment.date().isoformat(),
        software=__version__,
        least_patients=config.telemetry.least_patients,
        packages=tuple(
            InstalledPackage(each.manifest.id, each.manifest.version, sha256, sha256 in reads)
            for sha256, each in packages.items()
        ),
        missing=tuple(_missing(each) for each in in_force if each.problem is not None),
        changes=tuple(_changes(config)),
        proofs=tuple(_proof(each) for each in known(ledger, key) if each.package_sha256 in packages),
        disk_used=round(disk.used / max(disk.used + disk.free, 1), 4),
        memory_used=round(psutil.virtual_memory().percent / 100, 4),
        undelivered=ledger.undelivered_count(),
        weeks=tuple(_weeks(config, moment, packages)),
    )
    ledger.close()
    return Signed(told, signature.sign(key, _canonical(told)))


def verify(content: bytes, keys: Mapping[str, Ed25519PublicKey]) -> Signed:
    """An export that was read, of a device whose key is known.

    Raises
    ------
    SignatureError
        It is no telemetry, was changed, or is signed by none of the keys.
    """
    signed = read(content)
    by = signature.verify(signed.signature, _canonical(signed.telemetry), dict(keys), "the export")
    if by != signed.telemetry.device:
        raise SignatureError(f"the export says that it is of {signed.telemetry.device}, and {by} has signed it")
    return signed


def read(content: bytes) -> Signed:
    """An export, without a look at who signed it; raises `SignatureError` where it is none."""
    try:
        return msgspec.json.decode(content, type=Signed)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SignatureError(f"it is no telemetry of this format: {error}") from error


def _canonical(told: Telemetry) -> bytes:
    return msgspec.json.encode(told, order="sorted")


def suppressed(cells: Mapping[str, Cell], least: int) -> Table:
    """A table without what comes from fewer than ``least`` patients, and without what the rest would give away.

    A single cell that is left out is the total without the others; so another one goes with it, and if what is left out
    is still of too few, the total goes.
    """
    hidden = {name for name, cell in cells.items() if 0 < cell.patients < least}
    if hidden:
        for name in sorted(set(cells) - hidden, key=lambda name: (cells[name].readings, name)):
            if len(hidden) > 1 and sum(cells[each].patients for each in hidden) >= least:
                break
            if cells[name].readings:
                hidden.add(name)
    told_apart = len(hidden) > 1 and sum(cells[each].patients for each in hidden) >= least
    total = sum(cell.readings for cell in cells.values()) if not hidden or told_apart else None
    return Table(total, {name: None if name in hidden else cell.readings for name, cell in sorted(cells.items())})


def _weeks(config: Config, now: datetime, packages: Mapping[str, Package]) -> list[OfWeek]:
    """The latest complete ones that anything was received in, the earliest first."""
    store, least = TelemetryStore(config.ledger_path, read_only=True), config.telemetry.least_patients
    monday = datetime.combine(now.date() - timedelta(days=now.weekday()), datetime.min.time(), UTC)
    weeks = []
    for back in range(WEEKS, 0, -1):
        begin = monday - timedelta(weeks=back)
        since, until = begin.timestamp(), (begin + timedelta(weeks=1)).timestamp()
        tables: dict[Any, Table] = {
            name: suppressed(cells, least) for name, cells in store.tables(since, until).items()
        }
        if any(table.total is None for table in tables.values()):  # each would tell what the others keep
            tables = {name: Table(None, table.cells) for name, table in tables.items()}
        assessed = store.assessed(since, until)
        year, number, _ = begin.isocalendar()
        week = OfWeek(
            week=f"{year}-W{number:02d}",
            tables=tables,
            assessed=tuple(_assessed(assessed, packages, least)),
            taken=tuple(_taken(store.seconds(since, until), packages, least)),
            alarms=tuple(
                Alarms(row["package"], row["against"], row["kind"], row["n"]) for row in store.alarms(since, until)
            ),
        )
        if any(table.cells for table in tables.values()) or week.assessed or week.alarms:
            weeks.append(week)
    store.close()
    return weeks


def _assessed(
    found: Mapping[tuple[str, str], Mapping[str, Cell]], packages: Mapping[str, Package], least: int
) -> list[Assessed]:
    """Of findings that a package on this device has: other names are nobody's business."""
    names = {str(opened): opened.manifest for opened in packages.values()}
    told = []
    for (name, label), cells in sorted(found.items()):
        manifest = names.get(name)
        if manifest is not None and label in {finding.label for finding in manifest.findings}:
            told.append(Assessed(manifest.id, manifest.version, label, suppressed(cells, least)))
    return told


def _taken(found: Mapping[str, tuple[list[float], int]], packages: Mapping[str, Package], least: int) -> list[Taken]:
    return [
        Taken(
            sha256,
            round(statistics.median(seconds), 4),
            round(statistics.quantiles(seconds, n=20)[-1] if len(seconds) > 1 else seconds[0], 4),
        )
        for sha256, (seconds, patients) in sorted(found.items())
        if patients >= least and sha256 in packages
    ]


def _missing(each: InForce) -> MissingPackage:
    """By the ledger, whose word is of a manifest that was verified once."""
    if each.choice is None:
        return MissingPackage("", "", "none")
    return MissingPackage(each.choice["model"], each.choice["version"], each.choice["sha256"])


def _changes(config: Config) -> list[Change]:
    store = PackageStore(config.ledger_path, read_only=True)
    rows = store.choices()
    store.close()
    return [
        Change(
            datetime.fromtimestamp(row["chosen_at"], UTC).date().isoformat(), row["model"], row["version"], row["kind"]
        )
        for row in reversed(rows)
    ]


def _proof(each: Receipt) -> ProvedBackend:
    return ProvedBackend(
        model=each.package,
        version=each.version,
        sha256=each.package_sha256,
        backend=each.backend,
        day=datetime.fromisoformat(each.made_at).astimezone(UTC).date().isoformat(),
        golden_vectors=each.count,
        flips=each.flips,
        largest_difference=each.max_abs_dp,
        smallest_dice=None if each.min_dice is msgspec.UNSET else float(each.min_dice),
        seconds_p50=round(each.latency_p50, 6),
        seconds_p95=round(each.latency_p95, 6),
    )
