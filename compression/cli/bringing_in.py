"""Commands that bring data in: ``import`` and ``deidentify``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from compression.cli.options import FOLDER

_SHOWN = 5
_LAYOUTS = ("folder", "dicom-tree", "nifti", "nih")


def _skip(name: str, what: str) -> Any:
    """A flag for one rule of `compression.importing.RULES`."""
    text = f"Leave out, name and count {what}; otherwise the first one stops the import."
    return click.option(f"--skip-{name}", "skip", flag_value=f"--skip-{name}", multiple=True, help=text)


@click.command("import")
@click.argument("layout", type=click.Choice(_LAYOUTS))
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("target", type=FOLDER)
@click.option("--label", "labels", multiple=True, help="A label that may occur; give each. [default: any]")
@click.option("--segment", "segments", multiple=True,
              help="Name of the masks' label 1, then 2...; of a DICOM SEG, any order.  [default: any]")  # fmt: skip
@click.option("--label-file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="dicom-tree: a CSV with label and one of SOPInstanceUID, SeriesInstanceUID, StudyInstanceUID, "
              "PatientID; further columns (split, site...) come along.")  # fmt: skip
@click.option("--column", "columns", multiple=True, metavar="OURS=THEIRS",
              help="folder: what a column is called in its list, such as label=finding.")  # fmt: skip
@click.option("--finding", default="", help="nih: the finding that becomes the label, such as Pneumonia.")
@click.option("--others", type=click.Choice(["negative", "leave-out"]), default="negative", show_default=True,
              help="nih: images with other findings only.")  # fmt: skip
@_skip("corrupt", "images that can't be decoded")
@_skip("labels", "cases without a label, or with one that --label does not name, and labels that fit no image")
@_skip("masks", "cases whose mask is missing, damaged, of another size or with undeclared labels")
@_skip("other", "objects that no case can be made of, such as reports and color images")
@click.option("--identified-by-agreement", "agreement", default="", metavar="REASON",
              help="Import DICOM that still identifies; import.json records the reason.")  # fmt: skip
@click.option("--device-key", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="folder: by this public key (scanside telemetry key) a bundle must be signed.")  # fmt: skip
def import_command(
    layout: str, source: Path, target: Path, columns: tuple[str, ...], skip: tuple[str, ...], **given: Any
) -> None:
    """Bring images from SOURCE into the new folder TARGET, in the form that recipes name as their data.

    \b
    folder      SOURCE/manifest.csv: file, label, patient_id; optional mask, split, view, age, sex, site
    dicom-tree  DICOM files in any folders; CT, MR and PET series become volumes, all else images;
                DICOM SEG objects in the tree become masks
    nifti       SOURCE/images and SOURCE/labels with .nii or .nii.gz, paired by name
    nih         Data_Entry_2017.csv and images*/ as NIH's ChestX-ray14 has them

    TARGET gets manifest.csv, images/ (PNG of 8 or 16 bits, .nii.gz for volumes), masks/, and import.json, which says
    what was taken and what was left out. Nothing is left out silently: each fault stops the import and names the file,
    unless you allow it with a --skip option. A patient in two splits always stops it. TARGET is there only when whole.

    DICOM must be de-identified first: python -m compression deidentify.

    \b
    Examples:
      python -m compression import nifti ../shared/data/hippocampus data/hippocampus
      python -m compression import nih ChestX-ray14 data/nih --finding Pneumonia --others leave-out
      python -m compression import dicom-tree clean data/site-a --label-file labels.csv --label NORMAL --label PNEUMONIA
    """
    from compression import importing
    from compression.importers import IMPORTERS

    options = importing.Options(columns=_pairs(columns), skip=frozenset(skip), **given)
    report = importing.run(IMPORTERS[layout], source, target, options)
    labels = ", ".join(f"{count} {label or 'without label'}" for label, count in report["labels"].items())
    click.echo(f"{report['cases']} cases of {report['patients']} patients ({labels}), {report['masks']} masks")
    if report["empty_masks"]:
        click.echo(f"empty masks: {len(report['empty_masks'])}: {', '.join(report['empty_masks'][:_SHOWN])}")
    for kind, each in report["skipped"].items():
        rule = f" by {importing.RULES[kind]}" if kind in importing.RULES else ""
        click.echo(f"left out{rule}: {kind}: {len(each)}")
        for what in each[:_SHOWN]:
            click.echo(f"    {what}")
    if (lineage := report.get("lineage")) is not None:
        checked = "checked" if lineage["signature_checked"] else "not checked: that takes --device-key"
        click.echo(f"a bundle of device {lineage['device']}; its signature is {checked}")
    if options.agreement:
        click.echo(f"identifying DICOM was allowed: {options.agreement}")
    click.echo(f"{target}, content {report['content'][:16]}; next: name it in a recipe, then check-data")


def _pairs(columns: tuple[str, ...]) -> dict[str, str]:
    pairs = [column.partition("=") for column in columns]
    for ours, _, theirs in pairs:
        if not ours or not theirs:
            raise click.UsageError("--column takes OURS=THEIRS, such as label=finding")
    return {ours: theirs for ours, _, theirs in pairs}


@click.command()
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("target", type=FOLDER)
@click.option("--key", type=click.Path(dir_okay=False, path_type=Path),
              help="Secret file of the pseudonyms.  [default: TARGET.pseudonyms.key, made beside TARGET]")  # fmt: skip
@click.option("--label-file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="A CSV by PatientID or UIDs; it is written to TARGET.labels.csv with the pseudonyms.")  # fmt: skip
@click.option("--retain-patient-characteristics", "characteristics", is_flag=True,
              help="Keep age (89 at most), sex, size and weight, so that subgroups can be told apart.")  # fmt: skip
@click.option("--pixels-checked", is_flag=True,
              help="A person has seen all images, none shows a name: Burned In Annotation becomes NO.")  # fmt: skip
@click.option("--leave-out", is_flag=True,
              help="Leave out, name and count what can't be de-identified: damaged files, objects that are no images, "
              "images with burned-in names.")  # fmt: skip
def deidentify(source: Path, target: Path, key: Path | None, label_file: Path | None, **given: bool) -> None:
    """Write the DICOM images below SOURCE without what identifies, into the new folder TARGET.

    The Basic Application Level Confidentiality Profile of DICOM PS3.15: names, dates, places, comments and private
    elements go; UIDs and Patient ID become pseudonyms, the same for the same patient and UID as long as the key is the
    same, so that series, and segmentations with their images, stay together. Who has the key can tell whether a
    pseudonym belongs to a patient that they know: keep it secret, or delete it when nothing more will be added.

    Pixels are not changed. Files that say that names are burned in are refused, and screen captures and ultrasound that
    don't deny it. What a label on a detector or a face in a head scan shows, only a person can judge.
    """
    from compression import deidentify_files
    from compression.pseudonyms import Pseudonyms, load_or_create_key

    labels = deidentify_files.read_labels(label_file) if label_file is not None else None
    path = key or target.with_name(f"{target.name}.pseudonyms.key")
    secret, is_new = load_or_create_key(path, target)
    if is_new:
        click.echo(f"Made the key {path}; keep it secret and apart from the data.")
    pseudonyms = Pseudonyms(secret)
    report = deidentify_files.run(source, target, pseudonyms, deidentify_files.Options(**given))
    if labels is not None:
        translated = target.with_name(f"{target.name}.labels.csv")
        deidentify_files.write_labels(labels, translated, pseudonyms)
        click.echo(f"Labels by pseudonyms: {translated}")
    click.echo(f"{report.files} files of {len(report.patients)} patients, {report.removed.total()} elements removed, "
               f"{report.changed.total()} replaced; pixels are as they were")  # fmt: skip
    for file, reason in list(report.refused.items())[:_SHOWN]:
        click.echo(f"    left out: {file}: {reason}")
    if report.refused:
        click.echo(f"left out by --leave-out: {len(report.refused)}")
    click.echo(f"What was done, by attribute: {target / 'deidentification.json'}")
