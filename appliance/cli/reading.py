"""Commands that read images without a server."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from appliance.cli.options import JSON, configured, files_of, table
from appliance.config_file import load


@click.command()
@click.argument(
    "paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path), metavar="FILE_OR_FOLDER..."
)
@JSON
@click.option("--backend", help="Inference backend.  [default: inference.backend of the configuration]")
@click.option("--package", "package_path", type=click.Path(exists=True, path_type=Path), help="Model package to use.")
@click.option("--out", type=click.Path(path_type=Path), help="Also write the DICOM result objects into this folder.")
@configured
def infer(
    paths: tuple[Path, ...],
    as_json: bool,
    backend: str | None,
    package_path: Path | None,
    out: Path | None,
    config_path: Path | None,
    data_dir: Path | None,
) -> None:
    """Read files or whole folders, without a server and without a ledger.

    The files of a series that a package reads as one volume become one answer. With --json one object a line: file (of
    a series the first), files (how many), sop_instance_uid, series_instance_uid, status (resulted, rejected or failed),
    reason, package, version, backend, device, findings, segments, warnings, seconds. Exit code 1 where a file failed; a
    rejected one is no failure.
    """
    from appliance import log
    from appliance.infer import infer_files, override

    config = override(load(config_path, data_dir), backend, package_path)
    log.set_up("warning")
    failed = False
    lines, warnings = [], []
    for answer in infer_files(config, files_of(paths), out):
        failed |= answer["status"] == "failed"
        if as_json:
            click.echo(json.dumps(answer))
        else:
            name = answer["file"] if answer["files"] == 1 else f"{answer['file']} and {answer['files'] - 1} more"
            lines.append((name, answer["status"], *_result_cells(answer), f"{answer['seconds']['total']:.3f}"))
            warnings += [f"{answer['file']}: {warning}" for warning in answer["warnings"]]
    if not as_json:
        table(("file", "status", "result", "probability or size", "seconds"), lines)
        click.echo("\n".join([*warnings, "AI results for research use only: not for diagnosis."]))
    sys.exit(1 if failed else 0)


@click.command("explain")
@click.argument("path", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@JSON
@click.option("--backend", help="Inference backend.  [default: inference.backend of the configuration]")
@click.option("--package", "package_path", type=click.Path(exists=True, path_type=Path), help="Model package to use.")
@configured
def explain_file(
    path: Path,
    as_json: bool,
    backend: str | None,
    package_path: Path | None,
    config_path: Path | None,
    data_dir: Path | None,
) -> None:
    """Say which part of one DICOM file's image the model's answer hangs on, in plain words.

    Parts of the image are covered in gray, one after the other, and the model is asked again each time (46 runs).
    """
    from appliance import explain, log
    from appliance.infer import override

    config = override(load(config_path, data_dir), backend, package_path)
    log.set_up("warning")
    found = explain.explain(config, path)
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    for each in found["findings"]:
        click.echo(f"{each['finding']}: {each['sentence']}")
        table(
            ("covered", "patient's side", "probability", "change"),
            ((row["region"], row["patient_side"] or "", f"{row['probability']:.3f}", f"{row['change']:+.3f}")
             for row in each["regions"]),
        )  # fmt: skip
    if found["patient_side_at_image_left"] and not found["side_is_stated"]:
        click.echo("The file does not state the patient's sides: the image is taken to hang as usual.")
    click.echo("\n".join([*found["warnings"], explain.CAUTION]))


def _result_cells(answer: dict[str, Any]) -> tuple[str, str]:
    import msgspec

    from appliance.result import Segment

    segments = [msgspec.convert(each, Segment) for each in answer["segments"]]
    if answer["findings"]:
        finding = answer["findings"][0]
        said = "positive" if finding["positive"] else "unsure" if finding["unsure"] else "negative"
        return f"{finding['label']}: {said}", f"{finding['probability']:.3f}"
    if segments:
        return ", ".join(each.label for each in segments), ", ".join(each.size for each in segments)
    return answer["reason"], ""
