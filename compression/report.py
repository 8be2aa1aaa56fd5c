"""Stage ``report``: what was lost and won on the way from float to int8, as HTML that opens offline, and as JSON.

The report in the work folder shows the images whose decision changed, for those who may see them. The one beside the
package, which is committed, names their files instead: they are patients' images.
"""

from __future__ import annotations

import html
import json
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot
import numpy as np

from compression import (
    augment_policy,
    choose,
    data,
    diagnosis,
    evaluate,
    external,
    gate,
    report_clinical,
    report_hard_cases,
    shipping,
    train,
)
from compression.page import document, drawing, interval, table, thumbnail

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure

    from compression import stages
    from compression.build import Build

SECTIONS = ("package", "card", "augment_policy")
NAME = "report"
_COVERAGE_TOLERANCE = 0.02
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #16212a; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; } th, td { text-align: left; padding: .25rem .8rem;
border-bottom: 1px solid #d5dde1; font-variant-numeric: tabular-nums; } th { color: #50606a; font-size: .9em; }
.bad { color: #b3361b; font-weight: 600; } small { color: #50606a; } img { max-width: 100%; }
.sheet { display: flex; flex-wrap: wrap; gap: .8rem; } .sheet figure { margin: 0; width: 160px; }
"""


def published(build: stages.Build) -> tuple[Path, Path]:
    """The report without images, as a page and as JSON."""
    return build.out / f"{NAME}.html", build.out / f"{NAME}.json"


def run(build: Build) -> str:
    measured = evaluate.load(build)
    whole = {
        "package": f"{build.recipe.package.id} {build.recipe.package.version}",
        "ships": {
            target: shipping.told(choice.shipped.producer, choice.reason, gate.runtime(build, target))
            for target, choice in gate.load(build).items()
        },
        "diagnosis": diagnosis.sentences(
            train.log(build), build.recipe.train.epochs, train.Task.measure, train.Task.ignored
        ),
        "prune": choose.table(build),
        "gate": {target: shipping.summary(choice.tried, choice.shipped) for target, choice in gate.load(build).items()},
        **measured,
    }
    for folder, images in ((build.folder("report"), True), (build.out, False)):
        write(folder, whole, page(build, whole, images))
    return f"{build.out / NAME}.html; with the images whose decision changed: {build.folder('report') / NAME}.html"


def write(folder: Path, whole: dict[str, Any], text: str) -> None:
    """Write the report, ``whole``, as JSON, and its page, ``text``."""
    (folder / f"{NAME}.json").write_text(json.dumps(whole, indent=1) + "\n")
    (folder / f"{NAME}.html").write_text(text)


def page(build: Build, whole: dict[str, Any], images: bool = False) -> str:
    """The report, ``whole``, as HTML; ``images``: with those whose decision changed, from the work folder."""
    ships = whole["ships"]
    asked = {point.name: point.sensitivity for point in build.recipe.calibrate.operating_points}
    names, titles = tuple(ships), {name: _title(build, name) for name in whole["sets"]}
    parts = [
        f"<h1>{html.escape(whole['package'])}: from float to int8</h1>",
        f"<p>{html.escape(build.recipe.package.intended_use.statement)} {report_clinical.METHODS} "
        f"{html.escape(external.blindness(build))}</p>",
        *(
            f"<p class='bad'>{html.escape(each)}.</p>"
            for each in augment_policy.exceptions(build.recipe.augment_policy)
        ),
        *report_clinical.side_by_side(whole, names, titles),
        "<h2>What ships</h2>",
        table(
            ("target", "producer", "why", "calibrated with"),
            [(name, each["producer"], each["why"], each["calibrated_with"]) for name, each in ships.items()],
        ),
        "<h2>Size, speed, memory</h2>",
        "<p>One image, one thread, medians of blocks of runs that take turns, on the machine of the build; memory is "
        "the peak of a process that opens the network and runs it once, libraries included. The row tensorrt is its "
        "file on ONNX Runtime's CPU, which is not what it is made for.</p>",
        _costs(whole["networks"]),
        "<h2>Training</h2>",
        *(f"<p>{html.escape(each)}</p>" for each in whole["diagnosis"]),
        "<h2>Pruning</h2>",
        _prune(whole["prune"]),
        "<h2>Quantization: the gate</h2>",
        "<p>Against the unpruned float network, on validation images and augmented copies. The row float is the pruned "
        "network before quantization.</p>",
        _gate(whole["gate"]),
        "<h2>Calibration on the validation images that it was fitted on</h2>",
        _calibration(build, whole["networks"]),
        drawing(_reliability({name: whole["sets"]["validation"]["calibration"][name] for name in names})),
        *report_clinical.chosen_points(whole, names, asked),
    ]
    for name, found in whole["sets"].items():
        parts += _set_parts(titles[name], found)
        if name != "validation":
            parts += calibration_outside(found["calibration"], names)
        parts += report_clinical.of_set(whole, name, names, build.recipe.calibrate.default_operating_point)
        pixels = data.load(build, "test").pixels if images and name == "test" else None
        parts += report_hard_cases.of_set(found, pixels)
        if images and name == "test":
            parts.append(_contact_sheet(build, found["against"]))
    note = build.recipe.card.external_note
    if note:
        parts.append(f"<p><strong>{html.escape(note)}</strong></p>")
    return document(whole["package"], STYLE, parts)


def _title(build: Build, name: str) -> str:
    return {"test": build.recipe.card.test, **external.sets(build)}.get(name, name.capitalize())


def _set_parts(title: str, found: dict[str, Any]) -> list[str]:
    parts = [
        f"<h2>{html.escape(title)}</h2>",
        f"<p>{found['images']} images, {found['positive']} positive.</p>",
        _figures(found["networks"]),
    ]
    for name, subgroup in found["subgroups"].items():
        parts.append(f"<h3>{html.escape(name)} <small>{subgroup['images']} images, {subgroup['positive']} positive"
                     "</small></h3>" + _figures(subgroup["networks"]))  # fmt: skip
    parts.append("<h3>Cost of compression</h3>")
    rows = []
    for name, others in found["against"].items():
        for other, costs in others.items():
            changed = ", ".join(each["file"] or f"number {each['number']}" for each in costs["changed"])
            rows.append((name, other, f"{costs['flips']:.2%}", f"{costs['p99_probability']:.3f}",
                         f"{costs['map_correlation']:.3f}", interval(costs["auc_loss"], 4), f"{costs['auc_p']:.3f}",
                         changed))  # fmt: skip
    header = ("int8", "against", "flips", "p99 |dp|", "map correlation", "AUC loss", "p (DeLong)", "changed")
    parts.append(table(header, rows))
    parts.append("<h3>Conformal coverage</h3>")
    rows = [
        (name, *(f"{each[key]:.1%}" for key in ("stated", "all", "absent", "present")))
        for name, each in found["conformal_coverage"].items()
    ]
    parts.append(table(("network", "stated", "all", "absent", "present"), rows))
    parts += [f"<p class='bad'>{html.escape(each)}</p>" for each in coverage_missed(found["conformal_coverage"])]
    return parts


def coverage_missed(coverage: dict[str, dict[str, float]]) -> list[str]:
    """A sentence for each network and class whose sets hold the truth more or less often than is stated for each."""
    return [
        f"{name} covers {each[label]:.1%} instead of {each['stated']:.0%} where the finding is {label}. The quantiles "
        "hold for images like the augmented validation images that they were fitted on; these are others."
        for name, each in coverage.items()
        for label in ("absent", "present")
        if abs(each[label] - each["stated"]) > _COVERAGE_TOLERANCE
    ]


def _costs(networks: dict[str, Any]) -> str:
    full = networks[evaluate.UNPRUNED]["bytes"]
    rows = []
    for name, each in networks.items():
        size = f"{each['bytes'] / 1e6:.2f} MB ({each['bytes'] / full:.0%})" if "bytes" in each else ""
        memory = f"{each['memory_mb']} MB" if "memory_mb" in each else ""
        rows.append((name, size, f"{each['milliseconds']:.2f} ms", f"{each['times_as_fast']:.1f}", memory))
    return table(("network", "file", "one image", "times as fast as torch eager", "memory"), rows)


def _prune(networks: list[dict[str, Any]]) -> str:
    full = networks[0]
    rows = [
        (row["name"], f"{row['parameters']:,} ({row['parameters'] / full['parameters']:.0%})",
         f"{row['macs'] / 1e6:.0f} M ({row['macs'] / full['macs']:.0%})", interval(row["auc"], 4),
         f"{row['flips']:.2%}", f"{row['p99_probability']:.3f}", f"{row['map_correlation']:.3f}",
         "goes on" if row["chosen"] else "")
        for row in networks
    ]  # fmt: skip
    header = ("network", "parameters", "MACs", "AUC, validation and copies", "flips", "p99 |dp|", "map correlation", "")
    return table(header, rows)


def _gate(found: dict[str, list[dict[str, Any]]]) -> str:
    rows = []
    for target, tried in found.items():
        for each in tried:
            costs = ", ".join(f"{name} {value}" for name, value in each["costs"].items())
            verdict = "ships" if each["shipped"] else "; ".join(each["broken"])
            rows.append((target, each["producer"], f"{each['bytes'] / 1e6:.2f} MB", f"{each['milliseconds']:.2f} ms",
                         costs, verdict))  # fmt: skip
    return table(("target", "producer", "file", "one image", "costs", ""), rows)


def _calibration(build: Build, networks: dict[str, Any]) -> str:
    limit = build.recipe.gate.calibration_error
    rows = [
        (name, f"{each['temperature']:.3f}", f"{each['bias']:+.3f}", f"{each['ece_before']:.3f}",
         f"{each['ece_after']:.3f}" + ("" if each["ece_after"] <= limit else " (above the limit)"))
        for name, each in networks.items() if "bias" in each
    ]  # fmt: skip
    return table(("network", "temperature", "bias", "ECE before", "ECE after"), rows)


def _figures(networks: dict[str, dict[str, list[float]]]) -> str:
    names = list(dict.fromkeys(figure for each in networks.values() for figure in each))
    rows = [
        (name, *(interval(each[figure], 3) if figure in each else "" for figure in names))
        for name, each in networks.items()
    ]
    return table(("network", *(name.replace("_", " ") for name in names)), rows)


def calibration_outside(calibration: dict[str, dict[str, Any]], targets: tuple[str, ...]) -> list[str]:
    """How well probabilities hold on images that they were not fitted on; drawn of ``targets``."""
    rows = [(name, f"{each['ece']:.3f}", f"{each['in_the_large']:+.3f}") for name, each in calibration.items()]
    return [
        "<h3>Calibration on images that it was not fitted on</h3>",
        "<p>Calibration in the large: the mean probability less the share of positive images (Van Calster et al. 2019)."
        "</p>",
        table(("network", "ECE", "in the large"), rows),
        drawing(_reliability({name: calibration[name] for name in targets})),
    ]


def _reliability(calibrations: dict[str, dict[str, Any]]) -> Figure:
    """Observed rate over mean probability, with the number of images in each bin as the mark's area."""
    figure, axes = matplotlib.pyplot.subplots(1, len(calibrations), figsize=(4 * len(calibrations), 3.6), squeeze=False)
    for axis, (name, calibration) in zip(axes[0], calibrations.items(), strict=True):
        mean, rate, count = np.array(calibration["reliability"]).T
        axis.plot([0, 1], [0, 1], color="#a3b1b8", linewidth=1)
        axis.scatter(mean, rate, s=8 + 200 * count / count.max(), color="#215a8f", alpha=0.7)
        axis.set(title=f"{name}: ECE {calibration['ece']:.3f}", xlabel="mean probability", ylabel="observed rate")
    figure.tight_layout()
    return figure


def _contact_sheet(build: Build, against: dict[str, Any]) -> str:
    """Every test image on which the decision changed, small, with both probabilities."""
    pixels, parts = data.load(build, "test").pixels, ["<h3>Changed decisions</h3>"]
    for name, others in against.items():
        for other, costs in others.items():
            parts.append(f"<h4>{html.escape(name)} against {html.escape(other)}</h4><div class='sheet'>")
            for each in costs["changed"]:
                truth = "positive" if each["positive"] else "negative"
                parts.append(
                    f"<figure><img src='{thumbnail(pixels[each['number']])}' alt=''>"
                    f"<figcaption>{html.escape(each['file'])}<br>"
                    f"{truth}: {each['before']:.3f} to {each['after']:.3f}</figcaption></figure>"
                )
            parts.append("</div>")
    return "".join(parts)
