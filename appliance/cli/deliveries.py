"""Commands about results on their way to destinations."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import click

from appliance.cli.options import JSON, acting, configured, moment
from appliance.config_file import load
from appliance.database import existing_ledger
from appliance.errors import ApplianceError


@click.group()
def deliveries() -> None:
    """Look at what could not be delivered, and send it again.

    A result that a destination has not taken within delivery.undelivered_hours is set aside as undelivered: it is not
    tried any more, and the page and `scanside status` say so, until somebody sends it again or it is of no use.
    """


@deliveries.command("list")
@JSON
@configured
def list_undelivered(as_json: bool, config_path: Path | None, data_dir: Path | None) -> None:
    """List what is undelivered, the oldest first, each with its reason."""
    from appliance.store import Store

    store = Store(existing_ledger(load(config_path, data_dir)), read_only=True)
    rows = [
        {
            "delivery": row["id"],
            "image": row["instance_id"],
            "kind": row["kind"],
            "destination": row["destination"],
            "attempts": row["attempts"],
            "queued_at": moment(row["queued_at"]),
            "sent_at": moment(row["sent_at"]) if row["sent_at"] else None,
            "reason": row["last_error"],
        }
        for row in store.undelivered(limit=1_000_000)
    ]
    store.close()
    if as_json:
        click.echo(json.dumps(rows, indent=1))
    elif not rows:
        click.echo("Nothing is undelivered.")
    else:
        click.echo(f"{'delivery':>8}  {'image':>7}  {'tried since':19}  {'to':12}  {'what':18}  reason")
        for each in rows:
            click.echo(
                f"{each['delivery']:>8}  {each['image']:>7}  {each['queued_at']}  {each['destination']:12}  "
                f"{each['kind']:18}  {each['reason']}"
            )


@deliveries.command()
@click.argument("numbers", nargs=-1, type=click.IntRange(1, 2**63 - 1), metavar="[DELIVERY]...")
@click.option("--to", "destination", metavar="NAME", help="All that is undelivered to this destination.")
@click.option("--all", "everything", is_flag=True, help="All that is undelivered.")
@configured
def retry(
    numbers: tuple[int, ...],
    destination: str | None,
    everything: bool,
    config_path: Path | None,
    data_dir: Path | None,
) -> None:
    """Try again to deliver what is undelivered, for another delivery.undelivered_hours.

    \b
      scanside deliveries retry --to pacs
      scanside deliveries retry 17 18         by the numbers that `scanside deliveries list` shows
    """
    from appliance.store import Store

    if (bool(numbers), destination is not None, everything).count(True) != 1:
        raise ApplianceError("this needs either numbers, or --to NAME, or --all")
    config = load(config_path, data_dir)
    store = Store(existing_ledger(config))
    what = f"destination {destination}" if destination else " ".join(f"delivery {each}" for each in numbers) or "all"
    with acting(config, "deliveries retry", what):
        count = store.send_undelivered(destination, numbers or None)
    store.close()
    if numbers and count < len(set(numbers)):
        raise ApplianceError(
            f"only {count} of these {len(set(numbers))} deliveries were undelivered, and they are tried again",
            hint="see `scanside deliveries list`",
        )
    click.echo(f"{count} results are sent again")


@deliveries.command("send-again")
@click.argument("destination")
@click.option("--since", required=True, type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]),
              help="What was sent from then on, by this device's clock.")  # fmt: skip
@configured
def send_again(destination: str, since: datetime, config_path: Path | None, data_dir: Path | None) -> None:
    """Send a DESTINATION again what it had taken, since it has lost it: after a restore of its database, say.

    What it still has is not doubled: each object has the same SOP Instance UID as before. What [retention] has removed
    can't be sent.
    """
    from appliance.store import Store

    config = load(config_path, data_dir)
    names = [each.name for each in config.destinations]
    if destination not in names:
        known = f"it has {', '.join(names)}" if names else "it has none"
        raise ApplianceError(f"the configuration has no destination {destination!r}", hint=known)
    store = Store(existing_ledger(config))
    with acting(config, "deliveries send-again", f"destination {destination}"):
        count = store.send_delivered(destination, since.timestamp())
    store.close()
    click.echo(f"{count} results are sent to {destination} again")


@deliveries.command()
@click.argument("old")
@click.argument("new")
@configured
def move(old: str, new: str, config_path: Path | None, data_dir: Path | None) -> None:
    """Send to NEW what OLD did not get and can't get any more: it has another name now, or is gone.

    OLD is no longer in the configuration, NEW is.
    """
    from appliance.store import Store

    config = load(config_path, data_dir)
    known = {each.name: each for each in config.destinations}
    if new not in known:
        hint = f"it has {', '.join(known)}" if known else "it has none"
        raise ApplianceError(f"the configuration has no destination {new!r}", hint=hint)
    if old in known:
        raise ApplianceError(f"{old!r} is configured, and gets its results itself", hint="remove it first")
    store = Store(existing_ledger(config))
    with acting(config, "deliveries move", f"destination {old} to {new}"):
        count, staying = store.move(old, new, known[new].carries)
    store.close()
    click.echo(f"{count} results go to {new} instead of {old}")
    if staying:
        raise ApplianceError(
            f"{len(staying)} stay: protocol = {known[new].protocol!r} carries no {', '.join(sorted(set(staying)))}",
            hint="move them to a destination that does",
        )
