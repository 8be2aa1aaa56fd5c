"""The model card, made from measurements (Mitchell et al., FAT* 2019)."""

from __future__ import annotations

from typing import Any

from appliance.package import Manifest
from compression.recipe import Recipe


def write_card(recipe: Recipe, manifest: Manifest, report: dict[str, Any]) -> str:
    """The card as Markdown."""
    use, target = manifest.intended_use, manifest.targets["cpu"]
    point, counts = target.operating_point(), manifest.training["images"]
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
        f"{point.name}). 95 % intervals by a bootstrap over patients. Nothing was chosen on test or external data.",
        "",
        "| data | images (positive) | AUC | sensitivity | specificity |",
        "|---|---|---|---|---|",
        _row("validation", report["validation"]),
        _row(recipe.card.test, report["test"]),
    ]
    for view, figures in report.get("external", {}).items():
        lines.append(_row(f"{recipe.data.external}, {'all views pooled' if view == 'all' else view}", figures))
    if recipe.card.external_note:
        lines += ["", recipe.card.external_note]
    against = report["test"]["int8_against_float"]
    lines += [
        "",
        f"int8 against float on the test: AUC loss {against['auc_loss']:+.4f}, {against['flips']:.1%} of decisions "
        f"flip, 99th percentile of the difference of a probability {against['p99_abs_dp']:.3f}.",
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
            f"| {each.name} | {each.threshold:.4f} | {each.sensitivity:.3f} | {each.specificity:.3f} "
            f"| {each.chosen_on} |"
            for each in target.operating_points
        ),
        "",
        "## What it was made from",
        "",
        f"Training images {counts['train']}, validation {counts['validation']}, split by patient. "
        f"Population: {use.population}.",
        "",
        *(f"- {source}" for source in recipe.card.sources),
        "",
        "## Limits",
        "",
        *(f"- {limit}" for limit in recipe.card.limits),
        "- The activation map shows which regions pushed the score up. It is coarse and outlines nothing.",
        "",
    ]
    return "\n".join(lines)


def _row(name: str, figures: dict[str, Any]) -> str:
    cells = [
        f"{value:.3f} [{low:.3f}, {high:.3f}]"
        for value, low, high in (figures["int8"][key] for key in ("auc", "sensitivity", "specificity"))
    ]
    return f"| {name} | {figures['images']} ({figures['positive']}) | {' | '.join(cells)} |"
