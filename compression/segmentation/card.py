"""The model card of a segmentation, made from the report's measurements (Mitchell et al., FAT* 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from appliance.package import Manifest
from compression import augment_policy, external
from compression.card import head
from compression.page import interval
from compression.segmentation import evaluate, report

if TYPE_CHECKING:
    from compression.segmentation.build import Build


def write_card(build: Build, manifest: Manifest, measured: dict[str, Any]) -> str:
    """The card as Markdown."""
    recipe, use = build.recipe, manifest.intended_use
    counts = manifest.training["cases"]
    subgroups = "subgroups, " if any(each["subgroups"] for each in measured["sets"].values()) else ""
    lines = [
        *head(manifest),
        "## How well it draws",
        "",
        f"On the grid of the source, with 95 % intervals by a bootstrap over patients. {external.blindness(build)} "
        f"`report.html` has {subgroups}hard cases and all that was tried. Distances are in "
        f"{measured['distance_unit']}; where one of the masks has none of a segment, there is none, and the case is in "
        "no mean of distances. Volume errors are over the cases that have the segment.",
    ]
    shipped = {evaluate.row_of(name, target.producer) for name, target in manifest.targets.items()}
    for name, title in report.titles(build).items():
        if name in measured["sets"]:
            lines += _set_lines(title, measured["sets"][name], measured["distance_unit"], shipped)
    for name, lost in measured["drop"].items():
        there = "; ".join(f"{network} {interval(lost[network], 3)}" for network in sorted(shipped))
        lines += ["", f"Mean Dice coefficient, lost from {recipe.card.test} to {report.titles(build)[name]}: {there}."]
    if recipe.card.external_note:
        lines += ["", recipe.card.external_note]
    lines += [
        "",
        "## Targets",
        "",
        "| target | precision | made by | why | row above |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {target.precision} | {target.producer} | {target.why} "
            f"| {evaluate.row_of(name, target.producer)} |"
            for name, target in manifest.targets.items()
        ),
        "",
        "tensorrt was measured as its file on ONNX Runtime's CPU.",
        "",
        "## What it was made from",
        "",
        f"Of {recipe.data.folds} folds, split by patient, {recipe.data.cross_validated} "
        f"{'was' if recipe.data.cross_validated == 1 else 'were'} tested. The network of the first fold ships: "
        f"training cases {counts['train']}, validation {counts['validation']}, test {counts['test']}. "
        f"Population: {use.population}.",
        "",
        *(f"- {source}" for source in recipe.card.sources),
        "",
        "## Limits",
        "",
        *(f"- {limit}" for limit in (*recipe.card.limits, *augment_policy.exceptions(recipe.augment_policy))),
        "",
    ]
    return "\n".join(lines)


def _set_lines(title: str, found: dict[str, Any], unit: str, shipped: set[str]) -> list[str]:
    lines = [
        "",
        f"### {title}: {found['cases']} cases of {found['patients']} patients",
        "",
        f"| network | segment | Dice | mean surface distance, {unit} | cases without | volume error, median "
        "| drawn where none |",
        "|---|---|---|---|---|---|---|",
    ]
    for network, segments in found["networks"].items():
        for segment, figures in segments.items():
            if segment != "mean" or len(segments) > 2:
                lines.append(
                    f"| {network} | {segment} | {interval(figures['dice'], 3)} "
                    f"| {interval(figures['mean_surface_distance'], 2)} | {figures['without_distance']} "
                    f"| {interval(figures['volume_error'], 1, '%')} | {figures['drawn_where_none']} |"
                )
    if alarmed := sorted({row["subgroup"] for name in shipped for row in evaluate.alarms(found, name)}):
        lines += ["", f"Draws worse than in the rest of its set, see the report: {', '.join(alarmed)}."]
    return lines
