"""The model card, made from measurements (Mitchell et al., FAT* 2019)."""

from __future__ import annotations

from typing import Any

from appliance.package import Manifest
from compression.recipe import Recipe

_SOURCES = """\
- Training, validation and test: Kermany D, Zhang K, Goldbaum M (2018), Labeled Optical Coherence Tomography (OCT) and
  Chest X-Ray Images for Classification, Mendeley Data v2, doi:10.17632/rscbjbr9sj.2, CC BY 4.0; Cell 172(5):1122-1131.
- External: ChestX-ray8/14, NIH Clinical Center (Wang et al., CVPR 2017). Labels mined from reports.
- Initial weights: MobileNetV2 1.0 224 trained on ImageNet, Google Coral test data, Apache-2.0, dequantized."""


def write_card(recipe: Recipe, manifest: Manifest, report: dict[str, Any]) -> str:
    """The card as Markdown."""
    use, target = manifest.intended_use, manifest.targets["cpu"]
    point = target.operating_point()
    lines = [
        f"# {manifest.title}",
        "",
        f"`{manifest.id}` {manifest.version}. {use.statement}",
        "",
        "## Not for",
        "",
        *(f"- {item}" for item in use.not_for),
        "",
        "## How well it does",
        "",
        f"int8 on ONNX Runtime (CPU), calibrated probability, threshold {point.threshold:.4f} (operating point "
        f"{point.name}). 95 % intervals by a bootstrap over patients. Nothing was chosen on the test or on external data.",
        "",
        "| data | images (positive) | AUC | sensitivity | specificity |",
        "|---|---|---|---|---|",
        _row("validation", report["validation"]),
        _row("Kermany official test, open half", report["test"]),
    ]
    for view, figures in report.get("external", {}).items():
        lines.append(_row(f"{recipe.data.external}, {'all views pooled' if view == 'all' else view}", figures))
    if report.get("external"):
        lines += [
            "",
            "The external set is another hospital and mostly adults: outside validated use. Its pooled row misleads, since",
            "most of its normals are AP and most of its pneumonias PA; read the rows by view.",
        ]
    against = report["test"]["int8_against_float"]
    lines += [
        "",
        f"int8 against float on the test: AUC loss {against['auc_loss']:+.4f}, {against['flips']:.1%} of decisions flip, "
        f"99th percentile of the difference of a probability {against['p99_abs_dp']:.3f}.",
        f"Expected calibration error on validation {target.measured['ece_before']:.3f} before and "
        f"{target.measured['ece_after']:.3f} after temperature scaling ({target.temperature:.3f}).",
        "",
        "## Operating points",
        "",
        "Each threshold is the largest that still finds the stated share of augmented validation positives: images as",
        "other scanners and exposures might show them.",
        "",
        "| name | threshold | sensitivity | specificity | chosen on |",
        "|---|---|---|---|---|",
        *(
            f"| {each.name} | {each.threshold:.4f} | {each.sensitivity:.3f} | {each.specificity:.3f} | {each.chosen_on} |"
            for each in target.operating_points
        ),
        "",
        "## What it was made from",
        "",
        f"Training images {manifest.training['images']['train']}, validation {manifest.training['images']['validation']}, "
        f"split by patient. Population: {use.population}.",
        "",
        _SOURCES,
        "",
        "## Limits",
        "",
        "- In the training set, sharpness, black level and image size differ between the classes. They are made random in",
        "  training and each image is stretched, but a rest of this may have been learned.",
        "- The images of the set were squashed to a square, and so is every image on the device.",
        "- The activation map shows which regions pushed the score up. It is coarse (7 x 7) and outlines nothing.",
        "",
    ]
    return "\n".join(lines)


def _row(name: str, figures: dict[str, Any]) -> str:
    cells = [
        f"{value:.3f} [{low:.3f}, {high:.3f}]"
        for value, low, high in (figures["int8"][key] for key in ("auc", "sensitivity", "specificity"))
    ]
    return f"| {name} | {figures['images']} ({figures['positive']}) | {' | '.join(cells)} |"
