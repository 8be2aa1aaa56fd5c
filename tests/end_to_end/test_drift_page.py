"""The drift page in a real browser: any width, both themes, the keyboard alone, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from appliance import package
from tests.appliance.test_drift import BASELINE, bare
from tests.appliance.test_drift import Site as Watched
from tests.filled import Site

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not package.bundled("chest-pneumonia"), reason="no model package is bundled"),
]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    watched = Watched(tmp_path / "box", bare())
    for number in range(BASELINE):
        watched.see(number)
    for number in range(1000, 1012):
        watched.see(number, adult=True)
    page = Site(watched.config)
    yield page
    page.stop()


def test_it_fits_any_screen_and_an_alarm_is_acknowledged_by_keyboard(browser: Browser, site: Site) -> None:
    said: list[str] = []
    for width, scheme in ((360, "light"), (1280, "dark"), (3840, "light")):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
        page.on("console", lambda message: said.append(message.text))
        page.on("request", lambda request: said.append(request.url) if site.url not in request.url else None)
        page.goto(f"{site.url}drift")
        assert page.evaluate("document.documentElement.scrollWidth") == width
        expect(page.get_by_role("heading", name="Alarm: age from")).to_be_visible()
        assert page.get_by_role("img").count() > 20
        assert all(page.get_by_role("img").nth(number).get_attribute("aria-label") for number in range(3))
        page.close()
    page = browser.new_page()
    page.goto(f"{site.url}drift")
    why = page.get_by_label("Why was it").first
    why.focus()
    page.keyboard.type("children's ward has moved")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_text("No open alarm.")).to_be_visible()
    expect(page.get_by_role("cell", name="children's ward has moved")).to_be_visible()
    assert said == []
