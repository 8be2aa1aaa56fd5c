"""Parts that every page is made of: tables, figures with intervals, drawings; nothing in them comes from elsewhere."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib
import matplotlib.pyplot
import numpy as np
from PIL import Image as PillowImage

from compression import levels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

matplotlib.use("Agg")


def document(title: str, style: str, parts: Sequence[str]) -> str:
    """A page that opens offline, of its parts below one another."""
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
    return f"{head}<style>{style}</style>" + "\n".join(parts) + "</html>\n"


def interval(triple: Sequence[float | None], digits: int, form: str = "f") -> str:
    """``[value, low, high]`` in words; None instead of a value is none, instead of low that patients are too few."""
    value, low, high = (None if each is None else f"{each:.{digits}{form}}" for each in triple)
    if value is None:
        return "none"
    return f"{value} [{low}, {high}]" if low else f"{value} (too few patients)"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    cells = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{cells}</tr>{body}</table>"


def thumbnail(pixels: np.ndarray, size: int = 160) -> str:
    """A gray image ``(rows, columns)`` of levels from 0 to 255 as a small square PNG in a data URI."""
    buffer = io.BytesIO()
    PillowImage.fromarray(levels.rounded(pixels)).resize((size, size)).save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def drawing(figure: Figure, salt: str = "scanside") -> str:
    """An SVG that stands in the page itself, the same for the same numbers; its identifiers differ by ``salt``."""
    with matplotlib.rc_context({"svg.hashsalt": salt, "svg.fonttype": "none"}):
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    matplotlib.pyplot.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
