"""A picture made of pictures and words: a band of warning, rows of panels with captions, sentences below."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from appliance import writer

Color = tuple[int, int, int]
INK: Color = (235, 238, 240)
FAINT: Color = (150, 158, 164)
ALARM: Color = (255, 122, 89)
WARNING: Color = (255, 209, 102)
_PAPER: Color = (14, 17, 20)
_BAND: Color = (44, 52, 60)
_MARGIN = 16
_NARROWEST = 640

Panel = tuple[np.ndarray, str]  # gray or RGB, and its caption
Sentence = tuple[str, Color]


def compose(band: str, rows: Sequence[Sequence[Panel]], sentences: Sequence[Sentence]) -> np.ndarray:
    """RGB uint8 ``(rows, columns, 3)``; the panels keep their sizes, the outer ones of a row stand at the margins."""
    widest = max(sum(picture.shape[1] + _MARGIN for picture, _ in row) for row in rows) + _MARGIN
    width = max(widest, _NARROWEST)
    text_width = width - 2 * _MARGIN
    # Legible where a viewer shrinks the whole picture to a screen.
    size = max(width // 64, 16)
    line = round(size * 1.45)
    head = _wrapped([(band, INK)], text_width, size)
    foot = _wrapped(sentences, text_width, size)
    band_bottom = len(head) * line + _MARGIN
    heights = [max(picture.shape[0] for picture, _ in row) + line + 2 * _MARGIN for row in rows]
    foot_top = band_bottom + sum(heights)
    canvas = PillowImage.new("RGB", (width, foot_top + len(foot) * line + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((0, 0, width, band_bottom), fill=_BAND)
    _put(draw, (_MARGIN, _MARGIN // 2), head, size, line)
    top = band_bottom
    for row, height in zip(rows, heights, strict=True):
        for left, (picture, caption) in zip(_lefts(row, width), row, strict=True):
            canvas.paste(PillowImage.fromarray(picture), (left, top + line + _MARGIN))
            words = _wrapped([(caption, FAINT)], max(picture.shape[1], size), size)[:1]
            _put(draw, (left, top + _MARGIN // 2), words, size, line)
        top += height
    _put(draw, (_MARGIN, foot_top), foot, size, line)
    return np.asarray(canvas)


def _lefts(row: Sequence[Panel], width: int) -> list[int]:
    """Where the panels of a row begin: the first at the left margin, the last at the right one."""
    widths = [picture.shape[1] for picture, _ in row]
    gap = (width - 2 * _MARGIN - sum(widths)) / max(len(row) - 1, 1)
    return [round(_MARGIN + sum(widths[:place]) + place * gap) for place in range(len(row))]


def _wrapped(sentences: Sequence[Sentence], width: int, size: int) -> list[Sentence]:
    """The sentences in lines that are no wider than ``width`` pixels; a word that is wider alone is cut into lines."""
    lines, space = [], _length(" ", size)
    for sentence, color in sentences:
        current, taken = "", 0.0
        for word in writer.ascii_text(sentence).split():
            if current and taken + space + _length(word, size) <= width:
                current, taken = f"{current} {word}", taken + space + _length(word, size)
                continue
            if current:
                lines.append((current, color))
            while _length(word, size) > width:
                fitting = next(n for n in range(len(word) - 1, 0, -1) if _length(word[:n], size) <= width or n == 1)
                lines.append((word[:fitting], color))
                word = word[fitting:]
            current, taken = word, _length(word, size)
        lines.append((current, color))
    return lines


def _put(draw: ImageDraw.ImageDraw, corner: tuple[int, int], lines: Sequence[Sentence], size: int, line: int) -> None:
    left, top = corner
    for number, (sentence, color) in enumerate(lines):
        draw.text((left, top + number * line), sentence, fill=color, font=_font(size))


@functools.lru_cache(maxsize=4096)
def _length(text: str, size: int) -> float:
    """Pixels that a word is wide; most words of a result are those of the last one."""
    return float(_font(size).getlength(text))


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
