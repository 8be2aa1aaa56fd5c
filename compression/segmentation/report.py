"""Stage ``report``: how well it draws, where it draws badly, and what pruning and int8 cost, as HTML and as JSON."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot

from compression import augment_policy, diagnosis, external, shipping
from compression.gate import runtime
from compression.page import document, drawing, interval, table
from compression.report import NAME, STYLE, write
from compression.report import published as published
from compression.segmentation import choose, evaluate, gate, train
from compression.segmentation.evaluate import MIRRORED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from compression.segmentation.build import Build

SECTIONS = ("package", "card", "augment_policy")
_WORDS = {
    "dice": "Dice",
    "iou": "IoU",
    "mean_surface_distance": "mean surface distance",
    "hausdorff_95": "95th percentile of distances",
    "volume_error": "volume error, median",
    "volume_bias": "with its sign",
}
_DISTANCES = ("mean_surface_distance", "hausdorff_95")


def run(build: Build) -> str:
    whole = {
        "package": f"{build.recipe.package.id} {build.recipe.package.version}",
        "ships": {
            target: shipping.told(choice.shipped.producer, choice.reason, runtime(build, target))
            for target, choice in gate.load(build).items()
        },
        "prune": choose.table(build),
        "gate": {target: shipping.summary(choice.tried, choice.shipped) for target, choice in gate.load(build).items()},
        "diagnosis": {
            f"fold {fold}": diagnosis.sentences(
                train.log(build, fold), build.recipe.train.epochs, train.Task.measure, train.Task.ignored
            )
            for fold in train.folds(build)
        },
        "training": {f"fold {fold}": train.log(build, fold) for fold in train.folds(build)},
        **evaluate.load(build),
    }
    for folder in (build.folder("report"), build.out):
        write(folder, whole, page(build, whole))
    return str(build.out / f"{NAME}.html")


def titles(build: Build) -> dict[str, str]:
    """Set -> how it is called."""
    test = build.recipe.card.test
    return {"test": test, **external.sets(build), MIRRORED: f"{test}, mirrored left and right"}


def page(build: Build, whole: dict[str, Any]) -> str:
    """The report, ``whole``, as HTML."""
    unit, margin, ships = whole["distance_unit"], whole["subgroup_margin"], whole["ships"]
    shipped = sorted({evaluate.row_of(target, each["producer"]) for target, each in ships.items()})
    parts = [
        f"<h1>{html.escape(whole['package'])}: from float to int8</h1>",
        f"<p>{html.escape(build.recipe.package.intended_use.statement)} Drawn on the grid of the source. Intervals are "
        f"of 95 %, by a bootstrap over patients. {html.escape(external.blindness(build))} Distances are in "
        f"{unit}, means over the cases that have one; where one of the masks has none of a segment, there is none. "
        "The volume's error is over the cases that have the segment.</p>",
        *(
            f"<p class='bad'>{html.escape(each)}.</p>"
            for each in augment_policy.exceptions(build.recipe.augment_policy)
        ),
        "<h2>Side by side</h2>",
        _side_by_side(build, whole),
        *outside(whole, shipped, titles(build)),
        "<h2>What ships</h2>",
        table(
            ("target", "producer", "why"),
            [(name, each["producer"], each["why"]) for name, each in ships.items()],
        ),
        "<h2>Size and speed</h2>",
        "<p>One case, one thread, medians of blocks of runs that take turns, on the machine of the build. The row "
        "tensorrt is its file on ONNX Runtime's CPU, which is not what it is made for.</p>",
        table(
            ("network", "file", "one case"),
            [
                (name, f"{each['bytes'] / 1e6:.2f} MB", f"{each['milliseconds']:.1f} ms")
                for name, each in whole["networks"].items()
            ],
        ),
        "<h2>Pruning</h2>",
        table(
            ("network", "parameters", "MACs", "Dice of each segment, validation", ""),
            [
                (row["name"], f"{row['parameters']:,}", f"{row['macs'] / 1e6:.0f} M",
                 ", ".join(f"{value:.4f}" for value in row["dice"]), "goes on" if row["chosen"] else "")
                for row in whole["prune"]
            ],
        ),
        "<h2>Quantization: the gate</h2>",
        "<p>Against the unpruned float network, on the validation cases of every fold. The row float is the pruned "
        "network before quantization.</p>",
        table(
            ("target", "producer", "file", "one case", "costs", ""),
            [
                (target, each["producer"], f"{each['bytes'] / 1e6:.2f} MB", f"{each['milliseconds']:.1f} ms",
                 ", ".join(f"{name} {value}" for name, value in each["costs"].items()),
                 "ships" if each["shipped"] else "; ".join(each["broken"]))
                for target, tried in whole["gate"].items() for each in tried
            ],
        ),
        "<h2>Training</h2>",
        *(
            f"<p>{html.escape(name.capitalize())}: {html.escape(' '.join(said))}</p>"
            for name, said in whole["diagnosis"].items()
        ),
        drawing(_curves(whole["training"])),
    ]  # fmt: skip
    for name, found in whole["sets"].items():
        parts += _of_set(titles(build)[name], found, unit, margin)
    if build.recipe.card.external_note:
        parts.append(f"<p><strong>{html.escape(build.recipe.card.external_note)}</strong></p>")
    return document(whole["package"], STYLE, parts)


def _side_by_side(build: Build, whole: dict[str, Any]) -> str:
    """Mean Dice coefficient of each network on each set, and what is lost from the test set to each of the others."""
    called, sets, drop = titles(build), whole["sets"], whole["drop"]
    test, *others = sets
    header = ["mean Dice", f"{called[test]}, {sets[test]['cases']} cases"]
    for name in others:
        header += [f"{called[name]}, {sets[name]['cases']} cases", "lost"]
    rows = []
    for network in sets[test]["networks"]:
        inside = sets[test]["networks"][network]["mean"]["dice"]
        row = [network, interval(inside, 4)]
        for name in others:
            each = sets[name]["networks"][network]["mean"]["dice"]
            row += [interval(each, 4),
                    interval(drop[name][network], 4) if name in drop else f"{inside[0] - each[0]:+.4f}"]  # fmt: skip
        rows.append(row)
    return table(header, rows)


def outside(whole: dict[str, Any], shipped: Iterable[str], called: dict[str, str]) -> list[str]:
    """What ships and draws worse elsewhere, for sure and by more than the margin; or that nobody knows.

    ``called``: set -> how it is called.
    """
    if not whole["drop"]:
        return ["<p class='bad'>No external set was measured: how well it draws at another hospital is not known.</p>"]
    return [
        f"<p class='bad'>{html.escape(network)} draws worse outside, on {html.escape(called[name])}: its mean Dice "
        f"coefficient loses {interval(lost[network], 4)}.</p>"
        for name, lost in whole["drop"].items()
        for network in shipped
        if lost[network][1] is not None and lost[network][0] > whole["subgroup_margin"] and lost[network][1] > 0
    ]


def _of_set(title: str, found: dict[str, Any], unit: str, margin: float) -> list[str]:
    parts = [f"<h2>{html.escape(title)}</h2><p>{found['cases']} cases of {found['patients']} patients.</p>"]
    parts.append(_figures(found["networks"], unit))
    for name, subgroup in found["subgroups"].items():
        parts.append(f"<h3>{html.escape(name)} <small>{subgroup['cases']} cases</small></h3>")
        parts.append(_figures(subgroup["networks"], unit, only_mean=True))
    if any(found["gaps"].values()):
        parts += _gaps(found, margin)
    rows = [
        (name, ", ".join(f"{each['file']} ({each['dice']:.3f})" for each in hardest))
        for name, hardest in found["hardest"].items()
    ]
    parts += ["<h3>Hardest cases</h3>", table(("network", "file and mean Dice"), rows)]
    return parts


def _gaps(found: dict[str, Any], margin: float) -> list[str]:
    """Alarms in plain sight; all comparisons folded away."""
    said = [
        f"{network}, {row['subgroup']}: Dice {row['values'][0][0]:.3f}, of the rest {row['values'][1][0]:.3f}; "
        f"gap {interval(row['gap'], 3)}"
        for network in found["gaps"]
        for row in evaluate.alarms(found, network)
    ]
    rows = [(network, row["subgroup"], " / ".join(map(str, row["patients"])), *_compared(row))
            for network, each in found["gaps"].items() for row in each]  # fmt: skip
    header = ("network", "subgroup", "patients / rest", "subgroup's", "the rest's", "gap", "p (Holm)", "")
    return [
        "<h3>Gaps between subgroups</h3>",
        f"<p>Of mean Dice, each patient counted once. An alarm: worse than the rest by more than {margin:.0%}, the "
        "interval of the gap excludes 0, and p is below 0.05 after Holm's correction for all comparisons of a network "
        "here (Welch's test). No alarm does not show that there is no gap: see how far the interval reaches.</p>",
        *([f"<p class='bad'>{html.escape(each)}</p>" for each in said] or ["<p>No alarm.</p>"]),
        f"<details><summary>All comparisons</summary>{table(header, rows)}</details>",
    ]


def _compared(row: dict[str, Any]) -> tuple[str, ...]:
    if "gap" not in row:
        return "", "", "", "", "too few patients to tell"
    p = f"{row['p_holm']:.4f}" if row["p_holm"] >= 1e-4 else "< 0.0001"
    triples = (interval(each, 3) for each in (*row["values"], row["gap"]))
    return *triples, p, "ALARM" if row["alarm"] else ""


def _figures(networks: dict[str, Any], unit: str, only_mean: bool = False) -> str:
    rows = []
    for name, segments in networks.items():
        for segment, figures in segments.items():
            if segment == "mean" or (not only_mean and len(segments) > 2):
                cells = [_cell(figure, figures[figure]) for figure in _WORDS]
                rows.append((name, segment, *cells, figures["without_distance"], figures["drawn_where_none"]))
    words = (f"{words}, {unit}" if figure in _DISTANCES else words for figure, words in _WORDS.items())
    return table(("network", "segment", *words, "cases without a distance", "drawn where there is none"), rows)


def _cell(figure: str, triple: list[float | None]) -> str:
    if figure.startswith("volume"):
        return interval(triple, 1, "%")
    return interval(triple, 2 if figure in _DISTANCES else 4)


def _curves(training: dict[str, list[dict[str, Any]]]) -> Figure:
    """Loss and validation Dice over the epochs of each fold."""
    figure, axes = matplotlib.pyplot.subplots(1, 2, figsize=(9, 3.4))
    for name, entries in training.items():
        epochs = [entry["epoch"] for entry in entries]
        axes[0].plot(epochs, [entry["loss"] for entry in entries], label=name)
        axes[1].plot(epochs, [entry["score"] for entry in entries], label=name)
    axes[0].set(title="training loss", xlabel="epoch", yscale="log")
    axes[1].set(title="validation Dice", xlabel="epoch")
    axes[1].legend()
    figure.tight_layout()
    return figure
