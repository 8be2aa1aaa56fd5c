"""Commands about blinded reader studies."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from appliance.cli.options import JSON, configured, table
from appliance.config_file import load
from appliance.database import existing_ledger
from appliance.reader_study import MOST_REPEATED, SCALES, ReaderStudies


@click.group()
def study() -> None:
    """Blinded reader studies: people read the same images without the model's findings, on the local page."""


@study.command("create")
@click.argument("name")
@click.option("--cases", "folder", type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="Folder of DICOM, PNG or JPEG files.  [default: what the ledger has results for]")  # fmt: skip
@click.option("--only", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="CSV whose column image names the cases: SOP Instance UIDs, or files that are not DICOM. Its other "
              "columns, such as the truth, are not looked at.")  # fmt: skip
@click.option("--finding", help="What readers are asked for.  [default: the finding of the ledger's results]")
@click.option("--scale", type=click.Choice([str(each) for each in SCALES]), default="7", show_default=True,
              help="Steps of the rating.")  # fmt: skip
@click.option("--repeat", default=0.1, show_default=True, type=click.FloatRange(0, MOST_REPEATED),
              help="Share of the cases that each reader sees twice.")  # fmt: skip
@configured
def create_study(
    name: str,
    folder: Path | None,
    only: Path | None,
    finding: str | None,
    scale: str,
    repeat: float,
    config_path: Path | None,
    data_dir: Path | None,
) -> None:
    """Make a study, which readers open on the page of the running appliance, at /reader-study/NAME.

    Each reader gets an order of their own. The page shows neither finding, score, heat map, name nor date; what is
    burned into the pixels it can't hide. Scores of images in the ledger are kept for `study export --scores`.
    """
    from appliance import study_cases

    count = study_cases.create(load(config_path, data_dir), name, folder, only, finding, int(scale), repeat)
    click.echo(f"{name}: {count} cases. Readers open /reader-study/{name} on the page.")


@study.command("list")
@JSON
@configured
def list_studies(as_json: bool, config_path: Path | None, data_dir: Path | None) -> None:
    """List the studies and how far each reader is, with the code with which they go on."""
    studies = ReaderStudies(existing_ledger(load(config_path, data_dir)))
    rows = [{**each, "readers": studies.readers(each["id"])} for each in studies.studies()]
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    cells: list[tuple[str, ...]] = []
    for each in rows:
        about = each["name"], each["finding"], str(each["cases"])
        cells += [
            (*about, reader["name"], f"{reader['answered']}/{reader['readings']}",
             "yes" if reader["finished_at"] else "no", reader["code"])
            for reader in each["readers"]
        ] or [(*about, "nobody yet", "", "", "")]  # fmt: skip
    table(("study", "finding", "cases", "reader", "answered", "finished", "code"), cells)


@study.command("export")
@click.argument("name")
@click.option("--scores", type=click.Path(dir_okay=False, path_type=Path),
              help="Also write the model's scores of the cases into this CSV.")  # fmt: skip
@click.option("--unfinished", is_flag=True, help="Also write answers of readers who have not finished.")
@configured
def export_study(
    name: str, scores: Path | None, unfinished: bool, config_path: Path | None, data_dir: Path | None
) -> None:
    """Print the answers as CSV: image, reader, label, rating, seconds, and the same of a second showing.

    `python -m compression reader-study` analyses it.
    """
    from appliance import study_cases

    studies = ReaderStudies(existing_ledger(load(config_path, data_dir)))
    waited_for = study_cases.export(studies, name, sys.stdout, unfinished)
    if waited_for and not unfinished:
        click.echo(f"left out, since they have not finished: {', '.join(waited_for)}", err=True)
    if scores is not None:
        with scores.open("w", newline="", encoding="utf-8") as file:
            unread = study_cases.export_scores(studies, name, file)
        if unread:
            click.echo(f"{unread} cases have no score, since this device has no result for them", err=True)
