"""Commands about readers, and about what a package's answers hang on."""

from __future__ import annotations

import json
from pathlib import Path

import click

from compression.cli.options import FILE, JSON, Number, writing


@click.command()
@click.argument("path", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@JSON
@click.option("--out", type=FILE,
              help="Write the adjudicated labels into this CSV, ties with an empty label.")  # fmt: skip
def readers(path: Path, as_json: bool, out: Path | None) -> None:
    """Tell how far several readers agree: FILE is a CSV with the columns image, reader, label.

    A column patient, where some have several images, makes intervals by patients.
    """
    from compression import check_text
    from compression import readers as reading

    readings = reading.read(path)
    found = reading.agreement(readings, reading.patients(path, readings))
    decided, ties = reading.adjudicate(readings)
    if out is not None:
        with writing(out):
            reading.write(out, readings)
    if as_json:
        click.echo(json.dumps({**found, "adjudicated": decided, "ties": ties}, indent=1))
    else:
        click.echo(check_text.agreement(found, list(ties)))


@click.command("explain")
@click.argument("package_path", metavar="PACKAGE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("paths", metavar="[IMAGE]...", nargs=-1,
                type=click.Path(exists=True, dir_okay=False, path_type=Path))  # fmt: skip
@click.option("--target", default="cpu", show_default=True, help="Whose network: cpu or tensorrt, which are ONNX.")
@JSON
def explain(package_path: Path, paths: tuple[Path, ...], target: str, as_json: bool) -> None:
    """Test a package's activation map, and say what its answers on images hang on.

    Two sanity tests on its generated images: the map must change when weights are shuffled, and it must lie on a marker
    when the head knows nothing else. Each IMAGE (DICOM, PNG or JPEG) is covered part by part. Ends with 1 where the map
    fails a test.
    """
    from appliance import package
    from compression import explain as explanation

    found = explanation.explain(package.read(package_path, None), target, paths)
    click.echo(json.dumps(found, indent=1) if as_json else explanation.text(found))
    if not (found["randomization"]["passed"] and found["planted_marker"]["passed"]):
        raise click.exceptions.Exit(1)


@click.command("reader-study")
@click.argument("answers", metavar="ANSWERS", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--truth", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="CSV: image, label and, where a patient has several images, patient.")  # fmt: skip
@click.option("--scores", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="CSV: image, score, threshold, as from scanside study export --scores.")  # fmt: skip
@click.option("--positive", default="present", show_default=True, help="The truth's label that means present.")
@click.option(
    "--threshold", type=Number(), help="From which score on the model says present.  [default: the scores' own]"
)
@click.option("--out", type=FILE, help="Write the page, one HTML file, here.")
@JSON
def reader_study(
    answers: Path,
    truth: Path,
    scores: Path,
    positive: str,
    threshold: float | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Compare the readers of a blinded study with the truth, each other and the model.

    ANSWERS is what scanside study export prints. Readers' and model's operating points on one ROC, the difference of
    the model and the mean reader for other readers and patients, agreement, time.
    """
    from compression import reader_page, readers
    from compression import reader_study as analysis

    study = analysis.read(answers, truth, scores, positive, threshold)
    found = analysis.analyze(study)
    agreement = readers.agreement(readers.read(answers), study.patients.tolist())
    if out is not None:
        with writing(out):
            out.write_text(reader_page.page(found, agreement, answers.stem))
    click.echo(json.dumps({**found, "agreement": agreement}, indent=1) if as_json else reader_page.text(found))
