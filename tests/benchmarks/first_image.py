"""From the click on a row of the worklist to the image on the screen, in Chromium: a radiograph of 2048 x 2500 pixels.

python -m tests.benchmarks.first_image [--images 20] [--json]

An appliance reads the radiographs (16 bits, uncompressed). Then each is opened from the worklist by a click: first as
nobody has looked at it yet, so that its file is read and its values are made ready, then again. The browser's own clock
says when the first picture (8 bits, reduced) and when the values at their full depth were painted. Exit code 1 where
the picture takes longer than a second at p95, as it is looked at for the first time.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Page, sync_playwright

from appliance.send import Destination, send_files
from tests.dicom_files import make_radiograph
from tests.peers import needs
from tests.running import RunningAppliance

ROWS, COLUMNS = 2500, 2048
SCREEN = {"width": 1920, "height": 1080}
AIM_SECONDS = 1.0
# Of each page: when its link was clicked, in the one before; when a depth was painted, which is a frame after it was
# drawn.
_CLOCK = """
const now = () => performance.timeOrigin + performance.now();
addEventListener("click", () => sessionStorage.setItem("clicked", now()), true);
addEventListener("DOMContentLoaded", () => {
  const canvas = document.getElementById("canvas");
  window.painted = {};
  if (canvas) new MutationObserver(() => requestAnimationFrame(() => setTimeout(() => {
    painted[canvas.dataset.depth] ??= (now() - Number(sessionStorage.getItem("clicked"))) / 1000;
  }))).observe(canvas, { attributeFilter: ["data-depth"] });
});
"""
_WHEN_PAINTED = """
() => new Promise((done) => {
  const look = () => (painted.full ? done(painted) : setTimeout(look, 20));
  look();
})
"""


def measure(folder: Path, count: int) -> dict[str, Any]:
    appliance = RunningAppliance(folder / "appliance")
    appliance.start()
    try:
        files = [
            make_radiograph(folder / f"{n}.dcm", rows=ROWS, columns=COLUMNS, bits=16, seed=n) for n in range(count)
        ]
        list(send_files(files, Destination("SCANSIDE", "127.0.0.1", appliance.port), "TEST", {}, associations=1))
        appliance.wait_final(count)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=needs("chromium"), args=["--no-sandbox"])
            context = browser.new_context(viewport=SCREEN)  # type: ignore[arg-type]
            context.add_init_script(_CLOCK)
            page = context.new_page()
            found = {
                name: [_look(page, appliance.url, number) for number in range(1, count + 1)]
                for name in ("first look", "again")
            }
            browser.close()
    finally:
        appliance.stop()
    return {"rows": ROWS, "columns": COLUMNS, "images": count, "seconds": {k: _summary(v) for k, v in found.items()}}


def _look(page: Page, url: str, number: int) -> dict[str, float]:
    """Seconds from the click to each depth."""
    page.goto(f"{url}?q={number}")
    page.wait_for_load_state("networkidle")
    page.locator(f'a[href="/study/{number}"]').click()
    page.locator("#canvas[data-depth=full]").wait_for(timeout=60_000)
    painted: dict[str, float] = page.evaluate(_WHEN_PAINTED)
    return {"picture": painted.get("preview", painted["full"]), "full depth": painted["full"]}


def _summary(looks: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    return {
        what: {
            "p50": round(float(np.median(values)), 3),
            "p95": round(float(np.quantile(values, 0.95)), 3),
            "most": round(max(values), 3),
        }
        for what in looks[0]
        if (values := [each[what] for each in looks])
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), options.images)
    if options.json:
        print(json.dumps(found))
    else:
        print(f"{options.images} radiographs of {COLUMNS} x {ROWS} pixels, seconds from the click")
        for look, depths in found["seconds"].items():
            for depth, figures in depths.items():
                print(f"{look:10}  {depth:10}  " + "  ".join(f"{name} {value:.3f}" for name, value in figures.items()))
    sys.exit(found["seconds"]["first look"]["picture"]["p95"] > AIM_SECONDS)


if __name__ == "__main__":
    main()
