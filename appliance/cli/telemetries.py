"""Commands about telemetry: what a device tells of itself, and many devices on one page."""

from __future__ import annotations

from pathlib import Path

import click

from appliance.cli.options import acting, configured
from appliance.config_file import load
from appliance.database import existing_ledger


@click.group()
def telemetry() -> None:
    """Write figures of this device for whoever looks after many: signed, and nothing that leads to a patient.

    Systems that have a token may pull the same from /api/v1/telemetry. docs/telemetry.md has the schema.
    """


@telemetry.command()
@click.argument("path", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@configured
def export(path: Path, config_path: Path | None, data_dir: Path | None) -> None:
    """Write the figures to FILE (JSON). Counts are of complete weeks; those of few patients are left out."""
    from appliance.spool import write_durably
    from appliance.telemetry import make

    config = load(config_path, data_dir)
    existing_ledger(config)
    with acting(config, "telemetry export", ""):
        made = make(config)
        write_durably(path, made.to_json(), mode=0o644)
    for each in made.telemetry.missing:
        name = f"{each.model} {each.version}".strip() or "a package of the configuration"
        click.secho(
            f"{name} is in force and can't be opened (scanside doctor says why): what readers said of its findings, "
            "and its times, are missing",
            fg="red",
            err=True,
        )
    click.echo(f"{path}: device {made.telemetry.device}, {len(made.telemetry.weeks)} weeks, signed by this device")


@telemetry.command()
@click.argument("path", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@configured
def key(path: Path, config_path: Path | None, data_dir: Path | None) -> None:
    """Write this device's public key to FILE (PEM), by which `scanside fleet report` knows its exports."""
    from appliance import signature
    from appliance.spool import write_durably

    config = load(config_path, data_dir)
    existing_ledger(config)
    own, _ = signature.load_or_create_private_key(config.key_path)
    write_durably(path, signature.public_pem(own), mode=0o644)
    click.echo(f"{path}: device {signature.key_id(own.public_key())}")


@click.group()
def fleet() -> None:
    """Look at many devices at once, by what they tell of themselves."""


@fleet.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--to", "path", required=True, type=click.Path(dir_okay=False, path_type=Path), help="HTML file.")
@click.option(
    "--keys",
    "keys_path",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the devices' *.pub files (scanside telemetry key).  [default: DIR]",
)
def report(folder: Path, path: Path, keys_path: Path | None) -> None:
    """Merge the exports in DIR (*.json) into one HTML page: versions, receipts, times, outcomes, drift, disk.

    Figures that are far from the other devices' are marked; so are devices that say nothing, that have said nothing for
    long, and whose key is not known. Files that were changed are named, and not counted; the exit code is 1 then.
    """
    from appliance import fleet as fleets
    from appliance import signature
    from appliance.spool import write_durably

    found = fleets.gather(folder, signature.load_trusted_keys((keys_path or folder,)))
    write_durably(path, fleets.report(found).encode(), mode=0o644)
    for name, reason in found.refused.items():
        click.echo(f"not counted: {name}: {reason}", err=True)
    for device in found.devices:
        if not device.known:
            click.echo(f"key not known: {device.telemetry.device}", err=True)
    strange = sum(bool(device.far) for device in found.devices)
    click.echo(f"{path}: {len(found.devices)} devices, {strange} unlike the others")
    if found.refused:
        raise SystemExit(1)
