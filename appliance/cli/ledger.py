"""Commands about the ledger as a whole: its proof, its records, what retention removes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Literal

import click

from appliance.cli.options import JSON, acting, configured
from appliance.config_file import load
from appliance.database import existing_ledger


@click.group()
def ledger() -> None:
    """Prove that nothing is lost, and export the records."""


@ledger.command()
@click.option("--quick", is_flag=True, help="Count, and look only for the files of what waits.")
@JSON
@configured
def verify(quick: bool, as_json: bool, config_path: Path | None, data_dir: Path | None) -> None:
    """Recount: received = resulted + rejected + failed + quarantined + withheld + pending, and every file is there.

    Each received file and each result is hashed and compared, and files without a row are named. It changes nothing and
    may run beside the appliance, which does the same each night. Exit code 1 with each fault named.
    """
    import msgspec

    from appliance.custody import Custody
    from appliance.recount import recount

    config = load(config_path, data_dir)
    custody = Custody(existing_ledger(config))
    with click.progressbar(length=0, label="recounting", file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:

        def progress(done: int, of: int) -> None:
            bar.length = of
            bar.update(done - bar.pos)

        outcome = recount(config, custody, not quick, progress)
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(outcome), indent=1))
    else:
        if counts := outcome.counts:
            parts = " + ".join(f"{counts[name]} {name}" for name in counts if name != "received")
            click.echo(f"{counts['received']} received = {parts}; {outcome.files} files in {outcome.seconds:.1f} s")
        for fault in outcome.faults:
            click.secho(f"FAULT  {fault.where}: {fault.what}", fg="red")
        if not outcome.faults:
            click.echo("no fault")
    sys.exit(1 if outcome.faults else 0)


@ledger.command()
@click.option("--format", "form", type=click.Choice(["csv", "jsonl"]), default="csv", show_default=True)
@click.option("--to", "path", type=click.Path(dir_okay=False, path_type=Path), help="File.  [default: print them]")
@click.option("--patient", is_flag=True, help="Also UIDs, dates, senders, and what the header says of the patient.")
@configured
def export(
    form: Literal["csv", "jsonl"], path: Path | None, patient: bool, config_path: Path | None, data_dir: Path | None
) -> None:
    """Write one row for each instance that was received: when, what it was, how it ended, which model read it.

    Nothing in it leads to a patient, unless --patient is given.
    """
    from appliance.custody import Custody
    from appliance.ledger_export import export as write

    config = load(config_path, data_dir)
    custody = Custody(existing_ledger(config), read_only=True)
    with acting(config, "ledger export --patient" if patient else "ledger export", ""):
        if path is None:
            write(custody, sys.stdout, form, patient)
            return
        with path.open("w", newline="", encoding="utf-8") as file:
            count = write(custody, file, form, patient)
    click.echo(f"{count} rows in {path}")


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@JSON
@configured
def retention(dry_run: bool, as_json: bool, config_path: Path | None, data_dir: Path | None) -> None:
    """Remove what [retention] of the configuration says, as the appliance does each night.

    What has not been delivered, and what nobody has reviewed, stays; see `scanside quarantine review`.
    """
    from appliance.custody import Custody
    from appliance.retention import due, remove

    config = load(config_path, data_dir)
    custody = Custody(existing_ledger(config))
    if dry_run:
        removals = list(due(config, custody))
    else:
        with acting(config, "retention", ""):
            removals = remove(config, custody)
    if as_json:
        rows = [
            {"image": each.instance_id, "kind": each.kind, "bytes": each.size, "why": each.why} for each in removals
        ]
        click.echo(json.dumps(rows, indent=1))
        return
    for each in removals:
        click.echo(f"image {each.instance_id}: its {each.kind}, {each.size:,} bytes ({each.why})")
    verb = "would be" if dry_run else "were"
    click.echo(f"{len(removals)} {verb} removed, {sum(each.size for each in removals) / 2**20:.1f} MiB")
