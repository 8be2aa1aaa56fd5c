"""A reader study's analysis for people: one HTML file that opens offline, and a few lines for a terminal."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot

from compression.check_text import kappa
from compression.check_text import table as columns
from compression.page import document, drawing, interval, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FIGURES = {"auc": "AUC", "sensitivity": "sensitivity", "specificity": "specificity"}
_MARKS = "osDv^P<X>*"
_MODEL, _READER, _MEAN = "#215a8f", "#b3361b", "#16212a"
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 64rem; padding: 0 1rem; color: #16212a; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; display: block; overflow-x: auto; }
th, td { text-align: left; padding: .3rem .8rem; border-bottom: 1px solid #d5dde1; font-variant-numeric: tabular-nums; }
td { white-space: nowrap; } th { color: #50606a; font-size: .9em; }
.said { font-weight: 600; } .quiet { color: #50606a; } svg { max-width: 100%; height: auto; } p { max-width: 48rem; }
"""


def page(found: dict[str, Any], agreement: dict[str, Any], name: str) -> str:
    """The page.

    Parameters
    ----------
    found, agreement
        As from `reader_study.analyze` and `readers.agreement`.
    """
    title = f"{name}: readers and model"
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p>{found['images']} images, {found['positive']} with the finding, {len(found['readers'])} readers who did "
        "not see what the model says.</p>",
        *(f"<p class='said'>{html.escape(sentence)}</p>" for sentence in sentences(found)),
        drawing(_roc(found)),
        "<p class='quiet'>The model's curve and each reader's: a reader's line goes through their ratings, the mark is "
        "what they would have reported. The mean reader's bars are 95 % intervals for other readers and patients.</p>",
        "<h2>The model against the mean reader</h2>",
        _differences(found),
        f"<p class='quiet'>On the {found['compared']} images that every reader judged and the model scored. Readers "
        "and patients as a sample: Obuchowski & Rockette 1995 for one treatment, degrees of freedom of Hillis 2007, "
        "each reader's difference from the model being the figure (Hupse et al. 2013; Chakraborty 2017). These readers "
        "only: percentile bootstrap over patients. Covariances of AUCs are DeLong's, summed over patients. That no "
        "difference is shown does not show that there is none: see how far the interval reaches.</p>",
        "<h2>Readers</h2>",
        _readers(found),
        "<p class='quiet'>Of what they judged. Rates with Wilson's interval of as many images as the patients make "
        "independent ones (Rao & Scott 1992, with more caution where errors are few), AUCs of ratings with DeLong's. "
        "Strict: what a reader could not judge counts as wrong.</p>",
        _majority(found["majority"]),
        "<h2>Agreement</h2>",
        _agreement(found, agreement),
        "<h2>The same image twice, and time</h2>",
        _again(found),
    ]
    return document(title, _STYLE, parts)


def sentences(found: dict[str, Any]) -> list[str]:
    """What came out, one sentence a figure."""
    said = []
    for name, word in _FIGURES.items():
        mean, gap = found["mean_reader"][name], found["difference"][name]
        value, low, high = gap["interval"]
        verdict = "no difference is shown" if low <= 0 <= high else "higher" if value > 0 else "lower"
        said.append(
            f"{word[0].upper()}{word[1:]} of the model {value + mean['interval'][0]:.3f}, of the mean reader "
            f"{interval(mean['interval'], 3)}: {verdict} ({value:+.3f} [{low:+.3f}, {high:+.3f}], p {_p(gap['p'])})."
        )
    return said


def text(found: dict[str, Any]) -> str:
    """The sentences and the readers, for a terminal."""
    rows = [
        (row["reader"], row["images"], row["cant_judge"], *(interval(row[key], 3) for key in _FIGURES))
        for row in [{**found["model"], "reader": "model", "cant_judge": ""}, *found["readers"]]
    ]
    header = ("who", "images", "can't judge", *_FIGURES.values())
    return "\n".join([*columns(header, rows), "", *sentences(found)])


def _p(p: float) -> str:
    return f"{p:.3f}" if p >= 1e-3 else "< 0.001"


def _roc(found: dict[str, Any]) -> Figure:
    figure, axis = matplotlib.pyplot.subplots(figsize=(8.6, 5.4))
    axis.plot([0, 1], [0, 1], color="#d5dde1", linewidth=1)
    model = found["model"]
    axis.plot(*zip(*model["roc"], strict=True), color=_MODEL, linewidth=2, label=f"model, AUC {model['auc'][0]:.3f}")
    axis.plot(*_point(model), "o", color=_MODEL, markersize=11, markeredgecolor="white",
              label=f"model at its threshold, {model['threshold']:.3g}")  # fmt: skip
    for number, row in enumerate(found["readers"]):
        axis.plot(*zip(*row["roc"], strict=True), color=_READER, linewidth=0.9, alpha=0.35)
        axis.plot(*_point(row), _MARKS[number % len(_MARKS)], color=_READER, markersize=7, markeredgecolor="white",
                  label=f"{row['reader']}, AUC {row['auc'][0]:.3f}")  # fmt: skip
    (y, y_low, y_high), (x, x_low, x_high) = (
        found["mean_reader"][name]["interval"] for name in ("sensitivity", "specificity")
    )
    axis.errorbar([1 - x], [y], xerr=[[max(x_high - x, 0)], [max(x - x_low, 0)]], yerr=[[y - y_low], [y_high - y]],
                  fmt="+", color=_MEAN, markersize=13, capsize=3, label="mean reader")  # fmt: skip
    axis.set(xlabel="1 - specificity", ylabel="sensitivity", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1.02, 0.5))
    figure.tight_layout()
    return figure


def _point(row: dict[str, Any]) -> tuple[list[float], list[float]]:
    return [1 - row["specificity"][0]], [row["sensitivity"][0]]


def _differences(found: dict[str, Any]) -> str:
    rows = []
    for name, word in _FIGURES.items():
        mean, gap = found["mean_reader"][name], found["difference"][name]
        low, high = gap["bootstrap"]
        freedom = "" if gap["degrees_of_freedom"] is None else f"{gap['degrees_of_freedom']:.1f}"
        only = "too few patients" if low is None else f"[{low:.3f}, {high:.3f}]"
        rows.append((word, interval(mean["interval"], 3), interval(gap["interval"], 3), _p(gap["p"]), freedom, only))
    header = ("figure", "mean reader", "model less mean reader", "p", "degrees of freedom", "these readers only")
    return table(header, rows)


def _readers(found: dict[str, Any]) -> str:
    rows = [
        (row["reader"], row["images"], row["cant_judge"], *(interval(row[key], 3) for key in _FIGURES),
         *(interval(row[f"strict_{key}"], 3) for key in ("sensitivity", "specificity")))
        for row in found["readers"]
    ]  # fmt: skip
    model = found["model"]
    rows.append(("model", model["images"], 0, *(interval(model[key], 3) for key in _FIGURES), "", ""))
    header = ("who", "images", "can't judge", *_FIGURES.values(), "strict sensitivity", "strict specificity")
    return table(header, rows)


def _majority(found: dict[str, Any]) -> str:
    said = [f"{name} {interval(found[name], 3)}" for name in ("sensitivity", "specificity") if name in found]
    return f"<p>The majority of the readers: {', '.join(said)} on {found['images']} images; {found['ties']} ties.</p>"


def _agreement(found: dict[str, Any], agreement: dict[str, Any]) -> str:
    rows = [("all readers (Fleiss)", agreement["images"], kappa(agreement["fleiss"]["kappa"]),
             agreement["fleiss"]["in_words"])]  # fmt: skip
    rows += [(" and ".join(each["readers"]), each["images"], kappa(each["kappa"]), each["in_words"])
             for each in agreement["cohen"]]  # fmt: skip
    truth = [(row["reader"], "" if row["kappa_with_truth"] is None else f"{row['kappa_with_truth']:.3f}")
             for row in found["readers"]]  # fmt: skip
    return (
        table(("readers", "images", "kappa [95 %]", "Landis & Koch"), rows)
        + table(("reader", "kappa with the truth"), truth)
        + "<p class='quiet'>Between readers “can't judge” is an answer like the others.</p>"
    )


def _again(found: dict[str, Any]) -> str:
    rows = []
    for row in found["readers"]:
        again, seconds = row["again"], row["seconds"]
        rows.append((
            row["reader"], again["images"], "" if again["agreed"] is None else f"{again['agreed']:.0%}",
            "" if again["kappa"] is None else f"{again['kappa']:.3f}",
            "" if again["rating_apart"] is None else f"{again['rating_apart']:.2f}",
            "" if seconds is None else f"{seconds[0]:.1f} ({seconds[1]:.1f} to {seconds[2]:.1f})",
        ))  # fmt: skip
    header = ("reader", "seen twice", "same answer", "kappa", "ratings apart", "seconds an image: median (quartiles)")
    return table(header, rows)
