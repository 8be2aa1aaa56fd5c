"""The command line of the training side."""

from __future__ import annotations

import json
from pathlib import Path

import click

from appliance.errors import ApplianceError
from appliance.signature import key_id, load_or_create_private_key
from compression.recipe import RecipeError, read

_STAGES = ("data", "train", "prune", "choose", "export", "quantize", "gate", "golden", "evaluate", "report", "pack")
_SHARE = click.FloatRange(0, 1, min_open=True, max_open=True)
_DEVELOPMENT_KEY = Path(".build") / "development.pem"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Build model packages for Scanside: train, prune, quantize, calibrate, evaluate, report, sign."""


@main.command()
@click.argument("recipe_path", metavar="RECIPE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), default=Path("../shared/data"), show_default=True,
              help="Folder of the data sets that the recipe names.")  # fmt: skip
@click.option("--weights", type=click.Path(path_type=Path), default=Path("../shared/weights"), show_default=True,
              help="Folder of the initial weights.")  # fmt: skip
@click.option("--work", type=click.Path(path_type=Path), help="Folder for the stages' results.  [default: .build/ID]")
@click.option("--key", type=click.Path(path_type=Path),
              help=f"Private key that signs.  [default: {_DEVELOPMENT_KEY}, made where there is none]")  # fmt: skip
@click.option("--release", is_flag=True, help="Sign for users: needs --key, and refuses the development key.")
@click.option("--trust", type=click.Path(file_okay=False, path_type=Path),
              help="Also write the public key into this folder.")  # fmt: skip
@click.option("--quick", is_flag=True, help="A toy package, to see that it works, in under two minutes.")
@click.option("--stage", type=click.Choice(_STAGES), help="Stop after this stage.")
@click.option("--force", type=click.Choice(_STAGES), multiple=True, help="Run this stage again though nothing changed.")
def build(
    recipe_path: Path,
    data: Path,
    weights: Path,
    work: Path | None,
    key: Path | None,
    release: bool,
    trust: Path | None,
    quick: bool,
    stage: str | None,
    force: tuple[str, ...],
) -> None:
    """Build a package from a recipe, stage by stage.

    What is already there and still fits is kept; training goes on from its last finished epoch. The package, its card
    and its report lie beside the recipe; with --quick, in the work folder.
    """
    from compression import build as builder
    from compression import quick as toy
    from compression.pack import write_public_key

    try:
        recipe = read(recipe_path)
        private_key, is_new = load_or_create_private_key(_signing_key(key, release))
        if is_new:
            click.echo(f"Made a development key, {_DEVELOPMENT_KEY}; devices trust it only where they are told to.")
        work = work or Path(".build") / recipe.package.id
        started = builder.Build(recipe, recipe_path, data, weights, work, private_key, recipe_path.parent)
        builder.run(toy.shrink(started) if quick else started, stage, force)
        if trust is not None:
            click.echo(f"Wrote {write_public_key(private_key, trust)}: devices with this file trust the package.")
    except (RecipeError, ApplianceError) as error:
        raise click.ClickException(str(error)) from error


@main.command("check-data")
@click.argument("recipe_path", metavar="RECIPE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), default=Path("../shared/data"), show_default=True,
              help="Folder of the data sets that the recipe names.")  # fmt: skip
@click.option("--weights", type=click.Path(path_type=Path), default=Path("../shared/weights"), show_default=True,
              help="Folder of the initial weights; labels are judged on pixels where they are not there.")  # fmt: skip
@click.option("--work", type=click.Path(path_type=Path), help="Folder for the page with images.  [default: .build/ID]")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of tables.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path),
              help="Also write JSON and a page without images into this folder.")  # fmt: skip
def check_data(
    recipe_path: Path, data: Path, weights: Path, work: Path | None, as_json: bool, out: Path | None
) -> None:
    """Tell what is wrong with a recipe's data before hours of training.

    Counts, duplicates, patients in two splits, damaged files, labels that look wrong, and what tells the label without
    looking at anatomy. Ends with 1 where something must stop a training.
    """
    from compression import check_data as checker
    from compression import check_text

    try:
        recipe = read(recipe_path)
        checked = checker.check(recipe, data, weights)
        folder = (work or Path(".build") / recipe.package.id) / checker.NAME
        page = checker.write(checked, folder, out)
    except RecipeError as error:
        raise click.ClickException(str(error)) from error
    click.echo(json.dumps(checked.report, indent=1) if as_json else check_text.report(checked.report))
    click.echo(f"With the images to look at: {page}", err=as_json)
    if checked.stops:
        raise click.exceptions.Exit(1)


@main.command()
@click.argument("path", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path),
              help="Write the adjudicated labels into this CSV, ties with an empty label.")  # fmt: skip
def readers(path: Path, as_json: bool, out: Path | None) -> None:
    """Tell how far several readers agree: FILE is a CSV with the columns image, reader, label."""
    from compression import check_text
    from compression import readers as reading

    try:
        readings = reading.read(path)
    except RecipeError as error:
        raise click.ClickException(str(error)) from error
    found = reading.agreement(readings)
    decided, ties = reading.adjudicate(readings)
    if out is not None:
        reading.write(out, readings)
    if as_json:
        click.echo(json.dumps({**found, "adjudicated": decided, "ties": ties}, indent=1))
    else:
        click.echo(check_text.agreement(found, list(ties)))


def _signing_key(key: Path | None, release: bool) -> Path:
    """The file of the key that signs; raises where a release has none of its own, or a key is not there."""
    if key is not None and not key.exists():
        raise RecipeError(f"{key} is not there; make it with: python -m compression keygen {key}")
    if release:
        if key is None:
            raise RecipeError("a release needs a key of its own: --key FILE, made with python -m compression keygen")
        if _DEVELOPMENT_KEY.exists() and key.read_bytes() == _DEVELOPMENT_KEY.read_bytes():
            raise RecipeError(f"{key} is this checkout's development key, which signs no release")
    return key or _DEVELOPMENT_KEY


@main.command()
@click.argument("path", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--trust", type=click.Path(file_okay=False, path_type=Path), help="Write the public key into this "
              "folder, as devices want it.  [default: beside FILE]")  # fmt: skip
def keygen(path: Path, trust: Path | None) -> None:
    """Make a key that signs packages. Keep FILE secret and safe; devices need the .pub file."""
    from compression.pack import write_public_key

    if path.exists():
        raise click.ClickException(f"{path} is there already; a key is never overwritten")
    key, _ = load_or_create_private_key(path)
    public = write_public_key(key, trust or path.parent)
    click.echo(f"Key {key_id(key.public_key())}: private {path}, public {public}")


@main.command("sample-size")
@click.option("--sensitivity", type=_SHARE, required=True, help="What you expect, from a pilot or a report.")
@click.option("--specificity", type=_SHARE, help="The same of images without the finding; they are counted, too.")
@click.option("--margin", type=_SHARE, default=0.05, show_default=True,
              help="Half the width of the interval that you can live with.")  # fmt: skip
@click.option("--prevalence", type=_SHARE, required=True, help="Share of the study's images that have the finding.")
@click.option("--sensitivity-floor", type=_SHARE,
              help="What the study must show sensitivity to be above.  [default: sensitivity less margin]")  # fmt: skip
@click.option("--specificity-floor", type=_SHARE,
              help="What it must show specificity to be above.  [default: specificity less margin]")  # fmt: skip
@click.option("--power", type=_SHARE, default=0.9, show_default=True,
              help="How likely the study shall succeed if the model is as good as you expect.")  # fmt: skip
@click.option("--confidence", type=_SHARE, default=0.95, show_default=True,
              help="Of the two-sided interval; the one-sided test has half of what is left.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="JSON instead of sentences.")
def sample_size(
    sensitivity: float,
    specificity: float | None,
    margin: float,
    prevalence: float,
    sensitivity_floor: float | None,
    specificity_floor: float | None,
    power: float,
    confidence: float,
    as_json: bool,
) -> None:
    """Tell how many images a study needs, before it begins.

    Two questions, two answers. Precision: how many images, so that sensitivity is known to within +-MARGIN
    (Buderer 1996)? Power: how many, so that a model as good as you expect passes a test that it is above a floor
    (exact binomial)? Take the larger one where the study must do both.

    Sensitivity is measured on images with the finding alone. At a prevalence of 20 % only one image in five counts, so
    five times as many are needed, unless the images are picked by their label. Half of all studies draw fewer cases
    than expected: plan some more.

    Count patients: two images of one patient are less than two images. Count a subgroup on its own, if you want to say
    something of it. A floor close to what you expect needs many images: halving the distance takes four times as many.

    \b
    Example: sensitivity 95 % to within 5 points, one image in five with the finding, and shown to be above 92 %.
      python -m compression sample-size --sensitivity 0.95 --margin 0.05 --prevalence 0.2 --sensitivity-floor 0.92
    """
    from compression.sample_size import Question, SampleSizeError, plan, sentences

    questions = [Question("sensitivity", sensitivity, sensitivity_floor, prevalence)]
    if specificity is not None:
        questions.append(Question("specificity", specificity, specificity_floor, 1 - prevalence))
    elif specificity_floor is not None:
        raise click.UsageError("--specificity-floor needs --specificity")
    try:
        found = plan(questions, margin, power, confidence)
    except SampleSizeError as error:
        raise click.ClickException(str(error)) from error
    click.echo(json.dumps(found, indent=1) if as_json else sentences(found))
