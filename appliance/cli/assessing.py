"""Commands about what readers said of results."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import click

from appliance.cli.options import JSON, configured, table
from appliance.config_file import load
from appliance.database import existing_ledger
from appliance.errors import ApplianceError

_DAY = 86400.0


@click.group()
def assessments() -> None:
    """What readers said of results: export it, and count how often they agree.

    Readers agree, disagree or amend on the page of an image. Every assessment is kept; a later one supersedes an
    earlier one.
    """


@assessments.command("export")
@click.option("--format", "form", type=click.Choice(["csv", "json", "dicom"]), default="csv", show_default=True,
              help="dicom: a Comprehensive 3D SR for each reader of each result, into the folder of --to.")  # fmt: skip
@click.option("--to", type=click.Path(path_type=Path), help="File, or for dicom a folder.  [default: standard output]")
@click.option(
    "--with-patient", is_flag=True, help="Also UIDs, accession numbers and comments, which lead to a patient."
)
@configured
def export_assessments(
    form: str, to: Path | None, with_patient: bool, config_path: Path | None, data_dir: Path | None
) -> None:
    """Write every assessment, the superseded ones too (those have superseded_by).

    The DICOM documents name the patient, as the results do, and have what counts only; `scanside send` sends them.
    """
    from appliance import assessment_report
    from appliance.assessment_store import Assessments

    config = load(config_path, data_dir)
    store = Assessments(existing_ledger(config), read_only=True)
    if form == "dicom":
        if to is None:
            raise ApplianceError("DICOM documents need a folder", hint="name one with --to")
        written, left_out = assessment_report.export_dicom(config, store, to)
        click.echo(f"{len(written)} documents in {to}")
        for each in left_out:
            click.echo(f"left out: {each}", err=True)
    elif to is None:
        assessment_report.export(store, sys.stdout, form, with_patient)  # type: ignore[arg-type]
    else:
        with to.open("w", newline="", encoding="utf-8") as file:
            count = assessment_report.export(store, file, form, with_patient)  # type: ignore[arg-type]
        click.echo(f"{count} assessments in {to}")


@assessments.command()
@click.option("--days", type=click.FloatRange(min=0, min_open=True), help="Of the last so many days.  [default: all]")
@JSON
@configured
def agreement(days: float | None, as_json: bool, config_path: Path | None, data_dir: Path | None) -> None:
    """Count how often readers agreed, by finding or segment and by what the model said of it."""
    from appliance.assessment_store import Assessments

    store = Assessments(existing_ledger(load(config_path, data_dir)), read_only=True)
    counted = store.agreement(time.time() - days * _DAY if days else 0.0)
    if as_json:
        click.echo(json.dumps(counted, indent=1))
    elif not counted:
        click.echo("Nothing has been assessed.")
    else:
        cells = [
            tuple(str(row[name]) for name in ("package", "label", "said", "verdict", "reason", "n")) for row in counted
        ]
        table(("package", "of", "model said", "readers", "reason", "times"), cells)
