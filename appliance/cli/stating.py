"""``scanside conformance`` and ``scanside openapi``: what this device speaks, as documents."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import click

from appliance.cli.options import configured
from appliance.config import Config
from appliance.config_file import load


@click.command()
@click.option("--format", "form", type=click.Choice(["markdown", "html"]), default="markdown", show_default=True)
@click.option("--to", "path", type=click.Path(dir_okay=False, path_type=Path), help="File.  [default: print it]")
@configured
def conformance(form: str, path: Path | None, config_path: Path | None, data_dir: Path | None) -> None:
    """Write the DICOM conformance statement (PS3.2) of an appliance with this configuration.

    AE titles, ports, TLS, destinations and limits are the configuration's; SOP classes, transfer syntaxes and the
    attributes of each object come from the code. docs/conformance.md is that of the default configuration. There is
    none of a configuration with which no appliance starts: the reason is said instead.
    """
    from appliance import startable
    from appliance.conformance import statement

    config = load(config_path, data_dir)
    startable.check(config)
    made = statement(config)
    text = made.html() if form == "html" else made.markdown()
    if path is None:
        click.echo(text, nl=False)
    else:
        path.write_text(text, encoding="utf-8")


@click.command()
@click.option("--to", "path", type=click.Path(dir_okay=False, path_type=Path), help="File.  [default: print it]")
def openapi(path: Path | None) -> None:
    """Write the OpenAPI 3.1 document of the JSON API; a running appliance serves it at /api/v1/openapi.json."""
    from appliance.web.app import create_app
    from appliance.web.openapi import document

    with tempfile.TemporaryDirectory() as folder:
        text = json.dumps(document(create_app(Config(data_dir=folder))), indent=1, ensure_ascii=False) + "\n"
    if path is None:
        click.echo(text, nl=False)
    else:
        path.write_text(text, encoding="utf-8")
