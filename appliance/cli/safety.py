"""Commands about safe mode: what is in force, to enter it, to leave it, to release what it withheld."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from appliance.cli.options import JSON, acting, configured, moment, operator, reason, table
from appliance.config import Config
from appliance.config_file import load
from appliance.database import existing_ledger

if TYPE_CHECKING:
    from appliance.safe_mode import SafeMode
    from appliance.safe_mode_store import Strength

_WHY = click.option(
    "--why", callback=reason, required=True, help="The reason; it is kept for good and stands in results."
)
_BY = click.option("--by", default=None, help="Who decides.  [default: the user of the operating system]")


@click.group("safe-mode")
def safe_mode() -> None:
    """What alarms do to results: a banner, mandatory review, or all results withheld.

    The device enters it for an alarm, as [safe_mode] says. It ends when a person acknowledges the alarm, or here.

    \b
      scanside safe-mode show
      scanside safe-mode enter review --why "the detector was changed"
      scanside safe-mode leave 3 --why "calibrated, and checked on 20 images"
      scanside safe-mode release 17 --why "read by Dr. Ito"
    """


@safe_mode.command()
@JSON
@configured
def show(as_json: bool, config_path: Path | None, data_dir: Path | None) -> None:
    """Show what is in force, what was before, and how many results are withheld. Exit code 0 either way."""
    from dataclasses import asdict

    from appliance.custody import Custody
    from appliance.safe_mode_store import SafeModeStore

    ledger = existing_ledger(load(config_path, data_dir))
    store = SafeModeStore(ledger, read_only=True)
    force, latest = store.in_force(), store.latest()
    withheld = [row["id"] for row in Custody(ledger, read_only=True).withheld()]
    if as_json:
        said: dict[str, Any] = {
            "level": force[0].level if force else "none",
            "in_force": [asdict(each) for each in force],
            "latest": [asdict(each) for each in latest],
            "withheld": withheld,
        }
        click.echo(json.dumps(said, indent=1))
        return
    click.echo(f"Safe mode: {force[0].level if force else 'none'}")
    if latest:
        table(
            ("number", "level", "entered", "by", "why", "left"),
            [
                (str(each.id), each.level, moment(each.entered_at), each.entered_by or "the device", each.why,
                 f"{moment(each.left_at)} by {each.left_by}: {each.left_why}" if each.left_at else "in force")
                for each in latest
            ],
        )  # fmt: skip
    if withheld:
        click.echo(f"Withheld: {len(withheld)} results (images {', '.join(map(str, withheld[:20]))})")


@safe_mode.command()
@click.argument("level", type=click.Choice(["banner", "review", "withheld"]))
@click.option("--package", default="", metavar="SHA256", help="Only results of this package file.  [default: all]")
@_WHY
@_BY
@configured
def enter(
    level: Strength, package: str, why: str, by: str | None, config_path: Path | None, data_dir: Path | None
) -> None:
    """Enter safe mode by hand, for all results from now on."""
    entry = _with(load(config_path, data_dir), lambda mode: mode.enter(level, by or operator(), why, package))
    click.echo(f"safe mode {entry.id} is in force ({entry.level}); leave it with: scanside safe-mode leave {entry.id}")


@safe_mode.command()
@click.argument("number", type=click.IntRange(1, 2**63 - 1))
@_WHY
@_BY
@configured
def leave(number: int, why: str, by: str | None, config_path: Path | None, data_dir: Path | None) -> None:
    """Leave one entry of safe mode. What it withheld stays so until it is released."""
    entry = _with(load(config_path, data_dir), lambda mode: mode.leave(number, by or operator(), why))
    click.echo(f"safe mode {entry.id} ({entry.level}) is left")


@safe_mode.command()
@click.argument("images", nargs=-1, type=click.IntRange(1, 2**63 - 1))
@click.option("--all", "everything", is_flag=True, help="Each image whose result is withheld.")
@_WHY
@_BY
@configured
def release(
    images: tuple[int, ...], everything: bool, why: str, by: str | None, config_path: Path | None, data_dir: Path | None
) -> None:
    """Have images read again whose results were withheld; the new results ask for review."""
    from appliance.custody import Custody

    config = load(config_path, data_dir)
    custody = Custody(existing_ledger(config))
    if bool(images) == everything:
        raise click.UsageError("Name images, or say --all.")
    for number in [row["id"] for row in custody.withheld()] if everything else images:
        with acting(config, "safe-mode release", f"image {number}"):
            custody.release(number, by or operator(), why)
        click.echo(f"image {number} waits to be read again; its result will ask for review")


def _with(config: Config, act: Callable[[SafeMode], Any]) -> Any:
    from appliance.audit import Trail
    from appliance.safe_mode import SafeMode

    existing_ledger(config)
    trail = Trail(config.audit_path, config.key_path)
    mode = SafeMode(config, trail)
    try:
        return act(mode)
    finally:
        mode.close()
        trail.close()
