"""A vendor's look: what is shown, and what is refused because it would make the page unreadable."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

import msgspec
import pytest
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st

from appliance import brand
from appliance.config import Brand, Config, Web
from appliance.config_file import load
from appliance.errors import ConfigError
from appliance.store import Store
from appliance.web.app import create_app
from tests.running import CHECKOUT

SVG = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10"><script>alert(1)</script></svg>'


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * (width + 1) * height)) + chunk(b"IEND", b"")
    )


def config_of(folder: Path, **values: str) -> Config:
    return Config(data_dir=str(folder), web=Web(brand=Brand(**values)))


def client_of(config: Config) -> FlaskClient:
    Store(config.ledger_path).close()
    return create_app(config).test_client()


def test_name_logo_and_colors_are_on_every_page(tmp_path: Path) -> None:
    (tmp_path / "logo.svg").write_bytes(SVG)
    config = config_of(tmp_path, name="<Acme> Reader", logo="logo.svg", accent_dark="#ffb703", accent_light="#7a3e00")
    client = client_of(config)
    for path in ("/", "/device", "/quarantine", "/nothing"):
        page = client.get(path).get_data(as_text=True)
        assert "&lt;Acme&gt; Reader" in page
        assert 'src="/brand/logo"' in page
        assert 'href="/brand/colors.css"' in page
    colors = client.get("/brand/colors.css")
    assert colors.mimetype == "text/css"
    assert "--accent: #ffb703" in colors.get_data(as_text=True)
    assert "--accent: #7a3e00" in colors.get_data(as_text=True)
    logo = client.get("/brand/logo")
    assert (logo.data, logo.mimetype) == (SVG, "image/svg+xml")
    assert "sandbox" in logo.headers["Content-Security-Policy"]  # or its script would run when it is opened alone
    assert logo.headers["X-Content-Type-Options"] == "nosniff"


def test_without_a_brand_the_page_is_as_it_was(tmp_path: Path) -> None:
    client = client_of(Config(data_dir=str(tmp_path)))
    page = client.get("/").get_data(as_text=True)
    assert "/static/icon.svg" in page
    assert "/brand/" not in page
    assert client.get("/brand/logo").status_code == 404


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"GIF89a", "neither a PNG nor an SVG"),
        (b"", "neither a PNG nor an SVG"),
        (b"<html></html>", "neither a PNG nor an SVG"),
        (b'<!DOCTYPE svg [<!ENTITY a "aa">]><svg xmlns="http://www.w3.org/2000/svg"/>', "neither a PNG nor an SVG"),
        (SVG + b" " * (256 * 1024), "256 KB are enough"),
        (png(4000, 10), "4000 x 10 pixels"),
    ],
)
def test_a_logo_that_is_none_is_refused_with_what_to_do(content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "logo").write_bytes(content)
    with pytest.raises(ConfigError, match=says) as refused:
        brand.load(config_of(tmp_path, logo="logo"))
    assert "web.brand.logo" in refused.value.message
    assert refused.value.hint


def test_a_logo_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"web\.brand\.logo: .*can't be read"):
        brand.load(config_of(tmp_path, logo="none.png"))


def test_a_png_is_taken(tmp_path: Path) -> None:
    (tmp_path / "logo.png").write_bytes(png(120, 24))
    assert brand.load(config_of(tmp_path, logo="logo.png")).mimetype == "image/png"


@pytest.mark.parametrize(
    ("key", "color", "way"),
    [
        ("accent_dark", "#203040", "lighter"),
        ("accent_light", "#ffd166", "darker"),
        ("accent_light", "#8a8a8a", "darker"),
    ],
)
def test_a_color_in_which_text_is_hard_to_read_is_refused(key: str, color: str, way: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"web\.brand\.{key}.*4\.5 to 1 \(WCAG AA\)") as refused:
        brand.load(config_of(tmp_path, **{key: color}))
    assert way in (refused.value.hint or "")


@given(st.integers(0, 0xFFFFFF), st.sampled_from(["dark", "light"]))
def test_every_color_that_is_taken_can_be_read_on_what_it_stands(number: int, theme: str) -> None:
    color = f"#{number:06x}"
    values = {f"accent_{theme}": color}
    try:
        brand.load(Config(web=Web(brand=Brand(**values))))
    except ConfigError:
        assert min(brand.contrast(color, ground) for ground in brand.THEMES[theme]) < 4.5
    else:
        assert all(brand.contrast(color, ground) >= 4.5 for ground in brand.THEMES[theme])


def test_contrast_is_that_of_the_standard() -> None:
    assert brand.contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert brand.contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)
    assert brand.contrast("#ff0000", "#ff0000") == 1.0


def test_the_colors_of_the_themes_are_those_of_the_style_sheet() -> None:
    style = (CHECKOUT / "appliance/web/static/style.css").read_text()
    found = re.findall(r"--paper: (#\w+); --raised: (#\w+);", style)
    shown = [tuple("#ffffff" if each == "#fff" else each for each in pair) for pair in found]
    assert shown == [brand.THEMES["dark"], brand.THEMES["light"]]


def test_what_is_no_color_and_no_origin_is_an_error_of_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "scanside.toml"
    for text in ('[web.brand]\naccent_dark = "red"', '[web]\nembed_origins = ["https://x.example/path"]',
                 '[web]\nembed_origins = ["*"]', '[web.brand]\nname = ""'):  # fmt: skip
        path.write_text(text)
        with pytest.raises(ConfigError):
            load(path)
    assert msgspec.structs.asdict(Brand())["name"] == "Scanside"
