"""The report's part on hard cases: who should look at what, and a guess at what it has in common."""

from __future__ import annotations

import html
from typing import Any

import numpy as np

from compression.page import table, thumbnail


def of_set(found: dict[str, Any], pixels: np.ndarray | None) -> list[str]:
    """Tables of each network; with ``pixels``, ``(images, rows, columns)``, also the images themselves.

    Only a report that stays with who may see the images is given pixels.
    """
    parts = ["<h3>Hard cases</h3>"] if found["hard_cases"] else []
    for name, hard in found["hard_cases"].items():
        parts += [
            f"<h4>{html.escape(name)}: {hard['wrong']} wrong, the most confident first</h4>",
            _cases(hard["confidently_wrong"]),
            *(_sheet(hard["confidently_wrong"], pixels) if pixels is not None else ()),
            f"<details><summary>{html.escape(name)}: nearest to the threshold</summary>"
            f"{_cases(hard['near_threshold'])}</details>",
            *_shared(hard),
        ]
    return parts


def _cases(rows: list[dict[str, Any]]) -> str:
    names = list(rows[0]["columns"]) if rows else []
    cells = [
        (row["file"], row["patient"], "positive" if row["positive"] else "negative", f"{row['score']:.3f}",
         *row["columns"].values())
        for row in rows
    ]  # fmt: skip
    return table(("file", "patient", "label", "probability", *names), cells)


def _sheet(rows: list[dict[str, Any]], pixels: np.ndarray) -> list[str]:
    figures = [
        f"<figure><img src='{thumbnail(pixels[row['number']])}' alt=''><figcaption>{html.escape(row['file'])}<br>"
        f"{'positive' if row['positive'] else 'negative'}: {row['score']:.3f}</figcaption></figure>"
        for row in rows
    ]
    return ["<div class='sheet'>", *figures, "</div>"]


def _shared(hard: dict[str, Any]) -> list[str]:
    if not hard["shared"]:
        return [f"<p>What they share: nothing that stands out of {hard['tests']} comparisons (Holm).</p>"]
    rows = [
        (row["group"], row["what"], *(_side(row, side) for side in ("hard", "others")), row["count"],
         f"{row['p_holm']:.4f}" if row["p_holm"] >= 1e-4 else "< 0.0001")
        for row in hard["shared"]
    ]  # fmt: skip
    return [
        f"<p>What they may share, of {hard['tests']} comparisons: a guess to look into, not a cause. Each patient "
        "counts once; Fisher's exact test of a value, Mann-Whitney's of a scale, Holm's correction.</p>",
        table(("of", "what", "of the hard", "of the others", "hard patients", "p (Holm)"), rows),
    ]


def _side(row: dict[str, Any], side: str) -> str:
    return f"{row[side]:.0%}" if row["is_share"] else f"{row[side]:g}"
