"""``scanside replay``: the objects of a result once more, from the ledger, the package and the received files.

The network runs again on the same files, on the backend that ran then; what was found, by whom and when stands in the
ledger. Nothing that a writer is given depends on the day, so the same bytes must come of it, UIDs and times too: the
standard wants another SOP Instance UID only for another content. What does come out otherwise is another instance. It
gets a UID and a creation time of its own, and each attribute that differs is named.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any, get_args

import msgspec
import pydicom

from appliance import __version__, backends, difference, installed, package, pipeline, proof, writer
from appliance.config import Config, MessageKind, ResultKind
from appliance.errors import ApplianceError, BackendError, PackageError
from appliance.file_head import has_digest
from appliance.in_service import Tried
from appliance.package import Package
from appliance.pipeline import Pipeline, Reading, ResultFile, Stopwatch
from appliance.result import Finding, Outlines, Provenance
from appliance.sandbox import Sandbox
from appliance.spool import write_durably
from appliance.store import Store


@dataclass(frozen=True)
class Replayed:
    """What became of one of a result's objects.

    ``identical``: byte for byte what was written then. Otherwise ``differences`` names attributes by their path, or
    says why nothing can be compared any more. ``sop_instance_uid`` is the ledger's.
    """

    kind: str
    sop_instance_uid: str
    identical: bool
    differences: tuple[str, ...]
    suffix: str
    content: bytes = field(repr=False)


@dataclass(frozen=True)
class _Kept:
    """What the ledger knows of a result."""

    row: dict[str, Any]
    findings: tuple[Finding, ...]
    outlines: Outlines | None
    warnings: tuple[str, ...]
    provenance: Provenance
    objects: list[dict[str, Any]]
    files: list[dict[str, Any]]

    @property
    def makers(self) -> tuple[Provenance, ...]:
        """Who made the findings, and who drew the segments where that is another package."""
        drawn_by = self.outlines.provenance if self.outlines is not None else self.provenance
        return (self.provenance, drawn_by) if drawn_by.package_sha256 != self.provenance.package_sha256 else (drawn_by,)


def replay(config: Config, instance_id: int, more_packages: Sequence[Path] = ()) -> list[Replayed]:
    """Make the objects of a result again, and compare them with what was written then.

    Parameters
    ----------
    instance_id
        The number of the result, as the page and ``scanside status`` show it.
    more_packages
        Package files, besides those that are on this device.

    Raises
    ------
    ApplianceError
        There is no such result; a received file was removed or has changed.
    PackageError, BackendError
        What made it is no longer there.
    """
    kept = _from_ledger(config, instance_id)
    paths = list(sources(config, kept.files))
    tried = list(_makers(config, kept, more_packages))
    opened = Pipeline.open(_as_then(config, kept), tried, kept.provenance.device_uid)
    sandbox = Sandbox(config.sandbox)
    try:
        for out in opened.unserved:  # one that drew beside the findings would only be missing
            raise out.refuse()
        reading = _read(opened, sandbox, paths)
    finally:
        sandbox.close()
        opened.close()
    written = pipeline.write_results(_remembered(reading, kept), _as_then(config, kept))
    return [_compared(config, kept, each) for each in _by_kind(kept, written)]


def save(folder: Path, replayed: Sequence[Replayed]) -> list[Path]:
    """Write the objects into a folder, by kind; what differs from then under a UID of its own."""
    paths = []
    for each in replayed:
        path = folder / f"{each.kind}.{each.suffix}"
        write_durably(path, each.content if each.identical or each.suffix != "dcm" else _renamed(each))
        paths.append(path)
    return paths


def _from_ledger(config: Config, instance_id: int) -> _Kept:
    store = Store(config.ledger_path, read_only=True)
    try:
        row = store.instance(instance_id)
        if row is None:
            raise ApplianceError(
                f"there is no result {instance_id}", hint="the page and `scanside status` show the numbers"
            )
        lead = row["lead_id"]
        if lead is not None and lead != instance_id:
            raise ApplianceError(f"image {instance_id} was read with its series", hint=f"replay result {lead}")
        if row["provenance"] is None:
            raise ApplianceError(f"{instance_id} has no result: it is {row['state']}. {row['reason']}".strip())
        return _Kept(
            row=row,
            findings=tuple(msgspec.convert(row["findings"], tuple[Finding, ...])),
            outlines=msgspec.convert(row["outlines"], Outlines | None),
            warnings=tuple(row["warnings"]),
            provenance=msgspec.convert(row["provenance"], Provenance),
            objects=store.objects(instance_id),
            files=store.members(instance_id) or [row],
        )
    finally:
        store.close()


def sources(config: Config, rows: Sequence[dict[str, Any]]) -> Iterator[Path]:
    """The received files; each must still be what was received."""
    for row in rows:
        path = config.spool_path / row["file"]
        if row["image_removed_at"] is not None:
            at = datetime.fromtimestamp(row["image_removed_at"]).astimezone()
            raise ApplianceError(
                f"the image {row['sop_instance_uid']} was removed by retention on {at:%Y-%m-%d %H:%M}",
                hint="without it nothing can be replayed; send it again to have it read anew",
            )
        if not path.exists():
            raise ApplianceError(f"the image {row['sop_instance_uid']} is missing: {path}", hint="see `ledger verify`")
        if not has_digest(path, row["digest"]):
            raise ApplianceError(
                f"{path} is no longer what was received as {row['sop_instance_uid']} (SHA-256)",
                hint="restore it from a backup; nothing else can be replayed of it",
            )
        yield path


def _makers(config: Config, kept: _Kept, more: Sequence[Path]) -> Iterator[Tried]:
    """The packages that made the result, each proved on the backend that ran it then."""
    there: dict[str, Package] = {}
    for opened in _packages(config, more):
        there.setdefault(opened.sha256, opened)
    for made_by in kept.makers:
        found = there.get(made_by.package_sha256)
        if found is None:
            here = ", ".join(f"{each} ({each.sha256[:12]})" for each in there.values()) or "none"
            raise PackageError(
                f"the package that made result {kept.row['id']} is no longer installed: {made_by.package} "
                f"{made_by.version}, SHA-256 {made_by.package_sha256}; installed: {here}",
                hint="give its file with --package",
            )
        if made_by.backend not in backends.names():
            raise BackendError(
                f"result {kept.row['id']} was made on the backend {made_by.backend!r}, which this version has not",
                hint=f"known: {', '.join(backends.names())}",
            )
        (trial,) = proof.trials(made_by.backend, found, proof.options(config))
        if trial.receipt is None:
            raise BackendError(
                f"result {kept.row['id']} was made on the backend {made_by.backend!r}, "
                f"which can't be used here any more: {trial.reason}",
                hint="replay it on the device, and with the libraries, that made it",
            )
        yield found, (trial,)


def _packages(config: Config, more: Sequence[Path]) -> Iterator[Package]:
    """Whether they read now or not: what made a result may have been replaced since."""
    yield from installed.verified(config)
    trusted = installed.trusted(config)
    for path in more:
        yield package.read(path, trusted)


def _as_then(config: Config, kept: _Kept) -> Config:
    """The configuration as far as it decides what is made: the kinds that the ledger has, no map withheld anew."""
    kinds = [each["kind"] for each in kept.objects]
    results = msgspec.structs.replace(
        config.results,
        kinds=tuple(kind for kind in get_args(ResultKind) if kind in kinds),
        messages=tuple(kind for kind in get_args(MessageKind) if kind in kinds),
        least_map_share=0.0,
    )
    return msgspec.structs.replace(config, results=results)


def _read(opened: Pipeline, sandbox: Sandbox, paths: Sequence[Path]) -> Reading:
    stopwatch = Stopwatch()
    headers = [sandbox.read_header(path) for path in paths]
    return opened.infer(opened.prepare(paths, headers, stopwatch, sandbox), stopwatch)


def _remembered(reading: Reading, kept: _Kept) -> Reading:
    """With what the ledger says was found, by whom and when; what it does not keep, maps and mask, is of now."""
    said = reading.prediction
    shown = {finding.label for finding in kept.findings if not finding.map_withheld}
    drawn = kept.outlines
    if drawn is not None and said.mask is None:
        raise ApplianceError(
            f"result {kept.row['id']} has outlines, and {drawn.provenance.package} draws none now: "
            f"{' '.join(said.warnings)}",
            hint="look at `scanside doctor`",
        )
    return replace(
        reading,
        provenance=kept.provenance,
        prediction=replace(
            said,
            findings=kept.findings,
            activation_maps={label: each for label, each in said.activation_maps.items() if label in shown},
            warnings=kept.warnings,
            segments=drawn.segments if drawn is not None else (),
            mask=said.mask if drawn is not None else None,
            segmented_by=drawn.provenance if drawn is not None and len(kept.makers) > 1 else None,
        ),
    )


def _by_kind(kept: _Kept, written: Sequence[ResultFile]) -> Iterator[tuple[dict[str, Any], ResultFile]]:
    """The ledger's row of each object beside what was made now."""
    made = {each.kind: each for each in written}
    for row in kept.objects:
        if row["kind"] not in made:
            raise ApplianceError(
                f"this version makes no {row['kind']} of result {kept.row['id']}",
                hint=f"replay it with the version that made it, {kept.provenance.software_version}",
            )
        yield row, made[row["kind"]]


def _compared(config: Config, kept: _Kept, pair: tuple[dict[str, Any], ResultFile]) -> Replayed:
    row, now = pair
    path = config.results_path / row["path"]
    then = path.read_bytes() if path.exists() else None
    digest = row["digest"] or (hashlib.sha256(then).hexdigest() if then is not None else "")
    identical = hashlib.sha256(now.content).hexdigest() == digest
    differences: tuple[str, ...] = ()
    if not identical:
        differences = tuple(difference.between(then, now.content, now.suffix)) if then is not None else (
            f"the object of then is no longer here ({path}); its SHA-256 in the ledger is another one",
        )  # fmt: skip
        if kept.provenance.software_version != __version__:
            differences = (f"made by version {kept.provenance.software_version}, replayed by {__version__}",
                           *differences)  # fmt: skip
    return Replayed(row["kind"], row["sop_instance_uid"], identical, differences, now.suffix, now.content)


def _renamed(changed: Replayed) -> bytes:
    """The object as an instance of its own: it must not share a UID with the one of then (PS3.3 section C.12.1)."""
    dataset = pydicom.dcmread(BytesIO(changed.content))
    now = datetime.now().astimezone()
    digest = hashlib.sha256(changed.content).hexdigest()
    dataset.SOPInstanceUID = writer.derived_uid(changed.sop_instance_uid, digest)
    dataset.InstanceCreationDate, dataset.InstanceCreationTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    return writer.to_bytes(dataset)
