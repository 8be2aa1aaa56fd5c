"""What tests of the page share."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from urllib.parse import urlsplit

import numpy as np
import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, sync_playwright

from tests.peers import needs
from tests.running import CHECKOUT

_AXE = CHECKOUT / ".build" / "axe" / "node_modules" / "axe-core" / "axe.min.js"


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


def watched(context: BrowserContext, url: str) -> tuple[Page, list[str]]:
    """A page of a site, and what it should not do, as it does it: ask another host, or say anything on the console."""
    complaints: list[str] = []
    page, home = context.new_page(), urlsplit(url).netloc

    def check(address: str) -> None:
        if urlsplit(address).netloc != home:
            complaints.append(f"asked for {address}")

    page.on("request", lambda request: check(request.url))
    page.on("console", lambda message: complaints.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
    return page, complaints


def show_at_full_depth(page: Page, address: str) -> Locator:
    """Open the page of an image and wait for its values; the canvas."""
    page.goto(address)
    page.locator("#canvas[data-depth=full]").wait_for(timeout=30_000)
    return page.locator("#canvas")


def drawn(canvas: Locator) -> np.ndarray:
    """What a canvas shows, as it shows it: uint8 ``(rows, columns, 3)``."""
    page = canvas.page
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    width, height, text = canvas.evaluate(
        """node => {
          const { width, height } = node;
          const copy = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
          copy.drawImage(node, 0, 0);
          const data = copy.getImageData(0, 0, width, height).data;
          let text = "";
          for (let at = 0; at < data.length; at += 32768) text += String.fromCharCode(...data.subarray(at, at + 32768));
          return [width, height, btoa(text)];
        }"""
    )
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width, 4)[:, :, :3]


def barriers(page: Page) -> list[str]:
    """What axe-core finds serious or critical by WCAG 2.2 AA; skips where it is not installed."""
    if not _AXE.exists():
        pytest.skip("axe-core is not installed: .ci/node-packages installs it")
    page.evaluate(_AXE.read_text())  # not as a script of the page: its policy allows none from elsewhere
    found = page.evaluate(
        """async () => {
          const rules = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
          const { violations } = await axe.run(document, { runOnly: rules });
          return violations.map(({ id, impact, nodes }) => [id, impact, nodes.map((node) => node.html)]);
        }"""
    )
    return [f"{name} ({impact}): {nodes[:3]}" for name, impact, nodes in found if impact in ("serious", "critical")]
