"""The model card, made from the report's measurements (Mitchell et al., FAT* 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from appliance.package import Manifest
from compression import augment_policy, evaluate, external
from compression.report_clinical import CLEAN

if TYPE_CHECKING:
    from compression.build import Build
    from compression.recipe import Recipe


def write_card(build: Build, manifest: Manifest, report: dict[str, Any]) -> str:
    """The card as Markdown."""
    recipe, use, counts = build.recipe, manifest.intended_use, manifest.training["images"]
    test, validation = report["sets"]["test"], report["sets"]["validation"]
    names = [evaluate.UNPRUNED, evaluate.PRUNED, *manifest.targets]
    lines = [
        *head(manifest),
        "## How well it does",
        "",
        "Calibrated probability, each network with its own threshold. 95 % intervals over patients (DeLong's, "
        f"Wilson's). {external.blindness(build)} `report.html` has subgroups and all that was tried.",
    ]
    outside = external.sets(build)
    titles = {"test": recipe.card.test, "validation": "Validation", **outside}
    for key, title in titles.items():
        lines += _set_lines(title, report["sets"][key], names)
        if key in outside:
            for name, each in report["sets"][key]["subgroups"].items():
                if "view" in name:
                    lines += _set_lines(f"{title}, {name}", each, names)
    if recipe.card.external_note:
        lines += ["", recipe.card.external_note]
    lines += _meaning_lines(recipe, list(manifest.targets), report, titles)
    lines += [
        "",
        "## Targets",
        "",
        "| target | precision | made by | threshold | file | flips | AUC loss | map correlation "
        "| coverage, absent | coverage, present |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(_target_row(name, manifest, report, test) for name in manifest.targets),
        "",
        f"Flips, AUC loss and the activation map's correlation on {recipe.card.test}, against the unpruned float "
        "network. Coverage there: how often the prediction set holds the truth where the finding is absent, and where "
        f"it is present; {recipe.calibrate.coverage:.0%} is meant for each. tensorrt is its file on ONNX Runtime's "
        "CPU. The report has the times.",
        "",
        "## Operating points",
        "",
        "Each threshold is the largest that still finds the stated share of augmented validation positives: images as",
        f"other scanners and exposures might show them. {CLEAN}",
        "",
        "| target | name | threshold | sensitivity | specificity | chosen on "
        "| sensitivity, clean | specificity, clean |",
        "|---|---|---|---|---|---|---|---|",
        *(
            f"| {target} | {each.name} | {each.threshold:.4f} | {each.sensitivity:.3f} | {each.specificity:.3f} "
            f"| {each.chosen_on} | {' | '.join(_clean(validation['operating_points'][target][each.name]))} |"
            for target, content in manifest.targets.items()
            for each in content.operating_points
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
        *(f"- {limit}" for limit in (*recipe.card.limits, *augment_policy.exceptions(recipe.augment_policy))),
        f"- Probabilities are calibrated for images of which {validation['positive'] / validation['images']:.0%} are "
        "positive, as in validation. Where the finding is rarer, they are too high.",
        "- The activation map shows which regions pushed the score up. It is coarse and outlines nothing.",
        "",
    ]
    return "\n".join(lines)


def _clean(found: dict[str, Any]) -> tuple[str, str]:
    """Sensitivity and specificity of an operating point on a set."""
    return _cell(found["sensitivity"]), _cell(found["specificity"])


def head(manifest: Manifest) -> list[str]:
    """What it is, and what it is not for."""
    use = manifest.intended_use
    return [
        f"# {manifest.title}",
        "",
        f"`{manifest.id}` {manifest.version}. {use.statement}",
        "",
        "## Not for",
        "",
        *(f"- {item}" for item in use.not_for),
        "",
    ]


def _set_lines(title: str, found: dict[str, Any], names: list[str]) -> list[str]:
    return [
        "",
        f"### {title}: {found['images']} images, {found['positive']} positive",
        "",
        "| network | AUC | sensitivity | specificity |",
        "|---|---|---|---|",
        *(f"| {name} | {_cells(found['networks'][name])} |" for name in names),
    ]


def _meaning_lines(recipe: Recipe, targets: list[str], report: dict[str, Any], titles: dict[str, str]) -> list[str]:
    """What a result means at the site's prevalence, beside no model at all; what is lost outside; subgroup alarms.

    ``titles``: sets of the report -> how each is called.
    """
    test, prevalence, point = (
        report["sets"]["test"],
        report["site_prevalence"],
        recipe.calibrate.default_operating_point,
    )
    lines = [
        "",
        f"### What a result means where {prevalence:.0%} have the finding",
        "",
        f"| network at {point} | accuracy on {recipe.card.test} | right if positive | right if negative |",
        "|---|---|---|---|",
    ]
    for name in targets:
        each = test["operating_points"][name][point]
        site = next(row for row in each["predictive_values"] if row["prevalence"] == prevalence)
        lines.append(f"| {name} | {_cell(each['accuracy'])} | {_cell(site['ppv'])} | {_cell(site['npv'])} |")
    lines += [f"| no model: {name} | {rule['accuracy']:.3f} | | |" for name, rule in test["no_model"].items()]
    for key, networks in report["drop"].items():
        for name in targets:
            lost = ", ".join(f"{figure} {_cell(each['gap'])}" for figure, each in networks[name].items())
            lines += ["", f"{name}, lost from {recipe.card.test} to {titles[key]}: {lost}."]
    for name, each in test["abstention"].items():
        at = each["at_limit"]
        rates = " and ".join(
            f"{_cell(at[key])} {where}"
            for key, where in (("errors_answered", "there"), ("errors_unsure", "on the rest"))
            if key in at
        )
        lines += [
            "",
            f"{name}: the ensemble's heads agree on {at['answered']:.1%} of {recipe.card.test}; error rate {rates}.",
        ]
    for key, found in report["sets"].items():
        rows = [row for name in targets for row in found["gaps"][name] if row.get("alarm")]
        if alarms := sorted({f"{row['subgroup']} ({row['figure']})" for row in rows}):
            lines += ["", f"Does worse than in the rest of {titles[key]}, see the report: {', '.join(alarms)}."]
    return lines


def _cells(figures: dict[str, list[float]]) -> str:
    return " | ".join(_cell(figures[name]) if name in figures else "" for name in ("auc", "sensitivity", "specificity"))


def _cell(figure: list[float]) -> str:
    value, low, high = figure
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _target_row(name: str, manifest: Manifest, report: dict[str, Any], test: dict[str, Any]) -> str:
    target, costs = manifest.targets[name], report["networks"][name]
    against, coverage = test["against"][name][evaluate.UNPRUNED], test["conformal_coverage"][name]
    loss, alike = against["auc_loss"], against["map_correlation"]
    return (
        f"| {name} | {target.precision} | {target.producer} | {target.operating_point().threshold:.4f} "
        f"| {costs['bytes'] / 1e6:.2f} MB | {against['flips']:.1%} "
        f"| {loss[0]:+.4f} [{loss[1]:+.4f}, {loss[2]:+.4f}] | {alike:.3f} "
        f"| {coverage['absent']:.1%} | {coverage['present']:.1%} |"
    )
