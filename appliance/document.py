"""A document of headings, paragraphs, lists and tables, as Markdown or as one HTML page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

_CODE = re.compile(r"`([^`]+)`")
_STYLE = (
    "body{font:16px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;margin:1rem 0}td,th{border:1px solid #999;padding:.2rem .5rem;text-align:left;"
    "vertical-align:top}"
)


@dataclass
class Document:
    """Built from top to bottom; text may hold ``code`` in backticks and nothing else that is markup."""

    title: str
    _blocks: list[tuple[str, list[list[str]]]] = field(default_factory=list)

    def heading(self, level: int, text: str) -> None:
        """``level`` counts from 2; the title is the first."""
        self._blocks.append((f"h{level}", [[text]]))

    def paragraph(self, *sentences: str) -> None:
        self._blocks.append(("p", [[" ".join(sentences)]]))

    def bullets(self, items: Iterable[str]) -> None:
        self._blocks.append(("ul", [[item] for item in items]))

    def table(self, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        self._blocks.append(("table", [list(header), *map(list, rows)]))

    def markdown(self) -> str:
        lines = [f"# {self.title}"]
        for kind, rows in self._blocks:
            lines.append("")
            if kind == "ul":
                lines += [f"- {row[0]}" for row in rows]
            elif kind == "table":
                cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
                cells.insert(1, ["---"] * len(rows[0]))
                lines += [f"| {' | '.join(row)} |" for row in cells]
            else:
                lines.append(rows[0][0] if kind == "p" else f"{'#' * int(kind[1])} {rows[0][0]}")
        return "\n".join(lines) + "\n"

    def html(self) -> str:
        body = [f"<h1>{_inline(self.title)}</h1>"]
        for kind, rows in self._blocks:
            if kind == "ul":
                body.append(f"<ul>{''.join(f'<li>{_inline(row[0])}</li>' for row in rows)}</ul>")
            elif kind == "table":
                lines = [_row(rows[0], "th"), *(_row(row, "td") for row in rows[1:])]
                body.append(f"<table>{''.join(lines)}</table>")
            else:
                body.append(f"<{kind}>{_inline(rows[0][0])}</{kind}>")
        head = f"<meta charset='utf-8'><title>{escape(self.title)}</title><style>{_STYLE}</style>"
        return f"<!doctype html><html lang='en'><head>{head}</head><body>\n" + "\n".join(body) + "\n</body></html>\n"


def _row(cells: Sequence[str], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{_inline(cell)}</{tag}>' for cell in cells)}</tr>"


def _inline(text: str) -> str:
    return _CODE.sub(r"<code>\1</code>", escape(text, quote=False))
