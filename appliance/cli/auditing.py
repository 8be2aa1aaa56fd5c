"""Commands about the audit trail: is it whole, what does it say, and its export."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from appliance.cli.options import JSON, acting, configured, moment, operator, table
from appliance.config import Config
from appliance.config_file import load
from appliance.database import existing
from appliance.errors import ApplianceError

if TYPE_CHECKING:
    from appliance.audit import Record

_SINCE = click.option("--since", type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]),
                      help="From then on, by this device's clock.")  # fmt: skip
_PERSON = click.option("--person", metavar="NAME", help="What this account, token or calling AE title has done.")


@click.group()
def audit() -> None:
    """Who saw and did what: look at it, prove that nothing of it was changed, export it.

    Every view and act on the page, every login, every command that changes something, and every transfer of DICOM
    instances is a record; each holds the hash of the one before. Images stand in it by their numbers, no patient does.
    """


@audit.command()
@click.option("--head", "head_path", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="What `scanside audit head` printed earlier, kept elsewhere: the trail must hold it.")  # fmt: skip
@click.option("--export", "exports", multiple=True, type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="A file of `scanside audit export --format chain`; for what was removed. Repeat it.")  # fmt: skip
@JSON
@configured
def verify(
    head_path: Path | None,
    exports: tuple[Path, ...],
    as_json: bool,
    config_path: Path | None,
    data_dir: Path | None,
) -> None:
    """Follow the chain from the first record to the signed end. Exit code 1 where it is not what was written.

    Where audit.keep_days has removed the beginning, the chain is followed from its signed anchor, or from the first
    record of the exports that are given.

    It finds records that were changed, removed, moved or put in, also at the end. Who has the device's key could write
    a new trail: against that, keep what `scanside audit head` prints somewhere else, or have a syslog collector.
    """
    import msgspec

    from appliance import audit_proof

    config = load(config_path, data_dir)
    noted = audit_proof.read_head(head_path) if head_path else None
    outcome = audit_proof.verify(
        config.audit_path, config.key_path, noted, remembered=_remembered(config), exports=exports
    )
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(outcome), indent=1))
    else:
        begin, end = outcome.first_at, outcome.last_at
        span = f", from {moment(begin)} to {moment(end)}" if begin and end else ""
        which = f"records {outcome.first} to {outcome.records}" if outcome.first > 1 else f"{outcome.records} records"
        click.echo(f"{which}{span}; signed by {outcome.key or 'nobody'}")
        if outcome.removed:
            click.echo(f"records up to {outcome.removed} were removed by retention")
        for fault in outcome.faults:
            click.secho(f"FAULT  {fault}", fg="red")
        if not outcome.faults:
            click.echo("no fault")
    sys.exit(1 if outcome.faults else 0)


@audit.command()
@configured
def head(config_path: Path | None, data_dir: Path | None) -> None:
    """Print the signed end of the trail as JSON, to be kept elsewhere; see `scanside audit verify --head`."""
    from appliance.audit_store import AuditStore

    found = AuditStore(_existing(load(config_path, data_dir)), read_only=True).head()
    click.echo(json.dumps(found))


@audit.command()
@click.option("--count", default=50, show_default=True, type=click.IntRange(1, 1_000_000), help="The latest so many.")
@_PERSON
@click.option("--target", metavar="TEXT", help="What was about this: 'image 17', 'account jane'.")
@_SINCE
@JSON
@configured
def show(
    count: int,
    person: str | None,
    target: str | None,
    since: datetime | None,
    as_json: bool,
    config_path: Path | None,
    data_dir: Path | None,
) -> None:
    """Show the latest records, the oldest of them first.

    \b
      scanside audit show --person jane --since 2026-11-01
      scanside audit show --target "image 17"
    """
    from collections import deque

    config = load(config_path, data_dir)
    with _using(config, "audit show"):
        if person is None and target is None and since is None:
            rows = _latest(config, count)
        else:
            wanted = ((number, each) for number, each in _records(config, since) if _matches(each, person, target))
            rows = list(deque(wanted, count))
    if as_json:
        click.echo(json.dumps([_said(number, each) for number, each in rows], indent=1))
        return
    table(
        ("number", "when", "who", "from", "what", "about", "outcome"),
        [
            (
                str(number),
                moment(each.at),
                " ".join(filter(None, (each.person or "-", each.role and f"({each.role})"))),
                each.address or each.how or "-",
                f"{each.event}: {each.action}",
                each.target or "-",
                f"{'FAILED ' if each.failed else ''}{each.detail}".strip() or "ok",
            )
            for number, each in rows
        ],
    )


@audit.command()
@click.option("--format", "form", type=click.Choice(["json", "dicom", "chain"]), default="json", show_default=True,
              help="A JSON object a line, or a DICOM audit message (PS3.15 A.5) a line; chain: all as it is kept, with "
                   "the hashes, into a new file, for audit.keep_days and `verify --export`.")  # fmt: skip
@click.option("--to", "path", type=click.Path(dir_okay=False, path_type=Path), help="File.  [default: print them]")
@_PERSON
@_SINCE
@configured
def export(
    form: Literal["json", "dicom", "chain"],
    path: Path | None,
    person: str | None,
    since: datetime | None,
    config_path: Path | None,
    data_dir: Path | None,
) -> None:
    """Write the records to a file. DICOM audit messages name studies and patients' IDs, looked up in the ledger."""
    config = load(config_path, data_dir)
    if form == "chain":
        _export_chain(config, path, whole=person is None and since is None)
        return
    with _using(config, f"audit export {form}"):
        rows = ((number, each) for number, each in _records(config, since) if _matches(each, person, None))
        lines = _as_dicom(config, rows) if form == "dicom" else (json.dumps(_said(*row)) for row in rows)
        if path is None:
            for line in lines:
                click.echo(line)
            return
        count = 0
        with path.open("w", encoding="utf-8") as file:
            for line in lines:
                file.write(f"{line}\n")
                count += 1
    click.echo(f"{count} {'messages' if form == 'dicom' else 'records'} in {path}")


def _export_chain(config: Config, path: Path | None, whole: bool) -> None:
    from appliance import audit_export
    from appliance.audit_store import AuditStore

    if path is None or not whole:
        raise ApplianceError(
            "a chain is written whole, to a file", hint="name it with --to, and no --since or --person"
        )
    with _using(config, "audit export chain"):
        first, last = audit_export.write(AuditStore(config.audit_path), path)
    click.echo(f"records {first} to {last} in {path}")


@audit.command()
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@configured
def prune(dry_run: bool, config_path: Path | None, data_dir: Path | None) -> None:
    """Remove records older than audit.keep_days that are elsewhere, too, as the appliance does each night.

    Elsewhere: the syslog collector has them or, without one, a file of `scanside audit export --format chain`. The
    number and hash of the last one that goes are signed and recorded, so that the rest stays proven.
    """
    from appliance import audit_proof, audit_retention
    from appliance.audit import Trail

    config = load(config_path, data_dir)
    _existing(config)
    if not config.audit.keep_days:
        raise ApplianceError("audit.keep_days is 0: every record stays", hint="set it in the configuration")
    faults = audit_proof.verify(config.audit_path, config.key_path, remembered=_remembered(config)).faults
    if faults:
        raise ApplianceError(f"nothing is removed: {faults[0]}", hint="see `scanside audit verify`")
    if dry_run:
        found = audit_retention.due(config)
    else:
        with acting(config, "audit prune", ""):
            found = audit_retention.remove(config, Trail(config.audit_path, config.key_path))
    verb = "would be" if dry_run else "were"
    click.echo(f"{found.count} records {verb} removed" + (f", up to {found.last}" if found.count else ""))
    if found.kept:
        click.echo(f"records from {found.last + 1} on stay, though old enough: {found.kept}")


def _as_dicom(config: Config, rows: Iterator[tuple[int, Record]]) -> Iterator[str]:
    from appliance.audit_message import messages
    from appliance.audit_subjects import AuditSubjects
    from appliance.audit_syslog import source_of

    subjects, source = AuditSubjects(config.ledger_path, read_only=True), source_of(config)
    for _, record in rows:
        yield from messages(record, subjects.of(record), source)


def _records(config: Config, since: datetime | None) -> Iterator[tuple[int, Record]]:
    from appliance.audit_proof import described
    from appliance.audit_store import AuditStore

    begin = since.timestamp() if since else 0.0
    for row in AuditStore(_existing(config), read_only=True).records():
        number, record = described(row)
        if record.at >= begin:
            yield number, record


def _latest(config: Config, count: int) -> list[tuple[int, Record]]:
    from appliance.audit_proof import described
    from appliance.audit_store import AuditStore

    return [described(row) for row in reversed(AuditStore(_existing(config), read_only=True).latest(count))]


def _matches(record: Record, person: str | None, target: str | None) -> bool:
    return (person is None or record.person == person) and (target is None or record.target == target)


def _using(config: Config, action: str) -> Any:
    from appliance.audit import Trail, recorded

    _existing(config)
    trail = Trail(config.audit_path, config.key_path)
    return recorded(trail, event="used", action=action, person=operator(), how="shell")


def _existing(config: Config) -> Path:
    return existing(config.audit_path, "audit trail")


def _remembered(config: Config) -> dict[str, Any] | None:
    """The head that the ledger remembers."""
    from appliance.audit_proof import COMPONENT
    from appliance.store import Store

    if not config.ledger_path.exists():
        return None
    store = Store(config.ledger_path, read_only=True)
    found: dict[str, Any] | None = store.components().get(COMPONENT, {}).get("head")
    store.close()
    return found


def _said(number: int, record: Record) -> dict[str, Any]:
    import msgspec

    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.at))
    return {"number": number, "when": when, **msgspec.to_builtins(record)}
