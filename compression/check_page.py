"""What ``check-data`` found, as one HTML file that opens offline.

With pictures it shows the images that a person should look at, for those who may see them. Without, it names files.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot
import numpy as np
from matplotlib.figure import Figure
from PIL import Image as PillowImage

from compression import clipping, confounders, duplicates, normalization
from compression.check_text import kappa
from compression.inventory import Inventory
from compression.page import document, drawing, table

_PICTURES = 40
_HISTOGRAMS = 8
_ONE, _OTHER = "#b3361b", "#215a8f"  # positive, negative
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #16212a; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; } th, td { text-align: left; padding: .25rem .8rem;
border-bottom: 1px solid #d5dde1; font-variant-numeric: tabular-nums; }
.examples { overflow-wrap: anywhere; min-width: 16rem; }
th { color: #50606a; font-size: .9em; } small, figcaption { color: #50606a; } svg { max-width: 100%; height: auto; }
.error { color: #b3361b; font-weight: 600; } .warning { color: #8a5a00; font-weight: 600; } .note { color: #50606a; }
.sheet { display: flex; flex-wrap: wrap; gap: .8rem; } .sheet figure { margin: 0; width: 270px; }
.sheet .single { width: 130px; } figcaption { font-size: .8em; overflow-wrap: anywhere; }
"""


def page(report: dict[str, Any], sets: Sequence[Inventory], pictures: bool) -> str:
    """The page.

    Parameters
    ----------
    report
        `check_data.Checked.report`.
    sets
        The data sets, in the report's order.
    pictures
        Whether their images may be shown; if not, only files are named.
    """
    title = f"{report['recipe']}: the data"
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p>{report['seconds']} s, {report['memory_mb']} MB.</p>",
        "<h2>What is wrong</h2>",
        _problems(report["problems"]),
    ]
    for number, (name, found) in enumerate(report["sets"].items()):
        parts += _set(name, found, sets[number], pictures, number)
    parts += _duplicates(report["duplicates"], sets if pictures else ())
    return document(title, _STYLE, parts)


def _problems(problems: list[dict[str, Any]]) -> str:
    rows = []
    for each in problems:
        examples = "<br>".join(html.escape(example) for example in each["examples"])
        more = each["count"] - len(each["examples"])
        rows.append(
            f"<tr><td class='{each['severity']}'>{each['severity']}</td><td>{html.escape(each['data_set'])}</td>"
            f"<td>{html.escape(each['what'])}</td><td>{each['count']}</td>"
            f"<td class='examples'>{examples}{f'<br>and {more} more' if examples and more > 0 else ''}</td>"
            f"<td>{html.escape(each['hint'])}</td></tr>"
        )
    header = "".join(f"<th>{name}</th>" for name in ("", "data set", "what", "count", "for example", "what to do"))
    return f"<table><tr>{header}</tr>{''.join(rows)}</table>" if rows else "<p>Nothing was found.</p>"


def _set(name: str, found: dict[str, Any], taken: Inventory, pictures: bool, number: int) -> list[str]:
    counts, each = found["counts"], found["counts"]["images_per_patient"]
    parts = [
        f"<h2>{html.escape(name)}</h2>",
        f"<p>Version <code>{found['version']}</code>, from what the images show, labels, patients, "
        "and sites and splits that the list gives: all that a split depends on.</p>",
        f"<p>{counts['listed']} listed, {counts['readable']} usable, {counts['left_out_as_duplicates']} left out as "
        f"duplicates, {counts['used']} used, of {counts['patients']} patients (median {each['median']:g} images, at "
        f"most {each['most']}); {counts['patients_with_several_labels']} patients have images with different "
        "labels.</p>",
        table(
            ("", "images", "patients"),
            [
                (f"{column}: {value or '(empty)'}", both["images"], both["patients"])
                for column, values in counts["by"].items()
                for value, both in values.items()
            ],
        ),
        drawing(_bars(counts), f"counts-{number}"),
    ]
    parts.append(f"<p>{html.escape(clipping.in_words(found['clipping']))}.</p>")
    if "normalization" in found:
        parts.append(f"<p>{html.escape(normalization.in_words(found['normalization']))}.</p>")
    if "weighting" in found:
        weighting = found["weighting"]
        parts += [
            "<h3>Is it enough?</h3>",
            table(
                ("", "", "in plain words", "source"),
                [(what, f"{of['value']:,}", of["in_words"], of["source"]) for what, of in found["bands"].items()],
            ),
            f"<p>Imbalance {weighting['imbalance']} to 1. Weights by inverse frequency: "
            f"{html.escape(weighting['in_words'])}; in one number "
            f"<code>pos_weight = {weighting['pos_weight']}</code>, which training takes by itself.</p>",
        ]
    if found["confounders"]:
        parts += _confounders(found["confounders"], number)
        if found["confounders"]["stored"]:
            parts.append(drawing(_histograms(found, taken), f"histograms-{number}"))
    parts += _label_errors(found["label_errors"], taken if pictures else None)
    if "readers" in found:
        parts += _readers(found["readers"])
    return parts


def _confounders(found: dict[str, Any], number: int) -> list[str]:
    together = "; ".join(
        f"of the {kind} image {area:.3f}" for kind, area in found["together"].items() if area is not None
    )
    low, high = confounders.BAND
    return [
        "<h3>What tells the label by itself</h3>",
        f"<p>Area under the curve of one number alone on {found['images']} images, with DeLong's interval over "
        f"patients; flagged outside {low} to {high}. <em>Stored</em>: the image as it is. <em>Prepared</em>: as the "
        "network gets it. <em>List</em>: a column of the list, on the images that have a value (<em>known</em>); of "
        "groups, the share of positives in each; and whether a value is given. A model will use what is easy. All "
        f"statistics together, on other patients: {together or 'not told'}.</p>",
        drawing(_areas(found), f"areas-{number}"),
        table(("statistic", "of", "AUC", "median, positive", "median, negative", "known", ""), confounders.rows(found)),
        table(("column", "not judged, since"), list(found["unjudged"].items())) if found["unjudged"] else "",
    ]


def _label_errors(found: dict[str, Any], pictured: Inventory | None) -> list[str]:
    parts = ["<h3>Labels that look wrong</h3>"]
    if "skipped" in found:
        return [*parts, f"<p>Not judged: {html.escape(found['skipped'])}.</p>"]
    parts.append(
        f"<p>Confident learning (Northcutt et al., JAIR 2021) on {html.escape(found['features'])}, cross-validated by "
        f"patient; the simple model's AUC is {found['auc_of_the_simple_model']:.3f}. Estimated share of wrong labels: "
        f"{found['estimated_share_wrong']:.1%}. {len(found['suspects'])} images lie off the diagonal; worst first.</p>"
    )
    joint = [(f"labeled {name}", *(f"{share:.2%}" for share in row)) for name, row in
             zip(found["labels"], found["joint"], strict=True)]  # fmt: skip
    parts.append(table(("", *(f"truly {name}" for name in found["labels"])), joint))
    shown = found["suspects"][:_PICTURES]
    words = [
        f"{each['file']}: {each['given']}, looks like {each['suggested']} ({each['probability']:.2f})" for each in shown
    ]
    if pictured is None:
        return [*parts, "<ol>", *(f"<li>{html.escape(text)}</li>" for text in words), "</ol>"]
    figures = [
        _picture([pictured.small[each["index"]]], text, "single") for each, text in zip(shown, words, strict=True)
    ]
    return [*parts, f"<div class='sheet'>{''.join(figures)}</div>"]


def _duplicates(found: dict[str, Any], pictured: Sequence[Inventory]) -> list[str]:
    parts = [
        "<h2>Duplicates</h2>",
        f"<p>{len(found['exact'])} groups of equal pixels, {found['near_count']} near pairs: distance below "
        f"{found['limit']}, which is 1 - the cosine of two descriptors (compression/duplicates.py).</p>",
        "<p>Measured on this data: how far copies made on purpose lie from their originals, and how far each image "
        "lies from the closest one of another patient. The limit should stand between them.</p>",
        drawing(_distances(found), "distances"),
        table(
            ("copy", "median", "95 %", "farthest"),
            [(name, *(f"{value:.3f}" for value in row)) for name, row in found["copies_made_on_purpose"].items()],
        ),
        table(
            [f"{share:g} %" for share in found["nearest_other_patient"]["percentiles"]],
            [[f"{value:.3f}" for value in found["nearest_other_patient"]["distances"]]],
        ),
    ]
    texts = [
        f"{' = '.join(pair['files'])} ({'/'.join(pair['splits'])}; {'/'.join(pair['labels'])}; "
        f"{'one patient' if pair['same_patient'] else 'two patients'}), distance {pair['distance']:.3f}"
        for pair in found["near"][:_PICTURES]
    ]
    if not pictured:
        return [*parts, "<ol>", *(f"<li>{html.escape(text)}</li>" for text in texts), "</ol>"]
    figures = [
        _picture([pictured[number].small[index] for number, index in pair["places"]], text, "")
        for pair, text in zip(found["near"], texts, strict=False)
    ]
    return [*parts, f"<div class='sheet'>{''.join(figures)}</div>"]


def _readers(found: dict[str, Any]) -> list[str]:
    rows = [("all (Fleiss)", found["images"], kappa(found["fleiss"]["kappa"]), found["fleiss"]["in_words"])]
    rows += [
        (" and ".join(each["readers"]), each["images"], kappa(each["kappa"]), each["in_words"])
        for each in found["cohen"]
    ]
    ties = ", ".join(found["ties"]) or "none"
    return [
        "<h3>Readers</h3>",
        table(("", "images", "kappa, 95 % by a bootstrap over patients", "Landis & Koch"), rows),
        f"<p>For adjudication: {html.escape(ties)}.</p>",
    ]


def _picture(images: Sequence[np.ndarray], caption: str, kind: str) -> str:
    buffer = io.BytesIO()
    PillowImage.fromarray(np.hstack(images)).save(buffer, format="PNG")
    coded = base64.b64encode(buffer.getvalue()).decode()
    return (
        f"<figure class='{kind}'><img src='data:image/png;base64,{coded}' alt=''>"
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


# --- plots -----------------------------------------------------------------------------------------------------------


def _bars(counts: dict[str, Any]) -> Figure:
    """Images of each label in each split, and patients by their number of images."""
    figure, (left, right) = matplotlib.pyplot.subplots(1, 2, figsize=(9, 2.6))
    crossed = counts["split_by_label"]
    labels = sorted({label for each in crossed.values() for label in each})
    start = np.zeros(len(crossed))
    for label in labels:
        values = np.array([each.get(label, 0) for each in crossed.values()])
        left.barh(list(crossed), values, left=start, label=label)
        start += values
    left.legend(fontsize=8)
    left.set(xlabel="images")
    histogram = counts["images_per_patient"]["histogram"]
    right.bar([int(number) for number in histogram], list(histogram.values()), color="#50606a")
    right.set(xlabel="images of a patient", ylabel="patients", yscale="log")
    figure.tight_layout()
    return figure


def _areas(found: dict[str, Any]) -> Figure:
    """Each statistic's area under the curve with its interval, over the band that is not flagged."""
    names = list(dict.fromkeys(each["name"] for kind in ("stored", "prepared", "list") for each in found[kind]))[::-1]
    figure, axis = matplotlib.pyplot.subplots(figsize=(7, 0.8 + 0.28 * len(names)))
    axis.axvspan(*confounders.BAND, color="#e8eef1")
    axis.axvline(0.5, color="#a3b1b8", linewidth=1)
    for kind, color, shift in (("stored", _ONE, 0.12), ("prepared", _OTHER, -0.12), ("list", "#50606a", 0.0)):
        for number, each in enumerate(found[kind]):
            height = names.index(each["name"]) + shift
            axis.plot([each["low"], each["high"]], [height, height], color=color, linewidth=2)
            axis.plot(each["auc"], height, "o", color=color, markersize=5, label=kind if number == 0 else None)
    axis.set(yticks=range(len(names)), yticklabels=names, xlim=(0, 1), xlabel="area under the curve")
    axis.legend(fontsize=8)
    figure.tight_layout()
    return figure


def _histograms(found: dict[str, Any], taken: Inventory) -> Figure:
    """Distribution of the most telling statistics of the stored images, by label."""
    names = [each["name"] for each in found["confounders"]["stored"]][:_HISTOGRAMS]
    figure, axes = matplotlib.pyplot.subplots(2, 4, figsize=(10, 4.2))
    labels = taken.column("label")[taken.used]
    for axis in axes.ravel():
        axis.set_axis_off()
    for axis, name in zip(axes.ravel(), names, strict=False):
        values = taken.stored[name][taken.used]
        low, high = (float(each) for each in np.percentile(values, [0.5, 99.5]))
        edges = np.linspace(low, high if high > low else low + 1, 41)
        axis.set_axis_on()
        values = np.clip(values, edges[0], edges[-1])  # the rarest label may have all of its images outside
        for label in np.unique(labels):
            axis.hist(values[labels == label], edges, density=True, histtype="step", label=label)
        axis.set(title=name, yticks=[])
        axis.title.set_fontsize(9)
        axis.tick_params(labelsize=7)
    axes[0, 0].legend(fontsize=6)
    figure.tight_layout()
    return figure


def _distances(found: dict[str, Any]) -> Figure:
    """Distances of copies and of strangers, and the limit between them."""
    figure, axis = matplotlib.pyplot.subplots(figsize=(7, 2.4))
    edges = np.linspace(0, 1, 51)
    axis.stairs(found["nearest_other_patient"]["histogram"], edges, fill=True, color="#a3b1b8",
                label="closest image of another patient")  # fmt: skip
    for number, (_, ninety_five, _) in enumerate(found["copies_made_on_purpose"].values()):
        axis.axvline(ninety_five, color=_OTHER, linewidth=1, label="copies, 95 % of a kind" if number == 0 else None)
    axis.axvline(duplicates.LIMIT, color=_ONE, linewidth=2, label="limit")
    axis.set(xlabel="distance", ylabel="images", xlim=(0, 1))
    axis.legend(fontsize=8)
    figure.tight_layout()
    return figure
