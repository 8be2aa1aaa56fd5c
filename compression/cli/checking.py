"""Commands to use before a training, or a study, begins."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

import click

from appliance.backend import cores
from compression.cli.options import DATA, FILE, FOLDER, JSON, RECIPE, SHARE, WEIGHTS, WORK, Number
from compression.recipe import RecipeError, read, task


@click.command("check-data")
@RECIPE
@DATA
@click.option("--weights", type=click.Path(path_type=Path), default=Path("../shared/weights"), show_default=True,
              help="Folder of the initial weights; labels are judged on pixels where they are not there.")  # fmt: skip
@click.option("--work", type=FOLDER, help="Folder for the page with images.  [default: .build/ID]")
@JSON
@click.option("--out", type=FOLDER,
              help="Also write JSON and a page without images into this folder.")  # fmt: skip
@click.option("--folds", type=click.IntRange(2), metavar="K",
              help="Propose K folds instead of 70/20/10: for few patients, each of whom is tested once.")  # fmt: skip
@click.option("--hold-out-site", metavar="NAME",
              help="Propose one whole site as the test: how well does a model do where it never learned?")  # fmt: skip
def check_data(
    recipe_path: Path,
    data: Path,
    weights: Path,
    work: Path | None,
    as_json: bool,
    out: Path | None,
    folds: int | None,
    hold_out_site: str | None,
) -> None:
    """Tell what is wrong with a recipe's data before hours of training.

    Counts, duplicates, patients in two splits, damaged files, labels that look wrong, and what tells the label without
    looking at anatomy. Of a segmentation's cases: damaged files, masks of another size, labels outside the set,
    duplicates and patients in two splits, without a page. Ends with 1 where something must stop a training.

    A split is proposed in check-data/split.csv of the work folder where the list has none, or where an option asks for
    one; join it to the list by the column file. No patient is in two parts, and labels and sites (the columns site,
    source, hospital, center or location, or check.site) are spread evenly. The same data give the same split.

    \b
      (neither option)      70/20/10 for training, validation and test
      --folds 5             a column fold from 1 to 5, too; split has the first
                            for the test. For the others, write test where fold
                            is that one and train elsewhere, and build again;
                            cross-validate deals the training side by itself
      --hold-out-site NAME  all patients of that site for the test, the others
                            80/20 for training and validation
    """
    from compression import check_data as checker
    from compression import check_text
    from compression.splits import Plan

    if folds is not None and hold_out_site is not None:
        raise click.UsageError("--folds and --hold-out-site are two splits; ask for one of them")
    plan = Plan(folds, hold_out_site) if folds is not None or hold_out_site is not None else None
    drawn = task(recipe_path) == "segmentation"
    if plan and drawn:
        raise click.UsageError(
            "--folds and --hold-out-site are for classifications: a segmentation's build deals its folds itself, see "
            "data.folds and data.even of its recipe"
        )
    if drawn:
        _check_cases(recipe_path, data, work, as_json, out)
        return
    recipe = read(recipe_path)
    checked = checker.check(recipe, data, weights, plan)
    folder = (work or Path(".build") / recipe.package.id) / checker.NAME
    page = checker.write(checked, folder, out)
    click.echo(json.dumps(checked.report, indent=1) if as_json else check_text.report(checked.report))
    click.echo(f"With the images to look at: {page}", err=as_json)
    if plan:
        click.echo(f"A split, {plan.in_words()}: {folder / checker.SPLIT}", err=as_json)
    if checked.stops:
        raise click.exceptions.Exit(1)


def _check_cases(recipe_path: Path, data: Path, work: Path | None, as_json: bool, out: Path | None) -> None:
    from compression import check_cases, check_data, check_text, clipping
    from compression.segmentation.recipe import read as read_segmentation

    recipe = read_segmentation(recipe_path)
    checked = check_cases.check(recipe, data)
    text = json.dumps(checked.report, indent=1)
    folder = (work or Path(".build") / recipe.package.id) / check_data.NAME
    for each in (folder, *([out] if out else [])):
        each.mkdir(parents=True, exist_ok=True)
        (each / f"{check_data.NAME}.json").write_text(f"{text}\n")
    clipping.write(folder, checked.clipped)
    click.echo(text if as_json else check_text.cases(checked.report))
    click.echo(f"How much preprocessing clips of each: {folder / clipping.NAME}", err=as_json)
    if checked.errors:
        raise click.exceptions.Exit(1)


@click.command("linear-probe")
@RECIPE
@DATA
@WEIGHTS
@click.option("--images", type=click.IntRange(20), default=1500, show_default=True, help="Training images to use.")
@click.option("--scratch", type=click.IntRange(0), default=0, show_default=True, metavar="EPOCHS",
              help="Also train from scratch for so long, to compare.")  # fmt: skip
@click.option("--augmented", is_flag=True, help="Change each image once as training would, so that how it was "
              "acquired tells less.")  # fmt: skip
@click.option("--threads", type=click.IntRange(1), help="CPU threads.  [default: the recipe's]")
@JSON
def linear_probe(
    recipe_path: Path,
    data: Path,
    weights: Path,
    images: int,
    scratch: int,
    augmented: bool,
    threads: int | None,
    as_json: bool,
) -> None:
    """Tell whether the initial weights know something of these images, before hours of training.

    Logistic regression on frozen features, by patient and on the training side only, against random features.
    """
    from compression import linear_probe as probing

    recipe = read(recipe_path)
    found = probing.probe(recipe, data, weights, images, scratch, threads or recipe.train.threads, augmented)
    click.echo(json.dumps(found, indent=1) if as_json else probing.in_words(found))


@click.command("cross-validate")
@RECIPE
@DATA
@WEIGHTS
@WORK
@click.option("--folds", type=click.IntRange(2), default=5, show_default=True, metavar="K", help="Networks to train.")
@click.option("--threads", type=click.IntRange(1), default=cores(), show_default=True,
              help="Cores to use; training uses no more than the recipe's train.threads.")  # fmt: skip
@JSON
def cross_validate(
    recipe_path: Path, data: Path, weights: Path, work: Path | None, folds: int, threads: int, as_json: bool
) -> None:
    """Tell how a classification's training does on patients it has not seen, without touching the test.

    The training side's patients are dealt to K folds, labels and sites spread evenly. For each fold a network learns
    from the others, gets its thresholds from validation patients among these, and is asked about the patients held out:
    K times the time of a training. A second run goes on where the first one stopped, and keeps what still fits.

    A segmentation is cross-validated by its build: data.cross_validated.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from compression import build as classification
    from compression import cross_validation, distributed

    if task(recipe_path) == "segmentation":
        raise RecipeError(f"{recipe_path} is a segmentation's, which its build cross-validates: data.cross_validated")
    recipe = read(recipe_path)
    distributed.use_threads(threads)
    unused = Ed25519PrivateKey.generate()  # nothing is signed
    given = recipe_path, data, weights, work or Path(".build") / recipe.package.id, unused, recipe_path.parent, threads
    with redirect_stdout(sys.stderr):  # what stages say; the result is for others to read
        found = cross_validation.run(classification.Build(recipe, *given), folds)
    click.echo(json.dumps(found, indent=1) if as_json else cross_validation.in_words(found))


@click.command("contact-sheet")
@RECIPE
@DATA
@click.option("--out", type=FILE,
              help="The sheet, .html or .png.  [default: .build/ID/contact-sheet.html]")  # fmt: skip
@click.option("--images", type=click.IntRange(1), default=8, show_default=True, help="Training images to show.")
@click.option("--copies", type=click.IntRange(1, 8), default=4, show_default=True, help="Augmented copies of each.")
@JSON
def contact_sheet(recipe_path: Path, data: Path, out: Path | None, images: int, copies: int, as_json: bool) -> None:
    """Show what augmentation makes of training images, and how far the copies are from them.

    It shows patients' images: keep it where only those see it who may, and out of version control.
    """
    from compression import clipping
    from compression import contact_sheet as sheets

    if task(recipe_path) == "segmentation":
        _contact_sheet_of_segmentation(recipe_path, data, out, images, copies, as_json)
        return
    recipe = read(recipe_path)
    sheet = sheets.of_recipe(recipe, data, images, copies)
    path = sheets.write(sheet, out or Path(".build") / recipe.package.id / sheets.NAME)
    if as_json:
        click.echo(json.dumps(sheet.report, indent=1))
    else:
        click.echo(clipping.in_words(sheet.report["clipping"]))
        for each in (*sheet.report["exceptions"], *sheets.warnings(sheet)):
            click.echo(f"warning: {each}")
    click.echo(f"With the images to look at: {path}", err=as_json)


def _contact_sheet_of_segmentation(
    recipe_path: Path, data: Path, out: Path | None, images: int, copies: int, as_json: bool
) -> None:
    from compression.contact_sheet import NAME
    from compression.segmentation import contact_sheet as sheets
    from compression.segmentation import recipe as recipes

    recipe = recipes.read(recipe_path)
    sheet = sheets.of_recipe(recipe, data, images, copies)
    path = sheets.write(sheet, out or Path(".build") / recipe.package.id / NAME)
    if as_json:
        click.echo(json.dumps(sheet.report, indent=1))
    else:
        for each in (*sheet.report["exceptions"], *sheets.warnings(sheet)):
            click.echo(f"warning: {each}")
    click.echo(f"With the images to look at: {path}", err=as_json)


@click.command("sample-size")
@click.option("--sensitivity", type=SHARE, required=True, help="What you expect, from a pilot or a report.")
@click.option("--specificity", type=SHARE, help="The same of images without the finding; they are counted, too.")
@click.option("--margin", type=SHARE, default=0.05, show_default=True,
              help="Half the width of the interval that you can live with.")  # fmt: skip
@click.option("--prevalence", type=SHARE, required=True, help="Share of the study's images that have the finding.")
@click.option("--sensitivity-floor", type=SHARE,
              help="What the study must show sensitivity to be above.  [default: sensitivity less margin]")  # fmt: skip
@click.option("--specificity-floor", type=SHARE,
              help="What it must show specificity to be above.  [default: specificity less margin]")  # fmt: skip
@click.option("--power", type=SHARE, default=0.9, show_default=True,
              help="How likely the study shall succeed if the model is as good as you expect.")  # fmt: skip
@click.option("--confidence", type=Number(0.5, 1 - 1e-6), default=0.95, show_default=True,
              help="Of the two-sided interval; the one-sided test has half of what is left.")  # fmt: skip
@JSON
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
