"""Commands about drift: has what comes to this device changed, since when, and for whom?"""

from __future__ import annotations

import getpass
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from appliance.cli.options import JSON, configured, moment, reason, table
from appliance.config_file import load
from appliance.database import existing_ledger
from appliance.drift import Outcome

if TYPE_CHECKING:
    from appliance.drift.store import DriftStore

_PACKAGE = click.option("--package", help="Id, name or the beginning of the SHA-256.  [default: the one in force]")
_BY = click.option("--by", default=getpass.getuser, show_default="your login", help="Who says so.")


@click.group()
def drift() -> None:
    """Has what comes changed, since when, and for whom? And what to do about it.

    Each study has one value in some thirty streams (acquisition, image, embedding, output), which are compared with
    what the model was validated on and with this site's baseline. docs/drift.md says how sure an alarm is.
    """


def _store(config_path: Path | None, data_dir: Path | None, read_only: bool = True) -> tuple[Any, DriftStore]:
    from appliance.drift.store import DriftStore

    config = load(config_path, data_dir)
    return config, DriftStore(existing_ledger(config), read_only=read_only)


@drift.command()
@_PACKAGE
@JSON
@configured
def status(package: str | None, as_json: bool, config_path: Path | None, data_dir: Path | None) -> None:
    """Say how things stand; the exit code is 3 where an alarm is open."""
    from appliance.drift import summary

    config, store = _store(config_path, data_dir)
    found = summary.status(store, config.drift, summary.chosen(store, package))
    found["apart"] = {row["name"]: row["n"] for row in store.counted()}
    if as_json:
        click.echo(json.dumps(found, indent=1))
    else:
        click.echo(f"{found['package']}: {found['studies']:,} studies since {moment(found['since'])}")
        base = found["baseline"]
        how = "accepted" if base["accepted"] else f"learned, of {base['of']:,}"
        click.echo(f"baseline: {base['studies']:,} studies {how}")
        if base["left_out"]:
            click.echo(f"  left out, since studies depend on those before them: {', '.join(base['left_out'])}")
        for watch in found["watches"]:
            if watch["watches"]:
                worth = f"{watch['times']:.3g} times, an alarm at {found['alarm_at']:,}; {watch['studies']:,} studies"
                click.echo(f"against {watch['words']}: {worth}")
            else:
                click.echo(f"against {watch['words']}: not watched, {watch['why']}")
        if found["apart"]:
            click.echo(f"counted apart: {', '.join(f'{name} {count:,}' for name, count in found['apart'].items())}")
        for each in found["alarms"]:
            click.secho(f"{each['kind_words']} {each['id']}, {moment(each['raised_at'])}: {each['words']}", fg="red")
        if found["alarms"]:
            click.echo("acknowledge one with: scanside drift acknowledge NUMBER --why REASON")
    if found["alarms"]:
        click.get_current_context().exit(3)


@drift.command()
@click.argument("number", type=click.IntRange(1, 2**63 - 1), required=False)
@JSON
@configured
def show(number: int | None, as_json: bool, config_path: Path | None, data_dir: Path | None) -> None:
    """Show alarm NUMBER with its causes and the studies that show it, or list all alarms and what was done."""
    from appliance.drift import summary
    from appliance.errors import DriftError

    _, store = _store(config_path, data_dir)
    if number is None:
        rows = [summary.alarm(row) for row in store.alarms(1000)]
        events = store.events(1000)
        if as_json:
            click.echo(json.dumps({"alarms": rows, "events": events}, indent=1))
            return
        for row in rows:
            state = f"acknowledged by {row['acknowledged_by']}" if row["acknowledged_at"] else "open"
            click.echo(f"{row['id']:>5}  {moment(row['raised_at'])}  {row['kind_words']}, {state}: {row['words']}")
        for event in events:
            who = f", by {event['who']}" if event["who"] else ""
            click.echo(f"       {moment(event['at'])}  {event['what']}{who}")
        return
    one = store.alarm(number)
    if one is None:
        raise DriftError(f"there is no drift alarm {number}", hint="scanside drift show lists them")
    found = summary.alarm(one)
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    click.echo(f"{found['kind_words']} {number}: {found['name']} against {found['against_words']}")
    click.echo(f"raised {moment(found['raised_at'])} after {found['studies']:,} studies")
    for moved in found["moved"]:
        click.echo(f"  {moved['words']}")
        if moved["examples"]:
            click.echo(f"    for instance images {', '.join(map(str, moved['examples']))}")
    if found["acknowledged_at"]:
        click.echo(f"acknowledged {moment(found['acknowledged_at'])} by {found['acknowledged_by']}: {found['why']}")
        click.echo(f"  {found['outcome_words']}")


@drift.command()
@click.argument("number", type=click.IntRange(1, 2**63 - 1))
@click.option("--why", callback=reason, required=True, help="What has happened, for those who read it later.")
@click.option("--then", "outcome", type=click.Choice(get_args(Outcome)), default="watch", show_default=True,
              help="watch: it is mended, watch on. baseline: it is usual from now on. rest: no more alarms against "
              "this reference.")  # fmt: skip
@_BY
@configured
def acknowledge(
    number: int, why: str, outcome: Outcome, by: str, config_path: Path | None, data_dir: Path | None
) -> None:
    """Record that alarm NUMBER was seen, why it was, and what follows."""
    from appliance.drift import decisions

    _, store = _store(config_path, data_dir, read_only=False)
    decisions.acknowledge(store, number, by, why, outcome)
    click.echo(f"alarm {number} is acknowledged; {decisions.OUTCOMES[outcome]}")


@drift.command()
@click.argument("against", type=click.Choice(["validated", "site"]))
@_PACKAGE
@_BY
@configured
def resume(against: Any, package: str | None, by: str, config_path: Path | None, data_dir: Path | None) -> None:
    """Watch on against what the model was VALIDATED on, or this SITE's baseline, where that rests since an alarm."""
    from appliance.drift import decisions, summary

    _, store = _store(config_path, data_dir, read_only=False)
    about = summary.chosen(store, package)
    decisions.resume(store, about["package"], against, by)
    click.echo(f"{about['name']} is watched against {decisions.AGAINST[against]} again, from the next study on")


@drift.group()
def baseline() -> None:
    """What is usual at this site: learned from the first studies, and compared with from then on."""


@baseline.command("start")
@_PACKAGE
@_BY
@configured
def start_baseline(package: str | None, by: str, config_path: Path | None, data_dir: Path | None) -> None:
    """Learn it anew, from the next study on."""
    from appliance.drift import decisions, summary

    config, store = _store(config_path, data_dir, read_only=False)
    about = summary.chosen(store, package)
    decisions.start_baseline(store, about["package"], by)
    click.echo(f"{about['name']}: the next {config.drift.baseline_studies:,} studies are the site's baseline")


@baseline.command("accept")
@_PACKAGE
@_BY
@configured
def accept_baseline(package: str | None, by: str, config_path: Path | None, data_dir: Path | None) -> None:
    """Take the studies so far as usual, without waiting for as many as are configured; 100 are needed."""
    from appliance.drift import decisions, summary

    _, store = _store(config_path, data_dir, read_only=False)
    about = summary.chosen(store, package)
    count = decisions.accept_baseline(store, about["package"], by)
    click.echo(f"{about['name']}: {count:,} studies are the site's baseline")


@baseline.command("show")
@_PACKAGE
@JSON
@configured
def show_baseline(package: str | None, as_json: bool, config_path: Path | None, data_dir: Path | None) -> None:
    """Show what is usual, stream by stream, and which streams raise no alarm."""
    from appliance.drift import summary

    config, store = _store(config_path, data_dir)
    about = summary.chosen(store, package)
    found = summary.usual(store, about)
    state = summary.status(store, config.drift, about)["baseline"]
    if as_json:
        click.echo(json.dumps({"baseline": state, "streams": found}, indent=1))
        return
    how = f"accepted {moment(state['accepted_at'])}" if state["accepted"] else f"still learned, of {state['of']:,}"
    click.echo(f"{about['name']}: {state['studies']:,} studies, {how}")
    table(
        ("stream", "usual", "not stated", "independent"),
        [(each["title"], each["usual"], f"{each['missing']:.0%}", each["independent"]) for each in found],
    )


@drift.command()
@_PACKAGE
@click.option("--days", type=click.IntRange(1), default=366, show_default=True)
@configured
def export(package: str | None, days: int, config_path: Path | None, data_dir: Path | None) -> None:
    """Print every day's counts of every stream as JSON, for other tools. Numbers and names of scanners, no patients."""
    from appliance.drift import summary

    _, store = _store(config_path, data_dir)
    click.echo(json.dumps(summary.exported(store, summary.chosen(store, package), days)))
