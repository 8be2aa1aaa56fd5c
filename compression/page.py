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

if TYPE_CHECKING:
    from matplotlib.figure import Figure

matplotlib.use("Agg")


def interval(triple: list[float], digits: int) -> str:
    value, low, high = triple
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    cells = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{cells}</tr>{body}</table>"


def thumbnail(pixels: np.ndarray, size: int = 160) -> str:
    """A gray image, uint8 ``(rows, columns)``, as a small square PNG in a data URI."""
    buffer = io.BytesIO()
    PillowImage.fromarray(pixels).resize((size, size)).save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def drawing(figure: Figure, salt: str = "scanside") -> str:
    """An SVG that stands in the page itself, the same for the same numbers; its identifiers differ by ``salt``."""
    with matplotlib.rc_context({"svg.hashsalt": salt, "svg.fonttype": "none"}):
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    matplotlib.pyplot.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
