"""Commands that bring a site's own cases back to training."""

from __future__ import annotations

from pathlib import Path

import click

from appliance.cli.options import acting, configured
from appliance.config_file import load
from appliance.database import existing_ledger


@click.group()
def retraining() -> None:
    """Export cases with a final diagnosis or a reader's assessment, de-identified, for training another version."""


@retraining.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--model", required=True, help="Id of the model that has read the cases.")
@click.option("--present", default="", help="Label of images with the finding.  [default: the finding's name]")
@click.option("--absent", default="", help="Label of images without it.  [default: no, and the finding's name]")
@click.option("--all", "everything", is_flag=True, help="All cases, instead of equally many of each label.")
@configured
def export(
    folder: Path,
    model: str,
    present: str,
    absent: str,
    everything: bool,
    config_path: Path | None,
    data_dir: Path | None,
) -> None:
    """Write a data set into the new folder DIR: pixels, labels, pseudonyms, and a signed lineage.

    A final diagnosis of the study (scanside diagnoses import) counts before what a reader said of the image.

    No header of a file goes with it. Images whose pixels may show a name are left out and counted; whether any other
    does is for a person to look at. On the training side:

    \b
      python -m compression import folder DIR DATASET --device-key device.pub
    """
    from appliance import log
    from appliance.retraining import Wanted
    from appliance.retraining import export as write

    config = load(config_path, data_dir)
    existing_ledger(config)
    log.set_up("error")
    with acting(config, "retraining export", f"package {model}"):
        made = write(config, folder, Wanted(model, present, absent, everything))
    labels = ", ".join(f"{count} {label}" for label, count in sorted(made.labels.items()))
    click.echo(f"{folder}: {labels}, of {made.patients} patients; content {made.version}")
    by = {"diagnosis": "a final diagnosis", "reader": "a reader"}
    click.echo(f"labeled by {', '.join(f'{by[source]}: {count}' for source, count in made.labeled_by.items())}")
    if made.contradicted:
        click.echo(f"{made.contradicted} where a reader and the diagnosis differ; the diagnosis counts")
    for why, count in made.left_out.items():
        click.echo(f"left out: {count} ({why})")
