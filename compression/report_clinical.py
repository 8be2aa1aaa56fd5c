"""The report's parts for who must decide whether to use the model: drops, operating points, use, gaps."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot
import numpy as np

from compression import evaluate
from compression.page import drawing, interval, table
from compression.subgroups import FIGURES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS = (
    "95 % intervals count patients, not images: of an AUC and of a difference of AUCs DeLong's, summed over patients "
    "(Obuchowski 1997); of a rate Wilson's, of as many images as the patients make independent ones (Rao & Scott "
    "1992, with more caution where errors are few); of the area under the precision-recall curve and of net benefit a "
    "bootstrap over patients."
)
CLEAN = (
    "On the clean validation images sensitivity and specificity differ from that, since other scanners and exposures "
    "move probabilities."
)
_WORDS = {"auc": "AUC", "pr_auc": "PR AUC"}
_COLORS = ("#215a8f", "#b3361b", "#3f7d4e", "#7a5195")


def side_by_side(whole: dict[str, Any], targets: tuple[str, ...], titles: dict[str, str]) -> list[str]:
    """Every set in one table, and what is lost from the test set to each external one."""
    sets, drop = whole["sets"], whole["drop"]
    rows = []
    for name in (evaluate.UNPRUNED, *targets):
        for figure in FIGURES:
            cells = [interval(found["networks"][name][figure], 3) for found in sets.values()]
            lost = [each[name].get(figure) for each in drop.values()]
            rows.append((name, _word(figure), *cells, *(interval(each["gap"], 3) if each else "" for each in lost)))
    header = (
        "network", "figure", *(titles[name] for name in sets), *(f"lost from test to {titles[name]}" for name in drop)
    )  # fmt: skip
    parts = ["<h2>Inside and outside, side by side</h2>", table(header, rows)]
    if not drop:
        return [*parts, "<p class='bad'>No external set was measured: how well the model does at another hospital is "
                "not known.</p>"]  # fmt: skip
    for outside, networks in drop.items():
        for name in targets:
            if fallen := _fallen(networks[name], whole["subgroup_margin"]):
                where = html.escape(titles[outside])
                parts.append(f"<p class='bad'>{html.escape(name)} does worse outside, on {where}: {fallen}.</p>")
    return parts


def _fallen(figures: dict[str, Any], margin: float) -> str:
    """What is lost for sure and by more than the margin, in words."""
    return ", ".join(
        f"{_word(figure)} by {interval(each['gap'], 3)}"
        for figure, each in figures.items()
        if each["gap"][0] > margin and each["gap"][1] > 0
    )


def chosen_points(whole: dict[str, Any], targets: tuple[str, ...], asked: dict[str, float]) -> list[str]:
    """Each threshold, the share that it was chosen for, and what it does on the clean validation images.

    ``asked``: operating point -> the share of the augmented validation positives that it must find.
    """
    points = whole["sets"]["validation"]["operating_points"]
    rows = [
        (target, name, f"{each['threshold']:.4f}", f"{asked[name]:.1%}",
         *(interval(each[figure], 3) for figure in ("sensitivity", "specificity")))
        for target in targets for name, each in points[target].items()
    ]  # fmt: skip
    header = ("network", "operating point", "threshold", "chosen to find", "sensitivity, clean", "specificity, clean")
    return [
        "<h2>Operating points</h2>",
        "<p>Each threshold is the largest that still finds the share it was chosen for of augmented copies of the "
        f"validation positives: images as other scanners and exposures might show them. {CLEAN}</p>",
        table(header, rows),
    ]


def of_set(whole: dict[str, Any], name: str, targets: tuple[str, ...], point: str) -> list[str]:
    """Operating points beside rules that look at nothing; of sets that chose nothing, also use and gaps."""
    found = whole["sets"][name]
    parts = _operating_points(found, targets, point, whole["site_prevalence"])
    if name != "validation":
        parts += [*_predictive_values(found, targets, point), *_decision_curve(found, targets)]
    parts += _abstention(found["abstention"], targets)
    if any(found["gaps"][target] for target in targets):
        parts += _gaps(found["gaps"], targets, whole["subgroup_margin"])
    return parts


def _operating_points(found: dict[str, Any], targets: tuple[str, ...], point: str, prevalence: float) -> list[str]:
    rows, fooled = [], []
    best, accuracy = max(
        ((name, rule["accuracy"]) for name, rule in found["no_model"].items()), key=lambda pair: pair[1]
    )
    for target in targets:
        for name, each in found["operating_points"][target].items():
            site = next(row for row in each["predictive_values"] if row["prevalence"] == prevalence)
            rows.append((
                target, name, f"{each['threshold']:.4f}",
                *(interval(each[figure], 3) for figure in ("accuracy", "sensitivity", "specificity")),
                *(interval(each[f"likelihood_ratio_{sign}"], 2) for sign in ("positive", "negative")),
                interval(site["ppv"], 3), interval(site["npv"], 3),
            ))  # fmt: skip
        if found["operating_points"][target][point]["accuracy"][1] <= accuracy:
            fooled.append(target)
    for name, rule in found["no_model"].items():
        cells = (f"{rule[figure]:.3f}" for figure in ("accuracy", "sensitivity", "specificity"))
        rows.append((f"no model: {name}", "", "", *cells, "", "", "", ""))
    header = (
        "network", "operating point", "threshold", "accuracy", "sensitivity", "specificity", "LR+", "LR−",
        f"PPV at {prevalence:.0%}", f"NPV at {prevalence:.0%}",
    )  # fmt: skip
    parts = ["<h3>Operating points, and rules that don't look at the image</h3>", table(header, rows)]
    if fooled:
        parts.append(
            f"<p class='bad'>{html.escape(', '.join(fooled))} at {html.escape(point)}: not shown to be more accurate "
            f"here than the rule “{best}” ({accuracy:.1%}).</p>"
        )
    return parts


def _predictive_values(found: dict[str, Any], targets: tuple[str, ...], point: str) -> list[str]:
    tables = [found["operating_points"][target][point]["predictive_values"] for target in targets]
    rows = [
        (f"{same[0]['prevalence']:.0%}", *(interval(each[key], 3) for each in same for key in ("ppv", "npv")))
        for same in zip(*tables, strict=True)
    ]
    header = ("prevalence", *(f"{target}: {word}" for target in targets for word in ("PPV", "NPV")))
    return [
        f"<h3>What a result means where the finding is rarer or more frequent ({html.escape(point)})</h3>",
        "<p>By Bayes' rule (Mercaldo et al. 2007), if sensitivity and specificity are as here.</p>",
        table(header, rows),
    ]


def _decision_curve(found: dict[str, Any], targets: tuple[str, ...]) -> list[str]:
    curve = found["decision_curve"]
    said = []
    for target in targets:
        useful = curve["networks"][target]["useful"]
        at = [f"{threshold:.0%}" for threshold, good in zip(curve["thresholds"], useful, strict=True) if good]
        said.append(f"{target}: {', '.join(at) or 'nowhere'}")
    return [
        "<h3>Decision curve</h3>",
        "<p>Who would act at a probability of 10 % takes nine needless actions for one that is needed. Net benefit is "
        "true positives an image less false positives at that price (Vickers & Elkin 2006), at the prevalence of this "
        f"set. The interval of what is gained over acting on everybody and on nobody lies above 0 at: "
        f"{html.escape('; '.join(said))}.</p>",
        drawing(_curves(curve, targets)),
    ]


def _curves(curve: dict[str, Any], targets: tuple[str, ...]) -> Figure:
    figure, axis = matplotlib.pyplot.subplots(figsize=(7, 3.8))
    thresholds, everybody = np.array(curve["thresholds"]), np.array(curve["treat_all"])
    axis.plot(thresholds, everybody, color="#a3b1b8", label="act on everybody")
    axis.axhline(0, color="#16212a", linewidth=1, label="act on nobody")
    for target, color in zip(targets, _COLORS, strict=False):
        value, low, high = np.array(curve["networks"][target]["net_benefit"], dtype=float).T
        axis.plot(thresholds, value, color=color, label=target)
        axis.fill_between(thresholds, low, high, color=color, alpha=0.12, linewidth=0)
    top = max(float(everybody.max()), 0.05)
    axis.set(xlabel="threshold probability", ylabel="net benefit", ylim=(-0.3 * top, 1.1 * top))
    axis.legend(frameon=False)
    figure.tight_layout()
    return figure


def _abstention(found: dict[str, Any], targets: tuple[str, ...]) -> list[str]:
    rows, better = [], []
    for target in targets:
        each = found[target]
        at, area = each["at_limit"], each["area"]
        rows.append((
            target, f"{at['answered']:.1%}",
            *(interval(at[name], 3) if name in at else "" for name in ("errors_answered", "errors_unsure")),
            *(f"{area[name]:.4f}" for name in ("ensemble", "threshold", "random", "best")),
        ))  # fmt: skip
        if area["ensemble"] < area["threshold"]:
            better.append(target)
    header = (
        "network", "heads agree on", "error rate there", "error rate elsewhere", "area: ensemble",
        "area: distance from the threshold", "area: at random", "area: best order",
    )  # fmt: skip
    than = f"better on {html.escape(', '.join(better))}" if better else "no better on any network"
    return [
        "<h3>Where the model should keep silent</h3>",
        "<p>Error rate at the default operating point among the images answered, where those of the largest doubt are "
        "left to people. Doubt is the spread of the ensemble's heads, or how near the probability lies to the "
        "threshold, which needs no ensemble. Smaller areas under the curve are better; here the ensemble's is "
        f"{than} than the distance's.</p>",
        table(header, rows),
        drawing(_silence(found, targets)),
    ]


def _silence(found: dict[str, Any], targets: tuple[str, ...]) -> Figure:
    figure, axis = matplotlib.pyplot.subplots(figsize=(7, 3.4))
    for target, color in zip(targets, _COLORS, strict=False):
        each = found[target]
        for name, style in (("ensemble", "-"), ("threshold", ":")):
            axis.plot(each["shares"], each["error_rates"][name], style, color=color, label=f"{target}: {name}")
    axis.set(xlabel="share of the images answered", ylabel="error rate")
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False)
    figure.tight_layout()
    return figure


def _gaps(gaps: dict[str, list[dict[str, Any]]], targets: tuple[str, ...], margin: float) -> list[str]:
    """Alarms in plain sight; all comparisons folded away."""
    rows, alarms = [], []
    for target in targets:
        for row in gaps[target]:
            inside, rest = row["images"]
            words = (target, row["subgroup"], _word(row["figure"]), f"{inside} / {rest}")
            if "gap" not in row:
                rows.append((*words, "", "", "", "", "too few patients to tell"))
                continue
            if row["alarm"]:
                alarms.append(f"{target}, {row['subgroup']}: {_word(row['figure'])} {row['values'][0][0]:.3f}, of the "
                              f"rest {row['values'][1][0]:.3f}; gap {interval(row['gap'], 3)}")  # fmt: skip
            rows.append((*words, *(interval(each, 3) for each in row["values"]), interval(row["gap"], 3),
                         f"{row['p_holm']:.4f}" if row["p_holm"] >= 1e-4 else "< 0.0001",
                         "ALARM" if row["alarm"] else ""))  # fmt: skip
    header = ("network", "subgroup", "figure", "images / rest", "subgroup's", "the rest's", "gap", "p (Holm)", "")
    parts = [
        "<h3>Gaps between subgroups</h3>",
        f"<p>An alarm: worse than the rest by more than {margin:.0%}, the interval of the gap excludes 0 (Newcombe's "
        "of rates, DeLong's of AUCs), and p is below 0.05 after Holm's correction for all comparisons of a network "
        "here (score test; z of AUCs). No alarm does not show that there is no gap: see how far the interval reaches."
        "</p>",
        *(f"<p class='bad'>{html.escape(each)}</p>" for each in alarms),
    ]
    if not alarms:
        parts.append("<p>No alarm.</p>")
    return [*parts, f"<details><summary>All comparisons</summary>{table(header, rows)}</details>"]


def _word(figure: str) -> str:
    return _WORDS.get(figure, figure)
