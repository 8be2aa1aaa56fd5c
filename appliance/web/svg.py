"""What charts are drawn of: shapes as SVG. Colors are classes of the style sheet, so that both themes have theirs."""

from __future__ import annotations

from collections.abc import Iterable

from markupsafe import Markup, escape


def picture(parts: Iterable[str], words: str, width: float, height: float, kind: str = "chart") -> Markup:
    """The whole; ``words`` say what it shows. ``parts`` are of this module: their texts are escaped."""
    return Markup(  # noqa: S704
        f'<svg class="{kind}" viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(words)}">'
        f"{''.join(parts)}</svg>"
    )


def line(kind: str, x1: float, x2: float, y1: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"/>'


def dot(kind: str, x: float, y: float, radius: float) -> str:
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"/>'


def tick(x: float, y: float, anchor: str, text: str) -> str:
    """Words at an axis; ``anchor``: start, middle or end."""
    return f'<text class="tick" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
