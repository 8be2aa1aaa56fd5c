"""Commands about images that were set aside, since reading them exceeds a limit or breaks what reads them."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import click

from appliance.cli.options import JSON, acting, configured, moment, table
from appliance.config_file import load
from appliance.database import existing_ledger

_NUMBERS = click.argument("numbers", nargs=-1, required=True, type=click.IntRange(1, 2**63 - 1))


@click.group()
def quarantine() -> None:
    """Look at, export, and read again images that were set aside.

    An image is quarantined where its file exceeds a limit (size, nesting, memory, time; see [sandbox]) or ends the
    process that reads it. Its bytes are kept as they came.
    """


@quarantine.command("list")
@JSON
@configured
def list_quarantined(as_json: bool, config_path: Path | None, data_dir: Path | None) -> None:
    """List them, the latest first, each with its reason."""
    from appliance.custody import Custody

    rows = Custody(existing_ledger(load(config_path, data_dir)), read_only=True).quarantined()
    if as_json:
        click.echo(json.dumps([_described(row) for row in rows], indent=1))
    elif not rows:
        click.echo("Nothing is quarantined.")
    else:
        click.echo(f"{'image':>7}  {'received':19}  {'bytes':>11}  reason")
        for row in rows:
            click.echo(f"{row['id']:>7}  {moment(row['received_at'])}  {row['size']:>11,}  {row['reason']}")


@quarantine.command()
@_NUMBERS
@JSON
@configured
def show(numbers: tuple[int, ...], as_json: bool, config_path: Path | None, data_dir: Path | None) -> None:
    """Show what is known of images, and what happened to them. Nothing of a patient but the file's own name."""
    from appliance.custody import Custody

    config = load(config_path, data_dir)
    custody = Custody(existing_ledger(config), read_only=True)
    shown = []
    for number in numbers:
        row = custody.known(number)
        shown.append(
            {**_described(row), "file": str(config.spool_path / row["file"]), "events": custody.events(number)}
        )
    if as_json:
        click.echo(json.dumps(shown, indent=1))
        return
    for each in shown:
        table(("image", str(each["image"])), [(key, str(each[key])) for key in each if key not in ("image", "events")])
        for event in each["events"]:
            click.echo(f"  {moment(event['at'])}  {event['what']}  {event['detail']}")


@quarantine.command()
@_NUMBERS
@click.option("--to", "folder", required=True, type=click.Path(file_okay=False, path_type=Path),
              help="Folder to copy them into; made where it is not there.")  # fmt: skip
@configured
def export(numbers: tuple[int, ...], folder: Path, config_path: Path | None, data_dir: Path | None) -> None:
    """Copy files as they came into a folder, for whoever is to look at them.

    They are named by their image's number. They may hold patient data, and what is in them may harm other software.
    """
    from appliance.custody import Custody

    config = load(config_path, data_dir)
    custody = Custody(existing_ledger(config), read_only=True)
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        target = folder / f"{number:08d}.dcm"
        with acting(config, "quarantine export", f"image {number}"):
            shutil.copyfile(config.spool_path / custody.known(number)["file"], target)
        click.echo(target)


@quarantine.command()
@_NUMBERS
@configured
def retry(numbers: tuple[int, ...], config_path: Path | None, data_dir: Path | None) -> None:
    """Put images into the queue again that were quarantined, rejected, or failed, after an update or with other limits.

    An image of a series takes all of it.
    """
    from appliance.custody import Custody

    config = load(config_path, data_dir)
    custody = Custody(existing_ledger(config))
    for number in numbers:
        with acting(config, "quarantine retry", f"image {number}"):
            custody.retry(number)
        click.echo(f"image {number} waits to be read again")


@quarantine.command()
@click.argument("numbers", nargs=-1, type=click.IntRange(1, 2**63 - 1))
@click.option("--rejected", is_flag=True, help="Also all that were rejected and nobody has reviewed.")
@click.option(
    "--days", type=click.FloatRange(min=0), default=0.0, help="With --rejected: received so long ago or before."
)
@configured
def review(
    numbers: tuple[int, ...], rejected: bool, days: float, config_path: Path | None, data_dir: Path | None
) -> None:
    """Record that somebody has seen what came of images, of whatever state, so that [retention] may remove them.

    The worklist says why each was rejected, and can mark together what its filter shows: look there first.
    """
    from appliance.custody import Custody
    from appliance.worklist_store import Filter, Worklists

    if not numbers and not rejected:
        raise click.UsageError("name the images, or say --rejected")
    config = load(config_path, data_dir)
    custody = Custody(existing_ledger(config))
    for number in numbers:
        with acting(config, "quarantine review", f"image {number}"):
            custody.review(number)
        click.echo(f"image {number} is marked as reviewed")
    if rejected:
        now, worklists = time.time(), Worklists(config.ledger_path, read_only=True)
        wanted = Filter(state="rejected", unreviewed=True, end=now - days * 86400)
        with acting(config, "quarantine review", f"all that were rejected, received {days:g} days ago or before"):
            count = 0
            while more := custody.review_rejected(worklists.numbers(wanted), now):
                count += more
        click.echo(f"{count} that were rejected are marked as reviewed")


def _described(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "image": row["id"],
        "state": row["state"],
        "reason": row["reason"],
        "received_at": moment(row["received_at"]),
        "bytes": row["size"],
        "sha256": row["digest"],
        "sop_class_uid": row["sop_class_uid"],
        "modality": row["modality"],
        "crashes": row["crashes"],
        "reviewed": row["reviewed_at"] is not None,
    }
