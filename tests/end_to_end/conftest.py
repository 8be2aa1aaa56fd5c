"""What tests of the page share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, sync_playwright

from tests.peers import needs


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=needs("chromium"), args=["--no-sandbox"])
        yield chromium
        chromium.close()


def width_once_loaded(picture: Locator) -> int:
    """Of an image of the page, in pixels, when it has been loaded and decoded; an error where it can't be."""
    width: int = picture.evaluate("node => node.decode().then(() => node.naturalWidth)")
    return width
