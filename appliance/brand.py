"""A vendor's name, logo and colors on the local page: read once, and refused where they would make it unreadable."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from appliance.config import Config
from appliance.errors import ConfigError

_LARGEST_LOGO = 256 * 1024
_LARGEST_SIDE = 2048  # pixels
_PNG = b"\x89PNG\r\n\x1a\n"
_SVG = "{http://www.w3.org/2000/svg}svg"
# What links and buttons stand on, of static/style.css: its --paper and --raised in each theme.
THEMES = {"dark": ("#0f1417", "#182025"), "light": ("#f5f7f8", "#ffffff")}
_LEAST_CONTRAST = 4.5  # WCAG 2.2, success criterion 1.4.3, for text of any size


@dataclass(frozen=True)
class Branding:
    """``logo`` and its ``mimetype`` are empty where the page's own icon is shown; ``css`` where its own colors are."""

    name: str
    logo: bytes = b""
    mimetype: str = ""
    css: str = ""


def load(config: Config) -> Branding:
    """What the configuration says, with the logo's content.

    Raises
    ------
    ConfigError
        The logo is no PNG or SVG of a sensible size, or text in a color can't be read well enough.
    """
    brand = config.web.brand
    accents = {"dark": brand.accent_dark, "light": brand.accent_light}
    for theme, color in accents.items():
        if color:
            _check_contrast(theme, color)
    logo, mimetype = _logo(config.data / brand.logo) if brand.logo else (b"", "")
    return Branding(brand.name, logo, mimetype, _css(accents))


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colors (#rrggbb), from 1 to 21 (WCAG 2.2)."""
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(color: str) -> float:
    """Relative luminance, as WCAG 2.2 defines it."""
    channels = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _check_contrast(theme: str, color: str) -> None:
    ground = min(THEMES[theme], key=lambda each: contrast(color, each))
    found = contrast(color, ground)
    if found < _LEAST_CONTRAST:
        way = "lighter" if theme == "dark" else "darker"
        raise ConfigError(
            f"web.brand.accent_{theme} = {color!r} has a contrast of {found:.1f} to 1 against {ground} of the {theme} "
            f"theme, and links and buttons need {_LEAST_CONTRAST} to 1 (WCAG AA)",
            hint=f"choose a {way} color",
        )


def _css(accents: dict[str, str]) -> str:
    dark, light = accents["dark"], accents["light"]
    rules = [f":root {{ --accent: {dark}; }}"] if dark else []
    if light:
        rules.append(f"@media (prefers-color-scheme: light) {{ :root {{ --accent: {light}; }} }}")
    elif dark:  # or the dark theme's color would be taken in the light one, too
        rules = [f"@media not (prefers-color-scheme: light) {{ {rules[0]} }}"]
    return "\n".join(rules)


def _logo(path: Path) -> tuple[bytes, str]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"web.brand.logo: {path} can't be read: {error.strerror}", hint="write a path relative to data_dir"
        ) from error
    if len(content) > _LARGEST_LOGO:
        raise ConfigError(
            f"web.brand.logo: {path} has {len(content) / 1024:.0f} KB, and {_LARGEST_LOGO // 1024} KB are enough",
            hint="export it smaller; it is shown 24 pixels high",
        )
    if content.startswith(_PNG) and len(content) >= 24:
        width, height = struct.unpack(">II", content[16:24])
        if not (0 < width <= _LARGEST_SIDE and 0 < height <= _LARGEST_SIDE):
            raise ConfigError(
                f"web.brand.logo: {path} has {width} x {height} pixels, and {_LARGEST_SIDE} a side are the most",
                hint="export it smaller",
            )
        return content, "image/png"
    if _is_svg(content):
        return content, "image/svg+xml"
    raise ConfigError(f"web.brand.logo: {path} is neither a PNG nor an SVG image", hint="convert it to one of these")


def _is_svg(content: bytes) -> bool:
    # A document type may define entities that grow without end; no logo needs one.
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        return False
    try:
        return ElementTree.fromstring(content).tag == _SVG  # noqa: S314 (no entities, see above)
    except ElementTree.ParseError:
        return False
